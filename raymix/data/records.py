"""One Parquet row is one clip of a video with sound: the schema, the way in (`encode_clip`), the way out (`decode_clips`).

The sound is a complex short-time Fourier transform (constants of the paper's section 4.1) in half precision, so that
mixing is an addition and shifting a slice. Every row of a shard is usable; what was not is in `manifest.parquet`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raymix.metrics.regions import ObjectRegion, has_no_sounding_object, masks_by_source, union_mask

SCHEMA_VERSION = 2  # 2: regions have a weight

SPLITS = ("train", "val", "test")

VERSION_KEY, HASH_KEY = b"raymix.schema_version", b"raymix.preprocessing"


_FRAME = pa.struct([("t_s", pa.float64()), ("jpeg", pa.binary()), ("width", pa.int32()), ("height", pa.int32())])

_REGION = pa.struct(
    [
        ("box_xyxy", pa.list_(pa.float32())),
        ("mask", pa.binary()),
        ("label", pa.string()),
        ("sounding", pa.bool_()),
        ("frame", pa.int32()),
        ("weight", pa.float32()),
    ]
)


def clip_schema(preprocessing: str = "") -> pa.Schema:
    """The Arrow schema of a shard; `preprocessing` is the hash of the settings that made it."""
    names = [
        ("clip_id", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("video", pa.string()),
        ("group", pa.string()),
        ("start_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("labels", pa.list_(pa.string())),
        ("frames", pa.list_(_FRAME)),
        ("stft", pa.binary()),
        ("stft_frames", pa.int32()),
        ("stft_bins", pa.int32()),
        ("regions", pa.list_(_REGION)),
        ("status", pa.string()),
    ]
    return pa.schema(names, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode(), HASH_KEY: preprocessing.encode()})


def columns_to_read(truth: bool, labels: bool) -> list[str]:
    """The columns to read: training reads neither regions nor labels, so it cannot learn from them."""
    wanted = ["clip_id", "video", "group", "frames", "stft", "stft_frames", "stft_bins"]
    return wanted + (["labels"] if labels else []) + (["regions", "start_s", "duration_s"] if truth else [])


METADATA_COLUMNS = ("clip_id", "video", "group", "labels", "start_s", "duration_s", "stft_frames", "regions")


@dataclass(frozen=True)
class ClipRecord:
    """What an importer yields before encoding; times in seconds on the video's clock, sound mono at 16 kHz."""

    clip_id: str
    dataset: str
    split: str
    video: str
    group: str
    start_s: float
    duration_s: float
    labels: tuple[str, ...]
    frames: list[np.ndarray]  # uint8 YX3
    frame_times: list[float]
    wave: np.ndarray  # float32, in [-1, 1]
    regions: tuple[ObjectRegion, ...] = ()
    status: str = "ok"


@dataclass
class ManifestRow:
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


class NonFiniteValueError(ValueError):
    """A clip holds NaN or infinite values.

    Args:
        clip_id: which clip.
        what: which of its values, and how many.
        row: its place among the rows that were looked at, from 0.
        where: the file, '' where that is not known.
    """

    def __init__(self, clip_id: str, what: str, row: int = 0, where: str = "") -> None:
        super().__init__(clip_id, what, row, where)  # all of them: an exception is pickled by its arguments
        self.clip_id, self.what, self.row, self.where = clip_id, what, row, where

    def __str__(self) -> str:
        place = f"{self.where}, row {self.row} (clip {self.clip_id})" if self.where else f"clip {self.clip_id}"
        return f"{place}: {self.what}"


def describe_non_finite_values(row: Mapping[str, Any], pairs_TF2: np.ndarray) -> str:
    """Which values of a row are not finite, '' where all are; `row` needs only those columns that were read."""
    if count := pairs_TF2.size - int(np.isfinite(pairs_TF2).sum()):
        return f"{count} of {pairs_TF2.size} values of its sound (STFT) are not finite"
    for name in ("start_s", "duration_s"):
        if name in row and not math.isfinite(row[name]):
            return f"{name} is {row[name]}"
    for region in row.get("regions") or ():
        numbers = [*(region["box_xyxy"] or ()), *([] if region["weight"] is None else [region["weight"]])]
        if not all(map(math.isfinite, numbers)):
            return "a box or the weight of one of its regions is not finite"
    return ""


