"""Score maps under one or many protocols, in chunks of scenes; tables of scene scores and their summary with intervals.

Most numbers are means of a column over scenes, so denominators are fixed by the truth, never by what was predicted; the
others are made of what `PooledScores` keeps of each scene. Intervals are by bootstrap over videos: those that sound.

Per chunk each map is upsampled and sorted once for each kind of upsampling, whatever the number of protocols; what is
held at a time does not grow with the number of scenes, and neither order nor chunks nor shards change a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from raymix.metrics.bootstrap import BootstrapClusters, bootstrap_interval, percentile_interval
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.heatmaps import BufferPool
from raymix.metrics.pooled_scores import PooledScores, join_pools
from raymix.metrics.protocols import RAYMIX_1, EvaluationProtocol
from raymix.metrics.scene_scores import (
    ChunkScores,
    ClassNames,
    MapInput,
    SceneChunk,
    match_class_names,
    score_chunk,
    sounding_accuracy_column,
    stack_maps,
)


@dataclass(frozen=True)
class ScoreTable:
    """Scores, one row per scene: `values` by metric (NaN where a scene has no truth for it), and parts by source.

    A row of a metric in `weights` stands for so many rows of the protocol (its sources); of any other metric for one.
    `pools` hold what numbers of the whole set need of each scene: for PxAP 8 bytes a bin.
    """

    protocol: str
    layout: str
    scenes_hash: str
    ids: tuple[str, ...]
    videos: tuple[tuple[str, ...], ...]  # the sounding ones of each scene: `SceneGroundTruth.sounding_videos`
    values: dict[str, np.ndarray]
    iou_NS: np.ndarray  # of the source's own map; NaN without truth
    ap_NS: np.ndarray
    map_NS: np.ndarray  # which map that is, -1 for none; with one source the mean of all maps serves, and this is 0
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    pools: dict[str, PooledScores] = field(default_factory=dict)
    preprocessing: str = ""

    def mean(self, name: str) -> float:
        """The mean of a metric over the rows that its scenes stand for; NaN where no scene has it."""
        value_N = self.values[name]
        there_N = ~np.isnan(value_N)
        if not there_N.any():
            return math.nan
        if name not in self.weights:
            return float(np.nanmean(value_N))
        weight_N = self.weights[name][there_N]
        return float((value_N[there_N] * weight_N).sum() / weight_N.sum())

    @staticmethod
    def merge(tables: Sequence[ScoreTable]) -> ScoreTable:
        """One table from shards of one set of scenes, each scene once, ordered by id; ValueError if they differ."""
        first = tables[0]
        for other in tables[1:]:
            for name in ("protocol", "layout", "scenes_hash", "preprocessing"):
                if getattr(other, name) != getattr(first, name):
                    raise ValueError(f"tables differ in {name}: {getattr(first, name)!r} and {getattr(other, name)!r}")
        ids = np.array([each for table in tables for each in table.ids])
        videos = [each for table in tables for each in table.videos]
        keep = np.unique(ids, return_index=True)[1]  # the first of each id, sorted by id

        def column(parts: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts)[keep]

        return replace(
            first,
            ids=tuple(ids[keep].tolist()),
            videos=tuple(videos[i] for i in keep),
            values={name: column([table.values[name] for table in tables]) for name in first.values},
            iou_NS=column([table.iou_NS for table in tables]),
            ap_NS=column([table.ap_NS for table in tables]),
            map_NS=column([table.map_NS for table in tables]),
            weights={name: column([table.weights[name] for table in tables]) for name in first.weights},
            pools={name: join_pools([table.pools[name] for table in tables]).take(keep) for name in first.pools},
        )


class ScoreInterval(NamedTuple):
    """A mean over scenes, and its 95 % interval (NaN, NaN where all scenes are of the same videos)."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float | None]:
        """Plain values for JSON; a bound that does not exist is None."""
        return {name: None if math.isnan(number) else number for name, number in self._asdict().items()}


