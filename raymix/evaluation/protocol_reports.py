"""The same predictions scored under several protocols: one table that shows how much a number depends on its protocol.

"CIoU@0.3" (Section 4.4 of the paper) names several quantities in published code. Between the rows of this table nothing
differs but the protocol: maps, scenes, controls and baselines are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymix.config import ConfigError, EvaluateConfig, TrainConfig, config_hash
from raymix.data import prepared
from raymix.data.batches import SceneBatch
from raymix.evaluation import benchmark, predictions
from raymix.evaluation.candidates import CheckpointSource
from raymix.evaluation.scene_spec import SceneSpec, scene_spec_from_settings
from raymix.evaluation.score_reports import checkpoint_record, merged, scene_set, system_reports
from raymix.evaluation.validation import CandidateCheckpoint
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS, EvaluationProtocol, get_protocol
from raymix.metrics.scoring import SystemScores
from raymix.reporting.rendering import render_csv, render_markdown
from raymix.reporting.report import EvaluationReport
from raymix.reporting.results_folder import TABLE_FILE, ResultsFolder, write_results
from raymix.runtime.storage import assert_writable

Echo = Callable[[str], Any]

ALL_PROTOCOLS, PROTOCOLS_CSV = "all", "protocols.csv"

LAYOUTS = (
    "hconcat",
    "single",
)  # of a study, where none is named: what code for several sources, and for one, is made for


def choose_protocols(words: Sequence[str]) -> list[EvaluationProtocol]:
    """The protocols that are named, each once, or with `all` every one; ValueError for an unknown one."""
    if ALL_PROTOCOLS in words and len(words) > 1:
        raise ValueError(f"protocols={ALL_PROTOCOLS}: cannot be combined with others, it means every protocol")
    return [get_protocol(each) for each in (PROTOCOLS if ALL_PROTOCOLS in words else dict.fromkeys(words))]


@dataclass(frozen=True)
class ProtocolReport:
    """What all systems got on one set of scenes, by protocol; `left_out` are protocols that are not for such scenes."""

    stage: SceneSpec
    truth: SceneGroundTruth
    rows: dict[str, list[SystemScores]]
    left_out: list[str]
    notes: list[str]
    controls: list[str]  # names of the rows that are control runs


def report_predictions_file(settings: EvaluateConfig, run: TrainConfig | None, echo: Echo = print) -> ResultsFolder:
    """Score the file `settings.predictions` under `settings.protocols`; `run` is that of the study that names the scenes."""
    uri = settings.predictions
    benchmark.check_predictions_file(uri)
    stage = scene_spec_from_settings(settings, run)
    about = {"uri": uri, "protocols": settings.protocols, "stage": stage.record()}
    folder = (
        settings.output
        or f"{settings.home.rstrip('/')}/evaluations/{_leaf(uri)}-{config_hash(about)[:6]}/{stage.split}"
    )
    truth = stage.truth() if stage.pairs else None  # only a list determines the number of sources of its scenes
    ((protocols, left_out),) = _fitting(settings, [_sources(stage, truth)])
    assert_writable(folder)
    truth = truth or stage.truth()
    echo(f"scoring {uri} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({len(protocols)} protocols) ...")
    found = predictions.check_predictions(uri, truth)
    benchmark.scorable_systems(found, truth, protocols)
    rows = benchmark.prediction_rows_by_protocol(found, truth, protocols, stage.seed)
    notes = benchmark.missing_notes({system: len(truth) - count for system, count in found.systems.items()}, truth)
    reading = ProtocolReport(stage, truth, rows, left_out, notes, [])
    return _write(folder, uri, {"predictions": uri}, [reading], echo)


def report_checkpoints(
    settings: EvaluateConfig, source: CheckpointSource, candidates: list[CandidateCheckpoint], echo: Echo = print
) -> ResultsFolder:
    """Score checkpoints under `settings.protocols`, each run once on the scenes that are named, or on those of LAYOUTS.

    A layout of LAYOUTS that none of the protocols is for is left out, and the table says so.
    """
    best = candidates[0]
    layouts = [settings.layout] if settings.layout or settings.pair_list else list(LAYOUTS)
    stages = [scene_spec_from_settings(replace(settings, layout=layout), best.run) for layout in layouts]
    benchmark.check_canvas_fits_encoder(stages[0])
    listed = [_listed(each) for each in stages]
    fits = _fitting(settings, [_sources(*each) for each in zip(stages, listed, strict=True)])
    about = {name: getattr(settings, name) for name in ("checkpoint", "top", "protocols")}
    leaf = f"protocols-{config_hash(about | {'stages': [each.record() for each in stages]})[:6]}"
    root = f"{source.uri}/evaluation" if source.named else f"{settings.home.rstrip('/')}/evaluations"
    folder = settings.output or f"{root}/{settings.split}-{leaf}"
    assert_writable(folder)
    readings = [
        _reading(candidates, stage, scenes, protocols, left_out, echo)
        for stage, scenes, (protocols, left_out) in zip(stages, listed, fits, strict=True)
        if protocols
    ]
    for stage, (protocols, left_out) in zip(stages, fits, strict=True):
        if not protocols:
            readings[0].notes.append(
                f"no {stage.layout} scenes: {get_protocol(left_out[0]).declines(stage.num_sources)}"
            )
    of = {"study": source.study.name or None}
    checkpoints = [_record(each, readings) for each in candidates]
    return _write(folder, source.study.name or best.uri, of, readings, echo, checkpoints)


def _reading(
    candidates: list[CandidateCheckpoint],
    stage: SceneSpec,
    scenes: SceneBatch | None,
    protocols: list[EvaluationProtocol],
    left_out: list[str],
    echo: Echo,
) -> ProtocolReport:
    """Scores checkpoints, controls and baselines on scenes that may have been composed before."""
    scenes = scenes or stage.compose(stage.clips())
    truth = SceneGroundTruth.of(scenes)
    notes = benchmark.single_annotator_note(truth)
    names = ", ".join(each.name for each in candidates)
    echo(f"scoring {names} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({len(protocols)} protocols) ...")
    predicted, rows = benchmark.score_checkpoints_on_scenes(candidates, stage, scenes, truth, protocols, notes)
    controls = predicted.keys() - {each.name for each in candidates}
    return ProtocolReport(stage, truth, rows, left_out, notes, sorted(controls))


def _listed(stage: SceneSpec) -> SceneBatch | None:
    """The scenes of a list, which alone say how many sources they have; None where scenes are drawn."""
    return stage.compose(stage.clips()) if stage.pairs else None


def _sources(stage: SceneSpec, scenes: SceneBatch | SceneGroundTruth | None) -> int:
    """Sounding sources of each scene."""
    return scenes.panels_NS.shape[1] if scenes is not None else stage.num_sources


def _fitting(settings: EvaluateConfig, sources: Sequence[int]) -> list[tuple[list[EvaluationProtocol], list[str]]]:
    """By number of sources the protocols for such scenes, and those that are not; ConfigError where a named one fits none."""
    wanted = choose_protocols(settings.protocols)
    refusals = [{each.id: each.declines(count) for each in wanted} for count in sources]
    for each in wanted:
        if ALL_PROTOCOLS not in settings.protocols and all(reasons := [by_id[each.id] for by_id in refusals]):
            raise ConfigError(f"protocols={','.join(settings.protocols)}: {reasons[0]}")
    return [
        ([each for each in wanted if not by_id[each.id]], [each.id for each in wanted if by_id[each.id]])
        for by_id in refusals
    ]


def _write(
    folder: str,
    title: str,
    source: dict[str, Any],
    readings: list[ProtocolReport],
    echo: Echo,
    checkpoints: Sequence[dict[str, Any]] = (),
) -> ResultsFolder:
    report = protocols_report(title, source, readings, checkpoints)
    text = render_markdown(report)
    written = write_results(folder, report, {TABLE_FILE: text.encode(), PROTOCOLS_CSV: render_csv(report).encode()})
    echo(text)
    written.print_files(echo)
    return written


def protocols_report(
    title: str, source: dict[str, Any], readings: Sequence[ProtocolReport], checkpoints: Sequence[dict[str, Any]] = ()
) -> EvaluationReport:
    """Returns the report of the same predictions under several protocols, with a set of scenes for each reading."""
    described, first = prepared.read_dataset_json(readings[0].stage.prepared), readings[0]
    uris = {each["name"]: each["uri"] for each in checkpoints}
    systems = [
        system
        for index, each in enumerate(readings)
        for rows in each.rows.values()
        for system in system_reports(rows, index, controls=each.controls, checkpoints=uris, pairs=each.stage.pairs)
    ]
    return EvaluationReport(
        kind="protocols",
        title=f"{title}: the same maps under different protocols",
        split=first.stage.split,
        protocols=list(dict.fromkeys(key for each in readings for key in each.rows)),
        dataset=described.get("dataset"),
        preprocessing=described.get("preprocessing"),
        source=source,
        scene_sets=[
            {**scene_set(each.truth, each.stage.record(), each.stage.pairs, each.notes), "left_out": each.left_out}
            for each in readings
        ],
        systems=merged(systems),
        checkpoints=list(checkpoints),
    )


def _record(of: CandidateCheckpoint, readings: Sequence[ProtocolReport]) -> dict[str, Any]:
    """A checkpoint and its means, by split, layout, protocol and metric."""
    values = {
        f"{each.stage.split}/{each.truth.layout}/{key}/{metric}": number.value
        for each in readings
        for key, rows in each.rows.items()
        for row in rows
        if row.system == of.name
        for metric, number in row.summary.items()
    }
    return checkpoint_record(of, values)


def _leaf(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2].rpartition(".")[0] or "predictions"
