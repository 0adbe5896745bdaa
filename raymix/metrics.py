"""Numbers on maps and masks: resizing, IoU, average precision, AUC, pairing of maps with sources, peaks, bootstrap.

The primitives under Section 4.2-4.4 of the paper (AP, IoU, AUC, CAP of Eq. 5, PIAP); which of them is used how is the
business of `raymix.protocol`. Everything is vectorised over scenes, gives the same numbers whatever the size of the
batch, and knows neither scenes nor models. Axes: N scenes, M maps, S sources, Y X pixels, P pixels in a row, H W cells.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import permutations
from math import comb

import numpy as np
from scipy.optimize import linear_sum_assignment

_TIE = 1e-9  # two sums of IoUs nearer than this are equal: sums of ratios of whole numbers, in floating point
_MOST_PAIRINGS = 840  # more pairings of maps with sources than this are not enumerated (7 maps for 4 sources are)


def unit_scale(maps_NMYX: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each map min-maxed to [0, 1] as float32, its lowest value and its range (N, M), 0 for a constant map."""
    # in float64, because high - low may overflow float32, and small differences on a large offset would vanish
    maps = maps_NMYX.astype(np.float64)
    low = maps.min(axis=(-2, -1), keepdims=True)
    spread = maps.max(axis=(-2, -1), keepdims=True) - low
    maps -= low
    maps /= np.where(spread > 0, spread, 1.0)
    return maps.astype(np.float32), low[..., 0, 0], spread[..., 0, 0]


def unit_range(maps_NMYX: np.ndarray) -> np.ndarray:
    """Min-max each map to [0, 1] as float32; a constant map becomes 0 everywhere, because it says nothing."""
    return unit_scale(maps_NMYX)[0]


def _taps(cells: int, pixels: int, align_corners: bool, cubic: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """For each of the pixels along one axis the cell to its left, and the weights of the steps between cells around it.

    A pixel is its left cell plus weighted steps: from that cell to its right neighbour, and under cubic convolution
    (a = -0.75) also from its left neighbour to it and from its right neighbour to the next. (3, pixels) in that order.
    """
    at = np.arange(pixels, dtype=np.float64)
    if align_corners:
        at *= (cells - 1) / max(pixels - 1, 1)
    else:
        at = (at + 0.5) * cells / pixels - 0.5
        at = at if cubic else np.clip(at, 0.0, None)
    left = np.minimum(np.floor(at).astype(np.int64), cells - 1)
    t = at - left
    if not cubic:
        return left, np.stack([t]).astype(np.float32)
    a = -0.75
    far_left, near = a * t * (t - 1) ** 2, ((a + 2) * t - (a + 3)) * t**2 + 1  # weights of the left three of four cells
    far_right = 1 - far_left - near - (((a + 2) * (1 - t) - (a + 3)) * (1 - t) ** 2 + 1)
    return left, np.stack([1 - far_left - near, -far_left, far_right]).astype(np.float32)


def _stretch(cells_RC: np.ndarray, pixels: int, align_corners: bool, cubic: bool) -> np.ndarray:
    """Each row of cells as a row of pixels, (R, pixels)."""
    count = cells_RC.shape[-1]
    left, weights = _taps(count, pixels, align_corners, cubic)
    padded = np.pad(cells_RC, ((0, 0), (2, 2)), mode="edge")  # a step beyond the edge is 0
    steps = np.diff(padded, axis=-1)  # steps[..., i + 2] leads from cell i to cell i + 1
    pixels_RX = steps.take(left + 2, axis=-1)
    pixels_RX *= weights[0]
    pixels_RX += padded.take(left + 2, axis=-1)
    for beside, weight in zip((1, 3), weights[1:], strict=False):
        pixels_RX += weight * steps.take(left + beside, axis=-1)
    return pixels_RX


def resize(
    maps_NMHW: np.ndarray, size_YX: tuple[int, int], align_corners: bool = False, cubic: bool = False
) -> np.ndarray:
    """Bilinear or bicubic upsampling of float32 maps to (Y, X), the conventions of `torch.nn.functional.interpolate`.

    Written as a cell plus weighted steps to its neighbours, so that equal cells give exactly equal pixels: average
    precision counts ties, and a sum of weighted cells would break them by a rounding error.
    """
    (*lead, h, w), (y, x) = maps_NMHW.shape, size_YX
    columns = _stretch(maps_NMHW.swapaxes(-1, -2).reshape(-1, h), y, align_corners, cubic)
    rows = columns.reshape(*lead, w, y).swapaxes(-1, -2).reshape(-1, w)
    return _stretch(rows, x, align_corners, cubic).reshape(*lead, y, x)


def overlaps(predicted_NMP: np.ndarray, truth_NSP: np.ndarray) -> np.ndarray:
    """Intersection over union of every binary map with every binary truth, (N, S, M); 0 where both are empty."""
    predicted = predicted_NMP.astype(np.float32)
    truth = truth_NSP.astype(np.float32)
    # counts of pixels are whole numbers below 2**24, so float32 products of matrices are exact
    both_NSM = (truth @ predicted.swapaxes(-1, -2)).astype(np.float64)
    predicted_N1M = predicted_NMP.sum(axis=-1, dtype=np.int64)[:, None, :]
    union_NSM = truth_NSP.sum(axis=-1, dtype=np.int64)[:, :, None] + predicted_N1M - both_NSM
    return both_NSM / np.where(union_NSM > 0, union_NSM, 1.0)


def sort_keys(scores: np.ndarray) -> np.ndarray:
    """Unsigned integers that sort as float32 scores do, highest score first."""
    bits = (scores.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32)  # + 0 makes -0.0 equal to 0.0
    if bits.size and int(bits.max()) >> 31 == 0:
        return bits ^ np.uint32(0x7FFFFFFF)
    negative = bits >> 31 == 1
    return np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF))


