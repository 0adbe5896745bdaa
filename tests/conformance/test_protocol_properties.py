"""What must hold for any maps: scopes, orders, scales, repeats, shards, and many protocols at once."""

import math
import tracemalloc
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import auc, average_precision_score

from raymix.metrics import scoring
from raymix.metrics.functional import assign_maps_to_sources, average_precision, success_auc
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS, RAYMIX_1
from raymix.metrics.scoring import ScoreTable, metric_columns, score_maps, score_maps_under_protocols, summarize_scores
from tests.conformance.test_golden_scores import made
from tests.conformance.test_protocol_reference import scenes

QUICK = settings(max_examples=20, deadline=None, derandomize=True)
ALL = {sources: [how for how in PROTOCOLS.values() if how.declines(sources) is None] for sources in (1, 2, 3)}
LEVELS = st.integers(0, 4).map(lambda level: level / 4)


@st.composite
def cases(draw):
    """A few scenes of 4x4 pixels a panel, maps of few levels (ties), truth that may be empty or overlap."""
    n, s, m = (draw(st.integers(1, 3)) for _ in range(3))
    masks = draw(arrays(bool, (n, s, 4, 4 * s), elements=st.booleans()))
    said = draw(arrays(np.float32, (n, m, 4, 4 * s), elements=LEVELS))
    truth = SceneGroundTruth(
        ids=tuple(f"scene {i}" for i in range(n)),
        videos=tuple((f"video {i}",) for i in range(n)),
        layout="made",
        canvas=(4, 4 * s),
        panels_NS=np.tile(np.arange(s), (n, 1)),
        rects_P4=np.array([[4 * i, 0, 4 * i + 4, 4] for i in range(s)]),
        masks_NSYX=masks,
        has_truth_N=np.ones(n, bool),
        scenes_hash="made",
    )
    return said, truth


def inside_panels(truth):
    """The same truth where no source leaves its panel."""
    masks = truth.masks_NSYX.copy()
    for s, (x0, _, x1, _) in enumerate(truth.rects_P4):
        masks[:, s, :, :x0] = masks[:, s, :, x1:] = False
    return replace(truth, masks_NSYX=masks)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert np.allclose(one[name], other[name], atol=1e-12, equal_nan=True), name


@QUICK
@given(cases(), st.sampled_from(["absolute", "quantile"]), st.booleans())
def test_the_canvas_is_never_kinder_than_the_panel(case, binarise, strict):
    """IoU of one and the same binary map, cut away outside the panel or not."""
    said, truth = case[0] >= 0.5, inside_panels(case[1])
    how = replace(RAYMIX_1, id="canvas", binarise=binarise, threshold_strict=strict)
    canvas, panel = score_maps(said, truth, how), score_maps(said, truth, replace(how, id="panel", scope="panel"))
    name = "iou" if truth.panels_NS.shape[1] == 1 else "ciou"
    known = ~np.isnan(canvas.values[name])
    assert (canvas.values[name][known] <= panel.values[name][known] + 1e-12).all()
    assert np.array_equal(known, ~np.isnan(panel.values[name]))


@QUICK
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_maps_changes_no_joint_score(case, random):
    """Of one source or a union all maps are made one, whose mean in another order may round to the next float32."""
    said, truth = case
    order = random.sample(range(said.shape[1]), said.shape[1])
    joint = [how for how in ALL[truth.panels_NS.shape[1]] if how.match != "greedy_iou" and how.scope != "union"]
    one, other = (score_maps_under_protocols(maps, truth, joint) for maps in (said, said[:, order]))
    for how in joint if truth.panels_NS.shape[1] > 1 else []:
        for name, values in one[how.id].values.items():
            if name != "piap" and not name.startswith("nsa"):  # of equal pairings one leaves a louder map over
                assert np.allclose(values, other[how.id].values[name], atol=1e-9, equal_nan=True), (how.id, name)


@QUICK
@given(cases())
def test_duplicates_change_no_mean(case):
    said, truth = case
    twice = np.tile(np.arange(len(truth)), 2)
    renamed = truth.take(twice)
    renamed = replace(renamed, ids=tuple(f"{name} {i}" for i, name in enumerate(renamed.ids)))
    tables, repeated, again = (
        score_maps_under_protocols(maps, scene, ALL[truth.panels_NS.shape[1]])
        for maps, scene in ((said, truth), (said[twice], truth.take(twice)), (said[twice], renamed))
    )
    for name in tables:
        one, two, three = (summarize_scores(each[name], resamples=3) for each in (tables, repeated, again))
        assert one.record() == two.record()  # repeated ids count once
        assert {m: each.value for m, each in three.items()} == pytest.approx({m: each.value for m, each in one.items()})


