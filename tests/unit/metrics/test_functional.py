"""Metrics against numbers worked by hand and against slow direct implementations."""

from itertools import permutations

import numpy as np
import pytest

from raymix.metrics.functional import (
    assign_maps_to_sources,
    average_precision,
    chance_sounding_accuracy,
    minmax_normalize,
    pairwise_iou,
    peak_panels,
    resize_maps,
    success_auc,
    success_rate,
)


def slow_average_precision(score_P, truth_P):
    """The definition: over distinct scores from high to low, precision times the step in recall."""
    total, found = 0.0, 0
    for value in sorted(set(score_P.tolist()), reverse=True):
        predicted = score_P >= value
        hits = int((predicted & truth_P).sum())
        total += hits / predicted.sum() * (hits - found) / truth_P.sum()
        found = hits
    return total


@pytest.mark.parametrize("levels", [1, 2, 5, 50, 10**6])
def test_average_precision_equals_its_definition(levels):
    rng = np.random.default_rng(levels)
    score = (rng.integers(-levels, levels, (6, 3, 89)) / levels).astype(np.float32)
    truth = rng.random((6, 4, 89)) < 0.2
    truth[0, 1] = True
    truth[1, 2] = False
    found = average_precision(score, truth)
    for n, s, m in np.ndindex(6, 4, 3):
        if truth[n, s].any():
            assert found[n, s, m] == pytest.approx(slow_average_precision(score[n, m], truth[n, s]), abs=1e-12)
        else:
            assert np.isnan(found[n, s, m])


def test_average_precision_by_hand():
    # scores 4 3 3 2 0 0, right: first, third, fifth -> 1/1 x 1/3 + 2/3 x 1/3 + 3/6 x 1/3
    score = np.array([[[4, 3, 3, 2, 0, -0.0]]], np.float32)
    truth = np.array([[[1, 0, 1, 0, 1, 0]]], bool)
    assert average_precision(score, truth)[0, 0, 0] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert average_precision(np.zeros_like(score), truth)[0, 0, 0] == pytest.approx(0.5)  # the share of the area


def test_average_precision_refuses_more_truths_than_a_key_holds():
    with pytest.raises(ValueError, match="33 truths"):
        average_precision(np.zeros((1, 1, 4), np.float32), np.ones((1, 33, 4), bool))
    many = np.eye(32, 40, dtype=bool)[None]
    score = np.linspace(1, 0, 40, dtype=np.float32)[None, None]
    assert average_precision(score, many)[0, :, 0] == pytest.approx(1 / np.arange(1, 33))


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    "cells, pixels", [((4, 8), (64, 128)), ((14, 28), (224, 448)), ((3, 5), (7, 11)), ((1, 1), (4, 3))]
)
def test_resize_equals_torch(align, cells, pixels, cubic):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).normal(size=(2, 3, *cells)).astype(np.float32)
    mode = "bicubic" if cubic else "bilinear"
    there = torch.nn.functional.interpolate(torch.from_numpy(maps), size=pixels, mode=mode, align_corners=align)
    assert np.abs(resize_maps(maps, pixels, align, cubic) - there.numpy()).max() < 1e-5


def test_resize_by_hand_and_exact_on_plateaus():
    row = np.array([[[[0, 1]]]], np.float32)
    assert resize_maps(row, (2, 4))[0, 0].tolist() == [[0, 0.25, 0.75, 1]] * 2
    assert resize_maps(row, (1, 3), align_corners=True)[0, 0].tolist() == [[0, 0.5, 1]]
    plateau = np.full((1, 1, 5, 7), 0.1, np.float32)
    for cubic in (False, True):  # ties stay ties
        assert np.unique(resize_maps(plateau, (64, 99), cubic=cubic)).tolist() == [np.float32(0.1)]


def test_unit_range():
    maps = np.array([[[[2, 4], [3, 2]], [[5, 5], [5, 5]]]], np.float64)
    assert minmax_normalize(maps)[0].tolist() == [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]]
    wide = np.array([[[[-3e38, 3e38, 0.0]]]], np.float32)
    assert minmax_normalize(wide)[0, 0, 0].tolist() == [0, 1, 0.5]
    offset = np.array([[[[1e6, 1e6 + 1e-6, 1e6 + 2e-6]]]])
    assert minmax_normalize(offset)[0, 0, 0] == pytest.approx([0, 0.5, 1], abs=1e-3)