def sorted_pixels(scores_NMP: np.ndarray, labels_NP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each map's pixels from the highest score to the lowest: sort keys and labels, both uint32 (N, M, P).

    One sort of 64-bit integers, the label of a pixel travelling in the low half of its key.
    """
    both = np.empty((*scores_NMP.shape, 2), np.uint32)
    high, low = (1, 0) if sys.byteorder == "little" else (0, 1)
    both[..., high] = sort_keys(scores_NMP)
    both[..., low] = labels_NP[:, None, :]
    both.view(np.uint64)[..., 0].sort(axis=-1)
    return both[..., high], both[..., low]


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
    keys_NMP, labels_NMP = sorted_pixels(scores_NMP, bits_of(truth_NSP))
    keys_R, labels_R = keys_NMP.ravel(), labels_NMP.ravel()
    starts = np.arange(n * m + 1) * p
    last_R = last_of_ties(keys_R, starts)
    result_NSM = np.empty((n, s, m))
    for source in range(s):
        positive = np.flatnonzero((labels_R & np.uint32(1 << source)).astype(bool))
        result_NSM[:, source] = mean_precision(positive, last_R, starts).reshape(n, m)
    return result_NSM


def bits_of(truth_NSP: np.ndarray) -> np.ndarray:
    """Which truths each pixel belongs to, one bit each, (N, P)."""
    labels_NP = np.zeros((truth_NSP.shape[0], truth_NSP.shape[2]), np.uint32)
    for source in range(truth_NSP.shape[1]):
        labels_NP |= truth_NSP[:, source].astype(np.uint32) << np.uint32(source)
    return labels_NP


def last_of_ties(keys_R: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """True for the last pixel of each score in rows of sorted keys; row r is from starts[r] to starts[r + 1]."""
    last_R = np.ones(len(keys_R), bool)
    np.not_equal(keys_R[1:], keys_R[:-1], out=last_R[:-1])
    last_R[starts[1:][starts[1:] > 0] - 1] = True
    return last_R


def mean_precision(
    positive: np.ndarray, last_R: np.ndarray, starts: np.ndarray, running: np.ndarray | None = None
) -> np.ndarray:
    """Mean over each sorted row's positive pixels of the precision at the last pixel that has the same score.

    With `running`, the number of pixels before each place, precision is among those pixels only.
    """
    bounds = np.searchsorted(positive, starts)
    count, rows = np.diff(bounds), len(starts) - 1
    end, hits = positive, np.arange(1, len(positive) + 1)
    tied = np.flatnonzero(~last_R[positive])
    if len(tied):
        end, ends = positive.copy(), np.flatnonzero(last_R)
        end[tied] = ends[np.searchsorted(ends, positive[tied])]
        hits[tied] = np.searchsorted(positive, end[tied], side="right")
    first, before = starts[:-1], 1
    if running is not None:
        end, first, before = running[end + 1], running[first], 0
    precision = (hits - np.repeat(bounds[:-1], count)) / (end - np.repeat(first - before, count))
    total = np.bincount(np.repeat(np.arange(rows), count), weights=precision, minlength=rows)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def success(iou_N: np.ndarray, threshold: float | np.ndarray, strict: bool = False) -> np.ndarray:
    """1.0 where the IoU reaches (strict: exceeds) the threshold, else 0.0; NaN stays NaN."""
    passed_N = iou_N > threshold + _TIE if strict else iou_N >= threshold - _TIE
    return np.where(np.isnan(iou_N), np.nan, passed_N.astype(np.float64))


def area_under_success(iou_N: np.ndarray, points: int = 21) -> np.ndarray:
    """Each sample's area under its success over IoU thresholds 0 ... 1 (equal steps, trapezoid rule).

    The mean over samples is the AUC of the literature, floor included: with 21 points an IoU of 0 still gives 0.025,
    because everything succeeds at threshold 0.
    """
    passed_NT = success(iou_N[..., None], np.arange(points) / (points - 1))
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


def resamples_of(clusters: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn in each resample, (some of the resamples, clusters), until all were drawn."""
    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // clusters)
    for start in range(0, resamples, step):
        r = min(step, resamples - start)
        drawn = rng.integers(0, clusters, (r, clusters)) + clusters * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=r * clusters).reshape(r, clusters).astype(np.float64)


