"""The files of a prepared dataset: what `dataset.json` says of them, and the clips of a split by plain pyarrow.

`raymix.stream` reads the same files over Ray. Every row that is read is a usable one.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from raymix.clip import OUTLINE, SCHEMA_VERSION, VERSION_KEY, Clips, columns, decode, outline, require
from raymix.storage import get, patiently, resolve, unreachable

CHUNK = 64  # clips whose masks are in memory at once, where clips keep none


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
    """The clips of one split, decoded, by plain pyarrow; `limit`: so many rows (videos are in random order)."""
    paths, (filesystem, _) = shards(directory, split), resolve(directory)
    parts: list[Clips] = []
    for path in paths:
        left = None if limit is None else limit - sum(map(len, parts))
        if left is None or left > 0:
            rows = usable(filesystem, path, columns(truth or sources, labels)).slice(0, left)
            parts.append(decode(rows, image_size, truth, sources))
    if not sum(map(len, parts)):
        raise ValueError(f"{directory}: split '{split}' holds no clips")
    return Clips.concat([part for part in parts if len(part)])


def outlines(directory: str, split: str, image_size: int, *, truth: bool, sources: bool = False) -> Clips:
    """The clips of one split as `raymix.clip.outline` reads them: neither pictures nor sounds, and no mask is kept."""
    filesystem, parts = resolve(directory)[0], list[Clips]()
    wanted = [name for name in OUTLINE if name != "regions" or truth or sources]
    for path in shards(directory, split):
        rows = usable(filesystem, path, wanted)
        parts += [outline(rows.slice(at, CHUNK), image_size, truth, sources) for at in range(0, rows.num_rows, CHUNK)]
    if not parts:
        raise ValueError(f"{directory}: split '{split}' holds no clips")
    return Clips.concat(parts)


def videos(directory: str, split: str) -> list[str]:
    """The source video of every usable clip of a split, after a look into each of its files; ValueError as in `read`."""
    filesystem, _ = resolve(directory)
    tables = [usable(filesystem, path, ["video"]) for path in shards(directory, split)]
    return [video for table in tables for video in table["video"].to_pylist()]


def usable(filesystem: fs.FileSystem, path: str, wanted: list[str]) -> pa.Table:
    """These columns of the usable rows of one shard; ValueError in one line where it is none."""
    try:
        table = patiently(lambda: _table(filesystem, path, [*wanted, "status"]))
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid is a ValueError too, but of several lines
        raise ValueError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    return table.filter(pc.equal(table["status"], "ok")).drop_columns(["status"])


def _table(filesystem: fs.FileSystem, path: str, wanted: list[str]) -> pa.Table:
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
        if VERSION_KEY not in (file.schema_arrow.metadata or {}):
            raise ValueError(f"{path}: a Parquet file, but not clips of raymix (no schema version in it)")
        require(file.schema_arrow, wanted, path)
        return file.read(columns=wanted)
