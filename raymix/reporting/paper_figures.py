"""Figures 3 to 9 of the paper: maps of several systems on the same scenes, and random walks as graphs.

Each system has as many columns as it has maps (#1, #2 of ours); the source that a map belongs to is printed above it.

Sound nodes on the left go to images and home again to sound nodes on the right. Draws with matplotlib's Agg canvas only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from raymix.reporting.figures import (
    ScenePicture,
    blank_figure,
    draw_frame,
    draw_heatmap,
    draw_legend,
    draw_title,
    wrap_heading,
)

_INK, _GAP = "#222222", 0.1  # inches between cells

_CHARACTER = 0.052  # inches, the usual width of one of 7 points


def draw_system_rows(rows: Sequence[Mapping[str, ScenePicture]], heading: str = "") -> Figure:
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
    heading_lines = wrap_heading(heading, across)
    line, top, bottom = (
        width * aspect + 0.34,
        0.12 + (0.18 + 0.2 * len(heading_lines) if heading_lines else 0) + 0.26,
        0.42,
    )
    size = (across, top + bottom + len(rows) * line)
    figure = blank_figure(size)
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
            draw_heatmap(axes, picture, which) if name else draw_frame(axes, picture)
            title = axes.get_title(loc="left").split(": ")[-1]
            axes.set_title(
                title, fontsize=min(7, 7 * width / (_CHARACTER * max(len(title), 1))), color=_INK, loc="left", pad=2
            )
    draw_title(figure, heading_lines, size)
    draw_legend(figure, [picture for row in rows for picture in row.values()], size)
    return figure


def _head(name: str, which: int, columns: int) -> str:
    """The title of a column: the system, and the number of the map if there are several."""
    if columns < 2:
        return name
    return f"{name} #{which + 1}" if which >= 0 else f"{name}, mean"


def _same(row: Mapping[str, ScenePicture], first: Mapping[str, ScenePicture]) -> None:
    if list(row) != list(first):
        raise ValueError(f"a row shows {', '.join(row)}, the first one {', '.join(first)}")
    for name, picture in row.items():
        if picture.drawn != first[name].drawn or picture.frame_YX3.shape != first[name].frame_YX3.shape:
            raise ValueError(f"{picture.title}, {name}: another number of maps, or size, than in the first row")


_INK_of_paths, _EDGES = "#222222", "viridis_r"

_WIDEST = 7.0  # points, of an edge of probability 1

_CELL = 1.3  # inches from one node to the next


@dataclass(frozen=True)
class RandomWalkGraph:
    """One mixture: its K images, and the transitions; ValueError where these are no probabilities of K nodes."""

    title: str
    frames_KYX3: np.ndarray  # uint8
    out_IJ: np.ndarray  # A_SI: from sound node i to image j, rows add up to 1
    home_JI: np.ndarray  # A_IS: from image j to sound node i, rows add up to 1

    def __post_init__(self) -> None:
        k = len(self.frames_KYX3)
        for name, matrix in (("A_SI", self.out_IJ), ("A_IS", self.home_JI)):
            if matrix.shape != (k, k) or not np.allclose(matrix.sum(axis=1), 1, atol=1e-3) or matrix.min() < 0:
                raise ValueError(f"walk {self.title}: {name} {matrix.shape} is no matrix of transitions of {k} nodes")

    @property
    def returns_I(self) -> np.ndarray:
        """The probability to be home after two steps, of each sound node: what the loss of Eq. 4 raises."""
        return np.einsum("ij,ji->i", self.out_IJ, self.home_JI)


def draw_random_walks(walks: Sequence[RandomWalkGraph], heading: str = "") -> Figure:
    """One graph beside the other, a legend of probabilities at the right; ValueError without walks."""
    if not walks:
        raise ValueError("no walks to draw")
    k = max(len(walk.frames_KYX3) for walk in walks)
    wide, high = 3.2 * _CELL, k * _CELL + 0.5
    heading_lines = wrap_heading(heading, len(walks) * wide + 0.9)
    size = (len(walks) * wide + 0.9, high + (0.25 + 0.2 * len(heading_lines) if heading_lines else 0.1) + 0.1)
    figure = blank_figure(size)
    for place, walk in enumerate(walks):
        axes = figure.add_axes((place * wide / size[0], 0.1 / size[1], wide / size[0], high / size[1]))
        _graph(axes, walk, k)
    bar = figure.add_axes((1 - 0.75 / size[0], 0.45 / size[1], 0.14 / size[0], (high - 0.9) / size[1]))
    colours = figure.colorbar(ScalarMappable(Normalize(0, 1), _EDGES), cax=bar)
    colours.ax.tick_params(labelsize=7, labelcolor=_INK_of_paths, length=2)
    colours.outline.set_visible(False)
    bar.set_title("P", fontsize=8, color=_INK_of_paths, pad=4)
    draw_title(figure, heading_lines, size)
    return figure


def _graph(axes: Axes, walk: RandomWalkGraph, rows: int) -> None:
    axes.set_xlim(-0.6, 2.6)
    axes.set_ylim(rows - 0.4, -0.78)
    axes.set_aspect("equal")
    axes.set_axis_off()
    k = len(walk.frames_KYX3)
    for i in range(k):
        for j in range(k):
            _edge(axes, (0.2, i), (0.6, j), walk.out_IJ[i, j])
            _edge(axes, (1.4, j), (1.8, i), walk.home_JI[j, i])
    for j, frame_YX3 in enumerate(walk.frames_KYX3):
        axes.imshow(frame_YX3, extent=(0.6, 1.4, j + 0.4, j - 0.4), aspect="equal", zorder=3)
    axes.set_xlim(-0.6, 2.6)
    axes.set_ylim(rows - 0.4, -0.78)
    for x in (0.0, 2.0):
        for i in range(k):
            axes.add_patch(Circle((x, i), 0.2, facecolor="white", edgecolor=_INK_of_paths, linewidth=1.2, zorder=3))
            axes.text(x, i, f"s{i + 1}", ha="center", va="center", fontsize=9, color=_INK_of_paths, zorder=4)
    for i, chance in enumerate(walk.returns_I):
        axes.text(2.24, i, f"home\n{chance:.2f}", ha="left", va="center", fontsize=7, color=_INK_of_paths)
    axes.text(-0.4, -0.66, walk.title, fontsize=8, color=_INK_of_paths, ha="left", va="center")


def _edge(axes: Axes, start: tuple[float, float], end: tuple[float, float], probability: float) -> None:
    """Wide and dark where the walk goes, a hair where it hardly ever does; likely edges lie on top."""
    colour = ScalarMappable(Normalize(0, 1), _EDGES).to_rgba(np.asarray(float(probability)))
    width = max(0.4, _WIDEST * float(probability))
    axes.plot(
        *zip(start, end, strict=True), color=colour, linewidth=width, zorder=1 + probability, solid_capstyle="round"
    )
