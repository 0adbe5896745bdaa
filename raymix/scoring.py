"""Raw maps and the truth of their scenes -> numbers under a named protocol, with intervals, beside null systems.

Serves Section 4.2-4.5 of the paper (AP, AUC, IoU@t, CIoU@t, CAP of Eq. 5, PIAP) and sounding accuracy, the label-free
measure of the search. Knows maps and truth, never a model. Every number is the mean of one column of a per-scene
`Table`, so denominators are fixed by the truth, never by what was predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from raymix.metrics import (
    area_under_success,
    assign,
    average_precision,
    bootstrap,
    overlaps,
    peak_panels,
    resize,
    success,
    unit_range,
)
from raymix.protocol import RAYMIX_1, Protocol
from raymix.truth import Truth

Maps = np.ndarray | Sequence[np.ndarray | None]
"""Raw maps of all scenes: an array (N, M, H, W), or one (M, H, W) per scene, None where a prediction is missing.
Maps of type bool are predictions already: taken as they are, at the size of the canvas."""

_CHUNK_PIXELS = 1 << 22  # pixels of maps scored at a time: bounds the memory, changes no number


@dataclass(frozen=True)
class Table:
    """Scores, one row per scene: `values` by metric (NaN where a scene has no truth for it), and parts by source."""

    protocol: str
    layout: str
    scenes_hash: str
    ids: tuple[str, ...]
    videos: tuple[str, ...]
    values: dict[str, np.ndarray]
    iou_NS: np.ndarray  # of the source's own map; NaN without truth
    ap_NS: np.ndarray
    map_NS: np.ndarray  # which map that is, -1 for none; with one source the mean of all maps serves, and this is 0

    @staticmethod
    def merge(tables: Sequence[Table]) -> Table:
        """One table from shards of one set of scenes, each scene once, ordered by id; ValueError if they differ."""
        first = tables[0]
        for other in tables[1:]:
            for name in ("protocol", "layout", "scenes_hash"):
                if getattr(other, name) != getattr(first, name):
                    raise ValueError(f"tables differ in {name}: {getattr(first, name)!r} and {getattr(other, name)!r}")
        ids = np.array([each for table in tables for each in table.ids])
        videos = np.array([each for table in tables for each in table.videos])
        keep = np.unique(ids, return_index=True)[1]  # the first of each id, sorted by id

        def column(parts: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts)[keep]

        return replace(
            first,
            ids=tuple(ids[keep].tolist()),
            videos=tuple(videos[keep].tolist()),
            values={name: column([table.values[name] for table in tables]) for name in first.values},
            iou_NS=column([table.iou_NS for table in tables]),
            ap_NS=column([table.ap_NS for table in tables]),
            map_NS=column([table.map_NS for table in tables]),
        )


def score(maps: Maps, truth: Truth, protocol: Protocol = RAYMIX_1) -> Table:
    """Score each scene once; of several rows of one id the first counts.

    ValueError naming the scene where maps are not finite, or of another shape than those of the other scenes.
    """
    if len(maps) != len(truth):
        raise ValueError(f"maps of {len(maps)} scenes, truth of {len(truth)}: an absent prediction is a row of None")
    first: dict[str, int] = {}
    for place, scene in enumerate(truth.ids):
        first.setdefault(scene, place)
    keep = np.fromiter(first.values(), np.int64, len(first))
    like = np.asarray(next((each for each in maps if each is not None and np.ndim(each) == 3), np.zeros((0, 1, 1))))
    step = max(1, _CHUNK_PIXELS // (truth.canvas[0] * truth.canvas[1] * (len(like) + 1)))
    parts = [
        _score_chunk([maps[i] for i in index], truth.take(index), like, protocol)
        for index in np.split(keep, range(step, len(keep), step))
    ]
    values = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    iou_NS, ap_NS, map_NS = (np.concatenate([part[place] for part in parts]) for place in (1, 2, 3))
    videos = tuple(truth.videos[i][0] for i in keep)
    return Table(protocol.id, truth.layout, truth.scenes_hash, tuple(first), videos, values, iou_NS, ap_NS, map_NS)


def _score_chunk(
    rows: list[np.ndarray | None], truth: Truth, like_MHW: np.ndarray, protocol: Protocol
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Columns, IoU and AP by source, and the map of each source, of the scenes of one chunk."""
    maps_NMHW, present_NM = _stack(rows, truth, like_MHW)
    n, s = truth.panels_NS.shape
    values: dict[str, np.ndarray] = {}
    if s < len(truth.rects_P4):
        heard_NMHW = maps_NMHW if s > 1 else _mean_map(unit_range(maps_NMHW), present_NM)  # one source: as section 4.4
        there_NM = present_NM[:, : heard_NMHW.shape[1]]
        values["sounding_accuracy"] = sounding_accuracy(heard_NMHW, truth, there_NM).astype(np.float64)
    boxed = np.flatnonzero(truth.has_truth_N)
    masks_NSYX = np.zeros((0, s, *truth.canvas), bool) if truth.masks_NSYX is None else truth.masks_NSYX[boxed]
    some = masks_NSYX.any(axis=(1, 2, 3))
    boxed, masks_NSYX = boxed[some], masks_NSYX[some]
    judge = _one_source if s == 1 else _many_sources
    columns, *by_source = judge(
        _pixels(maps_NMHW[boxed], truth.canvas, protocol), present_NM[boxed], masks_NSYX, protocol
    )
    for name, column in columns.items():
        values[name] = np.full(n, np.nan)
        values[name][boxed] = column
    iou_NS, ap_NS, map_NS = np.full((n, s), np.nan), np.full((n, s), np.nan), np.full((n, s), -1)
    for whole, part in zip((iou_NS, ap_NS, map_NS), by_source, strict=True):
        whole[boxed] = part
    return values, iou_NS, ap_NS, map_NS


