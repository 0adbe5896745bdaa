"""Scores of single scenes under a protocol: IoU, AP and sounding accuracy of each map, matched with sources.

Section 4.4 of the paper: IoU@t, AUC and AP where one source sounds; CIoU@t, AUC, CAP (Eq. 5) and PIAP where several do;
beside them NSA (DSOL), IIoU and adaptive cIoU (SSLalignment), and what PxAP and detection AP need of each scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from raymix.metrics.functional import (
    assign_maps_to_sources,
    minmax_normalize,
    pack_truth_bits,
    peak_panels,
    success_auc,
    success_rate,
)
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.heatmaps import (
    BufferPool,
    CanvasMaps,
    EmptyArrayFunction,
    SortedPixels,
    UnsortedPixels,
    combine_maps,
    map_threshold,
    needs_sorted_pixels,
    upsample_maps,
)
from raymix.metrics.pooled_scores import PooledScores, make_pool
from raymix.metrics.protocols import EvaluationProtocol

MapInput = np.ndarray | Sequence[np.ndarray | None]
"""Raw maps of all scenes: an array (N, M, H, W), or one (M, H, W) per scene, None where a prediction is missing.
Maps of type bool are predictions already: taken as they are, at the size of the canvas."""


ClassNames = Sequence[str] | Sequence[Sequence[str] | None]
"""What the maps are called, by the names that `Truth.labels` has: one name a map, the same in all scenes, or such names
for each scene (None where a prediction is missing)."""


def stack_maps(
    rows: list[np.ndarray | None], truth: SceneGroundTruth, like_MHW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Maps of some scenes as one array (N, M, H, W), and which of them exist (N, M); ValueError naming the scene."""
    shape, binary = like_MHW.shape[1:], like_MHW.dtype == bool
    maps = [like_MHW[:0] if row is None else np.asarray(row) for row in rows]
    for scene, row in zip(truth.ids, maps, strict=True):
        if row.ndim != 3 or row.shape[1:] != shape or 0 in shape or row.dtype.kind not in ("b" if binary else "fiu"):
            raise ValueError(
                f"scene {scene}: maps of {row.dtype} {row.shape}, the others are (M, H, W) = {like_MHW.shape} "
                f"of {like_MHW.dtype}"
            )
        if binary and len(row) and shape != truth.canvas:
            raise ValueError(f"scene {scene}: maps of type bool are {shape}, the canvas is {truth.canvas}")
        if not np.isfinite(row).all():
            raise ValueError(f"scene {scene}: a map holds a value that is not finite")
    present_NM = np.zeros((len(maps), max([1, *(len(row) for row in maps)])), bool)
    stacked = np.zeros((*present_NM.shape, *shape), bool if binary else np.float64)
    for place, row in enumerate(maps):
        present_NM[place, : len(row)] = True
        stacked[place, : len(row)] = row
    return stacked, present_NM


def match_class_names(
    classes: ClassNames, index: np.ndarray, truth: SceneGroundTruth, present_NM: np.ndarray
) -> np.ndarray:
    """Whether a map is of the class of a source, (N, S, M), for the scenes of `index`; '' is of no class.

    ValueError where the truth has no labels, or a scene has not one name for each map.
    """
    if truth.labels is None:
        raise ValueError("classes: the maps have names, but the truth has no labels to hold them against")
    (n, m), s = present_NM.shape, truth.panels_NS.shape[1]
    same_NSM = np.zeros((n, s, m), bool)
    for place, scene in enumerate(index):
        named = classes if all(isinstance(name, str) for name in classes) else classes[scene]
        names, count = list(named or ()), int(present_NM[place].sum())
        if len(names) != count and count:
            raise ValueError(f"scene {truth.ids[place]}: {len(names)} class names for {count} maps")
        for source, label in enumerate(truth.labels[place]):
            same_NSM[place, source, :count] = [name == label != "" for name in names[:count]]
    return same_NSM


