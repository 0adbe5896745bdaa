"""The contract of importers, splits by seeded hash, and reading of published lists whose hashes are recorded."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Protocol

from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.media import ManifestRow, MediaSource, normalize_path
from raymix.data.records import ClipRecord
from raymix.runtime import storage

FEWEST = 6  # videos of val and of test

SCENE = 4  # videos of the largest scene


ImportClips = Callable[[DatasetConfig, MediaSource, ManifestRow], Iterator[ClipRecord]]


class DatasetImporter(Protocol):
    """The contract of a module that `raymix.data.importers.registry` loads."""

    # Settings that it reads and some importers ignore. Those of other importers do not change its rows.
    OPTIONAL_SETTINGS: tuple[str, ...]

    def list_sources(self, settings: DatasetConfig) -> list[MediaSource]:
        """Return all ids that the publisher lists, in the order of the shards.

        Raises:
            ValueError: a setting or a list is wrong.
        """

    def import_clips(self, settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
        """Yield the clips of one source in the order of time, and fill its manifest row `entry`.

        Raises:
            UnusableMediaError: the source gives no more clips.
        """


def hash_fraction(seed: int, path: str) -> float:
    """A number in [0, 1) that belongs to (seed, path): no other file, machine or order changes it."""
    digest = hashlib.blake2b(f"{seed}:{normalize_path(path)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign_split(settings: DatasetConfig, path: str) -> str:
    """train, val or test for a video, by its seeded hash and the shares `val` and `test`."""
    number = hash_fraction(settings.seed, path)
    if number < settings.test:
        return "test"
    return "val" if number < settings.test + settings.val else "train"


def assign_splits(settings: DatasetConfig, paths: Sequence[str]) -> dict[str, str]:
    """The split of each video as `assign_split` draws it; in a small set more of them are in val and test.

    A set of 16 videos or more has FEWEST videos in each of the two (a quarter of the set, where that is less), since scenes
    are made of four different ones: those with the next numbers. A share of 0 stays 0.
    """
    order = sorted(paths, key=lambda path: (hash_fraction(settings.seed, path), path))
    fewest = min(FEWEST, len(order) // 4)
    drawn = [assign_split(settings, path) for path in order]
    counts = {}
    for split, share in (("test", settings.test), ("val", settings.val)):
        counts[split] = max(drawn.count(split), fewest if share > 0 and fewest >= SCENE else 0)
    names = [*["test"] * counts["test"], *["val"] * counts["val"]]
    return dict(itertools.zip_longest(order, names[: len(order)], fillvalue="train"))


def shuffle_sources(settings: DatasetConfig, sources: list[MediaSource]) -> list[MediaSource]:
    """The sources in a fixed order that mixes folders, so that the rows of a shard are varied."""
    return sorted(sources, key=lambda source: (hash_fraction(settings.seed + 1, source.name), source.name))


_read: ContextVar[dict[str, str] | None] = ContextVar("read", default=None)


def read_list_bytes(filesystem: fs.FileSystem, path: str) -> bytes:
    """The content of a list, as `storage.read_bytes`; it counts as read for who remembers."""
    content = storage.read_bytes(filesystem, path)
    known = _read.get()
    if known is not None:
        known[path] = _digest(content)
    return content


def read_list_text(uri: str) -> str:
    """The content of a list as text; ValueError in one line where it cannot be read as that."""
    filesystem, path = storage.resolve_uri(uri)
    try:
        return read_list_bytes(filesystem, path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{uri}: cannot be read ({str(error).splitlines()[0]})") from error


@contextlib.contextmanager
def remember_lists() -> Iterator[dict[str, str]]:
    """Path and hash of each list that is read inside."""
    known: dict[str, str] = {}
    token = _read.set(known)
    try:
        yield known
    finally:
        _read.reset(token)


def changed_lists(filesystem: fs.FileSystem, known: Mapping[str, str]) -> list[str]:
    """Which of these lists hold something else now; one that is not there any more does not count."""
    found = []
    for path, digest in known.items():
        if filesystem.get_file_info(path).is_file and _digest(storage.read_bytes(filesystem, path)) != digest:
            found.append(path)
    return found


def content_hash(uri: str) -> str:
    """A short hash of a text file's content, or of what a folder holds."""
    filesystem, path = storage.resolve_uri(uri)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        return listing_hash(uri)
    return hashlib.blake2b(read_list_text(uri).encode(), digest_size=8).hexdigest()


def listing_hash(uri: str) -> str:
    """A short hash of the names and sizes of the files of a folder, or of the one file."""
    filesystem, path = storage.resolve_uri(uri)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.Directory:
        known = sorted((f"/{name}", size) for name, size in storage.list_files(filesystem, path).items())
    else:
        known = [("", info.size)] if info.type == fs.FileType.File else []
    return hashlib.blake2b(json.dumps(known).encode(), digest_size=8).hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
