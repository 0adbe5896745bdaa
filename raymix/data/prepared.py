"""Reading a prepared dataset with pyarrow: its documents, shards, row groups and decoded clips.

A prepared dataset is a folder of Parquet shards with `dataset.json`, `manifest.parquet` and a card. All rows of its
shards are usable clips. `raymix.data.loader` reads the same files through Ray.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from raymix.data.media import ManifestRow
from raymix.data.records import (
    METADATA_COLUMNS,
    SCHEMA_VERSION,
    VERSION_KEY,
    ClipMetadata,
    ClipTable,
    columns_to_read,
    decode_clip_metadata,
    decode_clips,
    require_columns,
)
from raymix.runtime.storage import read_bytes, resolve_uri, unreachable_storage_message, with_retries

# Files of a prepared dataset besides its shards.
DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.parquet"
CARD_FILE = "README.md"
SCENES_FILE = "scenes/scenes.json"
LEAKS_FILE = "leaks.csv"

DATASET_KEYS = ("root", "settings", "splits", "statuses", "classes")  # besides the version, in every dataset.json

ROWS_PER_CHUNK = 64  # rows whose regions are decoded at once, where no masks are kept

BUFFER_BYTES = 1 << 20  # of a column that are read at once, where only its beginning is wanted

SHARD_READERS = 16  # footers that are read at once

T = TypeVar("T")


def read_dataset_json(directory: str) -> dict[str, Any]:
    """Return the content of `dataset.json` of a prepared dataset.

    Raises:
        ValueError: the folder is no prepared dataset, or of another version; one line.
    """
    filesystem, path = resolve_uri(directory)
    try:
        document = json.loads(read_bytes(filesystem, f"{path}/{DATASET_FILE}"))
        version = document["schema_version"]
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no prepared dataset (no dataset.json); run python -m raymix.prepare") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, OSError) and unreachable_storage_message(error):
            raise
        raise ValueError(f"{directory}/dataset.json cannot be read ({error!r}); prepare again") from error
    if version != SCHEMA_VERSION:
        again = "prepare again with dataset.overwrite=true"
        raise ValueError(f"{directory}: schema version {version}, this raymix reads {SCHEMA_VERSION}; {again}")
    return dict(document)


def check_dataset_keys(directory: str, document: dict[str, Any]) -> None:
    """Raise ValueError where a `dataset.json` does not have what `raymix.prepare` writes into it."""
    if missing := [name for name in DATASET_KEYS if name not in document]:
        raise ValueError(f"{directory}/dataset.json was not written by raymix.prepare: missing {', '.join(missing)}")


def list_shards(directory: str, split: str) -> list[str]:
    """Return the paths of the Parquet files of one split on the dataset's filesystem, in order.

    Raises:
        ValueError: the folder is no prepared dataset, or has no such split.
    """
    document = read_dataset_json(directory)
    if split not in document["splits"]:
        raise ValueError(f"{directory}: no split '{split}', it has {', '.join(document['splits'])}")
    path = resolve_uri(directory)[1]
    return [f"{path}/{name}" for name in document["splits"][split]["files"]]


def read_clips(
    directory: str,
    split: str,
    image_size: int,
    *,
    truth: bool,
    labels: bool = True,
    sources: bool = False,
    limit: int | None = None,
) -> ClipTable:
    """Read and decode the clips of one split.

    Args:
        directory: a prepared dataset.
        split: train, val or test.
        image_size: side of the frames, px.
        truth, sources: which masks are decoded, see `raymix.data.records.decode_clips`.
        labels: whether class names are read.
        limit: read only the first clips, at most this many (videos are in random order).

    Raises:
        ValueError: the folder is no prepared dataset, the split has no clips, or a row cannot be used.
    """
    filesystem, wanted = resolve_uri(directory)[0], columns_to_read(truth or sources, labels)
    parts: list[ClipTable] = []
    for path in list_shards(directory, split):
        left = None if limit is None else limit - sum(map(len, parts))
        if left is None or left > 0:
            parts.append(
                decode_clips(read_usable_rows(filesystem, path, wanted, left), image_size, truth, sources, path)
            )
    if not sum(map(len, parts)):
        raise ValueError(f"{directory}: split '{split}' holds no clips")
    return ClipTable.concat([part for part in parts if len(part)])


@dataclass(frozen=True)
class ClipShape:
    """The shape that all clips of a split have."""

    frames: int  # stored images
    stft_frames: int
    stft_bins: int

    def decoded_bytes(self, image_size: int) -> int:
        """Return the bytes of one decoded clip: uint8 frames of side `image_size` px, float16 pairs of the STFT."""
        return 3 * self.frames * image_size**2 + 4 * self.stft_frames * self.stft_bins


def read_clip_shape(directory: str, split: str) -> ClipShape:
    """Return the shape of the clips of a split from its first row, without reading images or sounds.

    Raises:
        ValueError: as `read_clips`.
    """
    filesystem, wanted = resolve_uri(directory)[0], ["stft_frames", "stft_bins", "frames.list.element.width"]
    for path in list_shards(directory, split):
        if (rows := read_usable_rows(filesystem, path, wanted, 1)).num_rows:
            row = rows.to_pylist()[0]
            return ClipShape(len(row["frames"]), row["stft_frames"], row["stft_bins"])
    raise ValueError(f"{directory}: split '{split}' holds no clips")


@dataclass(frozen=True, order=True)
class RowGroup:
    """A row group of a shard: what is read and decoded at once."""

    path: str  # of the shard, on the dataset's filesystem
    index: int  # in the shard
    rows: int


def list_row_groups(directory: str, split: str) -> list[RowGroup]:
    """Return the row groups of a split in order, from the footers of its shards.

    Raises:
        ValueError: as `read_clips`.
    """
    filesystem = resolve_uri(directory)[0]

    def row_groups(path: str) -> list[RowGroup]:
        with _open_shard(filesystem, path) as file:
            return [RowGroup(path, at, file.metadata.row_group(at).num_rows) for at in range(file.num_row_groups)]

    with ThreadPoolExecutor(SHARD_READERS) as pool:  # an object store takes long for each file
        groups = pool.map(lambda path: _read_parquet(path, lambda: row_groups(path)), list_shards(directory, split))
        return [group for of_shard in groups for group in of_shard]


def read_row_group(directory: str, group: RowGroup, image_size: int, labels: bool) -> ClipTable:
    """Read and decode the clips of a row group, without regions.

    Raises:
        ValueError: as `read_clips`.
    """
    filesystem, wanted = resolve_uri(directory)[0], [*columns_to_read(truth=False, labels=labels), "status"]

    def read_table() -> pa.Table:
        with _open_shard(filesystem, group.path, pre_buffer=True) as file:
            require_columns(file.schema_arrow, wanted, group.path)
            return _usable(file.read_row_group(group.index, columns=wanted))

    rows = _read_parquet(group.path, read_table)
    return decode_clips(rows, image_size, truth=False, where=f"{group.path}, row group {group.index}")


def read_clip_metadata(
    directory: str, split: str, image_size: int, *, truth: bool, sources: bool = False, limit: int | None = None
) -> ClipMetadata:
    """Read the clips of one split without frames and sounds.

    Args:
        directory: a prepared dataset.
        split: train, val or test.
        image_size: side of the frames as which the clips would be decoded, px.
        truth, sources: see `raymix.data.records.decode_clip_metadata`.
        limit: read only the first clips, at most this many.

    Raises:
        ValueError: as `read_clips`.
    """
    filesystem, parts = resolve_uri(directory)[0], list[ClipMetadata]()
    wanted = [name for name in METADATA_COLUMNS if name != "regions" or truth or sources]
    for path in list_shards(directory, split):
        left = None if limit is None else limit - sum(map(len, parts))
        if left is not None and left <= 0:
            break
        rows = read_usable_rows(filesystem, path, wanted, left)
        parts += [
            decode_clip_metadata(rows.slice(start, ROWS_PER_CHUNK), image_size, truth, sources)
            for start in range(0, rows.num_rows, ROWS_PER_CHUNK)
        ]
    if not parts:
        raise ValueError(f"{directory}: split '{split}' holds no clips")
    return ClipMetadata.concat(parts)


def read_video_ids(directory: str, split: str) -> list[str]:
    """Return the video of every clip of a split; ValueError as `read_clips`."""
    filesystem, _ = resolve_uri(directory)
    tables = [read_usable_rows(filesystem, path, ["video"]) for path in list_shards(directory, split)]
    return [video for table in tables for video in table["video"].to_pylist()]


def read_clip_index(directory: str, split: str) -> tuple[list[str], list[str], list[str]]:
    """Return id, video and first label ('' where there is none) of every clip of a split; ValueError as `read_clips`."""
    filesystem, _ = resolve_uri(directory)
    tables = [
        read_usable_rows(filesystem, path, ["clip_id", "video", "labels"]) for path in list_shards(directory, split)
    ]
    ids, videos, labels = (
        [value for table in tables for value in table[name].to_pylist()] for name in ("clip_id", "video", "labels")
    )
    return ids, videos, [names[0] if names else "" for names in labels]


def read_usable_rows(filesystem: fs.FileSystem, path: str, wanted: list[str], limit: int | None = None) -> pa.Table:
    """Read columns of the usable rows of one shard.

    Args:
        filesystem: of the dataset.
        path: the shard.
        wanted: columns; `a.list.element.b` is a field of the structs in the list column `a`.
        limit: read only the first rows, at most this many.

    Raises:
        ValueError: the file is no shard; one line.
    """
    return _read_parquet(path, lambda: _read_columns(filesystem, path, [*wanted, "status"], limit))


def _read_parquet(path: str, read: Callable[[], T]) -> T:
    """The result of `read`, with retries; ValueError in one line where the file is no Parquet."""
    try:
        return with_retries(read)
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid is a ValueError too, but of several lines
        raise ValueError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


@contextlib.contextmanager
def _open_shard(filesystem: fs.FileSystem, path: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a shard; ValueError where it is a Parquet file of other software."""
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source, **options) as file:
        if VERSION_KEY not in (file.schema_arrow.metadata or {}):
            raise ValueError(f"{path}: a Parquet file, but not clips of raymix (no schema version in it)")
        yield file


