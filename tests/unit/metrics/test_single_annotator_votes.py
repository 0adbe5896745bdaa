"""Votes of one annotator alone: weighed as the published formula says, and to others as if they were not there."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import pytest

from raymix.data.scenes import compose_scenes
from raymix.evaluation import benchmark, sharded_scoring
from raymix.evaluation.predictions import ScenePrediction
from raymix.metrics.baseline_heatmaps import baseline_heatmaps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS, RAYMIX_1, EvaluationProtocol
from raymix.metrics.scoring import ScoreTable, score_maps, score_maps_under_protocols, summarize_scores
from raymix.reporting.figures import scenes_as_pictures
from tests.conformance.test_protocol_reference import CUT, area, minmax, one_map, pixels, scenes
from tests.support.synthetic_clips import make_clips
from tests.unit.evaluation.test_sharded_scoring import bits

WEIGHED = [name for name, how in PROTOCOLS.items() if how.weighs_votes]
UNAWARE = [how for how in PROTOCOLS.values() if not how.weighs_votes]


def voted(sources: int, maps: int, seed: int, n: int = 8):
    """The scenes of the reference tests with single votes: beside the agreed pixels, in no scene 0, in scene 1 alone."""
    rows, truth, classes = scenes(sources, maps, n=n, seed=seed)
    rng = np.random.default_rng(seed)
    halves = rng.random(truth.masks_NSYX.shape) < 0.2
    for i, s in np.ndindex(n, sources):
        y, x = rng.integers(0, truth.canvas[0] - 5), rng.integers(0, truth.canvas[1] - 5)
        halves[i, s, y : y + 5, x : x + 5] = True
    masks = truth.masks_NSYX.copy()
    masks[1, 0] = False
    halves[0] = halves[3, -1] = halves[6, 0] = False
    halves[4, 0] |= masks[4, 0]  # what is agreed is no single vote, whoever says so
    return rows, replace(truth, masks_NSYX=masks, halves_NSYX=halves), classes


def soft_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    return (predicted * truth).sum() / (truth.sum() + (predicted * (truth == 0)).sum())


def soft(truth: SceneGroundTruth, i: int, s: int) -> np.ndarray:
    assert truth.masks_NSYX is not None and truth.halves_NSYX is not None
    return np.where(truth.masks_NSYX[i, s], 1.0, 0.5 * truth.halves_NSYX[i, s])


def highest(view: np.ndarray, count: int) -> np.ndarray:
    """sslalign's adaptive cut: what exceeds the value of that rank."""
    return view > np.sort(view.ravel())[-count]


