"""Clips -> evaluation scenes with known answers: one of `raymix.data.layouts.LAYOUTS` (4.1 to 4.3).

Which panels sound is known by construction, so scenes of held-out videos rank models without a single box. The clips of
a scene are drawn from a seed, or named by a pair list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymix.data.audio import mix_sounds, window_frames
from raymix.data.batches import SceneBatch
from raymix.data.layouts import draw_scenes, draw_shuffled_audio_permutation, panel_boxes, panel_grid
from raymix.data.pair_lists import PairList
from raymix.data.records import ClipTable
from raymix.metrics.ground_truth import SceneOutline, masks_on_canvas

USUAL = ("sum", "rms")  # mixing rule and level


def compose_scenes(
    clips: ClipTable,
    *,
    layout: str,
    count: int,
    seed: int,
    seconds: float = 0.96,
    rule: str = "sum",
    level: str = "rms",
    sources: int | None = None,
    fewer: bool = False,
) -> SceneBatch:
    """At most `count` scenes of whole frames and centred windows, the same for the same seed and clip ids in any order.

    "single" is one clip (never one twice), "hconcat" sounding clips in one row (two, or 1 to 4 `sources`), "vconcat"
    the same one above the other, "grid2x2" four clips of which two sound, "solo2x2" four of which one does, "natural" one
    clip with so many sounding sources of its own (with `fewer`: at most so many, those that it lacks have empty masks, as in
    the duets of MUSIC, of which many frames have one box). The panels of a scene are of different videos and, where at least so
    many labels are known, of different labels; labels are used for nothing else. Raises ValueError for an unknown layout
    or too few videos.
    """
    wanted = panel_grid(layout, sources)[2]
    frames = window_frames(seconds, clips.stft.shape[1])
    if layout == "natural":
        clips = clips.with_sources(wanted, fewer)
    drawn = draw_scenes(clips.clip_id, clips.video, clips.label, layout=layout, count=count, seed=seed, sources=sources)
    start = (clips.stft.shape[1] - frames) // 2
    cast = [drawn.ids, clips.clip_id[drawn.clips_NP].tolist(), drawn.place_NP.tolist()]
    told = [layout, seed, *cast, start, frames]
    if (rule, level) != USUAL:  # the hash of the usual scenes never changes
        told += [rule, level]
    stage = _SceneComposition(layout, drawn.ids, drawn.clips_NP, drawn.place_NP, drawn.heard)
    return stage.show(clips, start, frames, rule, level, told)


def compose_listed_scenes(
    clips: ClipTable, pairs: PairList, *, seconds: float = 0.96, rule: str = "sum", level: str = "rms"
) -> SceneBatch:
    """The scenes of a pair list, in the order of their ids; the list, its id, rule and level are part of their hash.

    A duet has as many sources as any of the list's clips; those that a clip lacks have empty masks, and so has a frame
    that hears another clip. Raises ValueError naming the row of the list whose clip is not there.
    """
    frames = window_frames(seconds, clips.stft.shape[1])
    start = (clips.stft.shape[1] - frames) // 2
    seen_NP = pairs.find(clips)
    sounding_NP = np.array([[panel.sounding for panel in panels] for panels in pairs.scenes])
    gain_NP = np.array([[panel.gain for panel in panels] for panels in pairs.scenes])
    place_NP = np.argsort(~sounding_NP, axis=1, kind="stable")  # the first ones sound
    cast_NP = np.take_along_axis(seen_NP, place_NP, axis=1)
    told = [pairs.id, pairs.hash, rule, level, clips.clip_id[cast_NP].tolist(), start, frames]
    gain_NP, sounds_N1 = np.take_along_axis(gain_NP, place_NP, axis=1), pairs.sounds(clips, seen_NP)
    if sounds_N1 is not None:
        told.append(clips.clip_id[sounds_N1].tolist())
    stage = _SceneComposition(pairs.layout, pairs.ids, cast_NP, place_NP, int(sounding_NP[0].sum()), gain_NP, sounds_N1)
    return stage.show(clips, start, frames, rule, level, told)


@dataclass(frozen=True)
class _SceneComposition:
    """Who stands where: clips of each scene, their panels, and how many of them (the first ones) are heard."""

    layout: str
    ids: list[str]
    cast_NP: np.ndarray
    place_NP: np.ndarray
    heard: int
    gain_NP: np.ndarray | None = None
    sounds_NS: np.ndarray | None = None  # the clips that are heard, where some are heard in another's place

    def show(self, clips: ClipTable, start: int, frames: int, rule: str, level: str, told: list[Any]) -> SceneBatch:
        """The scenes; `told` is what their hash is of."""
        many = self.cast_NP.shape[1] if self.layout in ("hconcat", "vconcat") else None
        rows, columns, _ = panel_grid(self.layout, many)
        rects = panel_boxes(rows, columns, *clips.frames.shape[2:4])
        heard_NS, panels_NS = self.cast_NP[:, : self.heard], self.place_NP[:, : self.heard].copy()
        gain_NS = None if self.gain_NP is None else self.gain_NP[:, : self.heard]
        seen_NP = np.take_along_axis(self.cast_NP, np.argsort(self.place_NP, axis=1), axis=1)  # clip in each panel
        silent_N = None if self.sounds_NS is None else (self.sounds_NS != heard_NS).any(axis=1)
        masks_NSYX, halves_NSYX = (
            None if each is None else masks_on_canvas(each, heard_NS, panels_NS, rects, silent_N)
            for each in (clips.masks, clips.halves)
        )
        sounds_NS = heard_NS if self.sounds_NS is None else self.sounds_NS
        label_NS = clips.label[sounds_NS]
        if self.layout == "natural":
            (masks_NSYX, label_NS), halves_NSYX = self._own_sources(clips), None
            panels_NS = np.zeros(label_NS.shape, np.int64)
        return SceneBatch(
            layout=self.layout,
            ids=self.ids,
            videos=[tuple(map(str, names)) for names in clips.video[self.cast_NP]],
            frames_N3YX=_canvas(clips.frames[:, 0], seen_NP, rows, columns),
            mixture_NTF=_soundtrack(clips.stft, sounds_NS, start, frames, rule, level, gain_NS),
            panels_NS=torch.from_numpy(panels_NS),
            rects_P4=torch.tensor(rects),
            masks_NSYX=None if masks_NSYX is None else torch.from_numpy(masks_NSYX),
            halves_NSYX=None if halves_NSYX is None else torch.from_numpy(halves_NSYX),
            has_truth_N=self._known(clips, silent_N),
            hash=blake2b(json.dumps(told).encode(), digest_size=8).hexdigest(),
            labels=[tuple(names) for names in label_NS.tolist()],
            preprocessing=clips.preprocessing,
            outline=self._outline(clips, panels_NS, np.array(rects), silent_N),
        )

    def _known(self, clips: ClipTable, silent_N: np.ndarray | None) -> Tensor | None:
        """Scenes of which it is known where all that is heard is, or (of single frames) that nothing is to be seen of it."""
        if clips.has_truth is None:
            return None
        heard_NS = self.cast_NP[:, : self.heard]
        known_N = clips.has_truth[heard_NS].all(axis=1)
        if self.layout == "single" and clips.quiet is not None:
            known_N |= clips.quiet[heard_NS[:, 0]]
        return torch.from_numpy(known_N if silent_N is None else known_N | silent_N)

    def _outline(
        self, clips: ClipTable, panels_NS: np.ndarray, rects_P4: np.ndarray, silent_N: np.ndarray | None
    ) -> SceneOutline | None:
        if clips.regions is None:
            return None
        cast_NC, own = self.cast_NP[:, : self.heard], self.layout == "natural"
        whole = SceneOutline(clips.regions, cast_NC, panels_NS, rects_P4, own, silent_N)
        return whole.take(np.arange(len(panels_NS)))  # without the clips that no scene has

    def _own_sources(self, clips: ClipTable) -> tuple[np.ndarray | None, np.ndarray]:
        """Masks (N, S, Y, X) and labels (N, S) of the sources of each clip that is shown whole; S is the most that one has."""
        if clips.sources is None:
            raise ValueError("layout=natural: these clips came without the regions of each source")
        masks_NSYX, cast_N = clips.sources[self.cast_NP[:, 0]], self.cast_NP[:, 0]
        most = max(int(masks_NSYX.any(axis=(2, 3)).sum(axis=1).max()), 1)
        label_NS = np.full((len(cast_N), most), "") if clips.source_label is None else clips.source_label[cast_N, :most]
        return None if clips.masks is None else np.ascontiguousarray(masks_NSYX[:, :most]), label_NS


def _canvas(frames_NYX3: np.ndarray, seen_NP: np.ndarray, rows: int, columns: int) -> Tensor:
    size_Y, size_X = frames_NYX3.shape[1:3]
    channels = frames_NYX3.shape[3]  # none of outlines
    panels = frames_NYX3[seen_NP].reshape(len(seen_NP), rows, columns, size_Y, size_X, channels)
    canvas = panels.transpose(0, 5, 1, 3, 2, 4).reshape(len(seen_NP), channels, rows * size_Y, columns * size_X)
    return torch.from_numpy(canvas)


def _soundtrack(
    stft: np.ndarray, heard_NS: np.ndarray, start: int, frames: int, rule: str, level: str, gain_NS: np.ndarray | None
) -> Tensor:
    if not stft.shape[2]:  # of outlines
        return torch.empty((len(heard_NS), frames, 0), dtype=torch.complex64)
    parts = []
    for scenes in np.array_split(
        np.arange(len(heard_NS)), max(1, len(heard_NS) // 64)
    ):  # bounds what is float32 at once
        starts, gain = np.full(heard_NS[scenes].shape, start), None if gain_NS is None else gain_NS[scenes]
        parts.append(mix_sounds(stft, heard_NS[scenes], starts, frames, rule=rule, level=level, gain_BK=gain)[0])
    return torch.cat(parts)


def shuffled_audio_permutation(scenes: SceneBatch, seed: int) -> np.ndarray:
    """Return for each scene the index of another one whose audio replaces its own in the shuffled-audio control."""
    return draw_shuffled_audio_permutation(
        scenes.ids, [names[: scenes.panels_NS.shape[1]] for names in scenes.videos], seed
    )