@QUICK
@given(cases(), st.floats(0.01, 100), st.floats(-100, 100))
def test_the_scale_of_a_map_changes_no_min_max_score(case, by, plus):
    said, truth = case
    scaled = said.astype(np.float64)
    scaled[:, 0] = scaled[:, 0] * by + plus
    for how in ALL[truth.panels_NS.shape[1]]:
        if how.normalise == "minmax_map":
            near(score_maps(said, truth, how), score_maps(scaled, truth, how))


def near(one, other):
    for name, values in one.values.items():
        assert np.allclose(values, other.values[name], atol=1e-9, equal_nan=True), (one.protocol, name)


@QUICK
@given(cases())
def test_numbers_are_shares(case):
    said, truth = case
    for table in score_maps_under_protocols(said, truth, ALL[truth.panels_NS.shape[1]]).values():
        for name, values in table.values.items():
            low = 0.025 - 1e-12 if "auc" in name else 0.0  # everything succeeds at an IoU of 0
            assert ((values[~np.isnan(values)] >= low) & (values[~np.isnan(values)] <= 1 + 1e-12)).all(), name


@QUICK
@given(arrays(np.float32, (2, 3, 20), elements=LEVELS), arrays(bool, (2, 2, 20), elements=st.booleans()))
def test_ap_is_that_of_scikit_learn(scores, truth):
    found = average_precision(scores, truth)
    for n, s, m in np.ndindex(2, 2, 3):
        if truth[n, s].any():
            assert found[n, s, m] == pytest.approx(average_precision_score(truth[n, s], scores[n, m]), abs=1e-9)


@QUICK
@given(arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 1)))
def test_auc_is_that_of_scikit_learn_and_has_its_floor(iou):
    grid = np.arange(21) / 20
    assert success_auc(iou).mean() == pytest.approx(auc(grid, [(iou >= t - 1e-9).mean() for t in grid]))
    assert success_auc(np.zeros(3)).tolist() == pytest.approx([0.025] * 3)


@QUICK
@given(st.data(), st.integers(1, 4), st.integers(1, 4))
def test_assignment_is_the_best_of_all(data, s, m):
    gain, second = (data.draw(arrays(np.float64, (1, s, m), elements=LEVELS)) for _ in range(2))
    found = assign_maps_to_sources(gain, second)[0]
    used = [which for which in found if which >= 0]
    assert len(set(used)) == len(used) == min(s, m)

    def total(values, way):
        return sum(values[0, source, which] for source, which in enumerate(way) if which is not None and which >= 0)

    ways = permutations([*range(m), *[None] * s], s)
    best = max((total(gain, way), total(second, way)) for way in ways)
    assert (total(gain, found), total(second, found)) == pytest.approx(best)


@pytest.mark.parametrize("sources, maps", [(1, 1), (1, 2), (2, 2), (3, 4)])
def test_one_by_one_or_all_at_once_in_any_shards(sources, maps, monkeypatch):
    rows, truth, classes = scenes(sources, maps, n=13, seed=sources)
    for named in (None, classes):
        whole = score_maps_under_protocols(rows, truth, ALL[sources], named)
        for how in ALL[sources]:
            alone = score_maps(rows, truth, how, named)
            assert list(alone.values) == list(whole[how.id].values)
            assert record(alone) == record(whole[how.id])
        shards = [np.arange(0, 6), np.arange(4, 10), np.arange(9, 13)]  # padded: some scenes are in two
        parts = [
            score_maps_under_protocols(
                [rows[i] for i in at], truth.take(at), ALL[sources], named and [named[i] for i in at]
            )
            for at in shards
        ]
        merged = {name: record(ScoreTable.merge([part[name] for part in parts])) for name in whole}
        assert merged == {name: record(table) for name, table in whole.items()}
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "_CHUNK_PIXELS", 1)
            small = score_maps_under_protocols(rows, truth, ALL[sources], named)
        assert {name: record(table) for name, table in small.items()} == merged


def record(table):
    return summarize_scores(table, resamples=20).record()


def test_what_is_held_at_a_time_does_not_grow_with_the_scenes(monkeypatch):
    monkeypatch.setattr(scoring, "_CHUNK_PIXELS", 1 << 17)  # 5 scenes
    peaks = []
    for n in (15, 60):
        said, truth = made(n=n, layout="hconcat", size=64)
        how = [each for each in ALL[2] if each.ap != "dataset"]  # PxAP keeps a histogram of each scene
        score_maps_under_protocols(said[:5], truth.take(np.arange(5)), how)
        tracemalloc.start()
        score_maps_under_protocols(said, truth, how)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 45 * 10_000, (
        peaks
    )  # their numbers alone; one scene's pixels, once, are 8,192 x 4 bytes


