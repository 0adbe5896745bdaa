"""What must not be in two splits: a video, a speaker (the group of a source), or one and the same file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from raymix.datasets.source import Source

SHOWN = 5


def of_sources(sources: Iterable[Source]) -> list[str]:
    """The videos and groups that are in two splits, a line each."""
    videos, groups = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for source in sources:
        if source.split and source.refused is None:
            videos[source.film].add(source.split)
            groups[source.unit].add(source.split)
    found = [f"video {name} in {_names(splits)}" for name, splits in sorted(videos.items()) if len(splits) > 1]
    own = {name: splits for name, splits in groups.items() if len(splits) > 1 and name not in videos}
    return found + [f"group {name} in {_names(splits)}" for name, splits in sorted(own.items())]


def of_media(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The files that are in two splits under different names, a line each, by their fingerprints."""
    same = defaultdict[str, list[tuple[str, str]]](list)
    for entry in entries:
        if entry["media"] and entry["clips"]:
            same[entry["media"]].append((entry["split"], entry["id"]))
    return [
        f"one file as {', '.join(f'{name} ({split})' for split, name in sorted(rows))}"
        for rows in same.values()
        if len({split for split, _ in rows}) > 1
    ]


def refuse(leaks: list[str]) -> None:
    """ValueError with the list, where there is one."""
    if leaks:
        more = f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        raise ValueError(
            f"leaks between splits: {'; '.join(leaks[:SHOWN])}{more}; dataset.allow_leaks=true goes on anyway"
        )


def _names(splits: set[str]) -> str:
    return " and ".join(sorted(splits))
