"""Some scenes whose truth is known, and every surface made of their maps, once for all protocols that read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from raymix.precision import bits_of
from raymix.protocol import Protocol
from raymix.scoring.order import Order, Plain
from raymix.scoring.sheets import Empty, Sheets
from raymix.scoring.surface import Surface, combined, sorts, upsampled
from raymix.truth import Truth


class View(NamedTuple):
    """The pixels that a truth is held against, and the bits of that truth."""

    order: Order | Plain
    truth: int  # what all maps are held against: of several annotators the pixels that two have
    voted: int  # with the pixels that one annotator alone has, where the protocol weighs those; else the same


class Chunk:
    """N scenes of S sources with M maps at most; `same_NSM` says which maps are of a source's class, None if unnamed."""

    def __init__(
        self,
        maps_NMHW: np.ndarray,
        there_NM: np.ndarray,
        truth: Truth,
        same_NSM: np.ndarray | None,
        protocols: Sequence[Protocol],
        sheets: Sheets,
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
        self._made: dict[tuple[object, ...], Surface] = {}
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

    def weighs(self, protocol: Protocol) -> bool:
        """Whether a protocol weighs single votes, and there are some."""
        return self._voted and protocol.weighs_votes

    def told_N(self, weighed: bool) -> np.ndarray:
        """Scenes whose truth is known; if votes are not weighed, that of a source with single votes alone is not."""
        return np.ones(len(self._single_NS), bool) if weighed else np.asarray(~self._single_NS.any(axis=1))

    def known_NS(self, weighed: bool) -> np.ndarray:
        """Which sources have a pixel of truth."""
        return self._agreed_NS | self._single_NS if weighed else self._agreed_NS & self.told_N(False)[:, None]

    def known_NT(self, protocol: Protocol, weighed: bool) -> np.ndarray:
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

    def maps(self, protocol: Protocol) -> Surface:
        """All maps on the canvas."""
        predictions, labels = self._maps_NMHW.dtype == bool, (self._labels_NP, self._labelled)
        return self._once(
            ("predictions",) if predictions else (protocol.upsample, protocol.align_corners),
            lambda empty: upsampled(self._maps_NMHW, self.there_NM, labels, self._truth.canvas, protocol, empty),
        )

    def combines(self, protocol: Protocol) -> bool:
        """Whether a protocol makes one map of all maps: by its choices alone, not by how many maps there are."""
        if protocol.scope == "union" or protocol.match == "broadcast":
            return True
        named = protocol.match == "labels" and self.same_NSM is not None
        return self.sources == 1 and protocol.combine != "best" and not named

    def surface(self, protocol: Protocol) -> Surface:
        """What a protocol holds against truth: all maps, or one of all of them."""
        return self._combined(protocol) if self.combines(protocol) else self.maps(protocol)

    def mean(self, protocol: Protocol) -> Surface:
        """The one map that PIAP is of."""
        return self._combined(protocol)

    def views(self, surface: Surface, protocol: Protocol) -> list[View]:
        """For each truth of a protocol the pixels that count, sorted where that is needed, and the bits of that truth."""
        truths = [self.union] if protocol.scope == "union" else [1 << source for source in range(self.sources)]
        weighed = self.weighs(protocol)
        pairs = [(truth, truth | truth << self._ones if weighed else truth) for truth in truths]
        if not sorts(protocol):
            return [View(surface.plain, *bits) for bits in pairs]
        if protocol.scope == "panel" and self._panels:
            return [View(surface.panel(self.sources + source), *bits) for source, bits in enumerate(pairs)]
        return [View(surface.order, *bits) for bits in pairs]

    def _combined(self, protocol: Protocol) -> Surface:
        again = self.sources == 1
        how = (protocol.upsample, protocol.align_corners, protocol.combine)
        normalise = "raw" if protocol.normalise in ("none", "affine") else protocol.normalise
        return self._once((*how, normalise), lambda empty: combined(self.maps(protocol), protocol, again, empty))

    def _once(self, key: tuple[object, ...], make: Callable[[Empty], Surface]) -> Surface:
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
        return self._placed_NP | bits_of(np.concatenate([below_NSP, self._halves_NSP], axis=1))

    @property
    def _placed_NP(self) -> np.ndarray:
        if not self._panels:
            return bits_of(self._masks_NSP)
        ways_WS, way_N = np.unique(self._truth.panels_NS, axis=0, return_inverse=True)
        inside_QP = _inside(self._truth).reshape(len(self._truth.rects_P4), self._masks_NSP.shape[2])
        empty_WSP = np.zeros((len(ways_WS), *self._masks_NSP.shape[1:]), bool)
        panels_WP = bits_of(np.concatenate([empty_WSP, inside_QP[ways_WS]], axis=1))
        return bits_of(self._masks_NSP) | panels_WP[way_N.ravel()]


def _inside(truth: Truth) -> np.ndarray:
    """Which pixels of the canvas lie in each panel, (panels, Y, X)."""
    (y, x), rects = truth.canvas, truth.rects_P4
    across = [(r[0] <= np.arange(x)) & (np.arange(x) < r[2]) for r in rects]
    down = [(r[1] <= np.arange(y)) & (np.arange(y) < r[3]) for r in rects]
    return np.stack([rows[:, None] & columns for rows, columns in zip(down, across, strict=True)])


def _one_panel(truth: Truth) -> bool:
    return len(truth.rects_P4) == 1 and bool(_inside(truth).all())
