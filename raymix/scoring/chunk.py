"""Some scenes whose truth is known, and every surface made of their maps, once for all protocols that read it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from raymix.precision import bits_of
from raymix.protocol import Protocol
from raymix.scoring.order import Order, Plain
from raymix.scoring.sheets import Empty, Sheets
from raymix.scoring.surface import Surface, combined, sorts, upsampled
from raymix.truth import Truth


class Chunk:
    """N scenes of S sources with M maps at most; `same_NSM` says which maps are of a source's class, None if unnamed."""

    def __init__(
        self,
        maps_NMHW: np.ndarray,
        there_NM: np.ndarray,
        truth: Truth,
        same_NSM: np.ndarray | None,
        panels: bool,
        sheets: Sheets,
    ) -> None:
        n, self.sources = truth.panels_NS.shape
        masks_NSYX = np.zeros((n, self.sources, *truth.canvas), bool) if truth.masks_NSYX is None else truth.masks_NSYX
        self.there_NM, self.same_NSM = there_NM, same_NSM
        self._maps_NMHW, self._truth = maps_NMHW, truth
        self._masks_NSP = masks_NSYX.reshape(n, self.sources, truth.canvas[0] * truth.canvas[1])
        self._panels = panels and not _one_panel(truth)
        bits = self.sources * (2 if self._panels else 1)
        if bits > 32:
            raise ValueError(
                f"layout {truth.layout}: {self.sources} sources, a sorting key holds 32, or 16 with panels"
            )
        self._made: dict[tuple[object, ...], Surface] = {}
        self._sheets = sheets

    @cached_property
    def known_NS(self) -> np.ndarray:
        """Which sources have a pixel of truth."""
        return np.asarray(self._masks_NSP.any(axis=-1))

    def known_NT(self, protocol: Protocol) -> np.ndarray:
        """Which truths a protocol holds maps against: those of sources, or (T = 1) the union of all."""
        return np.asarray(self.known_NS.any(axis=1, keepdims=True)) if protocol.scope == "union" else self.known_NS

    @property
    def union(self) -> int:
        """The bits of all sources."""
        return (1 << self.sources) - 1

    def maps(self, protocol: Protocol) -> Surface:
        """All maps on the canvas."""
        predictions, labels = self._maps_NMHW.dtype == bool, (self._labels_NP, self.union)
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

    def views(self, surface: Surface, protocol: Protocol) -> list[tuple[Order | Plain, int]]:
        """For each truth of a protocol the pixels that count, sorted where that is needed, and the bits of that truth."""
        truths = [self.union] if protocol.scope == "union" else [1 << source for source in range(self.sources)]
        if not sorts(protocol):
            return [(surface.plain, truth) for truth in truths]
        if protocol.scope == "panel" and self._panels:
            return [(surface.panel(self.sources + source), truth) for source, truth in enumerate(truths)]
        return [(surface.order, truth) for truth in truths]

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
        """Bit s: the pixel is in source s; bit S + s, where panels matter: it is in the panel of source s."""
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
