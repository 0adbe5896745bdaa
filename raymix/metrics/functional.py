"""Metrics of heatmaps and masks: IoU and cIoU success rate, AUC, pixel-wise AP, sounding accuracy, resizing, assignment.

The definitions of sections 4.2 to 4.4 of the paper; `raymix.metrics.protocols` says which of them a protocol uses, and how.
All functions are vectorized over scenes and give the same numbers for any batch size. Axes: N scenes, M maps, S sources,
Y X pixels, P pixels in a row, H W cells.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise, permutations
from math import comb

import numpy as np
from scipy.optimize import linear_sum_assignment

_TIE = 1e-9  # two sums of IoUs nearer than this are equal: sums of ratios of whole numbers, in floating point

_BLOCK = 1 << 17  # pixels worked on at a time

_MOST_PAIRINGS = 840  # more pairings of maps with sources than this are not enumerated (7 maps for 4 sources are)


def minmax_scale(maps_NMYX: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each map min-maxed to [0, 1] as float32, its lowest value and its range (N, M), 0 for a constant map."""
    flat_RYX = maps_NMYX.reshape(-1, *maps_NMYX.shape[-2:])
    unit_RYX = np.empty(flat_RYX.shape, np.float32)
    low_R, spread_R = np.zeros(len(flat_RYX)), np.zeros(len(flat_RYX))
    held = np.empty((0, *flat_RYX.shape[1:]))
    for part in cache_sized_slices(*flat_RYX.shape[:2], flat_RYX.shape[2]):
        rows = flat_RYX[part]
        held = held if len(held) >= len(rows) else np.empty(rows.shape)
        # in float64, because high - low may overflow float32, and small differences on a large offset would vanish
        low = rows.min(axis=(-2, -1), keepdims=True).astype(np.float64)
        spread = rows.max(axis=(-2, -1), keepdims=True).astype(np.float64) - low
        maps = np.subtract(rows, low, out=held[: len(rows)])
        maps /= np.where(spread > 0, spread, 1.0)
        unit_RYX[part], low_R[part], spread_R[part] = maps, low[:, 0, 0], spread[:, 0, 0]
    lead = maps_NMYX.shape[:-2]
    return unit_RYX.reshape(maps_NMYX.shape), low_R.reshape(lead), spread_R.reshape(lead)


