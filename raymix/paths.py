"""Figure 6 of the paper: the random walk of a mixture drawn as a graph, each edge as wide as its transition is probable.

Sound nodes on the left go to images and home again to sound nodes on the right. Draws with matplotlib's Agg canvas only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from raymix.figures import blank, title, wrapped

_INK, _EDGES = "#222222", "viridis_r"
_WIDEST = 7.0  # points, of an edge of probability 1
_CELL = 1.3  # inches from one node to the next


@dataclass(frozen=True)
class Walk:
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


def cycle_paths(walks: Sequence[Walk], heading: str = "") -> Figure:
    """One graph beside the other, a legend of probabilities at the right; ValueError without walks."""
    if not walks:
        raise ValueError("no walks to draw")
    k = max(len(walk.frames_KYX3) for walk in walks)
    wide, high = 3.2 * _CELL, k * _CELL + 0.5
    said = wrapped(heading, len(walks) * wide + 0.9)
    size = (len(walks) * wide + 0.9, high + (0.25 + 0.2 * len(said) if said else 0.1) + 0.1)
    figure = blank(size)
    for place, walk in enumerate(walks):
        axes = figure.add_axes((place * wide / size[0], 0.1 / size[1], wide / size[0], high / size[1]))
        _graph(axes, walk, k)
    bar = figure.add_axes((1 - 0.75 / size[0], 0.45 / size[1], 0.14 / size[0], (high - 0.9) / size[1]))
    colours = figure.colorbar(ScalarMappable(Normalize(0, 1), _EDGES), cax=bar)
    colours.ax.tick_params(labelsize=7, labelcolor=_INK, length=2)
    colours.outline.set_visible(False)
    bar.set_title("P", fontsize=8, color=_INK, pad=4)
    title(figure, said, size)
    return figure


def _graph(axes: Axes, walk: Walk, rows: int) -> None:
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
            axes.add_patch(Circle((x, i), 0.2, facecolor="white", edgecolor=_INK, linewidth=1.2, zorder=3))
            axes.text(x, i, f"s{i + 1}", ha="center", va="center", fontsize=9, color=_INK, zorder=4)
    for i, chance in enumerate(walk.returns_I):
        axes.text(2.24, i, f"home\n{chance:.2f}", ha="left", va="center", fontsize=7, color=_INK)
    axes.text(-0.4, -0.66, walk.title, fontsize=8, color=_INK, ha="left", va="center")


def _edge(axes: Axes, start: tuple[float, float], end: tuple[float, float], probability: float) -> None:
    """Wide and dark where the walk goes, a hair where it hardly ever does; likely edges lie on top."""
    colour = ScalarMappable(Normalize(0, 1), _EDGES).to_rgba(np.asarray(float(probability)))
    width = max(0.4, _WIDEST * float(probability))
    axes.plot(
        *zip(start, end, strict=True), color=colour, linewidth=width, zorder=1 + probability, solid_capstyle="round"
    )
