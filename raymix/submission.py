"""Predictions of any model, in a file, on the scenes of a prepared dataset: scored like raymix's own, with all baselines.

The rows of Tables 1 and 2 of the paper for a model from elsewhere. Scenes without a prediction count as missed: the
denominator is the number of scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from raymix import clip_files, per_scene, predictions, sharded
from raymix.baseline_heatmaps import baseline_heatmaps
from raymix.config import BadInput, Evaluate, Run, nearest, signature
from raymix.predictions import Predictions
from raymix.protocol import Protocol
from raymix.protocol import protocol as named
from raymix.rendering import render_markdown
from raymix.report import EvaluationReport
from raymix.results import PER_SCENE, TABLE, ResultsFolder, write_results
from raymix.score_reports import merged, scene_set, system_reports
from raymix.scoring import SystemScores, Table, summarise
from raymix.staging import Stage, staged
from raymix.storage import assert_writable, resolve
from raymix.truth import Truth


def tables(found: Predictions, truth: Truth, protocols: Sequence[Protocol]) -> dict[str, dict[str, Table]]:
    """The scores of each system in a file, which is never in memory as a whole; a scene without a row is scored too.

    A table for each system and protocol. Where a protocol goes by class names, the maps that have them are held against
    the sources of their classes; where it does not, as many as there are sources, the loudest ones if that is known.
    """
    shards = sharded.shards(found, truth, named_systems(found, truth, protocols))
    scored = sharded.reduced(sharded.here(shards, protocols))
    return {system: scored[system] for system in found.systems}


def named_systems(found: Predictions, truth: Truth, protocols: Sequence[Protocol]) -> set[str]:
    """The systems whose maps a protocol may hold against sources of their classes: of scenes that have classes.

    ValueError where a protocol would, and none of a system's names is one of theirs.
    """
    known = sorted({label for labels in truth.labels or () for label in labels if label})
    by_name = [each.id for each in protocols if each.match == "labels"]
    for system, names in found.classes.items():
        if by_name and known and not names & set(known):
            one = min(names, default="")
            hint = nearest(one, known) or f", the scenes have {', '.join(known[:6])} and others"
            raise ValueError(
                f"{found.uri}: protocol {by_name[0]} goes by class names, and no map_class of {system} is a class of "
                f"these scenes: {one!r}{hint}"
            )
    return set(found.classes) if known else set()


def rows(found: Predictions, truth: Truth, protocol: Protocol, seed: int = 0) -> list[SystemScores]:
    """All rows of the table: the systems of the file, then the null systems that need no model, on the same scenes."""
    return all_rows(found, truth, [protocol], seed)[protocol.id]


def all_rows(
    found: Predictions, truth: Truth, protocols: Sequence[Protocol], seed: int = 0
) -> dict[str, list[SystemScores]]:
    """The same for each protocol, by its id."""
    by_name, null = scorable(found, truth, protocols), _nulls(truth)
    kinds = {system in by_name for system in found.systems}
    every = chain(sharded.shards(found, truth, by_name), sharded.of_nulls(truth, kinds))
    scored = sharded.reduced(sharded.here(every, protocols))
    return {
        each.id: [
            SystemScores(name, summarise(scored[name][each.id], seed), name in null, scored[name][each.id])
            for name in (*found.systems, *null)
        ]
        for each in protocols
    }


def scorable(found: Predictions, truth: Truth, protocols: Sequence[Protocol]) -> set[str]:
    """Returns `named_systems` after every check of the whole file; cheap, so that a refusal comes before any work.

    ValueError where a system is called as a null system is, where a protocol is not for such scenes, and as there.
    """
    if taken := [name for name in _nulls(truth) if name in found.systems]:
        raise ValueError(f"{found.uri}: system {taken[0]!r} is what a null system is called; give it another name")
    if refusals := list(filter(None, (each.declines(truth.panels_NS.shape[1]) for each in protocols))):
        raise ValueError(refusals[0])
    return named_systems(found, truth, protocols)


def _nulls(truth: Truth) -> list[str]:
    """What the null systems of such scenes are called."""
    return list(baseline_heatmaps(truth.take(np.arange(1))))


def gaps(missing: Mapping[str, int], truth: Truth) -> list[str]:
    """Returns notes on missing predictions and missing regions; `missing` are numbers of scenes by system."""
    of = len(truth)
    notes = [f"{name}: {n} of {of} scenes have no prediction and count as missed" for name, n in missing.items() if n]
    if not truth.has_truth_N.any():
        notes.append(f"the {truth.layout} scenes have no regions, box metrics are left out")
    return notes + alone(truth)


def alone(truth: Truth) -> list[str]:
    """Returns a note on scenes with a source that one annotator alone marked; [] without any."""
    if not (count := int(truth.alone_N.sum())):
        return []
    return [
        f"{count} of {len(truth)} scenes have a source on which no two annotators agree: only protocols that weigh votes "
        "have a row of them"
    ]


def there(uri: str) -> None:
    """BadInput where there is no such file of predictions."""
    filesystem, path = resolve(uri)
    if not filesystem.get_file_info(path).is_file:
        raise BadInput(f"predictions={uri}: no such file")


def scenes_report(
    title: str,
    source: Mapping[str, Any],
    rows: Sequence[SystemScores],
    stage: Stage,
    truth: Truth,
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
    described, missing = clip_files.describe(stage.prepared), missing or {}
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
        notes=[*notes, *gaps(missing, truth)],
    )


def write_scenes_report(
    folder: str,
    report: EvaluationReport,
    rows: Sequence[SystemScores],
    stage: Stage,
    echo: Callable[[str], Any],
    there: tuple[str, ...] = (),
) -> ResultsFolder:
    """Writes the table, the scores of each scene and the report, and prints them; `there` are files written before."""
    text = render_markdown(report)
    files = {TABLE: text.encode(), PER_SCENE: per_scene.encode(rows, stage.pairs)}
    written = write_results(folder, report, files, there)
    echo(text)
    written.print_files(echo)
    return written


def evaluate(settings: Evaluate, run: Run | None, echo: Callable[[str], Any] = print) -> ResultsFolder:
    """Score the file `settings.predictions` and write the folder; `run` is that of the study that names the scenes.

    Raises ValueError in one line for what a person can mend, before anything is written.
    """
    uri = settings.predictions
    there(uri)
    protocol = named(settings.protocol or (run or Run()).evaluation.protocol)
    stage = staged(settings, run)
    folder = settings.output or _folder(settings, stage)
    assert_writable(folder)
    truth = stage.truth()
    echo(f"scoring {uri} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({protocol.id}) ...")
    found = predictions.check(uri, truth)
    scorable(found, truth, [protocol])
    lines = rows(found, truth, protocol, stage.seed)
    missing = {system: len(truth) - count for system, count in found.systems.items()}
    report = scenes_report(uri, {"predictions": uri}, lines, stage, truth, missing=missing)
    return write_scenes_report(folder, report, lines, stage, echo)


def _folder(settings: Evaluate, stage: Stage) -> str:
    """Where the files go: one folder for one file of predictions, its scenes and its protocol."""
    name = settings.predictions.rstrip("/").rpartition("/")[2].rpartition(".")[0] or "predictions"
    digest = signature({"uri": settings.predictions, "protocol": settings.protocol, "stage": stage.record()})
    return f"{settings.home.rstrip('/')}/evaluations/{name}-{digest[:6]}/{stage.split}"
