"""The scores of each scene as a file: what a mean, an interval or a paired difference is made of.

Parquet, one row for one system on one scene: `system`, `null` (it cannot have listened), `protocol`, `layout`,
`scenes_hash`, `scene_id`, `video` (the unit of the bootstrap), and a column for each metric, null where a scene has no
truth for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymix.comparison import Row
from raymix.scoring import Table
from raymix.storage import get, resolve

FORM = b"raymix.per_scene"
_FACTS = ("system", "null", "protocol", "layout", "scenes_hash", "scene_id", "video")


@dataclass(frozen=True)
class Scored:
    """The columns of one system on one set of scenes, ordered by scene."""

    system: str
    null: bool
    protocol: str
    layout: str
    scenes_hash: str
    ids: tuple[str, ...]
    videos: tuple[str, ...]
    values: dict[str, np.ndarray]  # (N,) by metric, NaN where a scene has no truth for it

    @staticmethod
    def of(system: str, table: Table, null: bool = False) -> Scored:
        """The columns of a table of `raymix.scoring`."""
        table = Table.merge([table])
        about = (table.protocol, table.layout, table.scenes_hash)
        return Scored(system, null, *about, table.ids, table.videos, dict(table.values))


def encode(rows: Sequence[Row]) -> bytes:
    """The file of all rows that carry their table."""
    parts = []
    for row in rows:
        if row.table is not None:
            each = Scored.of(row.system, row.table, row.null)
            n = len(each.ids)
            facts = {name: [getattr(each, name)] * n for name in _FACTS[:5]}
            facts |= {"scene_id": list(each.ids), "video": list(each.videos)}
            parts.append(pa.table(facts | {name: pa.array(v, from_pandas=True) for name, v in each.values.items()}))
    table = pa.concat_tables(parts, promote_options="default").replace_schema_metadata({FORM: b"1"})
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    return bytes(out.getvalue())


def decode(uri: str) -> list[Scored] | None:
    """All systems of such a file, in its order; None where it is something else, ValueError where it is broken."""
    filesystem, path = resolve(uri)
    data = get(filesystem, path)
    if data[:4] != b"PAR1":
        return None
    try:
        if FORM not in (pq.read_schema(pa.BufferReader(data)).metadata or {}):
            return None
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{uri}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    columns = {name: np.array(table[name].to_pylist()) for name in _FACTS}
    metrics = {name: table[name].to_numpy() for name in table.column_names if name not in _FACTS}
    found: dict[tuple[str, str], Scored] = {}
    for system, scenes_hash in dict.fromkeys(
        zip(columns["system"].tolist(), columns["scenes_hash"].tolist(), strict=True)
    ):
        here = np.flatnonzero((columns["system"] == system) & (columns["scenes_hash"] == scenes_hash))
        here = here[np.argsort(columns["scene_id"][here], kind="stable")]
        own = {name: value[here] for name, value in metrics.items()}
        found[system, scenes_hash] = Scored(
            system=system,
            null=bool(columns["null"][here[0]]),
            protocol=str(columns["protocol"][here[0]]),
            layout=str(columns["layout"][here[0]]),
            scenes_hash=scenes_hash,
            ids=tuple(columns["scene_id"][here].tolist()),
            videos=tuple(columns["video"][here].tolist()),
            values={name: value for name, value in own.items() if not np.isnan(value).all()},
        )
    return list(found.values())
