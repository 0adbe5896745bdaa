"""Clips -> evaluation scenes with known answers: single, side by side, 2x2 with two or three silent panels (4.1, 4.3).

Which panels sound is known by construction, so scenes of held-out videos rank models without a single box.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from raymix.clip import Clips
from raymix.spectrogram import one_of, superpose, window_frames

LAYOUTS = {  # panel rows, columns, sounding panels
    "single": (1, 1, 1),
    "hconcat": (1, 2, 2),
    "grid2x2": (2, 2, 2),
    "solo2x2": (2, 2, 1),
}


@dataclass(frozen=True)
class Scenes:
    """N evaluation scenes of one layout; the truth stays on the CPU."""

    layout: str
    ids: list[str]
    videos: list[tuple[str, ...]]  # the sounding clips' videos in panel order, then the silent ones'
    frames_N3YX: Tensor  # uint8 canvas
    mixture_NTF: Tensor  # complex64
    panels_NS: Tensor  # int64, panel of each sounding source, ascending
    rects_P4: Tensor  # int64, panels as x0, y0, x1, y1 in canvas pixels, row-major
    masks_NSYX: Tensor | None  # bool, where each sounding source is on the canvas
    has_truth_N: Tensor | None  # bool, every sounding source has a region
    hash: str  # of layout, seed, ids, clips and windows

    def __len__(self) -> int:
        return len(self.ids)

    def with_audio(self, index_N: Sequence[int] | Tensor) -> Scenes:
        """The twin in which scene i hears scene `index_N[i]`."""
        return replace(self, mixture_NTF=self.mixture_NTF[torch.as_tensor(index_N, device=self.mixture_NTF.device)])

    def silent(self) -> Scenes:
        """The twin that hears digital silence."""
        return replace(self, mixture_NTF=torch.zeros_like(self.mixture_NTF))

    def batches(self, size: int) -> Iterator[Scenes]:
        """These scenes in order, `size` at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield replace(
                self,
                ids=self.ids[part],
                videos=self.videos[part],
                frames_N3YX=self.frames_N3YX[part],
                mixture_NTF=self.mixture_NTF[part],
                panels_NS=self.panels_NS[part],
                masks_NSYX=None if self.masks_NSYX is None else self.masks_NSYX[part],
                has_truth_N=None if self.has_truth_N is None else self.has_truth_N[part],
            )

    def to(self, device: torch.device | str) -> Scenes:
        """What a model reads (canvas and sound) on another device."""
        return replace(self, frames_N3YX=self.frames_N3YX.to(device), mixture_NTF=self.mixture_NTF.to(device))


def compose(
    clips: Clips, *, layout: str, count: int, seed: int, seconds: float = 0.96, rule: str = "sum", level: str = "rms"
) -> Scenes:
    """At most `count` scenes of whole frames and centred windows, the same for the same seed and clip ids in any order.

    "single" is one clip (never one twice), "hconcat" two sounding clips side by side, "grid2x2" four clips of which two
    sound, "solo2x2" four of which one does. The panels of a scene are of different videos and, where at least so many
    labels are known, of different labels; labels are used for nothing else. Raises
    ValueError for an unknown layout or too few videos.
    """
    rows, columns, sources = LAYOUTS[one_of("layout", layout, tuple(LAYOUTS))]
    panels, frames = rows * columns, window_frames(seconds, clips.stft.shape[1])
    clips = clips.take(np.argsort(clips.clip_id))
    seed_bytes = blake2b(json.dumps([layout, seed, clips.clip_id.tolist()]).encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(seed_bytes, "little"))
    cast_NP = _cast(clips, min(count, len(clips)) if layout == "single" else count, panels, rng)
    place_NP = np.stack([rng.permutation(panels) for _ in cast_NP])  # panel of each clip; the first `sources` sound
    place_NP[:, :sources].sort(axis=1)
    seen_NP = np.take_along_axis(cast_NP, np.argsort(place_NP, axis=1), axis=1)  # clip in each panel
    start = (clips.stft.shape[1] - frames) // 2
    ids = [f"{layout}-{seed}-{number:05d}" for number in range(len(cast_NP))]
    told = [layout, seed, ids, clips.clip_id[cast_NP].tolist(), place_NP.tolist(), start, frames]
    size_Y, size_X = clips.frames.shape[2:4]
    rects = [(c * size_X, r * size_Y, (c + 1) * size_X, (r + 1) * size_Y) for r in range(rows) for c in range(columns)]
    return Scenes(
        layout=layout,
        ids=ids,
        videos=[tuple(map(str, names)) for names in clips.video[cast_NP]],
        frames_N3YX=_canvas(clips.frames[:, 0], seen_NP, rows, columns),
        mixture_NTF=_soundtrack(clips.stft, cast_NP[:, :sources], start, frames, rule, level),
        panels_NS=torch.from_numpy(place_NP[:, :sources].copy()),
        rects_P4=torch.tensor(rects),
        masks_NSYX=None if clips.masks is None else _masks(clips.masks, cast_NP, place_NP[:, :sources], rects),
        has_truth_N=None if clips.has_truth is None else torch.from_numpy(clips.has_truth[cast_NP[:, :sources]].all(1)),
        hash=blake2b(json.dumps(told).encode(), digest_size=8).hexdigest(),
    )