@dataclass
class ClipTable:
    """N decoded clips of one fixed shape, as columns: what mixing and composing read."""

    clip_id: np.ndarray
    video: np.ndarray
    group: np.ndarray
    label: np.ndarray  # the first class name, '' where it is unknown or was not read
    frames: np.ndarray  # uint8 (N, n, Y, X, 3)
    stft: np.ndarray  # float16 (N, T, F, 2)
    masks: np.ndarray | None = None  # bool (N, Y, X): union of the sounding regions of frame 0, of annotators who agree
    halves: np.ndarray | None = (
        None  # bool (N, Y, X): pixels beside these that one annotator alone has; None: none has any
    )
    has_truth: np.ndarray | None = None  # bool (N,)
    quiet: np.ndarray | None = None  # bool (N,): it is told what is seen, and that none of it sounds
    start_s: np.ndarray | None = None  # float64 (N,), on the video's clock; with the truth only
    duration_s: np.ndarray | None = None
    sources: np.ndarray | None = None  # bool (N, S, Y, X): of each sounding source, empty where there are fewer
    source_label: np.ndarray | None = None  # (N, S), '' where it is unknown or there is none
    preprocessing: str = ""  # hash of the settings that made the rows, '' where it is unknown
    regions: np.ndarray | None = None  # object (N,): those of each row, in place of masks (`decode_clip_metadata`)

    def __len__(self) -> int:
        return len(self.clip_id)

    def take(self, index: Sequence[int] | np.ndarray) -> ClipTable:
        """The clips at these positions, in this order."""
        every: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        every = {name: value[index] for name, value in every.items() if isinstance(value, np.ndarray)}
        return replace(self, **every)

    def with_sources(self, count: int, fewer: bool = False) -> ClipTable:
        """The clips in which exactly so many sources sound, with `fewer` also those in which fewer do, but one at least.

        ValueError where there is none of so many, or where no sources were read.
        """
        if self.sources is None:
            raise ValueError("layout=natural: these clips came without the regions of each source")
        count_N = self.sources.any(axis=(2, 3)).sum(axis=1)
        if not (count_N == count).any():
            raise ValueError(
                f"layout=natural: none of {len(self)} clips has regions of exactly {count} sounding source(s)"
            )
        return self.take(np.flatnonzero((count_N >= 1) & (count_N <= count) if fewer else count_N == count))

    @staticmethod
    def concat(parts: Sequence[ClipTable]) -> ClipTable:
        """All clips of all parts; ValueError where there is none or their shapes differ."""
        if not parts:
            raise ValueError("nothing to join: no clips were read")
        shapes = {(part.frames.shape[1:], part.stft.shape[1:], part.masks is None) for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"clips of different shapes cannot be joined: {sorted(map(str, shapes))}")
        every: dict[str, Any] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(ClipTable)}
        if parts[0].sources is not None:
            most = max(each.shape[1] for each in every["sources"])
            for name in ("sources", "source_label"):
                blank = (np.zeros((len(v), most - v.shape[1], *v.shape[2:]), v.dtype) for v in every[name])
                every[name] = [np.concatenate(pair, axis=1) for pair in zip(every[name], blank, strict=True)]
        if any(each is not None for each in every["halves"]):
            both = zip(every["halves"], every["masks"], strict=True)
            every["halves"] = [np.zeros_like(masks) if halves is None else halves for halves, masks in both]
        every = {name: np.concatenate(v) for name, v in every.items() if isinstance(v[0], np.ndarray)}
        return replace(parts[0], **every)


def decode_clips(table: pa.Table, image_size: int, truth: bool, sources: bool = False, where: str = "") -> ClipTable:
    """Rows to arrays: frames and masks squeezed to `image_size` squared.

    Args:
        table: rows of a shard, with the columns that `columns_to_read` names.
        image_size: side of the frames, px.
        truth: also the regions, as masks.
        sources: also the masks of each sounding source for itself.
        where: the file, for messages.

    Raises:
        ValueError: where the rows differ in shape.
        NonFiniteValueError: where a row holds a value that is not finite (a shard of an earlier raymix, or of other software).
    """
    require_columns(table.schema, columns_to_read(truth, labels=False), "these rows")
    bins = set(zip(table["stft_frames"].to_pylist(), table["stft_bins"].to_pylist(), strict=True))
    frame_lists = table["frames"].to_pylist()
    per_clip = {len(frames) for frames in frame_lists}
    if len(bins) > 1 or len(per_clip) > 1:
        raise ValueError(f"rows of one dataset need one shape: STFT {sorted(bins)}, frames per clip {sorted(per_clip)}")
    stft_NTF2 = np.empty((table.num_rows, *(bins.pop() if bins else (0, 0)), 2), np.float16)
    for row, value in enumerate(v for chunk in table["stft"].chunks for v in chunk):
        stft_NTF2[row] = np.frombuffer(value.as_buffer(), np.float16).reshape(stft_NTF2.shape[1:])
    _all_finite(table, stft_NTF2, where)
    frames_NnYX3 = np.empty((table.num_rows, per_clip.pop() if per_clip else 0, image_size, image_size, 3), np.uint8)
    for row, frames in enumerate(frame_lists):
        for position, frame in enumerate(frames):
            frames_NnYX3[row, position] = _picture(frame["jpeg"], image_size)
    regions = table["regions"].to_pylist() if truth or sources else []
    masks, halves, has_truth = union_mask(regions, image_size) if truth else (None, None, None)
    own = masks_by_source(regions, image_size) if sources else (None, None)
    times = [np.array(table[name].to_pylist(), np.float64) if truth else None for name in ("start_s", "duration_s")]
    return ClipTable(
        **_names(table),
        frames=frames_NnYX3,
        stft=stft_NTF2,
        masks=masks,
        halves=halves,
        has_truth=has_truth,
        quiet=has_no_sounding_object(regions) if truth else None,
        start_s=times[0],
        duration_s=times[1],
        sources=own[0],
        source_label=own[1],
    )


