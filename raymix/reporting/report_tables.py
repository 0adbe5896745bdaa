"""Parts of rendered reports: tables in Markdown and CSV, numbers with interval and mark, headings of metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymix.reporting.report import LEGEND

_ORDER = (
    "sounding_accuracy",
    "ciou",
    "iou",
    "ap",
    "cap",
    "piap",
    "auc",
)  # columns of metrics; others follow


@dataclass(frozen=True)
class ReportTable:
    """A table of text cells.

    Attributes:
        columns: the headings.
        rows: cells of each row, as many as there are columns.
        above, below: lines before and after the table.
    """

    columns: list[str]
    rows: list[list[str]]
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    def markdown(self) -> list[str]:
        """Returns the lines of the table in Markdown, also readable as plain text."""
        return [*self.above, "", *grid([self.columns, *self.rows]), *self.below]


def grid(cells: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table with aligned columns; the first row of cells is its head."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def comma_separated(fields: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """Returns records as CSV with these columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def metric_order(metric: str) -> tuple[int, str]:
    """Returns the key that sorts metrics as columns of a table."""
    kind = metric.rstrip("*").partition("@")[0]
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER)), metric


def metric_heading(metric: str) -> str:
    """Returns a metric as the paper's tables print it: `ciou@0.3` as `CIoU@0.3`."""
    name, _, at = metric.partition("@")
    known = {"ciou": "CIoU", "iou": "IoU", "pxap": "PxAP"}
    return known.get(name, name.upper()) + (f"@{at}" if at else "")


def number_text(number: Mapping[str, Any] | None, empty: str = "", star: str = "") -> str:
    """Returns a number with its interval and mark, as `0.500 [0.400, 0.600] †`.

    Args:
        number: `value`, `low`, `high` and `mark` of a scores record; `empty` is returned for None.
        star: written directly after the value.
    """
    if number is None:
        return empty
    text = f"{number['value']:.3f}{star}"
    if number.get("low") is not None:
        text += f" [{number['low']:.3f}, {number['high']:.3f}]"
    return f"{text} {number.get('mark', '')}".rstrip()


def legend_of(lines: Iterable[str]) -> list[str]:
    """Returns the meaning of each mark in these lines."""
    text = "\n".join(lines)
    return [meaning for mark, meaning in LEGEND.items() if mark in text]
