"""The same predictions under many protocols: each as it would be alone, side by side in one table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymix.config import ConfigError, DatasetConfig, EvaluateConfig
from raymix.evaluation.dispatch import run_evaluation
from raymix.evaluation.protocol_reports import PROTOCOLS_CSV
from raymix.metrics.protocols import PROTOCOLS, describe_protocol, headline_metric
from tests.support.reports import metrics_of
from tests.unit.evaluation.test_evaluate import a_run, a_study, clips
from tests.unit.evaluation.test_predictions_benchmark import asked, by_class, call, everything, home, truth_of

__all__ = ["clips", "home"]


def test_every_protocol_reads_a_file_as_it_would_alone(home: Path, tmp_path: Path) -> None:
    settings = asked(home, protocols=["all"], predictions=f"{tmp_path}/mine.npz", output=f"{tmp_path}/out")
    truth = truth_of(settings)
    by_class(truth, tmp_path / "mine.npz", {"class0": "class1", "class1": "class0"})
    report = run_evaluation(settings, (lines := []).append)
    (found,) = report.scores["scene_sets"]
    assert set(report.scores["protocols"]) | set(found["left_out"]) == set(PROTOCOLS)
    assert found["left_out"] == ["mixloc-single", "dsol-solo", "lvs", "ezvsl", "slavc"]
    heard = len({name for names in truth.sounding_videos() for name in names})
    records = [record for each in report.scores["systems"] for record in each["scores"]]
    assert {record["videos"] for record in records} == {heard} == {found["videos"]}
    assert f"{len(truth)} scenes of {heard} videos" in "".join(lines)
    assert found["scenes_hash"] == truth.scenes_hash and report.scores["preprocessing"] == "cafe"
    for name in ("dsol-syn", "noprior-code", "wsol-pxap"):
        alone = asked(home, protocol=name, predictions=settings.predictions, output=f"{tmp_path}/{name}")
        assert metrics_of(run_evaluation(alone, print).scores, "hconcat") == metrics_of(
            report.scores, "hconcat", name
        ), name
    rows = list(csv.DictReader((tmp_path / "out" / PROTOCOLS_CSV).open()))
    mine = {(row["protocol"], row["metric"]): float(row["value"]) for row in rows if row["system"] == "mine"}
    assert {(row["scenes_hash"], row["preprocessing"]) for row in rows} == {(truth.scenes_hash, "cafe")}
    assert mine["raymix-1", "ciou@0.5"] == 1 > mine["sslalign", "ciou@0.5"]  # two of its names are exchanged
    table = (tmp_path / "out/table.md").read_text()
    assert (
        table in lines
        and f"scenes {truth.scenes_hash} of clips cafe" in table
        and table.count("\n| ") == 15
        and "| null: centre box 0.7 " in table
    )
    assert "not for such scenes: mixloc-single, dsol-solo" in table


def test_some_protocols_of_anonymous_maps_and_what_their_table_says(home: Path, tmp_path: Path) -> None:
    settings = asked(home, protocols=["tvsl-code", "gar-union"], predictions=f"{tmp_path}/mine.npz")
    truth = truth_of(settings)
    left, right = np.zeros((2, *truth.canvas), np.float16)
    left[:, :32], right[:, 32:] = 1, 1
    np.savez(settings.predictions, scene_id=np.array(truth.ids), maps=np.tile([left, right], (9, 1, 1, 1)))
    report = run_evaluation(settings, lambda line: None)
    assert Path(report.folder).parent.name.startswith("mine-")
    lines = (Path(report.folder) / "table.md").read_text().splitlines()
    first = next(line for line in lines if line.startswith("| tvsl-code "))
    value = metrics_of(report.scores, "hconcat", "tvsl-code")["mine"]["ciou@0.3*"]["value"]
    assert f" {value:.3f}* [" in first and "by class, each source a row, a mean IoU, no rate" in first
    assert "best null" in lines[4] and "(mine)" not in "".join(lines)  # a system is no null


def test_every_protocol_has_a_number_that_it_is_quoted_by_and_words(home: Path) -> None:
    quoted = {name: headline_metric(each, 2) for name, each in PROTOCOLS.items()}
    assert quoted["mixloc-multi"] == "ciou@0.3" and quoted["sslalign"] == "ciou@0.5" and quoted["wsol-pxap"] == "pxap"
    assert headline_metric(PROTOCOLS["raymix-1"], 1) == headline_metric(PROTOCOLS["slavc"], 1) == "iou@0.5"
    assert describe_protocol(PROTOCOLS["avgn-code"], 2).startswith(
        "the highest half of the pixels, its own panel alone, by class"
    )
    assert "panel" not in describe_protocol(PROTOCOLS["avgn-code"], 1)
    assert all(describe_protocol(each, 2) for each in PROTOCOLS.values())


def test_a_studys_checkpoint_under_all_of_them(clips: DatasetConfig, tmp_path: Path) -> None:
    run = a_run(clips)
    uri = a_study(tmp_path, run, (0, 1))
    two = {"home": str(tmp_path), "study": "small", "scenes": 8, "top": 2}
    report = run_evaluation(EvaluateConfig(**two, protocols=["all"]), lambda line: None)
    assert [each["layout"] for each in report.scores["scene_sets"]] == ["hconcat", "single"]
    alone = run_evaluation(EvaluateConfig(**two, layout="single", output=f"{tmp_path}/alone"), print).scores
    found = metrics_of(report.scores, "single", "raymix-1")
    rows = {each["system"]: each["role"] != "system" for each in report.scores["systems"]}
    assert found == metrics_of(alone, "single")  # so the marks are the same
    assert {each["system"]: each["role"] for each in report.scores["systems"] if each["system"] in found} == {
        each["system"]: each["role"] for each in alone["systems"]
    }
    assert {"trial 0", "trial 1", "full frame"} <= set(rows) and [name for name in rows if not rows[name]] == [
        "trial 0",
        "trial 1",
    ]
    made = ["trial 0, shuffled audio", "trial 1, shuffled audio", "trial 0, silent audio", "mean training map"]
    assert all(rows[name] for name in (*made, "untrained network"))
    assert metrics_of(report.scores, "single", "slavc") and not metrics_of(report.scores, "hconcat", "slavc")
    assert report.folder.startswith(f"{uri}/evaluation/test-protocols-")
    checkpoint = report.scores["checkpoints"][0]
    assert checkpoint["scores"]["test/single/raymix-1/iou@0.5"] >= 0
    ledger = "".join(path.read_text() for path in sorted(Path(uri, "ledger").rglob("*")) if path.is_file())
    assert json.dumps("evaluated") in ledger  # the test split was opened, and that is remembered


def test_layouts_that_no_protocol_is_for_are_left_out_and_said(clips: DatasetConfig, tmp_path: Path) -> None:
    a_study(tmp_path, a_run(clips), (0,))
    asked_for = {"home": str(tmp_path), "study": "small", "scenes": 8}
    report = run_evaluation(EvaluateConfig(**asked_for, protocols=["mixloc-single"]), (lines := []).append)
    assert [each["layout"] for each in report.scores["scene_sets"]] == ["single"] and "8 hconcat scenes" not in "".join(
        lines
    )
    told = Path(report.folder, "table.md").read_text()
    assert "- no hconcat scenes: protocol mixloc-single is for scenes of one source, these have 2" in told
    with pytest.raises(
        ConfigError, match=r"^protocols=mixloc-single: protocol mixloc-single is for scenes of one source"
    ):
        run_evaluation(EvaluateConfig(**asked_for, protocols=["mixloc-single"], layout="vconcat"), print)
    for words in ({"protocols": ["raymix-1"]}, {"layout": "single"}):  # either way the same words
        with pytest.raises(ConfigError, match=r"^image_size=100: must be a multiple of 16, the encoder's stride$"):
            run_evaluation(EvaluateConfig(**asked_for, **words, image_size=100), print)


def test_a_list_says_by_its_clips_how_many_sources_there_are(home: Path, tmp_path: Path) -> None:
    names = [number for number in range(12) if number % 3]  # one thing sounds in each, though a natural scene has two
    rows = "".join(f"s{number},natural,0,toy:video{number:02d}:0\n" for number in names)
    (tmp_path / "list.csv").write_text("scene_id,layout,place,clip_id\n" + rows)
    maps = np.zeros((len(names), 1, 4, 4), np.float16)
    np.savez(tmp_path / "mine.npz", scene_id=np.array([f"s{number}" for number in names]), maps=maps)
    asked_for = {"pair_list": f"{tmp_path}/list.csv", "predictions": f"{tmp_path}/mine.npz", "scenes": None}
    found = run_evaluation(asked(home, **asked_for, protocols=["all"]), lambda line: None).scores
    assert "slavc" in found["protocols"] and "mixloc-multi" in found["scene_sets"][0]["left_out"]
    with pytest.raises(ConfigError, match=r"protocols=mixloc-multi: .* several sources, these have 1"):
        run_evaluation(asked(home, **asked_for, protocols=["mixloc-multi"]), print)


WORDS = {
    "protocols=all: cannot be combined with others, it means every protocol": ["protocols=all,lvs"],
    "protocol='slvac' is unknown, did you mean 'slavc'?": ["protocols=[slvac]"],
    "protocols=lvs: protocol lvs is for scenes of one source, these have 2": ["protocols=lvs"],
    "protocol=lvs: does not go with protocols=": ["protocols=all", "protocol=lvs"],
    "protocols=all: goes with predictions=FILE, or with study= or checkpoint=, not with export=": [
        "protocols=all",
        "export=DIR",
        "predictions=",
    ],
    "store=True: does not go with protocols=": ["protocols=all", "store=true", "predictions=", "study=x"],
    "nothing to score: give study=NAME": ["protocols=all", "predictions="],
    "mine.npz, row 1, scene 'nowhere': none of the 9 hconcat scenes": ["protocols=all"],
}


@pytest.mark.parametrize("words", WORDS)
def test_wrong_words(home: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", scene_id=np.array(["nowhere"]), maps=np.zeros((1, 2, 4, 4), np.float16))
    before = everything(home) | everything(tmp_path)
    assert call(home, "predictions=mine.npz", *WORDS[words]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and everything(home) | everything(tmp_path) == before
