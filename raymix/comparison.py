"""The table of an evaluation: systems by metrics with intervals, marked where a baseline or control reaches them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raymix.protocol import PROTOCOLS
from raymix.scoring import Interval, SystemScores

MARKS = {
    "†": "† the best baseline or control is inside this interval (or there is no interval: all scenes are of one video)",
    "‡": "‡ the best baseline or control is above this interval",
}
_COLUMNS = ("sounding_accuracy", "ciou", "iou", "ap", "cap", "piap", "auc")  # others stand behind them


def table(rows: Sequence[SystemScores], metrics: Sequence[str] | None = None, listed: str = "") -> str:
    """Markdown, also readable as it stands: systems by metrics with intervals, one part for each set of scenes.

    Marks cells of systems that a null system reaches: † a null lies inside the interval, ‡ a null lies above it.
    With `metrics` only these columns, where a part has them; without, all. `listed` says how many scenes of a list these
    are. ValueError where rows of one part were not scored on the same number of scenes, or where no part has a named metric.
    """
    parts: dict[tuple[str, str, str], list[SystemScores]] = {}
    for row in rows:
        parts.setdefault((row.summary.protocol, row.summary.layout, row.summary.scenes_hash), []).append(row)
    for name in metrics or ():
        if not any(name in row.summary for row in rows):
            known = sorted({each for row in rows for each in row.summary})
            raise ValueError(f"metric {name!r} is in none of these tables, they have {', '.join(known)}")
    text = "\n\n".join(_part(part, metrics, listed) for part in parts.values())
    notes = warnings(text)
    return "\n".join([text, *(("",) if notes else ()), *notes])


def warnings(text: str) -> list[str]:
    """What the marks mean that are in this text."""
    return [note for sign, note in MARKS.items() if sign in text]


def _part(rows: Sequence[SystemScores], chosen: Sequence[str] | None, listed: str) -> str:
    first, counts = rows[0].summary, dict[str, int]()
    for row in rows:
        own = row.summary.counts.items()
        alike = all(counts.get(name, count) == count for name, count in own if not _open(row.summary.protocol, name))
        if not alike or row.summary.scenes != first.scenes:
            raise ValueError(
                f"table: {rows[0].system} was scored on {first.scenes} scenes {first.counts}, {row.system} on "
                f"{row.summary.scenes} {row.summary.counts}; one table needs the same scenes"
            )
        counts |= {name: max(row.summary.counts[name], counts.get(name, 0)) for name in row.summary}
    order = sorted(counts, key=place)  # without a star by class names, with one by the best pairing: not all have both
    metrics = order if chosen is None else [name for name in chosen if name in counts]
    heads = [name if counts[name] == first.scenes else f"{name} (n={counts[name]})" for name in metrics]
    cells = [["system", *heads]]
    for row in sorted(rows, key=lambda row: row.null):
        name = f"null: {row.system}" if row.null else row.system
        fewer = [f" (n={n})" if (n := row.summary.counts.get(each)) and n < counts[each] else "" for each in metrics]
        cells.append([name, *(cell(row, each, rows) + n for each, n in zip(metrics, fewer, strict=True))])
    facts = (
        f"protocol {first.protocol}, layout {first.layout}, scenes {first.scenes_hash}{of_clips(first.preprocessing)}"
    )
    of = f"{first.scenes} scenes of {first.videos} videos{listed and f' ({listed})'}, 95 % intervals by bootstrap over videos"
    return "\n".join([f"{facts}: {of} ({first.resamples} resamples, seed {first.seed})", "", *grid(cells)])


def of_clips(preprocessing: str) -> str:
    """Which clips the scenes are made of, to stand behind the hash of the scenes; nothing where it is unknown."""
    return preprocessing and f" of clips {preprocessing}"


def _open(protocol: str, metric: str) -> bool:
    """Whether the prediction decides which scenes a number is of: some published code leaves scenes without maps out."""
    known = PROTOCOLS.get(protocol)
    return metric.startswith("nsa") or (known is not None and known.missing == "drop")


def place(metric: str) -> tuple[int, str]:
    """Where a metric stands in a table."""
    kind = metric.rstrip("*").partition("@")[0]
    return (_COLUMNS.index(kind) if kind in _COLUMNS else len(_COLUMNS)), metric


def grid(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, aligned; the first row of cells is its head."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def cell(row: SystemScores, metric: str, rows: Sequence[SystemScores]) -> str:
    """A number with its interval, marked where the best null among `rows` reaches it; empty where there is none."""
    return _cell(row.summary[metric]) + _mark(row, metric, rows) if metric in row.summary else ""


def _cell(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _mark(row: SystemScores, metric: str, rows: Sequence[SystemScores]) -> str:
    nulls_too = (other.summary for other in rows if other.null)
    best = max((summary[metric].value for summary in nulls_too if metric in summary), default=-math.inf)
    return "" if row.null else mark(row.summary[metric], best)


def mark(interval: Interval, best: float) -> str:
    """† or ‡ where the best null system (-inf: there is none) is not below this interval of a system."""
    if best == -math.inf or best < interval.low:
        return ""
    return " ‡" if best > interval.high else " †"
