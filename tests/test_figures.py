"""Figures: the right pixels in the right place, read back from the PNG."""

import io
import math

import matplotlib.image
import numpy as np
import pytest

from raymix.chart import comparison
from raymix.figures import SOURCE_COLOURS, Picture, png, scenes


def picture(**change):
    masks = np.zeros((2, 32, 64), bool)
    masks[0, 8:20, 4:20] = masks[1, 10:24, 40:60] = True
    maps = np.zeros((3, 4, 8))
    maps[0, 2, 6] = maps[1, 1, 1] = 1
    values = {
        "title": "clip a + clip b",
        "frame_YX3": np.full((32, 64, 3), 90, np.uint8),
        "maps_MHW": maps,
        "masks_SYX": masks,
        "sources": ("drum", "organ"),
        "map_S": (1, 0),
        "iou_S": (0.5, 0.25),
        "panels": ((0, 0, 32, 32), (32, 0, 64, 32)),
        "sounding": (0, 1),
    }
    return Picture(**(values | change))


def pixels(figure):
    data = png(figure)
    assert data.startswith(b"\x89PNG")
    return matplotlib.image.imread(io.BytesIO(data), format="png")[..., :3]


def count(image, colour, within=0.06):
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(image - wanted) < within).all(axis=-1).sum())


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_a_row_shows_frame_maps_and_truth():
    figure = scenes([picture()], "Best checkpoint")
    assert titles(figure) == [
        "clip a + clip b",
        "map 1: organ, IoU 0.25",
        "map 2: drum, IoU 0.50",
        "map 3: fits no source",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "truth: drum",
        "truth: organ",
        "peak of the map",
    ]
    image = pixels(figure)
    assert all(count(image, colour) > 500 for colour in SOURCE_COLOURS[:2])
    bare = pixels(scenes([picture(masks_SYX=None)], "Best checkpoint"))
    assert all(count(bare, colour) < 20 for colour in SOURCE_COLOURS[:2])


def test_what_one_annotator_alone_has_is_dashed():
    halves = np.zeros((2, 32, 64), bool)
    halves[1, 2:28, 36:62] = True
    figure, plain = scenes([picture(halves_SYX=halves)]), scenes([picture()])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "truth: drum",
        "truth: organ",
        "with what one annotator alone has",
        "peak of the map",
    ]
    drawn, before = (pixels(each) for each in (figure, plain))
    assert drawn.shape == before.shape
    part = np.s_[: int(0.85 * len(drawn))]  # above the legend
    more = [count(drawn[part], colour) - count(before[part], colour) for colour in SOURCE_COLOURS[:2]]
    assert abs(more[0]) < 20 and more[1] > 100
    none = scenes([picture(halves_SYX=np.zeros_like(halves))])
    assert np.array_equal(pixels(none), before)
    only = picture(masks_SYX=np.zeros_like(halves), halves_SYX=halves)
    assert count(pixels(scenes([only]))[part], SOURCE_COLOURS[1]) > 100


