"""Media files that clips are cut from: what is known of one before it is opened, and the manifest row of its import.

Importers (`raymix.data.importers`) list `MediaSource`s, `raymix.data.extraction` decodes them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

# "repaired": all its clips are there, and something of its annotation or its sound was repaired or left out; "leaked": left
# out because a list of another split or of another dataset has it; "duplicate": left out because a file with the same
# content is used; "no face": its clips are there, without the ground truth that was searched for.
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

FINGERPRINT_BYTES = 1 << 20  # read at either end of a file

FRAME_RATE_SETTING = "dataset.frames_per_second"

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")

SECOND_FOLDER = re.compile(r"frame_\d+")


class UnusableMediaError(Exception):
    """A media file gives no (more) clips.

    Args:
        status: one of STATUSES.
        reason: the message.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class MediaRootLostError(ValueError):
    """The root folder of the media files has disappeared during preparation."""


@dataclass
class ManifestRow:
    """A row of the manifest: how the import of one source ended."""

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
    repairs: int = 0  # in its annotation
    media: str = ""  # `media_fingerprint` of its file
    video: str = ""  # name of the video in its clips


@dataclass(frozen=True)
class MediaSource:
    """A media file, or images with an audio file, below `dataset.root`, with its split and annotations.

    Paths have '/' between folders. Times are seconds on the clock of the medium, which begins with its first frame.
    """

    path: str  # a video, an image, or a folder of images
    split: str  # '': in no split
    size_bytes: int = -1  # -1: no such file, or not made yet
    labels: tuple[str, ...] = ()
    regions: tuple[dict[str, Any], ...] = ()  # entries of the region sidecar, see `raymix.data.importers.folder`
    sound: str = ""  # audio file of the images; '': the audio is in the medium itself
    id: str = ""  # the publisher's id; '': the path
    video: str = ""  # the video that it is part of; '': its name
    group: str = ""  # what must not be in two splits, such as a speaker; '': the video
    at: tuple[float, ...] = ()  # one clip around each of these times, with the first frame at that time
    span: tuple[float, float] | None = None  # only this part: the publisher's clip in a whole video
    repairs: tuple[str, ...] = ()  # what was repaired in its annotation
    refused: tuple[str, str] | None = None  # (status, reason), where it is unusable before it is opened

    @property
    def name(self) -> str:
        """Its id in the manifest."""
        return self.id or normalize_path(self.path)

    @property
    def video_name(self) -> str:
        """The video in the rows of its clips."""
        return self.video or self.name

    @property
    def group_name(self) -> str:
        """The group in the rows of its clips."""
        return self.group or self.video_name

    def manifest_row(self) -> ManifestRow:
        """Return the manifest row of this source before anything of it is read."""
        return ManifestRow(
            self.path,
            self.split,
            self.name,
            self.group_name,
            size_bytes=self.size_bytes,
            repairs=len(self.repairs),
            video=self.video_name,
        )


def normalize_path(path: str) -> str:
    """Return a path with '/' between folders and composed Unicode, the same on all file systems."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def media_fingerprint(filesystem: fs.FileSystem, paths: list[str]) -> str:
    """Return a hash of the size, the first and the last mebibyte of files; equal for identical files."""
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
