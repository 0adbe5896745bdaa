"""Figures: the right pixels in the right place, read back from the PNG."""

import io
import math
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from raymix.reporting.figures import SOURCE_COLOURS, SceneCaptions, ScenePicture, draw_scene, figure_to_png
from raymix.reporting.score_charts import draw_score_chart


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
    return ScenePicture(**(values | change))


def scenes(shown, heading=""):
    return draw_scene(shown, SceneCaptions(heading))


def pixels(figure):
    data = figure_to_png(figure)
    assert data.startswith(b"\x89PNG")
    return matplotlib.image.imread(io.BytesIO(data), format="png")[..., :3]


def count(image, colour, within=0.06):
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(image - wanted) < within).all(axis=-1).sum())


def titles(figure):
    return [text for axes in figure.axes if (text := axes.get_title(loc="left"))]


def test_a_row_shows_frame_maps_and_truth():
    figure = scenes(picture(), "Best checkpoint")
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
    bare = pixels(scenes(picture(masks_SYX=None), "Best checkpoint"))
    assert all(count(bare, colour) < 20 for colour in SOURCE_COLOURS[:2])


def test_what_one_annotator_alone_has_is_dashed():
    halves = np.zeros((2, 32, 64), bool)
    halves[1, 2:28, 36:62] = True
    figure, plain = scenes(picture(halves_SYX=halves)), scenes(picture())
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
    none = scenes(picture(halves_SYX=np.zeros_like(halves)))
    assert np.array_equal(pixels(none), before)
    only = picture(masks_SYX=np.zeros_like(halves), halves_SYX=halves)
    assert count(pixels(scenes(only))[part], SOURCE_COLOURS[1]) > 100


