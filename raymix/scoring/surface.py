"""Maps on the canvas, each made once however many protocols read it: upsampled, combined, and where thresholds lie.

Every normalisation of a protocol is increasing, so a surface keeps its own float32 scale, [0, 1], and a protocol's
threshold is carried onto it; what changes the order of pixels (upsampling, combining maps) makes another surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raymix.metrics import blocks, resize, unit_scale
from raymix.protocol import Protocol
from raymix.scoring.order import Order, Plain


@dataclass(frozen=True)
class Surface:
    """Maps of N scenes on the canvas: a raw score is `base + span * value`, with `span` 0 where a map is constant."""

    value_NMP: np.ndarray  # float32; 0 everywhere where there is no map
    base_NM: np.ndarray
    span_NM: np.ndarray
    there_NM: np.ndarray
    labels_NP: np.ndarray
    binary: bool = False  # predictions, not scores

    @property
    def plain(self) -> Order | Plain:
        """All pixels of all maps, sorted only if somebody else needs them sorted."""
        return self.order if "order" in self.__dict__ else Plain(self.value_NMP, self.labels_NP)

    @cached_property
    def order(self) -> Order:
        """All pixels of all maps, sorted; row r is map r % M of scene r // M."""
        return Order.of(self.value_NMP, self.labels_NP)

    def scale(self, order: Order | Plain, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift), both (R,): a pixel's normalised score is `scale * value + shift`, within the order's pixels."""
        if self.binary:
            return np.ones(self.base_NM.size), np.zeros(self.base_NM.size)
        low_NM = order.lowest_R.astype(np.float64).reshape(self.base_NM.shape)
        high_NM = order.highest_R.astype(np.float64).reshape(self.base_NM.shape)
        scale_NM, shift_NM = _normalising(self, protocol, low_NM, high_NM)
        return scale_NM.ravel(), shift_NM.ravel()


def _normalising(
    surface: Surface, protocol: Protocol, low_NM: np.ndarray, high_NM: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift), both (N, M), where the values of a map go from low to high."""
    base_NM, span_NM = surface.base_NM, surface.span_NM
    if protocol.normalise == "none":
        return span_NM, base_NM
    if protocol.normalise == "affine":
        low, high = protocol.affine
        return span_NM / (high - low), (base_NM - low) / (high - low)
    if protocol.normalise == "minmax_map":  # exactly 1 and 0 where the values are those of the whole map
        range_NM = high_NM - low_NM
        return _over(np.ones_like(range_NM), range_NM), _over(-low_NM, range_NM)
    raw_low_NM, raw_high_NM = base_NM + span_NM * low_NM, base_NM + span_NM * high_NM
    if protocol.normalise == "max_map":
        return _over(span_NM, raw_high_NM), _over(base_NM, raw_high_NM)
    lowest_N1 = np.where(surface.there_NM, raw_low_NM, np.inf).min(axis=1, keepdims=True)
    lowest_N1 = np.where(np.isfinite(lowest_N1), lowest_N1, 0.0)
    highest_N1 = np.where(surface.there_NM, raw_high_NM, -np.inf).max(axis=1, keepdims=True)
    range_NM = np.broadcast_to(highest_N1 - lowest_N1, base_NM.shape)
    return _over(span_NM, range_NM), _over(base_NM - lowest_N1, range_NM)


