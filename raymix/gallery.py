"""Figures 3, 4, 5, 7, 8 and 9 of the paper: the maps of several systems on the same scenes, one row a scene.

Each system has as many columns as it has maps (#1, #2 of ours); which map belongs to which source stands above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from raymix.figures import Picture, blank, draw_frame, draw_map, legend, title, wrapped

_INK, _GAP = "#222222", 0.1  # inches between cells
_CHARACTER = 0.052  # inches, the usual width of one of 7 points


def systems(rows: Sequence[Mapping[str, Picture]], heading: str = "") -> Figure:
    """Each row is one scene, as each system of it (by name, the same in all rows) draws it.

    ValueError without rows, and where the rows differ in their systems, in the number of maps of one, or in the frame.
    """
    if not rows or not rows[0]:
        raise ValueError("no scenes to draw")
    first = rows[0]
    drawn = {name: picture.drawn for name, picture in first.items()}
    for row in rows:
        _same(row, first)
    cells = [(name, which) for name in first for which in drawn[name]]
    any_picture = next(iter(first.values()))
    aspect = any_picture.frame_YX3.shape[0] / any_picture.frame_YX3.shape[1]
    width = 1.9 if aspect > 0.75 else 2.6
    across = (1 + len(cells)) * (width + _GAP) + _GAP
    said = wrapped(heading, across)
    line, top, bottom = width * aspect + 0.34, 0.12 + (0.18 + 0.2 * len(said) if said else 0) + 0.26, 0.42
    size = (across, top + bottom + len(rows) * line)
    figure = blank(size)
    for place, (name, which) in enumerate([("", -2), *cells]):
        x = _GAP + place * (width + _GAP)
        above = ((x + width / 2) / size[0], 1 - (top - 0.12) / size[1])
        figure.text(
            *above, _head(name, which, len(drawn.get(name, []))), fontsize=9, weight="bold", color=_INK, ha="center"
        )
        for number, row in enumerate(rows):
            y = size[1] - top - (number + 1) * line + 0.06
            axes = figure.add_axes((x / size[0], y / size[1], width / size[0], width * aspect / size[1]))
            axes.set_axis_off()
            picture = row[name] if name else next(iter(row.values()))
            draw_map(axes, picture, which) if name else draw_frame(axes, picture)
            told = axes.get_title(loc="left").split(": ")[-1]
            axes.set_title(
                told, fontsize=min(7, 7 * width / (_CHARACTER * max(len(told), 1))), color=_INK, loc="left", pad=2
            )
    title(figure, said, size)
    legend(figure, [picture for row in rows for picture in row.values()], size)
    return figure


def _head(name: str, which: int, columns: int) -> str:
    """What stands above a column: of one map the system alone, of several which map it is."""
    if columns < 2:
        return name
    return f"{name} #{which + 1}" if which >= 0 else f"{name}, mean"


def _same(row: Mapping[str, Picture], first: Mapping[str, Picture]) -> None:
    if list(row) != list(first):
        raise ValueError(f"a row shows {', '.join(row)}, the first one {', '.join(first)}")
    for name, picture in row.items():
        if picture.drawn != first[name].drawn or picture.frame_YX3.shape != first[name].frame_YX3.shape:
            raise ValueError(f"{picture.title}, {name}: another number of maps, or size, than in the first row")
