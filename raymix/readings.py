"""The same predictions read under many protocols: one table that shows what the id of a protocol is worth.

"CIoU@0.3" (Section 4.4 of the paper) names several quantities in published code. Here nothing differs between the rows but
the protocol: neither the maps, nor the scenes, nor the systems that hear nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymix import benchmark, clip_files, comparison, listed, predictions, results, spread, submission
from raymix.comparison import grid, of_clips
from raymix.config import BadInput, Evaluate, Run, signature
from raymix.contenders import CandidateCheckpoint, Source
from raymix.engine import writable
from raymix.protocol import PROTOCOLS, Protocol
from raymix.protocol import protocol as named
from raymix.protocol.words import headline, said
from raymix.results import TABLE, Report
from raymix.scene import Scenes
from raymix.scoring import SystemScores
from raymix.staging import Stage, staged
from raymix.tables import heading
from raymix.truth import Truth

Echo = Callable[[str], Any]
ALL, CSV = "all", "protocols.csv"
LAYOUTS = (
    "hconcat",
    "single",
)  # of a study, where none is named: what code for several sources, and for one, is made for
SHOWN = "centre box 0.7"  # the null with a column of its own: it covers half of the pixels, as a cut at the median does
FIELDS = (
    "layout", "protocol", "system", "null", "metric", "value", "low", "high", "scenes", "videos", "scenes_hash",
    "preprocessing", "listed", "over_listed",
)  # fmt: skip


def chosen(words: Sequence[str]) -> list[Protocol]:
    """The protocols that are named, each once, or with `all` every one; ValueError for an unknown one."""
    if ALL in words and len(words) > 1:
        raise ValueError(f"protocols={ALL}: stands alone, it is every protocol")
    return [named(each) for each in (PROTOCOLS if ALL in words else dict.fromkeys(words))]


@dataclass(frozen=True)
class Reading:
    """What all systems got on one set of scenes, by protocol; `left_out` are those that are not for such scenes."""

    stage: Stage
    truth: Truth
    rows: dict[str, list[SystemScores]]
    left_out: list[str]
    notes: list[str]


def of_file(settings: Evaluate, run: Run | None, echo: Echo = print) -> Report:
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
    writable(folder)
    truth = truth or stage.truth()
    echo(f"scoring {uri} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({len(protocols)} protocols) ...")
    found = predictions.check(uri, truth)
    submission.scorable(found, truth, protocols)
    with spread.work(len(truth), settings.spread) as work:
        rows = submission.all_rows(found, truth, protocols, stage.seed, work)
    notes = submission.gaps({system: len(truth) - count for system, count in found.systems.items()}, truth)
    reading = Reading(stage, truth, rows, left_out, notes)
    return _write(folder, uri, {"predictions": uri}, [reading], echo)


def of_checkpoints(
    settings: Evaluate, source: Source, contenders: list[CandidateCheckpoint], echo: Echo = print
) -> Report:
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
    writable(folder)
    readings = [
        _reading(contenders, stage, scenes, protocols, left_out, echo)
        for stage, scenes, (protocols, left_out) in zip(stages, listed, fits, strict=True)
        if protocols
    ]
    for stage, (protocols, left_out) in zip(stages, fits, strict=True):
        if not protocols:
            readings[0].notes.append(f"no {stage.layout} scenes: {named(left_out[0]).declines(stage.heard)}")
    of = {"study": source.study.name or None, "checkpoints": [_record(each, readings) for each in contenders]}
    return _write(folder, source.study.name or best.uri, of, readings, echo)


def _reading(
    contenders: list[CandidateCheckpoint],
    stage: Stage,
    scenes: Scenes | None,
    protocols: list[Protocol],
    left_out: list[str],
    echo: Echo,
) -> Reading:
    """Checkpoints and all systems that hear nothing, on scenes that may have been composed before."""
    scenes = scenes or stage.compose(stage.clips())
    truth = Truth.of(scenes)
    notes = submission.alone(truth)
    names = ", ".join(each.name for each in contenders)
    echo(f"scoring {names} on {len(truth)} {truth.layout} scenes {truth.scenes_hash} ({len(protocols)} protocols) ...")
    _, rows = benchmark.scored(contenders, stage, scenes, truth, protocols, notes)
    return Reading(stage, truth, rows, left_out, notes)


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


def _write(folder: str, title: str, source: dict[str, Any], readings: list[Reading], echo: Echo) -> Report:
    text = (
        "\n\n".join([f"# {title}: the same maps under different protocols", *[markdown(each) for each in readings]])
        + "\n"
    )
    lines = [line for each in readings for line in _lines(each)]
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    described = clip_files.describe(readings[0].stage.prepared)
    scores = {
        **results.stamp(),
        "split": readings[0].stage.split,
        **source,
        "protocol": ", ".join(dict.fromkeys(key for each in readings for key in each.rows)),
        "dataset": described.get("dataset"),
        "preprocessing": described.get("preprocessing"),
        "layouts": {each.truth.layout: _document(each) for each in readings},
    }
    report = results.write(folder, {TABLE: text.encode(), CSV: out.getvalue().encode()}, scores)
    echo(text)
    report.tell(echo)
    return report


def _document(reading: Reading) -> dict[str, Any]:
    by_protocol = {
        key: [{"system": row.system, "null": row.null, **listed.record(row, reading.stage.pairs)} for row in rows]
        for key, rows in reading.rows.items()
    }
    facts = reading.truth.facts() | listed.facts(reading.stage.pairs)
    facts_too = {"stage": reading.stage.record(), "scenes": facts, "notes": reading.notes}
    return {**facts_too, "left_out": reading.left_out, "protocols": by_protocol}


def _lines(reading: Reading) -> list[dict[str, Any]]:
    """A record for each number."""
    facts = listed.facts(reading.stage.pairs)
    return [
        {
            "layout": reading.truth.layout,
            "protocol": key,
            "system": row.system,
            "null": row.null,
            "metric": metric,
            **number.record(),
            "scenes": row.summary.counts[metric],
            "videos": row.summary.videos,
            "scenes_hash": reading.truth.scenes_hash,
            "preprocessing": reading.truth.preprocessing,
            "listed": facts.get("listed"),
            "over_listed": over.get(metric),
        }
        for key, rows in reading.rows.items()
        for row in rows
        for over in [listed.over_listed(row, reading.stage.pairs)]
        for metric, number in row.summary.items()
    ]


def _record(of: CandidateCheckpoint, readings: Sequence[Reading]) -> dict[str, Any]:
    """A checkpoint and its means, by split, layout, protocol and metric."""
    values = {
        f"{each.stage.split}/{each.truth.layout}/{key}/{metric}": number.value
        for each in readings
        for key, rows in each.rows.items()
        for row in rows
        if row.system == of.name
        for metric, number in row.summary.items()
    }
    known = {name: getattr(of, name) for name in ("name", "rank", "trial", "epoch", "uri")}
    return known | {"parameters": of.params, "scores": values}


def markdown(reading: Reading) -> str:
    """A row for each protocol: its first number, what that is, and what each system and the best null got."""
    truth, first = reading.truth, next(iter(reading.rows.values()))
    systems, sources = [row.system for row in first if not row.null], truth.panels_NS.shape[1]
    cells = [["protocol", "number", "what counts", *systems, f"null: {SHOWN}", "best null"]]
    for key, rows in reading.rows.items():
        how, metric = PROTOCOLS[key], headline(PROTOCOLS[key], sources)
        values = [_cell(row, metric, rows, how) for row in rows if not row.null]
        deaf = {row.system: row.summary[name].value for row in rows if row.null and (name := _star(row, metric, how))}
        best = max(deaf, key=lambda name: deaf[name], default="")
        ends = [f"{deaf[SHOWN]:.3f}", f"{deaf[best]:.3f} ({best})"] if deaf else ["", ""]
        cells.append([key, heading(metric), said(how, sources), *values, *ends])
    videos = truth.facts()["videos"]
    scenes = f"{truth.scenes_hash}{of_clips(truth.preprocessing)}"
    here = listed.said(reading.stage.pairs)
    about = f"## {truth.layout}: {len(truth)} scenes of {videos} videos{here and f' ({here})'}, scenes {scenes}"
    notes = [
        "95 % intervals by bootstrap over videos; * the best pairing of maps with sources was taken; † a null system "
        "lies inside the interval, ‡ above it",
        *reading.notes,
        *_over_listed(reading),
    ]
    if reading.left_out:
        notes.append(f"not for such scenes: {', '.join(reading.left_out)}")
    return "\n".join([about, "", *grid(cells), "", *(f"- {note}" for note in notes)])


def _over_listed(reading: Reading) -> list[str]:
    """A line of the first protocol that is quoted by a mean, where scenes of a list are missing."""
    for key, rows in reading.rows.items():
        how, metric = PROTOCOLS[key], headline(PROTOCOLS[key], reading.truth.panels_NS.shape[1])
        columns = {row.system: _star(row, metric, how) for row in rows if not row.null}
        if told := listed.note(rows, reading.stage.pairs, columns, f"{key}, {heading(metric)}"):
            return told
    return []


def _star(row: SystemScores, metric: str, protocol: Protocol) -> str:
    """The column of this row: the starred one where the protocol is quoted by it, or has no other; '' without either."""
    order = (f"{metric}*", metric) if protocol.match == "oracle" else (metric, f"{metric}*")
    return next((name for name in order if name in row.summary), "")


def _cell(row: SystemScores, metric: str, rows: Sequence[SystemScores], protocol: Protocol) -> str:
    column = _star(row, metric, protocol)
    return (
        comparison.cell(row, column, rows).replace(" [", "* [" if column.endswith("*") else " [", 1) if column else ""
    )


def _leaf(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2].rpartition(".")[0] or "predictions"