def _over(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The quotient, 0 where the divisor is not positive."""
    return np.where(by > 0, value / np.where(by > 0, by, 1.0), 0.0)


def upsampled(
    maps_NMHW: np.ndarray, there_NM: np.ndarray, labels_NP: np.ndarray, canvas_YX: tuple[int, int], protocol: Protocol
) -> Surface:
    """Raw maps on the canvas, min-maxed there to [0, 1]; maps of type bool as they are."""
    (n, m), p = maps_NMHW.shape[:2], canvas_YX[0] * canvas_YX[1]
    if maps_NMHW.dtype == bool:
        flat = maps_NMHW.reshape(n, m, p).astype(np.float32)
        return Surface(flat, np.zeros((n, m)), np.ones((n, m)), there_NM, labels_NP, binary=True)
    # normalised before upsampling too (which changes no min-max score), so that float32 holds any range of values
    cells, low_NM, range_NM = unit_scale(maps_NMHW)
    flat_RHW = cells.reshape(n * m, *cells.shape[2:])
    value_RP, base_R, span_R = np.empty((n * m, p), np.float32), np.zeros(n * m), np.zeros(n * m)
    for part in blocks(n * m, p):
        pixels = resize(flat_RHW[part], canvas_YX, protocol.align_corners, protocol.upsample == "bicubic")
        unit, base_R[part], span_R[part] = unit_scale(pixels)
        value_RP[part] = unit.reshape(-1, p)
    base_NM, span_NM = low_NM + range_NM * base_R.reshape(n, m), range_NM * span_R.reshape(n, m)
    return Surface(value_RP.reshape(n, m, p), base_NM, span_NM, there_NM, labels_NP)


def combined(surface: Surface, protocol: Protocol, again: bool) -> Surface:
    """One map of all maps of a scene: the mean or maximum of the normalised ones; `again`: min-maxed once more.

    Under "none" and "affine" raw maps are combined, because those normalise the combination too. A scene's only map
    stays as it is, so that it does not depend on how many maps the scenes beside it have.
    """
    n, m, p = surface.value_NMP.shape
    if m == 1:
        return surface
    value, there_NM = _normalised(surface, protocol), surface.there_NM
    some_N1, only_N = np.asarray(there_NM.any(axis=1, keepdims=True)), there_NM.sum(axis=1) == 1
    if protocol.combine == "max":
        if not there_NM.all():
            value = np.where(there_NM[..., None], value, np.float32(-np.inf))
        one = value.max(axis=1, keepdims=True)
        one[~some_N1] = 0
    else:
        count_N = np.maximum(there_NM.sum(axis=1), 1).astype(np.float32)
        one = value.sum(axis=1, keepdims=True, dtype=np.float32) / count_N[:, None, None]
    base_N1, span_N1 = np.zeros((n, 1)), np.ones((n, 1))
    if again and not surface.binary:
        unit, base_N1, span_N1 = unit_scale(one[:, :, None])
        one = unit.reshape(n, 1, p)
    one[only_N] = surface.value_NMP[only_N, :1]
    base_N1[only_N], span_N1[only_N] = surface.base_NM[only_N, :1], surface.span_NM[only_N, :1]
    return Surface(one, base_N1, span_N1, some_N1, surface.labels_NP, surface.binary)


def _normalised(surface: Surface, protocol: Protocol) -> np.ndarray:
    """What is combined: each map as the protocol normalises it, 0 everywhere where there is none."""
    if surface.binary:
        return surface.value_NMP
    scale_NM, shift_NM = surface.span_NM, surface.base_NM
    if protocol.normalise not in ("none", "affine"):
        high_NM = (surface.span_NM > 0).astype(np.float64)
        scale_NM, shift_NM = _normalising(surface, protocol, np.zeros_like(high_NM), high_NM)
    if (np.where(surface.span_NM > 0, scale_NM, 1.0) == 1).all() and not shift_NM.any():
        return surface.value_NMP
    value = (surface.value_NMP * scale_NM[..., None] + shift_NM[..., None]).astype(np.float32)
    return np.where(surface.there_NM[..., None], value, np.float32(0))


def onto(wanted_RT: np.ndarray, scale_R: np.ndarray, shift_R: np.ndarray, strict: bool = False) -> np.ndarray:
    """Thresholds on normalised scores as thresholds on the values of a surface, float64 (R, T)."""
    scale_R1, shift_R1 = scale_R[:, None], shift_R[:, None]
    reached_RT = shift_R1 > wanted_RT if strict else shift_R1 >= wanted_RT  # by a map that is the same everywhere
    on_RT = (wanted_RT - shift_R1) / np.where(scale_R1 > 0, scale_R1, 1.0)
    return np.where(scale_R1 > 0, on_RT, np.where(reached_RT, -np.inf, np.inf))


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
    scale_R, shift_R = surface.scale(order, protocol)
    wanted_R = np.full(rows, protocol.threshold)
    if binarise == "fraction_of_max":
        wanted_R *= scale_R * order.highest_R + shift_R
    with np.errstate(over="ignore"):
        return onto(wanted_R[:, None], scale_R, shift_R, protocol.threshold_strict).astype(np.float32)
