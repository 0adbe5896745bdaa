"""Leaks between splits: a video, a group (a speaker) or a file that is in more than one split."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from raymix.data.importers.duplicates import find_duplicates, source_fingerprint
from raymix.data.media import MediaSource
from raymix.data.prepared import LEAKS_FILE
from raymix.runtime.storage import resolve_uri, write_atomic

MAX_LEAKS_SHOWN = 5  # in a message

_Places = defaultdict[str, set[tuple[str, str]]]  # (split, source id) by name


@dataclass(frozen=True)
class SplitLeak:
    """Something that is in two splits."""

    kind: str  # video, group, file
    name: str  # of a file its fingerprint
    places: tuple[tuple[str, str], ...]  # (split, source id)

    def __str__(self) -> str:
        if self.kind == "file":
            return f"one file as {', '.join(f'{name} ({split})' for split, name in self.places)}"
        return f"{self.kind} {self.name} in {' and '.join(sorted({split for split, _ in self.places}))}"


def find_source_leaks(sources: Iterable[MediaSource]) -> list[SplitLeak]:
    """Return the videos and groups that are in two splits."""
    videos, groups = _Places(set), _Places(set)
    for source in sources:
        if source.split and source.refused is None:
            videos[source.video_name].add((source.split, source.name))
            groups[source.group_name].add((source.split, source.name))
    leaks = [SplitLeak("video", name, tuple(sorted(at))) for name, at in sorted(videos.items()) if _in_two_splits(at)]
    only_groups = {name: at for name, at in groups.items() if _in_two_splits(at) and name not in videos}
    return leaks + [SplitLeak("group", name, tuple(sorted(at))) for name, at in sorted(only_groups.items())]


def find_media_leaks(entries: Iterable[Mapping[str, Any]]) -> list[SplitLeak]:
    """Return the media files that are in two splits, by their fingerprints.

    Args:
        entries: manifest rows as dictionaries.
    """
    files = _Places(set)
    for entry in entries:
        if entry["media"] and entry["clips"]:
            files[entry["media"]].add((entry["split"], entry["id"]))
    return [SplitLeak("file", media, tuple(sorted(at))) for media, at in files.items() if _in_two_splits(at)]


def find_duplicate_leaks(root: str, sources: Sequence[MediaSource]) -> list[SplitLeak]:
    """Return the files below `root` with the same content that are in two splits."""
    return [
        SplitLeak("file", source_fingerprint(root, group[0]), tuple(sorted((each.split, each.name) for each in group)))
        for group in find_duplicates(root, sources)
        if len({each.split for each in group}) > 1
    ]


def check_leaks_allowed(leaks: Sequence[SplitLeak], directory: str, allow: bool) -> None:
    """Raise ValueError where there are leaks and they are not allowed.

    Leaks that are allowed, and leaks too many for the message, are written to `leaks.csv` in `directory`.
    """
    if not leaks:
        return
    write_file = allow or len(leaks) > MAX_LEAKS_SHOWN
    if write_file:
        write_leaks(leaks, directory)
    if allow:
        return
    more = (
        f" and {len(leaks) - MAX_LEAKS_SHOWN} more, all in {directory.rstrip('/')}/{LEAKS_FILE}" if write_file else ""
    )
    shown = "; ".join(map(str, leaks[:MAX_LEAKS_SHOWN]))
    raise ValueError(f"leaks between splits: {shown}{more}; dataset.allow_leaks=true continues anyway")


def write_leaks(leaks: Sequence[SplitLeak], directory: str) -> None:
    """Write `leaks.csv` with the columns kind,name,split,id, a row for each place."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("kind", "name", "split", "id"))
    rows.writerows((leak.kind, leak.name, split, name) for leak in leaks for split, name in leak.places)
    filesystem, path = resolve_uri(directory)
    write_atomic(filesystem, f"{path}/{LEAKS_FILE}", text.getvalue().encode())


def delete_leaks_file(directory: str) -> None:
    """Delete the `leaks.csv` of an earlier attempt."""
    filesystem, path = resolve_uri(directory)
    if filesystem.get_file_info(f"{path}/{LEAKS_FILE}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{LEAKS_FILE}")


def _in_two_splits(places: Iterable[tuple[str, str]]) -> bool:
    return len({split for split, _ in places}) > 1