def sounding_accuracy(
    maps_NMHW: np.ndarray, truth: SceneGroundTruth, present_NM: np.ndarray | None = None
) -> np.ndarray:
    """True for each scene in which the panels where the maps peak are exactly the sounding panels.

    The sets must be equal: a surplus map that peaks in a silent panel spoils its scene, one that peaks in a sounding
    panel again, or is constant and so names none, does not; one map never names two panels. Chance therefore depends
    on the number of maps: `raymix.metrics.functional.chance_sounding_accuracy`, 1/6 for two maps in two different panels of four.
    """
    panels = np.arange(len(truth.rects_P4))
    peak_NM = peak_panels(maps_NMHW, truth.rects_P4, truth.canvas)
    if present_NM is not None:
        peak_NM = np.where(present_NM, peak_NM, -1)
    named_NP = (peak_NM[..., None] == panels).any(axis=1)
    return (named_NP == (truth.panels_NS[..., None] == panels).any(axis=1)).all(axis=1)


def sounding_accuracy_column(maps_NMHW: np.ndarray, truth: SceneGroundTruth, present_NM: np.ndarray) -> np.ndarray:
    """Sounding accuracy as 0 and 1; where one panel sounds, of the mean of the normalised maps, as in Section 4.4."""
    if truth.panels_NS.shape[1] == 1:
        count_N = np.maximum(present_NM.sum(axis=1), 1).astype(np.float32)
        maps_NMHW = (
            minmax_normalize(maps_NMHW).sum(axis=1, keepdims=True, dtype=np.float32) / count_N[:, None, None, None]
        )
        present_NM = present_NM[:, :1]
    return sounding_accuracy(maps_NMHW, truth, present_NM).astype(np.float64)


class MapPairing(NamedTuple):
    """The map of each source, (N, S), -1 for none; `star` where the truth chose it for each metric anew."""

    star: str
    for_iou_NS: np.ndarray
    for_ap_NS: np.ndarray


def all_pairings(
    protocol: EvaluationProtocol,
    iou_NSM: np.ndarray,
    ap_NSM: np.ndarray,
    there_NSM: np.ndarray,
    same_NSM: np.ndarray | None,
) -> list[MapPairing]:
    """All pairings that a protocol reports, at least one, the first one per source.

    `there_NSM`: which pairs exist; `same_NSM`: which maps are of their source's class, None without class names.
    """
    if protocol.match == "labels" and same_NSM is not None:
        fits_NSM = same_NSM & there_NSM
        return [_one(np.where(fits_NSM.any(axis=-1), fits_NSM.argmax(axis=-1), -1))]
    if protocol.match == "greedy_iou":
        return [_one(_greedy(iou_NSM, there_NSM))]
    second_NSM = ap_NSM + _fine(iou_NSM, ap_NSM) if protocol.unit == "source" else ap_NSM
    joint_NS = _existing(assign_maps_to_sources(iou_NSM, second_NSM), there_NSM)
    if protocol.match == "joint_iou":
        return [_one(joint_NS)]
    starred = MapPairing("*", joint_NS, _existing(assign_maps_to_sources(ap_NSM, iou_NSM), there_NSM))
    return [starred] if protocol.match == "labels" else [_one(joint_NS), starred]


def _fine(iou_NSM: np.ndarray, ap_NSM: np.ndarray) -> np.ndarray:
    """A millionth of numbers that tell pairings of equal totals apart by their sources, so that where sources are
    scored one by one the order of the maps decides nothing."""
    weight_S = np.sqrt(np.arange(2, 2 + iou_NSM.shape[1]))[:, None]
    return 1e-6 * weight_S * (iou_NSM + np.pi * ap_NSM)


def single_map_pairing(there_NSM: np.ndarray) -> list[MapPairing]:
    """The one pairing there is where one map serves all sources."""
    return [_one(np.where(there_NSM[..., 0], 0, -1))]


def _one(map_NS: np.ndarray) -> MapPairing:
    return MapPairing("", map_NS, map_NS)


def _existing(map_NS: np.ndarray, there_NSM: np.ndarray) -> np.ndarray:
    """-1 where the assigned pair is one of a map or a truth that does not exist."""
    return np.where((map_NS >= 0) & take_paired(there_NSM, map_NS), map_NS, -1)


def take_paired(values_NSM: np.ndarray, map_NS: np.ndarray) -> np.ndarray:
    """The value of each source's map, (N, S); that of map 0 where it has none."""
    return np.take_along_axis(values_NSM, np.maximum(map_NS, 0)[..., None], axis=2)[..., 0]


