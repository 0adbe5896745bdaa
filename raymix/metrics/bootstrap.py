"""Clustered bootstrap: how often each row counts in a resample of its clusters (videos), and confidence intervals.

Rows (scenes) of one unit of independence (a video) are not independent of each other, and a row may be of several units,
each of which recurs in other rows beside other units. Knows neither scenes nor scores. Axes: N rows, K columns, V units,
C combinations of units, J units of a combination, R resamples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

_DRAWN, _TIMES = 2_000_000, 1 << 19  # numbers of a block of resamples: of units, of combinations (in the cache)


def draw_resamples(clusters: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn in each resample, (some of the resamples, clusters), until all were drawn."""
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWN // clusters)
    for start in range(0, resamples, step):
        r = min(step, resamples - start)
        drawn = rng.integers(0, clusters, (r, clusters)) + clusters * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=r * clusters).reshape(r, clusters).astype(np.float64)


class BootstrapClusters(NamedTuple):
    """The units of independence (videos) that rows are made of: one each, or several that are crossed.

    Rows of the same units stand and fall together, so all that is kept is the combinations that there are.
    """

    total: int
    combination_CJ: np.ndarray  # the units of each different combination; `total` fills the places of fewer
    row_N: np.ndarray  # which combination each row is

    @staticmethod
    def of(rows: np.ndarray | Sequence[Collection[str]]) -> BootstrapClusters:
        """From the one unit of each row, or the names of its units; a name twice in one row counts once."""
        if isinstance(rows, np.ndarray):
            names, row_N = np.unique(rows, return_inverse=True)
            return BootstrapClusters(len(names), np.arange(len(names))[:, None], row_N)
        place = {name: number for number, name in enumerate(sorted(set().union(*rows)))}
        own = [sorted({place[name] for name in row}) for row in rows]
        most = max([1, *map(len, own)])
        filled = [(*units, *[len(place)] * (most - len(units))) for units in own]
        which = {units: number for number, units in enumerate(sorted(set(filled)))}
        combination_CJ = np.array(list(which), np.int64).reshape(len(which), most)
        return BootstrapClusters(len(place), combination_CJ, np.array([which[units] for units in filled], np.int64))

    def draws(self, seed: int, resamples: int) -> Iterator[np.ndarray]:
        """How often each combination counts in each resample of the units, (some of the resamples, C), until all were drawn.

        As often as all its units together: the product of how often each is drawn (the pigeonhole bootstrap; Owen, 2007).
        """
        first, *others = self.combination_CJ.T.copy()
        fewer = bool((self.combination_CJ == self.total).any())
        step = max(1, _TIMES // max(1, len(first)))
        for drawn_RV in draw_resamples(self.total, seed, resamples):
            if not others:
                yield drawn_RV  # each unit is a combination
                continue
            if fewer:
                drawn_RV = np.pad(drawn_RV, ((0, 0), (0, 1)), constant_values=1.0)  # no unit: it changes no product
            for start in range(0, len(drawn_RV), step):
                part_RV = drawn_RV[start : start + step]
                times_RC = part_RV.take(first, axis=1)
                for other in others:
                    times_RC *= part_RV.take(other, axis=1)
                yield times_RC


def percentile_interval(means_RK: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) of each column of resampled numbers; NaN where a column has none."""
    tail = 50.0 * (1.0 - level)
    empty_K = np.isnan(means_RK).all(axis=0)
    low_K, high_K = np.nanpercentile(np.where(empty_K, 0.0, means_RK), [tail, 100.0 - tail], axis=0)
    return np.where(empty_K, np.nan, low_K), np.where(empty_K, np.nan, high_K)


def bootstrap_interval(
    values_NK: np.ndarray,
    units: BootstrapClusters | np.ndarray,
    seed: int,
    resamples: int,
    level: float = 0.95,
    weights_NK: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) of each column's mean, resampling units of independence; NaN entries are absent.

    Without a second combination of units there is no interval, and both ends are NaN. A resample in which no entry of a
    column counts is left out for that column. Weights are the number of rows of the mean that an entry represents; 1 without them.
    """
    return percentile_interval(resampled_means(values_NK, units, seed, resamples, weights_NK), level)


def resampled_means(
    values_NK: np.ndarray,
    units: BootstrapClusters | np.ndarray,
    seed: int,
    resamples: int,
    weights_NK: np.ndarray | None = None,
) -> np.ndarray:
    """The means of the columns in each resample of the units, (resamples, K); NaN where nothing of a column was drawn."""
    units = BootstrapClusters.of(units) if isinstance(units, np.ndarray) else units
    c, k = len(units.combination_CJ), values_NK.shape[1]
    means_RK = np.full((resamples, k), np.nan)
    if c < 2:
        return means_RK
    there_NK = ~np.isnan(values_NK)
    counted_NK = there_NK.astype(np.float64) if weights_NK is None else np.where(there_NK, weights_NK, 0.0)
    sums_CK, counts_CK = np.zeros((c, k)), np.zeros((c, k))
    np.add.at(sums_CK, units.row_N, np.where(there_NK, values_NK, 0.0) * counted_NK)
    np.add.at(counts_CK, units.row_N, counted_NK)
    alike = {column.tobytes(): place for place, column in enumerate(counts_CK.T)}  # most columns count the same rows
    start, which_K = 0, [list(alike).index(column.tobytes()) for column in counts_CK.T]
    for times_RC in units.draws(seed, resamples):
        part, start = means_RK[start : start + len(times_RC)], start + len(times_RC)
        counts_RK = (times_RC @ counts_CK[:, list(alike.values())])[:, which_K]
        np.divide(times_RC @ sums_CK, counts_RK, out=part, where=counts_RK > 0)
    return means_RK
