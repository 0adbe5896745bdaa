"""What the null systems that have a model are made of, on scenes that were named: another scene's sound, the mean map.

Every table of the paper's kind (Tables 1 to 3) lacks them; a note takes the reason wherever one cannot be had.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from raymix import verdict
from raymix.scene import Scenes, derangement
from raymix.staging import Stage
from raymix.verdict import TRAINING_CLIPS, Contender


def strangers(scenes: Scenes, seed: int, notes: list[str]) -> torch.Tensor | None:
    """Which scene each scene hears instead; None where there are too few for that."""
    try:
        return torch.from_numpy(derangement(scenes, seed))
    except ValueError as error:
        notes.append(f"no shuffled audio: {error}")
        return None


def training_map(best: Contender, stage: Stage, device: str, notes: list[str]) -> np.ndarray | None:
    """The mean map of training scenes of the same kind (of duets: of single clips), (H, W), or None."""
    drawn = replace(stage, split="train", pairs=None, scenes=TRAINING_CLIPS // 2)
    if stage.layout == "natural":
        drawn = replace(drawn, layout="single", sources=None)
    elif stage.pairs and stage.layout in ("hconcat", "vconcat"):
        drawn = replace(drawn, sources=len(stage.pairs.scenes[0]))
    try:
        return verdict.mean_map(best.method, drawn.compose(drawn.clips(limit=TRAINING_CLIPS)), device)
    except (ValueError, OSError) as error:
        notes.append(f"no mean training map: {' '.join(str(error).split())}")
        return None
