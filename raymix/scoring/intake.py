"""What is handed in to be scored, refused in one line that names the scene, or stacked into one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raymix.truth import Truth

Maps = np.ndarray | Sequence[np.ndarray | None]
"""Raw maps of all scenes: an array (N, M, H, W), or one (M, H, W) per scene, None where a prediction is missing.
Maps of type bool are predictions already: taken as they are, at the size of the canvas."""

Classes = Sequence[str] | Sequence[Sequence[str] | None]
"""What the maps are called, by the names that `Truth.labels` has: one name a map, the same in all scenes, or such names
for each scene (None where a prediction is missing)."""


def stack(rows: list[np.ndarray | None], truth: Truth, like_MHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def same_class(classes: Classes, index: np.ndarray, truth: Truth, present_NM: np.ndarray) -> np.ndarray:
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