def _greedy(iou_NSM: np.ndarray, there_NSM: np.ndarray) -> np.ndarray:
    """Map after map goes to the source of its highest IoU (ties: the first), where one that is taken is worth 0."""
    n, s, m = iou_NSM.shape
    map_NS, scene_N = np.full((n, s), -1), np.arange(n)
    for which in range(m):
        free_NS = (map_NS < 0) & there_NSM[:, :, which]
        best_N = np.where(free_NS, iou_NSM[:, :, which], 0.0).argmax(axis=1)
        takes_N = free_NS[scene_N, best_N]
        map_NS[scene_N[takes_N], best_N[takes_N]] = which
    return map_NS


class TruthView(NamedTuple):
    """The pixels that a truth is held against, and the bits of that truth."""

    order: SortedPixels | UnsortedPixels
    truth: int  # what all maps are held against: of several annotators the pixels that two have
    voted: int  # with the pixels that one annotator alone has, where the protocol weighs those; else the same


class SceneChunk:
    """N scenes of S sources with M maps at most; `same_NSM` says which maps are of a source's class, None if unnamed."""

    def __init__(
        self,
        maps_NMHW: np.ndarray,
        there_NM: np.ndarray,
        truth: SceneGroundTruth,
        same_NSM: np.ndarray | None,
        protocols: Sequence[EvaluationProtocol],
        sheets: BufferPool,
    ) -> None:
        n, self.sources = truth.panels_NS.shape
        masks_NSYX = np.zeros((n, self.sources, *truth.canvas), bool) if truth.masks_NSYX is None else truth.masks_NSYX
        self.there_NM, self.same_NSM = there_NM, same_NSM
        self._maps_NMHW, self._truth = maps_NMHW, truth
        self._masks_NSP = masks_NSYX.reshape(n, self.sources, truth.canvas[0] * truth.canvas[1])
        self._halves_NSP = None if truth.halves_NSYX is None else truth.halves_NSYX.reshape(self._masks_NSP.shape)
        self._panels = any(each.scope == "panel" for each in protocols) and not _one_panel(truth)
        self._voted = self._halves_NSP is not None and any(each.weighs_votes for each in protocols)
        uses = 1 + self._panels + self._voted
        if self.sources * uses > 32:
            raise ValueError(
                f"layout {truth.layout}: {self.sources} sources, a sorting key holds 32, 16 with panels or single votes, "
                "10 with both"
            )
        self._made: dict[tuple[object, ...], CanvasMaps] = {}
        self._sheets = sheets

    @cached_property
    def _agreed_NS(self) -> np.ndarray:
        """Which sources have a pixel of truth that is no single vote."""
        return np.asarray(self._masks_NSP.any(axis=-1))

    @cached_property
    def _single_NS(self) -> np.ndarray:
        """Which sources one annotator alone has, wherever they are."""
        none_NS = np.zeros_like(self._agreed_NS)
        return none_NS if self._halves_NSP is None else ~self._agreed_NS & self._halves_NSP.any(axis=-1)

    def weighs(self, protocol: EvaluationProtocol) -> bool:
        """Whether a protocol weighs single votes, and there are some."""
        return self._voted and protocol.weighs_votes

    def told_N(self, weighed: bool) -> np.ndarray:
        """Scenes whose truth is known; if votes are not weighed, that of a source with single votes alone is not."""
        return np.ones(len(self._single_NS), bool) if weighed else np.asarray(~self._single_NS.any(axis=1))

    def known_NS(self, weighed: bool) -> np.ndarray:
        """Which sources have a pixel of truth."""
        return self._agreed_NS | self._single_NS if weighed else self._agreed_NS & self.told_N(False)[:, None]

    def known_NT(self, protocol: EvaluationProtocol, weighed: bool) -> np.ndarray:
        """Which truths a protocol holds maps against: those of sources, or (T = 1) the union of all."""
        known_NS = self.known_NS(weighed)
        return np.asarray(known_NS.any(axis=1, keepdims=True)) if protocol.scope == "union" else known_NS

    @property
    def union(self) -> int:
        """The bits of all sources."""
        return (1 << self.sources) - 1

    @property
    def _ones(self) -> int:
        """How far the bit of a source's single votes stands above that of the source."""
        return self.sources * (2 if self._panels else 1)

    @property
    def _labelled(self) -> int:
        """The bits of all truths."""
        return self.union | self.union << self._ones if self._voted else self.union

    def maps(self, protocol: EvaluationProtocol) -> CanvasMaps:
        """All maps on the canvas."""
        predictions, labels = self._maps_NMHW.dtype == bool, (self._labels_NP, self._labelled)
        return self._once(
            ("predictions",) if predictions else (protocol.upsample, protocol.align_corners),
            lambda empty: upsample_maps(self._maps_NMHW, self.there_NM, labels, self._truth.canvas, protocol, empty),
        )

    def combines(self, protocol: EvaluationProtocol) -> bool:
        """Whether a protocol makes one map of all maps: by its choices alone, not by how many maps there are."""
        if protocol.scope == "union" or protocol.match == "broadcast":
            return True
        named = protocol.match == "labels" and self.same_NSM is not None
        return self.sources == 1 and protocol.combine != "best" and not named

    def surface(self, protocol: EvaluationProtocol) -> CanvasMaps:
        """What a protocol holds against truth: all maps, or one of all of them."""
        return self._combined(protocol) if self.combines(protocol) else self.maps(protocol)

    def mean(self, protocol: EvaluationProtocol) -> CanvasMaps:
        """The one map that PIAP is of."""
        return self._combined(protocol)

    def views(self, surface: CanvasMaps, protocol: EvaluationProtocol) -> list[TruthView]:
        """For each truth of a protocol the pixels that count, sorted where that is needed, and the bits of that truth."""
        truths = [self.union] if protocol.scope == "union" else [1 << source for source in range(self.sources)]
        weighed = self.weighs(protocol)
        pairs = [(truth, truth | truth << self._ones if weighed else truth) for truth in truths]
        if not needs_sorted_pixels(protocol):
            return [TruthView(surface.plain, *bits) for bits in pairs]
        if protocol.scope == "panel" and self._panels:
            return [TruthView(surface.panel(self.sources + source), *bits) for source, bits in enumerate(pairs)]
        return [TruthView(surface.order, *bits) for bits in pairs]

    def _combined(self, protocol: EvaluationProtocol) -> CanvasMaps:
        again = self.sources == 1
        how = (protocol.upsample, protocol.align_corners, protocol.combine)
        normalise = "raw" if protocol.normalise in ("none", "affine") else protocol.normalise
        return self._once((*how, normalise), lambda empty: combine_maps(self.maps(protocol), protocol, again, empty))

    def _once(self, key: tuple[object, ...], make: Callable[[EmptyArrayFunction], CanvasMaps]) -> CanvasMaps:
        if key not in self._made:
            self._made[key] = make(self._sheets.of(key))
        return self._made[key]

    @cached_property
    def _labels_NP(self) -> np.ndarray:
        """Bit s: the pixel is in source s; bit S + s, where panels matter: it is in the panel of source s.

        Above these, where single votes matter: one annotator alone has it in source s.
        """
        if not self._voted or self._halves_NSP is None:
            return self._placed_NP
        below_NSP = np.zeros((len(self._halves_NSP), self._ones, self._halves_NSP.shape[2]), bool)
        return self._placed_NP | pack_truth_bits(np.concatenate([below_NSP, self._halves_NSP], axis=1))

    @property
    def _placed_NP(self) -> np.ndarray:
        if not self._panels:
            return pack_truth_bits(self._masks_NSP)
        ways_WS, way_N = np.unique(self._truth.panels_NS, axis=0, return_inverse=True)
        inside_QP = _inside(self._truth).reshape(len(self._truth.rects_P4), self._masks_NSP.shape[2])
        empty_WSP = np.zeros((len(ways_WS), *self._masks_NSP.shape[1:]), bool)
        panels_WP = pack_truth_bits(np.concatenate([empty_WSP, inside_QP[ways_WS]], axis=1))
        return pack_truth_bits(self._masks_NSP) | panels_WP[way_N.ravel()]