def _cast(clips: Clips, count: int, panels: int, rng: np.random.Generator) -> np.ndarray:
    """Clips of each scene, (count, panels): in a random order, so which of them sound says nothing about their labels."""
    apart = len(set(clips.label) - {""}) >= panels
    if panels == 1:
        return rng.permutation(len(clips))[:count, None]
    casts = np.empty((count, panels), np.int64)
    for scene in range(count):
        cast: list[int] = []
        for clip in rng.permutation(len(clips)):
            label = clips.label[clip] if apart else ""
            if clips.video[clip] not in clips.video[cast] and (not label or label not in clips.label[cast]):
                cast.append(int(clip))
            if len(cast) == panels:
                break
        else:
            raise ValueError(
                f"a scene needs {panels} clips of different videos{' and labels' if apart else ''}; "
                f"there are {len(clips)} clips of {len(set(clips.video))} videos"
            )
        casts[scene] = rng.permutation(cast)  # rare labels are found last: without this they would seldom sound
    return casts


def _canvas(frames_NYX3: np.ndarray, seen_NP: np.ndarray, rows: int, columns: int) -> Tensor:
    size_Y, size_X = frames_NYX3.shape[1:3]
    panels = frames_NYX3[seen_NP].reshape(len(seen_NP), rows, columns, size_Y, size_X, 3)
    canvas = panels.transpose(0, 5, 1, 3, 2, 4).reshape(len(seen_NP), 3, rows * size_Y, columns * size_X)
    return torch.from_numpy(canvas)


def _soundtrack(stft: np.ndarray, heard_NS: np.ndarray, start: int, frames: int, rule: str, level: str) -> Tensor:
    parts = []
    for chunk in np.array_split(heard_NS, max(1, len(heard_NS) // 64)):  # bounds what is held in float32 at once
        starts = np.full(chunk.shape, start)
        parts.append(superpose(stft, chunk, starts, frames, rule=rule, level=level)[0])
    return torch.cat(parts)


def _masks(
    masks_NYX: np.ndarray, cast_NP: np.ndarray, panels_NS: np.ndarray, rects: Sequence[tuple[int, ...]]
) -> Tensor:
    count, sources = panels_NS.shape
    out = np.zeros((count, sources, max(r[3] for r in rects), max(r[2] for r in rects)), bool)
    for scene in range(count):
        for source in range(sources):
            left, top, right, bottom = rects[panels_NS[scene, source]]
            out[scene, source, top:bottom, left:right] = masks_NYX[cast_NP[scene, source]]
    return torch.from_numpy(out)


def derangement(scenes: Scenes, seed: int) -> np.ndarray:
    """For each scene another whose sound it may hear as a control: never itself, nor one that shares a sounding video.

    A permutation where swapping finds one, else some sounds serve twice. ValueError where a scene has no stranger.
    """
    rng = np.random.default_rng(seed)
    sounding = [set(names[: scenes.panels_NS.shape[1]]) for names in scenes.videos]
    count = len(sounding)
    index_N = rng.permutation(count)
    for i in range(count):
        if sounding[i].isdisjoint(sounding[index_N[i]]):
            continue
        strangers = [j for j in rng.permutation(count) if sounding[i].isdisjoint(sounding[index_N[j]])]
        swaps = (j for j in strangers if sounding[j].isdisjoint(sounding[index_N[i]]))
        j = next(swaps, None)
        if j is not None:
            index_N[i], index_N[j] = index_N[j], index_N[i]
            continue
        free = [m for m in rng.permutation(count) if sounding[i].isdisjoint(sounding[m])]
        if not free:
            raise ValueError(f"scene {scenes.ids[i]}: all others share a sounding video with it; use more scenes")
        index_N[i] = free[0]
    return index_N