def _stack(rows: list[np.ndarray | None], truth: Truth, like_MHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps of some scenes as one array (N, M, H, W), and which of them exist (N, M); ValueError naming the scene."""
    shape, binary = like_MHW.shape[1:], like_MHW.dtype == bool
    maps = [like_MHW[:0] if row is None else np.asarray(row) for row in rows]
    for scene, row in zip(truth.ids, maps, strict=True):
        if row.ndim != 3 or row.shape[1:] != shape or 0 in shape or row.dtype.kind not in ("b" if binary else "fiu"):
            raise ValueError(
                f"scene {scene}: maps of {row.dtype} {row.shape}, the others are (M, H, W) = {like_MHW.shape} "
                f"of {like_MHW.dtype}"
            )
        if binary and len(row) and shape != truth.canvas:
            raise ValueError(f"scene {scene}: maps of type bool are {shape}, the canvas is {truth.canvas}")
        if not np.isfinite(row).all():
            raise ValueError(f"scene {scene}: a map holds a value that is not finite")
    present_NM = np.zeros((len(maps), max([1, *(len(row) for row in maps)])), bool)
    stacked = np.zeros((*present_NM.shape, *shape), bool if binary else np.float64)
    for place, row in enumerate(maps):
        present_NM[place, : len(row)] = True
        stacked[place, : len(row)] = row
    return stacked, present_NM


def sounding_accuracy(maps_NMHW: np.ndarray, truth: Truth, present_NM: np.ndarray | None = None) -> np.ndarray:
    """True for each scene in which the panels where the maps peak are exactly the sounding panels.

    The sets must be equal: a surplus map that peaks in a silent panel spoils its scene, one that peaks in a sounding
    panel again, or is constant and so names none, does not; one map never names two panels. Chance therefore depends
    on the number of maps: `raymix.metrics.sounding_chance`, 1/6 for two maps in two different panels of four.
    """
    panels = np.arange(len(truth.rects_P4))
    peak_NM = peak_panels(maps_NMHW, truth.rects_P4, truth.canvas)
    if present_NM is not None:
        peak_NM = np.where(present_NM, peak_NM, -1)
    named_NP = (peak_NM[..., None] == panels).any(axis=1)
    return (named_NP == (truth.panels_NS[..., None] == panels).any(axis=1)).all(axis=1)


def _pixels(maps_NMHW: np.ndarray, canvas_YX: tuple[int, int], protocol: Protocol) -> np.ndarray:
    """Upsampled and normalised maps (N, M, Y, X); maps of type bool stay as they are."""
    if maps_NMHW.dtype == bool:
        return maps_NMHW
    # normalised before upsampling too (which changes no min-max score), so that float32 holds any range of values
    return unit_range(resize(unit_range(maps_NMHW), canvas_YX, protocol.align_corners))


Judged = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]


def _mean_map(maps_NMYX: np.ndarray, present_NM: np.ndarray) -> np.ndarray:
    """Mean of the normalised maps that exist, (N, 1, Y, X); absent ones are 0 everywhere and add nothing."""
    count_N = np.maximum(present_NM.sum(axis=1), 1).astype(np.float32)
    return maps_NMYX.sum(axis=1, keepdims=True, dtype=np.float32) / count_N[:, None, None, None]


def _one_source(maps_NMYX: np.ndarray, present_NM: np.ndarray, masks_NSYX: np.ndarray, protocol: Protocol) -> Judged:
    """IoU, success rates, AUC and AP of the mean of the maps, where one source sounds."""
    (n, _, y, x), some_N1 = masks_NSYX.shape, present_NM.any(axis=1, keepdims=True)
    mean_N1YX = _mean_map(maps_NMYX, present_NM)
    if maps_NMYX.dtype != bool:
        mean_N1YX = unit_range(mean_N1YX)
    mean_N1P, masks_N1P = mean_N1YX.reshape(n, 1, y * x), masks_NSYX.reshape(n, 1, y * x)
    iou_N1 = overlaps(mean_N1P >= protocol.threshold, masks_N1P)[..., 0] * some_N1
    ap_N1 = average_precision(mean_N1P, masks_N1P)[..., 0] * some_N1
    columns = _successes("iou", iou_N1[:, 0], protocol) | {"ap": ap_N1[:, 0]}
    return columns, iou_N1, ap_N1, np.where(some_N1, 0, -1)


def _many_sources(maps_NMYX: np.ndarray, present_NM: np.ndarray, masks_NSYX: np.ndarray, protocol: Protocol) -> Judged:
    """CIoU, its success rates and AUC, CAP (Eq. 5) under one joint pairing, and PIAP, where several sources sound."""
    (n, m), (_, s, y, x) = present_NM.shape, masks_NSYX.shape
    maps_NMP, masks_NSP = maps_NMYX.reshape(n, m, y * x), masks_NSYX.reshape(n, s, y * x)
    known_NS = np.asarray(masks_NSP.any(axis=-1))
    there_NSM = known_NS[:, :, None] & present_NM[:, None, :]
    iou_NSM = np.where(there_NSM, overlaps(maps_NMP >= protocol.threshold, masks_NSP), 0.0)
    ap_NSM = np.where(there_NSM, average_precision(maps_NMP, masks_NSP), 0.0)
    map_NS = assign(iou_NSM, ap_NSM)
    chosen = np.maximum(map_NS, 0)[..., None]
    paired_NS = (map_NS >= 0) & np.take_along_axis(there_NSM, chosen, axis=2)[..., 0]
    iou_NS = np.where(paired_NS, np.take_along_axis(iou_NSM, chosen, axis=2)[..., 0], 0.0)
    ap_NS = np.where(paired_NS, np.take_along_axis(ap_NSM, chosen, axis=2)[..., 0], 0.0)
    mean_N1P = _mean_map(maps_NMYX, present_NM).reshape(n, 1, y * x)
    union_N1P = np.asarray(masks_NSP.any(axis=1, keepdims=True))
    piap_N = average_precision(mean_N1P, union_N1P)[:, 0, 0] * present_NM.any(axis=1)
    count_N = known_NS.sum(axis=1)
    columns = _successes("ciou", iou_NS.sum(axis=1) / count_N, protocol)
    columns |= {"cap": ap_NS.sum(axis=1) / count_N, "piap": piap_N}
    unknown = np.where(known_NS, 0.0, np.nan)
    return columns, iou_NS + unknown, ap_NS + unknown, np.where(paired_NS, map_NS, -1)


def _successes(name: str, iou_N: np.ndarray, protocol: Protocol) -> dict[str, np.ndarray]:
    """Columns `NAME@t`, `NAME` and `auc` of the scenes' IoU."""
    rates = {f"{name}@{t:g}": success(iou_N, t) for t in protocol.iou_thresholds}
    return rates | {name: iou_N, "auc": area_under_success(iou_N, protocol.auc_points)}


def metrics(protocol: Protocol) -> list[str]:
    """The columns of a table of scenes with several sources whose regions are known."""
    return [*_successes("ciou", np.zeros(0), protocol), "cap", "piap"]


class Interval(NamedTuple):
    """A mean over scenes, and its 95 % interval (NaN, NaN where all scenes come from one video)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Summary(Mapping[str, Interval]):
    """Metric -> interval, with all that must travel with the numbers; a metric without any truth is absent."""

    protocol: str
    layout: str
    scenes_hash: str
    scenes: int
    videos: int
    resamples: int
    seed: int
    intervals: dict[str, Interval]
    counts: dict[str, int]  # of the scenes in each mean: its denominator

    def __getitem__(self, metric: str) -> Interval:
        return self.intervals[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.intervals)

    def __len__(self) -> int:
        return len(self.intervals)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; a bound that does not exist is None."""
        facts = ("protocol", "layout", "scenes_hash", "scenes", "videos", "resamples", "seed")
        metrics = {
            name: {key: None if math.isnan(number) else number for key, number in each._asdict().items()}
            | {"scenes": self.counts[name]}
            for name, each in self.items()
        }
        return {name: getattr(self, name) for name in facts} | {"metrics": metrics}


def summarise(table: Table, seed: int = 0, resamples: int = 2000) -> Summary:
    """Means over scenes with 95 % intervals by bootstrap over videos (of a scene's clips, the first one's video).

    Independent of the order of the rows, of how they were sharded (`Table.merge` first) and of repeated ids.
    """
    table = Table.merge([table])
    names = list(table.values)
    values_NK = np.stack([table.values[name] for name in names], axis=1)
    counts = {name: int(count) for name, count in zip(names, (~np.isnan(values_NK)).sum(axis=0), strict=True)}
    lows, highs = bootstrap(values_NK, np.array(table.videos), seed, resamples)
    intervals = {
        name: Interval(float(np.nanmean(values_NK[:, place])), float(lows[place]), float(highs[place]))
        for place, name in enumerate(names)
        if counts[name]
    }
    return Summary(
        protocol=table.protocol,
        layout=table.layout,
        scenes_hash=table.scenes_hash,
        scenes=len(table.ids),
        videos=len(set(table.videos)),
        resamples=resamples,
        seed=seed,
        intervals=intervals,
        counts={name: counts[name] for name in intervals},
    )
