"""Contact sheets of prepared clips: frames with their regions above, log-mel below, on one clock; and where regions lie.

For checking by eye whether boxes and sound fit the frames. Draws with matplotlib's Agg canvas only.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from raymix.data.audio import log_mel_spectrogram
from raymix.reporting import figures
from raymix.reporting.figures import SOURCE_COLOURS, blank_figure

MAX_FRAMES = 4  # of a clip that are drawn

_INK, _FAINT = "#222222", "#777777"

_WIDE, _GAP, _HEAD, _MEL, _CAPTION = 13.0, 0.14, 0.42, 0.72, 0.4  # inches

_HALO: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=3.2, foreground="black", alpha=0.7)]

_DPI = 110


@dataclass(frozen=True)
class SheetClip:
    """One clip to draw, times in seconds from its own start."""

    clip_id: str
    labels: tuple[str, ...]
    start_s: float
    duration_s: float
    frames: tuple[np.ndarray, ...]  # uint8 YX3
    times_s: tuple[float, ...]
    mel_TM: np.ndarray
    regions: tuple[Mapping[str, Any], ...]  # as rows have them
    why: str = ""  # it is shown

    @staticmethod
    def of(row: Mapping[str, Any], why: str = "") -> SheetClip:
        """A row of a shard, decoded."""
        pairs_TF2 = np.frombuffer(row["stft"], np.float16).reshape(row["stft_frames"], row["stft_bins"], 2)
        spectrum_TF = torch.view_as_complex(torch.from_numpy(pairs_TF2.astype(np.float32)))
        return SheetClip(
            clip_id=row["clip_id"],
            labels=tuple(row["labels"] or ()),
            start_s=row["start_s"],
            duration_s=row["duration_s"],
            frames=tuple(np.asarray(Image.open(io.BytesIO(each["jpeg"])).convert("RGB")) for each in row["frames"]),
            times_s=tuple(each["t_s"] - row["start_s"] for each in row["frames"]),
            mel_TM=log_mel_spectrogram(spectrum_TF[None])[0].numpy(),
            regions=tuple(row["regions"] or ()),
            why=why,
        )

    @property
    def drawn(self) -> list[int]:
        """The frames to draw: all, or of many the first, those with regions, and then the next ones, in time."""
        with_regions = {region["frame"] for region in self.regions}
        order = sorted(range(len(self.frames)), key=lambda at: (at > 0, at not in with_regions, at))
        return sorted(order[:MAX_FRAMES])


def sheet_to_png(figure: Figure) -> bytes:
    """The figure as a PNG; the same bytes for the same figure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a page has the whole name as text
        return figures.figure_to_png(figure, _DPI)


