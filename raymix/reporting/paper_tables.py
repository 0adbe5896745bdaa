"""Tables 1 to 3 of the paper: the published numbers, and measured ones below them, as Markdown, CSV and JSON.

Numbers are kept as printed, in percent: a star says that the best pairing of maps with sources was taken (section 4.4),
None that the paper has no number there. What each column means is a protocol (`raymix.metrics.protocols`) on a layout of scenes.

The paper's table is always whole. A number stands where it was published, or measured on the very scenes and protocol that
its column names; everywhere else there is a blank. A dataset that the table does not have gets columns of the same kind,
without published numbers, in a part of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymix.metrics.protocols import PROTOCOLS
from raymix.metrics.scoring import ScoreInterval, ScoreSummary, baseline_mark
from raymix.reporting.report import describe_preprocessing
from raymix.reporting.report_tables import grid, legend_of, metric_heading

METRICS_SINGLE = ("ap", "auc")

METRICS_MULTI = ("cap", "piap", "auc")


@dataclass(frozen=True)
class PaperTablePart:
    """Neighbouring columns of one table: one set of scenes, one protocol."""

    head: str  # as printed
    dataset: str  # of configs/dataset
    layout: str  # of raymix.data.layouts.LAYOUTS; "natural" where the sounds were not mixed by us
    protocol: str
    metrics: tuple[str, ...]
    subset: str = ""  # of `dataset.subset`, where the dataset has some
    fewer: bool = False  # natural scenes: also those annotated frames in which not all sources have a box


@dataclass(frozen=True)
class PaperTable:
    """One table: its parts, and for each row the name as printed, the system, and the numbers of each part in turn."""

    number: int
    title: str
    parts: tuple[PaperTablePart, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str | None, ...], ...]], ...]

    def __post_init__(self) -> None:
        for name, _, numbers in self.rows:
            if [len(each) for each in numbers] != [len(part.metrics) for part in self.parts]:
                raise ValueError(f"table {self.number}, {name}: not a number for each column")


def _single(head: str, dataset: str, at: str, subset: str = "") -> PaperTablePart:
    return PaperTablePart(head, dataset, "single", "mixloc-single", (*METRICS_SINGLE, f"iou@{at}"), subset)


def _multi(head: str, dataset: str, layout: str, at: str, subset: str = "") -> PaperTablePart:
    return PaperTablePart(head, dataset, layout, "mixloc-multi", (*METRICS_MULTI, f"ciou@{at}"), subset)


def _numbers(*parts: str) -> tuple[tuple[str | None, ...], ...]:
    return tuple(tuple(None if each == "-" else each for each in part.split()) for part in parts)


_SYNTHETIC = _multi("MUSIC-Synthetic", "music", "grid2x2", "0.3", "solo")

_DUET = replace(_multi("MUSIC-Duet", "music", "natural", "0.3", "duet"), fewer=True)

_OURS = ("34.0* 39.7 20.2* 21.3*", "47.4* 53.9 21.2* 26.3*")


PAPER_TABLES = {
    1: PaperTable(
        1,
        "Sound source localization performance on MUSIC dataset",
        (_single("MUSIC-Solo", "music", "0.5", "solo"), _SYNTHETIC, _DUET),
        (
            ("Hu et al.", "dsol", _numbers("- 43.6 51.4", "- - 23.5 32.3", "- - 22.1 30.2")),
            ("Sound of Pixels + Matching", "sound_of_pixels", _numbers("- 43.3 40.5", "- - 11.8 8.1", "- - 16.8 16.8")),
            ("OTS", "ots", _numbers("69.3 35.8 26.1", "11.4 17.6 10.2 3.7", "35.4 42.8 18.3 13.2")),
            ("OTS-mix", "ots_mix", _numbers("53.8 33.9 17.5", "16.9 27.4 7.3 0", "23.8 28.2 12.0 2.0")),
            ("Attention", "attention", _numbers("- 38.7 37.2", "- - 12.3 6.4", "- - 19.4 21.5")),
            ("DMC", "dmc", _numbers("- 38.0 29.1", "- - 16.3 7.0", "- - 21.1 17.3")),
            ("Ours", "cycle", _numbers("67.9 40.6 29.2", *_OURS)),
        ),
    ),
    2: PaperTable(
        2,
        "Sound source localization performance on VGGSound-Instruments and VoxCeleb2 datasets",
        (
            _single("VGGSound-Instruments, single", "vggsound_instruments", "0.3"),
            _multi("VGGSound-Instruments, multiple", "vggsound_instruments", "hconcat", "0.1"),
            _single("VoxCeleb2, single", "voxceleb2", "0.3"),
            _multi("VoxCeleb2, multiple", "voxceleb2", "hconcat", "0.1"),
        ),
        (
            ("OTS", "ots", _numbers("47.3 24.5 25.7", "23.2 37.6 10.8 51.1", "43.9 23.5 6.2", "20.4 32.6 7.0 15.8")),
            (
                "OTS-mix",
                "ots_mix",
                _numbers("37.0 20.9 24.9", "18.1 30.7 10.8 50.7", "21.4 6.4 6.2", "10.7 18.2 4.1 15.8"),
            ),
            (
                "Ours",
                "cycle",
                _numbers("44.7 32.1 49.6", "21.5* 37.4 15.5* 73.1*", "46.1 27.7 35.4", "20.1* 35.4 14.2* 17.4*"),
            ),
        ),
    ),
    3: PaperTable(
        3,
        "Ablation study",
        (_SYNTHETIC, _DUET),
        (
            ("Corre", "corre", _numbers("12.6 16.0 7.3 0.0", "19.3 21.1 17.8 7.7")),
            ("ISI", "isi", _numbers("11.0 16.4 7.3 0.0", "19.7 24.9 17.5 7.6")),
            ("Permute", "permute", _numbers("18.2* 24.4 9.1* 0.4*", "24.0* 28.1 19.5* 12.4*")),
            ("Ours", "cycle", _numbers(*_OURS)),
        ),
    ),
}
"""The published tables by their number."""


PUBLISHED_KIND, MEASURED_KIND, NULL_KIND = "published", "measured", "null"

RECORD_FIELDS = (
    "table",
    "row",
    "system",
    "kind",
    "dataset",
    "layout",
    "protocol",
    "metric",
    "value",
    "low",
    "high",
    "star",
    "mark",
    "scenes",
    "one_source",
    "videos",
    "scenes_hash",
    "preprocessing",
    "note",
)


@dataclass(frozen=True)
class MeasuredScores:
    """What one system got on one set of scenes; `null` for systems that cannot have listened."""

    system: str  # of METHODS, or the name of a null system
    dataset: str
    summary: ScoreSummary  # its layout and protocol say which columns it may fill
    note: str = ""  # where the numbers come from: a study, a checkpoint
    null: bool = False
    starred: bool = True  # False for one map, which no pairing can favour
    one_source: int = 0  # so many of the scenes of several sources have but one


def table_parts(table: PaperTable, dataset: str) -> tuple[PaperTablePart, ...]:
    """The columns of a table for one dataset: its own, or for one that it does not have those of its first."""
    own = tuple(part for part in table.parts if part.dataset == dataset)
    if own:
        return own
    first = table.parts[0].dataset
    like = (part for part in table.parts if part.dataset == first)
    return tuple(
        replace(part, head=f"{dataset}, {part.layout}", dataset=dataset, subset="", fewer=False) for part in like
    )


def table_columns(table: PaperTable, datasets: Iterable[str] = ()) -> list[tuple[PaperTablePart, ...]]:
    """All columns of the paper's table, then those of each of these datasets that it does not have."""
    there = {part.dataset for part in table.parts}
    return [table.parts, *(table_parts(table, each) for each in dict.fromkeys(datasets) if each not in there)]


