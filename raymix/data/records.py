"""Schema of prepared clips: a clip before encoding, its Parquet row, and decoded clips as columns.

A clip is a part of a video with sound. Its sound is stored as a complex short-time Fourier transform in half precision
(constants of section 4.1 of the paper), so that mixing is an addition and shifting a slice. Every row of a shard is
usable; the manifest (`raymix.data.media.ManifestRow`) names the others. `raymix.data.preparation.writer` encodes clips.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, Self

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
    """Return the Arrow schema of a shard; `preprocessing` is the hash of the settings that made it."""
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
    """Return the columns to decode. Training reads no regions, and labels only for methods that require them."""
    wanted = ["clip_id", "video", "group", "frames", "stft", "stft_frames", "stft_bins"]
    return wanted + (["labels"] if labels else []) + (["regions", "start_s", "duration_s"] if truth else [])


METADATA_COLUMNS = ("clip_id", "video", "group", "labels", "start_s", "duration_s", "stft_frames", "regions")


@dataclass(frozen=True)
class ClipRecord:
    """A clip before encoding: times in seconds on the video's clock, sound mono at 16 kHz."""

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


class NonFiniteValueError(ValueError):
    """A clip holds NaN or infinite values.

    Args:
        clip_id: id of the clip.
        what: which of its values, and how many.
        row: index among the rows that were read, from 0.
        where: the file, '' where that is not known.
    """

    def __init__(self, clip_id: str, what: str, row: int = 0, where: str = "") -> None:
        super().__init__(clip_id, what, row, where)  # all of them: an exception is pickled by its arguments
        self.clip_id, self.what, self.row, self.where = clip_id, what, row, where

    def __str__(self) -> str:
        place = f"{self.where}, row {self.row} (clip {self.clip_id})" if self.where else f"clip {self.clip_id}"
        return f"{place}: {self.what}"


def describe_non_finite_values(row: Mapping[str, Any], pairs_TF2: np.ndarray) -> str:
    """Return a sentence about the values of a row that are not finite, '' where all are.

    Args:
        row: the columns that were read, by name.
        pairs_TF2: real and imaginary parts of its STFT.
    """
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
class ClipColumns:
    """Columns that decoded clips and their metadata have in common; N clips."""

    clip_id: np.ndarray
    video: np.ndarray
    group: np.ndarray
    label: np.ndarray  # the first class name, '' where it is unknown or was not read
    _: KW_ONLY
    has_truth: np.ndarray | None = None  # bool (N,): frame 0 has a region of a sounding object
    has_no_sounding_object: np.ndarray | None = None  # bool (N,): regions are annotated, and none of them sounds
    start_s: np.ndarray | None = None  # float64 (N,), on the video's clock; read together with the truth only
    duration_s: np.ndarray | None = None
    source_label: np.ndarray | None = None  # (N, S), '' where it is unknown or the clip has fewer sources
    preprocessing: str = ""  # hash of the settings that made the rows, '' where it is unknown

    def __len__(self) -> int:
        return len(self.clip_id)

    def count_sources(self) -> np.ndarray:
        """Return the number of sounding sources of each clip, (N,).

        Raises:
            ValueError: sources were not read.
        """
        raise NotImplementedError

    def take(self, index: Sequence[int] | np.ndarray) -> Self:
        """Return the clips at these indices, in this order."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        columns = {name: value[index] for name, value in columns.items() if isinstance(value, np.ndarray)}
        return replace(self, **columns)

    def with_sources(self, count: int, fewer: bool = False) -> Self:
        """Return the clips with exactly `count` sounding sources; with `fewer` also those with 1 to `count`.

        Raises:
            ValueError: no clip has exactly `count` sources, or sources were not read.
        """
        count_N = self.count_sources()
        if not (count_N == count).any():
            raise ValueError(
                f"layout=natural: none of {len(self)} clips has regions of exactly {count} sounding source(s)"
            )
        return self.take(np.flatnonzero((count_N >= 1) & (count_N <= count) if fewer else count_N == count))

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Return all clips of all parts.

        Raises:
            ValueError: there is no part, or their shapes differ.
        """
        if not parts:
            raise ValueError("nothing to join: no clips were read")
        shapes = {part._shape() for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"clips of different shapes cannot be joined: {sorted(map(str, shapes))}")
        columns: dict[str, list[Any]] = {f.name: [getattr(part, f.name) for part in parts] for f in fields(parts[0])}
        parts[0]._pad_columns(columns)
        joined: dict[str, Any] = {
            name: np.concatenate(v) for name, v in columns.items() if isinstance(v[0], np.ndarray)
        }
        return replace(parts[0], **joined)

    def _shape(self) -> tuple[Any, ...]:
        """What must be equal in tables that are joined."""
        raise NotImplementedError

    def _pad_columns(self, columns: dict[str, list[Any]]) -> None:
        """Make the columns of several tables (a list of arrays by name) equal in all axes but the first."""
        if columns["source_label"][0] is not None:
            _pad_second_axis(columns, "source_label")


