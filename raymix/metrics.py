"""Numbers on maps and masks: resizing, IoU, average precision, AUC, pairing of maps with sources, peaks, bootstrap.

The primitives under Section 4.2-4.4 of the paper (AP, IoU, AUC, CAP of Eq. 5, PIAP); which of them is used how is the
business of `raymix.protocol`. Everything is vectorised over scenes, gives the same numbers whatever the size of the
batch, and knows neither scenes nor models. Axes: N scenes, M maps, S sources, Y X pixels, P pixels in a row, H W cells.
"""

from __future__ import annotations

from itertools import permutations
from math import comb

import numpy as np
from scipy.optimize import linear_sum_assignment

_TIE = 1e-9  # two sums of IoUs nearer than this are equal: sums of ratios of whole numbers, in floating point
_MOST_PAIRINGS = 840  # more pairings of maps with sources than this are not enumerated (7 maps for 4 sources are)


def unit_range(maps_NMYX: np.ndarray) -> np.ndarray:
    """Min-max each map to [0, 1] as float32; a constant map becomes 0 everywhere, because it says nothing."""
    # in float64, because high - low may overflow float32, and small differences on a large offset would vanish
    maps = maps_NMYX.astype(np.float64)
    low = maps.min(axis=(-2, -1), keepdims=True)
    spread = maps.max(axis=(-2, -1), keepdims=True) - low
    maps -= low
    maps /= np.where(spread > 0, spread, 1.0)
    return maps.astype(np.float32)


def _taps(cells: int, pixels: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left cell, right cell and weight of the right one, for each of the pixels along one axis."""
    at = np.arange(pixels, dtype=np.float64)
    if align_corners:
        at *= (cells - 1) / max(pixels - 1, 1)
    else:
        at = np.clip((at + 0.5) * cells / pixels - 0.5, 0.0, None)
    left = np.minimum(at.astype(np.int64), cells - 1)
    right = np.minimum(left + 1, cells - 1)
    return left, right, (at - left).astype(np.float32)


def resize(maps_NMHW: np.ndarray, size_YX: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """Bilinear upsampling of float32 maps to (Y, X) pixels, the convention of `torch.nn.functional.interpolate`.

    Written as left + weight * (right - left), so that equal cells give exactly equal pixels: average precision counts
    ties, and a sum of two weighted products would break them by a rounding error.
    """
    top, bottom, down = _taps(maps_NMHW.shape[-2], size_YX[0], align_corners)
    left, _, across = _taps(maps_NMHW.shape[-1], size_YX[1], align_corners)
    upper = maps_NMHW[..., top, :]
    rows_NMYW = upper + down[:, None] * (maps_NMHW[..., bottom, :] - upper)
    slope_NMYW = np.zeros_like(rows_NMYW)  # from each cell to its right neighbour: cells are fewer than pixels
    np.subtract(rows_NMYW[..., 1:], rows_NMYW[..., :-1], out=slope_NMYW[..., :-1])
    pixels_NMYX = slope_NMYW.take(left, axis=-1)
    pixels_NMYX *= across
    pixels_NMYX += rows_NMYW.take(left, axis=-1)
    return pixels_NMYX


def overlaps(predicted_NMP: np.ndarray, truth_NSP: np.ndarray) -> np.ndarray:
    """Intersection over union of every binary map with every binary truth, (N, S, M); 0 where both are empty."""
    predicted = predicted_NMP.astype(np.float32)
    truth = truth_NSP.astype(np.float32)
    # counts of pixels are whole numbers below 2**24, so float32 products of matrices are exact
    both_NSM = (truth @ predicted.swapaxes(-1, -2)).astype(np.float64)
    predicted_N1M = predicted_NMP.sum(axis=-1, dtype=np.int64)[:, None, :]
    union_NSM = truth_NSP.sum(axis=-1, dtype=np.int64)[:, :, None] + predicted_N1M - both_NSM
    return both_NSM / np.where(union_NSM > 0, union_NSM, 1.0)


def _keys(scores: np.ndarray) -> np.ndarray:
    """Unsigned integers that sort as float32 scores do, highest score first."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # + 0 makes -0.0 equal to 0.0
    negative = bits >> 31 == 1
    return np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF))


