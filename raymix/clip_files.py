"""The files of a prepared dataset: what `dataset.json` says of them, and the clips of a split by plain pyarrow.

`raymix.stream` reads the same files over Ray. Every row that is read is a usable one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from raymix.clip import OUTLINE, SCHEMA_VERSION, VERSION_KEY, Clips, columns, decode, outline, require
from raymix.storage import get, patiently, resolve, unreachable

CHUNK = 64  # clips whose masks are in memory at once, where clips keep none
T = TypeVar("T")
BUFFER = 1 << 20  # bytes of a column that are read at once, where not all of it is wanted


def describe(directory: str) -> dict[str, Any]:
    """What `dataset.json` says of a prepared dataset; ValueError in one line if the folder is none."""
    filesystem, path = resolve(directory)
    try:
        found = json.loads(get(filesystem, f"{path}/dataset.json"))
        version = found["schema_version"]
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no prepared dataset (no dataset.json); run python -m raymix.prepare") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, OSError) and unreachable(error):
            raise
        raise ValueError(f"{directory}/dataset.json cannot be read ({error!r}); prepare again") from error
    if version != SCHEMA_VERSION:
        again = "prepare again with dataset.overwrite=true"
        raise ValueError(f"{directory}: schema version {version}, this raymix reads {SCHEMA_VERSION}; {again}")
    return found


def shards(directory: str, split: str) -> list[str]:
    """Paths (on the dataset's filesystem) of the Parquet files of one split, in order."""
    found = describe(directory)
    if split not in found["splits"]:
        raise ValueError(f"{directory}: no split '{split}', it has {', '.join(found['splits'])}")
    path = resolve(directory)[1]
    return [f"{path}/{name}" for name in found["splits"][split]["files"]]


def read(
    directory: str,
    split: str,
    image_size: int,
    *,
    truth: bool,
    labels: bool = True,
    sources: bool = False,
    limit: int | None = None,
) -> Clips:
    """The clips of one split, decoded, by plain pyarrow.

    Args:
        directory: a prepared dataset.
        split: train, val or test.
        image_size: side of the frames, px.
        truth, sources: also the regions, see `raymix.clip.decode`.
        labels: also the class names.
        limit: the first so many clips (videos are in random order); about as much is read as they take up.

    Raises:
        ValueError: where the folder is no prepared dataset, the split has no clips, or a row cannot be used.
    """
    filesystem, wanted = resolve(directory)[0], columns(truth or sources, labels)
    parts: list[Clips] = []
    for path in shards(directory, split):
        left = None if limit is None else limit - sum(map(len, parts))
        if left is None or left > 0:
            parts.append(decode(usable(filesystem, path, wanted, left), image_size, truth, sources, path))
    if not sum(map(len, parts)):
        raise ValueError(f"{directory}: split '{split}' holds no clips")
    return Clips.concat([part for part in parts if len(part)])


@dataclass(frozen=True)
class ClipShape:
    """What every clip of a split has the same of."""

    frames: int  # pictures
    stft_frames: int
    stft_bins: int

    def decoded_bytes(self, image_size: int) -> int:
        """Bytes of one decoded clip whose pictures have a side of `image_size` px: uint8 pictures, float16 pairs."""
        return 3 * self.frames * image_size**2 + 4 * self.stft_frames * self.stft_bins


def clip_shape(directory: str, split: str) -> ClipShape:
    """The shape of the clips of a split, from its first row; no picture and no sound is read.

    Raises:
        ValueError: as `read`.
    """
    filesystem, wanted = resolve(directory)[0], ["stft_frames", "stft_bins", "frames.list.element.width"]
    for path in shards(directory, split):
        if (rows := usable(filesystem, path, wanted, 1)).num_rows:
            row = rows.to_pylist()[0]
            return ClipShape(len(row["frames"]), row["stft_frames"], row["stft_bins"])
    raise ValueError(f"{directory}: split '{split}' holds no clips")


@dataclass(frozen=True, order=True)
class RowGroup:
    """A part of a shard that is read and decoded at once."""

    path: str  # of the shard, on the dataset's filesystem
    index: int  # in the shard
    rows: int


def row_groups(directory: str, split: str) -> list[RowGroup]:
    """The row groups of a split in order, from the footers of its shards; ValueError as `read`."""
    filesystem = resolve(directory)[0]

    def of(path: str) -> list[RowGroup]:
        with _opened(filesystem, path) as file:
            return [RowGroup(path, at, file.metadata.row_group(at).num_rows) for at in range(file.num_row_groups)]

    with ThreadPoolExecutor(16) as pool:  # a store takes its time over each
        found = pool.map(lambda path: _as_parquet(path, lambda: of(path)), shards(directory, split))
        return [group for groups in found for group in groups]


def read_row_group(directory: str, group: RowGroup, image_size: int, labels: bool) -> Clips:
    """The decoded clips of a row group without their truth; ValueError as `read`."""
    filesystem, wanted = resolve(directory)[0], [*columns(truth=False, labels=labels), "status"]

    def table() -> pa.Table:
        with _opened(filesystem, group.path, pre_buffer=True) as file:
            require(file.schema_arrow, wanted, group.path)
            return _ok(file.read_row_group(group.index, columns=wanted))

    rows = _as_parquet(group.path, table)
    return decode(rows, image_size, truth=False, where=f"{group.path}, row group {group.index}")


def outlines(
    directory: str, split: str, image_size: int, *, truth: bool, sources: bool = False, limit: int | None = None
) -> Clips:
    """The clips of one split as `raymix.clip.outline` reads them: neither pictures nor sounds, and no mask is kept.

    With `limit` only the first so many.
    """
    filesystem, parts = resolve(directory)[0], list[Clips]()
    wanted = [name for name in OUTLINE if name != "regions" or truth or sources]
    for path in shards(directory, split):
        left = None if limit is None else limit - sum(map(len, parts))
        if left is not None and left <= 0:
            break
        rows = usable(filesystem, path, wanted, left)
        parts += [outline(rows.slice(at, CHUNK), image_size, truth, sources) for at in range(0, rows.num_rows, CHUNK)]
    if not parts:
        raise ValueError(f"{directory}: split '{split}' holds no clips")
    return Clips.concat(parts)


def videos(directory: str, split: str) -> list[str]:
    """The source video of every usable clip of a split, after a look into each of its files; ValueError as in `read`."""
    filesystem, _ = resolve(directory)
    tables = [usable(filesystem, path, ["video"]) for path in shards(directory, split)]
    return [video for table in tables for video in table["video"].to_pylist()]


def index(directory: str, split: str) -> tuple[list[str], list[str], list[str]]:
    """Id, source video and first label ('' where there is none) of every usable clip of a split; ValueError as in `read`."""
    filesystem, _ = resolve(directory)
    tables = [usable(filesystem, path, ["clip_id", "video", "labels"]) for path in shards(directory, split)]
    ids, sources, labels = (
        [value for table in tables for value in table[name].to_pylist()] for name in ("clip_id", "video", "labels")
    )
    return ids, sources, [names[0] if names else "" for names in labels]


def usable(filesystem: fs.FileSystem, path: str, wanted: list[str], limit: int | None = None) -> pa.Table:
    """These columns of the usable rows of one shard, at most the first `limit`; ValueError in one line where it is none.

    `a.list.element.b` is a field of the structures in the list column `a`.
    """
    return _as_parquet(path, lambda: _table(filesystem, path, [*wanted, "status"], limit))


def _as_parquet(path: str, read: Callable[[], T]) -> T:
    """What `read` gives, patiently; ValueError in one line where the file is no Parquet."""
    try:
        return patiently(read)
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
        require(file.schema_arrow, [name.partition(".")[0] for name in wanted], path)
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