def _pad_second_axis(columns: dict[str, list[Any]], name: str) -> None:
    most = max(value.shape[1] for value in columns[name])
    blank = (np.zeros((len(v), most - v.shape[1], *v.shape[2:]), v.dtype) for v in columns[name])
    columns[name] = [np.concatenate(pair, axis=1) for pair in zip(columns[name], blank, strict=True)]


@dataclass
class ClipTable(ClipColumns):
    """N decoded clips of one shape: what mixtures and evaluation scenes are made of."""

    frames: np.ndarray  # uint8 (N, n, Y, X, 3)
    stft: np.ndarray  # float16 (N, T, F, 2)
    _: KW_ONLY
    masks: np.ndarray | None = (
        None  # bool (N, Y, X): union of the sounding regions of frame 0 on which annotators agree
    )
    halves: np.ndarray | None = None  # bool (N, Y, X): pixels besides these that one annotator alone marked; None: none
    sources: np.ndarray | None = None  # bool (N, S, Y, X): each sounding source, empty where the clip has fewer

    def count_sources(self) -> np.ndarray:
        if self.sources is None:
            raise ValueError("layout=natural: these clips came without the regions of each source")
        return np.asarray(self.sources.any(axis=(2, 3)).sum(axis=1))

    def _shape(self) -> tuple[Any, ...]:
        return self.frames.shape[1:], self.stft.shape[1:], self.masks is None

    def _pad_columns(self, columns: dict[str, list[Any]]) -> None:
        super()._pad_columns(columns)
        if columns["sources"][0] is not None:
            _pad_second_axis(columns, "sources")
        if any(each is not None for each in columns["halves"]):
            pairs = zip(columns["halves"], columns["masks"], strict=True)
            columns["halves"] = [np.zeros_like(masks) if halves is None else halves for halves, masks in pairs]


@dataclass
class ClipMetadata(ClipColumns):
    """N clips without frames, sounds and masks: what lists of scenes and ground truth are made of."""

    image_size: int  # side of the frames as which the clips would be decoded, px
    stft_frames: int
    _: KW_ONLY
    regions: np.ndarray | None = None  # object (N,): the regions of each row
    source_count: np.ndarray | None = None  # int (N,): sounding sources of frame 0

    def count_sources(self) -> np.ndarray:
        if self.source_count is None:
            raise ValueError("layout=natural: these clips came without the regions of each source")
        return self.source_count

    def _shape(self) -> tuple[Any, ...]:
        return self.image_size, self.stft_frames, self.regions is None


def decode_clips(table: pa.Table, image_size: int, truth: bool, sources: bool = False, where: str = "") -> ClipTable:
    """Decode the rows of a shard; frames and masks are resized to squares.

    Args:
        table: rows with the columns of `columns_to_read`.
        image_size: side of the frames and masks, px.
        truth: whether the regions are decoded too, as one mask a clip.
        sources: whether they are decoded as one mask a sounding source.
        where: the file, for messages.

    Raises:
        ValueError: the rows differ in shape.
        NonFiniteValueError: a row holds a value that is not finite (a shard of an earlier version, or of other software).
    """
    require_columns(table.schema, columns_to_read(truth, labels=False), "these rows")
    shapes = set(zip(table["stft_frames"].to_pylist(), table["stft_bins"].to_pylist(), strict=True))
    frame_lists = table["frames"].to_pylist()
    per_clip = {len(frames) for frames in frame_lists}
    if len(shapes) > 1 or len(per_clip) > 1:
        raise ValueError(
            f"rows of one dataset need one shape: STFT {sorted(shapes)}, frames per clip {sorted(per_clip)}"
        )
    stft_NTF2 = np.empty((table.num_rows, *(shapes.pop() if shapes else (0, 0)), 2), np.float16)
    for row, value in enumerate(v for chunk in table["stft"].chunks for v in chunk):
        stft_NTF2[row] = np.frombuffer(value.as_buffer(), np.float16).reshape(stft_NTF2.shape[1:])
    _check_finite(table, stft_NTF2, where)
    frames_NnYX3 = np.empty((table.num_rows, per_clip.pop() if per_clip else 0, image_size, image_size, 3), np.uint8)
    for row, frames in enumerate(frame_lists):
        for position, frame in enumerate(frames):
            frames_NnYX3[row, position] = _decode_jpeg(frame["jpeg"], image_size)
    regions = table["regions"].to_pylist() if truth or sources else []
    masks, halves, has_truth = union_mask(regions, image_size) if truth else (None, None, None)
    source_masks, source_label = masks_by_source(regions, image_size) if sources else (None, None)
    times = [np.array(table[name].to_pylist(), np.float64) if truth else None for name in ("start_s", "duration_s")]
    return ClipTable(
        **_decode_names(table),
        frames=frames_NnYX3,
        stft=stft_NTF2,
        masks=masks,
        halves=halves,
        has_truth=has_truth,
        has_no_sounding_object=has_no_sounding_object(regions) if truth else None,
        start_s=times[0],
        duration_s=times[1],
        sources=source_masks,
        source_label=source_label,
    )


