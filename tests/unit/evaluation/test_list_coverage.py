"""Lists of which some scenes cannot be made: every number says so, and has a twin over all that were listed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymix.data import pair_lists
from raymix.data.pair_lists import PairListOrigin
from raymix.data.preparation import dataset_card, scene_lists
from raymix.data.preparation.scene_lists import SceneListRequest
from raymix.evaluation import list_coverage
from raymix.evaluation.dispatch import run_evaluation
from raymix.evaluation.scene_spec import scene_spec_from_settings
from raymix.evaluation.score_reports import scene_set, system_reports
from raymix.metrics.protocols import get_protocol
from raymix.metrics.scoring import SystemScores, score_maps, summarize_scores
from raymix.reporting.rendering import over_listed_lines
from tests.support.reports import by_layout, metrics_of
from tests.unit.evaluation.test_predictions_benchmark import asked, home, truth_of

__all__ = ["home"]

SAID = "6 of 10 listed scenes, 4 without their clips"


@pytest.fixture(scope="module")
def dead(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset with a published list of ten pairs, four of them with a clip that is gone."""
    there = tmp_path_factory.mktemp("dead")
    shutil.copytree(home / "clips/toy", there / "toy")
    for name, gone in (("pub", 4), ("whole", 0)):
        rows = ["scene_id,layout,place,video"]
        for scene in range(10):
            rows += [
                f"s{scene},hconcat,0,video{scene:02d}",
                f"s{scene},hconcat,1,video{scene + 1:02d}{'x' * (scene < gone)}",
            ]
        (there / f"{name}.csv").write_text("\n".join(rows) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_card, "write_dataset_card", lambda directory: None)  # these clips have none
        lists = SceneListRequest(pair_lists=[f"{there}/pub.csv", f"{there}/whole.csv"])
        scene_lists.write_scene_lists(str(there / "toy"), lists, lambda line: None)
    return there


