"""The paper's tables: every printed number, and measured ones where they belong, never elsewhere."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from raymix.methods import METHODS
from raymix.metrics.scoring import ScoreInterval, ScoreSummary
from raymix.reporting import paper_tables
from raymix.reporting.paper_tables import PAPER_TABLES, MeasuredScores, PaperTable, PaperTablePart
from raymix.reporting.report import LEGEND
from raymix.reporting.report_tables import comma_separated

PRINTED = Path(__file__).resolve().parents[2] / "conformance/golden/paper_tables.json"


def summary(layout: str, protocol: str, **values: float) -> ScoreSummary:
    intervals = {name: ScoreInterval(value, value - 0.1, value + 0.1) for name, value in values.items()}
    counts = dict.fromkeys(values, 7)
    return ScoreSummary(protocol, layout, "abcd", 7, 5, 2000, 0, intervals, counts)


def test_what_is_printed_in_the_paper() -> None:
    assert {number: len(table.rows) for number, table in PAPER_TABLES.items()} == {1: 7, 2: 3, 3: 4}
    assert {system for table in PAPER_TABLES.values() for _, system, _ in table.rows} <= set(METHODS)
    first = {
        (each["row"], each["layout"], each["metric"]): each
        for each in paper_tables.table_records(PAPER_TABLES[1], "music", [])
    }
    assert first["Ours", "natural", "ciou@0.3"]["value"] == 0.263 and first["Ours", "natural", "ciou@0.3"]["star"]
    assert first["OTS-mix", "grid2x2", "ciou@0.3"]["value"] == 0 and not first["OTS-mix", "grid2x2", "ciou@0.3"]["star"]
    assert ("DMC", "grid2x2", "cap") not in first  # the paper has a dash
    assert len(first) == 7 * 11 - 4 * 5
    second = paper_tables.table_records(PAPER_TABLES[2], "voxceleb2", [])
    assert [each["value"] for each in second if each["row"] == "Ours"] == [
        0.461,
        0.277,
        0.354,
        0.201,
        0.354,
        0.142,
        0.174,
    ]
    assert {"iou@0.3", "ciou@0.1"} <= {each["metric"] for each in second}


def test_every_cell_is_as_it_was_printed() -> None:
    assert PRINTED.is_file()
    parts = json.loads(PRINTED.read_text())["tables"]
    assert sum(len(row) - 1 for part in parts for row in part["rows"]) == 7 * 11 + 3 * 14 + 4 * 8 == 151
    sets = {number: [part.head for part in table.parts] for number, table in PAPER_TABLES.items()}
    assert [(part["number"], part["set"]) for part in parts] == [
        (n, head) for n, heads in sets.items() for head in heads
    ]
    for part in parts:
        table, place = PAPER_TABLES[part["number"]], sets[part["number"]].index(part["set"])
        assert list(table.parts[place].metrics) == [name.lower() for name in part["columns"]]
        assert [[name, *(each or "-" for each in numbers[place])] for name, _, numbers in table.rows] == part["rows"]
        layout, found = table.parts[place].layout, paper_tables.table_records(table, table.parts[place].dataset, [])
        told = {(each["row"], each["metric"]): each for each in found if each["layout"] == layout}
        for name, *cells in part["rows"]:
            for column, cell in zip(part["columns"], cells, strict=True):
                one = told.pop((name, column.lower()), None)
                assert (one is None) == (cell == "-"), (name, column)
                if one:
                    assert (one["value"], one["star"]) == (
                        pytest.approx(float(cell.rstrip("*")) / 100),
                        cell.endswith("*"),
                    )
        assert not told


def test_a_measured_number_stands_below_the_published_one_of_its_column_alone() -> None:
    right = MeasuredScores("cycle", "music", summary("single", "mixloc-single", ap=0.7, auc=0.4), "study mine")
    starred = MeasuredScores(
        "cycle", "music", summary("grid2x2", "mixloc-multi", **{"cap*": 0.3, "cap": 0.2, "piap": 0.25}), "study mine"
    )
    astray = [
        MeasuredScores("cycle", "music", summary("single", "raymix-1", ap=0.9)),
        MeasuredScores("lvs", "music", summary("single", "mixloc-single", ap=0.9)),
    ]
    null = MeasuredScores("full frame", "music", summary("single", "mixloc-single", ap=0.1), null=True)
    found = paper_tables.whole_table_records(PAPER_TABLES[1], [right, starred, *astray, null])
    own = {(each["layout"], each["metric"]): each for each in found if each["kind"] == paper_tables.MEASURED_KIND}
    assert {key: each["value"] for key, each in own.items()} == {
        ("single", "ap"): 0.7,
        ("single", "auc"): 0.4,
        ("grid2x2", "cap"): 0.3,
        ("grid2x2", "piap"): 0.25,
    }
    assert (
        own["grid2x2", "cap"]["star"]
        and not own["grid2x2", "piap"]["star"]
        and own["single", "ap"]["note"] == "study mine"
    )
    absent = {("music", "natural"): "no clips are prepared"}
    text = paper_tables.paper_table_markdown(PAPER_TABLES[1], found, absent, ["MUSIC-Solo: no mean training map"])
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    assert lines["Ours, published"][:4] == ["67.9", "40.6", "29.2", "34.0*"]
    assert lines["Ours, study mine"][:5] == [
        "70.0 [60.0, 80.0]",
        "40.0 [30.0, 50.0]",
        "",
        "30.0* [20.0, 40.0]",
        "25.0 [15.0, 35.0]",
    ]
    assert lines["null: full frame"][:2] == ["10.0 [0.0, 20.0]", ""] and "OTS" not in " ".join(
        name for name in lines if "published" not in name
    )
    assert "- MUSIC-Duet: nothing measured: no clips are prepared\n" in text and "7 scenes abcd\n" in text
    assert "- MUSIC-Solo: no mean training map\n" in text and "† a null" not in text
    assert "every measured row is cut at 0.4" in text and "best on validation (section 4.4)" in text


def test_the_papers_table_is_whole_whatever_was_measured() -> None:
    own = MeasuredScores("cycle", "vggsound_instruments", summary("single", "mixloc-single", ap=0.7), "mine")
    for measured in ([], [own]):
        found = paper_tables.whole_table_records(PAPER_TABLES[2], measured)
        assert sum(each["kind"] == paper_tables.PUBLISHED_KIND for each in found) == 42
        (head, *lines) = [
            line
            for line in paper_tables.paper_table_markdown(PAPER_TABLES[2], found).splitlines()
            if line.startswith("| ")
        ]
        assert head.count("|") == 14 + 2 and head.count("VoxCeleb2") == 7
        assert [line.split("|")[1].strip() for line in lines if "published" in line] == [
            f"{row}, published" for row, *_ in PAPER_TABLES[2].rows
        ]
        assert all(not cell.strip() for line in lines if "mine" in line for cell in line.split("|")[3:-1])


def test_comparisons_of_several_datasets_share_the_lines_of_a_table() -> None:
    first = [
        MeasuredScores("cycle", "vggsound_instruments", summary("single", "mixloc-single", ap=0.7), f"a{n}")
        for n in "01"
    ]
    other = MeasuredScores("cycle", "voxceleb2", summary("hconcat", "mixloc-multi", **{"cap*": 0.2}), "b0")
    null = [
        MeasuredScores("full frame", data, summary(*of, **{name: 0.4}), null=True, starred=False)
        for data, of, name in (
            ("vggsound_instruments", ("single", "mixloc-single"), "ap"),
            ("voxceleb2", ("hconcat", "mixloc-multi"), "cap"),
        )
    ]
    foreign = MeasuredScores("cycle", "demo", summary("single", "mixloc-single", ap=0.1), "c0")
    text = paper_tables.paper_table_markdown(
        PAPER_TABLES[2], paper_tables.whole_table_records(PAPER_TABLES[2], [*first, other, *null, foreign])
    )
    paper, demo = text.split("### demo, which Table 2 of the paper does not have")
    filled = {line.split("|")[1].strip(): line for line in paper.splitlines() if line.startswith("| ")}
    assert "70.0 [" in filled["Ours, a0 and b0"] and "20.0* [10.0, 30.0] ‡" in filled["Ours, a0 and b0"]
    assert "70.0 [" in filled["Ours, a1"] and filled["null: full frame"].count("40.0 [") == 2
    assert "demo" not in paper and "Ours, c0" in demo and "demo, single: AP" in demo and "published" not in demo


@pytest.mark.parametrize(("best", "sign"), [(0.59, ""), (0.61, "†"), (0.79, "†"), (0.81, "‡")])
def test_a_mark_where_the_best_null_system_reaches_an_interval(best: float, sign: str) -> None:
    own = MeasuredScores("cycle", "music", summary("grid2x2", "mixloc-multi", **{"cap*": 0.7, "cap": 0.1}))
    nulls = [
        MeasuredScores(
            f"null {value}", "music", summary("grid2x2", "mixloc-multi", cap=value), null=True, starred=False
        )
        for value in (0.2, best)
    ]
    elsewhere = MeasuredScores(
        "full frame", "music", summary("natural", "mixloc-multi", cap=0.99), null=True, one_source=3
    )
    found = paper_tables.whole_table_records(PAPER_TABLES[1], [own, *nulls, elsewhere])
    assert {each["mark"] for each in found if each["kind"] == paper_tables.MEASURED_KIND} == {sign}
    assert {each["mark"] for each in found if each["kind"] != paper_tables.MEASURED_KIND} == {""}
    text = paper_tables.paper_table_markdown(PAPER_TABLES[1], found)
    assert f"70.0* [60.0, 80.0] {sign}".rstrip() + " " in text
    assert [note in text for note in LEGEND.values()] == [sign == "†", sign == "‡"]
    assert "MUSIC-Duet: protocol mixloc-multi, 7 scenes abcd; 3 of them with one source" in text


def test_one_video_has_no_interval_and_is_marked() -> None:
    one = summary("single", "mixloc-single", ap=0.7)
    one.intervals["ap"] = ScoreInterval(0.7, float("nan"), float("nan"))
    null = MeasuredScores("full frame", "music", summary("single", "mixloc-single", ap=0.1), null=True)
    assert "70.0 †" in paper_tables.paper_table_markdown(
        PAPER_TABLES[1],
        paper_tables.whole_table_records(PAPER_TABLES[1], [MeasuredScores("cycle", "music", one), null]),
    )


def test_a_dataset_that_is_not_in_the_paper_has_the_columns_without_its_numbers() -> None:
    own = MeasuredScores("ots", "demo", summary("single", "mixloc-single", ap=0.5))
    found = paper_tables.table_records(PAPER_TABLES[1], "demo", [own])
    assert [each["kind"] for each in found] == [paper_tables.MEASURED_KIND]
    assert "demo, single: AP" in paper_tables.paper_table_markdown(PAPER_TABLES[1], found)
    rows = list(csv.DictReader(io.StringIO(comma_separated(paper_tables.RECORD_FIELDS, found))))
    assert [(row["row"], row["metric"], row["value"], row["scenes"]) for row in rows] == [("OTS", "ap", "0.5", "7")]


def test_a_row_of_another_length_is_refused() -> None:
    part = PaperTablePart("x", "music", "single", "mixloc-single", ("ap", "auc"))
    with pytest.raises(ValueError, match="table 9, OTS: not a number for each column"):
        PaperTable(9, "", (part,), (("OTS", "ots", (("1.0",),)),))
