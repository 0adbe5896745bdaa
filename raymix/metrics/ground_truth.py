"""Ground truth of evaluation scenes: which panels sound, and the masks of the sources.

Serves Section 4.2 and 4.3 of the paper (single frames, concatenated frames, 2x2 grids). Plain arrays, so that whoever
has truth in another form can be scored beside raymix without its readers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raymix.metrics.regions import masks_by_source, union_mask

_SOME = 64  # scenes whose masks are in memory at once, where a truth has none yet


@dataclass(frozen=True)
class SceneOutline:
    """Where the sources of N scenes are, as the rows of their clips say it: masks that are drawn when a shard needs them."""

    regions: np.ndarray  # object (clips,), the regions of each clip
    clips_NC: np.ndarray  # the clip of each source; where they are sources of one clip, that one
    panels_NS: np.ndarray
    rects_P4: np.ndarray
    own: bool  # sources of one clip
    silent_N: np.ndarray | None = None  # bool, scenes in which nothing that is visible sounds; None: there are none

    @property
    def votes(self) -> bool:
        """Whether any of the regions is one annotator's alone."""
        return any(region["weight"] < 1 for regions in self.regions for region in regions or ())

    def take(self, index: np.ndarray) -> SceneOutline:
        """Those of some scenes, with the regions of their clips and no others."""
        clips, at = np.unique(self.clips_NC[index], return_inverse=True)
        at_NC = at.reshape(len(index), self.clips_NC.shape[1])
        silent_N = None if self.silent_N is None else self.silent_N[index]
        return replace(
            self, regions=self.regions[clips], clips_NC=at_NC, panels_NS=self.panels_NS[index], silent_N=silent_N
        )

    def draw(self) -> dict[str, Any]:
        """What `SceneGroundTruth` has of them, by name: `masks_NSYX`, `halves_NSYX`."""
        size, regions = int(self.rects_P4[0][3] - self.rects_P4[0][1]), list(self.regions)
        if not self.own:
            masks_NYX, halves_NYX, _ = union_mask(regions, size)
            there = {"masks_NSYX": masks_NYX} | ({} if halves_NYX is None else {"halves_NSYX": halves_NYX})
            where = self.clips_NC, self.panels_NS, self.rects_P4
            return {name: masks_on_canvas(each_NYX, *where, self.silent_N) for name, each_NYX in there.items()}
        there_NSYX, (n, s) = (
            masks_by_source(regions, size)[0][self.clips_NC[:, 0], : self.panels_NS.shape[1]],
            self.panels_NS.shape,
        )
        masks_NSYX = np.zeros((n, s, size, size), bool)
        masks_NSYX[:, : there_NSYX.shape[1]] = there_NSYX
        return {"masks_NSYX": masks_NSYX}


def masks_on_canvas(
    masks_NYX: np.ndarray,
    clips_NS: np.ndarray,
    panels_NS: np.ndarray,
    rects_P4: Any,
    silent_N: np.ndarray | None = None,
) -> np.ndarray:
    """Masks of clips where the panels of scenes are, (N, S, Y, X) of the canvas; empty where nothing visible sounds."""
    rects = np.asarray(rects_P4)
    out_NSYX = np.zeros((*panels_NS.shape, rects[:, 3].max(), rects[:, 2].max()), bool)
    for scene, source in np.ndindex(*panels_NS.shape):
        left, top, right, bottom = rects[panels_NS[scene, source]]
        out_NSYX[scene, source, top:bottom, left:right] = masks_NYX[clips_NS[scene, source]]
    if silent_N is not None:
        out_NSYX[silent_N] = False
    return out_NSYX


@dataclass(frozen=True)
class SceneGroundTruth:
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
    outline: SceneOutline | None = None  # what `drawn` makes masks of, where there are none yet

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
    def of(scenes: Any) -> SceneGroundTruth:
        """The truth of `raymix.data.batches.SceneBatch`, read by attribute."""
        masks = None if scenes.masks_NSYX is None else _array(scenes.masks_NSYX).astype(bool)
        halves = getattr(scenes, "halves_NSYX", None)  # nor single votes, as few sets have several annotators
        halves = None if halves is None else _array(halves).astype(bool)
        known = np.full(len(scenes.ids), masks is not None)
        if scenes.has_truth_N is not None:
            known &= _array(scenes.has_truth_N).astype(bool)
        y, x = (int(size) for size in scenes.frames_N3YX.shape[-2:])
        videos = tuple(tuple(each) for each in scenes.videos)
        panels_NS, rects_P4 = _array(scenes.panels_NS), _array(scenes.rects_P4)
        named = getattr(scenes, "labels", None)  # scenes without class names
        labels = None if named is None else tuple(tuple(map(str, each)) for each in named)
        where = scenes.layout, (y, x), panels_NS, rects_P4
        made = getattr(scenes, "preprocessing", "")
        return SceneGroundTruth(tuple(scenes.ids), videos, *where, masks, known, scenes.hash, labels, made, halves)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def alone_N(self) -> np.ndarray:
        """Scenes with a source on which no two annotators agree."""
        if self.outline is not None and self.outline.votes:
            some = (np.arange(start, min(start + _SOME, len(self))) for start in range(0, len(self), _SOME))
            return np.concatenate([self.take(index).drawn().alone_N for index in some])
        if self.masks_NSYX is None or self.halves_NSYX is None:
            return np.zeros(len(self), bool)
        agreed_NS, voted_NS = (np.asarray(each.any(axis=(2, 3))) for each in (self.masks_NSYX, self.halves_NSYX))
        return np.asarray((voted_NS & ~agreed_NS).any(axis=1)) & self.has_truth_N

    def sounding_videos(self) -> tuple[tuple[str, ...], ...]:
        """The different sounding videos of each scene, the units of the bootstrap; of one clip in which two things sound, one.

        Those of silent panels are left out: drawn too, they made the intervals of simulated `grid2x2` scenes 1.4 to 3 times as
        wide as need be. Without them the nominal 95 % held in at least 92 % of the sets where a silent video mattered half
        as much as one that sounds, in at least 88 % where it mattered as much.
        """
        return tuple(tuple(dict.fromkeys(names[: self.panels_NS.shape[1]])) for names in self.videos)

    def facts(self) -> dict[str, Any]:
        """What must be known of the scenes that a number is of; `videos` are those that sound."""
        return {
            "layout": self.layout,
            "scenes_hash": self.scenes_hash,
            "preprocessing": self.preprocessing,
            "scenes": len(self),
            "videos": len({video for videos in self.sounding_videos() for video in videos}),
            "scenes_with_regions": int(self.has_truth_N.sum()),
            "canvas": list(self.canvas),
            "sounding": self.panels_NS.shape[1],
            "panels": len(self.rects_P4),
        }

    def drawn(self) -> SceneGroundTruth:
        """The same scenes with their masks, if those are not drawn yet."""
        return self if self.outline is None else replace(self, **self.outline.draw(), outline=None)

    def take(self, index: np.ndarray) -> SceneGroundTruth:
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
            outline=None if self.outline is None else self.outline.take(np.asarray(index)),
            has_truth_N=self.has_truth_N[place],
            labels=None if self.labels is None else tuple(self.labels[i] for i in index),
        )


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)
