"""One protocol's numbers of some scenes: IoU and AP of every map against every source, paired, and averaged by scene.

Section 4.4 of the paper: IoU@t, AUC and AP where one source sounds; CIoU@t, AUC, CAP (Eq. 5) and PIAP where several do;
beside them NSA (DSOL), IIoU and adaptive cIoU (SSLalignment), and what PxAP and detection AP need of each scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from raymix.metrics import area_under_success, success
from raymix.protocol import Protocol
from raymix.scoring.chunk import Chunk, View
from raymix.scoring.order import Order
from raymix.scoring.pairing import Pairing, only_map, pairings, take
from raymix.scoring.pooled import Pool, pool_of
from raymix.scoring.surface import Surface, threshold

CONFIDENT = 0.25  # share of a map's highest pixels whose mean is its confidence


@dataclass
class Judged:
    """Columns of N scenes, NaN where a scene has none; of `weights` how many rows an entry stands for, 1 if not there."""

    iou_NS: np.ndarray
    ap_NS: np.ndarray
    map_NS: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rows:
    """What the columns of some scenes are means over: sources with truth, and rows of zeros for surplus maps."""

    known_NS: np.ndarray
    extra_N: np.ndarray
    counts_N: np.ndarray  # whether a scene is a row at all
    protocol: Protocol

    def mean(self, values_NS: np.ndarray, zero: float = 0.0) -> np.ndarray:
        """Mean over the rows of a scene, where a surplus map has the value `zero`; NaN where a scene has no row."""
        total_N = np.where(self.known_NS, values_NS, 0.0).sum(axis=1) + self.extra_N * zero
        return np.where(self.counts_N, total_N / np.maximum(self.number_N, 1), np.nan)

    @property
    def number_N(self) -> np.ndarray:
        return self.known_NS.sum(axis=1) + self.extra_N

    def over(self, iou_NS: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A function of IoU, taken of the mean over sources, or of each source and then averaged."""
        if self.protocol.unit == "scene":
            return of(self.mean(iou_NS))
        return self.mean(of(iou_NS.ravel()).reshape(iou_NS.shape), float(of(np.zeros(1))[0]))

    def successes(self, name: str, auc: str, iou_NS: np.ndarray) -> dict[str, np.ndarray]:
        """Mean IoU, what the protocol reports at its thresholds, and AUC."""
        how, mean_N = self.protocol, self.mean(iou_NS)
        found = {}
        for at in how.iou_thresholds:
            passed = partial(success, threshold=at, strict=how.success_strict)
            found[f"{name}@{at:g}"] = mean_N if how.reports == "mean" else self.over(iou_NS, passed)
        return found | {name: mean_N, auc: self.over(iou_NS, partial(area_under_success, points=how.auc_points))}


def judge(chunk: Chunk, protocol: Protocol) -> Judged:
    """All columns of one protocol for the scenes of a chunk; surfaces that other protocols made are used again."""
    surface = chunk.surface(protocol)
    views = chunk.views(surface, protocol)
    rows = _rows(chunk, surface, protocol, weighed := chunk.weighs(protocol))
    agreed = _rows(chunk, surface, protocol, False) if weighed else rows
    there_NTM = rows.known_NS[:, :, None] & surface.there_NM[:, None, :]
    cut = [_cut(surface, view, protocol, protocol.binarise) for view in views]
    iou_NTM = np.where(there_NTM, _stack([each.iou_R for each in cut], surface), 0.0)
    ap_NTM = _stack([_ap(view, each, protocol) for view, each in zip(views, cut, strict=True)], surface)
    ap_NTM = np.where(agreed.known_NS[:, :, None] & surface.there_NM[:, None, :], ap_NTM, 0.0)
    one = chunk.combines(protocol)
    paired = only_map(there_NTM) if one else pairings(protocol, iou_NTM, ap_NTM, there_NTM, chunk.same_NSM)
    found = _by_source(chunk, rows, agreed, iou_NTM, ap_NTM, paired[0])
    _boxes(found, chunk, rows, agreed, surface, views, iou_NTM, ap_NTM, paired, there_NTM)
    if chunk.sources > 1 and protocol.piap:
        piap_N = np.where(agreed.counts_N, chunk.mean(protocol).order.average_precision(chunk.union), np.nan)
        found.columns["piap"] = np.where(chunk.there_NM.any(axis=1), piap_N, piap_N * 0)
    if protocol.silence == "nsa" and not one:
        found.columns[f"nsa{paired[0].star}"] = _silence(surface, protocol, found.map_NS, rows.counts_N)
    _pooled(found, chunk, surface, views, rows, agreed)
    return found


