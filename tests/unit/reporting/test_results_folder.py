"""The folder of an evaluation: whole or not there, and nothing of an earlier one left in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymix.evaluation import per_scene_scores
from raymix.evaluation.per_scene_scores import SystemSceneScores
from raymix.metrics.scoring import ScoreTable, SystemScores, summarize_scores
from raymix.reporting.report import EvaluationReport
from raymix.reporting.results_folder import clear_results, write_results


def a_report(title: str) -> EvaluationReport:
    return EvaluationReport(kind="scenes", title=title)


def test_an_earlier_evaluation_leaves_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    write_results(folder, a_report("1"), {"table.md": b"old", "old.png": b"old"})
    (tmp_path / "out/mine.txt").write_text("a person's own file")
    report = write_results(folder, a_report("2"), {"table.md": b"new"})
    assert report.files == [f"{folder}/scores.json", f"{folder}/table.md"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine.txt", "scores.json", "table.md"]
    written = json.loads((tmp_path / "out/scores.json").read_text())
    assert written == {**a_report("2").to_json(), "files": ["table.md"], "written": written["written"]} == report.scores
    clear_results(folder)
    (tmp_path / "out/maps.parquet").write_bytes(b"written before")
    third = write_results(folder, a_report("3"), {"table.md": b"newer"}, there=("maps.parquet",))
    assert third.files[-1] == f"{folder}/maps.parquet" and (tmp_path / "out/maps.parquet").exists()
    write_results(folder, a_report("4"), {"table.md": b"newest"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine.txt", "scores.json", "table.md"]


def test_files_that_a_scores_json_names_elsewhere_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dear").write_text("not ours")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scores.json").write_text('{"files": ["../dear"]}')
    clear_results(str(tmp_path / "out"))
    assert (tmp_path / "dear").exists() and not (tmp_path / "out/scores.json").exists()


def a_row(
    system: str, scenes: list[str], null: bool = False, layout: str = "hconcat", **values: list[float]
) -> SystemScores:
    n = len(scenes)
    columns = {name: np.array(column, float) for name, column in values.items()}
    parts = (np.zeros((n, 1)), np.zeros((n, 1)), np.zeros((n, 1), int))
    videos = tuple((f"video of {each}", f"{each} too") for each in scenes)
    table = ScoreTable("raymix-1", layout, f"hash of {layout}", tuple(scenes), videos, columns, *parts)
    return SystemScores(system, summarize_scores(table, resamples=10), null, table)


def test_the_scores_of_each_scene_come_back(tmp_path: Path) -> None:
    rows = [
        a_row("mine", ["b", "a"], ciou=[0.25, 0.5], cap=[float("nan"), 1]),
        a_row("full frame", ["a", "b"], True, ciou=[0.0, 1.0], cap=[0.5, float("nan")]),
        a_row("mine", ["c"], layout="single", iou=[0.125]),
    ]
    (tmp_path / "x.parquet").write_bytes(per_scene_scores.encode_scene_scores(rows))
    found = per_scene_scores.decode_scene_scores(f"{tmp_path}/x.parquet")
    assert found is not None and [(each.system, each.layout, each.null) for each in found] == [
        ("mine", "hconcat", False),
        ("full frame", "hconcat", True),
        ("mine", "single", False),
    ]
    first = found[0]
    assert (
        isinstance(first, SystemSceneScores)
        and first.ids == ("a", "b")
        and first.videos == (("video of a", "a too"), ("video of b", "b too"))
    )
    assert first.values["ciou"].tolist() == [0.5, 0.25] and np.isnan(first.values["cap"]).tolist() == [False, True]
    assert set(found[2].values) == {"iou"} and (found[2].protocol, found[2].scenes_hash) == (
        "raymix-1",
        "hash of single",
    )
    pq.write_table(pa.table({"scene_id": ["a"]}), tmp_path / "y.parquet")
    (tmp_path / "z.npz").write_bytes(b"PK")
    assert (
        per_scene_scores.decode_scene_scores(f"{tmp_path}/y.parquet") is None
        and per_scene_scores.decode_scene_scores(f"{tmp_path}/z.npz") is None
    )
    (tmp_path / "z.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"z.parquet: cannot be read as Parquet"):
        per_scene_scores.decode_scene_scores(f"{tmp_path}/z.parquet")
