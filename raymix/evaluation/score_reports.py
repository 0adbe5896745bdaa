"""Conversion of scores of systems on a scene set to the records of an EvaluationReport."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymix.data.pair_lists import PairList
from raymix.evaluation import list_coverage
from raymix.evaluation.validation import CandidateCheckpoint
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.scoring import SystemScores, baseline_mark
from raymix.reporting.report import BASELINE_KIND, CONTROL_KIND, SYSTEM_KIND, SystemReport


def scene_set(
    truth: SceneGroundTruth, settings: Mapping[str, Any], pairs: PairList | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the record of one scene set in a report.

    Args:
        settings: what makes the scenes again.
        pairs: the list of the scenes; where some of a published list are missing, `coverage` has their number.
    """
    found = {**truth.facts(), **list_coverage.coverage_facts(pairs), "settings": dict(settings), "notes": list(notes)}
    coverage = list_coverage.coverage(pairs)
    return {**found, "coverage": coverage} if coverage else found


def system_reports(
    rows: Sequence[SystemScores],
    index: int = 0,
    *,
    controls: Sequence[str] = (),
    checkpoints: Mapping[str, str] | None = None,
    missing: Mapping[str, int] | None = None,
    pairs: PairList | None = None,
) -> list[SystemReport]:
    """Returns the systems of one table, each with its record and marks against the controls and baselines among them.

    Args:
        rows: of one set of scenes and one protocol.
        index: of the set of scenes in the report.
        controls: names of the rows that are control runs; other rows that cannot depend on the audio are baselines.
        checkpoints: URI by name of a row.
        missing: scenes without a prediction, by name of a row.
        pairs: the list of the scenes, for means over all listed ones.
    """
    best: dict[str, float] = {}
    for row in (each for each in rows if each.null):
        for metric, interval in row.summary.items():
            best[metric] = max(interval.value, best.get(metric, -math.inf))
    found = []
    for row in rows:
        record = {"scene_set": index, **list_coverage.coverage_record(row, pairs)}
        for metric, interval in row.summary.items() if not row.null else ():
            record["metrics"][metric]["mark"] = baseline_mark(interval, best.get(metric, -math.inf))
        role = SYSTEM_KIND if not row.null else CONTROL_KIND if row.system in controls else BASELINE_KIND
        uri, gaps = (checkpoints or {}).get(row.system), (missing or {}).get(row.system, 0)
        found.append(SystemReport(row.system, role, [record], uri, gaps))
    return found


def merged(parts: Sequence[SystemReport]) -> list[SystemReport]:
    """Returns one entry for each system with all its records, in order, systems before controls and baselines."""
    found: dict[tuple[str, str | None], SystemReport] = {}
    for each in parts:
        whole = found.setdefault(
            (each.system, each.checkpoint), SystemReport(each.system, each.role, [], each.checkpoint)
        )
        whole.scores += each.scores
        whole.missing = max(whole.missing, each.missing)
    return sorted(found.values(), key=lambda each: each.role != SYSTEM_KIND)


def checkpoint_record(of: CandidateCheckpoint, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return the record of a checkpoint in a report; `scores` are its means by `SPLIT/LAYOUT/METRIC`."""
    known = {name: getattr(of, name) for name in ("name", "rank", "trial", "epoch", "uri")}
    return {**known, "parameters": of.params, "scores": dict(scores)}
