"""What an importer gets (a source file), what it answers (clips, a row of the manifest), who is in which split."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from raymix.clip import Clip
from raymix.config import Dataset

STATUSES = ("ok", "corrupt", "no video", "no audio", "silent", "too short", "error", "missing", "unlisted")


@dataclass(frozen=True)
class Source:
    """One input file: its path below the root (with '/'), its split ('' = leave out) and what is known about it."""

    path: str
    split: str
    size_bytes: int = -1  # -1: no such file, or not made yet
    labels: tuple[str, ...] = ()
    regions: tuple[dict[str, Any], ...] = ()  # entries of the region sidecar, see `folder`


@dataclass
class Entry:
    """One row of the manifest: what became of one input file."""

    file: str
    split: str
    status: str = "ok"
    reason: str = ""
    clips: int = 0
    silent_clips: int = 0
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0  # px, as displayed
    height: int = 0
    rotation: int = 0  # degrees counter-clockwise that the file asks for
    sample_rate: int = 0
    channels: int = 0
    size_bytes: int = -1


class Unusable(Exception):
    """A file gives no (more) clips; `status` is one of STATUSES, the message is the reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Importer(Protocol):
    """The contract of a module in `raymix.datasets`."""

    def sources(self, settings: Dataset) -> list[Source]:
        """Every input file, in the order of the shards; ValueError where the settings or the folder are wrong."""

    def clips(self, settings: Dataset, source: Source, entry: Entry) -> Iterator[Clip]:
        """The clips of one file, in time; fills `entry`, raises Unusable where the file ends being one."""


def same_name(path: str) -> str:
    """The path as every file system spells it: '/' between folders and composed Unicode."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def draw(seed: int, path: str) -> float:
    """A number in [0, 1) that belongs to (seed, path): no other file, machine or order changes it."""
    digest = hashlib.blake2b(f"{seed}:{same_name(path)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(settings: Dataset, path: str) -> str:
    """train, val or test for a video, by its seeded hash and the shares `val` and `test`."""
    number = draw(settings.seed, path)
    if number < settings.test:
        return "test"
    return "val" if number < settings.test + settings.val else "train"


def shuffled(settings: Dataset, sources: list[Source]) -> list[Source]:
    """The sources in a fixed order that mixes folders, so that the rows of a shard are varied."""
    return sorted(sources, key=lambda source: (draw(settings.seed + 1, source.path), source.path))
