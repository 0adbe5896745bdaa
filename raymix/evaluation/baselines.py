"""Baselines and controls: audio-blind maps, mean training map, shuffled and silent audio, untrained network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch

from raymix.config import TrainConfig
from raymix.data.batches import HeatMaps, SceneBatch
from raymix.data.layouts import LAYOUTS, SCORED_LAYOUTS
from raymix.data.prepared import read_clips
from raymix.data.scenes import compose_scenes, shuffled_audio_permutation
from raymix.evaluation.scene_spec import SceneSpec
from raymix.evaluation.validation import CandidateCheckpoint, predict_scene_heatmaps, predict_top_k_heatmaps
from raymix.methods import method_from_config
from raymix.methods.base import Method
from raymix.metrics.baseline_heatmaps import ClassNamedMaps, score_under_protocols
from raymix.metrics.functional import minmax_normalize
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import EvaluationProtocol
from raymix.metrics.scoring import SystemScores

TRAINING_CLIPS = 128  # that a mean training map is made of


class Control(StrEnum):
    """What is changed about a candidate before it predicts; the values are what rows of tables call it."""

    NONE = ""
    SHUFFLED_AUDIO = "shuffled audio"
    SILENT_AUDIO = "silent audio"
    UNTRAINED_NETWORK = "untrained network"


@dataclass(frozen=True)
class SystemMaps:
    """Predictions of several systems on the same scenes, by the name of their row; `controls` are those of control runs."""

    maps: dict[str, HeatMaps]
    controls: list[str]


def shuffled_audio(scenes: SceneBatch, seed: int, notes: list[str], about: str = "") -> torch.Tensor | None:
    """Draws, for each scene, another scene of different videos whose audio it gets in the control.

    Args:
        seed: of the permutation; the same scenes and seed give the same one.
        notes: takes the reason, after `about`, where the scenes are too few.

    Returns: indices (N,), int64; None where there is no such permutation.
    """
    try:
        return torch.from_numpy(shuffled_audio_permutation(scenes, seed))
    except ValueError as error:
        notes.append(f"{about}no shuffled audio: {error}")
        return None


def untrained_method(run: TrainConfig) -> Method:
    """Returns the network of a run with its initial weights, the same for the same `evaluation.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.evaluation.seed)
        return method_from_config(run, pretrained=False)


def shuffled_row_name(candidate: CandidateCheckpoint) -> str:
    """Returns the name of the row of a candidate with shuffled audio."""
    return f"{candidate.name}, {Control.SHUFFLED_AUDIO}"


def predict_control(
    candidate: CandidateCheckpoint,
    control: Control,
    scenes: SceneBatch,
    device: str,
    shuffled_N: torch.Tensor | None = None,
    untrained: Method | None = None,
) -> HeatMaps:
    """Predicts heat maps with what a control changes: the audio of the scenes, or the weights.

    Args:
        shuffled_N: of `shuffled_audio`; needed for SHUFFLED_AUDIO.
        untrained: of `untrained_method`, if it has been made before.

    Raises ValueError for SHUFFLED_AUDIO without `shuffled_N`.
    """
    method = candidate.method
    if control is Control.SHUFFLED_AUDIO:
        if shuffled_N is None:
            raise ValueError("shuffled audio needs the permutation of shuffled_audio()")
        scenes = scenes.with_audio(shuffled_N)
    elif control is Control.SILENT_AUDIO:
        scenes = scenes.silent()
    elif control is Control.UNTRAINED_NETWORK:
        method = untrained_method(candidate.run) if untrained is None else untrained
    return predict_scene_heatmaps(method.to(device), scenes, device)


def predict_with_controls(
    candidates: Sequence[CandidateCheckpoint],
    scenes: SceneBatch,
    device: str,
    shuffled_N: torch.Tensor | None,
    shuffled: Sequence[CandidateCheckpoint] | None = None,
    untrained: Method | None = None,
) -> SystemMaps:
    """Predicts heat maps of candidates and of their controls on the same scenes.

    Args:
        candidates: the first one also has the controls with silent audio and without training.
        shuffled_N: of `shuffled_audio`; without it there is no control with shuffled audio.
        shuffled: the candidates that have a control with shuffled audio; None is all.
        untrained: of `untrained_method` of the first candidate's run, if it has been made before.
    """
    best = candidates[0]
    maps = {each.name: predict_control(each, Control.NONE, scenes, device) for each in candidates}
    controls = {}
    if shuffled_N is not None:
        for each in candidates if shuffled is None else shuffled:
            controls[shuffled_row_name(each)] = predict_control(
                each, Control.SHUFFLED_AUDIO, scenes, device, shuffled_N
            )
    controls[f"{best.name}, {Control.SILENT_AUDIO}"] = predict_control(best, Control.SILENT_AUDIO, scenes, device)
    controls[Control.UNTRAINED_NETWORK.value] = predict_control(
        best, Control.UNTRAINED_NETWORK, scenes, device, untrained=untrained
    )
    return SystemMaps(maps | controls, list(controls))


def score_with_baselines(
    systems: SystemMaps,
    truth: SceneGroundTruth,
    protocols: Sequence[EvaluationProtocol],
    mean_HW: np.ndarray | None,
    seed: int,
) -> dict[str, list[SystemScores]]:
    """Scores, by protocol, the systems and their controls, then the baselines without a model.

    Args:
        mean_HW: the mean training heat map, a baseline of its own; None leaves it out.
        seed: of the bootstrap.
    """
    both = {name: maps_for_sources(each, truth) for name, each in systems.maps.items()}
    maps = {name: top_NMHW for name, (top_NMHW, _) in both.items()}
    named = {name: all_of for name, (_, all_of) in both.items() if all_of}
    return score_under_protocols(
        maps, truth, protocols, null=systems.controls, named=named, mean_map_HW=mean_HW, seed=seed
    )


def maps_for_sources(maps: HeatMaps, truth: SceneGroundTruth) -> tuple[np.ndarray, ClassNamedMaps | None]:
    """Selects the maps (N, M, H, W) to score against sources of unknown class, and all maps where they have class names.

    The second is None where the maps or the sources have no class names.
    """
    has_names = maps.classes is not None and any(map(any, truth.labels or ()))
    top_NMHW = maps.top_k_maps(truth.panels_NS.shape[1]).numpy()
    return top_NMHW, ClassNamedMaps(maps.maps_NMHW.numpy(), maps.classes or []) if has_names else None


def mean_heatmap(method: Method, scenes: SceneBatch, device: str) -> np.ndarray:
    """Computes the mean (H, W) of a method's normalised maps over scenes: where it points whatever the audio is."""
    maps_NMHW = minmax_normalize(predict_top_k_heatmaps(method.to(device), scenes, device))
    return maps_NMHW.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)


def mean_training_heatmaps(
    candidate: CandidateCheckpoint, scenes: Iterable[tuple[str, SceneBatch]], device: str, notes: list[str]
) -> dict[str, np.ndarray]:
    """Computes the mean heat map (H, W) of training scenes, by the layout that they come with.

    Args:
        scenes: layout and scenes, of `training_scenes_of_run` or `training_scenes_like`; an error while they are made ends
            the iteration, and `notes` takes it.
    """
    found = {}
    try:
        for layout, each in scenes:
            found[layout] = mean_heatmap(candidate.method, each, device)
    except (ValueError, OSError) as error:
        notes.append(f"no mean training map: {' '.join(str(error).split())}")
    return found


def mean_training_heatmap(
    candidate: CandidateCheckpoint, like: SceneSpec, device: str, notes: list[str]
) -> np.ndarray | None:
    """Computes the mean heat map (H, W) of training scenes of the same kind as `like`; None, and a note, without any."""
    found = mean_training_heatmaps(candidate, training_scenes_like(like), device, notes)
    return next(iter(found.values()), None)


def training_scenes_of_run(run: TrainConfig) -> Iterator[tuple[str, SceneBatch]]:
    """Composes training scenes in every layout that checkpoints are scored on, each of about TRAINING_CLIPS clips."""
    m, prepared, size = run.mixture, run.dataset.prepared, run.encoder.image_size
    clips = read_clips(prepared, "train", size, truth=False, limit=TRAINING_CLIPS)
    for layout in SCORED_LAYOUTS:
        rows, columns, _ = LAYOUTS[layout]
        count, seed = TRAINING_CLIPS // (rows * columns), run.evaluation.seed
        yield (
            layout,
            compose_scenes(
                clips, layout=layout, count=count, seed=seed, seconds=m.seconds, rule=m.reduction, level=m.loudness
            ),
        )


def training_scenes_like(stage: SceneSpec) -> Iterator[tuple[str, SceneBatch]]:
    """Composes training scenes of the layout and sizes of a stage; for `natural` ones, which few sets have, `single`."""
    drawn = replace(stage, split="train", pairs=None, scenes=TRAINING_CLIPS // 2)
    if stage.layout == "natural":
        drawn = replace(drawn, layout="single", sources=None)
    elif stage.pairs and stage.layout in ("hconcat", "vconcat"):
        drawn = replace(drawn, sources=len(stage.pairs.scenes[0]))
    yield stage.layout, drawn.compose(drawn.clips(limit=TRAINING_CLIPS))
