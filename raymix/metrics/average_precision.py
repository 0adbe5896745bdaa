"""Pixel-wise average precision, from one sort of each map: the AP of Section 4.4, and the AP in CAP (Eq. 5) and PIAP.

Pixels are sorted with the truths that they belong to, so that one sort serves all truths, and whoever needs counts above a
threshold beside it (`raymix.metrics.heatmaps`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from raymix.metrics.functional import cache_sized_slices


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