def _check_finite(table: pa.Table, stft_NTF2: np.ndarray, where: str) -> None:
    """Raise NonFiniteValueError for the first row that holds a value that is not finite."""
    numbers = table.select([name for name in ("start_s", "duration_s", "regions") if name in table.column_names])
    rows = numbers.to_pylist() if numbers.num_columns else [dict[str, Any]()] * table.num_rows
    for index, (row, pairs_TF2) in enumerate(zip(rows, stft_NTF2, strict=True)):
        if what := describe_non_finite_values(row, pairs_TF2):
            raise NonFiniteValueError(table["clip_id"][index].as_py(), what, index, where)


def _decode_names(table: pa.Table) -> dict[str, Any]:
    """The columns of `ClipColumns` that are strings."""
    labels = table["labels"].to_pylist() if "labels" in table.column_names else [[]] * table.num_rows
    names = {name: np.array(table[name].to_pylist(), dtype=str) for name in ("clip_id", "video", "group")}
    label = np.array([each[0] if each else "" for each in labels], dtype=str)
    return names | {"label": label, "preprocessing": (table.schema.metadata or {}).get(HASH_KEY, b"").decode()}


def decode_clip_metadata(table: pa.Table, image_size: int, truth: bool, sources: bool = False) -> ClipMetadata:
    """Decode rows of a shard without frames, sounds and masks.

    Args:
        table: rows with METADATA_COLUMNS; `regions` only with `truth` or `sources`.
        image_size: side of the masks that decide whether a region has any pixel, px.
        truth: whether the regions are kept.
        sources: whether the sounding sources of frame 0 are counted.

    Raises:
        ValueError: the rows differ in the length of their STFT.
    """
    lengths = set(table["stft_frames"].to_pylist())
    if len(lengths) > 1:
        raise ValueError(f"rows of one dataset need one shape: STFT frames {sorted(lengths)}")
    regions = table["regions"].to_pylist() if truth or sources else []
    source_count, source_label = None, None
    if sources:
        masks_NSYX, source_label = masks_by_source(regions, image_size)
        source_count = masks_NSYX.any(axis=(2, 3)).sum(axis=1)
    return ClipMetadata(
        **_decode_names(table),
        image_size=image_size,
        stft_frames=lengths.pop() if lengths else 0,
        has_truth=union_mask(regions, image_size)[-1] if truth else None,
        has_no_sounding_object=has_no_sounding_object(regions) if truth else None,
        start_s=np.array(table["start_s"].to_pylist(), np.float64),
        duration_s=np.array(table["duration_s"].to_pylist(), np.float64),
        source_count=source_count,
        source_label=source_label,
        regions=np.fromiter(regions, object, table.num_rows) if truth else None,
    )


def _decode_jpeg(jpeg: bytes, size: int) -> np.ndarray:
    source = Image.open(io.BytesIO(jpeg))
    source.draft("RGB", (size, size))  # lets the decoder skip detail that the resize would drop
    image = source.convert("RGB")
    return np.asarray(image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR))


def require_columns(schema: pa.Schema, wanted: Sequence[str], where: str) -> None:
    """Check that columns are there, and that the schema version is the current one.

    Args:
        schema: of a shard, or of its rows.
        wanted: names of columns.
        where: the file, for messages.

    Raises:
        ValueError: another version, or a missing column.
    """
    version = (schema.metadata or {}).get(VERSION_KEY)
    if version is not None and version != str(SCHEMA_VERSION).encode():
        again = "prepare again with dataset.overwrite=true"
        raise ValueError(f"{where}: schema version {version.decode()}, this raymix reads {SCHEMA_VERSION}; {again}")
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise ValueError(f"{where}: not clips of raymix, missing columns {missing}; found {schema.names[:6]}")
