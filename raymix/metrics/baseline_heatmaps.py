"""Baselines that need no model: heat maps made of the canvas, of the areas of the sources, or of the panels of a layout.

A box in the middle of the canvas scores above published numbers of the paper's tables (1 and 2), so every table of raymix has
these rows. Controls that need a model are those of `raymix.evaluation.baselines`. Neither torch nor Ray is imported.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import EvaluationProtocol
from raymix.metrics.scene_scores import ClassNames, MapInput
from raymix.metrics.scoring import ScoreTable, SystemScores, score_maps_under_protocols, summarize_scores

STEP = 0.02  # of the sides of a box of the truth's area

BOX_SIDES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of centre boxes, as shares of the sides of the canvas


def baseline_heatmaps(
    truth: SceneGroundTruth, mean_map_HW: np.ndarray | None = None, panel_boxes: bool = False
) -> dict[str, MapInput]:
    """Returns heat maps of baselines without a model, by name, one map (the same or not) for each source of each scene.

    `full frame` and `centre box S` are predictions (bool, on the canvas); `radial prior` falls linearly from the centre to
    the corners; `oracle area` is a centred box as large as the source (steps of 2 % of the sides). Where some panels are
    silent, `random panels` picks as many different ones as sound, by the scene's id.

    Args:
        truth: of the scenes.
        mean_map_HW: the mean heat map of a model on training clips, for `mean training map`.
        panel_boxes: add `panel box S`: a centre box in each sounding panel (in a grid: in panels picked at random).

    Returns: {name: (N, S, H, W), or N times (S, H, W)}.
    """
    truth = truth.drawn()
    (y, x), (n, s) = truth.canvas, truth.panels_NS.shape
    across = np.abs((np.arange(x) + 0.5) / x * 2 - 1)
    down = np.abs((np.arange(y) + 0.5) / y * 2 - 1)[:, None]
    found: dict[str, np.ndarray] = {"full frame": np.ones((y, x), bool)}
    found |= {f"centre box {side:g}": (across < side) & (down < side) for side in BOX_SIDES}
    found["radial prior"] = (1.0 - np.hypot(down, across) / math.sqrt(2.0)).astype(np.float32)
    if mean_map_HW is not None:
        found["mean training map"] = np.asarray(mean_map_HW)
    # views without memory of their own: thousands of scenes share one map
    maps: dict[str, MapInput] = {name: np.broadcast_to(one, (n, s, *one.shape)) for name, one in found.items()}
    if truth.masks_NSYX is not None:
        maps["oracle area"] = _of_area(truth, across, down)
    picked_NS = _random_panels(truth)
    if s < len(truth.rects_P4):
        maps["random panels"] = _in_panels(truth, picked_NS, 1.0)
    if panel_boxes:
        maps |= {f"panel box {side:g}": _in_panels(truth, picked_NS, side) for side in BOX_SIDES}
    return maps


def _of_area(truth: SceneGroundTruth, across_X: np.ndarray, down_Y1: np.ndarray) -> list[np.ndarray]:
    """Returns, for each scene, a centred box (S, Y, X) for each source with about its area and the canvas' aspect ratio."""
    assert truth.masks_NSYX is not None
    share_NS = truth.masks_NSYX.mean(axis=(2, 3))
    step_NS = np.clip(np.ceil(np.sqrt(share_NS) / STEP), 1, 1 / STEP).astype(int)
    boxes = {step: (across_X < step * STEP) & (down_Y1 < step * STEP) for step in set(step_NS.flat)}
    scenes = {row: np.stack([boxes[step] for step in row]) for row in {tuple(each) for each in step_NS.tolist()}}
    return [scenes[tuple(row)] for row in step_NS.tolist()]


def _random_panels(truth: SceneGroundTruth) -> np.ndarray:
    """Draws panels (N, S) by the id of each scene alone, so they are the same in any order of the scenes."""
    panels, s = len(truth.rects_P4), truth.panels_NS.shape[1]
    if s > panels:  # several sources in one panel
        return truth.panels_NS
    seeds = [int.from_bytes(blake2b(scene.encode(), digest_size=8).digest(), "little") for scene in truth.ids]
    picked = [np.random.default_rng(seed).permutation(panels)[:s] for seed in seeds]
    return np.array(picked, np.int64).reshape(len(truth), s)


