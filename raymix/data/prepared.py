"""Reading a prepared dataset with pyarrow: `dataset.json`, `manifest.parquet`, shards, row groups and decoded clips.

`raymix.data.loader` reads the same files over Ray. Every row that is read is a usable one.
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

from raymix.data.records import (
    METADATA_COLUMNS,
    SCHEMA_VERSION,
    VERSION_KEY,
    ClipMetadata,
    ClipTable,
    ManifestRow,
    columns_to_read,
    decode_clip_metadata,
    decode_clips,
    require_columns,
)
from raymix.runtime.storage import read_bytes, resolve_uri, unreachable_storage_message, with_retries

CHUNK = 64  # clips whose masks are in memory at once, where clips keep none

T = TypeVar("T")

BUFFER = 1 << 20  # bytes of a column that are read at once, where not all of it is wanted


def read_dataset_json(directory: str) -> dict[str, Any]:
    """What `dataset.json` says of a prepared dataset; ValueError in one line if the folder is none."""
    filesystem, path = resolve_uri(directory)
    try:
        found = json.loads(read_bytes(filesystem, f"{path}/dataset.json"))
        version = found["schema_version"]
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no prepared dataset (no dataset.json); run python -m raymix.prepare") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, OSError) and unreachable_storage_message(error):
            raise
        raise ValueError(f"{directory}/dataset.json cannot be read ({error!r}); prepare again") from error
    if version != SCHEMA_VERSION:
        again = "prepare again with dataset.overwrite=true"
        raise ValueError(f"{directory}: schema version {version}, this raymix reads {SCHEMA_VERSION}; {again}")
    return found


def list_shards(directory: str, split: str) -> list[str]:
    """Paths (on the dataset's filesystem) of the Parquet files of one split, in order."""
    found = read_dataset_json(directory)
    if split not in found["splits"]:
        raise ValueError(f"{directory}: no split '{split}', it has {', '.join(found['splits'])}")
    path = resolve_uri(directory)[1]
    return [f"{path}/{name}" for name in found["splits"][split]["files"]]


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
    """The clips of one split, decoded, by plain pyarrow.

    Args:
        directory: a prepared dataset.
        split: train, val or test.
        image_size: side of the frames, px.
        truth, sources: also the regions, see `raymix.data.records.decode_clips`.
        labels: also the class names.
        limit: the first so many clips (videos are in random order); about as much is read as they take up.

    Raises:
        ValueError: where the folder is no prepared dataset, the split has no clips, or a row cannot be used.
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
    """What every clip of a split has the same of."""

    frames: int  # pictures
    stft_frames: int
    stft_bins: int

    def decoded_bytes(self, image_size: int) -> int:
        """Bytes of one decoded clip whose pictures have a side of `image_size` px: uint8 pictures, float16 pairs."""
        return 3 * self.frames * image_size**2 + 4 * self.stft_frames * self.stft_bins


def read_clip_shape(directory: str, split: str) -> ClipShape:
    """The shape of the clips of a split, from its first row; no picture and no sound is read.

    Raises:
        ValueError: as `read`.
    """
    filesystem, wanted = resolve_uri(directory)[0], ["stft_frames", "stft_bins", "frames.list.element.width"]
    for path in list_shards(directory, split):
        if (rows := read_usable_rows(filesystem, path, wanted, 1)).num_rows:
            row = rows.to_pylist()[0]
            return ClipShape(len(row["frames"]), row["stft_frames"], row["stft_bins"])
    raise ValueError(f"{directory}: split '{split}' holds no clips")


@dataclass(frozen=True, order=True)
class RowGroup:
    """A part of a shard that is read and decoded at once."""

    path: str  # of the shard, on the dataset's filesystem
    index: int  # in the shard
    rows: int


def list_row_groups(directory: str, split: str) -> list[RowGroup]:
    """The row groups of a split in order, from the footers of its shards; ValueError as `read`."""
    filesystem = resolve_uri(directory)[0]

    def of(path: str) -> list[RowGroup]:
        with _opened(filesystem, path) as file:
            return [RowGroup(path, at, file.metadata.row_group(at).num_rows) for at in range(file.num_row_groups)]

    with ThreadPoolExecutor(16) as pool:  # a store takes its time over each
        found = pool.map(lambda path: _as_parquet(path, lambda: of(path)), list_shards(directory, split))
        return [group for groups in found for group in groups]


def read_row_group(directory: str, group: RowGroup, image_size: int, labels: bool) -> ClipTable:
    """The decoded clips of a row group without their truth; ValueError as `read`."""
    filesystem, wanted = resolve_uri(directory)[0], [*columns_to_read(truth=False, labels=labels), "status"]

    def table() -> pa.Table:
        with _opened(filesystem, group.path, pre_buffer=True) as file:
            require_columns(file.schema_arrow, wanted, group.path)
            return _ok(file.read_row_group(group.index, columns=wanted))

    rows = _as_parquet(group.path, table)
    return decode_clips(rows, image_size, truth=False, where=f"{group.path}, row group {group.index}")


def read_clip_metadata(
    directory: str, split: str, image_size: int, *, truth: bool, sources: bool = False, limit: int | None = None
) -> ClipMetadata:
    """The clips of one split as `raymix.data.records.decode_clip_metadata` reads them: neither pictures nor sounds, and no mask is kept.

    With `limit` only the first so many.
    """
    filesystem, parts = resolve_uri(directory)[0], list[ClipMetadata]()
    wanted = [name for name in METADATA_COLUMNS if name != "regions" or truth or sources]
    for path in list_shards(directory, split):
        left = None if limit is None else limit - sum(map(len, parts))
        if left is not None and left <= 0:
            break
        rows = read_usable_rows(filesystem, path, wanted, left)
        parts += [
            decode_clip_metadata(rows.slice(at, CHUNK), image_size, truth, sources)
            for at in range(0, rows.num_rows, CHUNK)
        ]
    if not parts:
        raise ValueError(f"{directory}: split '{split}' holds no clips")
    return ClipMetadata.concat(parts)


def read_video_ids(directory: str, split: str) -> list[str]:
    """The source video of every usable clip of a split, after a look into each of its files; ValueError as in `read`."""
    filesystem, _ = resolve_uri(directory)
    tables = [read_usable_rows(filesystem, path, ["video"]) for path in list_shards(directory, split)]
    return [video for table in tables for video in table["video"].to_pylist()]


def read_clip_index(directory: str, split: str) -> tuple[list[str], list[str], list[str]]:
    """Id, source video and first label ('' where there is none) of every usable clip of a split; ValueError as in `read`."""
    filesystem, _ = resolve_uri(directory)
    tables = [
        read_usable_rows(filesystem, path, ["clip_id", "video", "labels"]) for path in list_shards(directory, split)
    ]
    ids, sources, labels = (
        [value for table in tables for value in table[name].to_pylist()] for name in ("clip_id", "video", "labels")
    )
    return ids, sources, [names[0] if names else "" for names in labels]


def read_usable_rows(filesystem: fs.FileSystem, path: str, wanted: list[str], limit: int | None = None) -> pa.Table:
    """These columns of the usable rows of one shard, at most the first `limit`; ValueError in one line where it is none.

    `a.list.element.b` is a field of the structures in the list column `a`.
    """
    return _as_parquet(path, lambda: _table(filesystem, path, [*wanted, "status"], limit))


def _as_parquet(path: str, read: Callable[[], T]) -> T:
    """What `read` gives, patiently; ValueError in one line where the file is no Parquet."""
    try:
        return with_retries(read)
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid is a ValueError too, but of several lines
        raise ValueError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


@contextlib.contextmanager
def _opened(filesystem: fs.FileSystem, path: str, **how: Any) -> Iterator[pq.ParquetFile]:
    """A shard; ValueError where it is a Parquet file of other software."""
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source, **how) as file:
        if VERSION_KEY not in (file.schema_arrow.metadata or {}):
            raise ValueError(f"{path}: a Parquet file, but not clips of raymix (no schema version in it)")
        yield file


def _table(filesystem: fs.FileSystem, path: str, wanted: list[str], limit: int | None) -> pa.Table:
    # Few rows: a column is read, a buffer at a time, as far as it is wanted; else row groups in few large requests.
    how: dict[str, Any] = {"pre_buffer": True} if limit is None else {"pre_buffer": False, "buffer_size": BUFFER}
    with _opened(filesystem, path, **how) as file:
        require_columns(file.schema_arrow, [name.partition(".")[0] for name in wanted], path)
        if limit is None:
            return _ok(file.read(columns=wanted))
        parts, count = list[pa.Table](), 0
        for batch in file.iter_batches(batch_size=max(1, min(limit, CHUNK)), columns=wanted):
            parts.append(_ok(pa.Table.from_batches([batch])))
            count += len(parts[-1])
            if count >= limit:
                break
        return pa.concat_tables(parts).slice(0, limit) if parts else _ok(file.read(columns=wanted))


def _ok(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok")).drop_columns(["status"])


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset as its two documents tell it."""

    facts: dict[str, Any]  # dataset.json
    entries: tuple[ManifestRow, ...]  # one for every id that the publisher lists


def read_prepared_dataset(directory: str) -> PreparedDataset:
    """Both documents; ValueError in one line where the folder is no prepared dataset, or lacks one of them."""
    facts, (filesystem, path) = read_dataset_json(directory), resolve_uri(directory)
    if lacking := [name for name in ("root", "settings", "splits", "statuses", "classes") if name not in facts]:
        raise ValueError(f"{directory}/dataset.json is not of raymix.prepare: it lacks {', '.join(lacking)}")
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(filesystem, f"{path}/manifest.parquet")))
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no manifest.parquet beside dataset.json; prepare again") from error
    except pa.ArrowException as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{directory}/manifest.parquet: cannot be read as Parquet ({first})") from error
    known = [field.name for field in fields(ManifestRow) if field.name in table.column_names]  # older ones have fewer
    if not {"file", "split", "status"} <= set(known):
        raise ValueError(f"{directory}/manifest.parquet: no manifest of raymix; it has {', '.join(table.column_names)}")
    return PreparedDataset(facts, tuple(ManifestRow(**row) for row in table.select(known).to_pylist()))
