"""Validation: held-out scenes in memory, one model at a time, a checkpoint in, numbers out; no Ray.

The search's objective needs no boxes: `grid2x2` scenes of four held-out videos, two of them heard, scored by sounding accuracy
and by the same with the audio shuffled. Where the data has regions, `hconcat` scenes add the paper's metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from raymix import checkpoint, clip_files
from raymix.config import Run, from_plain
from raymix.layout import LABEL_FREE, SCORED_LAYOUTS, metric_prefix
from raymix.methods import Maps, Method, from_run
from raymix.metrics import sounding_chance
from raymix.protocol import protocol as named
from raymix.scene import Scenes, compose, derangement
from raymix.scoring import Table, score
from raymix.significance import pack, scene_record
from raymix.truth import Truth

BATCH = 16  # scenes in one forward pass


@dataclass(frozen=True)
class Bench:
    """The scenes of one split as one run hears and sees them; two runs that agree on `key` share a bench."""

    split: str
    scenes: dict[str, Scenes]  # by layout: those of SCORED_LAYOUTS
    truth: dict[str, Truth]
    shuffled: dict[str, np.ndarray]  # of LABEL_FREE layouts: the scene whose audio each scene gets in the control

    @staticmethod
    def key(run: Run) -> tuple[Any, ...]:
        m = run.mixture
        return run.dataset.prepared, run.encoder.image_size, m.seconds, m.rule, m.level, run.evaluation.seed

    @staticmethod
    def open(run: Run, split: str, count: int) -> Bench:
        """Compose `count` scenes of each layout (fewer where the split is too small for more)."""
        clips = clip_files.read(run.dataset.prepared, split, run.encoder.image_size, truth=True)
        m, seed = run.mixture, run.evaluation.seed
        scenes = {
            layout: compose(clips, layout=layout, count=count, seed=seed, seconds=m.seconds, rule=m.rule, level=m.level)
            for layout in SCORED_LAYOUTS
        }
        truth = {layout: Truth.of(each) for layout, each in scenes.items()}
        return Bench(split, scenes, truth, {layout: derangement(scenes[layout], seed) for layout in LABEL_FREE})


def localise(method: Method, scenes: Scenes, device: torch.device | str = "cpu") -> np.ndarray:
    """Raw maps (N, M, H, W) of a method on scenes, in batches, without gradients.

    Of a method with a map for each class, those of the loudest classes, as many as the scenes have sources.
    """
    return predict(method, scenes, device).heard(scenes.panels_NS.shape[1]).numpy()


def predict(method: Method, scenes: Scenes, device: torch.device | str = "cpu") -> Maps:
    """Everything that a method says of scenes, in batches, without gradients, on the CPU: all maps, classes, loudness."""
    method.eval()
    with torch.inference_mode():
        found = [method.localise(batch.to(device)) for batch in scenes.batches(BATCH)]
        loud = [each.loudness_NM.float().cpu() for each in found if each.loudness_NM is not None]
        maps_NMHW = torch.cat([each.maps_NMHW.float().cpu() for each in found])
    return Maps(maps_NMHW, found[0].classes, torch.cat(loud) if loud else None)


def same_peak(maps_NMHW: np.ndarray) -> float:
    """Share of scenes in which all maps have their peak in one cell: 1 where nodes have collapsed; NaN for one map."""
    if maps_NMHW.shape[1] < 2:
        return float("nan")
    peak_NM = maps_NMHW.reshape(*maps_NMHW.shape[:2], -1).argmax(axis=-1)
    return float((peak_NM == peak_NM[:, :1]).all(axis=1).mean())


def mean(table: Table) -> dict[str, float]:
    """The mean of each metric over the scenes that have truth for it."""
    return {name: table.mean(name) for name, values in table.values.items() if not np.isnan(values).all()}


def judge(method: Method, bench: Bench, run: Run, device: torch.device | str = "cpu") -> dict[str, float]:
    """The metrics of `assess`."""
    return assess(method, bench, run, device)[0]


def assess(
    method: Method, bench: Bench, run: Run, device: torch.device | str = "cpu"
) -> tuple[dict[str, float], dict[str, Any]]:
    """What the search records of a checkpoint: its metrics, and which scenes succeeded.

    Metrics are sounding accuracy, the same with shuffled audio, and those of `hconcat` scenes where there are regions; of
    methods with one map, which cannot name two panels, and where the objective asks for it, also of `solo2x2` scenes.
    The outcomes are those of the scenes that sounding accuracy is of: `{"scenes", "real", "shuffled"}`, see
    `raymix.significance`.
    """
    grid = _listening(method, bench, "grid2x2", run, device)
    found, scored = grid.metrics(), grid
    if grid.maps_NMHW.shape[1] > 1:
        found["same_peak"] = same_peak(grid.maps_NMHW)
    if grid.maps_NMHW.shape[1] == 1 or run.study.metric.startswith("val/solo2x2/"):
        scored = _listening(method, bench, "solo2x2", run, device)
        found |= scored.metrics()
    if bench.truth["hconcat"].has_truth_N.any():
        maps = localise(method, bench.scenes["hconcat"], device)
        found |= mean(score(maps, bench.truth["hconcat"], named(run.evaluation.protocol)))
    return {f"{bench.split}/{name}": value for name, value in found.items()}, scored.outcomes(bench)


@dataclass(frozen=True)
class _Listening:
    """Maps on one of the LABEL_FREE layouts, and the scores of each scene with its own audio and with another's."""

    layout: str
    maps_NMHW: np.ndarray
    real: Table
    shuffled: Table

    def metrics(self) -> dict[str, float]:
        prefix = metric_prefix(self.layout)
        real, shuffled = (mean(each)["sounding_accuracy"] for each in (self.real, self.shuffled))
        return {f"{prefix}sounding_accuracy": real, f"{prefix}sounding_accuracy_shuffled": shuffled}

    def outcomes(self, bench: Bench) -> dict[str, Any]:
        """Which scenes succeeded, with what a test of them needs to know of the scenes."""
        truth = bench.truth[self.layout]
        metric = f"{bench.split}/{metric_prefix(self.layout)}sounding_accuracy"
        chance = blind_chance(truth)
        scenes = scene_record(metric, chance, truth.scenes_hash, truth.heard(), bench.shuffled[self.layout])
        real, shuffled = (pack(each.values["sounding_accuracy"] > 0) for each in (self.real, self.shuffled))
        return {"scenes": scenes, "real": real, "shuffled": shuffled}


def blind_chance(truth: Truth) -> float:
    """The most that maps which do not depend on the audio can expect of sounding accuracy: one choice of panels, always."""
    panels, sounding = len(truth.rects_P4), truth.panels_NS.shape[1]
    return sounding_chance(panels, sounding, sounding, distinct=True)


def _listening(method: Method, bench: Bench, layout: str, run: Run, device: torch.device | str) -> _Listening:
    scenes, how = bench.scenes[layout], named(run.evaluation.protocol)
    truth = replace(bench.truth[layout], masks_NSYX=None)  # who listens needs no region, and no pixel sorted
    maps = localise(method, scenes, device)
    other = localise(method, scenes.with_audio(torch.from_numpy(bench.shuffled[layout])), device)
    return _Listening(layout, maps, *(score(each, truth, how) for each in (maps, other)))


def load(uri: str) -> tuple[Method, Run]:
    """A trained method and its run from a checkpoint, which carries all it needs."""
    whole = checkpoint.load_weights(uri)
    run: Run = from_plain(whole.config)
    method = from_run(run, pretrained=False)
    method.load_state_dict(whole.weights)
    return method, run
