"""What an importer names (sources), what it answers (clips, a row of the manifest), who is in which split."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raymix.clip import Clip
from raymix.config import Dataset

# "repaired": all its clips are there, and something of its annotation or of its sound was mended or left out; "leaked":
# left out, since a list of another split or of another set has it; "duplicate": left out, since a file of the same content
# is used; "no face": its clips are there, without the truth looked for.
STATUSES = (
    "ok", "repaired", "corrupt", "no video", "no audio", "silent", "too short", "error", "missing", "unlisted", "leaked",
    "duplicate", "no face",
)  # fmt: skip
LINK_TO_NOTHING = ("missing", "link to nothing")  # status and reason


@dataclass(frozen=True)
class Source:
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
        return self.id or same_name(self.path)

    @property
    def film(self) -> str:
        """The video that its clips are of."""
        return self.video or self.name

    @property
    def unit(self) -> str:
        """The video, or the speaker: what must not be in two splits."""
        return self.group or self.film


@dataclass
class Entry:
    """One row of the manifest: what became of one source."""

    file: str
    split: str
    id: str = ""
    group: str = ""
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
    repairs: int = 0  # of its annotation
    media: str = ""  # hash of the medium's size, beginning and end: the same in two rows means the same file
    video: str = ""  # what its clips call it

    @staticmethod
    def of(source: Source) -> Entry:
        """The row of a source of which nothing has been read yet."""
        return Entry(
            source.path,
            source.split,
            source.name,
            source.unit,
            size_bytes=source.size_bytes,
            repairs=len(source.repairs),
            video=source.film,
        )


FEWEST = 6  # videos of val and of test
SCENE = 4  # videos of the largest scene


class Unusable(Exception):
    """A file gives no (more) clips; `status` is one of STATUSES, the message is the reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RootLost(ValueError):
    """The folder of the media is gone in the middle of the work."""


class Importer(Protocol):
    """The contract of a module in `raymix.datasets`."""

    OWN: tuple[str, ...]  # settings that it reads and not every importer does: others do not decide what is in its rows

    def sources(self, settings: Dataset) -> list[Source]:
        """Every id that the publisher lists, in the order of the shards; ValueError where settings or files are wrong."""

    def clips(self, settings: Dataset, source: Source, entry: Entry) -> Iterator[Clip]:
        """The clips of one source, in time; fills `entry`, raises Unusable where it ends being one."""


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


def splits_of(settings: Dataset, paths: Sequence[str]) -> dict[str, str]:
    """The split of each video as `split_of` draws it; in a small set more of them are in val and test.

    A set of 16 videos or more has FEWEST videos in each of the two (a quarter of the set, where that is less), since scenes
    are made of four different ones: those with the next numbers. A share of 0 stays 0.
    """
    order = sorted(paths, key=lambda path: (draw(settings.seed, path), path))
    fewest = min(FEWEST, len(order) // 4)
    drawn = [split_of(settings, path) for path in order]
    counts = {}
    for split, share in (("test", settings.test), ("val", settings.val)):
        counts[split] = max(drawn.count(split), fewest if share > 0 and fewest >= SCENE else 0)
    names = [*["test"] * counts["test"], *["val"] * counts["val"]]
    return dict(itertools.zip_longest(order, names[: len(order)], fillvalue="train"))


def shuffled(settings: Dataset, sources: list[Source]) -> list[Source]:
    """The sources in a fixed order that mixes folders, so that the rows of a shard are varied."""
    return sorted(sources, key=lambda source: (draw(settings.seed + 1, source.name), source.name))
