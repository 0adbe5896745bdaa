"""Many scenes scored over the Ray cluster: shards through Ray Data's map, the tables of each back, reduced on the driver.

Serves the tables of Section 4 of the paper. The driver reads the predictions, so no node needs to see the file, and holds
a wave of shards at a time, so its memory does not grow with the number of scenes that are read.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from raymix import session, sharded
from raymix.config import Cluster
from raymix.protocol import Protocol
from raymix.sharded import Shard, Tables, Work

WAVE = 64  # shards in the object store at a time


@contextlib.contextmanager
def work(scenes: int, least: int) -> Iterator[Work]:
    """Where shards are scored: over Ray from `least` scenes on, or where RAY_ADDRESS names a cluster; else here."""
    if scenes < least and not os.environ.get("RAY_ADDRESS"):
        yield sharded.here
        return
    import ray

    ours = not ray.is_initialized()
    session.start(Cluster(dashboard=False))
    try:
        import ray.data

        session.hush()  # again: this import sets its logger's level anew
        yield over_ray
    finally:
        if ours:
            session.stop()


def over_ray(shards: Iterable[Shard], protocols: Sequence[Protocol]) -> Iterator[Tables]:
    """The tables of each shard, in the order in which they are done. ValueError as `sharded.scored`."""
    import ray

    how = partial(_scored, protocols=protocols)
    context, rest = ray.data.DataContext.get_current(), iter(shards)
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        while wave := [{"shard": _packed(shard)} for shard in islice(rest, WAVE)]:
            dataset = ray.data.from_items(wave, override_num_blocks=len(wave))
            for row in dataset.map_batches(how, batch_size=1, num_cpus=1).iter_rows():
                found = _unpacked(row["tables"])
                if isinstance(found, str):
                    raise ValueError(found)
                yield found
    finally:
        context.enable_progress_bars = before


def _scored(batch: dict[str, Any], protocols: Sequence[Protocol]) -> dict[str, Any]:
    """The tables of a shard, or the one line that refuses it: Ray would try an error of ours again."""
    found: list[bytes] = []
    for packed in batch["shard"]:
        try:
            found.append(_packed(sharded.scored(_unpacked(packed), protocols)))
        except ValueError as error:
            found.append(_packed(str(error)))
    return {"tables": found}


def _packed(value: Any) -> bytes:
    """Pickled and compressed: of a mask of a hundred thousand pixels little is left."""
    return zlib.compress(pickle.dumps(value), 1)


def _unpacked(data: bytes) -> Any:
    return pickle.loads(zlib.decompress(data))