def interval(means_RK: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) of each column of resampled numbers; NaN where a column has none."""
    tail = 50.0 * (1.0 - level)
    empty_K = np.isnan(means_RK).all(axis=0)
    low_K, high_K = np.nanpercentile(np.where(empty_K, 0.0, means_RK), [tail, 100.0 - tail], axis=0)
    return np.where(empty_K, np.nan, low_K), np.where(empty_K, np.nan, high_K)


def bootstrap(
    values_NK: np.ndarray,
    cluster_N: np.ndarray,
    seed: int,
    resamples: int,
    level: float = 0.95,
    weights_NK: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) of each column's mean, resampling whole clusters; NaN entries are absent.

    A cluster is the unit of independence (a video); with a single one there is no interval, and both ends are NaN.
    Weights say how many rows of the mean an entry stands for; without them it is one.
    """
    clusters, cluster_N = np.unique(cluster_N, return_inverse=True)
    v, k = len(clusters), values_NK.shape[1]
    if v < 2:
        return np.full(k, np.nan), np.full(k, np.nan)
    there_NK = ~np.isnan(values_NK)
    counted_NK = there_NK.astype(np.float64) if weights_NK is None else np.where(there_NK, weights_NK, 0.0)
    sums_VK, counts_VK = np.zeros((v, k)), np.zeros((v, k))
    np.add.at(sums_VK, cluster_N, np.where(there_NK, values_NK, 0.0) * counted_NK)
    np.add.at(counts_VK, cluster_N, counted_NK)
    means_RK = np.full((resamples, k), np.nan)
    start = 0
    for weights_RV in resamples_of(v, seed, resamples):
        part, start = means_RK[start : start + len(weights_RV)], start + len(weights_RV)
        counts_RK = weights_RV @ counts_VK
        np.divide(weights_RV @ sums_VK, counts_RK, out=part, where=counts_RK > 0)
    return interval(means_RK, level)