def cache_sized_slices(rows: int, *size: int) -> Iterator[slice]:
    """Slices of so many rows that what is made of them stays in the processor's cache; it changes no number."""
    step = max(1, _BLOCK // max(1, int(np.prod(size))))
    return (slice(start, start + step) for start in range(0, rows, step))


def minmax_normalize(maps_NMYX: np.ndarray) -> np.ndarray:
    """Min-max each map to [0, 1] as float32; a constant map becomes 0 everywhere."""
    return minmax_scale(maps_NMYX)[0]


@lru_cache(maxsize=16)
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


def _stretch(cells_RC: np.ndarray, taps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Each row of cells as a row of pixels, (R, pixels)."""
    left, weights = taps
    padded = np.pad(cells_RC, ((0, 0), (2, 2)), mode="edge")  # a step beyond the edge is 0
    steps = np.diff(padded, axis=-1)  # steps[..., i + 2] leads from cell i to cell i + 1
    pixels_RX = steps.take(left + 2, axis=-1)
    pixels_RX *= weights[0]
    pixels_RX += padded.take(left + 2, axis=-1)
    for beside, weight in zip((1, 3), weights[1:], strict=False):
        step_RX = steps.take(left + beside, axis=-1)
        step_RX *= weight
        pixels_RX += step_RX
    return pixels_RX


def resize_maps(
    maps_NMHW: np.ndarray, size_YX: tuple[int, int], align_corners: bool = False, cubic: bool = False
) -> np.ndarray:
    """Bilinear or bicubic upsampling of float32 maps to (Y, X), the conventions of `torch.nn.functional.interpolate`.

    Written as a cell plus weighted steps to its neighbours, so that equal cells give exactly equal pixels: average
    precision counts ties, and a sum of weighted cells would break them by a rounding error.
    """
    (*lead, h, w), (y, x) = maps_NMHW.shape, size_YX
    down, across = (_taps(cells, pixels, align_corners, cubic) for cells, pixels in ((h, y), (w, x)))
    flat_RHW = maps_NMHW.reshape(-1, h, w)
    found_RYX = np.empty((len(flat_RHW), y, x), np.float32)
    for part in cache_sized_slices(len(flat_RHW), y, x):
        columns = _stretch(flat_RHW[part].swapaxes(-1, -2).reshape(-1, h), down)
        rows = columns.reshape(-1, w, y).swapaxes(-1, -2).reshape(-1, w)
        found_RYX[part] = _stretch(rows, across).reshape(-1, y, x)
    return found_RYX.reshape(*lead, y, x)


def pairwise_iou(predicted_NMP: np.ndarray, truth_NSP: np.ndarray) -> np.ndarray:
    """Intersection over union of every binary map with every binary truth, (N, S, M); 0 where both are empty."""
    predicted = predicted_NMP.astype(np.float32)
    truth = truth_NSP.astype(np.float32)
    # counts of pixels are whole numbers below 2**24, so float32 products of matrices are exact
    both_NSM = (truth @ predicted.swapaxes(-1, -2)).astype(np.float64)
    predicted_N1M = predicted_NMP.sum(axis=-1, dtype=np.int64)[:, None, :]
    union_NSM = truth_NSP.sum(axis=-1, dtype=np.int64)[:, :, None] + predicted_N1M - both_NSM
    return both_NSM / np.where(union_NSM > 0, union_NSM, 1.0)


def success_rate(iou_N: np.ndarray, threshold: float | np.ndarray, strict: bool = False) -> np.ndarray:
    """1.0 where the IoU reaches (strict: exceeds) the threshold, else 0.0; NaN stays NaN."""
    passed_N = iou_N > threshold + _TIE if strict else iou_N >= threshold - _TIE
    return np.where(np.isnan(iou_N), np.nan, passed_N.astype(np.float64))


def success_auc(iou_N: np.ndarray, points: int = 21) -> np.ndarray:
    """Each sample's area under its success over IoU thresholds 0 ... 1 (equal steps, trapezoid rule).

    The mean over samples is the AUC of the literature, floor included: with 21 points an IoU of 0 still gives 0.025,
    because everything succeeds at threshold 0.
    """
    passed_NT = success_rate(iou_N[..., None], np.arange(points) / (points - 1))
    return (passed_NT.sum(axis=-1) - 0.5 * (passed_NT[:, 0] + passed_NT[:, -1])) / (points - 1)


def assign_maps_to_sources(gain_NSM: np.ndarray, second_NSM: np.ndarray) -> np.ndarray:
    """One joint pairing per scene: the map of each source, (N, S), -1 where no map is left for it.

    Maximises the total gain over the sources; ties are broken by the second gain, so that
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

    The peak is the highest cell of the raw map, at the centre of that cell on the canvas. Cells that
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


def chance_sounding_accuracy(panels: int, sounding: int, maps: int, distinct: bool = False) -> float:
    """Sounding accuracy of maps whose peaks fall into panels blindly: exactly, not by simulation.

    Each peak falls into any panel with equal chance, independently of the others; with `distinct` the peaks fall into
    different panels, all choices being equally likely. Two maps, two of four panels: 1/8, distinct 1/6.
    """
    if distinct:
        return 1.0 / comb(panels, sounding) if maps == sounding else 0.0
    onto = sum((-1) ** i * comb(sounding, i) * (sounding - i) ** maps for i in range(sounding + 1))
    return onto / panels**maps


def sort_keys(scores: np.ndarray) -> np.ndarray:
    """Unsigned integers that sort as float32 scores do, highest score first."""
    bits = (scores.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32)  # + 0 makes -0.0 equal to 0.0
    if bits.size and int(bits.max()) >> 31 == 0:
        return bits ^ np.uint32(0x7FFFFFFF)
    negative = bits >> 31 == 1
    return np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF))


