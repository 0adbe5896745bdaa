"""A pair list in memory: scenes of one layout, the panels of each, and where their clips are in a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any

import numpy as np

from raymix.casting import draw, tag
from raymix.clip import Clips
from raymix.layout import arrange

INSTEAD = (
    "python -m raymix.prepare dataset=NAME pair_lists=[FILE] writes a list of the scenes whose clips are here, and counts the "
    "others"
)


@dataclass(frozen=True)
class Panel:
    """One row of a list: a clip (or a video and a time in it) in a panel."""

    scene_id: str
    place: int
    clip_id: str = ""
    video: str = ""
    time_s: float | None = None
    sounding: bool = True
    gain: float = 1.0
    label: str = ""
    heard: str = ""  # clip_id of another clip that is heard instead: nothing in the frame sounds
    row: int = 0  # in its file, from 1: for messages

    @property
    def named(self) -> tuple[Any, ...]:
        """What the row says of its clip."""
        return (self.clip_id,) if self.clip_id else (self.video, self.time_s)


@dataclass(frozen=True)
class Origin:
    """The list that was given, where a list has those of its scenes whose clips are in a dataset."""

    id: str
    hash: str
    scenes: int
    missing: int  # of these, scenes without their clips

    def said(self, here: int) -> str:
        """What must stand beside a number of `here` of its scenes; nothing where none is missing."""
        if not self.missing:
            return ""
        rest = self.scenes - self.missing - here
        left_out = f", {rest} left out" if rest else ""
        return f"{here} of {self.scenes} listed scenes, {self.missing} without their clips{left_out}"


@dataclass(frozen=True)
class PairList:
    """Scenes of one layout in the order of their ids, and the panels of each in the order of their places."""

    id: str
    layout: str
    scenes: tuple[tuple[Panel, ...], ...]
    origin: Origin | None = None  # no part of the content, nor of its hash

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def ids(self) -> list[str]:
        return [panels[0].scene_id for panels in self.scenes]

    @property
    def hash(self) -> str:
        """Sixteen hex digits that name the content."""
        told = [
            [[p.scene_id, p.place, *p.named, p.sounding, p.gain, *filter(None, [p.heard])] for p in panels]
            for panels in self.scenes
        ]
        return blake2b(json.dumps([self.layout, told]).encode(), digest_size=8).hexdigest()

    def take(self, count: int | None) -> PairList:
        """The first `count` scenes: a list with a hash of its own."""
        return replace(self, scenes=self.scenes[:count])

    def find(self, clips: Clips) -> np.ndarray:
        """Where each panel's clip stands in `clips`, (N, P); ValueError naming the row of one that is not there."""
        known = {name: place for place, name in enumerate(clips.clip_id.tolist())}
        of_video: dict[str, list[int]] = {}
        for place, name in enumerate(clips.video.tolist()):
            of_video.setdefault(name, []).append(place)
        found_NP = np.empty((len(self), len(self.scenes[0])), np.int64)
        for scene, panels in enumerate(self.scenes):
            for place, panel in enumerate(panels):
                where = f"pair list {self.id}, row {panel.row}, scene {panel.scene_id!r}"
                found_NP[scene, place] = at = _find(panel, clips, known, of_video, where)
                if at in found_NP[scene, :place]:
                    raise ValueError(f"{where}: clip {str(clips.clip_id[at])!r} is in this scene twice")
        return found_NP

    def sounds(self, clips: Clips, seen_NP: np.ndarray) -> np.ndarray | None:
        """The clip whose sound each single frame hears, (N, 1); None where all hear their own. ValueError as in `find`,
        which gave `seen_NP`."""
        if not any(panel.heard for panels in self.scenes for panel in panels):
            return None
        sounds_N1 = seen_NP.copy()
        known = {name: place for place, name in enumerate(clips.clip_id.tolist())}
        for scene, (panel, *_) in enumerate(self.scenes):
            where = f"pair list {self.id}, row {panel.row}, scene {panel.scene_id!r}, heard"
            if panel.heard:
                other = _find(Panel(panel.scene_id, 0, panel.heard), clips, known, {}, where)
                if clips.video[other] == clips.video[sounds_N1[scene, 0]]:
                    raise ValueError(f"{where}: clip {panel.heard!r} is of the same video, which is no other's sound")
                sounds_N1[scene, 0] = other
        return sounds_N1


def _find(panel: Panel, clips: Clips, known: Mapping[str, int], of_video: Mapping[str, list[int]], where: str) -> int:
    """Where the clip of a panel stands."""
    if panel.clip_id:
        if panel.clip_id not in known:
            raise ValueError(
                f"{where}: no clip {panel.clip_id!r} among {len(known)}{_near(panel.clip_id, known)}; {INSTEAD}"
            )
        return known[panel.clip_id]
    places = of_video.get(panel.video, [])
    if not places:
        raise ValueError(f"{where}: no clip of video {panel.video!r}{_near(panel.video, of_video)}; {INSTEAD}")
    if panel.time_s is None:
        if len(places) > 1:
            raise ValueError(f"{where}: video {panel.video!r} has {len(places)} clips; time_s must say which")
        return places[0]
    if clips.start_s is None or clips.duration_s is None:
        raise ValueError(f"{where}: these clips came without their times; name a clip_id")
    start_N, length_N = clips.start_s[places], clips.duration_s[places]
    holds = (start_N <= panel.time_s) & (panel.time_s <= start_N + length_N)
    if not holds.any():
        raise ValueError(f"{where}: no clip of video {panel.video!r} holds {panel.time_s:g} s; {INSTEAD}")
    off_N = np.where(holds, np.abs(start_N + length_N / 2 - panel.time_s), np.inf)
    return places[int(off_N.argmin())]


def _near(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def make(clips: Clips, *, layout: str, count: int, seed: int, sources: int | None = None, name: str = "") -> PairList:
    """The list of the scenes that `raymix.scene.compose` draws: the same for the same seed and clips in any order."""
    if layout == "natural":
        clips = clips.with_sources(arrange(layout, sources)[2])
    drawn = draw(clips.clip_id, clips.video, clips.label, layout=layout, count=count, seed=seed, sources=sources)
    scenes = []
    for scene, cast, places in zip(drawn.ids, drawn.clips_NP.tolist(), drawn.place_NP.tolist(), strict=True):
        panels = [
            Panel(scene, place, str(clips.clip_id[at]), sounding=rank < drawn.heard, label=str(clips.label[at]))
            for rank, (at, place) in enumerate(zip(cast, places, strict=True))
        ]
        scenes.append(tuple(sorted(panels, key=lambda panel: panel.place)))
    return PairList(name or f"{tag(layout, sources)}-{seed}", layout, tuple(scenes))
