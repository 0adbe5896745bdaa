"""Every protocol on golden scenes worked by hand: thresholds, matching rules, empties, ties, sets with negatives."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS, RAYMIX_1, EvaluationProtocol, get_protocol
from raymix.metrics.scoring import score_maps, summarize_scores

FILES = sorted((Path(__file__).resolve().parents[1] / "conformance/golden").glob("protocols_*.json"))
GOLDEN = [(case, file) for file in map(json.loads, map(Path.read_text, FILES)) for case in file["cases"]]


def test_golden_files_were_found():
    assert [file.stem.removeprefix("protocols_") for file in FILES] == [
        "one_source",
        "sets_one_source",
        "sets_several_sources",
        "several_sources",
    ]
    assert len(GOLDEN) == len({case["name"] for case, _ in GOLDEN}) == 100


def test_every_preset_and_every_choice_has_a_golden_scene():
    presets = {case["protocol"] for case, _ in GOLDEN if isinstance(case["protocol"], str)}
    assert presets | {"raymix-1"} == set(PROTOCOLS)  # raymix-1 has files of its own
    chosen = [drawn(case["protocol"]) for case, _ in GOLDEN]
    for name in ("scope", "normalise", "binarise", "match", "combine", "missing", "surplus", "unit", "silence", "ap"):
        assert {getattr(each, name) for each in chosen} == set(get_args(get_type_hints(EvaluationProtocol)[name])), name


def drawn(said):
    if isinstance(said, str):
        return get_protocol(said)
    assert set(said) <= {field.name for field in fields(EvaluationProtocol)}
    return replace(RAYMIX_1, id="golden", **{name: tuple(v) if isinstance(v, list) else v for name, v in said.items()})


def marks(rows, sign="#"):
    return np.array([[c == sign for c in row] for row in rows])


def golden(case, file):
    """Maps, truth and class names of one case."""
    scenes = case["scenes"]
    n, labels = len(scenes), [scene.get("labels") for scene in scenes]
    halves = np.array([[marks(rows, "+") for rows in scene["masks"]] for scene in scenes])
    truth = SceneGroundTruth(
        ids=tuple(f"{case['name']} {i}" for i in range(n)),
        videos=tuple((f"video {i}",) for i in range(n)),
        layout=file["layout"],
        canvas=tuple(file["canvas"]),
        panels_NS=np.array([file["panels"]] * n),
        rects_P4=np.array(file["rects"]),
        masks_NSYX=np.array([[marks(rows) for rows in scene["masks"]] for scene in scenes]),
        has_truth_N=np.ones(n, bool),
        scenes_hash="golden",
        halves_NSYX=halves if halves.any() else None,
        labels=None if None in labels else tuple(map(tuple, labels)),
    )
    said = [scene["maps"] for scene in scenes]
    maps = [None if m is None else marks([m])[None] if isinstance(m, str) else np.array(m, np.float32) for m in said]
    return maps, truth, [scene.get("classes") for scene in scenes] if truth.labels else None


@pytest.mark.parametrize("case, file", GOLDEN, ids=[case["name"] for case, _ in GOLDEN])
def test_golden(case, file):
    maps, truth, classes = golden(case, file)
    how = drawn(case["protocol"])
    table = score_maps(maps, truth, how, classes)
    summary = summarize_scores(table, resamples=10)
    found = {metric: interval.value for metric, interval in summary.items()}
    whole = isinstance(case["protocol"], str) or case.get("exact")
    assert (found if whole else {name: found[name] for name in case["expect"]}) == pytest.approx(
        case["expect"], abs=1e-6
    )
    assert {name: summary.counts[name] for name in case.get("counts", {})} == case.get("counts", {})
    if "map_S" in case:
        assert table.map_NS.tolist() == [case["map_S"]]
