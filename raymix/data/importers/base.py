"""What an importer is: sources in, clips out, one manifest row a source; splits by seeded hash; published lists with hashes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.records import ClipRecord, ManifestRow
from raymix.runtime import storage

# "repaired": all its clips are there, and something of its annotation or of its sound was mended or left out; "leaked":
# left out, since a list of another split or of another set has it; "duplicate": left out, since a file of the same content
# is used; "no face": its clips are there, without the truth looked for.
STATUSES = (
    "ok",
    "repaired",
    "corrupt",
    "no video",
    "no audio",
    "silent",
    "too short",
    "error",
    "missing",
    "unlisted",
    "leaked",
    "duplicate",
    "no face",
)

BROKEN_LINK = ("missing", "link to nothing")  # status and reason


@dataclass(frozen=True)
class MediaSource:
    """What becomes one run of clips: a medium below the root (paths with '/'), its split, and what is known about it.

    Times are seconds on the medium's own clock, which begins with its first frame.
    """

    path: str  # a video, a picture, or a folder of pictures
    split: str  # '' = leave out
    size_bytes: int = -1  # -1: no such file, or not made yet
    labels: tuple[str, ...] = ()
    regions: tuple[dict[str, Any], ...] = ()  # entries of the region sidecar, see `folder`
    sound: str = ""  # the sound file that belongs to the pictures; '' where the medium holds its sound
    id: str = ""  # what its publisher calls it; '': the path
    video: str = ""  # which video it is of; '': the path
    group: str = ""  # unit of independence, never in two splits; '': the video
    at: tuple[float, ...] = ()  # one clip around each of these times, whose first frame is that of the time itself
    span: tuple[float, float] | None = None  # only from here to here: the publisher's clip in a whole video
    repairs: tuple[str, ...] = ()  # what was mended in its annotation
    refused: tuple[str, str] | None = None  # (status, reason): known to give nothing before the medium is opened

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.id or normalize_path(self.path)

    @property
    def film(self) -> str:
        """The video that its clips are of."""
        return self.video or self.name

    @property
    def unit(self) -> str:
        """The video, or the speaker: what must not be in two splits."""
        return self.group or self.film

    def manifest_row(self) -> ManifestRow:
        """The manifest row of this source before anything of it is read."""
        return ManifestRow(
            self.path,
            self.split,
            self.name,
            self.unit,
            size_bytes=self.size_bytes,
            repairs=len(self.repairs),
            video=self.film,
        )


FEWEST = 6  # videos of val and of test

SCENE = 4  # videos of the largest scene


class UnusableMediaError(Exception):
    """A file gives no (more) clips; `status` is one of STATUSES, the message is the reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class MediaRootLostError(ValueError):
    """The folder of the media is gone in the middle of the work."""


ImportClips = Callable[[DatasetConfig, MediaSource, ManifestRow], Iterator[ClipRecord]]


class DatasetImporter(Protocol):
    """The contract of a module in `raymix.data.importers.registry`."""

    OPTIONAL_SETTINGS: tuple[
        str, ...
    ]  # settings that it reads and not every importer does: others do not decide what is in its rows

    def list_sources(self, settings: DatasetConfig) -> list[MediaSource]:
        """Every id that the publisher lists, in the order of the shards; ValueError where settings or files are wrong."""

    def import_clips(self, settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
        """The clips of one source, in time; fills `entry`, raises Unusable where it ends being one."""


def normalize_path(path: str) -> str:
    """The path as every file system spells it: '/' between folders and composed Unicode."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


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


def media_fingerprint(filesystem: fs.FileSystem, paths: list[str]) -> str:
    """A hash of the size, the first and the last mebibyte of files: two media with the same one are the same files."""
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        with filesystem.open_input_file(path) as file:
            size = file.size()
            ends = (
                file.read_at(min(FINGERPRINT_BYTES, size), 0),
                file.read_at(min(FINGERPRINT_BYTES, size), max(0, size - FINGERPRINT_BYTES)),
            )
        digest.update(b"".join((str(size).encode(), *ends)))
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


FINGERPRINT_BYTES = 1 << 20  # bytes at either end of a medium that its fingerprint reads

FRAME_RATE_SETTING = "dataset.frames_per_second"

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")

SECOND_FOLDER = re.compile(r"frame_\d+")
