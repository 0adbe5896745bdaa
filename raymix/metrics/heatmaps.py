"""Heat maps on the canvas: upsampling, normalization, combination, sorted pixels and thresholds, shared by all protocols.

A map is sorted once. After that a threshold is a place in its row, so any number of thresholds and of truths costs a
binary search each; min-max and any other increasing normalisation only moves the threshold. A panel is not sorted again:
a running count of its pixels along the row of the whole canvas says the same.

Every normalisation of a protocol is increasing, so a surface keeps its own float32 scale, [0, 1], and a protocol's
threshold is carried onto it; what changes the order of pixels (upsampling, combining maps) makes another surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from raymix.metrics.functional import (
    cache_sized_slices,
    mean_precision_of_sorted,
    minmax_scale,
    resize_maps,
    sort_keys,
    sorted_pixels,
)
from raymix.metrics.protocols import EvaluationProtocol

EmptyArrayFunction = Callable[[str, tuple[int, ...], type[np.generic]], np.ndarray]
"""An array to be written on, by what it is for, its shape and its type."""


class BufferPool:
    """Arrays by owner and use; an array that is requested again replaces the one given out before."""

    def __init__(self) -> None:
        self._held: dict[tuple[Any, str], np.ndarray] = {}

    def of(self, owner: object) -> EmptyArrayFunction:
        """The arrays of one owner, a kind of surface."""
        return partial(self._empty, owner)

    def _empty(self, owner: object, use: str, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
        held = self._held.get((owner, use))
        if held is None or held.size < prod(shape) or held.dtype != kind:
            held = self._held[owner, use] = np.empty(prod(shape), kind)
        return held[: prod(shape)].reshape(shape)


_BLOCK = 1 << 17  # labels counted at a time, a multiple of eight


class SortedPixels:
    """R rows of pixels from the highest score to the lowest, with the labels that they carry, one bit for each truth.

    Counts are of the pixels within one panel where `within` made it, else of all.
    """

    def __init__(
        self,
        keys: np.ndarray,
        labels: np.ndarray,
        starts: np.ndarray,
        union: int,
        empty: EmptyArrayFunction,
        whole: SortedPixels | None = None,
        panel: int = 0,
    ) -> None:
        self._keys, self._labels, self._starts, self._union = keys, labels, starts, union
        self._empty = empty
        self._whole, self._panel = whole, panel
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._precision: dict[int, np.ndarray] = {}

    @staticmethod
    def of(scores_NMP: np.ndarray, labels_NP: np.ndarray, union: int, empty: EmptyArrayFunction) -> SortedPixels:
        """Sort each map's pixels: a row for each map of each scene, R = N M; `union` are the bits of all truths."""
        n, m, p = scores_NMP.shape
        into = empty("keys", (n * m, p), np.uint32), empty("labels", (n * m, p), labels_NP.dtype.type)
        keys_RP, labels_RP = sorted_pixels(scores_NMP, labels_NP, into)
        return SortedPixels(keys_RP.ravel(), labels_RP.ravel(), np.arange(n * m + 1) * p, union, empty)

    def within(self, bit: int) -> SortedPixels:
        """The same rows, where only the pixels that carry this bit count."""
        return SortedPixels(self._keys, self._labels, self._starts, self._union, self._empty, self, 1 << bit)

    @cached_property
    def size_R(self) -> np.ndarray:
        """Pixels of each row that count."""
        return self._counted(self._starts[1:], self._starts[:-1])

    @property
    def highest_R(self) -> np.ndarray:
        """The highest score of each row, 0 where it has no pixel."""
        return self.score_at(np.zeros(len(self._starts) - 1, np.int64))

    @property
    def lowest_R(self) -> np.ndarray:
        """The lowest score of each row, 0 where it has no pixel."""
        return self.score_at(self.size_R - 1)

    def area(self, truth: int) -> np.ndarray:
        """Pixels of each row that carry any of the bits of `truth`, (R,)."""
        return np.diff(self._positive(truth)[1])

    def average_precision(self, truth: int) -> np.ndarray:
        """AP of each row against the pixels that carry any of these bits, (R,); NaN where there are none."""
        if truth not in self._precision:
            place = self._positive(truth)[0]
            self._precision[truth] = mean_precision_of_sorted(place, self._keys, self._starts, self._running)
        return self._precision[truth]

    def score_at(self, rank_R: np.ndarray) -> np.ndarray:
        """The score of rank 0 (the highest) and so on of each row, (R,); of the nearest rank that exists."""
        rank_R = np.clip(rank_R, 0, np.maximum(self.size_R - 1, 0))
        if not len(self._keys):
            return np.zeros(len(rank_R), np.float32)
        place_R = self._starts[:-1] + rank_R
        if self._running is not None:
            place_R = self._running.place(self._running(self._starts[:-1]) + rank_R)
        return np.where(self.size_R > 0, _scores(self._keys[np.minimum(place_R, len(self._keys) - 1)]), np.float32(0))

    def top_mean(self, share: float) -> np.ndarray:
        """Mean of the highest scores of each whole row, this share of its pixels and at least one, (R,) in float64."""
        size_R = np.diff(self._starts)
        ends_R = self._starts[:-1] + np.maximum(np.ceil(size_R * share).astype(np.int64), 1)
        rows = zip(self._starts, ends_R, strict=False)
        return np.array([_scores(self._keys[a:b]).mean(dtype=np.float64) for a, b in rows]).reshape(len(size_R))

    def counts(self, truth: int, score_RT: np.ndarray, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """How many pixels reach (strict: exceed) each float32 threshold, and how many of those are in `truth`, (R, T)."""
        keys_RT, side = sort_keys(score_RT), "left" if strict else "right"
        spans = zip(self._starts, self._starts[1:], keys_RT, strict=False)
        found = [a + self._keys[a:b].searchsorted(keys_T, side=side) for a, b, keys_T in spans]  # type: ignore[call-overload]
        end_RT = np.array(found, np.int64).reshape(score_RT.shape)
        place, bounds = self._positive(truth)
        hits_RT = place.searchsorted(end_RT.ravel()).reshape(end_RT.shape) - bounds[:-1, None]
        return self._counted(end_RT, self._starts[:-1, None]), hits_RT

    def _counted(self, end: np.ndarray, start: np.ndarray) -> np.ndarray:
        """How many pixels count between two places of all rows together."""
        return end - start if self._running is None else self._running(end) - self._running(start)

    @cached_property
    def _running(self) -> _Running | None:
        """Counts the pixels of the panel; None where all pixels count."""
        if self._whole is None:
            return None
        return _Running(self._labels, self._panel, self._empty)

    def _positive(self, truth: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the pixels with any of these bits that count, ascending, and where each row's begin among them."""
        if truth not in self._found:
            kind, whole = self._labels.dtype.type, self._whole
            if whole is not None:
                place = whole._positive(truth)[0]
                place = place[(self._labels[place] & kind(self._panel)).astype(bool)]
            else:  # the pixels of all truths are found once, and those of each among them
                place, bits = self._labelled
                place = place if truth == self._union else place[(bits & kind(truth)).astype(bool)]
            self._found[truth] = place, place.searchsorted(self._starts)
        return self._found[truth]

    @cached_property
    def _labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the pixels that are in any truth, ascending, and the bits that they carry."""
        labels, union = self._labels, self._labels.dtype.type(self._union)
        spans = pairwise(self._starts.tolist())  # row by row, and as bool: a long way faster
        parts = [a + np.flatnonzero((labels[a:b] & union).astype(bool)) for a, b in spans]
        place = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return place, labels[place]


class _Running:
    """How many labels carry a bit before any place, in an eighth of a byte a label and a sum every eight."""

    _ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
    _HEAD = np.array([0xFF00 >> bits & 0xFF for bits in range(8)], np.uint8)

    def __init__(self, labels: np.ndarray, bit: int, empty: EmptyArrayFunction) -> None:
        words = len(labels) // 8 + 1
        self._bytes, self._before = (
            empty(f"{use} {bit}", (words + more,), kind)
            for use, more, kind in (("bits", 0, np.uint8), ("counts", 1, np.int64))
        )
        self._before[0] = 0
        flags = np.zeros(_BLOCK, bool)
        for start in range(0, 8 * words, _BLOCK):  # in pieces that stay in the processor's cache
            part = labels[start : start + _BLOCK]
            flags[: len(part)], flags[len(part) :] = part & labels.dtype.type(bit), False
            place = slice(start // 8, min(start + _BLOCK, 8 * words) // 8)
            count = place.stop - place.start
            self._bytes[place] = np.packbits(flags)[:count]
            # the top byte of this product is the sum of all eight bytes
            self._before[1:][place] = (flags.view(np.uint64) * np.uint64(0x0101010101010101) >> np.uint64(56))[:count]
        np.cumsum(self._before, out=self._before)

    def __call__(self, place: np.ndarray) -> np.ndarray:
        byte = place >> 3
        return self._before[byte] + self._ONES[self._bytes[byte] & self._HEAD[place & 7]]

    def place(self, number: np.ndarray) -> np.ndarray:
        """The place of the flag before which so many are set."""
        byte = self._before.searchsorted(number, side="right") - 1
        up_to = self(8 * np.minimum(byte, len(self._bytes) - 2)[:, None] + np.arange(1, 9))
        return 8 * byte + (up_to > number[:, None]).argmax(axis=1)


class UnsortedPixels:
    """The same counts without sorting the maps, for protocols that cut each map once at a value."""

    def __init__(self, scores_NMP: np.ndarray, labels_NP: np.ndarray) -> None:
        self._scores_NMP, self._labels_NP = scores_NMP, labels_NP
        n, m, p = scores_NMP.shape
        self.size_R = np.full(n * m, p)

    @property
    def highest_R(self) -> np.ndarray:
        """The highest score of each row."""
        return self._scores_NMP.max(axis=-1).ravel()

    @property
    def lowest_R(self) -> np.ndarray:
        """The lowest score of each row."""
        return self._scores_NMP.min(axis=-1).ravel()

    def area(self, truth: int) -> np.ndarray:
        """Pixels of each row that carry any of the bits of `truth`, (R,)."""
        return np.repeat(np.count_nonzero(self._inside(truth), axis=-1), self._scores_NMP.shape[1])

    def counts(self, truth: int, score_R1: np.ndarray, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """How many pixels reach (strict: exceed) a float32 threshold, and how many of those are in `truth`, (R, 1)."""
        at_NM1 = score_R1.reshape(*self._scores_NMP.shape[:2], 1)
        predicted_NMP = self._scores_NMP > at_NM1 if strict else self._scores_NMP >= at_NM1
        hit_NMP = predicted_NMP & self._inside(truth)[:, None, :]
        return tuple(np.count_nonzero(each, axis=-1).reshape(-1, 1) for each in (predicted_NMP, hit_NMP))

    def _inside(self, truth: int) -> np.ndarray:
        return (self._labels_NP & self._labels_NP.dtype.type(truth)).astype(bool)


def _scores(keys: np.ndarray) -> np.ndarray:
    """The float32 scores of sort keys."""
    negative = keys >> 31 == 1
    return np.where(negative, keys, ~keys & np.uint32(0x7FFFFFFF)).astype(np.uint32).view(np.float32)


class NormalizationScale(NamedTuple):
    """How values become normalised scores: `(span * value + offset) / range`, and 0 where the range is not positive."""

    span: np.ndarray
    offset: np.ndarray
    range: np.ndarray

    def of(self, value: np.ndarray) -> np.ndarray:
        """The normalised scores of values, in float64."""
        score = (self.span * value + self.offset) / np.where(self.range > 0, self.range, 1.0)
        return np.where(self.range > 0, score, 0.0)

    def onto(self, wanted_RT: np.ndarray, strict: bool = False) -> np.ndarray:
        """Thresholds on normalised scores as thresholds on values, float64 (R, T); all of `self` is (R,)."""
        span_R1, offset_R1, range_R1 = (each[:, None] for each in self)
        varies_R1 = (span_R1 > 0) & (range_R1 > 0)
        everywhere_R1 = self.of(np.zeros(len(self.span)))[:, None]  # the score of a map that does not vary
        reached_RT = everywhere_R1 > wanted_RT if strict else everywhere_R1 >= wanted_RT
        on_RT = (wanted_RT * range_R1 - offset_R1) / np.where(varies_R1, span_R1, 1.0)
        return np.where(varies_R1, on_RT, np.where(reached_RT, -np.inf, np.inf))


@dataclass(frozen=True)
class CanvasMaps:
    """Maps of N scenes on the canvas: a raw score is `base + span * value`, with `span` 0 where a map is constant."""

    value_NMP: np.ndarray  # float32; 0 everywhere where there is no map
    base_NM: np.ndarray
    span_NM: np.ndarray
    there_NM: np.ndarray
    labels_NP: np.ndarray
    union: int  # the bits of all truths among the labels
    empty: EmptyArrayFunction  # where its pixels are sorted
    binary: bool = False  # predictions, not scores
    _panels: dict[int, SortedPixels] = field(default_factory=dict)

    @property
    def plain(self) -> SortedPixels | UnsortedPixels:
        """All pixels of all maps, sorted only if another metric needs them sorted."""
        return self.order if "order" in self.__dict__ else UnsortedPixels(self.value_NMP, self.labels_NP)

    @cached_property
    def order(self) -> SortedPixels:
        """All pixels of all maps, sorted; row r is map r % M of scene r // M."""
        return SortedPixels.of(self.value_NMP, self.labels_NP, self.union, self.empty)

    def panel(self, bit: int) -> SortedPixels:
        """The same where only the pixels that carry this bit count."""
        if bit not in self._panels:
            self._panels[bit] = self.order.within(bit)
        return self._panels[bit]

    def scale(self, order: SortedPixels | UnsortedPixels, protocol: EvaluationProtocol) -> NormalizationScale:
        """How a protocol normalises each row of pixels, all (R,)."""
        if self.binary:
            rows = self.base_NM.size
            return NormalizationScale(np.ones(rows), np.zeros(rows), np.ones(rows))
        low_NM = order.lowest_R.astype(np.float64).reshape(self.base_NM.shape)
        high_NM = order.highest_R.astype(np.float64).reshape(self.base_NM.shape)
        return NormalizationScale(*(each.ravel() for each in _normalising(self, protocol, low_NM, high_NM)))


def _normalising(
    surface: CanvasMaps, protocol: EvaluationProtocol, low_NM: np.ndarray, high_NM: np.ndarray
) -> NormalizationScale:
    """How a protocol normalises maps whose values go from low to high, all (N, M)."""
    base_NM, span_NM, one_NM = surface.base_NM, surface.span_NM, np.ones_like(surface.base_NM)
    if protocol.normalise == "none":
        return NormalizationScale(span_NM, base_NM, one_NM)
    if protocol.normalise == "affine":
        low, high = protocol.affine
        return NormalizationScale(span_NM, base_NM - low, one_NM * (high - low))
    if protocol.normalise == "minmax_map":  # in values, which are exact
        return NormalizationScale(one_NM, -low_NM, high_NM - low_NM)
    raw_low_NM, raw_high_NM = base_NM + span_NM * low_NM, base_NM + span_NM * high_NM
    if protocol.normalise == "max_map":
        return NormalizationScale(span_NM, base_NM, raw_high_NM)
    lowest_N1 = np.where(surface.there_NM, raw_low_NM, np.inf).min(axis=1, keepdims=True)
    lowest_N1 = np.where(np.isfinite(lowest_N1), lowest_N1, 0.0)
    highest_N1 = np.where(surface.there_NM, raw_high_NM, -np.inf).max(axis=1, keepdims=True)
    return NormalizationScale(span_NM, base_NM - lowest_N1, one_NM * (highest_N1 - lowest_N1))


def upsample_maps(
    maps_NMHW: np.ndarray,
    there_NM: np.ndarray,
    labels: tuple[np.ndarray, int],
    canvas_YX: tuple[int, int],
    protocol: EvaluationProtocol,
    empty: EmptyArrayFunction,
) -> CanvasMaps:
    """Raw maps on the canvas, min-maxed there to [0, 1]; maps of type bool as they are."""
    (n, m), p = maps_NMHW.shape[:2], canvas_YX[0] * canvas_YX[1]
    if maps_NMHW.dtype == bool:
        flat = maps_NMHW.reshape(n, m, p).astype(np.float32)
        return CanvasMaps(flat, np.zeros((n, m)), np.ones((n, m)), there_NM, *labels, empty, binary=True)
    # normalised before upsampling too (which changes no min-max score), so that float32 holds any range of values
    cells, low_NM, range_NM = minmax_scale(maps_NMHW)
    flat_RHW = cells.reshape(n * m, *cells.shape[2:])
    value_RP, base_R, span_R = empty("value", (n * m, p), np.float32), np.zeros(n * m), np.zeros(n * m)
    for part in cache_sized_slices(n * m, p):
        pixels = resize_maps(flat_RHW[part], canvas_YX, protocol.align_corners, protocol.upsample == "bicubic")
        unit, base_R[part], span_R[part] = minmax_scale(pixels)
        value_RP[part] = unit.reshape(-1, p)
    base_NM, span_NM = low_NM + range_NM * base_R.reshape(n, m), range_NM * span_R.reshape(n, m)
    return CanvasMaps(value_RP.reshape(n, m, p), base_NM, span_NM, there_NM, *labels, empty)


def combine_maps(
    surface: CanvasMaps, protocol: EvaluationProtocol, again: bool, empty: EmptyArrayFunction
) -> CanvasMaps:
    """One map of all maps of a scene: the mean or maximum of the normalised ones; `again`: min-maxed once more.

    Under "none" and "affine" raw maps are combined, because those normalise the combination too. A scene's only map
    stays as it is, so that it does not depend on how many maps the scenes beside it have.
    """
    n, m, p = surface.value_NMP.shape
    if m == 1:
        return surface
    value, there_NM = _normalised(surface, protocol), surface.there_NM
    some_N1, only_N = np.asarray(there_NM.any(axis=1, keepdims=True)), there_NM.sum(axis=1) == 1
    one, count_N = empty("value", (n, 1, p), np.float32), np.maximum(there_NM.sum(axis=1), 1).astype(np.float32)
    for part in cache_sized_slices(n, m, p):
        if protocol.combine == "max":
            there_NM1 = there_NM[part, :, None]
            some = value[part] if there_NM1.all() else np.where(there_NM1, value[part], np.float32(-np.inf))
            some.max(axis=1, keepdims=True, out=one[part])
        else:
            value[part].sum(axis=1, keepdims=True, dtype=np.float32, out=one[part])
            one[part] /= count_N[part, None, None]
    one[~some_N1] = 0
    base_N1, span_N1 = np.zeros((n, 1)), np.ones((n, 1))
    if again and not surface.binary:
        unit, base_N1, span_N1 = minmax_scale(one[:, :, None])
        one = unit.reshape(n, 1, p)
    one[only_N] = surface.value_NMP[only_N, :1]
    base_N1[only_N], span_N1[only_N] = surface.base_NM[only_N, :1], surface.span_NM[only_N, :1]
    return CanvasMaps(one, base_N1, span_N1, some_N1, surface.labels_NP, surface.union, empty, surface.binary)


def _normalised(surface: CanvasMaps, protocol: EvaluationProtocol) -> np.ndarray:
    """What is combined: each map as the protocol normalises it, 0 everywhere where there is none."""
    if surface.binary or protocol.normalise == "minmax_map":
        return surface.value_NMP
    scale = NormalizationScale(surface.span_NM, surface.base_NM, np.ones_like(surface.base_NM))
    if protocol.normalise not in ("none", "affine"):
        high_NM = (surface.span_NM > 0).astype(np.float64)
        scale = _normalising(surface, protocol, np.zeros_like(high_NM), high_NM)
    value = NormalizationScale(*(each[..., None] for each in scale)).of(surface.value_NMP).astype(np.float32)
    return np.where(surface.there_NM[..., None], value, np.float32(0))


def needs_sorted_pixels(protocol: EvaluationProtocol) -> bool:
    """Whether a protocol needs pixels sorted: it does not if it cuts each map once, at a value."""
    cuts = protocol.binarise in ("absolute", "fraction_of_max") and not protocol.adaptive
    return not cuts or protocol.scope == "panel" or protocol.ap not in ("binary", "swapped")


def map_threshold(
    surface: CanvasMaps, order: SortedPixels | UnsortedPixels, truth: int, protocol: EvaluationProtocol, binarise: str
) -> np.ndarray:
    """The value at which a map is cut, float32 (R, 1); `truth` are the bits whose area is meant by "truth_area"."""
    size_R, rows = order.size_R, len(order.size_R)
    if surface.binary:
        return np.full((rows, 1), np.float32(0.5))
    if isinstance(order, SortedPixels) and binarise == "quantile":
        return order.score_at(size_R - 1 - np.floor(protocol.threshold * size_R).astype(np.int64))[:, None]
    if isinstance(order, SortedPixels) and binarise == "truth_area":
        return order.score_at(order.area(truth) - 1)[:, None]
    scale, wanted_R = surface.scale(order, protocol), np.full(rows, protocol.threshold)
    if binarise == "fraction_of_max":
        wanted_R *= scale.of(order.highest_R.astype(np.float64))
    with np.errstate(over="ignore"):
        return scale.onto(wanted_R[:, None], protocol.threshold_strict).astype(np.float32)