def test_the_heat_is_where_the_map_is_high():
    shown = picture(masks_SYX=None, panels=(), map_S=(), iou_S=())
    figure = scenes([shown])
    image = pixels(figure)
    axes = figure.axes[2].get_position()
    y, x = image.shape[:2]
    part = image[int((1 - axes.y1) * y) : int((1 - axes.y0) * y), int(axes.x0 * x) : int(axes.x1 * x)]
    warmth = part[..., 0] - part[..., 2]
    rows, columns = (size // 4 for size in part.shape[:2])
    # cell (1, 1) of 4 x 8 lies at 3/8 of the height and 3/16 of the width
    assert warmth[rows : 2 * rows, columns // 2 : columns].mean() > 0.15 > warmth[:, 2 * columns :].mean() + 0.1


def test_silent_panels_step_back_and_silence_is_named():
    heard, deaf = pixels(scenes([picture(masks_SYX=None)])), pixels(scenes([picture(masks_SYX=None, sounding=(0,))]))
    assert heard.shape == deaf.shape and deaf.mean() > heard.mean() + 0.005
    assert [text.get_text() for text in scenes([picture(sounding=(0,))]).axes[0].texts] == ["silent"]


def test_rows_of_different_numbers_of_maps_and_constant_maps():
    many = [
        picture(),
        picture(maps_MHW=np.ones((1, 2, 4)), map_S=(-1, 0), iou_S=(math.nan, 0.0)),
        picture(map_S=(), iou_S=()),
    ]
    figure = scenes(many)
    assert titles(figure)[4:6] == ["clip a + clip b", "map 1: organ, IoU 0.00"]
    assert titles(figure)[-1] == "map 3"
    assert pixels(figure).std() > 0.05


def test_one_source_shows_the_mean_of_the_maps_which_is_what_is_scored():
    one = picture(
        masks_SYX=np.ones((1, 32, 64), bool), sources=("drum",), map_S=(0,), iou_S=(0.4,), sounding=(0,), panels=()
    )
    assert titles(scenes([one])) == ["clip a + clip b", "mean of the maps: drum, IoU 0.40", "map 1", "map 2", "map 3"]
    alone = picture(
        maps_MHW=np.eye(4)[None], sources=("drum",), map_S=(0,), iou_S=(0.4,), masks_SYX=None, sounding=(0,)
    )
    assert titles(scenes([alone])) == ["clip a + clip b", "map 1: drum, IoU 0.40"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frame_YX3": np.zeros((3, 32, 64), np.uint8)}, "a frame is uint8"),
        ({"frame_YX3": np.zeros((32, 64, 3))}, "a frame is uint8"),
        ({"maps_MHW": np.full((1, 2, 2), np.nan)}, "maps are finite"),
        ({"masks_SYX": np.zeros((2, 8, 8), bool)}, "do not fit the frame"),
        ({"halves_SYX": np.zeros((2, 8, 8), bool)}, "do not fit the frame"),
    ],
)
def test_bad_pictures_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        picture(**change)


def test_no_pictures_and_no_systems():
    with pytest.raises(ValueError, match="no pictures"):
        scenes([])
    with pytest.raises(ValueError, match="no systems"):
        comparison({}, metric="cap")


def test_comparison_orders_nulls_below_and_draws_the_best():
    intervals = {"full frame": (0.1, 0.05, 0.2), "cycle": (0.7, 0.6, 0.8), "radial prior": (0.3, math.nan, math.nan)}
    figure = comparison(intervals, ["full frame", "radial prior"], metric="ciou@0.3", heading="Test", chance=1 / 6)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cycle", "radial prior", "full frame"]
    assert [text.get_text() for text in axes.texts] == ["0.700", "0.300", "0.100", "chance "]
    assert 0.3 in [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert count(pixels(figure), "#1f5fbf") > 100


LONG = "trial 12, untrained network, $long_{name$, shuffled"
LONGER = f"{'a very long name of a study of many trials, ' * 3}shuffled audio"


def test_long_names_of_rows_stay_on_the_chart():
    usual = comparison({"cycle": (0.7, 0.6, 0.8), "full frame": (0.1, 0.05, 0.2)}, ["full frame"], metric="cap")
    long = comparison(
        {"cycle": (0.7, 0.6, 0.8), LONG: (0.2, 0.1, 0.3), LONGER: (0.1, 0.05, 0.2)}, [LONGER], metric="cap"
    )
    assert usual.get_size_inches()[0] == 7.0
    assert [label.get_text() for label in usual.axes[0].get_yticklabels()] == ["cycle", "full frame"]
    labels = long.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels[:2]] == ["cycle", LONG]
    short = labels[2].get_text()
    assert short.startswith("a very long name of a") and "…" in short and short.endswith("trials, shuffled audio")
    renderer = long.canvas.get_renderer()
    assert min(label.get_window_extent(renderer).x0 for label in labels) > 0
    assert max(text.get_window_extent(renderer).x1 for text in long.axes[0].texts) < long.bbox.x1
    widths = [figure.axes[0].get_position().width * figure.get_size_inches()[0] for figure in (usual, long)]
    assert widths[0] == pytest.approx(widths[1])  # the scale is the same in all charts
