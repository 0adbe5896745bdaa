"""The chart of an evaluation: checkpoints, their controls and the baselines as dots with intervals, on one scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from raymix.reporting.figures import blank_figure

_INK, _FAINT, _ACCENT, _WARNING = "#222222", "#8a8a8a", "#1f5fbf", "#b3261e"

_ROW, _WIDEST = 8, 3.4  # of the name of a row: its size in points, and how wide it may be in inches

_LINE = 0.27  # inches a row


ScoreIntervals = Mapping[str, tuple[float, float, float]]


def draw_score_chart(
    intervals: ScoreIntervals,
    baselines: Collection[str] = (),
    *,
    metric: str,
    controls: Collection[str] = (),
    heading: str = "",
    below: str = "",
    warning: str = "",
    chance: float | None = None,
) -> Figure:
    """Draw systems as dots with their intervals (value, low, high), the best first within each of three groups.

    Args:
        intervals: by name of the system; of `baselines` those in `controls` are systems with shuffled audio, the others
            baselines. Baselines at zero share one row.
        heading: the title; `below` and `warning` are lines under it.
        chance: where maps that do not depend on the audio end up, as a line.
    """
    if not intervals:
        raise ValueError("no systems to compare")
    shown, zeros = _group_zeros(intervals, [name for name in baselines if name not in controls])
    grouped = list(shown)[-1] if zeros else ""
    order = [name for name in shown if name not in baselines and name != grouped]
    order += [name for name in shown if name in baselines and name in controls]
    order += sorted((name for name in shown if name not in order), key=lambda name: -shown[name][0])
    called = [_short(name) for name in order]
    left = max(2.1, max(map(_inches, called)) + 0.25)  # names of usual length leave all charts alike
    width = left + 4.9
    lines = [(line, 9, _INK) for line in textwrap.wrap(below, int(width / 0.075))]
    lines += [(line, 9, _WARNING) for line in textwrap.wrap(warning, int(width / 0.075))]
    titles = textwrap.wrap(heading or metric, int(width / 0.1))
    top = 0.36 + 0.2 * len(titles) + 0.18 * len(lines)
    named = textwrap.wrap(f"at 0: {', '.join(zeros)}" if zeros else "", int(width / 0.065))
    bottom = 0.85 + (0.06 + 0.15 * len(named) if named else 0)
    size = (width, top + bottom + 0.1 + _LINE * len(order))
    figure = blank_figure(size)
    axes = figure.add_axes((left / size[0], bottom / size[1], 4.1 / size[0], _LINE * len(order) / size[1]))
    for line, name in enumerate(order):
        value, low, high = shown[name]
        baseline = name == grouped or (name in baselines and name not in controls)
        colour = _FAINT if baseline else _ACCENT
        if not math.isnan(low):
            axes.plot([low, high], [line, line], color=colour, linewidth=2, solid_capstyle="butt")
        face = "white" if name in controls else colour
        axes.plot(value, line, _marker(baseline), color=colour, markerfacecolor=face, markersize=6, clip_on=False)
        axes.text(1.02, line, f"{value:.3f}", transform=axes.get_yaxis_transform(), fontsize=8, va="center", color=_INK)
    best = max(
        (shown[name][0] for name in order if name == grouped or (name in baselines and name not in controls)),
        default=None,
    )
    if best is not None:
        axes.axvline(best, color=_FAINT, linewidth=1, linestyle="dashed", zorder=0)
    if chance is not None:
        axes.axvline(chance, color=_WARNING, linewidth=1, linestyle="dotted", zorder=0)
        axes.text(chance, -0.62, f"chance {chance:.3f}", fontsize=7, color=_WARNING, ha="center", va="bottom")
    _scale(axes, called, f"{metric}, 95 % intervals")
    for place, text in enumerate(titles):
        figure.text(
            0.12 / size[0],
            1 - (0.24 + 0.2 * place) / size[1],
            text,
            fontsize=11,
            weight="bold",
            color=_INK,
            va="center",
        )
    for place, (text, points, colour) in enumerate(lines):
        y = 1 - (0.24 + 0.2 * len(titles) + 0.18 * place) / size[1]
        figure.text(0.12 / size[0], y, text, fontsize=points, color=colour, va="center")
    for place, text in enumerate(named):
        y = (0.42 + 0.15 * (len(named) - 1 - place)) / size[1]
        figure.text(0.12 / size[0], y, text, fontsize=7.5, color=_INK, va="center")
    _legend(figure, bool(set(controls) & set(order)), best is not None, best)
    return figure


def _group_zeros(
    intervals: ScoreIntervals, baselines: Collection[str]
) -> tuple[dict[str, tuple[float, float, float]], list[str]]:
    """The rows to draw, the last of them all baselines at zero where there are several, and the names of these."""
    zero = [name for name in intervals if name in baselines and intervals[name][0] == 0]
    if len(zero) < 2:
        return dict(intervals), []
    rest = {each: intervals[each] for each in intervals if each not in zero}
    return rest | {f"{len(zero)} baselines at 0": (0.0, math.nan, math.nan)}, zero


def _marker(baseline: bool) -> str:
    return "s" if baseline else "o"


def _legend(figure: Figure, controls: bool, baselines: bool, best: float | None) -> None:
    """What the marks mean, on the last line of the figure."""
    entries = [("checkpoint", Line2D([], [], marker="o", linestyle="", color=_ACCENT))]
    if controls:
        entries.append(
            (
                "control: its maps with shuffled audio",
                Line2D([], [], marker="o", linestyle="", color=_ACCENT, mfc="white"),
            )
        )
    if baselines:
        entries.append(("baseline", Line2D([], [], marker="s", linestyle="", color=_FAINT)))
    if best is not None:
        entries.append(("best baseline", Line2D([], [], linestyle="dashed", linewidth=1, color=_FAINT)))
    figure.legend(
        [handle for _, handle in entries],
        [name for name, _ in entries],
        loc="lower left",
        bbox_to_anchor=(0.1 / figure.get_size_inches()[0], 0.06 / figure.get_size_inches()[1]),
        ncols=len(entries),
        fontsize=8,
        frameon=False,
        labelcolor=_INK,
        borderaxespad=0,
        handletextpad=0.4,
        columnspacing=1.4,
    )


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
    axes.tick_params(axis="y", pad=7)  # clear of a marker at 0
    axes.set_xlabel(below, fontsize=8, color=_INK)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cccccc")
