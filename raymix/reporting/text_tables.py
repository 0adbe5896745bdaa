"""Text tables that fit a terminal: one line a row, short column names with a legend, and no wrapped cells."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

MIN_WIDTH = 20  # columns of a terminal; below this lines are as long as they are

LONGEST_CELL = 16  # of a value that is text

NUMBER_PATTERN = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?%?$|^-?(nan|inf)$|^\d+/\d+$")


@dataclass(frozen=True)
class FittedTable:
    """A table as lines of text, the header first, each no longer than the width; `notes` explain what was shortened."""

    lines: list[str]
    notes: list[str] = field(default_factory=list)


def format_number(value: object, digits: int = 3) -> str:
    """A value in few characters: floats with `digits` significant digits in the shorter of both notations, None as ''."""
    if value is None:
        return ""
    if not isinstance(value, float):
        text = " ".join(str(value).split())
        return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
    plain = f"{value:.{digits}g}"
    if "e" not in plain and value:
        power = re.sub(r"\.?0+e", "e", f"{value:.{digits - 1}e}")
        plain = min(plain, _short_exponent(power), key=len)
    return _short_exponent(plain)


def _short_exponent(text: str) -> str:
    return re.sub(r"e([+-])0*(\d)", lambda found: "e" + found[1].replace("+", "") + found[2], text)


def fit_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, always: int, more: str = ""
) -> FittedTable:
    """Lay out a table in `width` columns.

    What does not fit is shortened in this order: the names of the columns after the first `always` lose their groups, then
    are abbreviated (with a legend), zeros before the point go, and the last of these columns are left out, those with one
    value in all rows first (with a note).

    Args:
        header: full names of the columns; `method.temperature` may become `temperature` or `temp`.
        rows: cells as text, a line each.
        width: columns of the terminal.
        always: how many of the first columns are never renamed or left out.
        more: how to see what is left out, for the note.
    """
    width = max(width, MIN_WIDTH)
    shown = list(range(len(header)))
    short = shorten_names(header, always)
    cells = [list(row) for row in rows]
    for longest, gap, zeros in ((None, 2, True), (5, 2, True), (4, 1, True), (3, 1, False)):
        if not zeros:
            cells = [[re.sub(r"^(-?)0\.", r"\1.", cell) for cell in row] for row in cells]
        names = short if longest is None else _abbreviated(short, cells, longest, always)
        if _total(names, cells, shown, gap) <= width:
            break
    dropped = []
    while _total(names, cells, shown, gap) > width and len(shown) > always:
        constant = [i for i in shown[always:] if len({row[i] for row in cells}) == 1]
        dropped.append((constant or shown[always:])[-1])
        shown.remove(dropped[-1])
    lines = _aligned([names[i] for i in shown], [[row[i] for i in shown] for row in cells], gap)
    legend = [f"{names[i]} = {header[i]}" for i in shown[always:] if names[i] not in header[i].split(".")]
    notes = wrap_text("; ".join(legend), width) if legend else []
    if dropped:
        notes += wrap_text(f"not shown: {', '.join(header[i] for i in sorted(dropped))}{more}", width)
    return FittedTable([truncate_line(line, width) for line in lines], notes)


def shorten_names(names: Sequence[str], always: int = 0) -> list[str]:
    """Each name by as few of its last parts as tell it from the others; the first `always` as they are."""
    found = list(names[:always])
    for name in names[always:]:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            tail = ".".join(parts[-count:])
            same = sum(other == tail or other.endswith(f".{tail}") for other in names)
            if same == 1 or count == len(parts):
                found.append(tail)
                break
    return found


def _abbreviated(names: Sequence[str], cells: Sequence[Sequence[str]], longest: int, always: int) -> list[str]:
    """Names no longer than `longest` or the column's widest cell, all different."""
    found = list(names[:always])
    for place, name in enumerate(names[always:], always):
        width = max([longest, *(len(row[place]) for row in cells)])
        found.append(name if len(name) <= width and name not in found else _abbreviation(name, width, found))
    return found


def _abbreviation(name: str, width: int, taken: Sequence[str]) -> str:
    words = [word for word in re.split(r"[._]", name) if word]
    initials = "".join(word[0] for word in words)
    candidates = [initials[:width]] if len(words) > 1 else []
    candidates += [
        name[: min(width, 4)],
        name[:width],
        *(f"{initials[: max(1, width - 1)]}{digit}" for digit in range(2, 10)),
    ]
    candidates += [f"{initials[:1]}{count}" for count in range(10, 1000)]
    return next(candidate for candidate in candidates if candidate not in taken)


def _widths(names: Sequence[str], cells: Sequence[Sequence[str]], shown: Sequence[int]) -> list[int]:
    return [max([len(names[i]), *(len(row[i]) for row in cells)]) for i in shown]


def _total(names: Sequence[str], cells: Sequence[Sequence[str]], shown: Sequence[int], gap: int) -> int:
    widths = _widths(names, cells, shown)
    return sum(widths) + gap * (len(widths) - 1)


def _aligned(names: list[str], cells: list[list[str]], gap: int) -> list[str]:
    """Lines with numbers to the right and text to the left of their columns."""
    widths = _widths(names, cells, range(len(names)))
    numeric = [
        any(row[i] for row in cells) and all(NUMBER_PATTERN.match(row[i]) for row in cells if row[i])
        for i in range(len(names))
    ]
    return [
        (" " * gap)
        .join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        .rstrip()
        for line in [names, *cells]
    ]


def truncate_line(line: str, width: int) -> str:
    """A line in at most `width` characters, with an ellipsis for what is cut off."""
    return line if len(line) <= width else line[: width - 1] + "…"


def wrap_text(text: str, width: int) -> list[str]:
    """A sentence as lines of at most `width` characters."""
    return textwrap.wrap(text, width, break_long_words=True, break_on_hyphens=False)
