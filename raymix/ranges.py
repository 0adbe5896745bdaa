"""What becomes of the YAML of a search space before it is read: a recipe's ranges, and values of the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from raymix.expression import Expression

MARK = "recipe_ranges"  # of a space in which a recipe may replace ranges


def of_recipe(own: Mapping[str, Any], ranges: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A space in which `ranges` replace those of the same name, where it says `recipe_ranges: true`.

    The only point that is tried first is then that of `settings` ({dotted name: value}), the recipe's own.
    """
    space = {name: value for name, value in own.items() if name != MARK}
    if not own.get(MARK) or not ranges:
        return space
    entries = {name: _replaced(entry, ranges.get(name)) for name, entry in (own.get("space") or {}).items()}
    start = {n: settings[n] for n, entry in entries.items() if n in settings and holds(entry, settings[n])}
    start = {name: value for name, value in start.items() if _active(entries[name], settings)}
    return {**space, "space": entries, "first": [start] if start else []}


def _replaced(entry: Any, by: Any) -> Any:
    if by is None:
        return entry
    condition = {"when": entry["when"]} if isinstance(entry, Mapping) and entry.get("when") is not None else {}
    return {**by, **condition}


def without(own: Mapping[str, Any], given: Collection[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A space that does not search the names in `given`, whose values stand in `settings`.

    Points to try first lose these values, and those of parameters whose condition no longer holds.
    """
    entries = {name: entry for name, entry in (own.get("space") or {}).items() if name not in given}
    first = []
    for point in own.get("first") or []:
        if isinstance(point, Mapping):
            left = {name: value for name, value in point.items() if name not in given}
            values = {**settings, **left}
            point = {n: v for n, v in left.items() if n not in entries or _active(entries[n], values)}
            if not point:
                continue
        first.append(point)
    fixed = {name: value for name, value in (own.get("fixed") or {}).items() if name not in given}
    return {**own, "space": entries, "first": first, "fixed": fixed}


def _active(entry: Any, values: Mapping[str, Any]) -> bool:
    """Whether the condition of a parameter holds; what is no condition is refused where the space is read."""
    condition = entry.get("when") if isinstance(entry, Mapping) else None
    try:
        return condition is None or bool(Expression(condition)(values))
    except (ValueError, KeyError):
        return True


def holds(entry: Any, value: Any) -> bool:
    """Whether a range has this value; what is no range at all is refused where the space is read."""
    if not isinstance(entry, Mapping):
        return False
    for kind in ("float", "int"):
        span = entry.get(kind)
        if isinstance(span, list) and len(span) == 2 and not entry.get("step"):
            numbers = all(isinstance(each, int | float) for each in (*span, value))
            return numbers and span[0] <= value <= span[1]
    return value in (entry.get("categorical") or [])
