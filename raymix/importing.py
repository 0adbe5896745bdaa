"""Units of files into shards: over a Ray cluster with Ray Data, over processes of this machine, or here."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

from raymix.config import Dataset
from raymix.datasets import shards, side_by_side
from raymix.datasets.source import RootLost
from raymix.storage import no_room

Tell = Callable[[int, int, bool], None]  # files, clips, and whether they were read just now


def work(
    settings: Dataset, todo: list[shards.Unit], preprocessing: str, workers: int, tell: Tell
) -> Iterator[dict[str, Any]]:
    """The records of the units, in the order in which they end; `tell` hears of files and clips as they are done.

    Where Ray runs they go over its cluster, a unit a task; else over so many processes here, a source a task; 1: here.
    """
    if not todo:
        return
    if workers > 1 and not _ray_runs() and sum(len(unit.sources) for unit in todo) > 1:
        yield from side_by_side.over(settings, todo, preprocessing, workers, lambda c, fresh: tell(1, c, fresh))
        return
    for record in (_over_ray if _ray_runs() else _here)(settings, todo, preprocessing):
        yield record
        tell(len(record["entries"]), record["clips"], True)


def _here(settings: Dataset, todo: list[shards.Unit], preprocessing: str) -> Iterator[dict[str, Any]]:
    for unit in todo:
        yield shards.write_unit(settings, unit, preprocessing)


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _over_ray(settings: Dataset, todo: list[shards.Unit], preprocessing: str) -> Iterator[dict[str, Any]]:
    """The units as a Ray Data pipeline of one task each, in the order in which they end."""
    import ray

    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            record = shards.write_unit(settings, pickle.loads(row["unit"]), preprocessing)
        except RootLost as error:  # as a row: raised, Ray Data would keep its text alone
            return {"record": "", "errno": -1, "said": str(error)}
        except OSError as error:
            if not no_room(error):
                raise
            return {"record": "", "errno": error.errno, "said": str(error.strerror or error)}
        return {"record": json.dumps(record), "errno": 0, "said": ""}

    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        items = [{"unit": pickle.dumps(unit)} for unit in todo]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        # Ray tries a task whose process died again without end; shards gives up the file, so this ends too
        for row in dataset.map(one, num_cpus=1).iter_rows():
            if row["errno"] < 0:
                raise RootLost(row["said"])
            if row["errno"]:
                raise OSError(row["errno"], row["said"])
            yield json.loads(row["record"])
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])
