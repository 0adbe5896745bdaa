"""Maps on the canvas, each made once however many protocols read it: upsampled, combined, and where thresholds lie.

Every normalisation of a protocol is increasing, so a surface keeps its own float32 scale, [0, 1], and a protocol's
threshold is carried onto it; what changes the order of pixels (upsampling, combining maps) makes another surface.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from raymix.metrics import blocks, resize, unit_scale
from raymix.protocol import Protocol
from raymix.scoring.order import Order, Plain
from raymix.scoring.sheets import Empty


class Scale(NamedTuple):
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
class Surface:
    """Maps of N scenes on the canvas: a raw score is `base + span * value`, with `span` 0 where a map is constant."""

    value_NMP: np.ndarray  # float32; 0 everywhere where there is no map
    base_NM: np.ndarray
    span_NM: np.ndarray
    there_NM: np.ndarray
    labels_NP: np.ndarray
    union: int  # the bits of all truths among the labels
    empty: Empty  # where its pixels are sorted
    binary: bool = False  # predictions, not scores
    _panels: dict[int, Order] = field(default_factory=dict)

    @property
    def plain(self) -> Order | Plain:
        """All pixels of all maps, sorted only if somebody else needs them sorted."""
        return self.order if "order" in self.__dict__ else Plain(self.value_NMP, self.labels_NP)

    @cached_property
    def order(self) -> Order:
        """All pixels of all maps, sorted; row r is map r % M of scene r // M."""
        return Order.of(self.value_NMP, self.labels_NP, self.union, self.empty)

    def panel(self, bit: int) -> Order:
        """The same where only the pixels that carry this bit count."""
        if bit not in self._panels:
            self._panels[bit] = self.order.within(bit)
        return self._panels[bit]

    def scale(self, order: Order | Plain, protocol: Protocol) -> Scale:
        """How a protocol normalises each row of pixels, all (R,)."""
        if self.binary:
            rows = self.base_NM.size
            return Scale(np.ones(rows), np.zeros(rows), np.ones(rows))
        low_NM = order.lowest_R.astype(np.float64).reshape(self.base_NM.shape)
        high_NM = order.highest_R.astype(np.float64).reshape(self.base_NM.shape)
        return Scale(*(each.ravel() for each in _normalising(self, protocol, low_NM, high_NM)))


def _normalising(surface: Surface, protocol: Protocol, low_NM: np.ndarray, high_NM: np.ndarray) -> Scale:
    """How a protocol normalises maps whose values go from low to high, all (N, M)."""
    base_NM, span_NM, one_NM = surface.base_NM, surface.span_NM, np.ones_like(surface.base_NM)
    if protocol.normalise == "none":
        return Scale(span_NM, base_NM, one_NM)
    if protocol.normalise == "affine":
        low, high = protocol.affine
        return Scale(span_NM, base_NM - low, one_NM * (high - low))
    if protocol.normalise == "minmax_map":  # in values, which are exact
        return Scale(one_NM, -low_NM, high_NM - low_NM)
    raw_low_NM, raw_high_NM = base_NM + span_NM * low_NM, base_NM + span_NM * high_NM
    if protocol.normalise == "max_map":
        return Scale(span_NM, base_NM, raw_high_NM)
    lowest_N1 = np.where(surface.there_NM, raw_low_NM, np.inf).min(axis=1, keepdims=True)
    lowest_N1 = np.where(np.isfinite(lowest_N1), lowest_N1, 0.0)
    highest_N1 = np.where(surface.there_NM, raw_high_NM, -np.inf).max(axis=1, keepdims=True)
    return Scale(span_NM, base_NM - lowest_N1, one_NM * (highest_N1 - lowest_N1))


