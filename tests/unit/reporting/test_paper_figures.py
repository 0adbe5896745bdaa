"""Systems side by side on the same scenes: a column for each map, its system above it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raymix.reporting.figures import ScenePicture, figure_to_png
from raymix.reporting.paper_figures import draw_system_rows

RNG = np.random.default_rng(0)


def picture(maps: int, title: str = "scene 1", sources: tuple[str, ...] = ("left", "right")) -> ScenePicture:
    masks = np.zeros((len(sources), 16, 32), bool)
    masks[0, 4:12, 2:10] = True
    frame = RNG.integers(0, 255, (16, 32, 3), dtype=np.uint8)
    return ScenePicture(title, frame, RNG.random((maps, 4, 8)), masks, sources, tuple(range(maps)), (0.5, 0.1)[:maps])


def test_a_column_for_each_map() -> None:
    rows = [{"OTS": picture(1, title), "Ours": picture(2, title)} for title in ("scene 1", "scene 2", "scene 3")]
    figure = draw_system_rows(rows, "test split")
    assert len(figure.axes) == 3 * (1 + 1 + 2)
    assert [text.get_text() for text in figure.texts] == ["", "OTS", "Ours #1", "Ours #2", "test split"]
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["scene 1", "scene 2", "scene 3"]
    assert figure.axes[6].get_title(loc="left") == "left, IoU 0.50"
    assert figure_to_png(figure).startswith(b"\x89PNG")


def test_one_source_shows_the_mean_first() -> None:
    figure = draw_system_rows([{"Ours": picture(2, sources=("all",))}])
    assert [text.get_text() for text in figure.texts] == ["", "Ours, mean", "Ours #1", "Ours #2"]


def test_one_map_for_two_sources_says_how_it_fits_both() -> None:
    one = replace(picture(1), map_S=(0, 0), iou_S=(0.5, 0.25))
    heading = "A heading that is too long for a figure of two columns and so goes on below, word by word"
    figure = draw_system_rows([{"OTS": one}], heading)
    assert figure.axes[1].get_title(loc="left") == "IoU left 0.50, right 0.25"
    assert figure.axes[0].get_title(loc="left") == "scene 1"
    lines = [text for text in figure.texts if text.get_text() and text.get_text() in heading]
    assert len(lines) > 1 and " ".join(text.get_text() for text in lines) == heading
    wide = replace(
        picture(1), map_S=(0, 0), iou_S=(0.5, 0.25), sources=("bottom left, far away", "bottom right, near by")
    )
    figure = draw_system_rows([{"OTS": wide}])
    canvas = figure.canvas.get_renderer()
    for axes in figure.axes:
        said = axes._left_title.get_window_extent(canvas)
        assert said.x1 <= axes.get_window_extent(canvas).x1 + 0.1 * figure.dpi  # the gap to the next column
    axes = figure.axes[1]
    assert axes.get_title(loc="left") == "IoU bottom left, far away 0.50, bottom right, near by 0.25"


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no scenes to draw"):
        draw_system_rows([])
    with pytest.raises(ValueError, match="a row shows Ours, the first one OTS"):
        draw_system_rows([{"OTS": picture(1)}, {"Ours": picture(1)}])
    with pytest.raises(ValueError, match="scene 2, OTS: another number of maps"):
        draw_system_rows([{"OTS": picture(1)}, {"OTS": picture(2, "scene 2")}])
