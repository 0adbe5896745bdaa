"""Layouts of evaluation scenes: how many panels a canvas has, and in how many of them a source sounds (Sections 4.1-4.3).

`hconcat` is the paper's canvas of two sources (448x224 pixels for panels of 224), `vconcat` that of NoPrior, `solo2x2` with
one sounding and three silent panels and `grid2x2` with two and two are those of MUSIC-Synthetic (Section 4.2), and
`natural` is one clip in which several sources sound, as in MUSIC-Duet. These ids are the only names of layouts.
"""

from __future__ import annotations

from difflib import get_close_matches

from raymix.migration import OLD_LAYOUTS

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
OPEN = ("hconcat", "vconcat", "natural")  # layouts that may have another number of sources
MOST = 4  # sources
_OTHER_NAMES = {**OLD_LAYOUTS, "2x2": "grid2x2", "side by side": "hconcat", "duet": "natural"}


def metric_prefix(layout: str) -> str:
    """Returns what precedes the names of a layout's metrics: `LAYOUT/` for `single` and `solo2x2`, '' for the others."""
    return f"{layout}/" if layout in ("single", "solo2x2") else ""


def did_you_mean_layout(name: str) -> str:
    """Returns ` (did you mean X?)` for a layout that is misspelt or has a name of version 0.1, else ''."""
    plain = name.lower().replace("_", " ").replace("-", " ")
    near = [_OTHER_NAMES[plain]] if plain in _OTHER_NAMES else get_close_matches(name, LAYOUTS, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def arrange(layout: str, sources: int | None = None) -> tuple[int, int, int]:
    """Panel rows, columns and sounding sources of a layout; None is its usual number of sources.

    Raises ValueError for an unknown layout, or for a number of sources that it does not have.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout}: must be one of {', '.join(LAYOUTS)}{did_you_mean_layout(layout)}")
    rows, columns, usual = LAYOUTS[layout]
    if sources is None or sources == usual:
        return rows, columns, usual
    if layout not in OPEN:
        raise ValueError(f"sources={sources}: layout {layout} has {usual}; other numbers are for {', '.join(OPEN)}")
    if not 1 <= sources <= MOST:
        raise ValueError(f"sources={sources}: must be 1 to {MOST}")
    if layout == "natural":
        return rows, columns, sources
    return (1, sources, sources) if layout == "hconcat" else (sources, 1, sources)


def rectangles(rows: int, columns: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Panels of this height and width as x0, y0, x1, y1 in canvas pixels, row after row."""
    return [(c * width, r * height, (c + 1) * width, (r + 1) * height) for r in range(rows) for c in range(columns)]
