"""Pictures of a final evaluation: frame, one heat map per audio node over it, truth outlined.

After Figures 3, 4 and 8 of the paper. Draws with matplotlib's Agg canvas only (no window, no global state), so it works
on a cluster node and in threads. Every picture names what it shows: sources by colour, maps by the source they fit.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from raymix.metrics.functional import minmax_normalize, resize_maps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import EvaluationProtocol
from raymix.metrics.scoring import score_maps

if TYPE_CHECKING:
    from raymix.data.batches import SceneBatch

SOURCE_COLOURS = ("#19d3f3", "#ff4fd8", "#b6f500", "#ff9f1c")  # seen on dark and light frames and on the heat map

_INK = "#222222"

_HEAT = "inferno"

_GOOD, _BAD = "#0b6e4f", "#b3261e"

_MEAN = -1

_HALO = 1.6  # extra width in points of the dark line under each outline

_CORNERS = ("top left", "top right", "bottom left", "bottom right")

PANEL_NAMES = {"grid2x2": _CORNERS, "solo2x2": _CORNERS, "hconcat": ("left", "right")}  # by layout of scenes


@dataclass(frozen=True)
class ScenePicture:
    """One scene to draw: frame, heatmaps and ground truth; ValueError where sizes do not fit.

    `maps_MHW` are raw maps; `sources` names the S sources; `map_S` is the map that belongs to each source (-1: none) and
    `iou_S` how well it fits; `panels` are x0, y0, x1, y1 in pixels, `sounding` the panels that sound. With one
    source and several maps, what is scored is the mean of the normalised maps, and it is drawn before them.
    """

    title: str
    frame_YX3: np.ndarray
    maps_MHW: np.ndarray
    masks_SYX: np.ndarray | None = None
    sources: tuple[str, ...] = ()
    map_S: tuple[int, ...] = ()
    iou_S: tuple[float, ...] = ()
    panels: tuple[tuple[float, float, float, float], ...] = ()
    sounding: tuple[int, ...] = ()
    halves_SYX: np.ndarray | None = None  # pixels beside the masks that one annotator alone has

    def __post_init__(self) -> None:
        size = self.frame_YX3.shape[:2]
        if self.frame_YX3.ndim != 3 or self.frame_YX3.shape[2] != 3 or self.frame_YX3.dtype != np.uint8:
            raise ValueError(f"picture {self.title}: a frame is uint8 (Y, X, 3), not {self.frame_YX3.shape}")
        if self.maps_MHW.ndim != 3 or not np.isfinite(self.maps_MHW).all():
            raise ValueError(f"picture {self.title}: maps are finite numbers (M, H, W), not {self.maps_MHW.shape}")
        for masks_SYX in (self.masks_SYX, self.halves_SYX):
            if masks_SYX is not None and masks_SYX.shape[1:] != size:
                raise ValueError(f"picture {self.title}: masks {masks_SYX.shape} do not fit the frame {size}")

    @property
    def drawn(self) -> list[int]:
        """The maps to draw, by index; _MEAN is their mean."""
        several = len(self.sources or self.map_S) == 1 and len(self.maps_MHW) > 1
        return [_MEAN] * several + list(range(len(self.maps_MHW)))


@dataclass(frozen=True)
class SceneCaptions:
    """What surrounds the picture of one scene: titles, the sound, and whether the scene counts as a success.

    `captions` are of the maps in the order of `Picture.drawn`. `mel_TF` is the log-mel spectrogram in dB, `sound` names
    what it is of. `threshold` is where the normalised maps are cut, `None` where they are not cut at one value.
    """

    heading: str
    lines: tuple[str, ...] = ()
    outcome: str = ""
    success: bool | None = None
    warning: str = ""
    captions: tuple[str, ...] = ()
    mel_TF: np.ndarray | None = None
    seconds: float = 0.0
    sound: str = ""
    threshold: float | None = None


def draw_scene(picture: ScenePicture, sheet: SceneCaptions) -> Figure:
    """One scene: the frame, each map over the grey frame, their colour bar, and below them the sources."""
    cells = [None, *picture.drawn]
    aspect = picture.frame_YX3.shape[0] / picture.frame_YX3.shape[1]
    cell = 2.7 if aspect > 0.75 else 3.5  # inches
    gap, side, bar = 0.14, 0.12, 0.75
    width = 2 * side + len(cells) * (cell + gap) + bar
    titles = wrap_heading(sheet.heading, width)
    texts = [(line, _INK) for line in sheet.lines]
    mark = {True: "\u2713 success: ", False: "\u2717 no success: ", None: ""}[sheet.success]
    texts += [(mark + sheet.outcome, _GOOD if sheet.success else _BAD)] if sheet.outcome else []
    texts += [(sheet.warning, _BAD)] if sheet.warning else []
    texts = [(part, ink) for line, ink in texts for part in textwrap.wrap(line, int(width / 0.072))]
    top = 0.2 + 0.2 * len(titles) + 0.17 * len(texts) + 0.38
    sound, bottom = (1.45 if sheet.mel_TF is not None else 0.1), 0.5
    size = (width, top + cell * aspect + sound + bottom)
    figure = blank_figure(size)

    def place(x: float, y: float, wide: float, high: float) -> Axes:
        """Axes at so many inches from the left and the top."""
        return figure.add_axes((x / size[0], 1 - (y + high) / size[1], wide / size[0], high / size[1]))

    for column, which in enumerate(cells):
        axes = place(side + column * (cell + gap), top, cell, cell * aspect)
        axes.set_axis_off()
        if which is None:
            draw_frame(axes, picture)
            _tags(axes, picture)
        else:
            draw_heatmap(axes, picture, which, sheet.threshold)
            if sheet.captions:
                _label(axes, sheet.captions[column - 1])
    _colour_bar(place(side + len(cells) * (cell + gap) + 0.02, top, 0.13, cell * aspect), sheet.threshold)
    if sheet.mel_TF is not None:
        wide = min(2 * cell + gap, width - 2 * side) - 0.5
        axes = place(side + 0.5, top + cell * aspect + 0.42, wide - 0.75, 0.6)
        _spectrogram(axes, place(side + wide - 0.17, top + cell * aspect + 0.42, 0.1, 0.6), sheet)
    draw_title(figure, titles, size)
    for number, (line, ink) in enumerate(texts):
        y = 1 - (0.27 + 0.2 * len(titles) + 0.17 * number) / size[1]
        figure.text(0.1 / size[0], y, line, fontsize=8.5, color=ink, va="center")
    draw_legend(figure, [picture], size, sheet.threshold)
    return figure


def _tags(axes: Axes, picture: ScenePicture) -> None:
    """In the corner of each panel whether it sounds, and what."""
    if not picture.sounding or len(picture.panels) < 2:
        return
    for panel, (x0, y0, _, _) in enumerate(picture.panels):
        places = [source for source, each in enumerate(picture.sounding) if each == panel]
        text = " and ".join(f"sounds: source {source + 1}" for source in places) or "silent"
        edge = SOURCE_COLOURS[places[0] % len(SOURCE_COLOURS)] if places else "#dddddd"
        box = {"boxstyle": "round,pad=0.25", "facecolor": "black", "edgecolor": edge, "alpha": 0.8, "linewidth": 1.2}
        inset = 0.025 * picture.frame_YX3.shape[0]
        axes.text(x0 + inset, y0 + inset, text, fontsize=7.5, color="white", ha="left", va="top", bbox=box)


def _colour_bar(axes: Axes, threshold: float | None) -> None:
    """The colours of a map over medium grey, as `draw_heatmap` blends them."""
    value = np.linspace(0, 1, 256)[:, None]
    alpha = _opacity(value)[..., None]
    image = alpha * colormaps[_HEAT](value)[..., :3] + (1 - alpha) * 0.55
    axes.imshow(image, aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.tick_params(labelsize=7, length=2, labelcolor=_INK)
    axes.yaxis.set_label_position("right")
    axes.set_ylabel("map, scaled to 0..1", fontsize=7.5, color=_INK)
    if threshold is not None:
        axes.axhline(threshold, color="white", linewidth=1.2)


def _spectrogram(axes: Axes, bar: Axes, sheet: SceneCaptions) -> None:
    assert sheet.mel_TF is not None
    bands = sheet.mel_TF.shape[1]
    image = axes.imshow(
        sheet.mel_TF.T, aspect="auto", origin="lower", cmap="cividis", extent=(0, sheet.seconds, 0, bands)
    )
    axes.set_yticks([0, bands])
    axes.tick_params(labelsize=7, length=2, labelcolor=_INK)
    axes.set_xlabel("seconds", fontsize=7.5, color=_INK, labelpad=1)
    axes.set_ylabel("mel band", fontsize=7.5, color=_INK, labelpad=2)
    _label(axes, sheet.sound)
    colours = axes.figure.colorbar(image, cax=bar)
    colours.ax.tick_params(labelsize=7, length=2, labelcolor=_INK)
    colours.set_label("dB", fontsize=7.5, color=_INK, labelpad=1)


def blank_figure(size_inches: tuple[float, float]) -> Figure:
    """A white figure of this size, with a canvas of its own."""
    figure = Figure(figsize=size_inches, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def wrap_heading(heading: str, width: float) -> list[str]:
    """The lines of a heading on a figure of so many inches; none without a heading."""
    return textwrap.wrap(heading, max(24, int(width / 0.1)), break_on_hyphens=False)


def draw_title(figure: Figure, lines: Sequence[str], size: tuple[float, float]) -> None:
    """A heading above everything, 0.2 inches a line."""
    for place, line in enumerate(lines):
        y = 1 - (0.26 + 0.2 * place) / size[1]
        figure.text(0.1 / size[0], y, line, fontsize=11, weight="bold", color=_INK, va="center")


def _show(axes: Axes, image: np.ndarray, **how: Any) -> None:
    y, x = image.shape[:2]
    axes.imshow(image, extent=(0, x, y, 0), aspect="equal", **how)
    axes.set_xlim(0, x)
    axes.set_ylim(y, 0)


def _label(axes: Axes, text: str, colour: str = _INK) -> None:
    axes.set_title(text, fontsize=8, color=colour, loc="left", pad=3)


def draw_frame(axes: Axes, picture: ScenePicture) -> None:
    """The frame, silent panels faded, the true regions outlined."""
    _show(axes, picture.frame_YX3, interpolation="nearest")
    for panel, (x0, y0, x1, y1) in enumerate(picture.panels):
        if picture.sounding and panel not in picture.sounding:
            axes.fill_between([x0, x1], y0, y1, color="white", alpha=0.45, linewidth=0)
    _panel_lines(axes, picture)
    _outlines(axes, picture, range(len(picture.masks_SYX) if picture.masks_SYX is not None else 0))
    _label(axes, picture.title)


def _opacity(heat: np.ndarray) -> np.ndarray:
    """How opaque a map is where it has these values: the frame stays visible where it is low."""
    return 0.12 + 0.63 * heat


def draw_heatmap(axes: Axes, picture: ScenePicture, which: int, threshold: float | None = None) -> None:
    """The map, upsampled and min-max normalised as it is scored, over the frame in grey; a line where it is cut."""
    y, x = picture.frame_YX3.shape[:2]
    grey = picture.frame_YX3.astype(np.float32).mean(axis=2) / 255
    _show(axes, 0.25 + 0.6 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    heat_MYX = minmax_normalize(resize_maps(minmax_normalize(picture.maps_MHW[None]), (y, x)))[0]
    heat = minmax_normalize(heat_MYX.mean(axis=0)) if which == _MEAN else heat_MYX[which]
    _show(axes, heat, cmap=_HEAT, vmin=0, vmax=1, alpha=_opacity(heat), interpolation="nearest")
    if threshold is not None and heat.max() > threshold > heat.min():
        at = (np.arange(x) + 0.5, np.arange(y) + 0.5)
        axes.contour(*at, heat, levels=[threshold], colors=["white"], linewidths=1.0)
    _panel_lines(axes, picture)
    if _MEAN in picture.drawn:
        mine = [0] if which == _MEAN else []
    else:
        mine = [source for source, chosen in enumerate(picture.map_S) if chosen == which]
    known = range(len(picture.masks_SYX)) if picture.masks_SYX is not None else range(0)
    _outlines(axes, picture, [source for source in known if source not in mine], faint=True)
    _outlines(axes, picture, [source for source in known if source in mine])
    if which != _MEAN:
        _peak(axes, picture.maps_MHW[which], (y, x))
    _label(axes, _caption(picture, which, mine))


def _peak(axes: Axes, map_HW: np.ndarray, size_YX: tuple[int, int]) -> None:
    """A cross in the highest cell; none where the map is constant."""
    if map_HW.max() > map_HW.min():
        row, cell = np.unravel_index(int(map_HW.argmax()), map_HW.shape)
        at = ((cell + 0.5) * size_YX[1] / map_HW.shape[1], (row + 0.5) * size_YX[0] / map_HW.shape[0])
        axes.plot(*at, marker="+", markersize=9, markeredgewidth=2.6, color="black")
        axes.plot(*at, marker="+", markersize=8, markeredgewidth=1.2, color="white")


def _caption(picture: ScenePicture, which: int, mine: Sequence[int]) -> str:
    name = "mean of the maps" if which == _MEAN else f"map {which + 1}"
    if not mine:
        return name + (": fits no source" if picture.map_S and _MEAN not in picture.drawn else "")
    fits = [picture.sources[each] if each < len(picture.sources) else f"source {each + 1}" for each in mine]
    ious = [picture.iou_S[each] if each < len(picture.iou_S) else math.nan for each in mine]
    if len(mine) == 1:
        return f"{name}: {fits[0]}" + ("" if math.isnan(ious[0]) else f", IoU {ious[0]:.2f}")
    both = (f"{fit} {iou:.2f}" for fit, iou in zip(fits, ious, strict=True) if not math.isnan(iou))
    return f"{name}: IoU {', '.join(both)}"


def _panel_lines(axes: Axes, picture: ScenePicture) -> None:
    y, x = picture.frame_YX3.shape[:2]
    for x0, y0, _, _ in picture.panels:
        if 0 < x0 < x:
            axes.axvline(x0, color="white", linewidth=1.5)
        if 0 < y0 < y:
            axes.axhline(y0, color="white", linewidth=1.5)


def _outlines(axes: Axes, picture: ScenePicture, which: Sequence[int], faint: bool = False) -> None:
    """Outlines of the true regions, each in its source's colour on a dark halo; thin and dotted where faint.

    Dashed around all that any annotator has, where that is more.
    """
    if picture.masks_SYX is None:
        return
    for source in which:
        mask_YX, colour = picture.masks_SYX[source], SOURCE_COLOURS[source % len(SOURCE_COLOURS)]
        if picture.halves_SYX is not None and picture.halves_SYX[source].any():
            _outline(
                axes, mask_YX | picture.halves_SYX[source], colour, 1.0, "dotted" if faint else "dashed", not faint
            )
        _outline(axes, mask_YX, colour, 1.0 if faint else 1.8, "dotted" if faint else "solid", not faint)


def _outline(axes: Axes, mask_YX: np.ndarray, colour: str, width: float, style: str, halo: bool) -> None:
    mask = np.pad(mask_YX.astype(np.float32), 1)  # so that regions at the border close
    if mask.any():
        y, x = (np.arange(size) - 0.5 for size in mask.shape)
        for ink, wide in ((to_rgba("black", 0.7), width + _HALO), (to_rgba(colour), width))[not halo :]:
            axes.contour(x, y, mask, levels=[0.5], linestyles=style, colors=[ink], linewidths=wide)


def draw_legend(
    figure: Figure, pictures: Sequence[ScenePicture], size: tuple[float, float], threshold: float | None = None
) -> None:
    """Which colour is which source's true region, and the other marks, below everything."""
    sources = max((0 if each.masks_SYX is None else len(each.masks_SYX) for each in pictures), default=0)
    names = {each.sources for each in pictures if each.sources}
    same = next(iter(names)) if len(names) == 1 else ()
    handles = [
        Line2D([], [], color=SOURCE_COLOURS[source % len(SOURCE_COLOURS)], linewidth=2.5) for source in range(sources)
    ]
    labels = [f"truth: {same[s] if s < len(same) else f'source {s + 1}'}" for s in range(sources)]
    if any(each.halves_SYX is not None and each.halves_SYX.any() for each in pictures):
        handles.append(Line2D([], [], color=_INK, linewidth=1.2, linestyle="dashed"))
        labels.append("with what one annotator alone has")
    peak = Line2D([], [], color="black", marker="+", linestyle="", markersize=8, markeredgewidth=1.5)
    cut = [
        Line2D(
            [], [], color="white", linewidth=1.2, path_effects=[Stroke(linewidth=2.6, foreground="#888888"), Normal()]
        )
    ]
    cut = cut if threshold is not None else []
    figure.legend(
        [*handles, *cut, peak],
        [*labels, *(["predicted region: map \u2265 " + f"{threshold:g}"] if cut else []), "peak of the map"],
        loc="lower left",
        bbox_to_anchor=(0.1 / size[0], 0.08 / size[1]),
        ncols=len(handles) + len(cut) + 1,
        fontsize=8,
        frameon=False,
        labelcolor=_INK,
        borderaxespad=0,
    )


