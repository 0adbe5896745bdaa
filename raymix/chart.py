"""The chart of a final evaluation: systems as dots with their intervals, beside systems that hear nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from raymix.figures import blank

_INK, _FAINT, _ACCENT = "#222222", "#9a9a9a", "#1f5fbf"
_ROW, _WIDEST = 8, 3.4  # of the name of a row: its size in points, and how wide it may be in inches


def comparison(
    intervals: Mapping[str, tuple[float, float, float]],
    nulls: Collection[str] = (),
    *,
    metric: str,
    heading: str = "",
    chance: float | None = None,
) -> Figure:
    """Systems as dots with their intervals (value, low, high), null systems in grey below; the best null as a line."""
    if not intervals:
        raise ValueError("no systems to compare")
    order = [name for name in intervals if name not in nulls]
    order += sorted((name for name in intervals if name in nulls), key=lambda name: -intervals[name][0])
    called = [_short(name) for name in order]
    left = max(2.1, max(map(_inches, called)) + 0.2)  # names of usual length leave all charts alike
    size = (left + 4.9, 1.15 + 0.27 * len(order))
    figure = blank(size)
    axes = figure.add_axes((left / size[0], 0.55 / size[1], 4.1 / size[0], 0.27 * len(order) / size[1]))
    for line, name in enumerate(order):
        value, low, high = intervals[name]
        colour = _FAINT if name in nulls else _ACCENT
        if not math.isnan(low):
            axes.plot([low, high], [line, line], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(value, line, "o", color=colour, markersize=6, clip_on=False)
        axes.text(1.02, line, f"{value:.3f}", transform=axes.get_yaxis_transform(), fontsize=8, va="center", color=_INK)
    best = max((intervals[name][0] for name in order if name in nulls), default=None)
    if best is not None:
        axes.axvline(best, color=_FAINT, linewidth=1, linestyle="dashed", zorder=0)
    if chance is not None:
        axes.axvline(chance, color="#c0392b", linewidth=1, linestyle="dotted", zorder=0)
        axes.text(chance, len(order) - 0.45, "chance ", fontsize=7, color="#c0392b", ha="right", va="bottom")
    _scale(axes, called, f"{metric}, 95 % intervals; grey: systems that do not listen")
    figure.text(
        0.12 / size[0], 1 - 0.3 / size[1], heading or metric, fontsize=11, weight="bold", color=_INK, va="center"
    )
    return figure


def _inches(name: str) -> float:
    """How wide the name of a row is drawn."""
    plain = name.replace("$", "S")  # a name is no formula
    return float(TextPath((0, 0), plain, size=_ROW).get_extents().width) / 72


def _short(name: str) -> str:
    """The name of a row, its middle left out where it is too wide: what differs is mostly at the ends."""
    keep, short = len(name), name
    while _inches(short) > _WIDEST:
        keep -= 1
        short = f"{name[: (keep + 1) // 2].rstrip()}…{name[len(name) - keep // 2 :].lstrip()}"
    return short


def _scale(axes: Axes, order: Sequence[str], below: str) -> None:
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_yticks(range(len(order)), order, fontsize=_ROW, color=_INK, parse_math=False)
    axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
    axes.set_xlabel(below, fontsize=8, color=_INK)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cccccc")
