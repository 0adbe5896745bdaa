"""Sounding accuracy: do the maps peak in exactly the panels that sound? It needs no region, and a model that listens."""

from __future__ import annotations

import numpy as np

from raymix.metrics import peak_panels, unit_range
from raymix.truth import Truth


def sounding_accuracy(maps_NMHW: np.ndarray, truth: Truth, present_NM: np.ndarray | None = None) -> np.ndarray:
    """True for each scene in which the panels where the maps peak are exactly the sounding panels.

    The sets must be equal: a surplus map that peaks in a silent panel spoils its scene, one that peaks in a sounding
    panel again, or is constant and so names none, does not; one map never names two panels. Chance therefore depends
    on the number of maps: `raymix.metrics.sounding_chance`, 1/6 for two maps in two different panels of four.
    """
    panels = np.arange(len(truth.rects_P4))
    peak_NM = peak_panels(maps_NMHW, truth.rects_P4, truth.canvas)
    if present_NM is not None:
        peak_NM = np.where(present_NM, peak_NM, -1)
    named_NP = (peak_NM[..., None] == panels).any(axis=1)
    return (named_NP == (truth.panels_NS[..., None] == panels).any(axis=1)).all(axis=1)


def heard(maps_NMHW: np.ndarray, truth: Truth, present_NM: np.ndarray) -> np.ndarray:
    """Sounding accuracy as 0 and 1; where one panel sounds, of the mean of the normalised maps, as in Section 4.4."""
    if truth.panels_NS.shape[1] == 1:
        count_N = np.maximum(present_NM.sum(axis=1), 1).astype(np.float32)
        maps_NMHW = unit_range(maps_NMHW).sum(axis=1, keepdims=True, dtype=np.float32) / count_N[:, None, None, None]
        present_NM = present_NM[:, :1]
    return sounding_accuracy(maps_NMHW, truth, present_NM).astype(np.float64)
