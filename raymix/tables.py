"""Tables 1, 2 and 3 of the paper with measured numbers below the published ones, as Markdown, CSV and JSON.

A number stands where it was published, or measured on the very scenes and protocol that its column names; everywhere
else there is a blank. On a dataset that the paper does not have, the same columns hold what was measured there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymix.comparison import grid, of_clips
from raymix.published import PaperTable, Part
from raymix.scoring import Summary

PUBLISHED, MEASURED, NULL = "published", "measured", "null"
FIELDS = (
    "table", "row", "system", "kind", "dataset", "layout", "protocol", "metric", "value", "low", "high", "star", "scenes",
    "videos", "scenes_hash", "preprocessing", "note",
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


def parts(table: PaperTable, dataset: str) -> tuple[Part, ...]:
    """The columns of a table for one dataset: its own, or for one that is not in the paper those of the table's first."""
    own = tuple(part for part in table.parts if part.dataset == dataset)
    if own:
        return own
    first = table.parts[0].dataset
    said = {"single": "single", "grid2x2": "2x2", "hconcat": "side by side", "natural": "natural mixtures"}
    like = (part for part in table.parts if part.dataset == first)
    return tuple(replace(part, head=f"{dataset}, {said[part.layout]}", dataset=dataset, subset="") for part in like)


def records(table: PaperTable, dataset: str, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """One record for each number, in the order of the table: a system's published numbers, then its measured ones."""
    columns = parts(table, dataset)
    found: list[dict[str, Any]] = []
    for row, system, numbers in table.rows:
        known = {"table": table.number, "row": row, "system": system, "dataset": dataset}
        for part, printed in zip(table.parts, numbers, strict=True):
            for metric, text in zip(part.metrics, printed, strict=True):
                if part in columns and text is not None:
                    found.append({**known, **_of_part(part, metric), **_printed(text)})
        own = [each for each in measured if each.system == system and not each.null]
        found += [{**known, **each} for each in _filled(columns, own, MEASURED)]
    for name in dict.fromkeys(each.system for each in measured if each.null):
        known = {"table": table.number, "row": name, "system": name, "dataset": dataset}
        own = [each for each in measured if each.system == name and each.null]
        found += [{**known, **each} for each in _filled(columns, own, NULL)]
    return [{field: record.get(field) for field in FIELDS} for record in found]


def _of_part(part: Part, metric: str) -> dict[str, Any]:
    return {"layout": part.layout, "protocol": part.protocol, "metric": metric}


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
                        "scenes": summary.scenes,
                        "videos": summary.videos,
                        "scenes_hash": summary.scenes_hash,
                        "preprocessing": summary.preprocessing,
                        "note": each.note,
                        "star": star,
                    }
                    numbers = summary[f"{metric}*" if star else metric].record()
                    found.append({"kind": kind, **_of_part(part, metric), **numbers, **facts})
    return found


def markdown(table: PaperTable, dataset: str, found: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown table in percent, as the paper prints it; nulls in the last rows."""
    columns = [(part, metric) for part in parts(table, dataset) for metric in part.metrics]
    heads = [f"{part.head}: {heading(metric)}" for part, metric in columns]
    cells = [["", *heads]]
    for key in dict.fromkeys((each["row"], each["kind"], each["note"]) for each in found):
        row, kind, note = key
        own = {
            (each["layout"], each["metric"]): each for each in found if (each["row"], each["kind"], each["note"]) == key
        }
        name = {PUBLISHED: f"{row}, published", MEASURED: f"{row}, {note or 'measured'}", NULL: f"null: {row}"}[kind]
        cells.append([name, *(_cell(own.get((part.layout, metric))) for part, metric in columns)])
    return "\n".join(
        [f"## Table {table.number}: {table.title}", "", *_facts(table, dataset, found), "", *grid(cells), ""]
    )


def heading(metric: str) -> str:
    """A metric as the paper's tables print it."""
    name, _, at = metric.partition("@")
    known = {"ciou": "CIoU", "iou": "IoU", "pxap": "PxAP"}
    return known.get(name, name.upper()) + (f"@{at}" if at else "")


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    text = f"{100 * record['value']:.1f}" + ("*" if record["star"] else "")
    if record.get("low") is None:
        return text
    return f"{text} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def _facts(table: PaperTable, dataset: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for part in parts(table, dataset):
        own = [each for each in found if each["layout"] == part.layout and each["kind"] != PUBLISHED]
        of = {(each["scenes"], f"{each['scenes_hash']}{of_clips(each['preprocessing'])}") for each in own}
        lines += [f"- {part.head}: protocol {part.protocol}, {scenes} scenes {hashed}" for scenes, hashed in sorted(of)]
        if not own:
            lines.append(f"- {part.head}: nothing measured")
    lines.append(
        "- percent; * the best pairing of maps with sources was taken; 95 % intervals by bootstrap over videos"
    )
    return lines


def comma_separated(found: Sequence[Mapping[str, Any]]) -> str:
    """The records of one table as CSV, shares of 1."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()
