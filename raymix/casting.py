"""Which clips stand in which panels of a scene, and which of them sound: drawn from a seed, knowing names alone.

Serves the random pairs of Section 4.2 (`hconcat`) and the `grid2x2` scenes of MUSIC-Synthetic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from raymix.layout import LAYOUTS, arrange


@dataclass(frozen=True)
class Drawn:
    """N scenes of P panels; the first `heard` clips of a scene sound."""

    ids: list[str]
    clips_NP: np.ndarray  # places of clips in the names that were given
    place_NP: np.ndarray  # the panel of each of them
    heard: int


def tag(layout: str, sources: int | None = None) -> str:
    """What a layout with this number of sources is called in ids: `hconcat`, or `hconcat3` where it is not the usual."""
    usual = arrange(layout, sources)[2] == LAYOUTS[layout][2]
    return layout if usual else f"{layout}{sources}"


def draw(
    clip_id: np.ndarray,
    video: np.ndarray,
    label: np.ndarray,
    *,
    layout: str,
    count: int,
    seed: int,
    sources: int | None = None,
) -> Drawn:
    """At most `count` scenes, the same for the same seed and clip ids in any order; labels may be ''.

    A scene of one panel is one clip, never one twice. The panels of other scenes are of different videos and, where at
    least so many labels are known, of different labels. ValueError for an unknown layout or too few videos.
    """
    rows, columns, heard = arrange(layout, sources)
    panels, order = rows * columns, np.argsort(clip_id)
    called, names = tag(layout, sources), clip_id[order].tolist()
    digest = blake2b(json.dumps([called, seed, names]).encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    if panels == 1:
        cast_NP = rng.permutation(len(order))[:count, None]
    else:
        cast_NP = _cast(video[order], label[order], count, panels, rng)
    place_NP = np.stack([rng.permutation(panels) for _ in cast_NP])
    heard = min(heard, panels)
    place_NP[:, :heard].sort(axis=1)
    ids = [f"{called}-{seed}-{number:05d}" for number in range(len(cast_NP))]
    return Drawn(ids, order[cast_NP], place_NP, heard)


def _cast(video: np.ndarray, label: np.ndarray, count: int, panels: int, rng: np.random.Generator) -> np.ndarray:
    """Clips of each scene, (count, panels): in a random order, so which of them sound says nothing about their labels."""
    apart = len(set(label) - {""}) >= panels
    casts = np.empty((count, panels), np.int64)
    for scene in range(count):
        cast: list[int] = []
        for clip in rng.permutation(len(video)):
            name = label[clip] if apart else ""
            if video[clip] not in video[cast] and (not name or name not in label[cast]):
                cast.append(int(clip))
            if len(cast) == panels:
                break
        else:
            raise ValueError(
                f"a scene needs {panels} clips of different videos{' and labels' if apart else ''}; "
                f"there are {len(video)} clips of {len(set(video))} videos"
            )
        casts[scene] = rng.permutation(cast)  # rare labels are found last: without this they would seldom sound
    return casts


def derange(ids: Sequence[str], videos: Sequence[Sequence[str]], seed: int) -> np.ndarray:
    """For each scene another whose sound it may hear as a control: never itself, nor one that shares a sounding video.

    A permutation where swapping finds one, else some sounds serve twice. ValueError where a scene has no stranger.
    `videos`: of the sounding clips of each scene.
    """
    rng = np.random.default_rng(seed)
    sounding = [set(names) for names in videos]
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
            raise ValueError(f"scene {ids[i]}: all others share a sounding video with it; use more scenes")
        index_N[i] = free[0]
    return index_N
