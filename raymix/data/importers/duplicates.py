"""Video files with the same content: finding them, and leaving all but one of them out of a dataset."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from raymix.data.media import MediaSource, media_fingerprint
from raymix.runtime.storage import resolve_uri

STATUS = "duplicate"

BLOCK_BYTES = 8 << 20  # of a file in memory at once

READERS = 8  # files that are read at once


def drop_duplicates(root: str, sources: Sequence[MediaSource], splits_given: bool) -> list[MediaSource]:
    """Return the sources with all but one of each group of identical files marked as duplicates.

    Of a group, a file with regions is used, else the first by name; it gets the class names and regions of all. The
    others get an empty split and a reason that names the file in use. Only files of equal size are opened.

    Args:
        root: folder of the videos.
        sources: the videos; only those with a split are compared.
        splits_given: whether a split file assigns the splits. Identical files that it puts into different splits are
            not changed: `raymix.data.preparation.split_leaks` reports them. Otherwise files with the same fingerprint
            are moved into one split.
    """
    result = {source.path: source for source in sources}
    same_fingerprint = _group_by_digest(root, _comparable(sources), source_fingerprint)
    for group in same_fingerprint if not splits_given else ():
        first, *others = sorted(group, key=lambda source: source.name)
        note = f"in one split with {first.name}, which has the same size, beginning and end"
        for other in others:
            result[other.path] = replace(other, split=first.split, repairs=(*other.repairs, note))
    for group in (part for each in same_fingerprint for part in _group_by_digest(root, each, _content_digest)):
        if splits_given and len({source.split for source in group}) > 1:
            continue
        first, *others = sorted(group, key=lambda source: (not source.regions, source.name))
        labels = tuple(dict.fromkeys(label for source in (first, *others) for label in source.labels))
        regions = tuple({repr(each): each for source in (first, *others) for each in source.regions}.values())
        result[first.path] = replace(result[first.path], labels=labels, regions=regions, repairs=first.repairs)
        for other in others:
            refused = (STATUS, f"same content as {first.name}, which is used")
            result[other.path] = replace(other, split="", refused=refused)
    return [result[source.path] for source in sources]


def find_duplicates(root: str, sources: Sequence[MediaSource]) -> list[list[MediaSource]]:
    """Return the groups of two or more sources with a split whose files have the same content."""
    same_fingerprint = _group_by_digest(root, _comparable(sources), source_fingerprint)
    return [group for each in same_fingerprint for group in _group_by_digest(root, each, _content_digest)]


def source_fingerprint(root: str, source: MediaSource) -> str:
    """Return the fingerprint of a source's file, '' where it cannot be read (preparation reports that later)."""
    filesystem, path = resolve_uri(root)
    try:
        return media_fingerprint(filesystem, [f"{path}/{source.path}"])
    except OSError:
        return ""


def _comparable(sources: Iterable[MediaSource]) -> list[MediaSource]:
    return [source for source in sources if source.split and source.refused is None]


def _group_by_digest(
    root: str, sources: Iterable[MediaSource], digest: Callable[[str, MediaSource], str]
) -> list[list[MediaSource]]:
    """Groups of two or more sources of equal size and digest; a file whose size is unique is not opened."""
    by_size = defaultdict[int, list[MediaSource]](list)
    for source in sources:
        if source.size_bytes > 0:
            by_size[source.size_bytes].append(source)
    candidates = [source for group in by_size.values() if len(group) > 1 for source in group]
    groups = defaultdict[tuple[int, str], list[MediaSource]](list)
    with ThreadPoolExecutor(READERS) as pool:
        for source, value in zip(candidates, pool.map(lambda each: digest(root, each), candidates), strict=True):
            groups[source.size_bytes, value].append(source)
    return [group for (_, value), group in groups.items() if value and len(group) > 1]


def _content_digest(root: str, source: MediaSource) -> str:
    """A hash of all bytes of a file, '' where it cannot be read."""
    filesystem, path = resolve_uri(root)
    digest = hashlib.blake2b(digest_size=16)
    try:
        with filesystem.open_input_stream(f"{path}/{source.path}") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()