def average_precision(scores_NMP: np.ndarray, truth_NSP: np.ndarray) -> np.ndarray:
    """Pixel-wise average precision of every map against every truth, (N, S, M); NaN where a truth has no pixel.

    Sum over distinct scores of precision times the step in recall, without interpolation (pixels of one score enter
    together, so a constant map scores the truth's share of the area). Each map is sorted once for all its truths:
    which truths a pixel belongs to travels in the low bits of its sorting key. ValueError for more than 32 truths.
    """
    n, m, p = scores_NMP.shape
    s = truth_NSP.shape[1]
    if s > 32:
        raise ValueError(f"average_precision: {s} truths for one map, at most 32 fit into a sorting key")
    labels_NP = np.zeros((n, p), np.uint64)
    for source in range(s):
        labels_NP |= truth_NSP[:, source].astype(np.uint64) << np.uint64(source)
    keys_NMP = _keys(scores_NMP).astype(np.uint64)
    keys_NMP <<= np.uint64(32)
    keys_NMP |= labels_NP[:, None, :]
    keys_NMP.sort(axis=-1)
    labels_R = keys_NMP.astype(np.uint32).ravel()
    keys_NMP >>= np.uint64(32)
    last_NMP = np.ones((n, m, p), bool)  # the last pixel of its score
    np.not_equal(keys_NMP[..., 1:], keys_NMP[..., :-1], out=last_NMP[..., :-1])
    last_R = last_NMP.ravel()
    ends = np.flatnonzero(last_R)
    result_NSM = np.empty((n, s, m))
    for source in range(s):
        positive = np.flatnonzero((labels_R & np.uint32(1 << source)).astype(bool))
        result_NSM[:, source] = _mean_precision(positive, last_R, ends, p).reshape(n, m)
    return result_NSM