def test_overlaps_by_hand_and_against_sets():
    rng = np.random.default_rng(3)
    predicted, truth = rng.random((4, 3, 60)) < 0.4, rng.random((4, 2, 60)) < 0.3
    predicted[0, 0] = truth[0, 0] = False
    found = pairwise_iou(predicted, truth)
    assert found[0, 0, 0] == 0
    for n, s, m in np.ndindex(4, 2, 3):
        union = (predicted[n, m] | truth[n, s]).sum()
        assert found[n, s, m] == ((predicted[n, m] & truth[n, s]).sum() / union if union else 0)


def test_success_and_area():
    iou = np.array([0.0, 0.3, 0.1 + 0.2, 0.2999, 1.0, np.nan])
    assert success_rate(iou, 0.3)[:5].tolist() == [0, 1, 1, 0, 1]
    assert np.isnan(success_rate(iou, 0.3)[5])
    assert success_rate(iou, 0.3, strict=True)[:5].tolist() == [0, 0, 0, 0, 1]
    area = success_auc(iou)
    # thresholds 0, .05 ... : 1, 7, 7, 6, 21 of them are reached; each counts .05, the first and the last half of that
    assert area[:5] == pytest.approx([0.025, 0.325, 0.325, 0.275, 1.0])
    assert np.isnan(area[5])
    many = np.random.default_rng(0).random(20_000)
    grid = np.linspace(0, 1, 21)
    rates = [(many >= t).mean() for t in grid]
    assert success_auc(many).mean() == pytest.approx(np.trapezoid(rates, grid), abs=1e-9)
    assert success_auc(many).mean() == pytest.approx(many.mean(), abs=0.002)


@pytest.mark.parametrize("s, m", [(1, 1), (2, 1), (2, 2), (2, 4), (3, 2), (4, 4), (3, 6), (4, 8), (2, 40)])
def test_assignment_equals_brute_force(s, m):
    rng = np.random.default_rng(s * 100 + m)
    gain = rng.integers(0, 4, (12, s, m)) / 4  # many ties
    second = rng.random((12, s, m))
    found = assign_maps_to_sources(gain, second)
    wide = max(s, m)
    padded = np.zeros((2, 12, s, wide))
    padded[0, :, :, :m], padded[1, :, :, :m] = gain, second
    for n in range(12):
        ways = [(sum(padded[0, n, range(s), w]), sum(padded[1, n, range(s), w])) for w in permutations(range(wide), s)]
        used = found[n][found[n] >= 0]
        assert len(set(used.tolist())) == len(used)
        pairs = [(source, which) for source, which in enumerate(found[n]) if which >= 0]
        total = sum(gain[n, a, b] for a, b in pairs)
        extra = sum(second[n, a, b] for a, b in pairs)
        best = max(way[0] for way in ways)
        assert total == pytest.approx(best)
        assert extra == pytest.approx(max(way[1] for way in ways if way[0] > best - 1e-9))
        if m < s:
            assert (found[n] == -1).sum() == s - m


RECTS = np.array([[0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]])


def test_peak_panels():
    maps = np.zeros((1, 5, 4, 4), np.float32)
    maps[0, 0, 0, 3] = 1
    maps[0, 1, 2:, 0] = 1  # a tie inside panel 2
    maps[0, 2, 0, 0] = maps[0, 2, 3, 3] = 1  # a tie across panels
    maps[0, 4] = -np.arange(16).reshape(4, 4)
    assert peak_panels(maps, RECTS, (8, 8)).tolist() == [[1, 2, -1, -1, 0]]
    assert peak_panels(maps[:, :1], RECTS[2:], (8, 8)).tolist() == [[-1]]  # the peak is outside all panels


@pytest.mark.parametrize("panels, sounding, maps", [(4, 2, 2), (4, 2, 3), (4, 2, 1), (6, 3, 3), (6, 3, 4), (2, 1, 1)])
def test_chance_equals_counting(panels, sounding, maps):
    ways = np.array(np.meshgrid(*[np.arange(panels)] * maps)).reshape(maps, -1).T
    counted = np.mean([set(way) == set(range(sounding)) for way in ways.tolist()])
    assert chance_sounding_accuracy(panels, sounding, maps) == pytest.approx(counted)
    apart = [set(way) == set(range(sounding)) for way in ways.tolist() if len(set(way)) == maps]
    assert chance_sounding_accuracy(panels, sounding, maps, distinct=True) == pytest.approx(np.mean(apart))