def on_list(dead: Path, name: str = "pub", **words: Any) -> Any:
    """Settings for predictions that are right in half of the scenes of the list."""
    about = {"prepared": f"{dead}/toy", "pair_list": f"{dead}/toy/scenes/test-{name}.parquet", "scenes": None}
    settings = asked(dead, **(about | {"predictions": f"{dead}/mine-{name}.npz", "output": f"{dead}/out"} | words))
    truth = truth_of(settings)
    maps = truth.masks_NSYX.astype(np.float16)
    maps[: len(truth) // 2] = 0
    np.savez(f"{dead}/mine-{name}.npz", scene_id=np.array(truth.ids), maps=maps)
    return settings


def test_every_form_of_the_scores_says_what_is_missing(dead: Path) -> None:
    report = run_evaluation(on_list(dead), lambda line: None)
    (scenes,) = report.scores["scene_sets"]
    of = scenes["settings"]["pair_list"]
    origin = pair_lists.read_pair_list(f"{dead}/pub.csv")
    assert of["scenes"] == 6 and of["of"] == {"id": "pub", "hash": origin.hash, "scenes": 10, "missing": 4}
    assert (scenes["listed"], scenes["without_clips"], scenes["coverage"]) == (10, 4, SAID)
    found = by_layout(report.scores["systems"][0])["hconcat"]["metrics"]
    assert found["ciou"]["value"] == 0.5 and found["ciou"]["over_listed"] == pytest.approx(0.3)
    for row in report.scores["systems"]:
        for name, each in by_layout(row)["hconcat"]["metrics"].items():
            assert each["over_listed"] == pytest.approx(each["value"] * 6 / 10), (row["system"], name)
    table = (dead / "out/table.md").read_text()
    assert f": 6 scenes of 7 videos ({SAID}), 95 %" in table
    assert "- ciou over all 10 listed scenes, a missing one as zero: mine-pub 0.300" in table
    for side in (f"{dead}/out", f"{dead}/mine-pub.npz"):  # scores that were written, and predictions
        asks = on_list(dead, predictions="", compare=[side, side], output=f"{dead}/compared")
        (compared,) = run_evaluation(asks, lambda line: None).scores["scene_sets"]
        assert compared["list"] == of["of"] and f"({SAID})" in (dead / "compared/table.md").read_text()


def test_under_all_protocols(dead: Path) -> None:
    report = run_evaluation(on_list(dead, protocols=["wsol-pxap", "avgn-code", "raymix-1"]), lambda line: None)
    (found,) = report.scores["scene_sets"]
    assert found["listed"] == 10 and found["settings"]["pair_list"]["of"]["missing"] == 4
    name = report.scores["systems"][0]["system"]
    ours = {protocol: metrics_of(report.scores, "hconcat", protocol)[name] for protocol in ("raymix-1", "wsol-pxap")}
    assert ours["raymix-1"]["ciou"]["over_listed"] == pytest.approx(0.3)
    assert "over_listed" not in ours["wsol-pxap"]["pxap"]  # no mean over scenes
    rows = [row for row in csv.DictReader((dead / "out/protocols.csv").open()) if row["system"] == "mine-pub"]
    told = {(row["protocol"], row["metric"]): row["over_listed"] for row in rows}
    assert float(told["raymix-1", "ciou"]) == pytest.approx(0.3) and told["wsol-pxap", "pxap"] == ""
    assert {row["listed"] for row in rows} == {"10"}
    lines = (dead / "out/table.md").read_text().splitlines()
    assert any(line.startswith("## hconcat: 6 scenes") and SAID in line for line in lines)
    (note,) = (line for line in lines if "over all 10 listed" in line)
    value = float(told["avgn-code", "ciou@0.3*"])  # the first protocol that is quoted by a mean
    assert note == f"- avgn-code, CIoU@0.3 over all 10 listed scenes, a missing one as zero: mine-pub {value:.3f}"


def test_a_list_that_is_whole_is_told_as_before(dead: Path) -> None:
    for words in ({}, {"protocols": ["raymix-1"]}):
        report = run_evaluation(on_list(dead, "whole", **words), lambda line: None)
        text = json.dumps(report.scores)
        assert "over_listed" not in text and "without_clips" not in text
        assert "listed" not in (dead / "out/table.md").read_text()


def test_of_a_part_no_number_is_over_the_whole(dead: Path) -> None:
    settings = on_list(dead, scenes=4)
    report = run_evaluation(settings, lambda line: None)
    assert "over_listed" not in json.dumps(report.scores)
    table = (dead / "out/table.md").read_text()
    assert "(4 of 10 listed scenes, 4 without their clips, 2 left out)" in table and "over all" not in table


def test_scenes_written_out_take_the_origin_with_them(dead: Path) -> None:
    settings = on_list(dead)
    run_evaluation(replace(settings, predictions="", output=None, export=f"{dead}/exported"), lambda line: None)
    assert (
        scene_spec_from_settings(replace(settings, pair_list=f"{dead}/exported/pair_list.csv")).pairs.origin.scenes
        == 10
    )


def test_rows_that_weigh_and_scenes_without_truth(dead: Path) -> None:
    settings = on_list(dead)
    truth, pairs = truth_of(settings), scene_spec_from_settings(settings).pairs
    maps = truth.masks_NSYX.astype(float)
    table = score_maps(maps, truth, get_protocol("avgn-code"), [list(names) for names in truth.labels])
    weight_N = np.array([1.0, 2, 2, 1, 2, 1])
    table.values["ciou@0.3"][:] = [1, 0, 1, 0, 1, np.nan]
    table.weights["ciou@0.3"][:] = weight_N
    found = list_coverage.means_over_listed(
        SystemScores("mine", summarize_scores(table, resamples=10), False, table), pairs
    )
    assert found["ciou@0.3"] == pytest.approx((1 + 2 + 2) / (8 + 4 * 2))  # a missing scene is a row for each source
    blind = replace(truth, has_truth_N=np.arange(6) > 0)
    table = score_maps(maps, blind, get_protocol("raymix-1"))
    row = SystemScores("mine", summarize_scores(table, resamples=10), False, table)
    assert list_coverage.means_over_listed(row, pairs)["ciou"] == pytest.approx(5 / 9)
    (own,) = system_reports([row], pairs=pairs)
    assert over_listed_lines([(own, own.scores[0])], scene_set(blind, {}, pairs)) == [
        "ciou over all 10 listed scenes less 1 that do not count, a missing one as zero: mine 0.556"
    ]
    assert not list_coverage.means_over_listed(row, replace(pairs, origin=PairListOrigin("pub", "cafe", 6, 0)))


def test_the_list_itself_is_refused_with_the_command_that_helps(dead: Path) -> None:
    settings = on_list(dead)
    with pytest.raises(
        ValueError, match=r"pair list pub, row 2, .*python -m raymix.prepare dataset=NAME pair_lists=\[FILE\]"
    ):
        run_evaluation(replace(settings, pair_list=f"{dead}/pub.csv"), lambda line: None)
