"""What is known about evaluation scenes: which panels sound, and where; read by scoring and null systems.

Serves Section 4.2 and 4.3 of the paper (single frames, concatenated frames, 2x2 grids). Plain arrays, so that whoever
has truth in another form can be scored beside raymix without its readers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Truth:
    """What is known about N scenes of one layout; ValueError where the parts do not fit together."""

    ids: tuple[str, ...]
    videos: tuple[tuple[str, ...], ...]  # of the sounding clips, then of the silent ones
    layout: str
    canvas: tuple[int, int]  # Y, X in pixels
    panels_NS: np.ndarray  # panel of each sounding source
    rects_P4: np.ndarray  # x0, y0, x1, y1 in pixels
    masks_NSYX: np.ndarray | None
    has_truth_N: np.ndarray
    scenes_hash: str
    labels: tuple[tuple[str, ...], ...] | None = None  # class of each source, '' where it is unknown
    preprocessing: str = ""  # hash of the settings that made the clips, '' where it is unknown
    halves_NSYX: np.ndarray | None = None  # pixels that one annotator alone has, where masks are of those that two have

    def __post_init__(self) -> None:
        n, (s, (y, x)) = len(self.ids), (self.panels_NS.shape[-1], self.canvas)
        shapes = {"videos": (n,), "panels_NS": (n, s), "has_truth_N": (n,), "labels": (n,)}
        shapes |= {"masks_NSYX": (n, s, y, x), "halves_NSYX": (n, s, y, x)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            found = (len(value),) if isinstance(value, tuple) else np.shape(value)
            if value is not None and found != shape:
                raise ValueError(f"truth: {name} has shape {found}, {n} scenes on a {y}x{x} canvas need {shape}")
        for scene, names in zip(self.ids, self.labels or (), strict=self.labels is not None):
            if len(names) != s:
                raise ValueError(f"truth: scene {scene} has {len(names)} labels, its {s} sources need one each")
        if n and not 0 <= self.panels_NS.min() <= self.panels_NS.max() < len(self.rects_P4):
            raise ValueError(f"truth: panels_NS names a panel outside 0..{len(self.rects_P4) - 1}")

    @staticmethod
    def of(scenes: Any) -> Truth:
        """The truth of `raymix.scene.Scenes`, read by attribute."""
        masks = None if scenes.masks_NSYX is None else _array(scenes.masks_NSYX).astype(bool)
        halves = getattr(scenes, "halves_NSYX", None)  # nor single votes, as few sets have several annotators
        halves = None if halves is None else _array(halves).astype(bool)
        known = np.full(len(scenes.ids), masks is not None)
        if scenes.has_truth_N is not None:
            known &= _array(scenes.has_truth_N).astype(bool)
        y, x = (int(size) for size in scenes.frames_N3YX.shape[-2:])
        videos = tuple(tuple(each) for each in scenes.videos)
        panels_NS, rects_P4 = _array(scenes.panels_NS), _array(scenes.rects_P4)
        named = getattr(scenes, "labels", None)  # not every maker of scenes knows classes
        labels = None if named is None else tuple(tuple(map(str, each)) for each in named)
        where = scenes.layout, (y, x), panels_NS, rects_P4
        made = getattr(scenes, "preprocessing", "")
        return Truth(tuple(scenes.ids), videos, *where, masks, known, scenes.hash, labels, made, halves)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def alone_N(self) -> np.ndarray:
        """Scenes with a source on which no two annotators agree."""
        if self.masks_NSYX is None or self.halves_NSYX is None:
            return np.zeros(len(self), bool)
        agreed_NS, voted_NS = (np.asarray(each.any(axis=(2, 3))) for each in (self.masks_NSYX, self.halves_NSYX))
        return np.asarray((voted_NS & ~agreed_NS).any(axis=1)) & self.has_truth_N

    def heard(self) -> tuple[tuple[str, ...], ...]:
        """The different videos heard in each scene, the units of the bootstrap; of one clip in which two things sound, one.

        Those of silent panels are left out: drawn too, they made the intervals of simulated 2x2 scenes 1.4 to 3 times as
        wide as need be. Without them the nominal 95 % held in at least 92 % of the sets where a silent video mattered half
        as much as one that is heard, in at least 88 % where it mattered as much.
        """
        return tuple(tuple(dict.fromkeys(names[: self.panels_NS.shape[1]])) for names in self.videos)

    def facts(self) -> dict[str, Any]:
        """What must be known of the scenes that a number is of; `videos` are those that are heard."""
        return {
            "layout": self.layout,
            "scenes_hash": self.scenes_hash,
            "preprocessing": self.preprocessing,
            "scenes": len(self),
            "videos": len({video for videos in self.heard() for video in videos}),
            "scenes_with_regions": int(self.has_truth_N.sum()),
            "canvas": list(self.canvas),
            "sounding": self.panels_NS.shape[1],
            "panels": len(self.rects_P4),
        }

    def take(self, index: np.ndarray) -> Truth:
        """The scenes of these indices; the hash stays that of the set they belong to."""
        run = len(index) > 0 and index[0] >= 0 and bool((np.diff(index) == 1).all())
        place = slice(index[0], index[-1] + 1) if run else index  # neighbours need no copy of their masks
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            videos=tuple(self.videos[i] for i in index),
            panels_NS=self.panels_NS[place],
            masks_NSYX=None if self.masks_NSYX is None else self.masks_NSYX[place],
            halves_NSYX=None if self.halves_NSYX is None else self.halves_NSYX[place],
            has_truth_N=self.has_truth_N[place],
            labels=None if self.labels is None else tuple(self.labels[i] for i in index),
        )


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)