def baseline_mark(interval: ScoreInterval, best: float) -> str:
    """Returns '' where the best baseline or control (-inf: there is none) is below this interval of a system.

    Else `†` where it lies inside, or where there is no interval, and `‡` where it lies above.
    """
    if best == -math.inf or best < interval.low:
        return ""
    return "‡" if best > interval.high else "†"


@dataclass(frozen=True, eq=False)
class ScoreSummary(Mapping[str, ScoreInterval]):
    """Metric -> interval, with all that must travel with the numbers; a metric without any truth is absent."""

    protocol: str
    layout: str
    scenes_hash: str
    scenes: int
    videos: int  # that sound in the scenes
    resamples: int
    seed: int
    intervals: dict[str, ScoreInterval]
    counts: dict[str, int]  # of the scenes in each mean: its denominator
    preprocessing: str = ""

    def __getitem__(self, metric: str) -> ScoreInterval:
        return self.intervals[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.intervals)

    def __len__(self) -> int:
        return len(self.intervals)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        facts = ("protocol", "layout", "scenes_hash", "preprocessing", "scenes", "videos", "resamples", "seed")
        metrics = {name: each.record() | {"scenes": self.counts[name]} for name, each in self.items()}
        return {name: getattr(self, name) for name in facts} | {"metrics": metrics}


@dataclass(frozen=True)
class SystemScores:
    """The row of one system in a table; `null` for baselines and controls, which cannot depend on the scene's audio."""

    system: str
    summary: ScoreSummary
    null: bool = False
    table: ScoreTable | None = field(default=None, compare=False, repr=False)  # the scores of each scene


def summarize_scores(table: ScoreTable, seed: int = 0, resamples: int = 2000) -> ScoreSummary:
    """Means over scenes with 95 % intervals by bootstrap over the videos that sound in them.

    Videos are drawn with replacement, and a scene counts as often as its videos together: the product of how often each
    was drawn, so one video that sounds in many scenes moves them all, beside whichever other. A resample in which no
    scene counts is left out. The interval of scenes of several videos errs on the wide side, for what is a scene's own
    is drawn several times over too; that is why silent panels, whose videos matter less, are not drawn as well.
    Independent of the order of the rows, of how they were sharded (`Table.merge` first) and of repeated ids. A scene
    that stands for several rows of its protocol weighs as many in its mean.
    """
    table = ScoreTable.merge([table])
    videos = BootstrapClusters.of(table.videos)
    intervals, counts = _means(table, videos, seed, resamples)
    for pool in table.pools.values():
        if pool.counts_N.any():
            found = _pooled(pool, videos, seed, resamples)
            intervals |= found
            counts |= dict.fromkeys(found, int(pool.counts_N.sum()))
    return ScoreSummary(
        protocol=table.protocol,
        layout=table.layout,
        scenes_hash=table.scenes_hash,
        scenes=len(table.ids),
        videos=videos.total,
        resamples=resamples,
        seed=seed,
        intervals=intervals,
        counts={name: counts[name] for name in intervals},
        preprocessing=table.preprocessing,
    )


def _means(
    table: ScoreTable, videos: BootstrapClusters, seed: int, resamples: int
) -> tuple[dict[str, ScoreInterval], dict[str, int]]:
    """Means of the columns, and how many scenes are in each; a column without any is left out."""
    names = list(table.values)
    values_NK = np.stack([table.values[name] for name in names], axis=1) if names else np.zeros((len(table.ids), 0))
    weights_NK = np.ones_like(values_NK)
    for place, name in enumerate(names):
        weights_NK[:, place] = table.weights.get(name, 1.0)
    counts = {name: int(count) for name, count in zip(names, (~np.isnan(values_NK)).sum(axis=0), strict=True)}
    lows, highs = bootstrap_interval(values_NK, videos, seed, resamples, weights_NK=weights_NK)
    intervals = {}
    for place, name in enumerate(names):
        if counts[name]:
            intervals[name] = ScoreInterval(table.mean(name), float(lows[place]), float(highs[place]))
    return intervals, counts


