"""Scoring of one method on held-out scenes in memory, without Ray; used by the search and by `raymix.evaluate`.

The search's objective needs no boxes: `grid2x2` scenes of four held-out videos, two of them sounding, scored by sounding accuracy
and by the same with the audio shuffled. Where the data has regions, `hconcat` scenes add the paper's metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from raymix.config import TrainConfig
from raymix.data import prepared
from raymix.data.batches import HeatMaps, SceneBatch
from raymix.data.layouts import LABEL_FREE, SCORED_LAYOUTS, metric_prefix
from raymix.data.scenes import compose_scenes, shuffled_audio_permutation
from raymix.methods.base import Method
from raymix.metrics.functional import chance_sounding_accuracy
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import get_protocol
from raymix.metrics.scoring import ScoreTable, score_maps
from raymix.tracking.significance import pack_outcomes, scene_outcome_record

SCORING_BATCH_SIZE = 16  # scenes in one forward pass


@dataclass(frozen=True)
class CandidateCheckpoint:
    """A checkpoint to evaluate and its origin; fields that only a study has are None for a checkpoint outside a study."""

    name: str
    uri: str
    method: Method
    run: TrainConfig
    rank: int  # by the study's objective, 1 is the best
    trial: int | None
    epoch: int | None
    params: dict[str, Any]
    recorded: dict[str, float | None]  # what the search wrote down of this epoch


@dataclass(frozen=True)
class EvaluationScenes:
    """The scenes of one split with the audio and frame settings of a run; runs with equal `key` share them."""

    split: str
    scenes: dict[str, SceneBatch]  # by layout: those of SCORED_LAYOUTS
    truth: dict[str, SceneGroundTruth]
    shuffled: dict[str, np.ndarray]  # of LABEL_FREE layouts: the scene whose audio each scene gets in the control

    @staticmethod
    def key(run: TrainConfig) -> tuple[Any, ...]:
        m = run.mixture
        return run.dataset.prepared, run.encoder.image_size, m.seconds, m.reduction, m.loudness, run.evaluation.seed

    @staticmethod
    def open(run: TrainConfig, split: str, count: int) -> EvaluationScenes:
        """Compose `count` scenes of each layout (fewer where the split is too small for more)."""
        clips = prepared.read_clips(run.dataset.prepared, split, run.encoder.image_size, truth=True)
        m, seed = run.mixture, run.evaluation.seed
        scenes = {
            layout: compose_scenes(
                clips, layout=layout, count=count, seed=seed, seconds=m.seconds, rule=m.reduction, level=m.loudness
            )
            for layout in SCORED_LAYOUTS
        }
        truth = {layout: SceneGroundTruth.of(each) for layout, each in scenes.items()}
        return EvaluationScenes(
            split, scenes, truth, {layout: shuffled_audio_permutation(scenes[layout], seed) for layout in LABEL_FREE}
        )


def predict_top_k_heatmaps(method: Method, scenes: SceneBatch, device: torch.device | str = "cpu") -> np.ndarray:
    """Raw maps (N, M, H, W) of a method on scenes, in batches, without gradients.

    Of a method with a map for each class, those of the loudest classes, as many as the scenes have sources.
    """
    return predict_scene_heatmaps(method, scenes, device).top_k_maps(scenes.panels_NS.shape[1]).numpy()


def predict_scene_heatmaps(method: Method, scenes: SceneBatch, device: torch.device | str = "cpu") -> HeatMaps:
    """All heatmaps of a method on scenes, with classes and loudness where it has them; in batches, without gradients, on the CPU."""
    method.eval()
    with torch.inference_mode():
        found = [method.predict_heatmaps(batch.to(device)) for batch in scenes.batches(SCORING_BATCH_SIZE)]
        loud = [each.loudness_NM.float().cpu() for each in found if each.loudness_NM is not None]
        maps_NMHW = torch.cat([each.maps_NMHW.float().cpu() for each in found])
    return HeatMaps(maps_NMHW, found[0].classes, torch.cat(loud) if loud else None)


def shared_peak_share(maps_NMHW: np.ndarray) -> float:
    """Share of scenes in which all maps have their peak in one cell: 1 where nodes have collapsed; NaN for one map."""
    if maps_NMHW.shape[1] < 2:
        return float("nan")
    peak_NM = maps_NMHW.reshape(*maps_NMHW.shape[:2], -1).argmax(axis=-1)
    return float((peak_NM == peak_NM[:, :1]).all(axis=1).mean())


def mean_scores(table: ScoreTable) -> dict[str, float]:
    """The mean of each metric over the scenes that have truth for it."""
    return {name: table.mean(name) for name, values in table.values.items() if not np.isnan(values).all()}


def score_method(
    method: Method, evaluation_scenes: EvaluationScenes, run: TrainConfig, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """The metrics of `score_method_with_outcomes`."""
    return score_method_with_outcomes(method, evaluation_scenes, run, device)[0]


def score_method_with_outcomes(
    method: Method, evaluation_scenes: EvaluationScenes, run: TrainConfig, device: torch.device | str = "cpu"
) -> tuple[dict[str, float], dict[str, Any]]:
    """What the search records of a checkpoint: its metrics, and which scenes succeeded.

    Metrics are sounding accuracy, the same with shuffled audio, and those of `hconcat` scenes where there are regions; of
    methods with one map, which cannot name two panels, and where the objective asks for it, also of `solo2x2` scenes.
    The outcomes are those of the scenes that sounding accuracy is of: `{"scenes", "real", "shuffled"}`, see
    `raymix.tracking.significance`.
    """
    grid = _listening(method, evaluation_scenes, "grid2x2", run, device)
    found, scored = grid.metrics(), grid
    if grid.maps_NMHW.shape[1] > 1:
        found["same_peak"] = shared_peak_share(grid.maps_NMHW)
    if grid.maps_NMHW.shape[1] == 1 or run.study.metric.startswith("val/solo2x2/"):
        scored = _listening(method, evaluation_scenes, "solo2x2", run, device)
        found |= scored.metrics()
    if evaluation_scenes.truth["hconcat"].has_truth_N.any():
        maps = predict_top_k_heatmaps(method, evaluation_scenes.scenes["hconcat"], device)
        found |= mean_scores(
            score_maps(maps, evaluation_scenes.truth["hconcat"], get_protocol(run.evaluation.protocol))
        )
    return {f"{evaluation_scenes.split}/{name}": value for name, value in found.items()}, scored.outcomes(
        evaluation_scenes
    )


@dataclass(frozen=True)
class _Listening:
    """Maps on one of the LABEL_FREE layouts, and the scores of each scene with its own audio and with another's."""

    layout: str
    maps_NMHW: np.ndarray
    real: ScoreTable
    shuffled: ScoreTable

    def metrics(self) -> dict[str, float]:
        prefix = metric_prefix(self.layout)
        real, shuffled = (mean_scores(each)["sounding_accuracy"] for each in (self.real, self.shuffled))
        return {f"{prefix}sounding_accuracy": real, f"{prefix}sounding_accuracy_shuffled": shuffled}

    def outcomes(self, evaluation_scenes: EvaluationScenes) -> dict[str, Any]:
        """Which scenes succeeded, with what a test of them needs to know of the scenes."""
        truth = evaluation_scenes.truth[self.layout]
        metric = f"{evaluation_scenes.split}/{metric_prefix(self.layout)}sounding_accuracy"
        chance = chance_accuracy(truth)
        scenes = scene_outcome_record(
            metric, chance, truth.scenes_hash, truth.sounding_videos(), evaluation_scenes.shuffled[self.layout]
        )
        real, shuffled = (pack_outcomes(each.values["sounding_accuracy"] > 0) for each in (self.real, self.shuffled))
        return {"scenes": scenes, "real": real, "shuffled": shuffled}


def chance_accuracy(truth: SceneGroundTruth) -> float:
    """The most that maps which do not depend on the audio can expect of sounding accuracy: one choice of panels, always."""
    panels, sounding = len(truth.rects_P4), truth.panels_NS.shape[1]
    return chance_sounding_accuracy(panels, sounding, sounding, distinct=True)


def _listening(
    method: Method, evaluation_scenes: EvaluationScenes, layout: str, run: TrainConfig, device: torch.device | str
) -> _Listening:
    scenes, how = evaluation_scenes.scenes[layout], get_protocol(run.evaluation.protocol)
    truth = replace(
        evaluation_scenes.truth[layout], masks_NSYX=None
    )  # who listens needs no region, and no pixel sorted
    maps = predict_top_k_heatmaps(method, scenes, device)
    other = predict_top_k_heatmaps(
        method, scenes.with_audio(torch.from_numpy(evaluation_scenes.shuffled[layout])), device
    )
    return _Listening(layout, maps, *(score_maps(each, truth, how) for each in (maps, other)))
