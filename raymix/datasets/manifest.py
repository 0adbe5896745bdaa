"""`manifest.parquet` and `dataset.json` of a prepared dataset, read again, of whatever age."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymix.clip_files import describe
from raymix.datasets.source import Entry
from raymix.storage import get, resolve


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset as its two documents tell it."""

    facts: dict[str, Any]  # dataset.json
    entries: tuple[Entry, ...]  # one for every id that the publisher lists


def read(directory: str) -> Prepared:
    """Both documents; ValueError in one line where the folder is no prepared dataset, or lacks one of them."""
    facts, (filesystem, path) = describe(directory), resolve(directory)
    if lacking := [name for name in ("root", "settings", "splits", "statuses", "classes") if name not in facts]:
        raise ValueError(f"{directory}/dataset.json is not of raymix.prepare: it lacks {', '.join(lacking)}")
    try:
        table = pq.read_table(pa.BufferReader(get(filesystem, f"{path}/manifest.parquet")))
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no manifest.parquet beside dataset.json; prepare again") from error
    except pa.ArrowException as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{directory}/manifest.parquet: cannot be read as Parquet ({first})") from error
    known = [field.name for field in fields(Entry) if field.name in table.column_names]  # older ones have fewer
    if not {"file", "split", "status"} <= set(known):
        raise ValueError(f"{directory}/manifest.parquet: no manifest of raymix; it has {', '.join(table.column_names)}")
    return Prepared(facts, tuple(Entry(**row) for row in table.select(known).to_pylist()))