def _inside(truth: SceneGroundTruth) -> np.ndarray:
    """Which pixels of the canvas lie in each panel, (panels, Y, X)."""
    (y, x), rects = truth.canvas, truth.rects_P4
    across = [(r[0] <= np.arange(x)) & (np.arange(x) < r[2]) for r in rects]
    down = [(r[1] <= np.arange(y)) & (np.arange(y) < r[3]) for r in rects]
    return np.stack([rows[:, None] & columns for rows, columns in zip(down, across, strict=True)])


def _one_panel(truth: SceneGroundTruth) -> bool:
    return len(truth.rects_P4) == 1 and bool(_inside(truth).all())


CONFIDENT = 0.25  # share of a map's highest pixels whose mean is its confidence


@dataclass
class ChunkScores:
    """Columns of N scenes, NaN where a scene has none; of `weights` how many rows an entry stands for, 1 if not there."""

    iou_NS: np.ndarray
    ap_NS: np.ndarray
    map_NS: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    pools: dict[str, PooledScores] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rows:
    """What the columns of some scenes are means over: sources with truth, and rows of zeros for surplus maps."""

    known_NS: np.ndarray
    extra_N: np.ndarray
    counts_N: np.ndarray  # whether a scene is a row at all
    protocol: EvaluationProtocol

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
            passed = partial(success_rate, threshold=at, strict=how.success_strict)
            found[f"{name}@{at:g}"] = mean_N if how.reports == "mean" else self.over(iou_NS, passed)
        return found | {name: mean_N, auc: self.over(iou_NS, partial(success_auc, points=how.auc_points))}


