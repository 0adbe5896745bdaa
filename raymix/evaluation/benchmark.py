"""Checkpoints and predictions files on named scenes, scored beside the audio-blind baselines.

The rows of Tables 1 and 2 of the paper for a model from elsewhere. Scenes without a prediction count as missed: the
denominator is the number of scenes.

What a search scores are the scenes of its own config; here are those of other people's tables (a column of panels, three
sources, duets, VGGSound-Duet), with the same controls and baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from raymix.config import ConfigError, EvaluateConfig, TrainConfig, config_hash
from raymix.data import prepared
from raymix.data.batches import HeatMaps, SceneBatch
from raymix.evaluation import per_scene_scores, predictions, sharded_scoring
from raymix.evaluation.baselines import (
    mean_training_heatmap,
    predict_with_controls,
    score_with_baselines,
    shuffled_audio,
)
from raymix.evaluation.candidates import CheckpointSource
from raymix.evaluation.predictions import PredictionsFile, write_predictions
from raymix.evaluation.scene_spec import SceneSpec, scene_spec_from_settings
from raymix.evaluation.score_reports import checkpoint_record, merged, scene_set, system_reports
from raymix.evaluation.validation import CandidateCheckpoint
from raymix.metrics.baseline_heatmaps import baseline_heatmaps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import EvaluationProtocol, get_protocol
from raymix.metrics.scoring import SystemScores, summarize_scores
from raymix.reporting.rendering import render_markdown
from raymix.reporting.report import EvaluationReport
from raymix.reporting.results_folder import PER_SCENE_FILE, TABLE_FILE, ResultsFolder, clear_results, write_results
from raymix.runtime.storage import assert_writable, resolve_uri


def prediction_rows(
    found: PredictionsFile, truth: SceneGroundTruth, protocol: EvaluationProtocol, seed: int = 0
) -> list[SystemScores]:
    """All rows of the table: the systems of the file, then the null systems that need no model, on the same scenes."""
    return prediction_rows_by_protocol(found, truth, [protocol], seed)[protocol.id]


def prediction_rows_by_protocol(
    found: PredictionsFile, truth: SceneGroundTruth, protocols: Sequence[EvaluationProtocol], seed: int = 0
) -> dict[str, list[SystemScores]]:
    """The same for each protocol, by its id."""
    by_name, null = scorable_systems(found, truth, protocols), _nulls(truth)
    kinds = {system in by_name for system in found.systems}
    every = chain(sharded_scoring.make_shards(found, truth, by_name), sharded_scoring.baseline_shards(truth, kinds))
    scored = sharded_scoring.merge_tables(sharded_scoring.score_shards(every, protocols))
    return {
        each.id: [
            SystemScores(name, summarize_scores(scored[name][each.id], seed), name in null, scored[name][each.id])
            for name in (*found.systems, *null)
        ]
        for each in protocols
    }


def scorable_systems(
    found: PredictionsFile, truth: SceneGroundTruth, protocols: Sequence[EvaluationProtocol]
) -> set[str]:
    """Returns `named_systems` after every check of the whole file; cheap, so that a refusal comes before any work.

    ValueError where a system is called as a null system is, where a protocol is not for such scenes, and as there.
    """
    if taken := [name for name in _nulls(truth) if name in found.systems]:
        raise ValueError(f"{found.uri}: system {taken[0]!r} is what a null system is called; give it another name")
    if refusals := list(filter(None, (each.declines(truth.panels_NS.shape[1]) for each in protocols))):
        raise ValueError(refusals[0])
    return sharded_scoring.named_systems(found, truth, protocols)


def _nulls(truth: SceneGroundTruth) -> list[str]:
    """What the null systems of such scenes are called."""
    return list(baseline_heatmaps(truth.take(np.arange(1))))


def missing_notes(missing: Mapping[str, int], truth: SceneGroundTruth) -> list[str]:
    """Returns notes on missing predictions and missing regions; `missing` are numbers of scenes by system."""
    of = len(truth)
    notes = [f"{name}: {n} of {of} scenes have no prediction and count as missed" for name, n in missing.items() if n]
    if not truth.has_truth_N.any():
        notes.append(f"the {truth.layout} scenes have no regions, box metrics are left out")
    return notes + single_annotator_note(truth)


def single_annotator_note(truth: SceneGroundTruth) -> list[str]:
    """Returns a note on scenes with a source that one annotator alone marked; [] without any."""
    if not (count := int(truth.alone_N.sum())):
        return []
    return [
        f"{count} of {len(truth)} scenes have a source on which no two annotators agree: only protocols that weigh votes "
        "have a row of them"
    ]


def check_predictions_file(uri: str) -> None:
    """BadInput where there is no such file of predictions."""
    filesystem, path = resolve_uri(uri)
    if not filesystem.get_file_info(path).is_file:
        raise ConfigError(f"predictions={uri}: no such file")


def scenes_report(
    title: str,
    source: Mapping[str, Any],
    rows: Sequence[SystemScores],
    stage: SceneSpec,
    truth: SceneGroundTruth,
    *,
    controls: Sequence[str] = (),
    checkpoints: Sequence[Mapping[str, Any]] = (),
    missing: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> EvaluationReport:
    """Returns the report of systems on one set of scenes under one protocol.

    Args:
        source: where the systems come from: `predictions`, or `study`.
        rows: systems, controls and baselines.
        controls: names of the rows that are control runs.
        checkpoints: records of the checkpoints that predicted.
        missing: scenes without a prediction, by system.
        notes: the first notes below the table.
    """
    described, missing = prepared.read_dataset_json(stage.prepared), missing or {}
    uris = {each["name"]: each["uri"] for each in checkpoints}
    return EvaluationReport(
        kind="scenes",
        title=title,
        split=stage.split,
        protocols=[rows[0].summary.protocol],
        dataset=described.get("dataset"),
        preprocessing=described.get("preprocessing"),
        source=dict(source),
        scene_sets=[scene_set(truth, stage.record(), stage.pairs)],
        systems=merged(system_reports(rows, controls=controls, checkpoints=uris, missing=missing, pairs=stage.pairs)),
        checkpoints=[dict(each) for each in checkpoints],
        notes=[*notes, *missing_notes(missing, truth)],
    )


def write_scenes_report(
    folder: str,
    report: EvaluationReport,
    rows: Sequence[SystemScores],
    stage: SceneSpec,
    echo: Callable[[str], Any],
    there: tuple[str, ...] = (),
) -> ResultsFolder:
    """Writes the table, the scores of each scene and the report, and prints them; `there` are files written before."""
    text = render_markdown(report)
    files = {TABLE_FILE: text.encode(), PER_SCENE_FILE: per_scene_scores.encode_scene_scores(rows, stage.pairs)}
    written = write_results(folder, report, files, there)
    echo(text)
    written.print_files(echo)
    return written


def evaluate_predictions(
    settings: EvaluateConfig, run: TrainConfig | None, echo: Callable[[str], Any] = print
) -> ResultsFolder:
    """Score the file `settings.predictions` and write the folder; `run` is that of the study that names the scenes.

    Raises ValueError in one line for what a person can mend, before anything is written.
    """
    uri = settings.predictions
    check_predictions_file(uri)
    protocol = get_protocol(settings.protocol or (run or TrainConfig()).evaluation.protocol)
    stage = scene_spec_from_settings(settings, run)
    folder = settings.output or _folder_of_submission(settings, stage)
    assert_writable(folder)
    truth = stage.truth()
    echo(f"scoring {uri} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({protocol.id}) ...")
    found = predictions.check_predictions(uri, truth)
    scorable_systems(found, truth, [protocol])
    lines = prediction_rows(found, truth, protocol, stage.seed)
    missing = {system: len(truth) - count for system, count in found.systems.items()}
    report = scenes_report(uri, {"predictions": uri}, lines, stage, truth, missing=missing)
    return write_scenes_report(folder, report, lines, stage, echo)


def _folder_of_submission(settings: EvaluateConfig, stage: SceneSpec) -> str:
    """Where the files go: one folder for one file of predictions, its scenes and its protocol."""
    name = settings.predictions.rstrip("/").rpartition("/")[2].rpartition(".")[0] or "predictions"
    digest = config_hash({"uri": settings.predictions, "protocol": settings.protocol, "stage": stage.record()})
    return f"{settings.home.rstrip('/')}/evaluations/{name}-{digest[:6]}/{stage.split}"


def evaluate_checkpoints_on_scenes(
    settings: EvaluateConfig,
    source: CheckpointSource,
    candidates: list[CandidateCheckpoint],
    echo: Callable[[str], Any] = print,
) -> ResultsFolder:
    """Score these checkpoints on the scenes that the settings name, and write the folder.

    What the settings leave open is as in the run of the first. Raises ValueError in one line, before anything is written.
    """
    best, notes = candidates[0], list[str]()
    stage = scene_spec_from_settings(settings, best.run)
    check_canvas_fits_encoder(stage)
    protocol = get_protocol(settings.protocol or best.run.evaluation.protocol)
    folder = settings.output or _folder(settings, source, stage)
    assert_writable(folder)
    scenes = stage.compose(stage.clips())
    truth = SceneGroundTruth.of(scenes)
    names = ", ".join(each.name for each in candidates)
    echo(f"scoring {names} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({protocol.id}) ...")
    predicted, by_protocol = score_checkpoints_on_scenes(candidates, stage, scenes, truth, [protocol], notes)
    rows = by_protocol[protocol.id]
    own = {each.name: predicted[each.name] for each in candidates}
    report = scenes_report(
        source.study.name or best.uri,
        {"study": source.study.name or None},
        rows,
        stage,
        truth,
        controls=[name for name in predicted if name not in own],
        checkpoints=[_record(each, rows, stage) for each in candidates],
        notes=notes,
    )
    there = _stored(folder, truth, own) if settings.store else ()
    return write_scenes_report(folder, report, rows, stage, echo, there)


def check_canvas_fits_encoder(stage: SceneSpec) -> None:
    """BadInput where the encoder of a checkpoint cannot take panels of this size."""
    if stage.image_size % 16:
        raise ConfigError(f"image_size={stage.image_size}: must be a multiple of 16, the encoder's stride")


def score_checkpoints_on_scenes(
    candidates: list[CandidateCheckpoint],
    stage: SceneSpec,
    scenes: SceneBatch,
    truth: SceneGroundTruth,
    protocols: Sequence[EvaluationProtocol],
    notes: list[str],
) -> tuple[dict[str, HeatMaps], dict[str, list[SystemScores]]]:
    """Predicts once with each candidate and control, and scores them and the baselines under every protocol.

    The controls and baselines do not depend on the protocols, since marks depend on them; `notes` takes what could not be made.
    """
    device, best = "cuda" if torch.cuda.is_available() else "cpu", candidates[0]
    shuffled_N = shuffled_audio(scenes, stage.seed, notes)
    systems = predict_with_controls(candidates, scenes, device, shuffled_N)
    mean_HW = mean_training_heatmap(best, stage, device, notes)
    return systems.maps, score_with_baselines(systems, truth, protocols, mean_HW, stage.seed)


def _record(of: CandidateCheckpoint, rows: list[SystemScores], stage: SceneSpec) -> dict[str, Any]:
    """A checkpoint and its means."""
    own = next(row for row in rows if row.system == of.name)
    values = {f"{stage.split}/{stage.layout}/{name}": each.value for name, each in own.summary.items()}
    return checkpoint_record(of, values)


def _stored(folder: str, truth: SceneGroundTruth, predicted: dict[str, HeatMaps]) -> tuple[str, ...]:
    """Write what the candidates predict; the name of the file."""
    clear_results(folder)
    name = f"predictions-{truth.layout}.parquet"
    write_predictions(f"{folder.rstrip('/')}/{name}", truth, predicted)
    return (name,)


def _folder(settings: EvaluateConfig, source: CheckpointSource, stage: SceneSpec) -> str:
    """Where the files go: one folder for one set of scenes and protocol."""
    about = {"checkpoint": settings.checkpoint, "top": settings.top, "protocol": settings.protocol}
    leaf = f"{stage.split}-{stage.layout}-{config_hash(about | stage.record())[:6]}"
    return f"{source.uri}/evaluation/{leaf}" if source.named else f"{settings.home.rstrip('/')}/evaluations/{leaf}"