def _mean_precision(positive: np.ndarray, last_R: np.ndarray, ends: np.ndarray, p: int) -> np.ndarray:
    """Mean over each sorted row's positive pixels of the precision at the last pixel that has the same score."""
    row = positive // p
    count = np.bincount(row, minlength=len(last_R) // p)
    first = np.cumsum(count) - count
    end, hits = positive.copy(), np.arange(1, len(positive) + 1)
    tied = np.flatnonzero(~last_R[positive])
    end[tied] = ends[np.searchsorted(ends, positive[tied])]
    hits[tied] = np.searchsorted(positive, end[tied], side="right")
    precision = (hits - first[row]) / (end - row * p + 1)
    total = np.bincount(row, weights=precision, minlength=len(count))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def success(iou_N: np.ndarray, threshold: float) -> np.ndarray:
    """1.0 where the IoU reaches the threshold, else 0.0; NaN stays NaN."""
    return np.where(np.isnan(iou_N), np.nan, (iou_N >= threshold - _TIE).astype(np.float64))


def area_under_success(iou_N: np.ndarray, points: int = 21) -> np.ndarray:
    """Each sample's area under its success over IoU thresholds 0 ... 1 (equal steps, trapezoid rule).

    The mean over samples is the AUC of the literature, floor included: with 21 points an IoU of 0 still gives 0.025,
    because everything succeeds at threshold 0.
    """
    passed_NT = np.stack([success(iou_N, step / (points - 1)) for step in range(points)], axis=-1)
    return (passed_NT.sum(axis=-1) - 0.5 * (passed_NT[:, 0] + passed_NT[:, -1])) / (points - 1)


def assign(gain_NSM: np.ndarray, second_NSM: np.ndarray) -> np.ndarray:
    """One joint pairing per scene: the map of each source, (N, S), -1 where no map is left for it.

    Maximises the total gain over the sources; pairings of equal total gain are told apart by the second gain, so that
    the order of the maps decides nothing that is scored. No map serves two sources; surplus maps stay unused.
    """
    n, s, m = gain_NSM.shape
    width = max(s, m)
    gain = np.zeros((n, s, width))
    second = np.zeros((n, s, width))
    gain[..., :m], second[..., :m] = gain_NSM, second_NSM
    if np.prod(np.arange(width - s + 1, width + 1, dtype=np.float64)) > _MOST_PAIRINGS:
        chosen = [linear_sum_assignment(g + _TIE * t, maximize=True)[1] for g, t in zip(gain, second, strict=True)]
        index_NS = np.array(chosen, np.int64).reshape(n, s)
    else:
        ways_WS = np.array(list(permutations(range(width), s)), np.int64)
        total_NW = sum(gain[:, source, ways_WS[:, source]] for source in range(s))
        extra_NW = sum(second[:, source, ways_WS[:, source]] for source in range(s))
        best_NW = total_NW >= np.max(total_NW, axis=1, keepdims=True) - _TIE
        index_NS = ways_WS[np.where(best_NW, extra_NW, -np.inf).argmax(axis=1)]
    return np.where(index_NS < m, index_NS, -1)


def peak_panels(maps_NMHW: np.ndarray, rects_P4: np.ndarray, canvas_YX: tuple[int, int]) -> np.ndarray:
    """The panel in which each map has its peak, (N, M), -1 where it names none; panels are x0, y0, x1, y1 in pixels.

    The peak is the highest cell of the raw map, and lies where the centre of that cell lies on the canvas. Cells that
    tie for the highest name their panel only if they all lie in it, so a constant map names no panel.
    """
    y = (np.arange(maps_NMHW.shape[-2]) + 0.5) * canvas_YX[0] / maps_NMHW.shape[-2]
    x = (np.arange(maps_NMHW.shape[-1]) + 0.5) * canvas_YX[1] / maps_NMHW.shape[-1]
    panel_HW = np.full(maps_NMHW.shape[-2:], -1, np.int64)
    for panel, (x0, y0, x1, y1) in enumerate(rects_P4):
        panel_HW[np.ix_((y0 <= y) & (y < y1), (x0 <= x) & (x < x1))] = panel
    peak_NMHW = maps_NMHW == maps_NMHW.max(axis=(-2, -1), keepdims=True)
    flat_NMP = peak_NMHW.reshape(*maps_NMHW.shape[:2], panel_HW.size)
    first_NM = panel_HW.ravel()[flat_NMP.argmax(axis=-1)]
    astray_NM = (peak_NMHW & (panel_HW != first_NM[..., None, None])).any(axis=(-2, -1))
    return np.where(astray_NM, -1, first_NM)


def sounding_chance(panels: int, sounding: int, maps: int, distinct: bool = False) -> float:
    """Sounding accuracy of maps whose peaks fall into panels blindly: exactly, not by simulation.

    Each peak falls into any panel with equal chance, independently of the others; with `distinct` the peaks fall into
    different panels, all choices being equally likely. Two maps, two of four panels: 1/8, distinct 1/6.
    """
    if distinct:
        return 1.0 / comb(panels, sounding) if maps == sounding else 0.0
    onto = sum((-1) ** i * comb(sounding, i) * (sounding - i) ** maps for i in range(sounding + 1))
    return onto / panels**maps


def bootstrap(
    values_NK: np.ndarray, cluster_N: np.ndarray, seed: int, resamples: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) of each column's mean, resampling whole clusters; NaN entries are absent.

    A cluster is the unit of independence (a video); with a single one there is no interval, and both ends are NaN.
    """
    clusters, cluster_N = np.unique(cluster_N, return_inverse=True)
    v, k = len(clusters), values_NK.shape[1]
    if v < 2:
        return np.full(k, np.nan), np.full(k, np.nan)
    there_NK = ~np.isnan(values_NK)
    sums_VK, counts_VK = np.zeros((v, k)), np.zeros((v, k))
    np.add.at(sums_VK, cluster_N, np.where(there_NK, values_NK, 0.0))
    np.add.at(counts_VK, cluster_N, there_NK)
    rng = np.random.default_rng(seed)
    means_RK = np.full((resamples, k), np.nan)
    step = max(1, 2_000_000 // v)
    for start in range(0, resamples, step):
        r = min(step, resamples - start)
        drawn = rng.integers(0, v, (r, v)) + v * np.arange(r)[:, None]
        weights_RV = np.bincount(drawn.ravel(), minlength=r * v).reshape(r, v).astype(np.float64)
        counts_RK = weights_RV @ counts_VK
        np.divide(weights_RV @ sums_VK, counts_RK, out=means_RK[start : start + r], where=counts_RK > 0)
    tail = 50.0 * (1.0 - level)
    filled_RK = np.where(there_NK.any(axis=0), means_RK, 0.0)  # a column without any entry has no interval either
    low_K, high_K = np.nanpercentile(filled_RK, [tail, 100.0 - tail], axis=0)
    empty_K = ~there_NK.any(axis=0)
    return np.where(empty_K, np.nan, low_K), np.where(empty_K, np.nan, high_K)
