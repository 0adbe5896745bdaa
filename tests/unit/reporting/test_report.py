"""The one document of an evaluation: JSON and back, and every file that is rendered from it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from raymix.config import ConfigError, DatasetConfig, EvaluateConfig
from raymix.evaluation.dispatch import run_evaluation
from raymix.reporting.rendering import NUMBER_FIELDS, render_csv, render_markdown, render_terminal
from raymix.reporting.report import KINDS, SCHEMA_VERSION, EvaluationReport, SystemReport, find_scores
from raymix.reporting.report_tables import ReportTable, number_text
from raymix.reporting.results_folder import ResultsFolder
from tests.support.reports import metrics_of
from tests.unit.evaluation.test_evaluate import a_run, a_study, clips
from tests.unit.evaluation.test_paper import a_comparison

pytestmark = pytest.mark.slow  # fixtures of the module take more than 5 s

__all__ = ["clips"]


@pytest.fixture(scope="module")
def written(clips: DatasetConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ResultsFolder]:
    """An evaluation of each kind, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    a_study(home, a_run(clips), (0, 1))
    a_comparison(home, "mine", clips, ("cycle", "ots"))
    of = {"home": str(home), "study": "small", "scenes": 8}
    words: dict[str, dict[str, Any]] = {
        "study": {**of, "pictures": 0, "top": 2},
        "scenes": {**of, "layout": "vconcat"},
        "protocols": {**of, "protocols": ["raymix-1", "lvs"]},
        "paper": {"home": str(home), "comparison": "mine", "tables": [3]},
    }
    found = {}
    for kind, each in words.items():
        found[kind] = run_evaluation(EvaluateConfig(**each, output=f"{home}/{kind}"), lambda line: None)
    both = [f"{home}/scenes#trial 0", f"{home}/scenes#full frame"]
    found["paired"] = run_evaluation(
        EvaluateConfig(home=str(home), compare=both, output=f"{home}/paired"), lambda line: None
    )
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "comparison"])  # which test_compare makes
def test_every_file_is_rendered_from_the_document_alone(written: dict[str, ResultsFolder], kind: str) -> None:
    folder = Path(written[kind].folder)
    document = json.loads((folder / "scores.json").read_text())
    report = EvaluationReport.from_json(document)
    assert document == written[kind].scores == report.to_json() and report.kind == kind
    assert document["schema_version"] == SCHEMA_VERSION
    page = render_markdown(report)
    if kind == "paper":
        assert (folder / "table-3.md").read_text().strip() in page
    else:
        assert page == (folder / "table.md").read_text()
    if kind == "protocols":
        assert render_csv(report) == (folder / "protocols.csv").read_text()
    assert sorted(report.files) == sorted(path.name for path in folder.iterdir() if path.name != "scores.json")


def test_each_record_says_what_it_is_of(written: dict[str, ResultsFolder]) -> None:
    for kind in ("study", "scenes", "protocols", "paired"):
        document = written[kind].scores
        for system in document["systems"]:
            assert system["role"] in ("system", "control", "baseline", "difference")
            for record in system["scores"]:
                scenes = document["scene_sets"][record["scene_set"]]
                assert (scenes["layout"], scenes["scenes_hash"]) == (record["layout"], record["scenes_hash"])
                assert record["protocol"] in document["protocols"]
                for each in record["metrics"].values():
                    assert each["low"] is None or each["low"] <= each["value"] <= each["high"]
                    assert ("mark" in each) == (system["role"] == "system" and kind != "paired")


def test_marks_are_those_of_the_best_control_or_baseline(written: dict[str, ResultsFolder]) -> None:
    document, signs = written["study"].scores, set()
    roles = {each["system"]: each["role"] for each in document["systems"]}
    for layout in ("grid2x2", "solo2x2", "hconcat", "single"):
        metrics = metrics_of(document, layout)
        for system in (name for name in metrics if roles[name] == "system"):
            for name, each in metrics[system].items():
                others = [
                    metrics[other][name]["value"]
                    for other in metrics
                    if roles[other] != "system" and name in metrics[other]
                ]
                best = max(others)
                one_video = each["low"] is None
                expected = (
                    "†" if one_video or each["low"] <= best <= each["high"] else "‡" if best > each["high"] else ""
                )
                assert each["mark"] == expected
                signs.add(expected)
    assert "‡" in signs and document["legend"].keys() == {"†", "‡"}


def test_every_number_stands_in_a_line_of_csv(written: dict[str, ResultsFolder]) -> None:
    report = EvaluationReport.from_json(written["study"].scores)
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    assert list(rows[0]) == list(NUMBER_FIELDS)
    assert len(rows) == sum(len(record["metrics"]) for each in report.systems for record in each.scores)
    found = find_scores(written["study"].scores, "full frame", "single")
    mine = {row["metric"]: row for row in rows if (row["system"], row["layout"]) == ("full frame", "single")}
    assert {name: float(row["value"]) for name, row in mine.items()} == {
        name: each["value"] for name, each in found["metrics"].items()
    }
    assert {row["null"] for row in mine.values()} == {"True"} and mine["ap"]["scenes_hash"] == found["scenes_hash"]
    with pytest.raises(KeyError, match="nobody"):
        find_scores(written["study"].scores, "nobody")


def test_a_study_fits_a_terminal_and_others_print_their_markdown(written: dict[str, ResultsFolder]) -> None:
    study = render_terminal(EvaluationReport.from_json(written["study"].scores))
    tables = [line for line in study if line.startswith(("system", "trial", "null", "  "))]
    assert tables and max(map(len, tables)) <= 100
    scenes = EvaluationReport.from_json(written["scenes"].scores)
    assert render_terminal(scenes) == [render_markdown(scenes)]


def test_documents_of_other_versions_are_refused() -> None:
    document = EvaluationReport("scenes", "t", systems=[SystemReport("a", "system", [])]).to_json()
    assert EvaluationReport.from_json(document).systems == [SystemReport("a", "system", [])]
    with pytest.raises(
        ConfigError, match=r"^x.json: schema_version 3; this version reads reports of schema_version 2$"
    ):
        EvaluationReport.from_json({**document, "schema_version": 3}, "x.json")


def test_numbers_and_tables_by_hand() -> None:
    number = {"value": 0.5, "low": 0.25, "high": 0.75, "mark": "†"}
    assert (
        number_text(number) == "0.500 [0.250, 0.750] †" and number_text(number, star="*") == "0.500* [0.250, 0.750] †"
    )
    assert (
        number_text({"value": 0.5, "low": None, "high": None, "mark": ""}) == "0.500" and number_text(None, "-") == "-"
    )
    table = ReportTable(["system", "ap"], [["mine", "0.5"]], ["above"], ["below"])
    assert table.markdown() == ["above", "", "| system | ap  |", "|--------|-----|", "| mine   | 0.5 |", "below"]
