"""What several systems search in the same range, and what is each one's own: the search spaces of a fair comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymix.ranges import holds

FREE = ("method.", "mixture.k")  # what a system may fix for itself; it searches method.* alone


def shared(own: Mapping[str, Any], space: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A system's space in which only its own knobs are its own, and `space` is what all systems search.

    Points to try first lose what is not searched, and begin for all at the values that the settings have, where these
    lie in the common range.
    """
    searched = {name: entry for name, entry in own["space"].items() if name.startswith("method.") and name not in space}
    fixed = {name: value for name, value in (own.get("fixed") or {}).items() if name.startswith(FREE)}
    start = {name: settings[name] for name, entry in space.items() if name in settings and holds(entry, settings[name])}
    first: list[dict[str, Any]] = []
    for point in own.get("first") or [{}]:
        begun = {name: value for name, value in point.items() if name in searched} | start
        if begun and begun not in first:
            first.append(begun)
    fixed = {name: value for name, value in fixed.items() if name not in space}
    return {"space": {**searched, **space}, "require": own.get("require"), "fixed": fixed, "first": first}
