"""Layouts of evaluation scenes: the panels of a canvas, and which clips are shown in them and sound.

`hconcat` is the paper's canvas of two sources (448x224 pixels for panels of 224), `vconcat` that of NoPrior; `solo2x2`
(one sounding and three silent panels) and `grid2x2` (two and two) are those of MUSIC-Synthetic (section 4.2); `natural`
is one clip in which several sources sound, as in MUSIC-Duet. These ids are the only names of layouts.
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

SCORED_LAYOUTS = ("grid2x2", "solo2x2", "hconcat", "single")  # those that checkpoints are scored on

LABEL_FREE = ("grid2x2", "solo2x2")  # those scored by which panels sound, without regions

VARIABLE_SOURCE_LAYOUTS = ("hconcat", "vconcat", "natural")  # those with a choice of the number of sources

MAX_SOURCES = 4

_OTHER_NAMES = {**OLD_LAYOUTS, "2x2": "grid2x2", "side by side": "hconcat", "duet": "natural"}


def metric_prefix(layout: str) -> str:
    """Return the prefix of the names of a layout's metrics: `LAYOUT/` for `single` and `solo2x2`, '' for the others."""
    return f"{layout}/" if layout in ("single", "solo2x2") else ""


def did_you_mean_layout(name: str) -> str:
    """Return ` (did you mean X?)` for a misspelt layout or its name of version 0.1, else ''."""
    plain = name.lower().replace("_", " ").replace("-", " ")
    near = [_OTHER_NAMES[plain]] if plain in _OTHER_NAMES else get_close_matches(name, LAYOUTS, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def panel_grid(layout: str, sources: int | None = None) -> tuple[int, int, int]:
    """Return the rows of panels, the columns and the number of sounding sources of a layout.

    Args:
        layout: one of LAYOUTS.
        sources: number of sounding sources; None: the usual number of the layout.

    Raises:
        ValueError: an unknown layout, or a number of sources that it cannot have.
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
    """Return the panels as (x0, y0, x1, y1) in pixels of the canvas, row by row; `height` and `width` are of one panel."""
    return [(c * width, r * height, (c + 1) * width, (r + 1) * height) for r in range(rows) for c in range(columns)]


@dataclass(frozen=True)
class SceneDraw:
    """N drawn scenes of P panels; the first `num_sounding` clips of a scene sound."""

    ids: list[str]
    clips_NP: np.ndarray  # indices of clips
    panels_NP: np.ndarray  # the panel of each of these clips
    num_sounding: int


def layout_id(layout: str, sources: int | None = None) -> str:
    """Return a layout with its number of sources: `hconcat`, or `hconcat3` where it is not the usual number."""
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
    """Draw at most `count` scenes, the same for the same seed and clip ids in any order.

    A scene of one panel is one clip, never one twice. The panels of other scenes come from different videos and, where
    at least as many labels as panels are known, from different labels.

    Args:
        clip_id: ids of the clips, (N,).
        video: their videos, (N,).
        label: their labels, (N,); '' where unknown.
        layout: one of LAYOUTS.
        count: number of scenes, at most.
        seed: seed of the draw.
        sources: number of sounding sources; None: the usual number of the layout.

    Raises:
        ValueError: an unknown layout, or too few videos.
    """
    rows, columns, num_sounding = panel_grid(layout, sources)
    panels, order = rows * columns, np.argsort(clip_id)
    name, ids = layout_id(layout, sources), clip_id[order].tolist()
    digest = blake2b(json.dumps([name, seed, ids]).encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    clips_NP = (
        rng.permutation(len(order))[:count, None]
        if panels == 1
        else _draw_clips(video[order], label[order], count, panels, rng)
    )
    panels_NP = np.stack([rng.permutation(panels) for _ in clips_NP])
    num_sounding = min(num_sounding, panels)
    panels_NP[:, :num_sounding].sort(axis=1)
    scene_ids = [f"{name}-{seed}-{number:05d}" for number in range(len(clips_NP))]
    return SceneDraw(scene_ids, order[clips_NP], panels_NP, num_sounding)


def _draw_clips(video: np.ndarray, label: np.ndarray, count: int, panels: int, rng: np.random.Generator) -> np.ndarray:
    """The clips of each scene, (count, panels), in random order: which of them sound is independent of their labels."""
    distinct_labels = len(set(label) - {""}) >= panels
    clips_NP = np.empty((count, panels), np.int64)
    for scene in range(count):
        chosen: list[int] = []
        for clip in rng.permutation(len(video)):
            name = label[clip] if distinct_labels else ""
            if video[clip] not in video[chosen] and (not name or name not in label[chosen]):
                chosen.append(int(clip))
            if len(chosen) == panels:
                break
        else:
            raise ValueError(
                f"a scene needs {panels} clips of different videos{' and labels' if distinct_labels else ''}; "
                f"there are {len(video)} clips of {len(set(video))} videos"
            )
        clips_NP[scene] = rng.permutation(chosen)  # clips of rare labels are chosen last and would seldom sound
    return clips_NP


def draw_shuffled_audio_permutation(ids: Sequence[str], videos: Sequence[Sequence[str]], seed: int) -> np.ndarray:
    """Draw for each scene the index of another scene whose audio replaces its own in the shuffled-audio control.

    The other scene shares no sounding video with it. The result is a permutation where swapping finds one; otherwise
    the audio of some scenes is used more than once.

    Args:
        ids: of the scenes, for messages.
        videos: the videos of the sounding clips of each scene.
        seed: seed of the draw.

    Raises:
        ValueError: every other scene shares a sounding video with some scene.
    """
    rng = np.random.default_rng(seed)
    sounding = [set(names) for names in videos]
    count = len(sounding)
    index_N = rng.permutation(count)
    for i in range(count):
        if sounding[i].isdisjoint(sounding[index_N[i]]):
            continue
        candidates = [j for j in rng.permutation(count) if sounding[i].isdisjoint(sounding[index_N[j]])]
        j = next((j for j in candidates if sounding[j].isdisjoint(sounding[index_N[i]])), None)
        if j is not None:
            index_N[i], index_N[j] = index_N[j], index_N[i]
            continue
        others = [m for m in rng.permutation(count) if sounding[i].isdisjoint(sounding[m])]
        if not others:
            raise ValueError(f"scene {ids[i]}: all others share a sounding video with it; use more scenes")
        index_N[i] = others[0]
    return index_N
