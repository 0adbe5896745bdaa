"""Tables 1, 2 and 3 of the paper with measured numbers below the published ones, as Markdown, CSV and JSON.

The paper's table is always whole. A number stands where it was published, or measured on the very scenes and protocol that
its column names; everywhere else there is a blank. A dataset that the table does not have gets columns of the same kind,
without published numbers, in a part of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymix.protocol import PROTOCOLS
from raymix.published import TABLES, PaperTable, Part
from raymix.report import of_clips
from raymix.report_tables import grid, legend_of, metric_heading
from raymix.scoring import Interval, Summary, baseline_mark

PUBLISHED, MEASURED, NULL = "published", "measured", "null"
FIELDS = (
    "table", "row", "system", "kind", "dataset", "layout", "protocol", "metric", "value", "low", "high", "star", "mark",
    "scenes", "one_source", "videos", "scenes_hash", "preprocessing", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What one system got on one set of scenes; `null` for systems that cannot have listened."""

    system: str  # of METHODS, or the name of a null system
    dataset: str
    summary: Summary  # its layout and protocol say which columns it may fill
    note: str = ""  # where the numbers come from: a study, a checkpoint
    null: bool = False
    starred: bool = True  # False for one map, which no pairing can favour
    one_source: int = 0  # so many of the scenes of several sources have but one


def parts(table: PaperTable, dataset: str) -> tuple[Part, ...]:
    """The columns of a table for one dataset: its own, or for one that it does not have those of its first."""
    own = tuple(part for part in table.parts if part.dataset == dataset)
    if own:
        return own
    first = table.parts[0].dataset
    like = (part for part in table.parts if part.dataset == first)
    return tuple(
        replace(part, head=f"{dataset}, {part.layout}", dataset=dataset, subset="", fewer=False) for part in like
    )


def sheets(table: PaperTable, datasets: Iterable[str] = ()) -> list[tuple[Part, ...]]:
    """All columns of the paper's table, then those of each of these datasets that it does not have."""
    there = {part.dataset for part in table.parts}
    return [table.parts, *(parts(table, each) for each in dict.fromkeys(datasets) if each not in there)]


def whole(table: PaperTable, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The records of all columns, in their order."""
    every = sheets(table, (each.dataset for each in measured))
    return [record for columns in every for record in _records(table, columns, measured)]


def records(table: PaperTable, dataset: str, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """One record for each number of a dataset, in the order of the table: published numbers, measured ones, nulls."""
    return _records(table, parts(table, dataset), measured)


def _records(table: PaperTable, columns: Sequence[Part], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for row, system, numbers in table.rows:
        known = {"table": table.number, "row": row, "system": system}
        for part, printed in zip(table.parts, numbers, strict=True):
            for metric, text in zip(part.metrics, printed, strict=True):
                if part in columns and text is not None:
                    found.append({**known, **_of_part(part, metric), **_printed(text)})
        own = [each for each in measured if each.system == system and not each.null]
        found += [{**known, **each} for each in _filled(columns, own, MEASURED)]
    for name in dict.fromkeys(each.system for each in measured if each.null):
        known = {"table": table.number, "row": name, "system": name}
        own = [each for each in measured if each.system == name and each.null]
        found += [{**known, **each} for each in _filled(columns, own, NULL)]
    return [{field: record.get(field) for field in FIELDS} for record in _marked(found)]


def _marked(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same records, those of systems marked where the best null system of their column reaches them."""
    best: dict[tuple[str, str, str], float] = {}
    for each in found:
        if each["kind"] == NULL:
            best[_column(each)] = max(each["value"], best.get(_column(each), -math.inf))
    marked = []
    for each in found:
        sign = ""
        if each["kind"] == MEASURED:
            ends = (math.nan if each[end] is None else each[end] for end in ("value", "low", "high"))
            sign = baseline_mark(Interval(*ends), best.get(_column(each), -math.inf))
        marked.append({**each, "mark": sign})
    return marked


def _column(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return record["dataset"], record["layout"], record["metric"]


def _of_part(part: Part, metric: str) -> dict[str, Any]:
    return {"dataset": part.dataset, "layout": part.layout, "protocol": part.protocol, "metric": metric}


def _printed(text: str) -> dict[str, Any]:
    """A printed percentage as a share."""
    return {
        "kind": PUBLISHED,
        "value": round(float(text.rstrip("*")) / 100, 6),
        "star": text.endswith("*"),
        "note": "the paper",
    }


def _filled(columns: Sequence[Part], own: Sequence[Measured], kind: str) -> list[dict[str, Any]]:
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
    return markdown(TABLES[number], found, absent, of["notes"])


def markdown(
    table: PaperTable,
    found: Sequence[Mapping[str, Any]],
    absent: Mapping[tuple[str, str], str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The paper's table in percent, as it prints it, and below it a part for each other dataset; nulls in the last rows.

    `absent` says, by dataset and layout, why nothing was measured there; `notes` stand below all.
    """
    absent = absent or {}
    lines = [f"## Table {table.number}: {table.title}"]
    every = [*(each["dataset"] for each in found), *(dataset for dataset, _ in absent)]
    for place, columns in enumerate(sheets(table, every)):
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


def _cells(columns: Sequence[Part], found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
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
    """What stands before a line: the row, and where its numbers come from."""
    if kind == PUBLISHED:
        return f"{row}, published"
    where = " and ".join(filter(None, notes))
    if kind == NULL:
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
    columns: Sequence[Part], found: Sequence[Mapping[str, Any]], absent: Mapping[tuple[str, str], str]
) -> list[str]:
    """A line for each set of scenes: what it is and how it was scored, or why there is nothing."""
    lines = []
    for part in columns:
        own = [each for each in found if (each["dataset"], each["layout"]) == (part.dataset, part.layout)]
        own = [each for each in own if each["kind"] != PUBLISHED]
        protocols = " and ".join(sorted({each["protocol"] for each in own}))
        of = {(e["scenes"], f"{e['scenes_hash']}{of_clips(e['preprocessing'])}", e["one_source"]) for e in own}
        for scenes, hashed, lone in sorted(of):
            few = f"; {lone} of them with one source" if lone else ""
            lines.append(f"- {part.head}: protocol {protocols}, {scenes} scenes {hashed}{few}")
        if not own:
            why = absent.get((part.dataset, part.layout), "")
            lines.append(f"- {part.head}: nothing measured" + (f": {why}" if why else ""))
    return lines