def _in_panels(truth: SceneGroundTruth, panels_NS: np.ndarray, side: float) -> list[np.ndarray | None]:
    """Returns, for each scene, a box (S, Y, X) in the centre of each of these panels; `side` is the share of its sides."""
    (y, x), boxes_P = truth.canvas, []
    for x0, y0, x1, y1 in truth.rects_P4:
        across = np.abs((np.arange(x) + 0.5 - x0) / (x1 - x0) * 2 - 1)
        down = np.abs((np.arange(y) + 0.5 - y0) / (y1 - y0) * 2 - 1)[:, None]
        boxes_P.append((across < side) & (down < side))
    distinct = {
        row: np.stack([boxes_P[panel] for panel in row]) for row in {tuple(each) for each in panels_NS.tolist()}
    }
    return [distinct[tuple(row)] for row in panels_NS.tolist()]


@dataclass(frozen=True)
class ClassNamedMaps:
    """All maps (N, M, H, W) of a system whose maps have class names, and these names."""

    maps: MapInput
    classes: ClassNames


def score_system(
    maps: MapInput,
    truth: SceneGroundTruth,
    protocols: Sequence[EvaluationProtocol],
    named: ClassNamedMaps | None = None,
) -> dict[str, ScoreTable]:
    """Scores one system, by the id of each protocol.

    Args:
        maps: (N, M, H, W), to score against sources of unknown class.
        named: all maps with their class names; used under the protocols that match maps with sources by class name.
    """
    by_name = [each for each in protocols if named and each.match == "labels"]
    others = [each for each in protocols if each not in by_name]
    found = score_maps_under_protocols(maps, truth, others) if others else {}
    return found | (score_maps_under_protocols(named.maps, truth, by_name, named.classes) if named and by_name else {})


def score_baselines(
    truth: SceneGroundTruth,
    protocols: Sequence[EvaluationProtocol],
    kinds: Collection[bool] = (False,),
    mean_map_HW: np.ndarray | None = None,
    panel_boxes: bool = False,
) -> dict[str, dict[str, ScoreTable]]:
    """Scores the baselines, by name and by the id of each protocol.

    Args:
        kinds: whether the systems of the same table have maps with class names (True), without (False), or some of each.
            With True each map of a baseline has the class name of its source, with False none; with both a baseline has
            the columns of both.
        mean_map_HW, panel_boxes: of `baseline_heatmaps`.
    """
    found = {}
    for name, maps in baseline_heatmaps(truth, mean_map_HW, panel_boxes).items():
        named = ClassNamedMaps(maps, truth.labels) if True in kinds and truth.labels is not None else None
        own = score_system(maps, truth, protocols, named)
        if named and False in kinds:
            plain = score_system(maps, truth, [each for each in protocols if each.match == "labels"])
            own |= {key: _both(own[key], table) for key, table in plain.items()}
        found[name] = own
    return found


def _both(first: ScoreTable, second: ScoreTable) -> ScoreTable:
    """Returns one table with the columns of two tables of the same scenes."""
    return replace(first, values=first.values | second.values, weights=first.weights | second.weights)


def score_under_protocols(
    maps: Mapping[str, MapInput],
    truth: SceneGroundTruth,
    protocols: Sequence[EvaluationProtocol],
    *,
    null: Collection[str] = (),
    named: Mapping[str, ClassNamedMaps] | None = None,
    mean_map_HW: np.ndarray | None = None,
    panel_boxes: bool = False,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, list[SystemScores]]:
    """Scores systems and baselines on the same scenes, by the id of each protocol.

    Args:
        maps: (N, M, H, W) by the name of the system.
        null: the systems among them that are controls.
        named: all maps with class names, of those systems that have them.
        mean_map_HW, panel_boxes: of `baseline_heatmaps`.
        seed, resamples: of the bootstrap.

    Returns: the given systems first, then the baselines.

    Raises ValueError where `null` names a system that was not given.
    """
    unknown = [name for name in null if name not in maps]
    if unknown:
        raise ValueError(f"null={unknown[0]!r} names no system that was given: {', '.join(maps)}")
    named = named or {}
    tables = {name: score_system(each, truth, protocols, named.get(name)) for name, each in maps.items()}
    kinds = {name in named for name in maps} or {False}
    tables |= score_baselines(truth, protocols, kinds, mean_map_HW, panel_boxes)
    is_baseline = {name: name in null or name not in maps for name in tables}
    return {
        how.id: [
            SystemScores(name, summarize_scores(own[how.id], seed, resamples), is_baseline[name], own[how.id])
            for name, own in tables.items()
        ]
        for how in protocols
    }
