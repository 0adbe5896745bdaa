"""What must not be in two splits: a video, a speaker (the group of a source), or one and the same file."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from raymix.data.importers.base import MediaSource
from raymix.data.importers.duplicates import find_duplicates, source_fingerprint
from raymix.runtime.storage import resolve_uri, write_atomic

SHOWN = 5

LEAKS_FILE = "leaks.csv"


@dataclass(frozen=True)
class SplitLeak:
    """One thing that is in two splits, and under which ids in which."""

    kind: str  # video, group, file
    name: str  # of a file its fingerprint
    found: tuple[tuple[str, str], ...]  # (split, id)

    def __str__(self) -> str:
        if self.kind == "file":
            return f"one file as {', '.join(f'{name} ({split})' for split, name in self.found)}"
        return f"{self.kind} {self.name} in {' and '.join(sorted({split for split, _ in self.found}))}"


def find_source_leaks(sources: Iterable[MediaSource]) -> list[SplitLeak]:
    """The videos and groups that are in two splits."""
    videos, groups = defaultdict[str, set[tuple[str, str]]](set), defaultdict[str, set[tuple[str, str]]](set)
    for source in sources:
        if source.split and source.refused is None:
            videos[source.film].add((source.split, source.name))
            groups[source.unit].add((source.split, source.name))
    found = [SplitLeak("video", name, tuple(sorted(of))) for name, of in sorted(videos.items()) if _several(of)]
    own = {name: of for name, of in groups.items() if _several(of) and name not in videos}
    return found + [SplitLeak("group", name, tuple(sorted(of))) for name, of in sorted(own.items())]


def find_media_leaks(entries: Iterable[Mapping[str, Any]]) -> list[SplitLeak]:
    """The files that are in two splits under different names, by their fingerprints."""
    same = defaultdict[str, set[tuple[str, str]]](set)
    for entry in entries:
        if entry["media"] and entry["clips"]:
            same[entry["media"]].add((entry["split"], entry["id"]))
    return [SplitLeak("file", media, tuple(sorted(of))) for media, of in same.items() if _several(of)]


def find_duplicate_leaks(root: str, sources: Sequence[MediaSource]) -> list[SplitLeak]:
    """The files of one content that are in two splits."""
    return [
        SplitLeak("file", source_fingerprint(root, of[0]), tuple(sorted((each.split, each.name) for each in of)))
        for of in find_duplicates(root, sources)
        if len({each.split for each in of}) > 1
    ]


def check_leaks_allowed(leaks: Sequence[SplitLeak], directory: str, allow: bool) -> None:
    """ValueError with the list, where there is one and it is not allowed; what a line does not show is in a file beside.

    Of an allowed list the whole is in the file, whatever its length.
    """
    if not leaks:
        return
    whole = allow or len(leaks) > SHOWN
    if whole:
        write_leaks(leaks, directory)
    if allow:
        return
    more = f" and {len(leaks) - SHOWN} more, all in {directory.rstrip('/')}/{LEAKS_FILE}" if whole else ""
    shown = "; ".join(map(str, leaks[:SHOWN]))
    raise ValueError(f"leaks between splits: {shown}{more}; dataset.allow_leaks=true goes on anyway")


def write_leaks(leaks: Sequence[SplitLeak], directory: str) -> None:
    """All of them as a CSV in the folder: kind,name,split,id, a row for each place where one is."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("kind", "name", "split", "id"))
    rows.writerows((leak.kind, leak.name, split, name) for leak in leaks for split, name in leak.found)
    filesystem, path = resolve_uri(directory)
    write_atomic(filesystem, f"{path}/{LEAKS_FILE}", text.getvalue().encode())


def delete_leaks_file(directory: str) -> None:
    """Take away the list that an earlier attempt left."""
    filesystem, path = resolve_uri(directory)
    if filesystem.get_file_info(f"{path}/{LEAKS_FILE}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{LEAKS_FILE}")


def _several(found: Iterable[tuple[str, str]]) -> bool:
    return len({split for split, _ in found}) > 1
