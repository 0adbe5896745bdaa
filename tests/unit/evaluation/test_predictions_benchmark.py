"""A stranger's way: scenes written out, a model elsewhere, its file scored and compared, and every mistake in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from raymix import evaluate
from raymix.config import EvaluateConfig
from raymix.data import prepared, records
from raymix.data.audio import stft
from raymix.data.preparation import writer
from raymix.data.records import ClipRecord
from raymix.data.scenes import compose_scenes
from raymix.evaluation import per_scene_scores, sharded_scoring
from raymix.evaluation.dispatch import run_evaluation
from raymix.evaluation.predictions import check_predictions, open_predictions_writer
from raymix.evaluation.scene_spec import scene_spec_from_settings
from raymix.metrics.baseline_heatmaps import baseline_heatmaps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import RAYMIX_1
from raymix.metrics.regions import ObjectRegion, box_mask
from raymix.metrics.scoring import score_maps
from tests.support.reports import by_layout, metrics_of
from tests.support.synthetic_clips import COLOURS

BOXES = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.25, 1.0, 0.75), (0.25, 0.25, 0.75, 1.0), (0.0, 0.5, 1.0, 1.0)]


def a_clip(number: int) -> ClipRecord:
    """A colour that sounds as a pitch; every third clip is a duet of two colours."""
    label, time_L = number % 4, np.arange(19200) / 16000
    wave = (0.1 * np.sin(2 * np.pi * 500 * (1 + label) * time_L)).astype(np.float32)
    regions = [ObjectRegion(f"class{label}", box_xyxy=BOXES[label])]
    if number % 3 == 0:
        regions.append(ObjectRegion("other", box_xyxy=(0.5, 0.0, 1.0, 0.25)))
    frame = np.full((32, 32, 3), COLOURS[label], np.uint8)
    name = f"video{number:02d}"
    labels = tuple(each.label for each in regions)
    return ClipRecord(
        f"toy:{name}:0", "toy", "test", name, name, 0.0, 1.2, labels, [frame], [0.6], wave, tuple(regions)
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of 12 test clips of as many videos, the only one of its home, made without video."""
    there = tmp_path_factory.mktemp("home")
    (there / "clips/toy").mkdir(parents=True)
    rows = [writer.encode_clip(a_clip(number)) for number in range(12)]
    pq.write_table(pa.Table.from_pylist(rows, records.clip_schema("cafe")), there / "clips/toy/test-0.parquet")
    splits = {"test": {"files": ["test-0.parquet"], "clips": 12, "videos": 12}}
    facts = {"schema_version": records.SCHEMA_VERSION, "dataset": "toy", "preprocessing": "cafe", "splits": splits}
    (there / "clips/toy/dataset.json").write_text(json.dumps(facts))
    return there


def asked(home: Path, **settings: Any) -> EvaluateConfig:
    return EvaluateConfig(**{"home": str(home), "scenes": 9, "image_size": 32, **settings})


def truth_of(settings: EvaluateConfig) -> SceneGroundTruth:
    stage = scene_spec_from_settings(settings)
    return SceneGroundTruth.of(stage.compose(stage.clips()))