def draw_contact_sheet(clips: Sequence[SheetClip], heading: str) -> Figure:
    """Clips in numbered cells, row after row; ValueError without clips."""
    if not clips:
        raise ValueError("no clips to draw")
    most = max(len(clip.drawn) for clip in clips)
    tall = float(np.median([frame.shape[0] / frame.shape[1] for clip in clips for frame in clip.frames]))
    width = {1: 3.05, 2: 4.2}.get(most, 6.3)
    columns = max(1, min(len(clips), int(_WIDE // (width + _GAP))))
    high = width / most * min(tall, 1.4)
    cell, rows = _CAPTION + high + _MEL + 0.34, math.ceil(len(clips) / columns)
    size = (columns * (width + _GAP) + _GAP, _HEAD + rows * cell + 0.05)
    figure = blank_figure(size)
    figure.text(
        _GAP / size[0],
        1 - 0.26 / size[1],
        heading,
        fontsize=11,
        weight="bold",
        color=_INK,
        va="center",
        parse_math=False,
    )
    for place, clip in enumerate(clips):
        left, top = _GAP + place % columns * (width + _GAP), size[1] - _HEAD - place // columns * cell

        def axes(x: float, y: float, w: float, h: float) -> Axes:
            return figure.add_axes((x / size[0], y / size[1], w / size[0], h / size[1]))

        _caption(figure, (left / size[0], (top - 0.12) / size[1], 0.16 / size[1]), place + 1, clip, width)
        for column, at in enumerate(clip.drawn):
            each = width / most
            _frame(axes(left + column * each, top - _CAPTION - high, each - 0.03, high), clip, at)
        _mel(axes(left, top - _CAPTION - high - 0.05 - _MEL, width - 0.03, _MEL), clip)
    return figure


def draw_region_density(masks: Mapping[str, np.ndarray], areas: Mapping[str, Sequence[float]]) -> Figure:
    """For each split how often a region covers a place (maps YX in [0, 1]), and the regions' shares of the frame."""
    size = (max(2, len(masks)) * 3.1 + 0.4, 4.9)
    figure = blank_figure(size)
    _headline(figure, "Where regions lie, and how large they are", size)
    for place, (split, map_YX) in enumerate(masks.items()):
        left = (0.55 + place * 3.1) / size[0]
        above = figure.add_axes((left, 2.0 / size[1], 2.3 / size[0], 2.3 / size[1]))
        above.imshow(map_YX, cmap="magma", vmin=0, vmax=max(float(map_YX.max()), 1e-6), extent=(0, 1, 1, 0))
        above.set_title(
            f"{split}: {len(areas[split])} regions, brightest {map_YX.max():.0%}", fontsize=8, color=_INK, loc="left"
        )
        above.set_xticks([0, 0.5, 1])
        above.set_yticks([0, 0.5, 1])
        below = figure.add_axes((left, 0.5 / size[1], 2.3 / size[0], 1.1 / size[1]))
        below.hist(areas[split], bins=20, range=(0, 1), color="#1f5fbf")
        below.set_xlabel("share of the frame that a region covers", fontsize=7, color=_INK)
        for each in (above, below):
            each.tick_params(labelsize=7, labelcolor=_INK, length=2)
    return figure


def _headline(figure: Figure, text: str, size: tuple[float, float]) -> None:
    at = (_GAP / size[0], 1 - 0.24 / size[1])
    figure.text(*at, text, fontsize=11, weight="bold", color=_INK, va="center", parse_math=False)


def _caption(figure: Figure, at: tuple[float, float, float], number: int, clip: SheetClip, width: float) -> None:
    """Two lines: what is shown and its time; the first gives the reason where the clip was not chosen at random."""
    max_letters = int(width * 17)  # letters
    named = ", ".join(clip.labels) or "no class"
    span = f"{clip.start_s:.2f} to {clip.start_s + clip.duration_s:.2f} s"
    first = f"{number}  {named}" + (f"  ({clip.why})" if clip.why else "")
    name = (
        clip.clip_id
        if len(clip.clip_id) + len(span) + 2 <= max_letters
        else f"…{clip.clip_id[-(max_letters - len(span) - 3) :]}"
    )
    for line, text in enumerate((first[: max_letters - 6], f"{name}  {span}")):
        figure.text(
            at[0],
            at[1] - line * at[2],
            text,
            fontsize=8 - line * 1.2,
            weight="normal" if line else "bold",
            color=_FAINT if line else _INK,
            va="center",
            parse_math=False,
        )


def _frame(axes: Axes, clip: SheetClip, at: int) -> None:
    y, x = clip.frames[at].shape[:2]
    axes.imshow(clip.frames[at], extent=(0, x, y, 0), interpolation="bilinear")
    axes.set_axis_off()
    names = sorted({region["label"] for region in clip.regions})
    for region in clip.regions:
        if region["frame"] == at:
            colour = SOURCE_COLOURS[names.index(region["label"]) % len(SOURCE_COLOURS)]
            _region(axes, region, (y, x), colour)
    axes.set_xlim(0, x)
    axes.set_ylim(y, 0)
    label = axes.text(0.02 * x, 0.98 * y, f"+{clip.times_s[at]:.2f} s", fontsize=6.5, color="white", va="bottom")
    label.set_path_effects(_HALO)


def _region(axes: Axes, region: Mapping[str, Any], size_YX: tuple[int, int], colour: str) -> None:
    """Its outline, dashed where it is silent, dotted where one annotator alone has it, and its name."""
    (y, x), corner, alone = size_YX, (0.0, 0.0), region["weight"] < 1
    style = "dashed" if not region["sounding"] else "dotted" if alone else "solid"
    if region["mask"] is not None:
        mask = Image.open(io.BytesIO(region["mask"])).convert("L").resize((x, y), Image.Resampling.BOX)
        mask_YX = np.pad((np.asarray(mask) > 127).astype(np.float32), 1)
        if mask_YX.any():
            rows, cells = (np.arange(edge) - 0.5 for edge in mask_YX.shape)
            for width, ink in ((3.2, "black"), (1.6, colour)):
                axes.contour(cells, rows, mask_YX, levels=[0.5], colors=[ink], linewidths=width, linestyles=style)
            corner = (float(cells[mask_YX.any(0)].min()), float(rows[mask_YX.any(1)].min()))
    if region["box_xyxy"] is not None:
        left, top, right, bottom = (
            float(edge) * side for edge, side in zip(region["box_xyxy"], (x, y, x, y), strict=True)
        )
        box = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5, linestyle=style
        )
        box.set_path_effects([patheffects.withStroke(linewidth=3.0, foreground="black", alpha=0.6)])
        axes.add_patch(box)
        corner = (left, top)
    name = (
        (region["label"] or "no label") + ("" if region["sounding"] else ", silent") + (", one alone" if alone else "")
    )
    above = corner[1] > 0.09 * y  # room for its name, which would hide a small region
    label = axes.text(
        max(corner[0], 0) + 0.01 * x,
        max(corner[1], 0) + (-0.01 if above else 0.01) * y,
        name,
        fontsize=6.5,
        color=colour,
        va="bottom" if above else "top",
        clip_on=True,
        parse_math=False,
    )
    label.set_path_effects(_HALO)


def _mel(axes: Axes, clip: SheetClip) -> None:
    """The sound as a model would get it, a line where each frame is."""
    axes.imshow(
        clip.mel_TM.T,
        origin="lower",
        extent=(0, clip.duration_s, 0, clip.mel_TM.shape[1]),
        aspect="auto",
        cmap="magma",
        vmin=-1,
        vmax=0.6,
    )
    for at in clip.drawn:
        axes.axvline(clip.times_s[at], color="#19d3f3", linewidth=1.1, linestyle="dotted")
    axes.set_xlim(0, clip.duration_s)
    axes.set_yticks([])
    axes.tick_params(labelsize=6, labelcolor=_FAINT, length=2, pad=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
    axes.xaxis.set_major_formatter("{x:g} s")
