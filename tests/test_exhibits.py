"""The paper's tables and figures of one's own systems: from checkpoints to files, with what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import a_run, a_study, clips

from raymix import results
from raymix.config import BadInput, Dataset, Evaluate, Evaluation
from raymix.evaluate import evaluate
from raymix.exhibits import mean_iou

__all__ = ["clips"]


@pytest.fixture(scope="module")
def home(clips: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of three systems, whose studies hold untrained networks."""
    place, studies = tmp_path_factory.mktemp("home"), []
    for name in ("cycle", "ots", "dsol"):
        knobs = {"temperature": 0.07} if name == "cycle" else {"clusters": 4} if name == "dsol" else {}
        method = {"name": name, "embedding_size": 16, **knobs}
        run = replace(a_run(clips), method=method, evaluation=Evaluation(scenes=12, final_scenes=10))
        uri = a_study(place / name, run, (0,))
        studies.append(
            {"system": name, "study": f"mine-{name}-0", "checkpoint": f"{uri}/checkpoints/trial-0000/epoch-0002"}
        )
    studies.append({"system": "dmc", "study": "mine-dmc-0", "checkpoint": None})  # gave nothing
    (place / "comparisons/mine").mkdir(parents=True)
    (place / "comparisons/mine/comparison.json").write_text(json.dumps({"studies": studies}))
    return place


def test_tables_and_figures_of_a_comparison(home: Path) -> None:
    settings = Evaluate(home=str(home), comparison="mine", tables=[1, 3], figures=[4, 6, 8])
    report = evaluate(settings, lambda line: None)
    names = [os.path.basename(file) for file in report.files]
    assert names[0] == "scores.json" and report.folder == str(home / "comparisons/mine/paper")
    tables = ["table-1.md", "table-1.csv", "table-3.md", "table-3.csv"]
    assert names[1:] == tables + [f"figure-{n}.{kind}" for n in (4, 6, 8) for kind in ("png", "pdf")]
    scores = json.loads((home / "comparisons/mine/paper/scores.json").read_text())
    assert list(scores)[:3] == list(results.stamp()) and scores["split"] == "test"
    numbers = scores["numbers"]
    own = {(n["table"], n["system"], n["layout"], n["metric"]): n for n in numbers if n["kind"] == "measured"}
    assert {system for _, system, *_ in own} == {
        "cycle",
        "ots",
        "dsol",
    }  # no numbers of the paper: it has no such dataset
    assert own[1, "cycle", "grid2x2", "cap"]["star"] and own[3, "cycle", "grid2x2", "cap"]["star"]
    assert not own[1, "ots", "grid2x2", "ciou@0.3"]["star"] and (3, "ots", "grid2x2", "cap") not in own
    assert (
        own[1, "ots", "single", "ap"]["protocol"] == "mixloc-single" and own[1, "ots", "single", "ap"]["scenes"] == 10
    )
    assert {n["system"] for n in numbers if n["kind"] == "null"} >= {"full frame", "radial prior", "random panels"}
    assert "Ours, mine-cycle-0" in (home / "comparisons/mine/paper/table-1.md").read_text()
    for name in names[5:]:
        head = (home / "comparisons/mine/paper" / name).read_bytes()[:4]
        assert head == (b"\x89PNG" if name.endswith("png") else b"%PDF")


@pytest.mark.filterwarnings("error")
def test_a_scene_without_truth_is_no_failure() -> None:
    iou_NS = np.array([[0.2, 0.4], [np.nan, np.nan], [np.nan, 0.1]])
    assert mean_iou(iou_NS).tolist() == pytest.approx([0.3, np.inf, 0.1])


def test_of_one_study(home: Path) -> None:
    settings = Evaluate(home=str(home / "ots"), study="small", tables=[3], figures=[6])
    report = evaluate(settings, (lines := []).append)
    assert [os.path.basename(file) for file in report.files] == ["scores.json", "table-3.md", "table-3.csv"]
    assert any(line.startswith("figure 6: none of these systems") for line in lines)
    assert "table 3: has no row for these systems, or no such scenes, in the test split" in lines
    evaluate(replace(settings, tables=[1], output=str(home / "one")), (lines := []).append)
    assert not any(line.startswith("table 1:") for line in lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"tables": [4]}, r"tables=\[4\]: must be of 1, 2, 3"),
        ({"figures": [1]}, r"figures=\[1\]: must be of 3, 4, 5, 6, 7, 8, 9"),
        ({"tables": [1]}, "need comparison=NAME"),
        ({"tables": [1], "comparison": "your"}, "comparison=your: no comparison.json in"),
        ({"tables": [1], "compare": ["a", "b"]}, "compare= and tables=: one at a time"),
    ],
)
def test_refusals(home: Path, words: dict, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        evaluate(Evaluate(home=str(home), **words), print)