def _all_finite(table: pa.Table, stft_NTF2: np.ndarray, where: str) -> None:
    """NonFinite for the first row of a table that holds a value that is not finite."""
    numbers = table.select([name for name in ("start_s", "duration_s", "regions") if name in table.column_names])
    rows = numbers.to_pylist() if numbers.num_columns else [dict[str, Any]()] * table.num_rows
    for place, (row, pairs_TF2) in enumerate(zip(rows, stft_NTF2, strict=True)):
        if what := describe_non_finite_values(row, pairs_TF2):
            raise NonFiniteValueError(table["clip_id"][place].as_py(), what, place, where)


def _names(table: pa.Table) -> dict[str, Any]:
    """What rows say of themselves, as columns of `ClipTable`."""
    labels = table["labels"].to_pylist() if "labels" in table.column_names else [[]] * table.num_rows
    names = {name: np.array(table[name].to_pylist(), dtype=str) for name in ("clip_id", "video", "group")}
    label = np.array([each[0] if each else "" for each in labels], dtype=str)
    return names | {"label": label, "preprocessing": (table.schema.metadata or {}).get(HASH_KEY, b"").decode()}


def decode_clip_metadata(table: pa.Table, image_size: int, truth: bool, sources: bool = False) -> ClipTable:
    """Rows to clips without pictures, sounds and masks, of which only the shapes are left: what a truth is made of.

    With `truth` they keep their regions; with `sources` as many sources as sound in frame 0 have a mask, of one pixel.
    """
    count, lengths = table.num_rows, set(table["stft_frames"].to_pylist())
    if len(lengths) > 1:
        raise ValueError(f"rows of one dataset need one shape: STFT frames {sorted(lengths)}")
    regions = table["regions"].to_pylist() if truth or sources else []
    own, label_NS = None, None
    if sources:
        masks_NSYX, label_NS = masks_by_source(regions, image_size)
        own = np.asarray(masks_NSYX.any(axis=(2, 3), keepdims=True))
    return ClipTable(
        **_names(table),
        frames=np.empty((count, 1, image_size, image_size, 0), np.uint8),
        stft=np.empty((count, lengths.pop() if lengths else 0, 0, 2), np.float16),
        has_truth=union_mask(regions, image_size)[-1] if truth else None,
        quiet=has_no_sounding_object(regions) if truth else None,
        start_s=np.array(table["start_s"].to_pylist(), np.float64),
        duration_s=np.array(table["duration_s"].to_pylist(), np.float64),
        sources=own,
        source_label=label_NS,
        regions=np.fromiter(regions, object, count) if truth else None,
    )


def _picture(jpeg: bytes, size: int) -> np.ndarray:
    source = Image.open(io.BytesIO(jpeg))
    source.draft("RGB", (size, size))  # lets the decoder skip detail that the resize would drop
    image = source.convert("RGB")
    return np.asarray(image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR))


def require_columns(found: pa.Schema, wanted: Sequence[str], where: str) -> None:
    """Say in one line (ValueError) what keeps these columns from being clips of this schema version."""
    version = (found.metadata or {}).get(VERSION_KEY)
    if version is not None and version != str(SCHEMA_VERSION).encode():
        again = "prepare again with dataset.overwrite=true"
        raise ValueError(f"{where}: schema version {version.decode()}, this raymix reads {SCHEMA_VERSION}; {again}")
    missing = [name for name in wanted if name not in found.names]
    if missing:
        raise ValueError(f"{where}: not clips of raymix, missing columns {missing}; found {found.names[:6]}")
