"""Layouts of evaluation scenes: panels on the canvas, and which clips stand in which panel and sound (sections 4.1 to 4.3).

`hconcat` is the paper's canvas of two sources (448x224 pixels for panels of 224), `vconcat` that of NoPrior, `solo2x2` with
one sounding and three silent panels and `grid2x2` with two and two are those of MUSIC-Synthetic (Section 4.2), and
`natural` is one clip in which several sources sound, as in MUSIC-Duet. These ids are the only names of layouts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b

import numpy as np

from raymix.config.migration import OLD_LAYOUTS

LAYOUTS = {  # panel rows, columns, sounding sources
    "single": (1, 1, 1),
    "hconcat": (1, 2, 2),
    "vconcat": (2, 1, 2),
    "grid2x2": (2, 2, 2),
    "solo2x2": (2, 2, 1),
    "natural": (1, 1, 2),
}

SCORED_LAYOUTS = ("grid2x2", "solo2x2", "hconcat", "single")  # what checkpoints are scored on

LABEL_FREE = ("grid2x2", "solo2x2")  # of these, the scenes that need no region: which panels sound is known

VARIABLE_SOURCE_LAYOUTS = ("hconcat", "vconcat", "natural")  # layouts that may have another number of sources

MAX_SOURCES = 4  # sources

_OTHER_NAMES = {**OLD_LAYOUTS, "2x2": "grid2x2", "side by side": "hconcat", "duet": "natural"}


def metric_prefix(layout: str) -> str:
    """Returns what precedes the names of a layout's metrics: `LAYOUT/` for `single` and `solo2x2`, '' for the others."""
    return f"{layout}/" if layout in ("single", "solo2x2") else ""


def did_you_mean_layout(name: str) -> str:
    """Returns ` (did you mean X?)` for a layout that is misspelt or has a name of version 0.1, else ''."""
    plain = name.lower().replace("_", " ").replace("-", " ")
    near = [_OTHER_NAMES[plain]] if plain in _OTHER_NAMES else get_close_matches(name, LAYOUTS, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def panel_grid(layout: str, sources: int | None = None) -> tuple[int, int, int]:
    """Panel rows, columns and sounding sources of a layout; None is its usual number of sources.

    Raises ValueError for an unknown layout, or for a number of sources that it does not have.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout}: must be one of {', '.join(LAYOUTS)}{did_you_mean_layout(layout)}")
    rows, columns, usual = LAYOUTS[layout]
    if sources is None or sources == usual:
        return rows, columns, usual
    if layout not in VARIABLE_SOURCE_LAYOUTS:
        raise ValueError(
            f"sources={sources}: layout {layout} has {usual}; other numbers are for {', '.join(VARIABLE_SOURCE_LAYOUTS)}"
        )
    if not 1 <= sources <= MAX_SOURCES:
        raise ValueError(f"sources={sources}: must be 1 to {MAX_SOURCES}")
    if layout == "natural":
        return rows, columns, sources
    return (1, sources, sources) if layout == "hconcat" else (sources, 1, sources)


def panel_boxes(rows: int, columns: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Panels of this height and width as x0, y0, x1, y1 in canvas pixels, row after row."""
    return [(c * width, r * height, (c + 1) * width, (r + 1) * height) for r in range(rows) for c in range(columns)]


@dataclass(frozen=True)
class SceneDraw:
    """N scenes of P panels; the first `heard` clips of a scene sound."""

    ids: list[str]
    clips_NP: np.ndarray  # places of clips in the names that were given
    place_NP: np.ndarray  # the panel of each of them
    heard: int


def layout_id(layout: str, sources: int | None = None) -> str:
    """What a layout with this number of sources is called in ids: `hconcat`, or `hconcat3` where it is not the usual."""
    usual = panel_grid(layout, sources)[2] == LAYOUTS[layout][2]
    return layout if usual else f"{layout}{sources}"


def draw_scenes(
    clip_id: np.ndarray,
    video: np.ndarray,
    label: np.ndarray,
    *,
    layout: str,
    count: int,
    seed: int,
    sources: int | None = None,
) -> SceneDraw:
    """At most `count` scenes, the same for the same seed and clip ids in any order; labels may be ''.

    A scene of one panel is one clip, never one twice. The panels of other scenes are of different videos and, where at
    least so many labels are known, of different labels. ValueError for an unknown layout or too few videos.
    """
    rows, columns, heard = panel_grid(layout, sources)
    panels, order = rows * columns, np.argsort(clip_id)
    called, names = layout_id(layout, sources), clip_id[order].tolist()
    digest = blake2b(json.dumps([called, seed, names]).encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    one = panels == 1
    cast_NP = (
        rng.permutation(len(order))[:count, None] if one else _cast(video[order], label[order], count, panels, rng)
    )
    place_NP = np.stack([rng.permutation(panels) for _ in cast_NP])
    heard = min(heard, panels)
    place_NP[:, :heard].sort(axis=1)
    ids = [f"{called}-{seed}-{number:05d}" for number in range(len(cast_NP))]
    return SceneDraw(ids, order[cast_NP], place_NP, heard)


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


def draw_shuffled_audio_permutation(ids: Sequence[str], videos: Sequence[Sequence[str]], seed: int) -> np.ndarray:
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
