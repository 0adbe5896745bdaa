"""The same predictions scored under several protocols: one table that shows how much a number depends on its protocol.

"CIoU@0.3" (Section 4.4 of the paper) names several quantities in published code. Between the rows of this table nothing
differs but the protocol: maps, scenes, controls and baselines are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymix import benchmark, clip_files, predictions, submission
from raymix.config import BadInput, Evaluate, Run, signature
from raymix.contenders import CandidateCheckpoint, Source
from raymix.protocol import PROTOCOLS, Protocol
from raymix.protocol import protocol as named
from raymix.rendering import render_csv, render_markdown
from raymix.report import EvaluationReport
from raymix.results import TABLE, ResultsFolder, write_results
from raymix.scene import Scenes
from raymix.score_reports import checkpoint_record, merged, scene_set, system_reports
from raymix.scoring import SystemScores
from raymix.staging import Stage, staged
from raymix.storage import assert_writable
from raymix.truth import Truth

Echo = Callable[[str], Any]
ALL, CSV = "all", "protocols.csv"
LAYOUTS = (
    "hconcat",
    "single",
)  # of a study, where none is named: what code for several sources, and for one, is made for


def chosen(words: Sequence[str]) -> list[Protocol]:
    """The protocols that are named, each once, or with `all` every one; ValueError for an unknown one."""
    if ALL in words and len(words) > 1:
        raise ValueError(f"protocols={ALL}: stands alone, it is every protocol")
    return [named(each) for each in (PROTOCOLS if ALL in words else dict.fromkeys(words))]


@dataclass(frozen=True)
class ProtocolReport:
    """What all systems got on one set of scenes, by protocol; `left_out` are protocols that are not for such scenes."""

    stage: Stage
    truth: Truth
    rows: dict[str, list[SystemScores]]
    left_out: list[str]
    notes: list[str]
    controls: list[str]  # names of the rows that are control runs


def of_file(settings: Evaluate, run: Run | None, echo: Echo = print) -> ResultsFolder:
    """Score the file `settings.predictions` under `settings.protocols`; `run` is that of the study that names the scenes."""
    uri = settings.predictions
    submission.there(uri)
    stage = staged(settings, run)
    about = {"uri": uri, "protocols": settings.protocols, "stage": stage.record()}
    folder = (
        settings.output or f"{settings.home.rstrip('/')}/evaluations/{_leaf(uri)}-{signature(about)[:6]}/{stage.split}"
    )
    truth = stage.truth() if stage.pairs else None  # a list alone says how many sources its scenes have
    ((protocols, left_out),) = _fitting(settings, [_sources(stage, truth)])
    assert_writable(folder)
    truth = truth or stage.truth()
    echo(f"scoring {uri} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({len(protocols)} protocols) ...")
    found = predictions.check(uri, truth)
    submission.scorable(found, truth, protocols)
    rows = submission.all_rows(found, truth, protocols, stage.seed)
    notes = submission.gaps({system: len(truth) - count for system, count in found.systems.items()}, truth)
    reading = ProtocolReport(stage, truth, rows, left_out, notes, [])
    return _write(folder, uri, {"predictions": uri}, [reading], echo)


def of_checkpoints(
    settings: Evaluate, source: Source, contenders: list[CandidateCheckpoint], echo: Echo = print
) -> ResultsFolder:
    """Score checkpoints under `settings.protocols`, each run once on the scenes that are named, or on those of LAYOUTS.

    A layout of LAYOUTS that none of the protocols is for is left out, and the table says so.
    """
    best = contenders[0]
    layouts = [settings.layout] if settings.layout or settings.pair_list else list(LAYOUTS)
    stages = [staged(replace(settings, layout=layout), best.run) for layout in layouts]
    benchmark.fits_encoder(stages[0])
    listed = [_listed(each) for each in stages]
    fits = _fitting(settings, [_sources(*each) for each in zip(stages, listed, strict=True)])
    about = {name: getattr(settings, name) for name in ("checkpoint", "top", "protocols")}
    leaf = f"protocols-{signature(about | {'stages': [each.record() for each in stages]})[:6]}"
    root = f"{source.uri}/evaluation" if source.named else f"{settings.home.rstrip('/')}/evaluations"
    folder = settings.output or f"{root}/{settings.split}-{leaf}"
    assert_writable(folder)
    readings = [
        _reading(contenders, stage, scenes, protocols, left_out, echo)
        for stage, scenes, (protocols, left_out) in zip(stages, listed, fits, strict=True)
        if protocols
    ]
    for stage, (protocols, left_out) in zip(stages, fits, strict=True):
        if not protocols:
            readings[0].notes.append(f"no {stage.layout} scenes: {named(left_out[0]).declines(stage.heard)}")
    of = {"study": source.study.name or None}
    checkpoints = [_record(each, readings) for each in contenders]
    return _write(folder, source.study.name or best.uri, of, readings, echo, checkpoints)


def _reading(
    contenders: list[CandidateCheckpoint],
    stage: Stage,
    scenes: Scenes | None,
    protocols: list[Protocol],
    left_out: list[str],
    echo: Echo,
) -> ProtocolReport:
    """Scores checkpoints, controls and baselines on scenes that may have been composed before."""
    scenes = scenes or stage.compose(stage.clips())
    truth = Truth.of(scenes)
    notes = submission.alone(truth)
    names = ", ".join(each.name for each in contenders)
    echo(f"scoring {names} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({len(protocols)} protocols) ...")
    predicted, rows = benchmark.scored(contenders, stage, scenes, truth, protocols, notes)
    controls = predicted.keys() - {each.name for each in contenders}
    return ProtocolReport(stage, truth, rows, left_out, notes, sorted(controls))


def _listed(stage: Stage) -> Scenes | None:
    """The scenes of a list, which alone say how many sources they have; None where scenes are drawn."""
    return stage.compose(stage.clips()) if stage.pairs else None


def _sources(stage: Stage, scenes: Scenes | Truth | None) -> int:
    """Sounding sources of each scene."""
    return scenes.panels_NS.shape[1] if scenes is not None else stage.heard


def _fitting(settings: Evaluate, sources: Sequence[int]) -> list[tuple[list[Protocol], list[str]]]:
    """By number of sources the protocols for such scenes, and those that are not; BadInput where a named one fits none."""
    wanted = chosen(settings.protocols)
    refusals = [{each.id: each.declines(count) for each in wanted} for count in sources]
    for each in wanted:
        if ALL not in settings.protocols and all(said := [by_id[each.id] for by_id in refusals]):
            raise BadInput(f"protocols={','.join(settings.protocols)}: {said[0]}")
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
    written = write_results(folder, report, {TABLE: text.encode(), CSV: render_csv(report).encode()})
    echo(text)
    written.print_files(echo)
    return written


def protocols_report(
    title: str, source: dict[str, Any], readings: Sequence[ProtocolReport], checkpoints: Sequence[dict[str, Any]] = ()
) -> EvaluationReport:
    """Returns the report of the same predictions under several protocols, with a set of scenes for each reading."""
    described, first = clip_files.describe(readings[0].stage.prepared), readings[0]
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