def score_chunk(chunk: SceneChunk, protocol: EvaluationProtocol) -> ChunkScores:
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
    paired = (
        single_map_pairing(there_NTM) if one else all_pairings(protocol, iou_NTM, ap_NTM, there_NTM, chunk.same_NSM)
    )
    found = _by_source(chunk, rows, agreed, iou_NTM, ap_NTM, paired[0])
    _boxes(found, chunk, rows, agreed, surface, views, iou_NTM, ap_NTM, paired, there_NTM)
    if chunk.sources > 1 and protocol.piap:
        piap_N = np.where(agreed.counts_N, chunk.mean(protocol).order.average_precision(chunk.union), np.nan)
        found.columns["piap"] = np.where(chunk.there_NM.any(axis=1), piap_N, piap_N * 0)
    if protocol.silence == "nsa" and not one:
        found.columns[f"nsa{paired[0].star}"] = _silence(surface, protocol, found.map_NS, rows.counts_N)
    _pooled(found, chunk, surface, views, rows, agreed)
    return found


def _rows(chunk: SceneChunk, surface: CanvasMaps, protocol: EvaluationProtocol, weighed: bool) -> _Rows:
    """The rows where single votes are truth, or (for AP, and most protocols) are not."""
    known_NT, present_N = chunk.known_NT(protocol, weighed), np.asarray(chunk.there_NM.any(axis=1))
    extra_N = np.zeros(len(present_N), np.int64)
    if protocol.surplus == "rows":
        extra_N = np.maximum(surface.there_NM.sum(axis=1) - known_NT.sum(axis=1), 0) * chunk.told_N(weighed)
    counts_N = known_NT.any(axis=1) & (present_N | (protocol.missing == "zero"))
    return _Rows(known_NT, extra_N, counts_N, protocol)


def _boxes(
    found: ChunkScores,
    chunk: SceneChunk,
    rows: _Rows,
    agreed: _Rows,
    surface: CanvasMaps,
    views: list[TruthView],
    iou_NTM: np.ndarray,
    ap_NTM: np.ndarray,
    paired: list[MapPairing],
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
                    f"i{name.removeprefix('c')}@{at:g}{star}": success_rate(worst_N, at, how.success_strict)
                    for at in how.iou_thresholds
                }
                found.columns[f"i{auc}{star}"] = success_auc(worst_N, how.auc_points)
        if how.ap not in ("dataset", "detection"):
            columns[ap] = agreed.mean(_paired(ap_NTM, for_ap_NT))
        found.columns |= {f"{name}{star}": column for name, column in columns.items()}
        if how.unit == "source" and chunk.sources > 1:
            numbers = {name: (agreed if name == ap else rows).number_N for name in columns}
            found.weights |= {f"{name}{star}": number_N.astype(np.float64) for name, number_N in numbers.items()}


def _stack(values: list[np.ndarray], surface: CanvasMaps) -> np.ndarray:
    return np.stack([each.reshape(surface.there_NM.shape) for each in values], axis=1)


def _paired(values_NTM: np.ndarray, map_NT: np.ndarray) -> np.ndarray:
    return np.where(map_NT >= 0, take_paired(values_NTM, map_NT), 0.0)


class _Cut(NamedTuple):
    """Of each binarised map the pixels, those of them inside the truth, and the truth's own, each (R,); and its IoU."""

    predicted_R: np.ndarray
    hit_R: np.ndarray
    area_R: np.ndarray
    iou_R: np.ndarray