def _rows(chunk: Chunk, surface: Surface, protocol: Protocol, weighed: bool) -> _Rows:
    """The rows where single votes are truth, or (for AP, and most protocols) are not."""
    known_NT, present_N = chunk.known_NT(protocol, weighed), np.asarray(chunk.there_NM.any(axis=1))
    extra_N = np.zeros(len(present_N), np.int64)
    if protocol.surplus == "rows":
        extra_N = np.maximum(surface.there_NM.sum(axis=1) - known_NT.sum(axis=1), 0) * chunk.told_N(weighed)
    counts_N = known_NT.any(axis=1) & (present_N | (protocol.missing == "zero"))
    return _Rows(known_NT, extra_N, counts_N, protocol)


def _boxes(
    found: Judged,
    chunk: Chunk,
    rows: _Rows,
    agreed: _Rows,
    surface: Surface,
    views: list[View],
    iou_NTM: np.ndarray,
    ap_NTM: np.ndarray,
    paired: list[Pairing],
    there_NTM: np.ndarray,
) -> None:
    """IoU and AP columns of each pairing into `found`; those of sources get the number of rows that they stand for."""
    how, (iou, ap) = rows.protocol, (("iou", "ap") if chunk.sources == 1 else ("ciou", "cap"))
    kinds = {iou: ("auc", iou_NTM)}
    if how.adaptive:
        cut = [_cut(surface, view, how, "truth_area") for view in views]
        kinds[f"{iou}_adaptive"] = ("auc_adaptive", np.where(there_NTM, _stack([c.iou_R for c in cut], surface), 0.0))
    for star, for_iou_NT, for_ap_NT in paired:
        columns: dict[str, np.ndarray] = {}
        for name, (auc, values_NTM) in kinds.items():
            iou_NT = _paired(values_NTM, for_iou_NT)
            columns |= rows.successes(name, auc, iou_NT)
            if how.all_sources and chunk.sources > 1:
                worst_N = np.where(rows.known_NS, iou_NT, np.inf).min(axis=1)
                worst_N = np.where(rows.counts_N, worst_N, np.nan)
                found.columns |= {
                    f"i{name.removeprefix('c')}@{at:g}{star}": success(worst_N, at, how.success_strict)
                    for at in how.iou_thresholds
                }
                found.columns[f"i{auc}{star}"] = area_under_success(worst_N, how.auc_points)
        if how.ap not in ("dataset", "detection"):
            columns[ap] = agreed.mean(_paired(ap_NTM, for_ap_NT))
        found.columns |= {f"{name}{star}": column for name, column in columns.items()}
        if how.unit == "source" and chunk.sources > 1:
            numbers = {name: (agreed if name == ap else rows).number_N for name in columns}
            found.weights |= {f"{name}{star}": number_N.astype(np.float64) for name, number_N in numbers.items()}


def _stack(values: list[np.ndarray], surface: Surface) -> np.ndarray:
    return np.stack([each.reshape(surface.there_NM.shape) for each in values], axis=1)


def _paired(values_NTM: np.ndarray, map_NT: np.ndarray) -> np.ndarray:
    return np.where(map_NT >= 0, take(values_NTM, map_NT), 0.0)


class _Cut(NamedTuple):
    """Of each binarised map the pixels, those of them inside the truth, and the truth's own, each (R,); and its IoU."""

    predicted_R: np.ndarray
    hit_R: np.ndarray
    area_R: np.ndarray
    iou_R: np.ndarray


def _cut(surface: Surface, view: View, protocol: Protocol, binarise: str) -> _Cut:
    """The maps cut; IoU is sum(P G) / (sum(G) + |P where G = 0|), G being 1/2 where one annotator alone is."""
    order, truth, voted = view
    at_R1 = threshold(surface, order, voted, protocol, binarise)
    strict = protocol.threshold_strict and not surface.binary
    predicted_R, hit_R = (each[:, 0] for each in order.counts(truth, at_R1, strict))
    area_R = order.area(truth)
    if voted == truth:
        return _Cut(predicted_R, hit_R, area_R, _iou(predicted_R, hit_R, area_R))
    # half of such a pixel is hit and no false positive, so the other half, predicted too, must not count as one
    half_R, halves_R = 0.5 * (order.counts(voted, at_R1, strict)[1][:, 0] - hit_R), 0.5 * (order.area(voted) - area_R)
    return _Cut(predicted_R, hit_R, area_R, _iou(predicted_R - half_R, hit_R + half_R, area_R + halves_R))


def _iou(predicted_R: np.ndarray, hit_R: np.ndarray, area_R: np.ndarray) -> np.ndarray:
    union_R = predicted_R + area_R - hit_R
    return hit_R / np.where(union_R > 0, union_R, 1)