def call(home: Path, *words: str) -> Any:
    """Through the door as the command line does; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        usual = [word for word in ("scenes=9", "image_size=32") if not any(w.startswith(word[:6]) for w in words)]
        usual, words = ([] if "noscenes" in words else usual), tuple(word for word in words if word != "noscenes")
        patch.setattr(sys, "argv", ["evaluate.py", f"home={home}", *usual, *words])
        with pytest.raises(SystemExit) as stop:
            evaluate.main()
    return stop.value.code


def everything(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def save(truth: SceneGroundTruth, path: Path, share: float = 1.0, m: int | None = None, **systems: float) -> str:
    """Predictions that are right on a share of the scenes and empty on the others, by the name of the system."""
    assert truth.masks_NSYX is not None
    with open_predictions_writer(str(path), truth.scenes_hash) as out:
        for system, right in (systems or {"mine": share}).items():
            maps = truth.masks_NSYX.astype(np.float32)[:, :m]
            maps[round(right * len(truth)) :] = 0
            out.add(system, truth.ids, maps, truth.canvas)
    return str(path)


LAYOUTS = [
    ("hconcat", None),
    ("hconcat", 1),
    ("hconcat", 3),
    ("vconcat", None),
    ("vconcat", 4),
    ("grid2x2", None),
    ("solo2x2", None),
    ("single", None),
    ("natural", None),
]


@pytest.mark.parametrize(("layout", "sources"), LAYOUTS)
def test_scenes_written_out_are_the_scenes(home: Path, tmp_path: Path, layout: str, sources: int | None) -> None:
    settings = asked(home, export=str(tmp_path / "out"), layout=layout, sources=sources)
    report = run_evaluation(settings, (lines := []).append)
    stage = scene_spec_from_settings(settings)
    scenes = stage.compose(stage.clips())
    truth = SceneGroundTruth.of(scenes)
    assert report.scores["scenes_hash"] == scenes.hash and scenes.hash in lines[0]
    table = pq.read_table(tmp_path / "out/scenes.parquet").to_pylist()
    assert [row["scene_id"] for row in table] == scenes.ids and len(table) == (4 if layout == "natural" else 9)
    for place, row in enumerate(table):
        with Image.open(tmp_path / "out" / row["frame"]) as image:
            np.testing.assert_array_equal(np.asarray(image), scenes.frames_N3YX[place].permute(1, 2, 0).numpy())
        rate, wave = wavfile.read(tmp_path / "out" / row["sound"])
        assert (rate, wave.dtype, wave.shape) == (16000, np.float32, (15360,))
        again = stft(torch.from_numpy(wave)[None])[0][1:-1]  # the outer frames see half a window beyond the cut
        assert torch.allclose(again, scenes.mixture_NTF[place][1:-1], atol=2e-3)
        assert row["sounding_panels"] == truth.panels_NS[place].tolist() and tuple(row["videos"]) == truth.videos[place]
        sounding = [int(video[-2:]) % 4 for video in row["videos"][: 1 if layout == "natural" else len(row["labels"])]]
        assert row["labels"] == [f"class{label}" for label in sounding] + ["other"] * (layout == "natural")
        assert (row["canvas_height"], row["canvas_width"]) == truth.canvas and row["panels"] == truth.rects_P4.tolist()
        masks = [np.asarray(Image.open(io.BytesIO(mask))) > 0 for mask in row["masks"]]
        np.testing.assert_array_equal(masks, truth.masks_NSYX[place])
    listed = asked(home, pair_list=str(tmp_path / "out/pair_list.csv"), scenes=None)
    assert truth_of(listed).videos == truth.videos or layout in (
        "grid2x2",
        "solo2x2",
    )  # of silent panels the order differs
    np.testing.assert_array_equal(truth_of(listed).masks_NSYX, truth.masks_NSYX)


@pytest.mark.parametrize(("layout", "sources"), LAYOUTS)
def test_the_truth_alone_is_that_of_the_scenes(
    home: Path, monkeypatch: pytest.MonkeyPatch, layout: str, sources: int | None
) -> None:
    """Neither pictures nor sounds are read for it, and masks are made for some scenes at a time: to the same pixel."""
    stage = scene_spec_from_settings(asked(home, layout=layout, sources=sources))
    whole = SceneGroundTruth.of(stage.compose(stage.clips()))
    read, usable = set[str](), prepared.read_usable_rows
    monkeypatch.setattr(prepared, "read_usable_rows", lambda *a: read.update(a[2]) or usable(*a))
    monkeypatch.setattr(prepared, "ROWS_PER_CHUNK", 5)
    alone = stage.truth()
    assert "regions" in read and not read & {"frames", "stft"} and alone.masks_NSYX is None
    for name in ("ids", "videos", "labels", "layout", "canvas", "scenes_hash", "preprocessing"):
        assert getattr(alone, name) == getattr(whole, name), name
    for name in ("panels_NS", "rects_P4", "has_truth_N"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name))
    for some in (np.arange(len(whole)), np.arange(2), np.array([3, 0, 3])):
        np.testing.assert_array_equal(alone.take(some).drawn().masks_NSYX, whole.take(some).masks_NSYX)
    maps = np.random.default_rng(0).normal(size=(len(whole), 2, 4, 4))
    np.testing.assert_equal(score_maps(maps, alone).values, score_maps(maps, whole).values)
    assert list(baseline_heatmaps(alone)) == list(baseline_heatmaps(whole))


def test_clip_metadata_has_regions_but_no_frames_and_sounds() -> None:
    rows = [writer.encode_clip(dataclasses.replace(a_clip(n), **({"regions": ()} if n == 1 else {}))) for n in range(3)]
    table = pa.Table.from_pylist(rows, records.clip_schema("cafe"))
    whole, metadata = records.decode_clips(table, 32, truth=True), records.decode_clip_metadata(table, 32, truth=True)
    assert metadata.has_truth.tolist() == whole.has_truth.tolist() == [True, False, True]
    assert metadata.stft_frames == whole.stft.shape[1] and not {"stft", "frames"} & set(vars(metadata))
    assert records.decode_clip_metadata(table, 32, truth=False).regions is None


def test_what_is_held_and_sent_of_a_scene_is_small(home: Path, tmp_path: Path) -> None:
    truth = scene_spec_from_settings(asked(home, image_size=224, layout="hconcat", scenes=64)).truth()
    np.savez(tmp_path / "mine.npz", scene_id=np.array(truth.ids), maps=np.zeros((64, 2, 4, 4), np.float16))
    parts = sharded_scoring.make_shards(check_predictions(f"{tmp_path}/mine.npz", truth), truth)
    held = [truth, *(part.truth for part in parts), *(part.truth for part in sharded_scoring.baseline_shards(truth))]
    assert len(held) == 3 and all(len(pickle.dumps(each)) < 64 * 1024 for each in held)  # a mask alone has 98 KB
    one = truth.take(np.arange(1)).outline
    assert one is not None and len(one.regions) == 2  # of no clip that its scenes have not


def test_a_folder_of_other_scenes_is_not_mixed_with_these(home: Path, tmp_path: Path, capsys: Any) -> None:
    assert call(home, f"export={tmp_path}/out") == 0 and call(home, f"export={tmp_path}/out") == 0
    before = everything(tmp_path)
    assert call(home, f"export={tmp_path}/out", "seed=1") == 2
    assert "holds the scenes" in capsys.readouterr().err and everything(tmp_path) == before


def test_a_strangers_file_beside_systems_that_hear_nothing(home: Path, tmp_path: Path) -> None:
    settings = asked(home, predictions=str(tmp_path / "mine.parquet"), layout="vconcat")
    truth = truth_of(settings)
    with open_predictions_writer(settings.predictions, truth.scenes_hash) as out:
        out.add("mine", truth.ids[:6], truth.masks_NSYX[:6].astype(np.float32), truth.canvas)
        out.add("yours", truth.ids, [None, *np.ones((8, 2, 4, 2), np.float32)], truth.canvas)
    report = run_evaluation(settings, (lines := []).append)
    folder = Path(report.folder)
    assert folder.parent.parent == home / "evaluations" and folder.parent.name.startswith("mine-")
    assert sorted(path.name for path in folder.iterdir()) == ["per_scene.parquet", "scores.json", "table.md"]
    scores = json.loads((folder / "scores.json").read_text())
    assert (
        scores == report.scores and scores["scene_sets"][0]["canvas"] == [64, 32] and scores["preprocessing"] == "cafe"
    )
    (scenes,) = scores["scene_sets"]
    assert scenes["settings"]["layout"] == "vconcat" and scenes["scenes_hash"] == truth.scenes_hash
    systems = {each["system"]: each for each in scores["systems"]}
    assert [systems[name]["missing"] for name in ("mine", "yours", "full frame")] == [3, 1, 0]
    found = by_layout(systems["mine"])["vconcat"]["metrics"]
    assert found["ciou"]["value"] == pytest.approx(6 / 9) and found["ciou"]["scenes"] == 9  # a gap is a miss
    assert (
        systems["mine"]["role"] == "system"
        and systems["full frame"]["role"] == "baseline"
        and {"full frame", "centre box 0.5", "radial prior"} <= systems.keys()
    )
    table = (folder / "table.md").read_text()
    assert "| mine " in table and "| null: full frame " in table and "protocol raymix-1, layout vconcat" in table
    assert "- mine: 3 of 9 scenes have no prediction and count as missed" in table
    assert any("| mine " in line for line in lines) and lines[-1] == f"written: {folder}/per_scene.parquet"
    scored = {each.system: each for each in per_scene_scores.decode_scene_scores(f"{folder}/per_scene.parquet") or []}
    assert scored["mine"].values["ciou"].tolist() == [1.0] * 6 + [0.0] * 3 and scored["full frame"].null
    assert scored["mine"].videos == truth.sounding_videos()
    heard = len({name for names in truth.sounding_videos() for name in names})
    assert {by_layout(each)["vconcat"]["videos"] for each in scores["systems"]} == {heard} == {scenes["videos"]}
    assert f"9 scenes of {heard} videos" in table


@pytest.mark.parametrize(("layout", "sources"), LAYOUTS)
def test_right_maps_are_right_in_every_layout(home: Path, tmp_path: Path, layout: str, sources: int | None) -> None:
    settings = asked(home, layout=layout, sources=sources, predictions=f"{tmp_path}/mine.parquet")
    save(truth_of(settings), tmp_path / "mine.parquet")
    found = run_evaluation(settings, lambda line: None).scores["systems"][0]["scores"][0]["metrics"]
    assert found["iou" if "iou" in found else "ciou"]["value"] == pytest.approx(1, abs=0.05)
    assert ("sounding_accuracy" in found) == ("2x2" in layout)


def test_scored_in_pieces_as_at_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = truth_of(asked(home, layout="grid2x2"))
    maps = np.random.default_rng(0).normal(size=(9, 3, 4, 4)).astype(np.float16)
    order = np.random.default_rng(1).permutation(9)
    with open_predictions_writer(f"{tmp_path}/mine.parquet", truth.scenes_hash) as out:
        out.add("mine", [truth.ids[i] for i in order], maps[order], truth.canvas, presence_NM=maps[order, :, 0, 0])
    monkeypatch.setattr(sharded_scoring, "ROWS_PER_SHARD", 2)
    found = sharded_scoring.score_prediction_tables(
        check_predictions(f"{tmp_path}/mine.parquet", truth), truth, [RAYMIX_1]
    )["mine"]["raymix-1"]
    loudest = np.argsort(-maps[:, :, 0, 0].astype(float), axis=1)[:, :2]  # as many as sound
    whole = score_maps(np.take_along_axis(maps, loudest[:, :, None, None], axis=1), truth)
    assert found.ids == whole.ids
    for name, column in whole.values.items():
        np.testing.assert_allclose(found.values[name], column, err_msg=name)


def by_class(truth: SceneGroundTruth, path: Path, called: dict[str, str] | None = None, names: bool = True) -> str:
    """One map a class, in an order that differs by scene, right wherever its class sounds; `called` renames classes."""
    assert truth.masks_NSYX is not None and truth.labels is not None
    rng, classes = np.random.default_rng(0), np.array([f"class{number}" for number in range(4)])
    maps, said = np.zeros((len(truth), 4, *truth.canvas), np.float16), []
    for scene, labels in enumerate(truth.labels):
        order = rng.permutation(4)
        for place, name in enumerate(classes[order]):
            maps[scene, place] = truth.masks_NSYX[scene][[label == name for label in labels]].any(axis=0)
        said.append([(called or {}).get(name, name) for name in classes[order]])
    found = {"scene_id": np.array(truth.ids), "maps": maps}
    np.savez(path, **found, **({"map_class": np.array(said)} if names else {}))
    return str(path)


def test_protocols_that_go_by_class_names_read_those_of_a_stranger(home: Path, tmp_path: Path) -> None:
    settings = asked(home, protocol="dsol-syn", predictions=f"{tmp_path}/right.npz", output=f"{tmp_path}/right")
    truth = truth_of(settings)
    by_class(truth, tmp_path / "right.npz")
    by_class(truth, tmp_path / "crossed.npz", {f"class{a}": f"class{(a + 1) % 4}" for a in range(4)})
    by_class(truth, tmp_path / "nameless.npz", names=False)
    report = run_evaluation(settings, lambda line: None)
    systems = metrics_of(report.scores, "hconcat")
    right, frame = systems["right"], systems["full frame"]
    assert right["ciou@0.5"]["value"] == right["nsa"]["value"] == 1 and not any("*" in name for name in right)
    assert frame["ciou@0.3"]["scenes"] == 9 and "ciou@0.3*" not in frame  # nulls have the same columns

    def ciou(name: str) -> dict[str, float]:
        asks = asked(home, protocol="dsol-syn", predictions=f"{tmp_path}/{name}.npz", output=f"{tmp_path}/{name}")
        found = run_evaluation(asks, lambda line: None).scores["systems"][0]["scores"][0]["metrics"]
        return {key: each["value"] for key, each in found.items() if key.startswith("ciou@0.5")}

    assert ciou("crossed")["ciou@0.5"] < 0.5 and ciou("nameless") == {"ciou@0.5*": 1}
    compared = asked(home, protocol="dsol-syn", compare=[f"{tmp_path}/right.npz", f"{tmp_path}/crossed.npz"])
    found = run_evaluation(compared, lambda line: None).scores["systems"]
    first, _, gap = (each["scores"][0]["metrics"]["ciou@0.5"] for each in found)
    assert first["value"] == 1 and gap["value"] == pytest.approx(1 - ciou("crossed")["ciou@0.5"])
    again = asked(home, predictions=f"{tmp_path}/right.npz", layout="hconcat", output=f"{tmp_path}/plain")
    plain = metrics_of(run_evaluation(again, lambda line: None).scores, "hconcat")["right"]
    assert plain["ciou@0.5"]["value"] == 1  # the others take the best of its maps


def test_systems_with_and_without_names_stand_in_one_table(home: Path, tmp_path: Path) -> None:
    truth = truth_of(asked(home))
    by_class(truth, tmp_path / "a.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    rows = pa.table(
        {
            "scene_id": [*truth.ids, *truth.ids],
            "system": ["named"] * 9 + ["anonymous"] * 9,
            "maps": [each.ravel() for each in arrays["maps"]] * 2,
            **{name: [size] * 18 for name, size in zip(("count", "height", "width"), (4, 32, 64), strict=True)},
            "map_class": [each.tolist() for each in arrays["map_class"]] + [None] * 9,
        }
    )
    pq.write_table(rows, tmp_path / "both.parquet")
    asks = asked(home, protocol="sslalign", predictions=f"{tmp_path}/both.parquet", output=f"{tmp_path}/out")
    report = run_evaluation(asks, lambda line: None)
    found = metrics_of(report.scores, "hconcat")
    assert "ciou" in found["named"] and "ciou*" not in found["named"]
    assert "ciou*" in found["anonymous"] and "ciou" not in found["anonymous"]
    assert found["full frame"]["ciou"] == found["full frame"]["ciou*"]  # one map for all: no pairing helps it
    assert "| anonymous " in (tmp_path / "out/table.md").read_text()


def test_scenes_that_published_code_leaves_out_are_counted_in_their_cell(home: Path, tmp_path: Path) -> None:
    asks = asked(home, protocol="noprior-code", predictions=f"{tmp_path}/a.npz", output=f"{tmp_path}/out")
    truth = truth_of(asks)
    assert truth.masks_NSYX is not None
    np.savez(asks.predictions, scene_id=np.array(truth.ids[:7]), maps=truth.masks_NSYX[:7].astype(np.float16))
    found = run_evaluation(asks, lambda line: None).scores["systems"]
    assert [each["scores"][0]["metrics"]["ciou"]["scenes"] for each in found[:2]] == [7, 9]
    assert "(n=7)" in (tmp_path / "out/table.md").read_text()


def test_boxes_of_a_stranger(home: Path, tmp_path: Path) -> None:
    settings = asked(home, layout="hconcat", predictions=f"{tmp_path}/boxes.npz")
    truth = truth_of(settings)
    np.savez(
        settings.predictions, scene_id=np.array(truth.ids), boxes=np.tile([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], (9, 1, 1))
    )
    found = run_evaluation(settings, lambda line: None).scores["systems"][0]
    halves = np.stack([box_mask((0, 0, 0.5, 1), *truth.canvas), box_mask((0.5, 0, 1, 1), *truth.canvas)])
    expected = score_maps(np.tile(halves, (9, 1, 1, 1)), truth).values["ciou"].mean()
    assert found["system"] == "boxes" and found["scores"][0]["metrics"]["ciou"]["value"] == pytest.approx(expected)


def test_two_results_compared(home: Path, tmp_path: Path, capsys: Any) -> None:
    truth = truth_of(asked(home))
    save(truth, tmp_path / "a.parquet", 1.0)
    save(truth, tmp_path / "b.parquet", 5 / 9)
    assert call(home, f"compare={tmp_path}/a.parquet,{tmp_path}/b.parquet", f"output={tmp_path}/out") == 0
    assert "| ciou " in capsys.readouterr().out
    found = json.loads((tmp_path / "out/scores.json").read_text())
    assert [each["role"] for each in found["systems"]] == ["system", "system", "difference"]
    first, second, ciou = (each["scores"][0]["metrics"]["ciou"] for each in found["systems"])
    assert (first["value"], second["value"]) == pytest.approx((1, 5 / 9)) and ciou["value"] == pytest.approx(4 / 9)
    assert ciou["low"] == 0 and 4 / 9 < ciou["high"] <= 1 and ciou["scenes"] == found["scene_sets"][0]["scenes"] == 9
    assert "+0.444" in (tmp_path / "out/table.md").read_text()
    # an evaluation that was written needs no scenes, and gives the same
    settings = asked(home, predictions=f"{tmp_path}/b.parquet", output=f"{tmp_path}/written")
    run_evaluation(settings, lambda line: None)
    again = run_evaluation(asked(home, compare=[f"{tmp_path}/a.parquet", f"{tmp_path}/written"]), lambda line: None)
    assert again.scores["systems"] == found["systems"]
    both = [f"{tmp_path}/written", f"{tmp_path}/written/per_scene.parquet#full frame"]
    null = run_evaluation(EvaluateConfig(home=str(home), compare=both), lambda line: None).scores
    assert [each["system"] for each in null["systems"]] == ["mine", "full frame", "mine - full frame"]
    same = run_evaluation(EvaluateConfig(home=str(home), compare=both[:1] * 2), lambda line: None).scores
    gaps = same["systems"][2]["scores"][0]["metrics"].values()
    assert {(each["value"], each["low"], each["high"]) for each in gaps} == {(0, 0, 0)}


def test_a_paired_interval_is_narrower_than_the_systems_own(home: Path, tmp_path: Path) -> None:
    """Easy and hard scenes are so for both: their difference is the same in all."""
    truth = truth_of(asked(home, layout="single", scenes=12))
    assert truth.masks_NSYX is not None
    noisy = truth.masks_NSYX.astype(np.float32)
    noisy[::2] = 1 - noisy[::2]  # wrong in half of the scenes
    worse = noisy.copy()
    worse[0] = 0
    for name, maps in (("a", noisy), ("b", worse)):
        with open_predictions_writer(f"{tmp_path}/{name}.parquet", truth.scenes_hash) as out:
            out.add(name, truth.ids, maps, truth.canvas)
    settings = asked(home, layout="single", scenes=12, compare=[f"{tmp_path}/a.parquet", f"{tmp_path}/b.parquet"])
    found = run_evaluation(settings, lambda line: None).scores["systems"][2]["scores"][0]["metrics"]["iou@0.5"]
    own = score_maps(noisy, truth).values["iou@0.5"]
    assert found["high"] - found["low"] < 2 * own.std() / np.sqrt(12)
    assert found["low"] <= found["value"] <= found["high"]


REFUSED = {  # what the file or the command line says, and what is said to it
    "unknown": "row 1, scene 'hconcat-7-00000': none of the 9 hconcat scenes",
    "reshaped": "row 1, scene 'hconcat-0-00000': 4096 values do not fill count x height x width = 2x32x65",
    "nan": "row 3, scene 'hconcat-0-00002': a map holds a value that is no number",
    "twice": "row 9, scene 'hconcat-0-00000': mine has a row for this scene already, row 1",
    "masks": "row 1, scene 'hconcat-0-00000': masks of 64x32 pixels, the canvas is 32x64",
    "outside": "row 2, scene 'hconcat-0-00001': box 1, [0, 0, 32, 32], reaches out of [0, 1]",
    "reversed": "row 2, scene 'hconcat-0-00001': box 1, [0.5, 0, 0.1, 1], is reversed",
    "flat": "row 1, scene 'hconcat-0-00000': box 1 is 0.0; it must be a list of numbers",
    "words": "row 1, scene 'hconcat-0-00000': box 1 is ['a']; it must be a list of numbers",
    "text": "row 1, scene 'hconcat-0-00000': map_class is 'class0'; it must be a list, a name for each map",
    "sized": "row 1, scene 'hconcat-0-00000': 4096 values do not fill count x height x width = 2x32x64",
    "named": "row 9, scene 'hconcat-0-00008': the maps of mine have a map_class in all rows, or in none",
    "presence": "row 1, scene 'hconcat-0-00000': presence is ['a']; it must be a list of numbers",
    "null": "system 'full frame' is what a null system is called; give it another name",
}


def spoil(kind: str, truth: SceneGroundTruth, path: str) -> None:
    assert truth.masks_NSYX is not None
    found: dict[str, Any] = {"scene_id": list(truth.ids), "system": ["full frame" if kind == "null" else "mine"] * 9}
    maps = [each.ravel().astype(float) for each in truth.masks_NSYX]
    found |= {"maps": maps, "count": [2] * 9, "height": [32] * 9, "width": [64] * 9}
    if kind == "unknown":
        found["scene_id"][0] = "hconcat-7-00000"
    if kind == "reshaped":
        found["width"] = [65] * 9
    if kind == "nan":
        maps[2][7] = np.nan
    if kind == "twice":
        found["scene_id"][8] = truth.ids[0]
    if kind == "masks":
        found |= {"maps": [each.astype(bool) for each in maps], "height": [64] * 9, "width": [32] * 9}
    if kind == "text":
        found["map_class"] = ["class0"] * 9
    if kind == "sized":
        found["width"] = ["64"] * 9
    if kind == "named":
        found["map_class"] = [["class0", "class1"]] * 8 + [None]
    if kind == "presence":
        found["presence"] = [["a"]] * 9
    if kind in ("flat", "words"):
        found = {"scene_id": list(truth.ids), "boxes": [[0.0, 0.0, 1.0, 1.0] if kind == "flat" else [["a"]]] * 9}
    if kind in ("outside", "reversed"):
        box = [0, 0, 32, 32] if kind == "outside" else [0.5, 0, 0.1, 1]
        found = {"scene_id": list(truth.ids), "boxes": [[[0.0, 0.0, 1.0, 1.0]]] + [[[*map(float, box)]]] * 8}
    pq.write_table(pa.table(found), path)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_wrong_file_ends_the_command_in_one_line_and_nothing_is_written(
    home: Path, tmp_path: Path, capsys: Any, kind: str
) -> None:
    spoil(kind, truth_of(asked(home)), f"{tmp_path}/mine.parquet")
    before = everything(home)
    assert call(home, f"predictions={tmp_path}/mine.parquet", f"output={tmp_path}/out") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"raymix: {tmp_path}/mine.parquet") and REFUSED[kind] in said and said.count("\n") == 1
    assert everything(home) == before and not (tmp_path / "out").exists()


WORDS = {
    "predictions= and compare=: one at a time": ["predictions=x.npz", "compare=a,b"],
    "compare=a: names 1 results, must be two: compare=A,B": ["compare=a"],
    "compare: a.npz is neither a file of predictions nor the folder": ["compare=a.npz,b.npz"],
    "predictions=nowhere.npz: no such file": ["predictions=nowhere.npz"],
    "store=True: does not go with export=": ["export=DIR", "store=true"],
    "seed=1: goes with layout= or pair_list=; else a study's scenes are those": ["study=x", "seed=1", "scenes=9"],
    "nothing to score: give study=NAME": ["layout=vconcat"],
    "layout=hconat: must be one of single, hconcat": ["export=DIR", "layout=hconat"],
    "scenes=0: must be 1 to 100000": ["export=DIR", "scenes=0"],
    "sources=9: must be 1 to 4": ["export=DIR", "sources=9"],
    "sources=3: layout grid2x2 has 2": ["export=DIR", "layout=grid2x2", "sources=3"],
    "rule=max: must be one of sum, mean": ["export=DIR", "rule=max"],
    "seconds=9: longer than the clips": ["export=DIR", "seconds=9"],
    "protocol='raymix1' is unknown, did you mean 'raymix-1'?": ["predictions=good.csv", "protocol=raymix1"],
    "no split 'val', it has test": ["export=DIR", "split=val"],
    "nowhere: no prepared dataset": ["export=DIR", "prepared=nowhere"],
    "list.csv, row 2: scene 'a' has place 0 already, in row 1": ["export=DIR", "pair_list=list.csv"],
    "klass.npz: protocol dsol-syn goes by class names, and no map_class of klass is a class of these scenes: 'klass0' "
    "(did you mean class0?)": ["predictions=klass.npz", "protocol=dsol-syn"],
    "odd.npz: system has the shape (2,); it is one name, or one for each of 9 scenes": ["predictions=odd.npz"],
    "canvas.npz: canvas has the shape (); it is (2,): height, width": ["predictions=canvas.npz"],
    "missing.npz: missing is of <U1; it must be booleans": ["predictions=missing.npz"],
    "predictions=a file,b#c: no such file": ["predictions=a file,b#c"],
    "top=3: does not go with predictions=": ["predictions=good.csv", "top=3"],
    "pictures=3: does not go with compare=": ["compare=a,b", "pictures=3"],
    "protocol=lvs: does not go with export=": ["export=DIR", "protocol=lvs"],
    "layout=vconcat: does not go with tables=": ["tables=1", "study=x", "layout=vconcat", "noscenes"],
    "figures=[2]: must be of 3, 4, 5": ["figures=2", "study=x", "noscenes"],
    "comparison=mine: goes with tables= or figures=": ["comparison=mine"],
    "scenes=1000000000: must be 1 to 100000": ["export=DIR", "scenes=1000000000"],
    "good.csv: cannot be written": ["export=good.csv"],
    "pair_list=.: no such file": ["export=DIR", "pair_list=."],
    "more.csv, row 1: has more cells than there are columns": ["export=DIR", "pair_list=more.csv"],
    "five.csv, row 1: scene 'a': sources=5: must be 1 to 4": ["export=DIR", "pair_list=five.csv"],
    "seed=3: pair_list=good.csv says what is in each scene": ["export=DIR", "pair_list=good.csv", "seed=3"],
}


@pytest.mark.parametrize("said", WORDS)
def test_wrong_words_end_the_command_in_one_line(
    home: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text(
        "scene_id,layout,place,clip_id\na,hconcat,0,toy:video00:0\na,hconcat,0,toy:video01:0\n"
    )
    (tmp_path / "good.csv").write_text(
        "scene_id,layout,place,clip_id\na,hconcat,0,toy:video00:0\na,hconcat,1,toy:video01:0\n"
    )
    (tmp_path / "more.csv").write_text("scene_id,layout,place,clip_id\na,hconcat,0,toy:video00:0,more\n")
    rows = "".join(f"a,hconcat,{place},toy:video0{place}:0\n" for place in range(5))
    (tmp_path / "five.csv").write_text("scene_id,layout,place,clip_id\n" + rows)
    truth = truth_of(asked(home))
    by_class(truth, tmp_path / "klass.npz", {f"class{number}": f"klass{number}" for number in range(4)})
    odd = {"system": np.array(["a", "b"]), "canvas": np.array(64), "missing": np.array(["x"] * 9)}
    for name, wrong in odd.items():
        maps = np.zeros((9, 1, 4, 4), np.float16)
        path = tmp_path / f"{'odd' if name == 'system' else name}.npz"
        np.savez(path, scene_id=np.array(truth.ids), maps=maps, **{name: wrong})
    before = everything(home) | everything(tmp_path)
    assert call(home, *WORDS[said]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and everything(home) | everything(tmp_path) == before


@pytest.mark.parametrize("words", [{"protocol": "raymix-1"}, {"protocols": ["raymix-1", "gar-union"]}])
def test_a_system_named_as_a_baseline_is_refused(home: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    uri = save(truth_of(asked(home)), tmp_path / "two.parquet", **{"full frame": 1.0})
    with pytest.raises(ValueError, match="system 'full frame' is what a null system is called"):
        run_evaluation(asked(home, predictions=uri, output=f"{tmp_path}/out", **words), lambda line: None)


def test_compare_refuses_what_is_not_alike(home: Path, tmp_path: Path) -> None:
    truth = truth_of(asked(home))
    two = save(truth, tmp_path / "two.parquet", first=1.0, second=0.5)
    below = asked(home, layout="vconcat", predictions=f"{tmp_path}/v.parquet", output=f"{tmp_path}/v")
    save(truth_of(below), tmp_path / "v.parquet")
    run_evaluation(below, lambda line: None)

    def refused(match: str, *both: str) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            run_evaluation(asked(home, compare=list(both)), lambda line: None)
        assert "\n" not in str(caught.value)

    refused(r"two.parquet has 2 systems, say which: .*two.parquet#NAME, one of first, second", two, two)
    refused(r"two.parquet has no system 'frist' \(did you mean first\?\)", f"{two}#frist", two)
    refused(
        r"compare: no scenes \(protocol\) in common: .*#first has hconcat .*; .*/v has vconcat",
        f"{two}#first",
        f"{tmp_path}/v",
    )
    report = run_evaluation(asked(home, compare=[f"{two}#first", f"{two}#second"]), lambda line: None)
    assert by_layout(report.scores["systems"][2])["hconcat"]["metrics"]["ciou"]["value"] == pytest.approx(5 / 9)


def test_the_list_the_seed_and_the_study_say_which_scenes(home: Path, tmp_path: Path) -> None:
    from raymix.config import EncoderConfig, EvaluationConfig, MixtureConfig, TrainConfig

    run = TrainConfig(
        mixture=MixtureConfig(seconds=0.5, reduction="mean"),
        encoder=EncoderConfig(image_size=64),
        evaluation=EvaluationConfig(seed=7),
    )
    run.dataset.prepared = "theirs"
    of_study = scene_spec_from_settings(EvaluateConfig(home=str(home), layout="grid2x2", level="none"), run)
    assert (of_study.prepared, of_study.seconds, of_study.rule, of_study.seed) == ("theirs", 0.5, "mean", 7)
    assert (of_study.image_size, of_study.scenes, of_study.level) == (64, 256, "none")
    assert scene_spec_from_settings(EvaluateConfig(home=str(home), split="val"), run).scenes == run.evaluation.scenes
    plain = scene_spec_from_settings(EvaluateConfig(home=str(home)))
    assert (plain.prepared, plain.layout, plain.image_size) == (f"{home}/clips/toy", "hconcat", 224)
    drawn = compose_scenes(
        plain.clips(), layout="hconcat", count=256, seed=0
    )  # the name of the scenes is that of `compose`
    assert truth_of(EvaluateConfig(home=str(home))).scenes_hash == drawn.hash
    assert truth_of(EvaluateConfig(home=str(home), image_size=32)).scenes_hash == drawn.hash
