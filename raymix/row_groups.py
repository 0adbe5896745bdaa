"""Decoded row groups for the workers of a slot: each is decoded once, by a Ray task, and read in place by every worker.

Which row groups an epoch needs, and in which order, every worker works out for itself (`raymix.stream`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from raymix import clip_files
from raymix.clip import Clips
from raymix.clip_files import RowGroup


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class RowGroupStore:
    """The row groups that the workers of one slot want now or next, as objects in Ray's object store.

    It holds nothing that a restart could lose: what is asked for is decoded again.

    Args:
        directory: a prepared dataset.
        image_size: side of the decoded frames, px.
        labels: whether class names are read.
        cpus: of each decoding task.
    """

    def __init__(self, directory: str, image_size: int, labels: bool, cpus: float) -> None:
        self._how = directory, image_size, labels
        self._cpus = cpus
        self._decoded: dict[RowGroup, Any] = {}  # object references
        self._wanted: dict[int, set[RowGroup]] = {}  # by rank

    def get(self, rank: int, world: int, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[Any]:
        """References to the decoded row groups `now`; decoding of `next_` begins too.

        What no rank wants any more is freed.
        """
        self._wanted[rank] = {*now, *next_}
        self._wanted = {each: wanted for each, wanted in self._wanted.items() if each < world}
        for group in (*now, *next_):
            if group not in self._decoded:
                # SPREAD: over all nodes, and not in the placement group of whoever made this actor
                task = _decode.options(num_cpus=self._cpus, scheduling_strategy="SPREAD")
                self._decoded[group] = task.remote(*self._how, group)
        for group in self._decoded.keys() - set[RowGroup]().union(*self._wanted.values()):
            del self._decoded[group]
        return [self._decoded[group] for group in now]

    def held(self) -> list[RowGroup]:
        """The row groups that are decoded, or are being decoded."""
        return sorted(self._decoded)


@ray.remote
def _decode(directory: str, image_size: int, labels: bool, group: RowGroup) -> Clips:
    return clip_files.read_row_group(directory, group, image_size, labels)


class RowGroupReader:
    """A worker's view of its slot's `RowGroupStore`.

    Args:
        store: the actor.
        rank: of this worker.
        world: number of workers.
    """

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world

    def read(self, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[Clips]:
        """The decoded clips of the row groups `now`, not to be written to; `next_` is what is read after them.

        Raises:
            ValueError: where a row group cannot be read, or holds what no clip may hold.
        """
        try:
            references = ray.get(self._store.get.remote(self._rank, self._world, list(now), list(next_)))
            found: list[Clips] = ray.get(references)
            return found
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # its own line, not the traceback of the task


def open_store(run: Any, labels: bool) -> Any:
    """A `RowGroupStore` for the training clips of a run; it ends when nobody holds what is returned."""
    options = {"scheduling_strategy": "DEFAULT"}  # not in the placement group of the trial that makes it
    cpus = min(1.0, run.cluster.data_cpus)
    store = RowGroupStore.options(**options)  # type: ignore[attr-defined]
    return store.remote(run.dataset.prepared, run.encoder.image_size, labels, cpus)
