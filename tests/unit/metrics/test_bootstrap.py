"""Intervals by bootstrap over videos: against theory, by hand, and against sets whose true mean is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raymix.metrics import bootstrap
from raymix.metrics.bootstrap import BootstrapClusters, bootstrap_interval, resampled_means
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.pooled_scores import make_pool
from raymix.metrics.scoring import ScoreTable, resample_pooled_scores, score_maps, summarize_scores


def test_bootstrap_by_cluster():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, (400, 2))
    low, high = bootstrap_interval(values, np.arange(400), 7, 2000)
    half = 1.96 * values.std(axis=0) / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert (low + high) / 2 == pytest.approx(values.mean(axis=0), abs=0.002)
    # ten equal frames of a video are one observation, whatever the names of the videos are
    tenfold = bootstrap_interval(np.repeat(values, 10, axis=0), np.repeat(np.arange(400), 10), 7, 2000)
    assert tenfold[0] == pytest.approx(low) and tenfold[1] == pytest.approx(high)
    alone = bootstrap_interval(values, np.zeros(400), 7, 2000)
    assert np.isnan(alone).all()


def test_bootstrap_with_absent_entries():
    values = np.random.default_rng(1).random((60, 3))
    values[20:, 1] = np.nan
    values[:, 2] = np.nan
    low, high = bootstrap_interval(values, np.arange(60), 0, 500)
    assert low[1] < np.nanmean(values[:, 1]) < high[1]
    assert high[1] - low[1] > high[0] - low[0]
    assert np.isnan([low[2], high[2]]).all()
    again = bootstrap_interval(values, np.arange(60), 0, 500)
    assert np.array_equal(low, again[0], equal_nan=True)


def test_bootstrap_weighs_rows():
    """An entry of weight 2 counts as two equal ones of the same video."""
    rng = np.random.default_rng(2)
    values, weights = rng.random((50, 1)), rng.integers(1, 4, (50, 1)).astype(float)
    times = weights[:, 0].astype(int)
    found = bootstrap_interval(values, np.arange(50), 3, 300, weights_NK=weights)
    spelt = bootstrap_interval(np.repeat(values, times, axis=0), np.repeat(np.arange(50), times), 3, 300)
    assert found[0] == pytest.approx(spelt[0]) and found[1] == pytest.approx(spelt[1])


SCENES = [("a", "b"), ("b", "c"), ("c", "a"), ("a",)]  # and the mean of their values in each resample, worked by hand
VALUES = np.array([[0.2, 0.2], [0.6, np.nan], [1.0, 1.0], [0.4, 0.4]])
BY_HAND = [  # how often a, b, c were drawn; how often the scenes count; mean of all; mean without the second scene
    ((1, 1, 1), (1, 1, 1, 1), 0.55, 1.6 / 3),
    ((2, 1, 0), (2, 0, 0, 2), 0.3, 0.3),
    ((0, 1, 2), (0, 2, 0, 0), 0.6, None),  # of what is left nothing was drawn
    ((1, 0, 2), (0, 0, 2, 1), 0.8, 0.8),
    ((3, 0, 0), (0, 0, 0, 3), 0.4, 0.4),
    ((0, 3, 0), (0, 0, 0, 0), None, None),
]


def by_hand(clusters: int, seed: int, resamples: int):
    assert clusters == 3
    drawn = np.array([row[0] for row in BY_HAND], float)
    yield drawn[:4]
    yield drawn[4:]


def test_three_videos_in_four_scenes(monkeypatch):
    monkeypatch.setattr(bootstrap, "draw_resamples", by_hand)
    monkeypatch.setattr(bootstrap, "_TIMES", 12)  # three resamples at a time
    units = BootstrapClusters.of(SCENES)
    assert (units.total, len(units.combination_CJ)) == (3, 4)
    times = np.concatenate(list(units.draws(0, 6)))[:, units.row_N]
    assert times.tolist() == [list(row[1]) for row in BY_HAND]
    means = resampled_means(VALUES, units, 0, 6)
    assert means == pytest.approx(np.array([row[2:] for row in BY_HAND], float), nan_ok=True)
    low, high = bootstrap_interval(
        VALUES, units, 0, 6, level=0.5
    )  # what was not drawn is left out: of 5 the 2nd and 4th, of 4
    assert (low[0], high[0]) == pytest.approx((0.4, 0.6)) and low[1] == pytest.approx(0.3 + 0.75 * 0.1)
    assert high[1] == pytest.approx(1.6 / 3 + 0.25 * (0.8 - 1.6 / 3))
    weighed = resampled_means(VALUES[:, :1], units, 0, 6, np.array([[1.0], [1], [1], [3]]))
    assert weighed[3, 0] == pytest.approx((2 * 1.0 + 3 * 0.4) / 5)
    pixels_N2B = np.array([[[0, 1], [1, 0]], [[1, 0], [0, 1]], [[0, 1], [0, 1]], [[0, 0], [1, 0]]])
    _, drawn = resample_pooled_scores(make_pool("pxap", pixels_N2B, np.ones(4, bool)), units, 0, 6)
    # of 4 pixels in the upper bin 2 are inside, of all 7 3; then the first scene alone has pixels inside, the second, the third
    assert drawn["pxap"][:4] == pytest.approx([2 / 3 * 2 / 4 + 1 / 3 * 3 / 7, 1, 1 / 2, 1 / 2])
    assert np.isnan(drawn["pxap"][4:]).all()
    # ranked: the first is right, the second wrong, the fourth right; the third is missed
    kept_N3 = np.array([[0.7, 2.0, 1], [0.1, 1.0, 1], [0.9, -np.inf, 1], [0.9, 0.5, 1]])
    _, drawn = resample_pooled_scores(make_pool("detection@0.5", kept_N3, np.ones(4, bool)), units, 0, 6)
    # recall 1/4 at precision 1, 1/3 at 1/2 (what is wrong is not missed), 2/3 at 2/3; all right; all wrong; 1/3; all right
    assert drawn["detection_ap@0.5"][:5] == pytest.approx([1 / 4 + 2 / 3 * (2 / 3 - 1 / 4), 1, 0, 1 / 3, 1])
    assert np.isnan(drawn["detection_ap@0.5"][5])


def test_units_of_rows():
    names = ["v3", "v1", "v3", "v2"]
    one, same = BootstrapClusters.of(np.array(names)), BootstrapClusters.of([(name,) for name in names])
    twice = BootstrapClusters.of([(name, name) for name in names])
    for other in (same, twice):
        assert other.total == one.total == 3 and np.array_equal(other.row_N, one.row_N)
        assert np.array_equal(other.combination_CJ, one.combination_CJ)
    swapped = BootstrapClusters.of([("a", "b"), ("b", "a"), ("c", "a")])
    assert swapped.row_N.tolist() == [0, 0, 1]
    assert BootstrapClusters.of([]).total == 0 and len(BootstrapClusters.of([()]).combination_CJ) == 1


def test_scenes_that_are_all_of_the_same_videos_have_no_interval():
    values = np.random.default_rng(0).random((9, 1))
    assert np.isnan(bootstrap_interval(values, BootstrapClusters.of([("a", "b")] * 9), 0, 50)).all()


def truth_of(videos_NP: np.ndarray, sounding: int = 2) -> SceneGroundTruth:
    """Scenes without regions, each of these videos."""
    n, panels = videos_NP.shape
    names = tuple(tuple(f"v{number:02d}" for number in row) for row in videos_NP.tolist())
    where = (
        np.tile(np.arange(sounding), (n, 1)),
        np.array([[8 * panel, 0, 8 * panel + 8, 8] for panel in range(panels)]),
    )
    return SceneGroundTruth(
        tuple(f"{i:03d}" for i in range(n)), names, "made", (8, 8 * panels), *where, None, np.zeros(n, bool), ""
    )


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    """In 200 sets of 40 videos, each of which is hard or easy wherever it is heard."""
    rng, (first, all_heard) = np.random.default_rng(1), np.zeros((2, 200), bool)
    for which in range(200):
        video_NP = rng.random((160, 40)).argsort(axis=1)[:, :2]
        score_N = (rng.normal(0.5, 0.15, 40)[video_NP] + rng.normal(0, 0.05, video_NP.shape)).mean(axis=1)
        low, high = bootstrap_interval(
            score_N[:, None], BootstrapClusters.of(truth_of(video_NP).sounding_videos()), which, 200
        )
        all_heard[which] = low[0] <= 0.5 <= high[0]
        low, high = bootstrap_interval(score_N[:, None], video_NP[:, 0], which, 200)
        first[which] = low[0] <= 0.5 <= high[0]
    assert 0.90 <= all_heard.mean() <= 1.0
    assert first.mean() < 0.85  # the second video of a scene is in other scenes too


def test_a_summary_is_over_the_videos_that_are_heard():
    rng = np.random.default_rng(0)
    videos_NP = np.stack([rng.permutation(9) for _ in range(30)])[:, :4]
    truth = truth_of(videos_NP)
    assert truth.sounding_videos()[0] == tuple(f"v{number:02d}" for number in videos_NP[0, :2])
    assert replace(truth, videos=(("duet",),) * 30).sounding_videos() == (("duet",),) * 30
    assert replace(truth, videos=(("x", "x", "y", "y"),) * 30).sounding_videos() == (("x",),) * 30
    maps = rng.random((30, 2, 4, 16)).astype(np.float32)
    maps[np.arange(30) % 3 > 0, :, :, 8:] = 0
    table = score_maps(maps, truth)
    assert table.videos == truth.sounding_videos()
    found, heard = summarize_scores(table, seed=5), {name for names in truth.sounding_videos() for name in names}
    assert found.videos == found.record()["videos"] == truth.facts()["videos"] == len(heard)
    low, high = bootstrap_interval(
        table.values["sounding_accuracy"][:, None], BootstrapClusters.of(truth.sounding_videos()), 5, 2000
    )
    assert found["sounding_accuracy"][1:] == (low[0], high[0]) and low[0] < found["sounding_accuracy"].value < high[0]
    halves = [score_maps(maps[part], truth.take(part)) for part in (np.arange(20), np.arange(10, 30))]
    assert (
        ScoreTable.merge(halves[::-1]).videos == table.videos
        and summarize_scores(ScoreTable.merge(halves)).record() == summarize_scores(table).record()
    )
    # of one video each, numbers are those of the videos themselves
    alone = replace(table, videos=tuple(names[:1] for names in table.videos))
    low, high = bootstrap_interval(table.values["sounding_accuracy"][:, None], videos_NP[:, 0], 5, 2000)
    assert summarize_scores(alone, seed=5)["sounding_accuracy"][1:] == (low[0], high[0])
