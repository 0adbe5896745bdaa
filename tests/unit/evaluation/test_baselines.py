"""Null systems, and the table in which they stand beside the others."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from raymix.evaluation.score_reports import system_reports
from raymix.metrics.baseline_heatmaps import baseline_heatmaps, score_under_protocols
from raymix.metrics.protocols import PROTOCOLS, RAYMIX_1, EvaluationProtocol
from raymix.metrics.scoring import SystemScores, score_maps, summarize_scores
from raymix.reporting.rendering import scores_table
from tests.conformance.test_golden_scores import made


def table(rows: list[SystemScores]) -> str:
    """The Markdown of rows: a table for each set of scenes."""
    groups: dict[str, list[SystemScores]] = {}
    for row in rows:
        groups.setdefault(row.summary.scenes_hash, []).append(row)
    systems = [[(each, each.scores[0]) for each in system_reports(own)] for own in groups.values()]
    return "\n\n".join("\n".join(scores_table(each).markdown()) for each in systems)


def final(maps, truth, protocol: EvaluationProtocol = RAYMIX_1, **how) -> list[SystemScores]:
    """All rows of one table."""
    return score_under_protocols(maps, truth, [protocol], **how)[protocol.id]


def test_null_systems_by_hand():
    said, truth = made(n=6, layout="hconcat", size=40)
    found = baseline_heatmaps(truth, mean_map_HW=np.arange(8.0).reshape(2, 4))
    boxes = [f"centre box {side}" for side in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    assert list(found) == ["full frame", *boxes, "radial prior", "mean training map", "oracle area"]
    for mine, theirs in zip(found["oracle area"], truth.masks_NSYX, strict=True):  # sides in steps of .02
        sides, share = np.sqrt(mine.mean(axis=(1, 2))), np.sqrt(theirs.mean(axis=(1, 2)))
        assert mine.shape == theirs.shape and (np.abs(sides - share) < 0.06).all() and mine[:, 20, 40].all()
    box = found["centre box 0.5"][3][1]
    assert box.dtype == bool and box.shape == (40, 80)
    assert box[10:30, 20:60].all() and box.sum() == 20 * 40
    full = score_maps(found["full frame"], truth).values
    area = truth.masks_NSYX.mean(axis=(2, 3)).mean(axis=1)
    assert full["ciou"] == pytest.approx(area) and full["cap"] == pytest.approx(area)
    prior = found["radial prior"][0][0]
    assert prior.argmax() in (19 * 80 + 39, 19 * 80 + 40, 20 * 80 + 39, 20 * 80 + 40)
    assert prior.min() == pytest.approx(0, abs=0.03) and prior.max() == pytest.approx(1, abs=0.03)
    assert found["mean training map"].shape == (6, 2, 2, 4)
    assert said.shape[0] == len(found["mean training map"])


def test_null_maps_of_many_scenes_take_no_memory():
    _, truth = made(n=500, size=8)
    full = baseline_heatmaps(truth)["full frame"]
    assert full.shape == (500, 2, 16, 16) and full.strides[:2] == (0, 0)


def test_a_null_never_names_all_sounding_panels_except_by_luck():
    _, truth = made(n=1200, size=8)
    found = baseline_heatmaps(truth, panel_boxes=True)
    rates = {name: score_maps(maps, truth).values["sounding_accuracy"].mean() for name, maps in found.items()}
    assert rates["full frame"] == rates["centre box 0.5"] == rates["radial prior"] == 0
    assert rates["random panels"] == pytest.approx(1 / 6, abs=0.035)
    assert rates["panel box 0.7"] == rates["random panels"]
    order = np.random.default_rng(0).permutation(1200)
    shuffled = score_maps(baseline_heatmaps(truth.take(order))["random panels"], truth.take(order)).values[
        "sounding_accuracy"
    ]
    assert shuffled.mean() == rates["random panels"]


def test_panel_boxes_know_the_layout():
    _, truth = made(layout="hconcat")
    found = baseline_heatmaps(truth, panel_boxes=True)
    assert "random panels" not in found
    box = found["panel box 0.5"][0]
    assert box.sum(axis=(1, 2)).tolist() == [256, 256] and not (box[0] & box[1]).any()
    best = max(score_maps(found[f"panel box {side}"], truth).values["ciou"].mean() for side in (0.5, 0.7))
    assert "oracle area" not in baseline_heatmaps(
        replace(truth, masks_NSYX=None, has_truth_N=np.zeros(len(truth), bool))
    )
    assert best > max(score_maps(found[f"centre box {side}"], truth).values["ciou"].mean() for side in (0.5, 0.7))


def test_final_gives_all_rows():
    said, truth = made()
    rows = final({"cycle": said, "shuffled audio": said[::-1]}, truth, null=["shuffled audio"], resamples=50)
    assert [row.system for row in rows[:3]] == ["cycle", "shuffled audio", "full frame"]
    assert [row.null for row in rows[:3]] == [False, True, True] and all(row.null for row in rows[1:])
    assert {row.summary.scenes_hash for row in rows} == {"made"}
    with pytest.raises(ValueError, match="null='silent' names no system"):
        final({"cycle": said}, truth, null=["silent"])


def rows_of(values, lows, highs, metric="ciou@0.3"):
    said, truth = made(n=4)
    summary = summarize_scores(score_maps(said, truth), resamples=10)
    made_rows = []
    for name, value, low, high in zip("abcd", values, lows, highs, strict=False):
        one = replace(summary, intervals={metric: type(summary["ciou"])(value, low, high)}, counts={metric: 4})
        made_rows.append(SystemScores(name, one, null=name == "d"))
    return made_rows


def test_table_marks_what_a_null_reaches():
    text = table(rows_of([0.9, 0.5, 0.1, 0.45], [0.8, 0.4, 0.05, 0.2], [0.95, 0.6, 0.2, 0.7]))
    lines = text.splitlines()
    assert lines[0].startswith("protocol raymix-1, layout grid2x2, scenes made: 4 scenes of 6 videos, 95 % intervals")
    assert lines[2].split("|")[1:3] == [" system  ", " ciou@0.3               "]
    assert "| a       | 0.900 [0.800, 0.950]   |" in lines
    assert "| b       | 0.500 [0.400, 0.600] † |" in lines
    assert "| c       | 0.100 [0.050, 0.200] ‡ |" in lines
    assert "| null: d | 0.450 [0.200, 0.700]   |" in lines
    assert text.count("†") == 2 and text.count("‡") == 2
    alone = table(rows_of([0.9, 0.5, 0.1, 0.45], [math.nan] * 4, [math.nan] * 4))
    assert "| a       | 0.900 †  |" in alone


def test_table_has_a_part_for_each_set_of_scenes():
    parts = []
    for layout in ("single", "hconcat", "grid2x2"):
        said, truth = made(layout=layout)
        parts += final({"cycle": said}, replace(truth, scenes_hash=layout), resamples=20)
    text = table(parts)
    assert text.count("protocol raymix-1") == 3 and text.count("| cycle ") == 3
    assert "iou@0.5" in text and "sounding_accuracy" in text


def test_table_knows_starred_columns_and_those_it_has_never_seen():
    said, truth = made(layout="hconcat")
    rows = final({"cycle": said}, truth, PROTOCOLS["mixloc-multi"], resamples=20)
    heads = [head.strip() for head in table(rows).splitlines()[2].split("|")[2:-1]]
    assert heads[:2] == ["ciou", "ciou*"] and heads[-2:] == ["auc", "auc*"]
    assert set(heads) == {"ciou", "ciou@0.1", "ciou@0.3", "cap", "auc", "piap"} | {
        f"{name}*" for name in ("ciou", "ciou@0.1", "ciou@0.3", "cap", "auc")
    }
    rows = final({"cycle": said}, truth, PROTOCOLS["wsol-pxap"], resamples=20)
    assert [head.strip() for head in table(rows).splitlines()[2].split("|")[2:-1]] == ["ciou", "auc", "pxap"]


def test_table_states_denominators_and_refuses_unequal_ones():
    said, truth = made()
    some = replace(truth, has_truth_N=np.arange(40) < 30)
    assert "cap (n=30)" in table(final({"cycle": said}, some, resamples=20))
    rows = [
        SystemScores("a", summarize_scores(score_maps(said, some), resamples=20)),
        SystemScores("b", summarize_scores(score_maps(said, truth), resamples=20)),
    ]
    with pytest.raises(ValueError, match="one table needs the same scenes"):
        table(rows)


def test_scores_need_neither_torch_nor_ray():
    code = "import raymix.metrics.baseline_heatmaps, raymix.reporting.rendering, raymix.reporting.figures, sys; "
    code += "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