def figure_to_pdf(figure: Figure) -> bytes:
    """The figure as a PDF file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def figure_to_png(figure: Figure, dpi: float | Literal["figure"] = "figure") -> bytes:
    """The figure as a PNG file, the same bytes for the same figure; `dpi`: pixels per inch, else the figure's own."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def scenes_as_pictures(
    scenes: SceneBatch,
    truth: SceneGroundTruth,
    maps_NMHW: np.ndarray,
    index: np.ndarray,
    how: EvaluationProtocol,
    classes: list[str] | None = None,
) -> list[ScenePicture]:
    """The scenes of these indices as pictures, each map named by the source that it fits; `classes` name the maps."""
    drawn = []
    places = PANEL_NAMES.get(truth.layout, ())
    chosen = truth.take(index)
    table = score_maps(maps_NMHW[index], chosen, how, classes) if len(index) else None
    for place, scene in enumerate(index):
        known = bool(truth.has_truth_N[scene]) and truth.masks_NSYX is not None
        scored = known and table is not None and not np.isnan(table.iou_NS[place]).all()
        panels = [int(panel) for panel in truth.panels_NS[scene]]
        drawn.append(
            ScenePicture(
                title=truth.ids[scene],
                frame_YX3=scenes.frames_N3YX[scene].permute(1, 2, 0).cpu().numpy(),
                maps_MHW=maps_NMHW[scene],
                masks_SYX=truth.masks_NSYX[scene] if known and truth.masks_NSYX is not None else None,
                sources=tuple(places[panel] if places else f"source {panel + 1}" for panel in panels),
                map_S=tuple(table.map_NS[place].tolist()) if scored and table else (),
                iou_S=tuple(table.iou_NS[place].tolist()) if scored and table else (),
                panels=tuple(tuple(map(float, rect)) for rect in truth.rects_P4),  # type: ignore[misc]
                sounding=tuple(panels),
                halves_SYX=truth.halves_NSYX[scene] if known and truth.halves_NSYX is not None else None,
            )
        )
    return drawn
