"""Scores on golden scenes worked by hand, and what must not change a score."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from raymix.metrics import scoring
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import RAYMIX_1, get_protocol
from raymix.metrics.scene_scores import sounding_accuracy
from raymix.metrics.scoring import ScoreTable, score_maps, summarize_scores

FILES = sorted((Path(__file__).resolve().parents[1] / "conformance/golden").glob("scores_*.json"))
GOLDEN = [
    (scene, json.loads(file.read_text())["protocol"])
    for file in FILES
    for scene in json.loads(file.read_text())["scenes"]
]


def test_golden_files_were_found():
    assert [file.name for file in FILES] == [
        "scores_one_source.json",
        "scores_several_sources.json",
        "scores_sounding.json",
    ]
    assert len(GOLDEN) == 32
    assert len({scene["name"] for scene, _ in GOLDEN}) == 32


def golden_truth(scene):
    drawn = scene["masks"]
    masks = None if drawn is None else np.array([[[[c == "#" for c in row] for row in one] for one in drawn]])
    return SceneGroundTruth(
        ids=(scene["name"],),
        videos=(("video",),),
        layout=scene["layout"],
        canvas=tuple(scene["canvas"]),
        panels_NS=np.array([scene["panels"]]),
        rects_P4=np.array(scene["rects"]),
        masks_NSYX=masks,
        has_truth_N=np.array([masks is not None]),
        scenes_hash="golden",
    )


@pytest.mark.parametrize("scene, name", GOLDEN, ids=[scene["name"] for scene, _ in GOLDEN])
def test_golden_scene(scene, name):
    maps = [None if scene["maps"] is None else np.array(scene["maps"], np.float32)]
    table = score_maps(maps, golden_truth(scene), get_protocol(name))
    summary = summarize_scores(table, resamples=10)
    assert {metric: interval.value for metric, interval in summary.items()} == pytest.approx(scene["expect"], abs=1e-6)
    if "map_S" in scene:
        assert table.map_NS.tolist() == [scene["map_S"]]
    for part, key in ((table.iou_NS, "iou_S"), (table.ap_NS, "ap_S")):
        if key in scene:
            assert part[0] == pytest.approx(np.array(scene[key], float), abs=1e-6, nan_ok=True)


def made(n=40, layout="grid2x2", size=32, maps=2, seed=0):
    """Scenes with one box a source, two scenes a video, and maps that know a little."""
    rng = np.random.default_rng(seed)
    down, across, s = {"single": (1, 1, 1), "hconcat": (1, 2, 2), "grid2x2": (2, 2, 2)}[layout]
    rects = np.array([[c * size, r * size, (c + 1) * size, (r + 1) * size] for r in range(down) for c in range(across)])
    panels = np.stack([np.sort(rng.permutation(len(rects))[:s]) for _ in range(n)])
    masks = np.zeros((n, s, down * size, across * size), bool)
    for i, source in np.ndindex(n, s):
        x, y = rects[panels[i, source], :2] + rng.integers(0, size // 2, 2)
        masks[i, source, y : y + size // 2, x : x + size // 3] = True
    said = rng.random((n, maps, down * size // 8, across * size // 8)).astype(np.float32)
    for which in range(min(s, maps)):
        cells = masks[:, which].reshape(n, down * size // 8, 8, across * size // 8, 8).mean(axis=(2, 4))
        said[:, -1 - which] += 0.8 * cells.astype(np.float32)
    truth = SceneGroundTruth(
        ids=tuple(f"scene-{i:04d}" for i in range(n)),
        videos=tuple((f"video-{i // 2}", f"other-{i % 7}") for i in range(n)),
        layout=layout,
        canvas=masks.shape[2:],
        panels_NS=panels,
        rects_P4=rects,
        masks_NSYX=masks,
        has_truth_N=np.ones(n, bool),
        scenes_hash="made",
    )
    return said, truth


def same(one, other):
    return one.record() == other.record()


@pytest.mark.parametrize("layout", ["single", "hconcat", "grid2x2"])
@pytest.mark.parametrize("maps", [1, 2, 3])
def test_order_chunks_shards_and_duplicates_change_nothing(layout, maps, monkeypatch):
    said, truth = made(layout=layout, maps=maps)
    whole = summarize_scores(score_maps(said, truth))
    order = np.random.default_rng(1).permutation(len(truth))
    assert same(whole, summarize_scores(score_maps(said[order], truth.take(order))))
    twice = np.concatenate([order, order[:17]])
    assert same(whole, summarize_scores(score_maps(said[twice], truth.take(twice))))
    assert same(whole, summarize_scores(score_maps(list(said), truth)))
    for count in (2, 7):
        shards = np.array_split(twice, count)
        merged = ScoreTable.merge([score_maps(said[shard], truth.take(shard)) for shard in shards])
        assert merged.ids == truth.ids
        assert same(whole, summarize_scores(merged))
    monkeypatch.setattr(scoring, "_CHUNK_PIXELS", 1)
    assert same(whole, summarize_scores(score_maps(said, truth)))


def test_the_order_of_maps_and_their_scale_change_nothing():
    said, truth = made(layout="hconcat", maps=3)
    whole = score_maps(said, truth)
    for other in (said[:, [2, 0, 1]], said * 7.3 - 100, said.astype(np.float64) * 1e-20):
        for name, values in score_maps(other, truth).values.items():
            assert values == pytest.approx(whole.values[name], abs=2e-4), name


def test_ties_of_maps_do_not_depend_on_their_order():
    said, truth = made(layout="hconcat", maps=2)
    flat = said.copy()
    flat[:, 0] = 1.0
    for name, values in score_maps(flat, truth).values.items():
        assert np.array_equal(values, score_maps(flat[:, ::-1], truth).values[name]), name


def test_scenes_without_truth_count_in_sounding_accuracy_only():
    said, truth = made()
    some = replace(truth, has_truth_N=np.arange(40) < 30)
    summary = summarize_scores(score_maps(said, some))
    assert summary.counts["sounding_accuracy"] == 40 and summary.counts["ciou@0.3"] == 30
    assert summary["ciou"].value == pytest.approx(score_maps(said, truth).values["ciou"][:30].mean())
    for none in (
        replace(truth, masks_NSYX=None, has_truth_N=np.zeros(40, bool)),
        replace(some, has_truth_N=np.zeros(40, bool)),
    ):
        assert list(summarize_scores(score_maps(said, none))) == ["sounding_accuracy"]


def test_missing_predictions_are_rows_of_zeros():
    said, truth = made(layout="hconcat")
    rows = [None if i % 4 == 0 else row for i, row in enumerate(said)]
    whole, holed = score_maps(said, truth).values, score_maps(rows, truth).values
    for name in ("ciou", "cap", "piap", "ciou@0.3"):
        assert holed[name][::4].tolist() == [0] * 10
        assert holed[name][1::4].tolist() == whole[name][1::4].tolist()
    assert holed["auc"][::4] == pytest.approx(0.025)
    nothing = score_maps([None] * 40, truth)
    assert summarize_scores(nothing)["ciou"].value == 0 and len(nothing.ids) == 40


def test_different_numbers_of_maps_in_one_call():
    said, truth = made(layout="hconcat", maps=3)
    ragged = [row[: 1 + i % 3] for i, row in enumerate(said)]
    table = score_maps(ragged, truth)
    for i in (0, 1, 2):
        alone = score_maps([ragged[i]], truth.take(np.array([i])))
        for name, values in alone.values.items():
            assert values[0] == table.values[name][i]


def test_bool_maps_are_predictions():
    _, truth = made(layout="hconcat")
    summary = summarize_scores(score_maps(truth.masks_NSYX, truth))
    assert {summary[name].value for name in ("ciou", "ciou@0.5", "cap", "piap", "auc")} == {1.0}
    with pytest.raises(ValueError, match=r"scene scene-0000: maps of type bool are \(4, 8\), the canvas is \(32, 64\)"):
        score_maps(np.ones((40, 2, 4, 8), bool), truth)


def test_bad_maps_are_refused_by_scene():
    said, truth = made()
    for value in (np.nan, np.inf):
        bad = said.copy()
        bad[13, 1, 0, 0] = value
        with pytest.raises(ValueError, match="scene scene-0013: a map holds a value that is not finite"):
            score_maps(bad, truth)
    odd = list(said)
    odd[5] = said[5][:, :3]
    with pytest.raises(ValueError, match="scene scene-0005: maps of float32"):
        score_maps(odd, truth)
    with pytest.raises(ValueError, match="scene scene-0000: maps of float32"):
        score_maps(said[:, 0], truth)
    with pytest.raises(ValueError, match="maps of 39 scenes, truth of 40"):
        score_maps(said[1:], truth)


def test_bad_truth_is_refused():
    _, truth = made()
    with pytest.raises(ValueError, match="masks_NSYX has shape"):
        replace(truth, masks_NSYX=truth.masks_NSYX[..., 1:])
    with pytest.raises(ValueError, match="videos has shape"):
        replace(truth, videos=truth.videos[1:])
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        replace(truth, panels_NS=truth.panels_NS + 3)


def test_tables_of_different_scenes_do_not_merge():
    said, truth = made()
    with pytest.raises(ValueError, match="tables differ in scenes_hash"):
        ScoreTable.merge([score_maps(said, truth), score_maps(said, replace(truth, scenes_hash="other"))])


def test_summary_carries_what_a_number_needs():
    said, truth = made()
    summary = summarize_scores(score_maps(said, truth), seed=3)
    record = json.loads(json.dumps(summary.record()))
    assert (record["protocol"], record["scenes_hash"], record["layout"]) == ("raymix-1", "made", "grid2x2")
    assert (record["scenes"], record["videos"], record["resamples"], record["seed"]) == (40, 27, 2000, 3)
    for metric in record["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["scenes"] == 40
    one = summarize_scores(score_maps(said, replace(truth, videos=(("only",),) * 40)))
    assert one.videos == 1 and one.record()["metrics"]["ciou"]["low"] is None


def test_interval_resamples_videos_not_scenes():
    said, truth = made(n=60)
    apart = replace(truth, videos=tuple((name,) for name in truth.ids))
    paired = replace(truth, videos=tuple((f"v{i % 6}",) for i in range(60)))
    assert summarize_scores(score_maps(said, apart)).videos == 60
    wide, narrow = (summarize_scores(score_maps(said, each))["ciou"] for each in (paired, apart))
    assert wide.value == narrow.value and (wide.low, wide.high) != (narrow.low, narrow.high)


def test_sounding_accuracy_of_perfect_and_of_blind_maps():
    _, truth = made(n=3000, size=8)
    rng = np.random.default_rng(0)
    perfect = np.zeros((3000, 2, 2, 2))
    for i, source in np.ndindex(3000, 2):
        perfect[i, source].flat[truth.panels_NS[i, source]] = 1
    assert sounding_accuracy(perfect, truth).all()
    blind = rng.random((3000, 2, 2, 2))
    assert sounding_accuracy(blind, truth).mean() == pytest.approx(1 / 8, abs=0.02)


def test_another_threshold_is_another_score():
    said, truth = made(layout="hconcat")
    low = score_maps(said, truth, replace(RAYMIX_1, id="low", threshold=0.0, iou_thresholds=(0.2,)))
    area = truth.masks_NSYX.mean(axis=(2, 3)).mean(axis=1)
    assert low.protocol == "low" and low.values["ciou"] == pytest.approx(area)
    assert "ciou@0.2" in low.values and "ciou@0.3" not in low.values


def test_truth_of_scenes():
    torch = pytest.importorskip("torch")
    _, truth = made(n=4)
    scenes = SimpleNamespace(
        layout="grid2x2",
        ids=list(truth.ids),
        videos=list(truth.videos),
        frames_N3YX=torch.zeros(4, 3, 64, 64, dtype=torch.uint8),
        panels_NS=torch.from_numpy(truth.panels_NS),
        rects_P4=torch.from_numpy(truth.rects_P4),
        masks_NSYX=torch.from_numpy(truth.masks_NSYX),
        has_truth_N=torch.tensor([True, True, False, True]),
        hash="made",
    )
    read = SceneGroundTruth.of(scenes)
    assert (read.ids, read.videos, read.canvas, read.scenes_hash) == (truth.ids, truth.videos, (64, 64), "made")
    assert read.has_truth_N.tolist() == [True, True, False, True]
    assert np.array_equal(read.masks_NSYX, truth.masks_NSYX) and np.array_equal(read.panels_NS, truth.panels_NS)
    scenes.masks_NSYX = scenes.has_truth_N = None
    assert not SceneGroundTruth.of(scenes).has_truth_N.any()


def test_no_scenes():
    said, truth = made()
    nothing = np.array([], int)
    assert dict(summarize_scores(score_maps(said[nothing], truth.take(nothing)))) == {}


def test_scoring_is_fast():
    said, truth = made(n=64, layout="hconcat", size=64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        score_maps(said, truth)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3  # 0.07 s where nothing else runs