def _read_columns(filesystem: fs.FileSystem, path: str, wanted: list[str], limit: int | None) -> pa.Table:
    # With a limit, columns are read in small buffers and only as far as needed; else row groups in few large requests.
    options: dict[str, Any] = (
        {"pre_buffer": True} if limit is None else {"pre_buffer": False, "buffer_size": BUFFER_BYTES}
    )
    with _open_shard(filesystem, path, **options) as file:
        require_columns(file.schema_arrow, [name.partition(".")[0] for name in wanted], path)
        if limit is None:
            return _usable(file.read(columns=wanted))
        parts, count = list[pa.Table](), 0
        for batch in file.iter_batches(batch_size=max(1, min(limit, ROWS_PER_CHUNK)), columns=wanted):
            parts.append(_usable(pa.Table.from_batches([batch])))
            count += len(parts[-1])
            if count >= limit:
                break
        return pa.concat_tables(parts).slice(0, limit) if parts else _usable(file.read(columns=wanted))


def _usable(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok")).drop_columns(["status"])


@dataclass(frozen=True)
class PreparedDataset:
    """The two documents of a prepared dataset."""

    description: dict[str, Any]  # content of dataset.json
    manifest: tuple[ManifestRow, ...]  # a row for every id that the publisher lists


def read_prepared_dataset(directory: str) -> PreparedDataset:
    """Read `dataset.json` and `manifest.parquet`.

    Raises:
        ValueError: the folder is no prepared dataset, or one of them is missing; one line.
    """
    description, (filesystem, path) = read_dataset_json(directory), resolve_uri(directory)
    check_dataset_keys(directory, description)
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(filesystem, f"{path}/{MANIFEST_FILE}")))
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no manifest.parquet beside dataset.json; prepare again") from error
    except pa.ArrowException as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{directory}/manifest.parquet: cannot be read as Parquet ({first})") from error
    columns = [field.name for field in fields(ManifestRow) if field.name in table.column_names]  # older ones have fewer
    if not {"file", "split", "status"} <= set(columns):
        raise ValueError(f"{directory}/manifest.parquet: no manifest of raymix; it has {', '.join(table.column_names)}")
    return PreparedDataset(description, tuple(ManifestRow(**row) for row in table.select(columns).to_pylist()))