def test_the_heat_is_where_the_map_is_high():
    shown = picture(masks_SYX=None, panels=(), map_S=(), iou_S=())
    figure = scenes(shown)
    image = pixels(figure)
    axes = figure.axes[2].get_position()
    y, x = image.shape[:2]
    part = image[int((1 - axes.y1) * y) : int((1 - axes.y0) * y), int(axes.x0 * x) : int(axes.x1 * x)]
    warmth = part[..., 0] - part[..., 2]
    rows, columns = (size // 4 for size in part.shape[:2])
    # cell (1, 1) of 4 x 8 lies at 3/8 of the height and 3/16 of the width
    assert warmth[rows : 2 * rows, columns // 2 : columns].mean() > 0.15 > warmth[:, 2 * columns :].mean() + 0.1


def test_silent_panels_are_faded_and_every_panel_says_whether_it_sounds():
    heard, silent = pixels(scenes(picture(masks_SYX=None))), pixels(scenes(picture(masks_SYX=None, sounding=(0,))))
    assert heard.shape == silent.shape and silent.mean() > heard.mean() + 0.003
    figure = scenes(picture(sounding=(1,), masks_SYX=None))
    assert [text.get_text() for text in figure.axes[0].texts] == ["silent", "sounds: source 1"]
    renderer = figure.canvas.get_renderer()
    frame = figure.axes[0].get_window_extent(renderer)
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert boxes[0].x1 < frame.x0 + frame.width / 2 < boxes[1].x0 and boxes[1].x1 < frame.x1
    alone = scenes(picture(panels=(), sounding=(0,)))
    assert not alone.axes[0].texts


def test_constant_maps_and_maps_without_truth():
    one = picture(maps_MHW=np.ones((1, 2, 4)), map_S=(-1, 0), iou_S=(math.nan, 0.0))
    assert titles(scenes(one)) == ["clip a + clip b", "map 1: organ, IoU 0.00"]
    figure = scenes(picture(map_S=(), iou_S=()))
    assert titles(figure)[-1] == "map 3"
    assert pixels(figure).std() > 0.05


SHEET = SceneCaptions(
    heading="study a, method b, dataset c",
    lines=("trial 1, epoch 2, test split, hconcat, worst of 96 scenes by CIoU",),
    outcome="mean IoU of the sources 0.12, the threshold is 0.3",
    success=False,
    warning="no checkpoint is above chance on the test split",
    captions=("map 1: source 2 (organ), IoU 0.25", "map 2: source 1 (drum), IoU 0.50", "map 3: belongs to no source"),
    mel_TF=np.linspace(-50, 0, 193 * 64).reshape(193, 64),
    seconds=0.96,
    sound="log-mel spectrogram of the input audio: source 1 (drum) + source 2 (organ)",
    threshold=0.5,
)


def test_a_sheet_has_titles_sound_outcome_and_colour_bar_that_do_not_overlap():
    figure = draw_scene(picture(), SHEET)
    texts = [text.get_text() for text in figure.texts]
    outcome = "\u2717 no success: mean IoU of the sources 0.12, the threshold is 0.3"
    assert texts == [SHEET.heading, *SHEET.lines, outcome, SHEET.warning]
    assert titles(figure) == ["clip a + clip b", *SHEET.captions, SHEET.sound]
    good = draw_scene(picture(), replace(SHEET, success=True))
    assert good.texts[2].get_text().startswith("\u2713 success: ")
    assert "predicted region: map \u2265 0.5" in [text.get_text() for text in figure.legends[0].get_texts()]
    bar, mel = figure.axes[4], figure.axes[5]
    assert bar.get_ylabel() == "map, scaled to 0..1" and [line.get_ydata()[0] for line in bar.lines] == [0.5]
    shown = mel.images[0].get_array()
    assert shown.shape == (64, 193) and np.array_equal(shown, SHEET.mel_TF.T)
    assert mel.get_xlim() == (0, 0.96) and figure.axes[6].get_ylabel() == "dB"
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    parts = [axes.get_tightbbox(renderer) for axes in figure.axes[:6]]
    parts += [text.get_window_extent(renderer) for text in figure.texts]
    parts += [figure.legends[0].get_window_extent(renderer)]
    for place, box in enumerate(parts):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in parts[place + 1 :])


def test_the_line_of_the_threshold_is_where_the_map_is_cut():
    step = np.zeros((1, 4, 8))
    step[..., 4:] = 1
    one = picture(maps_MHW=step, masks_SYX=None, panels=(), sounding=(), map_S=(), iou_S=())
    (lines,) = draw_scene(one, SHEET).axes[1].collections
    (path,) = lines.get_paths()
    assert path.vertices[:, 0] == pytest.approx(32, abs=0.6)  # of 64 pixels
    assert not draw_scene(one, replace(SHEET, threshold=None)).axes[1].collections


def test_one_source_shows_the_mean_of_the_maps_which_is_what_is_scored():
    one = picture(
        masks_SYX=np.ones((1, 32, 64), bool), sources=("drum",), map_S=(0,), iou_S=(0.4,), sounding=(0,), panels=()
    )
    assert titles(scenes(one)) == ["clip a + clip b", "mean of the maps: drum, IoU 0.40", "map 1", "map 2", "map 3"]
    alone = picture(
        maps_MHW=np.eye(4)[None], sources=("drum",), map_S=(0,), iou_S=(0.4,), masks_SYX=None, sounding=(0,)
    )
    assert titles(scenes(alone)) == ["clip a + clip b", "map 1: drum, IoU 0.40"]


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


def test_no_systems():
    with pytest.raises(ValueError, match="no systems"):
        draw_score_chart({}, metric="cap")


def test_comparison_orders_nulls_below_and_draws_the_best():
    intervals = {"full frame": (0.1, 0.05, 0.2), "cycle": (0.7, 0.6, 0.8), "radial prior": (0.3, math.nan, math.nan)}
    figure = draw_score_chart(
        intervals, ["full frame", "radial prior"], metric="ciou@0.3", heading="Test", chance=1 / 6
    )
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cycle", "radial prior", "full frame"]
    assert [text.get_text() for text in axes.texts] == ["0.700", "0.300", "0.100", "chance 0.167"]
    assert 0.3 in [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert count(pixels(figure), "#1f5fbf") > 100


def test_controls_are_told_from_baselines_and_baselines_at_zero_share_a_row():
    zeros = {"full frame": (0.0, 0.0, 0.0), "centre box 0.5": (0.0, 0.0, 0.0), "radial prior": (0.0, 0.0, 0.0)}
    others = {"trial 1, shuffled audio": (0.0, 0.0, 0.0), "untrained network": (0.2, 0.1, 0.3)}
    intervals = {"full frame": zeros["full frame"], "trial 1": (0.7, 0.6, 0.8), **others, **zeros}
    figure = draw_score_chart(
        intervals,
        [*zeros, *others],
        controls=["trial 1, shuffled audio"],
        metric="IoU@0.5",
        heading="study a, method b, dataset c",
        below="test split, single: 96 scenes of 15 videos",
        warning="no checkpoint is above chance on the test split",
    )
    (axes,) = figure.axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["trial 1", "trial 1, shuffled audio", "untrained network", "3 baselines at 0"]
    texts = [text.get_text() for text in figure.texts]
    assert texts == [
        "study a, method b, dataset c",
        "test split, single: 96 scenes of 15 videos",
        "no checkpoint is above chance on the test split",
        "at 0: full frame, centre box 0.5, radial prior",
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["checkpoint", "control: its maps with shuffled audio", "baseline", "best baseline"]
    points = {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() in ("o", "s")}
    assert [points[n].get_marker() for n in range(4)] == ["o", "o", "s", "s"]
    assert [points[n].get_markerfacecolor() == "white" for n in range(4)] == [False, True, False, False]
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in [*figure.texts, *figure.legends, axes.xaxis.label]]
    for place, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    alone = draw_score_chart({"a": (0.5, 0.4, 0.6), "b": (0.0, 0.0, 0.0)}, ["b"], metric="cap")
    assert [label.get_text() for label in alone.axes[0].get_yticklabels()] == ["a", "b"]


LONG = "trial 12, untrained network, $long_{name$, shuffled"
LONGER = f"{'a very long name of a study of many trials, ' * 3}shuffled audio"


@pytest.mark.slow
def test_long_names_of_rows_stay_on_the_chart():
    usual = draw_score_chart({"cycle": (0.7, 0.6, 0.8), "full frame": (0.1, 0.05, 0.2)}, ["full frame"], metric="cap")
    long = draw_score_chart(
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
