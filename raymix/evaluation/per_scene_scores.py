"""Scores of each scene as a Parquet file, from which means, intervals and paired differences are computed.

Parquet, one row for one system on one scene: `system`, `null` (it cannot have listened), `protocol`, `layout`,
`scenes_hash`, `preprocessing` (of the clips), `scene_id`, `video` (a list, the sounding videos: the units of the
bootstrap; in files of an older raymix a string, the first of them alone), and a column for each metric, null where a scene
has no truth for it. `rows:METRIC`, where it is there, is how many rows of the protocol an entry stands for in a mean; a list
in `pool:NAME` is what a number of the whole set (PxAP, detection AP) needs of a scene, null where the scene does not count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymix.data.pair_lists import PairList, PairListOrigin
from raymix.metrics.pooled_scores import PooledScores, make_pool
from raymix.metrics.scoring import ScoreTable, SystemScores
from raymix.runtime.storage import read_bytes, resolve_uri

FORMAT_KEY = b"raymix.per_scene"

ORIGIN_KEY = b"raymix.origin"  # of the list of the scenes, as in the list's own file

ROWS_PREFIX, POOL_PREFIX = "rows:", "pool:"

_FACTS = ("system", "null", "protocol", "layout", "scenes_hash", "preprocessing", "scene_id", "video")


@dataclass(frozen=True)
class SystemSceneScores:
    """The columns of one system on one set of scenes, ordered by scene."""

    system: str
    null: bool
    protocol: str
    layout: str
    scenes_hash: str
    ids: tuple[str, ...]
    videos: tuple[tuple[str, ...], ...]  # the sounding ones of each scene
    values: dict[str, np.ndarray]  # (N,) by metric, NaN where a scene has no truth for it
    weights: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # of those metrics whose entries stand for several rows
    pools: dict[str, PooledScores] = field(default_factory=dict)
    preprocessing: str = ""  # of the clips
    origin: PairListOrigin | None = None  # of the list of these scenes, which may have had more

    @staticmethod
    def of(system: str, table: ScoreTable, null: bool = False) -> SystemSceneScores:
        """The columns of a table of `raymix.metrics`."""
        table = ScoreTable.merge([table])
        about = (system, null, table.protocol, table.layout, table.scenes_hash, table.ids, table.videos)
        columns = dict(table.values), dict(table.weights), dict(table.pools)
        return SystemSceneScores(*about, *columns, preprocessing=table.preprocessing)


def encode_scene_scores(rows: Sequence[SystemScores], pairs: PairList | None = None) -> bytes:
    """The file of all rows that carry their table; `pairs` is the list of their scenes."""
    parts = [_columns(SystemSceneScores.of(row.system, row.table, row.null)) for row in rows if row.table is not None]
    table = pa.concat_tables(parts, promote_options="default")
    of = {ORIGIN_KEY: json.dumps(asdict(pairs.origin)).encode()} if pairs and pairs.origin else {}
    table = table.replace_schema_metadata({FORMAT_KEY: b"1"} | of)
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    return bytes(out.getvalue())


def _columns(each: SystemSceneScores) -> pa.Table:
    n = len(each.ids)
    facts: dict[str, Any] = {name: [getattr(each, name)] * n for name in _FACTS[:6]}
    facts |= {"scene_id": list(each.ids), "video": pa.array(each.videos, pa.list_(pa.string()))}
    numbers = each.values | {f"{ROWS_PREFIX}{name}": weight_N for name, weight_N in each.weights.items()}
    facts |= {name: pa.array(value_N, from_pandas=True) for name, value_N in numbers.items()}
    for name, pool in each.pools.items():
        kept_NX, gone_N = pool.kept.reshape(n, -1), pa.array(~pool.counts_N)
        starts = pa.array(np.arange(n + 1, dtype=np.int32) * kept_NX.shape[1])
        facts[f"{POOL_PREFIX}{name}"] = pa.ListArray.from_arrays(starts, pa.array(kept_NX.ravel()), mask=gone_N)
    return pa.table(facts)


def decode_scene_scores(uri: str) -> list[SystemSceneScores] | None:
    """All systems of such a file, in its order; None where it is something else, ValueError where it is broken."""
    table = _read(uri)
    if table is None:
        return None
    if "preprocessing" not in table.column_names:  # of an older raymix
        table = table.append_column("preprocessing", pa.array([""] * table.num_rows))
    of = (table.schema.metadata or {}).get(ORIGIN_KEY)
    columns = {name: np.array(table[name].to_pylist()) for name in _FACTS if name != "video"}
    videos = [(each,) if isinstance(each, str) else tuple(each) for each in table["video"].to_pylist()]
    numbers = [name for name in table.column_names if name not in _FACTS and not name.startswith(POOL_PREFIX)]
    metrics = {name: table[name].to_numpy() for name in numbers}
    pools = {name.removeprefix(POOL_PREFIX): table[name] for name in table.column_names if name.startswith(POOL_PREFIX)}
    found: dict[tuple[str, str], SystemSceneScores] = {}
    for system, scenes_hash in dict.fromkeys(
        zip(columns["system"].tolist(), columns["scenes_hash"].tolist(), strict=True)
    ):
        here = np.flatnonzero((columns["system"] == system) & (columns["scenes_hash"] == scenes_hash))
        here = here[np.argsort(columns["scene_id"][here], kind="stable")]
        own = {name: value[here] for name, value in metrics.items()}
        found[system, scenes_hash] = SystemSceneScores(
            system=system,
            null=bool(columns["null"][here[0]]),
            protocol=str(columns["protocol"][here[0]]),
            layout=str(columns["layout"][here[0]]),
            scenes_hash=scenes_hash,
            preprocessing=str(columns["preprocessing"][here[0]]),
            origin=PairListOrigin(**json.loads(of)) if of else None,
            ids=tuple(columns["scene_id"][here].tolist()),
            videos=tuple(videos[i] for i in here),
            values={k: v for k, v in own.items() if not k.startswith(ROWS_PREFIX) and not np.isnan(v).all()},
            weights={
                k.removeprefix(ROWS_PREFIX): v
                for k, v in own.items()
                if k.startswith(ROWS_PREFIX) and not np.isnan(v).all()
            },
            pools={name: pool for name, kept in pools.items() if (pool := _pool(name, kept.take(here)))},
        )
    return list(found.values())


def _read(uri: str) -> pa.Table | None:
    """The table in such a file; None where it is something else."""
    filesystem, path = resolve_uri(uri)
    data = read_bytes(filesystem, path)
    if data[:4] != b"PAR1":
        return None
    try:
        if FORMAT_KEY not in (pq.read_schema(pa.BufferReader(data)).metadata or {}):
            return None
        return pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{uri}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _pool(name: str, kept: pa.ChunkedArray) -> PooledScores | None:
    """What was kept of some scenes; None where none of them counts."""
    lists = kept.combine_chunks()
    counts_N = np.asarray(lists.is_valid())
    if not counts_N.any():
        return None
    own_KX = lists.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(int(counts_N.sum()), -1)
    kept_NX = np.zeros((len(counts_N), own_KX.shape[1]), own_KX.dtype)
    kept_NX[counts_N] = own_KX
    return make_pool(name, kept_NX.reshape(len(counts_N), 2, -1) if name == "pxap" else kept_NX, counts_N)
