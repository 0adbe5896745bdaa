"""How panels stand on the canvas of a scene: the layouts of Sections 4.1 to 4.3, and those that later papers use.

Side by side is the paper's canvas (448x224 pixels for two panels of 224), one above the other that of NoPrior; 2x2 with
two silent panels is MUSIC-Synthetic (Section 4.2); `natural` is one clip in which several things sound, as in MUSIC-Duet.
"""

from __future__ import annotations

from difflib import get_close_matches

LAYOUTS = {  # panel rows, columns, sounding sources
    "single": (1, 1, 1),
    "hconcat": (1, 2, 2),
    "vconcat": (2, 1, 2),
    "grid2x2": (2, 2, 2),
    "solo2x2": (2, 2, 1),
    "natural": (1, 1, 2),
}
SCORED = {  # what checkpoints are scored on, by the names of their scores
    "quad": "grid2x2", "solo": "solo2x2", "pair": "hconcat", "single": "single",
}  # fmt: skip
LABEL_FREE = ("quad", "solo")  # of these, the scenes that need no region: which panels sound is known
OPEN = ("hconcat", "vconcat", "natural")  # layouts that may have another number of sources
MOST = 4  # sources


def arrange(layout: str, sources: int | None = None) -> tuple[int, int, int]:
    """Panel rows, columns and sounding sources of a layout; None is its usual number of sources.

    Raises ValueError for an unknown layout, or for a number of sources that it does not have.
    """
    if layout not in LAYOUTS:
        near = get_close_matches(layout, LAYOUTS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"layout={layout}: must be one of {', '.join(LAYOUTS)}{hint}")
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
