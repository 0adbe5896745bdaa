"""The EvaluationReport of a study's checkpoints on the scenes of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymix.baselines import shuffled_row_name
from raymix.contenders import CandidateCheckpoint
from raymix.rendering import TOLERANCE
from raymix.report import EvaluationReport, SystemReport
from raymix.score_reports import checkpoint_record, merged, scene_set, system_reports
from raymix.significance import Finding
from raymix.study import Study
from raymix.verdict import Verdict, chance


@dataclass(frozen=True)
class EvaluatedStudy:
    """What a report of a study is made of.

    Attributes:
        split: that was scored.
        study, uri: the study; both empty for a checkpoint outside one.
        verdicts: one for each group of checkpoints with the same scenes.
        datasets: description of each data set, by its folder.
        recomputed: validation scores computed again, by URI of a checkpoint.
        finding: whether any checkpoint is above chance; None where that was not tested.
    """

    split: str
    study: Study
    uri: str
    verdicts: Sequence[Verdict]
    datasets: Mapping[str, Mapping[str, Any]]
    recomputed: Mapping[str, Mapping[str, float]]
    finding: Finding | None


def study_report(of: EvaluatedStudy) -> EvaluationReport:
    """Returns the report of a study's checkpoints with their controls and baselines."""
    sets: list[dict[str, Any]] = []
    systems: list[SystemReport] = []
    checkpoints: list[dict[str, Any]] = []
    for number, verdict in enumerate(of.verdicts):
        uris = {each.name: each.uri for each in verdict.contenders}
        own: list[SystemReport] = []
        for layout, truth in verdict.bench.truth.items():
            if layout in verdict.rows:
                rows = verdict.rows[layout]
                own += system_reports(rows, len(sets), controls=verdict.controls, checkpoints=uris)
            sets.append({**scene_set(truth, _settings(verdict, of.datasets), notes=verdict.notes), "bench": number})
        systems += merged(own)
        checkpoints += [
            {**_checkpoint(each, verdict, of.recomputed.get(each.uri)), "bench": number} for each in verdict.contenders
        ]
    checkpoints.sort(key=lambda each: each["rank"])
    first = of.datasets[of.verdicts[0].contenders[0].run.dataset.prepared]
    title = f"study {of.study.name}" if of.study.name else checkpoints[0]["uri"]
    found = of.finding
    return EvaluationReport(
        kind="study",
        title=f"{title}, {of.split} split",
        split=of.split,
        protocols=[of.verdicts[0].contenders[0].run.evaluation.protocol],
        dataset=first.get("dataset"),
        preprocessing=first.get("preprocessing"),
        source={"study": of.study.name or None, "study_uri": of.uri or None, "objective": of.study.objective or None},
        scene_sets=sets,
        systems=systems,
        checkpoints=checkpoints,
        details={"above_chance": found.record() if found else None},
        warnings=[found.sentence] if found and found.sentence else [],
    )


def _checkpoint(of: CandidateCheckpoint, verdict: Verdict, again: Mapping[str, float] | None) -> dict[str, Any]:
    """A checkpoint and its means; `again` are its validation scores computed again."""
    found = checkpoint_record(of, verdict.flat(of)) | {
        "shuffled_audio": shuffled_row_name(of),
        "chance": chance(of, verdict.bench.truth["grid2x2"]),
        "recorded": of.recorded,
    }
    if again is not None:
        gap = _largest_difference(of.recorded, again)
        found |= {"recomputed": dict(again), "reproduced": None if gap is None else gap <= TOLERANCE}
    return found


def _largest_difference(recorded: Mapping[str, float | None], again: Mapping[str, float]) -> float | None:
    """The largest difference of numbers that both have; None without any."""
    gaps = [abs(value - again[name]) for name, value in recorded.items() if value is not None and name in again]
    return max(gaps, default=None)


def _settings(verdict: Verdict, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the scenes of a verdict were made of: enough to make them again."""
    run, split = verdict.contenders[0].run, verdict.bench.split
    described = datasets[run.dataset.prepared]
    part = described["splits"][split]
    return {
        "dataset": described.get("dataset"),
        "prepared": run.dataset.prepared,
        "clips": part["clips"],
        "videos": part["videos"],
        "image_size": run.encoder.image_size,
        "seconds": run.mixture.seconds,
        "rule": run.mixture.rule,
        "level": run.mixture.level,
        "seed": run.evaluation.seed,
    }
