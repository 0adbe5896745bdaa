"""Files of one content among the videos of a folder: one of them is used, so that no video is in two splits or in twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pyarrow import fs

from raymix.data.extraction.clips import media_fingerprint
from raymix.data.importers.base import MediaSource
from raymix.data.preparation.split_leaks import SplitLeak
from raymix.runtime.storage import resolve_uri

STATUS = "duplicate"

BLOCK = 8 << 20  # bytes of a file in memory at once

READERS = 8  # files that are read at once


def drop_duplicates(root: str, sources: Sequence[MediaSource], given: bool) -> list[MediaSource]:
    """The sources, of which all but one of each content are left out, with a reason that names the one that is used.

    Only files of one size are opened, so the videos of an ordinary folder cost nothing. The one that is used is one with
    regions, else the first by name; it has the class names and regions of all.

    Args:
        root: the folder of the videos.
        sources: the videos; only those that are in a split are compared.
        given: whether a list says who is in which split. Files of one content that it puts into different splits stay
            as they are: `leaks` finds and reports them.
    """
    kept = {source.path: source for source in sources}
    used = [source for source in sources if source.split and source.refused is None]
    alike = _same(root, used, _ends)
    for of in alike if not given else ():  # what `leaks` compares must not be in two splits
        first, *others = sorted(of, key=lambda source: source.name)
        said = f"in one split with {first.name}, which has the same size, beginning and end"
        for other in others:
            kept[other.path] = replace(other, split=first.split, repairs=(*other.repairs, said))
    for of in (part for each in alike for part in _same(root, each, _content)):
        if len({source.split for source in of}) > 1 and given:
            continue
        first, *others = sorted(of, key=lambda source: (not source.regions, source.name))
        labels = tuple(dict.fromkeys(label for source in (first, *others) for label in source.labels))
        regions = tuple({repr(each): each for source in (first, *others) for each in source.regions}.values())
        kept[first.path] = replace(kept[first.path], labels=labels, regions=regions, repairs=first.repairs)
        for other in others:
            refused = (STATUS, f"same content as {first.name}, which is used")
            kept[other.path] = replace(other, split="", refused=refused)
    return [kept[source.path] for source in sources]


def duplicates_across_splits(root: str, sources: Sequence[MediaSource]) -> list[SplitLeak]:
    """Files of one content that are in different splits."""
    used = [source for source in sources if source.split and source.refused is None]
    found = [of for each in _same(root, used, _ends) for of in _same(root, each, _content)]
    return [
        SplitLeak(
            "file",
            media_fingerprint(*_located(root, of[0])),
            tuple(sorted((source.split, source.name) for source in of)),
        )
        for of in found
        if len({source.split for source in of}) > 1
    ]


def _same(
    root: str, sources: Iterable[MediaSource], digest: Callable[[str, MediaSource], str]
) -> list[list[MediaSource]]:
    """The sources of one size and one digest, two or more together; those of a size of their own are not opened."""
    by_size, found = defaultdict[int, list[MediaSource]](list), defaultdict[tuple[int, str], list[MediaSource]](list)
    for source in sources:
        if source.size_bytes > 0:
            by_size[source.size_bytes].append(source)
    several = [source for of in by_size.values() if len(of) > 1 for source in of]
    with ThreadPoolExecutor(READERS) as pool:
        for source, value in zip(several, pool.map(lambda source: digest(root, source), several), strict=True):
            found[source.size_bytes, value].append(source)
    return [of for (_, value), of in found.items() if value and len(of) > 1]


def _located(root: str, source: MediaSource) -> tuple[fs.FileSystem, list[str]]:
    filesystem, path = resolve_uri(root)
    return filesystem, [f"{path}/{source.path}"]


def _ends(root: str, source: MediaSource) -> str:
    """The fingerprint of a file, '' where it cannot be read: that is found, and said, where it is prepared."""
    try:
        return media_fingerprint(*_located(root, source))
    except OSError:
        return ""


def _content(root: str, source: MediaSource) -> str:
    """A hash of all bytes of a file, '' where it cannot be read."""
    filesystem, [path] = _located(root, source)
    digest = hashlib.blake2b(digest_size=16)
    try:
        with filesystem.open_input_stream(path) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()