def _cut(surface: CanvasMaps, view: TruthView, protocol: EvaluationProtocol, binarise: str) -> _Cut:
    """The maps cut; IoU is sum(P G) / (sum(G) + |P where G = 0|), G being 1/2 where one annotator alone is."""
    order, truth, voted = view
    at_R1 = map_threshold(surface, order, voted, protocol, binarise)
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


def _ap(view: TruthView, cut: _Cut, protocol: EvaluationProtocol) -> np.ndarray:
    """Average precision of each row: of the map, or in closed form of the binarised map, or of that as the truth."""
    if protocol.ap in ("dataset", "detection"):
        return np.zeros(len(cut.hit_R))
    if protocol.ap == "image" and isinstance(view.order, SortedPixels):
        return view.order.average_precision(view.truth)
    true_R, said_R = (cut.area_R, cut.predicted_R)[:: 1 if protocol.ap == "binary" else -1]
    recall_R, precision_R = (cut.hit_R / np.maximum(each, 1) for each in (true_R, said_R))
    return precision_R * recall_R + (1 - recall_R) * true_R / np.maximum(view.order.size_R, 1)


def _by_source(
    chunk: SceneChunk, rows: _Rows, agreed: _Rows, iou_NTM: np.ndarray, ap_NTM: np.ndarray, paired: MapPairing
) -> ChunkScores:
    """The map assigned to each source, with IoU and AP; unknown where a protocol scores only the union of sources."""
    n, s = len(rows.known_NS), chunk.sources
    if rows.known_NS.shape != (n, s):
        return ChunkScores(np.full((n, s), np.nan), np.full((n, s), np.nan), np.full((n, s), -1))
    iou_NS, ap_NS = _paired(iou_NTM, paired.for_iou_NS), _paired(ap_NTM, paired.for_ap_NS)
    unknown = (np.where(each.known_NS, 0.0, np.nan) for each in (rows, agreed))
    return ChunkScores(iou_NS + next(unknown), ap_NS + next(unknown), paired.for_iou_NS)


def _silence(surface: CanvasMaps, protocol: EvaluationProtocol, map_NS: np.ndarray, counts_N: np.ndarray) -> np.ndarray:
    """NSA: mean over the maps of no source of their share of pixels at most `silence_threshold`; NaN without such maps."""
    wanted_R1 = np.full((surface.there_NM.size, 1), protocol.silence_threshold)
    at_R1 = surface.scale(surface.order, protocol).onto(wanted_R1, strict=True).astype(np.float32)
    loud_R1, _ = surface.order.counts(0, at_R1, strict=True)
    quiet_NM = 1 - loud_R1[:, 0].reshape(surface.there_NM.shape) / surface.value_NMP.shape[-1]
    used_NM = (map_NS[:, :, None] == np.arange(quiet_NM.shape[1])).any(axis=1)
    silent_NM = surface.there_NM & ~used_NM & counts_N[:, None]
    count_N = silent_NM.sum(axis=1)
    return np.where(count_N > 0, np.where(silent_NM, quiet_NM, 0.0).sum(axis=1) / np.maximum(count_N, 1), np.nan)


def _pooled(
    found: ChunkScores, chunk: SceneChunk, surface: CanvasMaps, views: list[TruthView], rows: _Rows, agreed: _Rows
) -> None:
    """What the numbers of the whole set need of each scene, into `found`."""
    how, (order, truth, _) = rows.protocol, views[0]
    if how.ap not in ("dataset", "detection") or not isinstance(order, SortedPixels):
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
        found.pools["pxap"] = make_pool("pxap", kept * counts_N[:, None, None].astype(np.uint32), counts_N)
    if how.ap == "detection":
        told_N = chunk.told_N(chunk.weighs(how))
        sure_N = np.where(surface.there_NM[:, 0], scale.of(order.top_mean(CONFIDENT)), -np.inf)
        for at in how.iou_thresholds:
            found.columns[f"loc_acc@{at:g}"] = found.columns[f"iou@{at:g}"]
            kept = np.stack([np.nan_to_num(found.iou_NS[:, 0]), sure_N, rows.known_NS[:, 0]], axis=1)
            kept[~told_N] = 0.0
            found.pools[f"detection@{at:g}"] = make_pool(f"detection@{at:g}", kept, told_N)


def _ceil(values: np.ndarray) -> np.ndarray:
    """The smallest float32 that is not below each value, so that a comparison with it is exact."""
    near = values.astype(np.float32)
    return np.where(near < values, np.nextafter(near, np.float32(np.inf)), near)