@pytest.mark.parametrize("layout", ["single", "hconcat"])
def test_predictions_are_taken_as_they_are_under_every_protocol(layout):
    """The truth itself, as masks: no median and no maximum cuts it again."""
    _, truth = made(layout=layout, n=6)
    truth = replace(truth, labels=(("a", "b")[: truth.panels_NS.shape[1]],) * 6)
    for table in score_maps_under_protocols(
        truth.masks_NSYX, truth, ALL[truth.panels_NS.shape[1]], ["a", "b"][: len(truth.labels[0])]
    ).values():
        for name, values in table.values.items():
            assert name == "nsa" or values.tolist() == [1.0] * 6, (table.protocol, name)  # no map is silent
        assert all(interval.value == 1.0 for interval in summarize_scores(table, resamples=3).values())


def test_a_histogram_of_each_scene_is_all_that_pxap_keeps():
    said, truth = made(n=5)
    pool = score_maps(said, truth, PROTOCOLS["wsol-pxap"]).pools["pxap"]
    assert pool.kept.shape == (5, 2, 1001) and pool.kept.nbytes == 5 * 1001 * 8
    assert pool.kept.sum(axis=(1, 2)).tolist() == [64 * 64] * 5


def test_a_protocol_for_other_scenes_is_refused():
    said, truth = made(layout="hconcat")
    with pytest.raises(ValueError, match="protocol lvs is for scenes of one source, these have 2"):
        score_maps(said, truth, PROTOCOLS["lvs"])
    with pytest.raises(ValueError, match="protocol mixloc-single is for scenes of one source"):
        score_maps_under_protocols(said, truth, PROTOCOLS.values())
    with pytest.raises(ValueError, match="two protocols of one id among raymix-1, raymix-1"):
        score_maps_under_protocols(said, truth, [RAYMIX_1, replace(RAYMIX_1, threshold=0.4)])


def test_an_empty_truth_may_be_refused():
    said, truth = made(layout="hconcat", n=4)
    masks = truth.masks_NSYX.copy()
    masks[2, 1] = False
    strict = replace(RAYMIX_1, id="strict", empty_truth="error")
    assert record(score_maps(said, truth, strict))["metrics"] == record(score_maps(said, truth))["metrics"]
    with pytest.raises(
        ValueError, match="scene scene-0002: a source has no pixel of truth, which protocol strict refuses"
    ):
        score_maps(said, replace(truth, masks_NSYX=masks), strict)


def test_class_names_that_do_not_fit_are_refused():
    said, truth = made(layout="hconcat", n=3)
    labels = replace(truth, labels=(("a", "b"),) * 3)
    how = PROTOCOLS["dsol-syn"]
    assert "ciou" in score_maps(said, labels, how, ["a", "b"]).values
    assert "ciou*" in score_maps(said, labels, how).values
    with pytest.raises(ValueError, match="the truth has no labels"):
        score_maps(said, truth, how, ["a", "b"])
    with pytest.raises(ValueError, match="scene scene-0001: 3 class names for 2 maps"):
        score_maps(said, labels, how, [["a", "b"], ["a", "b", "c"], ["a", "b"]])
    with pytest.raises(ValueError, match="scene scene-0000: 1 class names for 2 maps"):
        score_maps(said, labels, how, ["a"])
    with pytest.raises(ValueError, match="truth: scene scene-0000 has 1 labels, its 2 sources need one each"):
        replace(truth, labels=(("a",),) * 3)
    with pytest.raises(ValueError, match="labels has shape"):
        replace(truth, labels=(("a", "b"),) * 2)


def test_metrics_are_the_columns_of_a_table():
    for sources in (1, 2):
        said, truth = made(layout="single" if sources == 1 else "hconcat", n=3)
        for how in ALL[sources]:
            assert metric_columns(how, sources) == list(score_maps(said, truth, how).values)
    with pytest.raises(ValueError, match="for scenes of one source"):
        metric_columns(PROTOCOLS["lvs"])


def test_intervals_of_the_whole_set_are_by_video():
    said, truth = made(n=30, layout="single")
    table = score_maps(said, truth, PROTOCOLS["wsol-pxap"])
    first = summarize_scores(table, seed=1, resamples=300)["pxap"]
    assert first.low < first.value < first.high
    assert summarize_scores(table, seed=1, resamples=300)["pxap"] == first
    paired = replace(truth, videos=(("only",),) * 30)
    assert math.isnan(summarize_scores(score_maps(said, paired, PROTOCOLS["wsol-pxap"]))["pxap"].low)
