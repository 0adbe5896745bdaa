"""The last word on a study: its numbers, its files, what it refuses, and that validation scores come out again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raymix import evaluate, leaderboard
from raymix.config import (
    ConfigError,
    DatasetConfig,
    EncoderConfig,
    EvaluateConfig,
    EvaluationConfig,
    MixtureConfig,
    TrainConfig,
    config_to_plain,
)
from raymix.config.errors import NoUsableResult
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.evaluation import candidates, study_evaluation, validation
from raymix.evaluation.candidates import CheckpointSource, choose_checkpoints
from raymix.evaluation.dispatch import run_evaluation
from raymix.evaluation.validation import EvaluationScenes, score_method, score_method_with_outcomes
from raymix.methods import method_from_config
from raymix.metrics.scene_scores import sounding_accuracy
from raymix.tracking import checkpoint
from raymix.tracking.event_log import EventLog
from raymix.tracking.significance import unpack_outcomes
from tests.support.reports import by_layout, metrics_of

LAYOUTS = {"grid2x2", "solo2x2", "hconcat", "single"}
CHARTS = ["grid2x2-sounding-accuracy.png", "solo2x2-sounding-accuracy.png", "hconcat-ciou.png", "single-iou.png"]
STORED = [f"predictions-{layout}.parquet" for layout in ("grid2x2", "solo2x2", "hconcat", "single")]
BEST = 3  # the trial with the highest recorded score


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    """28 videos of 2 s, prepared in this process."""
    root = tmp_path_factory.mktemp("demo")
    settings = DatasetConfig(
        name="demo",
        root=str(root / "videos"),
        prepared=str(root / "clips"),
        regions=str(root / "videos/regions.json"),
        classes="parent",
        frame_size=64,
        clip_seconds=1.0,
        stride_seconds=1.0,
        val=0.35,
        test=0.35,
        videos=28,
        video_seconds=2.0,
        size=64,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_ray_runs", lambda: False)  # another test module may have left Ray running
        prepare_dataset(settings, echo=lambda line: None)
    return settings


def a_run(dataset: DatasetConfig, seed: int = 0) -> TrainConfig:
    return TrainConfig(
        dataset=dataset,
        mixture=MixtureConfig(k=2),
        encoder=EncoderConfig(width=8, image_size=64),
        method={"name": "cycle", "temperature": 0.07, "embedding_size": 16},
        evaluation=EvaluationConfig(scenes=12, final_scenes=10, seed=seed, pictures=3),
    )


def a_study(home: Path, run: TrainConfig, trials: tuple[int, ...] = (BEST, 0, 1)) -> str:
    """A study of untrained checkpoints, scored as the search scores; the first trial is made the best one."""
    uri = f"{home}/studies/small"
    ledger = EventLog(uri)
    head = {"name": "small", "objective": "val/sounding_accuracy", "mode": "max", "config": config_to_plain(run)}
    ledger.append("study", {**head, "planned": 4, "space_hash": "", "seed": 0})
    evaluation_scenes = EvaluationScenes.open(run, "val", run.evaluation.scenes)
    for place, number in enumerate(trials):
        torch.manual_seed(number)
        method = method_from_config(run)
        path = checkpoint.checkpoint_path(number, 2)
        checkpoint.save_checkpoint(f"{uri}/{path}", method.state_dict(), {"step": 1}, config_to_plain(run))
        metrics = score_method(method, evaluation_scenes, run)
        if place == 0:
            metrics["val/sounding_accuracy"] += 1  # no untrained network is better than the others for sure
        ledger.append("trial_started", {"trial": number, "params": {"method.temperature": 0.07}})
        ledger.append("epoch_scored", {"trial": number, "epoch": 2, "metrics": metrics, "checkpoint": path})
        ledger.append("trial_ended", {"trial": number, "state": "completed"})
    return uri


@pytest.fixture(scope="module")
def home(clips: DatasetConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("home")
    a_study(place, a_run(clips))
    return place


@pytest.fixture(scope="module")
def tested(home: Path) -> tuple[evaluate.Report, list[str]]:
    lines: list[str] = []
    report = run_evaluation(EvaluateConfig(home=str(home), study="small", top=2, store=True), lines.append)
    return report, lines


def test_scores_json_is_whole(tested: tuple[evaluate.Report, list[str]], home: Path, clips: DatasetConfig) -> None:
    report, _ = tested
    folder = home / "studies/small/evaluation/test"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores == report.scores and report.folder == str(folder)
    assert (scores["split"], scores["source"]["study"], scores["protocols"]) == ("test", "small", ["raymix-1"])
    first, second = scores["checkpoints"]
    assert (first["trial"], first["epoch"], first["rank"], second["rank"]) == (BEST, 2, 1, 2)
    assert first["parameters"] == {"method.temperature": 0.07} and first["uri"].endswith("trial-0003/epoch-0002")
    wanted = "sounding_accuracy sounding_accuracy_shuffled ciou@0.3 ciou auc cap piap"
    wanted += " single/iou@0.5 single/ap single/auc"
    assert {f"test/{name}" for name in wanted.split()} <= set(first["scores"])
    assert first["chance"] == pytest.approx(1 / 6)
    sets = {each["layout"]: each for each in scores["scene_sets"]}
    evaluation_scenes = sets["grid2x2"]["settings"]
    described = json.loads(Path(clips.prepared, "dataset.json").read_text())
    assert scores["preprocessing"] == described["preprocessing"]
    assert (evaluation_scenes["clips"], evaluation_scenes["videos"]) == tuple(
        described["splits"]["test"][name] for name in ("clips", "videos")
    )
    assert set(sets) == LAYOUTS and sets["grid2x2"]["scenes"] == 10
    assert sets["grid2x2"]["canvas"] == [128, 128] and sets["hconcat"]["scenes_with_regions"] == 10
    for system in scores["systems"]:
        for layout, summary in by_layout(system).items():
            for name in ("scenes_hash", "preprocessing", "scenes"):
                assert summary[name] == sets[layout][name] == scores["scene_sets"][summary["scene_set"]][name]
            assert summary["preprocessing"] == described["preprocessing"]
            for interval in summary["metrics"].values():
                assert interval["low"] <= interval["value"] <= interval["high"]


def test_null_systems_stand_beside_on_the_same_scenes(tested: tuple[evaluate.Report, list[str]]) -> None:
    systems = {system["system"]: system for system in tested[0].scores["systems"]}
    second = tested[0].scores["checkpoints"][1]["name"]
    assert [name for name, system in systems.items() if system["role"] == "system"] == ["trial 3", second]
    made_with_a_model = {"trial 3, shuffled audio", "trial 3, silent audio", "untrained network", "mean training map"}
    for name in {*made_with_a_model, "full frame", "centre box 0.5", "radial prior"}:
        role = "control" if name in made_with_a_model - {"mean training map"} else "baseline"
        assert systems[name]["role"] == role and set(by_layout(systems[name])) == LAYOUTS, name
    assert set(by_layout(systems[f"{second}, shuffled audio"])) == {"grid2x2", "solo2x2"}  # every checkpoint's twin
    assert set(by_layout(systems["random panels"])) == {"grid2x2", "solo2x2"}
    assert list(by_layout(systems["trial 3"])["grid2x2"]["metrics"]) == ["sounding_accuracy"]
    values = {name: by_layout(systems[name])["single"]["metrics"]["ap"]["value"] for name in made_with_a_model}
    assert len({round(value, 9) for value in values.values()}) == 4  # four different systems indeed


def test_scores_are_those_of_the_method(
    tested: tuple[evaluate.Report, list[str]], home: Path, clips: DatasetConfig
) -> None:
    best = tested[0].scores["checkpoints"][0]
    method, run = candidates.load_method(best["uri"])
    expected = score_method(method, EvaluationScenes.open(run, "test", 10), run)
    assert len(expected) > 6
    assert 0 <= expected.pop("test/same_peak") <= 1  # a sign of collapse for the search, not a score
    assert {name: best["scores"][name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_an_untrained_network_is_not_above_chance(
    tested: tuple[evaluate.Report, list[str]], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, lines = tested
    told = report.scores["details"]["above_chance"]
    assert told["found"] is False and told["split"] == "test" and told["epochs"] == 2
    assert (told["scenes"], told["chance"]) == (10, pytest.approx(1 / 6))
    named = {each["name"]: each["scores"] for each in report.scores["checkpoints"]}
    best = max(named, key=lambda name: named[name]["test/sounding_accuracy"])
    assert told["best"] == pytest.approx(named[best]["test/sounding_accuracy"])
    assert told["where"] == f"{best}, epoch 2"
    assert told["shuffled"] == pytest.approx(named[best]["test/sounding_accuracy_shuffled"])
    assert told["sentence"].startswith(
        "warning: no checkpoint is above chance on the test split: best test/sounding_acc"
    )
    assert lines.count(told["sentence"]) == 1 and told["sentence"] in Path(report.folder, "table.md").read_text()
    assert leaderboard.main(["small", "--root", str(home)]) == 0
    assert told["sentence"] in capsys.readouterr().out.splitlines()  # the ledger keeps it


def test_the_search_records_which_scenes_succeeded(tested: tuple[evaluate.Report, list[str]]) -> None:
    method, run = candidates.load_method(tested[0].scores["checkpoints"][0]["uri"])
    evaluation_scenes = EvaluationScenes.open(run, "val", 12)
    metrics, outcomes = score_method_with_outcomes(method, evaluation_scenes, run)
    scenes = outcomes["scenes"]
    assert (scenes["metric"], scenes["chance"]) == ("val/sounding_accuracy", pytest.approx(1 / 6))
    assert scenes["scenes_hash"] == evaluation_scenes.truth["grid2x2"].scenes_hash
    for name, audio in (("real", None), ("shuffled", evaluation_scenes.shuffled["grid2x2"])):
        succeeded = unpack_outcomes(outcomes[name], len(scenes["videos"]))
        assert succeeded.mean() == pytest.approx(
            metrics["val/sounding_accuracy" + (f"_{name}" if audio is not None else "")]
        )
        shown = (
            evaluation_scenes.scenes["grid2x2"]
            if audio is None
            else evaluation_scenes.scenes["grid2x2"].with_audio(audio)
        )
        truth = evaluation_scenes.truth["grid2x2"]
        for place in range(len(truth)):  # scene by scene, in their order
            alone = validation.predict_top_k_heatmaps(
                method, next(each for n, each in enumerate(shown.batches(1)) if n == place)
            )
            assert sounding_accuracy(alone, truth.take(np.array([place])))[0] == succeeded[place]
    videos = evaluation_scenes.truth["grid2x2"].sounding_videos()
    for one, other in combinations(range(len(videos)), 2):  # numbers stand for the videos
        shared = len(set(videos[one]) & set(videos[other]))
        assert len(set(scenes["videos"][one]) & set(scenes["videos"][other])) == shared
    assert all(set(videos[n]).isdisjoint(videos[other]) for n, other in enumerate(scenes["shuffled"]))
    json.dumps(outcomes)


def test_files_are_all_there_and_named(tested: tuple[evaluate.Report, list[str]]) -> None:
    report, lines = tested
    pictures = [*CHARTS, "grid2x2-random-1.png", "grid2x2-worst.png", "hconcat-random-1.png"]
    names = ["scores.json", "table.md", "per_scene.parquet", *pictures, *STORED]
    assert [Path(file).name for file in report.files] == names
    assert sorted(each.name for each in Path(report.folder).iterdir()) == sorted(names)  # nothing temporary is left
    assert all(f"  {file}" in lines for file in report.files)
    for file in report.files[3:-4]:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[1] > 400 and pixels.std() > 5
    table = Path(report.folder, "table.md").read_text()
    assert "| null: centre box 0.5 " in table and "## hconcat" in table and "| trial 3 " in table
    assert "protocol raymix-1, layout grid2x2" in table


def test_pictures_are_of_random_scenes_the_worst_and_the_best(home: Path) -> None:
    settings = EvaluateConfig(home=str(home), study="small", top=1)
    candidates = choose_checkpoints(settings, CheckpointSource.find(settings), lambda line: None)
    evaluation_scenes = EvaluationScenes.open(candidates[0].run, "test", 10)
    reached = study_evaluation.evaluate_checkpoints(candidates, evaluation_scenes, "cpu", lambda line: None)
    for layout, metric in (("grid2x2", "sounding_accuracy"), ("hconcat", "ciou")):
        (table,) = [row.table for row in reached.rows[layout] if row.system == "trial 3"]
        value_N = table.values[metric]
        chosen = study_evaluation.pick_scenes(reached, layout, 5)
        assert list(chosen) == ["random-1", "random-2", "random-3", "worst", "best"]
        assert value_N[chosen["worst"][0]] == value_N.min() and value_N[chosen["best"][0]] == value_N.max()
        assert chosen["best"][1].startswith("best of 10 scenes by ")
        again = study_evaluation.pick_scenes(reached, layout, 3)
        assert again["random-1"] == chosen["random-1"] and list(again)[1:] == ["worst", "best"]
        assert len({chosen[name][0] for name in ("random-1", "random-2", "random-3")}) == 3
        assert list(study_evaluation.pick_scenes(reached, layout, 1)) == [
            "random-1"
        ] and not study_evaluation.pick_scenes(reached, layout, 0)
        # which scenes are random does not depend on the scores
        turned = [replace(row, table=replace(row.table, values={metric: -value_N})) for row in reached.rows[layout]]
        other = study_evaluation.pick_scenes(replace(reached, rows={layout: turned}), layout, 5)
        assert [other[f"random-{n}"] for n in (1, 2, 3)] == [chosen[f"random-{n}"] for n in (1, 2, 3)]
        assert value_N[other["best"][0]] == value_N.min()


def test_what_is_told_fits_a_terminal(tested: tuple[evaluate.Report, list[str]]) -> None:
    _, lines = tested
    head = next(line for line in lines if line.startswith("system"))
    assert head.split()[1:] == ["sound.", "sound.", "CIoU@.3", "AUC", "CAP", "PIAP", "IoU@.5", "AP", "AUC"]
    rows = lines[lines.index(head) + 1 : lines.index("", lines.index(head))]
    assert {len(line) for line in rows} == {len(head)} and len(head) <= 100
    assert rows[0].startswith("trial 3 ") and rows[1].startswith(("trial 0 ", "trial 1 "))
    assert all(row.startswith("null: ") for row in rows[2:])
    at = next(place for place, line in enumerate(lines) if line.startswith("trial 3, epoch 2:"))
    assert lines[at].split()[-4:] == ["shuffled", "audio", "best", "baseline"]
    quoted = lines[at + 1 : at + 5]
    assert [line.split()[0] for line in quoted] == ["grid2x2", "solo2x2", "hconcat", "single"]
    assert [line[11:28].strip() for line in quoted] == ["sounding accuracy", "sounding accuracy", "CIoU@0.3", "IoU@0.5"]
    assert max(map(len, lines[at : at + 5])) <= 100
    metrics = ("sounding_accuracy", "sounding_accuracy", "ciou@0.3", "iou@0.5")
    for line, layout, metric in zip(quoted, ("grid2x2", "solo2x2", "hconcat", "single"), metrics, strict=True):
        of = metrics_of(tested[0].scores, layout)
        value = {name: metrics[metric] for name, metrics in of.items() if metric in metrics}
        names = {each["name"] for each in tested[0].scores["checkpoints"]}
        baselines = value.keys() - names - {f"{name}, shuffled audio" for name in names}
        best = max(baselines, key=lambda name: (value[name]["value"], name))
        assert line.endswith(
            f"{value['trial 3, shuffled audio']['value']:.3f}           {value[best]['value']:.3f} ({best})"
        )
        reached = max(each["value"] for name, each in value.items() if name not in names)
        own = value["trial 3"]
        sign = "‡" if reached > own["high"] else "†" if reached >= own["low"] else ""
        assert f"{own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}] {sign}".rstrip() in line
        assert (sign in line) == bool(sign) and (not sign or any(each.startswith(f"{sign} the best") for each in lines))


def test_test_scores_go_into_the_ledger_and_a_second_look_is_named(
    tested: tuple[evaluate.Report, list[str]], home: Path
) -> None:
    def records() -> list[dict[str, Any]]:
        return EventLog(f"{home}/studies/small").read().evaluations

    before = records()
    assert before[0]["split"] == "test" and before[0]["checkpoints"][0]["checkpoint"] == checkpoint.checkpoint_path(
        BEST, 2
    )
    assert before[0]["checkpoints"][0]["scores"] == tested[0].scores["checkpoints"][0]["scores"]
    lines: list[str] = []
    again = run_evaluation(
        EvaluateConfig(home=str(home), study="small", pictures=0, output=str(home / "again")), lines.append
    )
    assert any("opened for these checkpoints before (1 time" in line for line in lines)
    assert again.scores["checkpoints"][0]["scores"] == before[0]["checkpoints"][0]["scores"]
    assert not [file for file in again.files if "grid2x2-random" in file]
    assert len(records()) == len(before) + 1


def test_validation_scores_come_out_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"file://{home}/studies/small"
    before = len(EventLog(uri).read().evaluations)
    report = run_evaluation(EvaluateConfig(home="/nowhere", study=uri, top=3, split="val", pictures=1))
    first, *others = report.scores["checkpoints"]
    assert len(others) == 2
    for each in others:
        assert each["reproduced"] is True
        assert each["recomputed"] == pytest.approx(each["recorded"], abs=1e-6)
    assert first["reproduced"] is False  # its record was made better than it is
    told = capsys.readouterr().out
    assert told.count("the same to 1e-06") == 3 and told.count("NOT the same") == 1
    assert (home / "studies/small/evaluation/val/grid2x2-random-1.png").exists()
    assert len(EventLog(uri).read().evaluations) == before  # only test scores are told


def test_stored_maps_give_the_scores_again_without_the_model(
    tested: tuple[evaluate.Report, list[str]], home: Path
) -> None:
    report, _ = tested
    file = f"{report.folder}/predictions-hconcat.parquet"
    systems = metrics_of(report.scores, "hconcat")
    words = {"home": str(home), "study": "small", "layout": "hconcat"}
    again = run_evaluation(EvaluateConfig(**words, predictions=file), lambda line: None)
    found = metrics_of(again.scores, "hconcat")
    assert set(found) < set(systems) and "trial 3" in found and "full frame" in found
    for name, metrics in found.items():
        for metric, each in metrics.items():
            assert each["value"] == pytest.approx(systems[name][metric]["value"], abs=0.02), (name, metric)
    both = [f"{file}#trial 3", f"{report.folder}#trial 3"]  # the file, and what was written of each scene
    compared = run_evaluation(EvaluateConfig(**words, compare=both), lambda line: None).scores
    gap = metrics_of(compared, "hconcat")["trial 3 - trial 3"]
    assert gap["cap"]["value"] == pytest.approx(0, abs=2e-3)
    other = EvaluateConfig(home=str(home), study="small", layout="hconcat", seed=5, predictions=file)
    with pytest.raises(ConfigError, match=r"predictions of the scenes .* seed, seconds and pair_list must be"):
        run_evaluation(other, lambda line: None)


def test_checkpoints_on_scenes_that_are_named(home: Path, tmp_path: Path) -> None:
    words = {"home": str(home), "study": "small", "split": "val", "layout": "vconcat", "sources": 3, "scenes": 24}
    report = run_evaluation(EvaluateConfig(**words, store=True), (lines := []).append)
    assert report.folder.startswith(f"{home}/studies/small/evaluation/val-vconcat-")
    names = ["scores.json", "table.md", "per_scene.parquet", "predictions-vconcat.parquet"]
    assert [Path(file).name for file in report.files] == names
    assert report.scores["scene_sets"][0]["canvas"] == [192, 64] and report.scores["scene_sets"][0]["sounding"] == 3
    systems = {each["system"]: each for each in report.scores["systems"]}
    deaf = {"trial 3, shuffled audio", "trial 3, silent audio", "untrained network", "mean training map", "full frame"}
    assert systems["trial 3"]["role"] == "system" and all(systems[name]["role"] != "system" for name in deaf)
    found = by_layout(systems["trial 3"])["vconcat"]["metrics"]
    assert {"ciou", "cap", "piap"} <= set(found) and found["cap"]["value"] > 0  # two maps for three sources
    assert any("| null: trial 3, shuffled audio " in line for line in lines)
    again = run_evaluation(EvaluateConfig(**words, predictions=report.files[-1]), lambda line: None)
    metrics = by_layout(again.scores["systems"][0])["vconcat"]["metrics"]
    assert metrics["cap"]["value"] == pytest.approx(found["cap"]["value"], abs=2e-3)
    run_evaluation(EvaluateConfig(**words, export=str(tmp_path / "out")), lambda line: None)
    listed = {"home": str(home), "study": "small", "split": "val", "pair_list": f"{tmp_path}/out/pair_list.csv"}
    same = run_evaluation(EvaluateConfig(**listed, output=str(tmp_path / "listed")), lambda line: None).scores
    before = len(EventLog(f"{home}/studies/small").read().evaluations)
    opened = run_evaluation(
        EvaluateConfig(home=str(home), study="small", layout="natural", sources=1, scenes=8), lambda line: None
    )
    told = EventLog(f"{home}/studies/small").read().evaluations
    assert len(told) == before + 1 and told[-1]["scenes"] == [
        {"natural": opened.scores["scene_sets"][0]["scenes_hash"]}
    ]
    assert told[-1]["checkpoints"][0]["scores"] == opened.scores["checkpoints"][0]["scores"] != {}
    values = {name: each["cap"]["value"] for name, each in metrics_of(same, "vconcat").items()}
    for name in ("trial 3", "untrained network", "mean training map"):  # the same scenes, by their list
        assert values[name] == pytest.approx(by_layout(systems[name])["vconcat"]["metrics"]["cap"]["value"], abs=1e-6)
    assert same["scene_sets"][0]["settings"]["pair_list"]["id"] == "pair_list"
    assert same["scene_sets"][0]["scenes_hash"] != report.scores["scene_sets"][0]["scenes_hash"]


def test_a_lone_checkpoint(home: Path) -> None:
    uri = f"{home}/studies/small/{checkpoint.checkpoint_path(0, 2)}"
    report = run_evaluation(EvaluateConfig(home=str(home), checkpoint=uri, split="val", pictures=0), lambda line: None)
    assert report.folder.startswith(f"{home}/evaluations/trial-0-epoch-2-") and report.folder.endswith("/val")
    assert report.scores["checkpoints"][0]["reproduced"] is True
    torn = EvaluateConfig(home=str(home), checkpoint=str(home))
    with pytest.raises(ConfigError, match="no checkpoint here"):
        run_evaluation(torn)


def test_torn_checkpoints_give_way(clips: DatasetConfig, tmp_path: Path) -> None:
    uri = a_study(tmp_path, a_run(clips), (BEST, 0))
    settings = EvaluateConfig(home=str(tmp_path), study="small", pictures=0, top=2)
    model = Path(uri, checkpoint.checkpoint_path(BEST, 2), "model.safetensors")
    model.write_bytes(model.read_bytes()[:-1])
    lines: list[str] = []
    report = run_evaluation(settings, lines.append)
    assert [each["trial"] for each in report.scores["checkpoints"]] == [0]
    assert report.scores["checkpoints"][0]["rank"] == 2
    assert lines[0].startswith("trial 3 (rank 1) is passed over") and "model.safetensors has" in lines[0]
    assert lines[1] == "top=2: the study has 1 usable checkpoint"
    checkpoint.delete_checkpoint(f"{uri}/{checkpoint.checkpoint_path(0, 2)}")
    with pytest.raises(ConfigError, match=r"study small: no whole checkpoint: .*trial-0003.* \(and 1 more\)"):
        run_evaluation(settings)
    assert Path(report.files[0]).exists()  # of what was refused nothing is written, and nothing lost


def test_without_regions_box_metrics_are_left_out(clips: DatasetConfig, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in Path(clips.prepared).iterdir():
        if file.suffix == ".parquet" and "manifest" not in file.name:
            table = pq.read_table(file)
            place = table.schema.get_field_index("regions")
            empty = [[] for _ in range(table.num_rows)]
            field = table.schema.field("regions")
            pq.write_table(table.set_column(place, field, [pa.array(empty, field.type)]), bare / file.name)
        else:
            (bare / file.name).write_bytes(file.read_bytes())
    a_study(tmp_path, a_run(replace(clips, prepared=str(bare))), (0,))
    report = run_evaluation(EvaluateConfig(home=str(tmp_path), study="small", pictures=2), (lines := []).append)
    assert sum("has no regions" in line for line in lines) == 2
    scores = report.scores["checkpoints"][0]["scores"]
    heard = {"test/sounding_accuracy", "test/sounding_accuracy_shuffled"}
    assert set(scores) == heard | {"test/solo2x2/sounding_accuracy"}
    assert [Path(f).name for f in report.files[3:]] == [*CHARTS[:2], "grid2x2-random-1.png", "hconcat-random-1.png"]


def test_a_system_of_one_map_is_told_by_solo_scenes(clips: DatasetConfig, tmp_path: Path) -> None:
    run = a_run(clips)
    run.method, run.study.metric = {"name": "ots", "embedding_size": 16}, "val/solo2x2/sounding_accuracy"
    a_study(tmp_path, run, (0,))
    report = run_evaluation(EvaluateConfig(home=str(tmp_path), study="small", pictures=0), lambda line: None)
    assert [name for name in map(os.path.basename, report.files) if name.endswith(".png")] == CHARTS
    assert report.scores["details"]["above_chance"]["metric"] == "test/solo2x2/sounding_accuracy"
    assert report.scores["details"]["above_chance"]["chance"] == 0.25


def test_refusals(home: Path, clips: DatasetConfig, tmp_path: Path) -> None:
    def refused(kind: type[Exception], match: str, **settings: Any) -> None:
        with pytest.raises(kind, match=match) as caught:
            run_evaluation(EvaluateConfig(**{"home": str(home), **settings}), lambda line: None)
        assert "\n" not in str(caught.value)

    refused(ConfigError, r"study=smal: no such study at .*did you mean small\?", study="smal")
    refused(ConfigError, "none yet under /nowhere/studies", study="small", home="/nowhere")
    refused(ConfigError, "/proc/x: cannot be written", study="small", output="/proc/x")
    refused(ConfigError, "nothing to score: give study=NAME")
    refused(ConfigError, "top=0: must be at least 1", study="small", top=0)
    refused(ConfigError, "scenes=2: must be at least 8", study="small", scenes=2)
    refused(ConfigError, "pictures=-1: must be 0 to 64", study="small", pictures=-1)
    refused(ConfigError, "split=tset: must be one of test, val", study="small", split="tset")
    a_study(tmp_path, a_run(clips), ())
    refused(NoUsableResult, "no trial has a scored checkpoint", study="small", home=str(tmp_path))


def test_too_few_videos_for_scenes(clips: DatasetConfig, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in Path(clips.prepared).iterdir():
        (few / file.name).write_bytes(file.read_bytes())
    for file in few.glob("test-*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 2), file)
    a_study(tmp_path, a_run(replace(clips, prepared=str(few))), (0,))
    with pytest.raises(ConfigError, match=r"few, split test: no evaluation scenes: a scene needs [24] clips"):
        run_evaluation(EvaluateConfig(home=str(tmp_path), study="small"), lambda line: None)
    assert not [path for path in (tmp_path / "studies/small/evaluation").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_the_door_ends_with_one_line(home: Path) -> None:
    house = Path(evaluate.__file__).resolve().parents[1]
    command = [sys.executable, "-m", "raymix.evaluate", "study=smal", f"home={home}"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=house)
    assert ended.returncode == 2 and ended.stdout == "raymix evaluate: study=smal; loading PyTorch ...\n"
    assert ended.stderr.startswith("raymix: study=smal: no such study") and ended.stderr.count("\n") == 1