def _ap(view: View, cut: _Cut, protocol: Protocol) -> np.ndarray:
    """Average precision of each row: of the map, or in closed form of the binarised map, or of that as the truth."""
    if protocol.ap in ("dataset", "detection"):
        return np.zeros(len(cut.hit_R))
    if protocol.ap == "image" and isinstance(view.order, Order):
        return view.order.average_precision(view.truth)
    true_R, said_R = (cut.area_R, cut.predicted_R)[:: 1 if protocol.ap == "binary" else -1]
    recall_R, precision_R = (cut.hit_R / np.maximum(each, 1) for each in (true_R, said_R))
    return precision_R * recall_R + (1 - recall_R) * true_R / np.maximum(view.order.size_R, 1)


def _by_source(
    chunk: Chunk, rows: _Rows, agreed: _Rows, iou_NTM: np.ndarray, ap_NTM: np.ndarray, paired: Pairing
) -> Judged:
    """Whose map is whose, and its IoU and AP; unknown where a protocol knows no sources, only their union."""
    n, s = len(rows.known_NS), chunk.sources
    if rows.known_NS.shape != (n, s):
        return Judged(np.full((n, s), np.nan), np.full((n, s), np.nan), np.full((n, s), -1))
    iou_NS, ap_NS = _paired(iou_NTM, paired.for_iou_NS), _paired(ap_NTM, paired.for_ap_NS)
    unknown = (np.where(each.known_NS, 0.0, np.nan) for each in (rows, agreed))
    return Judged(iou_NS + next(unknown), ap_NS + next(unknown), paired.for_iou_NS)


def _silence(surface: Surface, protocol: Protocol, map_NS: np.ndarray, counts_N: np.ndarray) -> np.ndarray:
    """NSA: mean over the maps of no source of their share of pixels at most `silence_threshold`; NaN without such maps."""
    wanted_R1 = np.full((surface.there_NM.size, 1), protocol.silence_threshold)
    at_R1 = surface.scale(surface.order, protocol).onto(wanted_R1, strict=True).astype(np.float32)
    loud_R1, _ = surface.order.counts(0, at_R1, strict=True)
    quiet_NM = 1 - loud_R1[:, 0].reshape(surface.there_NM.shape) / surface.value_NMP.shape[-1]
    used_NM = (map_NS[:, :, None] == np.arange(quiet_NM.shape[1])).any(axis=1)
    silent_NM = surface.there_NM & ~used_NM & counts_N[:, None]
    count_N = silent_NM.sum(axis=1)
    return np.where(count_N > 0, np.where(silent_NM, quiet_NM, 0.0).sum(axis=1) / np.maximum(count_N, 1), np.nan)


def _pooled(found: Judged, chunk: Chunk, surface: Surface, views: list[View], rows: _Rows, agreed: _Rows) -> None:
    """What the numbers of the whole set need of each scene, into `found`."""
    how, (order, truth, _) = rows.protocol, views[0]
    if how.ap not in ("dataset", "detection") or not isinstance(order, Order):
        return
    scale = surface.scale(order, how)
    if how.ap == "dataset":  # edges 0, 1 / bins ... 1: a bin starts at its edge, the first takes all that is lower
        edges_B = np.append(np.arange(how.ap_bins) / how.ap_bins, 1.0)
        at_RB = _ceil(scale.onto(np.broadcast_to(edges_B, (len(order.size_R), len(edges_B)))))
        at_RB[:, 0] = -np.inf
        reach_RB, true_RB = order.counts(truth, at_RB)
        reach_R2B = np.stack([true_RB, reach_RB - true_RB], axis=1)
        kept = (reach_R2B - np.pad(reach_R2B[..., 1:], ((0, 0), (0, 0), (0, 1)))).astype(np.uint32)
        counts_N = agreed.counts_N
        found.pools["pxap"] = pool_of("pxap", kept * counts_N[:, None, None].astype(np.uint32), counts_N)
    if how.ap == "detection":
        told_N = chunk.told_N(chunk.weighs(how))
        sure_N = np.where(surface.there_NM[:, 0], scale.of(order.top_mean(CONFIDENT)), -np.inf)
        for at in how.iou_thresholds:
            found.columns[f"loc_acc@{at:g}"] = found.columns[f"iou@{at:g}"]
            kept = np.stack([np.nan_to_num(found.iou_NS[:, 0]), sure_N, rows.known_NS[:, 0]], axis=1)
            kept[~told_N] = 0.0
            found.pools[f"detection@{at:g}"] = pool_of(f"detection@{at:g}", kept, told_N)


def _ceil(values: np.ndarray) -> np.ndarray:
    """The smallest float32 that is not below each value, so that a comparison with it is exact."""
    near = values.astype(np.float32)
    return np.where(near < values, np.nextafter(near, np.float32(np.inf)), near)