def upsampled(
    maps_NMHW: np.ndarray,
    there_NM: np.ndarray,
    labels: tuple[np.ndarray, int],
    canvas_YX: tuple[int, int],
    protocol: Protocol,
    empty: Empty,
) -> Surface:
    """Raw maps on the canvas, min-maxed there to [0, 1]; maps of type bool as they are."""
    (n, m), p = maps_NMHW.shape[:2], canvas_YX[0] * canvas_YX[1]
    if maps_NMHW.dtype == bool:
        flat = maps_NMHW.reshape(n, m, p).astype(np.float32)
        return Surface(flat, np.zeros((n, m)), np.ones((n, m)), there_NM, *labels, empty, binary=True)
    # normalised before upsampling too (which changes no min-max score), so that float32 holds any range of values
    cells, low_NM, range_NM = unit_scale(maps_NMHW)
    flat_RHW = cells.reshape(n * m, *cells.shape[2:])
    value_RP, base_R, span_R = empty("value", (n * m, p), np.float32), np.zeros(n * m), np.zeros(n * m)
    for part in blocks(n * m, p):
        pixels = resize(flat_RHW[part], canvas_YX, protocol.align_corners, protocol.upsample == "bicubic")
        unit, base_R[part], span_R[part] = unit_scale(pixels)
        value_RP[part] = unit.reshape(-1, p)
    base_NM, span_NM = low_NM + range_NM * base_R.reshape(n, m), range_NM * span_R.reshape(n, m)
    return Surface(value_RP.reshape(n, m, p), base_NM, span_NM, there_NM, *labels, empty)


def combined(surface: Surface, protocol: Protocol, again: bool, empty: Empty) -> Surface:
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
    for part in blocks(n, m, p):
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
        unit, base_N1, span_N1 = unit_scale(one[:, :, None])
        one = unit.reshape(n, 1, p)
    one[only_N] = surface.value_NMP[only_N, :1]
    base_N1[only_N], span_N1[only_N] = surface.base_NM[only_N, :1], surface.span_NM[only_N, :1]
    return Surface(one, base_N1, span_N1, some_N1, surface.labels_NP, surface.union, empty, surface.binary)


def _normalised(surface: Surface, protocol: Protocol) -> np.ndarray:
    """What is combined: each map as the protocol normalises it, 0 everywhere where there is none."""
    if surface.binary or protocol.normalise == "minmax_map":
        return surface.value_NMP
    scale = Scale(surface.span_NM, surface.base_NM, np.ones_like(surface.base_NM))
    if protocol.normalise not in ("none", "affine"):
        high_NM = (surface.span_NM > 0).astype(np.float64)
        scale = _normalising(surface, protocol, np.zeros_like(high_NM), high_NM)
    value = Scale(*(each[..., None] for each in scale)).of(surface.value_NMP).astype(np.float32)
    return np.where(surface.there_NM[..., None], value, np.float32(0))


def sorts(protocol: Protocol) -> bool:
    """Whether a protocol needs pixels sorted: it does not if it cuts each map once, at a value."""
    cuts = protocol.binarise in ("absolute", "fraction_of_max") and not protocol.adaptive
    return not cuts or protocol.scope == "panel" or protocol.ap not in ("binary", "swapped")


def threshold(surface: Surface, order: Order | Plain, truth: int, protocol: Protocol, binarise: str) -> np.ndarray:
    """The value at which a map is cut, float32 (R, 1); `truth` are the bits whose area is meant by "truth_area"."""
    size_R, rows = order.size_R, len(order.size_R)
    if surface.binary:
        return np.full((rows, 1), np.float32(0.5))
    if isinstance(order, Order) and binarise == "quantile":
        return order.score_at(size_R - 1 - np.floor(protocol.threshold * size_R).astype(np.int64))[:, None]
    if isinstance(order, Order) and binarise == "truth_area":
        return order.score_at(order.area(truth) - 1)[:, None]
    scale, wanted_R = surface.scale(order, protocol), np.full(rows, protocol.threshold)
    if binarise == "fraction_of_max":
        wanted_R *= scale.of(order.highest_R.astype(np.float64))
    with np.errstate(over="ignore"):
        return scale.onto(wanted_R[:, None], protocol.threshold_strict).astype(np.float32)