def whole_table_records(table: PaperTable, measured: Sequence[MeasuredScores]) -> list[dict[str, Any]]:
    """The records of all columns, in their order."""
    every = table_columns(table, (each.dataset for each in measured))
    return [record for columns in every for record in _records(table, columns, measured)]


def table_records(table: PaperTable, dataset: str, measured: Sequence[MeasuredScores]) -> list[dict[str, Any]]:
    """One record for each number of a dataset, in the order of the table: published numbers, measured ones, baselines."""
    return _records(table, table_parts(table, dataset), measured)


def _records(
    table: PaperTable, columns: Sequence[PaperTablePart], measured: Sequence[MeasuredScores]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for row, system, numbers in table.rows:
        known = {"table": table.number, "row": row, "system": system}
        for part, printed in zip(table.parts, numbers, strict=True):
            for metric, text in zip(part.metrics, printed, strict=True):
                if part in columns and text is not None:
                    found.append({**known, **_of_part(part, metric), **_printed(text)})
        own = [each for each in measured if each.system == system and not each.null]
        found += [{**known, **each} for each in _filled(columns, own, MEASURED_KIND)]
    for name in dict.fromkeys(each.system for each in measured if each.null):
        known = {"table": table.number, "row": name, "system": name}
        own = [each for each in measured if each.system == name and each.null]
        found += [{**known, **each} for each in _filled(columns, own, NULL_KIND)]
    return [{field: record.get(field) for field in RECORD_FIELDS} for record in _marked(found)]


def _marked(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same records, those of systems marked where the best null system of their column reaches them."""
    best: dict[tuple[str, str, str], float] = {}
    for each in found:
        if each["kind"] == NULL_KIND:
            best[_column(each)] = max(each["value"], best.get(_column(each), -math.inf))
    marked = []
    for each in found:
        sign = ""
        if each["kind"] == MEASURED_KIND:
            ends = (math.nan if each[end] is None else each[end] for end in ("value", "low", "high"))
            sign = baseline_mark(ScoreInterval(*ends), best.get(_column(each), -math.inf))
        marked.append({**each, "mark": sign})
    return marked


def _column(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return record["dataset"], record["layout"], record["metric"]


def _of_part(part: PaperTablePart, metric: str) -> dict[str, Any]:
    return {"dataset": part.dataset, "layout": part.layout, "protocol": part.protocol, "metric": metric}


def _printed(text: str) -> dict[str, Any]:
    """A printed percentage as a share."""
    return {
        "kind": PUBLISHED_KIND,
        "value": round(float(text.rstrip("*")) / 100, 6),
        "star": text.endswith("*"),
        "note": "the paper",
    }


def _filled(columns: Sequence[PaperTablePart], own: Sequence[MeasuredScores], kind: str) -> list[dict[str, Any]]:
    found = []
    for part in columns:
        for each in own:
            summary = each.summary
            protocols = (part.protocol, f"{part.protocol}-named")  # by class names, of systems whose maps have them
            if (each.dataset, summary.layout) != (part.dataset, part.layout) or summary.protocol not in protocols:
                continue
            for metric in part.metrics:
                star = each.starred and f"{metric}*" in summary
                if star or metric in summary:
                    facts = {
                        "protocol": summary.protocol,
                        "scenes": summary.scenes,
                        "one_source": each.one_source,
                        "videos": summary.videos,
                        "scenes_hash": summary.scenes_hash,
                        "preprocessing": summary.preprocessing,
                        "note": each.note,
                        "star": star,
                    }
                    numbers = summary[f"{metric}*" if star else metric].record()
                    found.append({"kind": kind, **_of_part(part, metric), **numbers, **facts})
    return found


def paper_table(details: Mapping[str, Any], number: int) -> str:
    """Returns one table of a report of kind `paper` as Markdown; `details` are those of the report."""
    of = next(each for each in details["tables"] if each["table"] == number)
    absent = {(each["dataset"], each["layout"]): each["reason"] for each in of["absent"]}
    found = [each for each in details["numbers"] if each["table"] == number]
    return paper_table_markdown(PAPER_TABLES[number], found, absent, of["notes"])


def paper_table_markdown(
    table: PaperTable,
    found: Sequence[Mapping[str, Any]],
    absent: Mapping[tuple[str, str], str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The paper's table in percent, as it prints it, and below it a part for each other dataset; baselines in the last rows.

    `absent` gives, by dataset and layout, the reason why nothing was measured; `notes` are printed below.
    """
    absent = absent or {}
    lines = [f"## Table {table.number}: {table.title}"]
    every = [*(each["dataset"] for each in found), *(dataset for dataset, _ in absent)]
    for place, columns in enumerate(table_columns(table, every)):
        if place:
            lines += ["", f"### {columns[0].dataset}, which Table {table.number} of the paper does not have"]
        own = [each for each in found if each["dataset"] in {part.dataset for part in columns}]
        lines += ["", *_facts(columns, own, absent), *(["", *grid(_cells(columns, own))] if own else [])]
    cut = PROTOCOLS[table.parts[0].protocol].threshold
    legend = [
        "percent; * the best pairing of maps with sources was taken; 95 % intervals by bootstrap over videos",
        f"every measured row is cut at {cut:g}, the threshold of the paper's own method; for each other method the paper "
        "took the threshold that is best on validation (section 4.4)",
        *legend_of(lines),
    ]
    return "\n".join([*lines, "", *(f"- {each}" for each in [*legend, *notes]), ""])


def _cells(columns: Sequence[PaperTablePart], found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Heads, then a line for each row of the paper and what was measured: studies of several datasets share a line."""
    heads = [(part, metric) for part in columns for metric in part.metrics]
    cells = [["", *(f"{part.head}: {metric_heading(metric)}" for part, metric in heads)]]
    for row, kind in dict.fromkeys((each["row"], each["kind"]) for each in found):
        own = [each for each in found if (each["row"], each["kind"]) == (row, kind)]
        sources: dict[str, dict[str, None]] = {}  # the studies of each dataset, in their order
        for each in own:
            sources.setdefault(each["dataset"], {})[each["note"]] = None
        for line in range(max(map(len, sources.values()))):
            notes = {dataset: list(each)[line] for dataset, each in sources.items() if line < len(each)}
            values = {_column(each): each for each in own if notes.get(each["dataset"]) == each["note"]}
            texts = [_cell(values.get((part.dataset, part.layout, metric))) for part, metric in heads]
            cells.append([_name(row, kind, list(dict.fromkeys(notes.values()))), *texts])
    return cells


def _name(row: str, kind: str, notes: Sequence[str]) -> str:
    """The first cell of a line: the row, and the origin of its numbers."""
    if kind == PUBLISHED_KIND:
        return f"{row}, published"
    where = " and ".join(filter(None, notes))
    if kind == NULL_KIND:
        return f"null: {row}" + (f", {where}" if where else "")
    return f"{row}, {where or 'measured'}"


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    text = f"{100 * record['value']:.1f}" + ("*" if record["star"] else "")
    if record.get("low") is not None:
        text += f" [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"
    return f"{text} {record['mark']}".rstrip()


def _facts(
    columns: Sequence[PaperTablePart], found: Sequence[Mapping[str, Any]], absent: Mapping[tuple[str, str], str]
) -> list[str]:
    """A line for each set of scenes: what it is and how it was scored, or why there is nothing."""
    lines = []
    for part in columns:
        own = [each for each in found if (each["dataset"], each["layout"]) == (part.dataset, part.layout)]
        own = [each for each in own if each["kind"] != PUBLISHED_KIND]
        protocols = " and ".join(sorted({each["protocol"] for each in own}))
        of = {
            (e["scenes"], f"{e['scenes_hash']}{describe_preprocessing(e['preprocessing'])}", e["one_source"])
            for e in own
        }
        for scenes, hashed, lone in sorted(of):
            few = f"; {lone} of them with one source" if lone else ""
            lines.append(f"- {part.head}: protocol {protocols}, {scenes} scenes {hashed}{few}")
        if not own:
            why = absent.get((part.dataset, part.layout), "")
            lines.append(f"- {part.head}: nothing measured" + (f": {why}" if why else ""))
    return lines
