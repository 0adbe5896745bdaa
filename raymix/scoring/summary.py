"""Scores by scene, and their means with intervals: what a number must carry wherever it goes.

Most numbers are means of a column over scenes, so denominators are fixed by the truth, never by what was predicted; the
others are made of what `Pool` keeps of each scene. Intervals are by bootstrap over videos: those that are heard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from raymix.resampling import Units, bootstrap, interval
from raymix.scoring.pooled import Pool, joined


@dataclass(frozen=True)
class Table:
    """Scores, one row per scene: `values` by metric (NaN where a scene has no truth for it), and parts by source.

    A row of a metric in `weights` stands for so many rows of the protocol (its sources); of any other metric for one.
    `pools` hold what numbers of the whole set need of each scene: for PxAP 8 bytes a bin.
    """

    protocol: str
    layout: str
    scenes_hash: str
    ids: tuple[str, ...]
    videos: tuple[tuple[str, ...], ...]  # those heard in each scene: `Truth.heard`
    values: dict[str, np.ndarray]
    iou_NS: np.ndarray  # of the source's own map; NaN without truth
    ap_NS: np.ndarray
    map_NS: np.ndarray  # which map that is, -1 for none; with one source the mean of all maps serves, and this is 0
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
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
    def merge(tables: Sequence[Table]) -> Table:
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
            pools={name: joined([table.pools[name] for table in tables]).take(keep) for name in first.pools},
        )


class Interval(NamedTuple):
    """A mean over scenes, and its 95 % interval (NaN, NaN where all scenes are of the same videos)."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float | None]:
        """Plain values for JSON; a bound that does not exist is None."""
        return {name: None if math.isnan(number) else number for name, number in self._asdict().items()}


def baseline_mark(interval: Interval, best: float) -> str:
    """Returns '' where the best baseline or control (-inf: there is none) is below this interval of a system.

    Else `†` where it lies inside, or where there is no interval, and `‡` where it lies above.
    """
    if best == -math.inf or best < interval.low:
        return ""
    return "‡" if best > interval.high else "†"


@dataclass(frozen=True, eq=False)
class Summary(Mapping[str, Interval]):
    """Metric -> interval, with all that must travel with the numbers; a metric without any truth is absent."""

    protocol: str
    layout: str
    scenes_hash: str
    scenes: int
    videos: int  # that are heard in the scenes
    resamples: int
    seed: int
    intervals: dict[str, Interval]
    counts: dict[str, int]  # of the scenes in each mean: its denominator
    preprocessing: str = ""

    def __getitem__(self, metric: str) -> Interval:
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
    summary: Summary
    null: bool = False
    table: Table | None = field(default=None, compare=False, repr=False)  # the scores of each scene


def summarise(table: Table, seed: int = 0, resamples: int = 2000) -> Summary:
    """Means over scenes with 95 % intervals by bootstrap over the videos that are heard in them.

    Videos are drawn with replacement, and a scene counts as often as its videos together: the product of how often each
    was drawn, so one video that is heard in many scenes moves them all, beside whichever other. A resample in which no
    scene counts is left out. The interval of scenes of several videos errs on the wide side, for what is a scene's own
    is drawn several times over too; that is why silent panels, whose videos matter less, are not drawn as well.
    Independent of the order of the rows, of how they were sharded (`Table.merge` first) and of repeated ids. A scene
    that stands for several rows of its protocol weighs as many in its mean.
    """
    table = Table.merge([table])
    videos = Units.of(table.videos)
    intervals, counts = _means(table, videos, seed, resamples)
    for pool in table.pools.values():
        if pool.counts_N.any():
            found = _pooled(pool, videos, seed, resamples)
            intervals |= found
            counts |= dict.fromkeys(found, int(pool.counts_N.sum()))
    return Summary(
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


def _means(table: Table, videos: Units, seed: int, resamples: int) -> tuple[dict[str, Interval], dict[str, int]]:
    """Means of the columns, and how many scenes are in each; a column without any is left out."""
    names = list(table.values)
    values_NK = np.stack([table.values[name] for name in names], axis=1) if names else np.zeros((len(table.ids), 0))
    weights_NK = np.ones_like(values_NK)
    for place, name in enumerate(names):
        weights_NK[:, place] = table.weights.get(name, 1.0)
    counts = {name: int(count) for name, count in zip(names, (~np.isnan(values_NK)).sum(axis=0), strict=True)}
    lows, highs = bootstrap(values_NK, videos, seed, resamples, weights_NK=weights_NK)
    intervals = {}
    for place, name in enumerate(names):
        if counts[name]:
            intervals[name] = Interval(table.mean(name), float(lows[place]), float(highs[place]))
    return intervals, counts


def _pooled(pool: Pool, videos: Units, seed: int, resamples: int) -> dict[str, Interval]:
    """Numbers of the whole set, with intervals over the same resampled videos as those of the means."""
    found, drawn = resampled_pool(pool, videos, seed, resamples)
    bounds = {name: interval(drawn_R[:, None]) for name, drawn_R in drawn.items()}
    return {
        name: Interval(value, float(bounds[name][0][0]), float(bounds[name][1][0]))
        for name, value in found.items()
        if not math.isnan(value)
    }


def resampled_pool(
    pool: Pool, videos: Units, seed: int, resamples: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers of the whole set, and the same in each resample of the videos, (R,): NaN where there is but one combination."""
    found = {name: float(number_R[0]) for name, number_R in pool.numbers(pool.counts_N[None].astype(float)).items()}
    combinations = len(videos.combination_CJ)
    if combinations < 2:
        return found, {name: np.full(resamples, math.nan) for name in found}
    part, row_N = pool.of_clusters(videos.row_N, combinations)
    drawn = [part.numbers(times_RC[:, row_N] * part.counts_N) for times_RC in videos.draws(seed, resamples)]
    return found, {name: np.concatenate([each[name] for each in drawn]) for name in found}