@pytest.mark.parametrize("maps", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_one_source_as_the_formula_in_floats(maps: int, seed: int) -> None:
    rows, truth, _ = voted(1, maps, seed)
    tables = score_maps_under_protocols(rows, truth, [PROTOCOLS[name] for name in WEIGHED] + UNAWARE_OF_ONE)
    for name in WEIGHED:
        found, adaptive = [], []
        for i, row in enumerate(rows):
            gold = soft(truth, i, 0)
            if not gold.any():
                continue
            view = None if row is None else one_map(name, row, truth.canvas)
            found.append(0.0 if view is None else soft_iou(CUT[name](view), gold))
            adaptive.append(0.0 if view is None else soft_iou(highest(view, int((gold > 0).sum())), gold))
        table = tables[name]
        assert len(found) == 7  # scene 1, of single votes, and not scene 3, of nothing
        known = ~np.isnan(table.values["iou"])
        assert table.values["iou"][known] == pytest.approx(found, abs=2e-6), name
        summary = summarize_scores(table, resamples=2)
        assert summary["auc"].value == pytest.approx(area(np.array(found)), abs=2e-6)
        if name == "sslalign":
            assert table.values["iou_adaptive"][known] == pytest.approx(adaptive, abs=2e-6)


UNAWARE_OF_ONE = [how for how in UNAWARE if how.declines(1) is None]


@pytest.mark.parametrize("sources, maps", [(1, 1), (2, 2), (3, 2), (3, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_several_sources_as_the_formula_in_floats(sources: int, maps: int, seed: int) -> None:
    """sslalign, each map asked for by its class."""
    rows, truth, classes = voted(sources, maps, seed)
    assert truth.labels is not None
    table = score_maps(rows, truth, PROTOCOLS["sslalign"], classes)
    names, c = classes, "c" if sources > 1 else ""
    wanted = SimpleNamespace(iou=[], adaptive=[], worst=[])
    for i, row in enumerate(rows):
        views = [] if row is None else [minmax(each) for each in pixels("sslalign", row, truth.canvas)]
        scene = []
        for s in range(sources):
            gold, label = soft(truth, i, s), truth.labels[i][s]
            if not gold.any():
                continue
            scene.append(0.0)
            wanted.adaptive.append(0.0)
            if row is not None and label in names[i]:
                view = views[names[i].index(label)]
                scene[-1] = soft_iou(CUT["sslalign"](view), gold)
                wanted.adaptive[-1] = soft_iou(highest(view, int((gold > 0).sum())), gold)
        wanted.iou += scene
        wanted.worst += [min(scene)] if scene else []
    summary = summarize_scores(table, resamples=2)
    assert summary[f"{c}iou"].value == pytest.approx(np.mean(wanted.iou), abs=2e-6)
    assert summary[f"{c}iou_adaptive"].value == pytest.approx(np.mean(wanted.adaptive), abs=2e-6)
    assert summary["auc"].value == pytest.approx(area(np.array(wanted.iou)), abs=2e-6)
    if sources > 1:
        assert summary["iauc"].value == pytest.approx(area(np.array(wanted.worst)), abs=2e-6)


@pytest.mark.parametrize("maps", [3, 30])  # few pairings, all looked at, and many
@pytest.mark.parametrize("seed", range(4))
def test_maps_without_names_are_paired_by_the_weighed_iou(seed: int, maps: int) -> None:
    rows, truth, _ = voted(2, maps, seed)
    table = score_maps(rows, truth, PROTOCOLS["sslalign"])
    for i, row in enumerate(rows):
        views = [] if row is None else [minmax(each) for each in pixels("sslalign", row, truth.canvas)]
        gold = [soft(truth, i, s) for s in range(2)]
        known = [s for s in range(2) if gold[s].any()]
        iou = np.zeros((2, maps + 2))  # two more maps, that hit nothing: a source may be left without
        for s, (which, view) in product(known, enumerate(views)):
            iou[s, which] = soft_iou(CUT["sslalign"](view), gold[s])
        best = max(iou[0, way[0]] + iou[1, way[1]] for way in permutations(range(maps + 2), 2))
        assert np.nansum(table.iou_NS[i]) == pytest.approx(best, abs=2e-6)
        assert np.flatnonzero(~np.isnan(table.iou_NS[i])).tolist() == known


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("binarise", ["absolute", "quantile", "truth_area", "fraction_of_max"])
def test_by_panel_as_the_formula_in_floats(binarise: str, strict: bool) -> None:
    how = replace(
        RAYMIX_1,
        id="mine",
        scope="panel",
        binarise=binarise,
        threshold_strict=strict,
        match="labels",
        weighs_votes=True,
    )
    rows, truth, classes = voted(2, 2, seed=5)
    assert truth.labels is not None
    table = score_maps(rows, truth, how, classes)
    for i, row in enumerate(rows):
        for s, (x0, y0, x1, y1) in enumerate(truth.rects_P4):
            whole = soft(truth, i, s)
            gold = whole[y0:y1, x0:x1]
            if not whole.any():
                assert np.isnan(table.iou_NS[i, s])
                continue
            expected = 0.0
            if row is not None and truth.labels[i][s] in classes[i]:
                view = pixels("raymix-1", row, truth.canvas)[classes[i].index(truth.labels[i][s])][y0:y1, x0:x1]
                view = minmax(view)
                ranks = {"quantile": np.sort(view.ravel())[view.size // 2], "fraction_of_max": 0.5 * view.max()}
                ranks["truth_area"] = np.sort(view.ravel())[-max(1, int((gold > 0).sum()))]
                at = ranks.get(binarise, 0.5)
                expected = soft_iou(view > at if strict else view >= at, gold)
            assert table.iou_NS[i, s] == pytest.approx(expected, abs=2e-6), (i, s)


def told(truth: SceneGroundTruth) -> SceneGroundTruth:
    """The same to whom single votes are no truth: a scene with a source of nothing else has none that is known."""
    assert truth.masks_NSYX is not None and truth.halves_NSYX is not None
    single_NS = truth.halves_NSYX.any(axis=(2, 3)) & ~truth.masks_NSYX.any(axis=(2, 3))
    return replace(truth, halves_NSYX=None, has_truth_N=truth.has_truth_N & ~single_NS.any(axis=1))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("sources, maps", [(1, 1), (1, 3), (2, 3), (3, 2)])
def test_to_other_protocols_they_are_not_there_to_the_bit(sources: int, maps: int, named: bool) -> None:
    rows, truth, classes = voted(sources, maps, seed=7)
    detects = replace(PROTOCOLS["slavc"], id="detects", weighs_votes=False)
    blind, chosen = told(truth), [how for how in (*PROTOCOLS.values(), detects) if how.declines(sources) is None]
    others = [how for how in chosen if not how.weighs_votes]
    assert blind.has_truth_N.tolist() == [i != 1 for i in range(8)]
    for protocols in (chosen, others):  # beside protocols that weigh them, and without such
        tables = score_maps_under_protocols(rows, truth, protocols, classes if named else None)
        wanted = score_maps_under_protocols(rows, blind, others, classes if named else None)
        for how in others:
            assert bits(tables[how.id]) == bits(wanted[how.id]), how.id
            assert bits(summarize_scores(tables[how.id], resamples=5)) == bits(
                summarize_scores(wanted[how.id], resamples=5)
            )


@pytest.mark.parametrize("name", WEIGHED)
def test_ap_is_of_agreed_pixels(name: str) -> None:
    rows, truth, classes = voted(1, 1, seed=2)
    how = replace(PROTOCOLS[name], ap="image")
    one, other = (
        score_maps(rows, truth, how, classes),
        score_maps(rows, truth, replace(how, weighs_votes=False), classes),
    )
    assert bits(one.values["ap"]) == bits(other.values["ap"]) and bits(one.ap_NS) == bits(other.ap_NS)
    assert not np.array_equal(one.values["iou"], other.values["iou"], equal_nan=True)
    assert np.isnan(one.values["ap"][1]) and one.values["iou"][1] >= 0


def test_ap_of_several_and_piap_and_pxap_are_of_agreed_pixels() -> None:
    rows, truth, classes = voted(2, 2, seed=4)
    for how in (replace(RAYMIX_1, match="labels"), replace(RAYMIX_1, match="labels", unit="source")):
        one, other = (score_maps(rows, truth, replace(how, weighs_votes=weighed), classes) for weighed in (True, False))
        for name in ("cap", "piap"):
            assert bits(one.values[name]) == bits(other.values[name]), name
            assert bits(one.weights.get(name)) == bits(other.weights.get(name))
        assert bits(one.ap_NS) == bits(other.ap_NS)
        assert np.isnan(one.values["ciou"]).sum() < np.isnan(other.values["ciou"]).sum()
    how = PROTOCOLS["wsol-pxap"]
    one, other = (score_maps(rows, truth, replace(how, weighs_votes=weighed)) for weighed in (True, False))
    assert bits(one.pools["pxap"]) == bits(other.pools["pxap"])


@pytest.mark.parametrize("name", ["raymix-1", *WEIGHED])
def test_neither_shards_nor_repeats_move_a_bit(name: str) -> None:
    rows, truth, _ = voted(1, 1, seed=3, n=12)
    how = PROTOCOLS[name]
    said = [ScenePrediction(0, scene, "one", row) for scene, row in zip(truth.ids, rows, strict=True)]
    whole = {"one": ScoreTable.merge([score_maps(rows, truth, how)])}
    whole |= {null: ScoreTable.merge([score_maps(maps, truth, how)]) for null, maps in baseline_heatmaps(truth).items()}
    parts = [np.array(each) for each in ([7, 2], [1], [0, 3, 4, 5], [1, 2, 6, 6], [8, 9, 10, 11])]
    some = [sharded_scoring.ScoringShard(truth.take(index), [said[i] for i in index]) for index in parts]
    some += sharded_scoring.baseline_shards(truth, rows=5)
    found = sharded_scoring.merge_tables(sharded_scoring.score_shards(some, [how]))
    assert bits({system: own[how.id] for system, own in found.items()}) == bits(whole)


def test_a_source_of_single_votes_alone_is_no_empty_truth() -> None:
    rows, truth, _ = voted(1, 1, seed=1)
    truth = replace(truth, has_truth_N=np.arange(8) != 3)
    for weighs in (True, False):
        how = replace(RAYMIX_1, empty_truth="error", weighs_votes=weighs)
        assert np.isnan(score_maps(rows, truth, how).values["iou"]).tolist() == [
            i == 3 or (i == 1 and not weighs) for i in range(8)
        ]
    with pytest.raises(ValueError, match="scene 03: a source has no pixel of truth"):
        score_maps(rows, replace(truth, has_truth_N=np.ones(8, bool)), how)


def test_the_box_of_the_truths_size_is_of_agreed_pixels() -> None:
    _, truth, _ = voted(1, 1, seed=1)
    for mine, theirs in zip(
        baseline_heatmaps(truth)["oracle area"], baseline_heatmaps(told(truth))["oracle area"], strict=True
    ):
        assert np.array_equal(mine, theirs)


def many(sources: int) -> SceneGroundTruth:
    masks = np.zeros((1, sources, 2, 2 * sources), bool)
    masks[0, range(sources), 0, range(0, 2 * sources, 2)] = True
    return SceneGroundTruth(
        ("a",),
        (("a",),),
        "made",
        masks.shape[2:],
        np.arange(sources)[None],
        np.array([[2 * s, 0, 2 * s + 2, 2] for s in range(sources)]),
        masks,
        np.ones(1, bool),
        "made",
        halves_NSYX=np.roll(masks, 1, axis=3),
    )


@pytest.mark.parametrize(
    ("sources", "scope", "weighs", "fits"),
    [
        (10, "panel", True, True),
        (11, "panel", True, False),
        (16, "canvas", True, True),
        (17, "canvas", True, False),
        (16, "panel", False, True),
        (17, "canvas", False, True),
    ],
)
def test_as_many_sources_as_a_key_holds(sources: int, scope: str, weighs: bool, fits: bool) -> None:
    how = replace(RAYMIX_1, scope=scope, weighs_votes=weighs, binarise="quantile", match="labels")
    truth, maps = many(sources), np.random.default_rng(0).random((1, sources, 2, 2 * sources)).astype(np.float32)
    truth, names = replace(truth, labels=(tuple(map(str, range(sources))),)), [str(s) for s in range(sources)]
    if not fits:
        with pytest.raises(ValueError, match=f"{sources} sources, a sorting key holds 32, 16 with .*, 10 with both"):
            score_maps(maps, truth, how, names)
        return
    table = score_maps(maps, truth, how, names)
    s, (x0, _, x1, _) = sources - 1, truth.rects_P4[-1]
    part = np.s_[:, x0:x1] if scope == "panel" else np.s_[:, :]
    view, gold = maps[0, s][part], (soft(truth, 0, s) if weighs else truth.masks_NSYX[0, s] * 1.0)[part]
    assert table.iou_NS[0, s] == pytest.approx(soft_iou(view >= np.sort(view.ravel())[view.size // 2], gold))


def test_truth_refuses_votes_of_another_canvas_and_takes_those_of_its_scenes() -> None:
    _, truth, _ = voted(1, 1, seed=1)
    assert truth.halves_NSYX is not None
    with pytest.raises(ValueError, match="truth: halves_NSYX has shape"):
        replace(truth, halves_NSYX=truth.halves_NSYX[..., 1:])
    for index in (np.array([5, 2]), np.array([2, 3])):
        assert np.array_equal(truth.take(index).halves_NSYX, truth.halves_NSYX[index])


def test_a_protocol_that_weighs_says_so_with_a_bool() -> None:
    with pytest.raises(ValueError, match="weighs_votes=1 is not True or False"):
        EvaluationProtocol("mine", weighs_votes=1)  # type: ignore[arg-type]


def test_what_they_mean_for_a_table_is_said() -> None:
    _, truth, _ = voted(2, 1, seed=1)
    said = "1 of 8 scenes have a source on which no two annotators agree: only protocols that weigh votes have a row of them"
    assert benchmark.missing_notes({}, truth) == [said] and benchmark.missing_notes({}, told(truth)) == []
    assert truth.alone_N.tolist() == [i == 1 for i in range(8)]
    assert not replace(truth, has_truth_N=np.arange(8) != 1).alone_N.any()


def test_a_picture_shows_single_votes_and_says_nothing_of_a_fit_that_nobody_measured() -> None:
    clips = make_clips(6, per_video=1)
    clips.halves = np.zeros_like(clips.masks)
    clips.masks[::2], clips.halves[::2, 8:20, 8:20] = False, True
    scenes_of = compose_scenes(clips, layout="single", count=6, seed=0)
    truth, maps = SceneGroundTruth.of(scenes_of), np.random.default_rng(0).random((6, 1, 4, 4)).astype(np.float32)
    for name, measured in (("raymix-1", ~truth.alone_N), ("lvs", np.ones(6, bool))):
        for n, shown in enumerate(scenes_as_pictures(scenes_of, truth, maps, np.arange(6), PROTOCOLS[name])):
            assert shown.map_S == ((0,) if measured[n] else ()) and bool(shown.iou_S) == measured[n]
            assert np.array_equal(shown.halves_SYX, truth.halves_NSYX[n])
    assert truth.alone_N.sum() == 3