def sorted_pixels(
    scores_NMP: np.ndarray, labels_NP: np.ndarray, into: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Each map's pixels from the highest score to the lowest: sort keys (uint32) and labels, (N M, P).

    One sort of 64-bit integers, the label of a pixel travelling in the low half of its key. `into`: where they are
    written, labels as `labels_NP` has them.
    """
    (n, m, p), high, low = scores_NMP.shape, *((1, 0) if sys.byteorder == "little" else (0, 1))
    scores_RP = scores_NMP.reshape(n * m, p)
    keys_RP, sorted_RP = into or (np.empty((n * m, p), np.uint32), np.empty((n * m, p), labels_NP.dtype))
    held = np.empty((0, p, 2), np.uint32)
    for part in cache_sized_slices(n * m, p):
        rows = scores_RP[part]
        held = held if len(held) >= len(rows) else np.empty((len(rows), p, 2), np.uint32)
        both = held[: len(rows)]
        both[..., high] = sort_keys(rows)
        both[..., low] = labels_NP[np.arange(n * m)[part] // m]
        both.view(np.uint64)[..., 0].sort(axis=-1)
        keys_RP[part], sorted_RP[part] = both[..., high], both[..., low]
    return keys_RP, sorted_RP


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
    keys_RP, labels_RP = sorted_pixels(scores_NMP, pack_truth_bits(truth_NSP))
    keys, labels, starts = keys_RP.ravel(), labels_RP.ravel(), np.arange(n * m + 1) * p
    result_NSM = np.empty((n, s, m))
    for source in range(s):
        positive = np.flatnonzero((labels & labels.dtype.type(1 << source)).astype(bool))
        result_NSM[:, source] = mean_precision_of_sorted(positive, keys, starts).reshape(n, m)
    return result_NSM


def pack_truth_bits(truth_NSP: np.ndarray) -> np.ndarray:
    """Which truths each pixel belongs to, one bit each, (N, P), in as few bytes as hold them."""
    n, s, p = truth_NSP.shape
    labels_NP = np.zeros((n, p), np.uint8 if s <= 8 else np.uint32)
    for scene, source in np.ndindex(n, s):  # one after the other, so that they stay in the processor's cache
        labels_NP[scene] |= truth_NSP[scene, source].astype(labels_NP.dtype) << source
    return labels_NP


def mean_precision_of_sorted(
    positive: np.ndarray,
    keys: np.ndarray,
    starts: np.ndarray,
    counted: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Mean over each sorted row's positive pixels of the precision at the last pixel that has the same score.

    Row r of the sort keys is from starts[r] to starts[r + 1]; `positive` are ascending places in all rows together. With
    `counted`, how many pixels count before each place, precision is among those pixels only. NaN for a row without any.
    """
    bounds = np.searchsorted(positive, starts).tolist()
    number = np.arange(1, max(np.diff(bounds), default=0) + 1)
    result_R = np.full(len(starts) - 1, np.nan)
    for row, ((a, b), (start, stop)) in enumerate(zip(pairwise(bounds), pairwise(starts.tolist()), strict=True)):
        if a == b:
            continue
        end, hits = positive[a:b], number[: b - a]
        own = keys[end]
        tied = np.flatnonzero(keys[np.minimum(end + 1, stop - 1)] == own)
        if len(tied):
            end, hits = end.copy(), hits.copy()
            end[tied] = start + keys[start:stop].searchsorted(own[tied], side="right") - 1
            hits[tied] = positive[a:b].searchsorted(end[tied], side="right")
        before = end + (1 - start) if counted is None else counted(end + 1) - counted(np.array(start))
        # one after the other, so that no sum moves by a bit with the rows beside it
        result_R[row] = np.cumsum(hits / before)[-1] / (b - a)
    return result_R