def _pooled(pool: PooledScores, videos: BootstrapClusters, seed: int, resamples: int) -> dict[str, ScoreInterval]:
    """Numbers of the whole set, with intervals over the same resampled videos as those of the means."""
    found, drawn = resample_pooled_scores(pool, videos, seed, resamples)
    bounds = {name: percentile_interval(drawn_R[:, None]) for name, drawn_R in drawn.items()}
    return {
        name: ScoreInterval(value, float(bounds[name][0][0]), float(bounds[name][1][0]))
        for name, value in found.items()
        if not math.isnan(value)
    }


def resample_pooled_scores(
    pool: PooledScores, videos: BootstrapClusters, seed: int, resamples: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers of the whole set, and the same in each resample of the videos, (R,): NaN where there is but one combination."""
    found = {name: float(number_R[0]) for name, number_R in pool.numbers(pool.counts_N[None].astype(float)).items()}
    combinations = len(videos.combination_CJ)
    if combinations < 2:
        return found, {name: np.full(resamples, math.nan) for name in found}
    part, row_N = pool.of_clusters(videos.row_N, combinations)
    drawn = [part.numbers(times_RC[:, row_N] * part.counts_N) for times_RC in videos.draws(seed, resamples)]
    return found, {name: np.concatenate([each[name] for each in drawn]) for name in found}


_CHUNK_PIXELS = 1 << 22  # pixels of maps scored at a time: bounds the memory, changes no number


def score_maps(
    maps: MapInput, truth: SceneGroundTruth, protocol: EvaluationProtocol = RAYMIX_1, classes: ClassNames | None = None
) -> ScoreTable:
    """Score each scene once; of several rows of one id the first counts.

    ValueError where the protocol is not for scenes of so many sources, and naming the scene where maps are not finite,
    or of another shape than those of the other scenes.
    """
    return score_maps_under_protocols(maps, truth, [protocol], classes)[protocol.id]


def score_maps_under_protocols(
    maps: MapInput, truth: SceneGroundTruth, protocols: Iterable[EvaluationProtocol], classes: ClassNames | None = None
) -> dict[str, ScoreTable]:
    """A table for each protocol, by its id, as `score_maps` makes it; what they have in common is computed once.

    `EvaluationProtocol.declines` gives the reason for a protocol that is refused.
    """
    chosen = list(protocols)
    for protocol in chosen:
        if refusal := protocol.declines(truth.panels_NS.shape[1]):
            raise ValueError(refusal)
    if len({protocol.id for protocol in chosen}) < len(chosen):
        raise ValueError(f"two protocols of one id among {', '.join(protocol.id for protocol in chosen)}")
    if len(maps) != len(truth):
        raise ValueError(f"maps of {len(maps)} scenes, truth of {len(truth)}: an absent prediction is a row of None")
    first: dict[str, int] = {}
    for place, scene in enumerate(truth.ids):
        first.setdefault(scene, place)
    keep = np.fromiter(first.values(), np.int64, len(first))
    like = np.asarray(next((each for each in maps if each is not None and np.ndim(each) == 3), np.zeros((0, 1, 1))))
    step = max(1, _CHUNK_PIXELS // (truth.canvas[0] * truth.canvas[1] * (len(like) + 1)))
    sheets = BufferPool()
    parts = [
        _score_chunk_under_protocols(
            [maps[i] for i in index], truth.take(index).drawn(), like, chosen, (classes, index), sheets
        )
        for index in np.split(keep, range(step, len(keep), step))
    ]
    heard_videos = truth.sounding_videos()
    videos = tuple(heard_videos[i] for i in keep)
    return {
        how.id: _table(how, [part[place] for part in parts], truth, tuple(first), videos)
        for place, how in enumerate(chosen)
    }


def _score_chunk_under_protocols(
    rows: list[np.ndarray | None],
    truth: SceneGroundTruth,
    like_MHW: np.ndarray,
    protocols: list[EvaluationProtocol],
    named: tuple[ClassNames | None, np.ndarray],
    sheets: BufferPool,
) -> list[ChunkScores]:
    """What each protocol makes of the scenes of one chunk; those without known truth have NaN."""
    maps_NMHW, present_NM = stack_maps(rows, truth, like_MHW)
    classes, index = named
    same_NSM = None if classes is None else match_class_names(classes, index, truth, present_NM)
    n, s = truth.panels_NS.shape
    shared: dict[str, np.ndarray] = {}
    if s < len(truth.rects_P4) and classes is None:
        shared["sounding_accuracy"] = sounding_accuracy_column(maps_NMHW, truth, present_NM)
    known = np.flatnonzero(truth.has_truth_N) if truth.masks_NSYX is not None else np.zeros(0, np.int64)
    if len(known) < n:
        maps_NMHW, present_NM, truth = maps_NMHW[known], present_NM[known], truth.take(known)
        same_NSM = None if same_NSM is None else same_NSM[known]
    chunk = SceneChunk(maps_NMHW, present_NM, truth, same_NSM, protocols, sheets)
    for protocol in protocols:
        weighed = chunk.weighs(protocol)
        empty = np.flatnonzero(chunk.told_N(weighed) & ~chunk.known_NS(weighed).all(axis=1))
        if protocol.empty_truth == "error" and len(empty):
            scene = truth.ids[empty[0]]
            raise ValueError(f"scene {scene}: a source has no pixel of truth, which protocol {protocol.id} refuses")
    return [_spread(score_chunk(chunk, protocol), known, n, shared) for protocol in protocols]


def _spread(judged: ChunkScores, known: np.ndarray, n: int, shared: dict[str, np.ndarray]) -> ChunkScores:
    """The same for all n scenes of the chunk: NaN, no map and no count where the truth is unknown."""

    def whole(part: np.ndarray, blank: float) -> np.ndarray:
        found = np.full((n, *part.shape[1:]), blank, part.dtype)
        found[known] = part
        return found

    return ChunkScores(
        iou_NS=whole(judged.iou_NS, np.nan),
        ap_NS=whole(judged.ap_NS, np.nan),
        map_NS=whole(judged.map_NS, -1),
        columns=shared | {name: whole(column, np.nan) for name, column in judged.columns.items()},
        weights={name: whole(column, 0.0) for name, column in judged.weights.items()},
        pools={
            name: pool._replace(kept=whole(pool.kept, 0), counts_N=whole(pool.counts_N, False))
            for name, pool in judged.pools.items()
        },
    )


def _table(
    protocol: EvaluationProtocol,
    parts: list[ChunkScores],
    truth: SceneGroundTruth,
    ids: tuple[str, ...],
    videos: tuple[tuple[str, ...], ...],
) -> ScoreTable:
    first = parts[0]
    pools: dict[str, PooledScores] = {name: join_pools([part.pools[name] for part in parts]) for name in first.pools}
    return ScoreTable(
        protocol=protocol.id,
        layout=truth.layout,
        scenes_hash=truth.scenes_hash,
        ids=ids,
        videos=videos,
        values={name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        iou_NS=np.concatenate([part.iou_NS for part in parts]),
        ap_NS=np.concatenate([part.ap_NS for part in parts]),
        map_NS=np.concatenate([part.map_NS for part in parts]),
        weights={name: np.concatenate([part.weights[name] for part in parts]) for name in first.weights},
        pools=pools,
        preprocessing=truth.preprocessing,
    )


def metric_columns(protocol: EvaluationProtocol, sources: int = 2) -> list[str]:
    """The columns of a table of scenes with so many sources whose regions are known; ValueError where it declines them."""
    panels_NS, masks_NSYX = np.zeros((0, sources), np.int64), np.zeros((0, sources, 1, 1), bool)
    empty = SceneGroundTruth(
        (), (), "", (1, 1), panels_NS, np.array([[0, 0, 1, 1]] * sources), masks_NSYX, np.zeros(0, bool), ""
    )
    return [name for name in score_maps([], empty, protocol).values if name != "sounding_accuracy"]
