"""Predictions scored shard by shard, in any order and anywhere: rows and truth in, tables out, each scene once.

Serves the tables of Section 4 of the paper where there are many scenes. A shard carries all that its scores need, so
whether shards are scored here or over a cluster (`raymix.spread`), how many there are and which come twice changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from raymix import comparison
from raymix.predictions import Prediction, Predictions
from raymix.protocol import Protocol
from raymix.scoring import Table, score
from raymix.truth import Truth

ROWS = 64  # scenes of a shard


class Shard(NamedTuple):
    """Some scenes and what one system says of each; without rows, the scenes for the null systems that need no model."""

    truth: Truth
    rows: list[Prediction] | None = None


Tables = dict[str, Table]
Work = Callable[[Iterable[Shard], Protocol], Iterator[Tables]]
"""Scores shards, in whatever order: `here`, or `raymix.spread.over_ray`."""


def shards(found: Predictions, truth: Truth, rows: int = 0) -> Iterator[Shard]:
    """The file's rows as they come, those of one system together; a scene without a row is in a shard too."""
    rows = rows or ROWS
    place = {scene: number for number, scene in enumerate(truth.ids)}
    waiting: dict[str, list[Prediction]] = {system: [] for system in found.systems}
    left: dict[str, set[str]] = {system: set(truth.ids) for system in found.systems}

    def shard(some: list[Prediction]) -> Shard:
        return Shard(truth.take(np.array([place[row.scene_id] for row in some])), some)

    for row in found.rows(truth):
        waiting[row.system].append(row)
        left[row.system].discard(row.scene_id)
        if len(waiting[row.system]) == rows:
            yield shard(waiting[row.system])
            waiting[row.system] = []
    for system, scenes in left.items():
        rest = waiting[system] + [Prediction(0, scene, system, None) for scene in sorted(scenes)]
        for start in range(0, len(rest), rows):
            yield shard(rest[start : start + rows])


def of_nulls(truth: Truth, rows: int = 0) -> Iterator[Shard]:
    """The scenes for the systems that hear nothing."""
    rows = rows or ROWS
    for start in range(0, len(truth), rows):
        yield Shard(truth.take(np.arange(start, min(start + rows, len(truth)))))


def scored(shard: Shard, protocol: Protocol) -> Tables:
    """The tables of one shard by system; it is all that this depends on. ValueError naming the scene."""
    truth, rows = shard
    if rows is None:
        return {name: score(maps, truth, protocol) for name, maps in comparison.nulls(truth).items()}
    return {rows[0].system: score([row.heard(truth.panels_NS.shape[1]) for row in rows], truth, protocol)}


def here(some: Iterable[Shard], protocol: Protocol) -> Iterator[Tables]:
    """Score shards in this process, one after the other."""
    return (scored(shard, protocol) for shard in some)


def reduced(parts: Iterable[Tables]) -> Tables:
    """One table for each system, ordered by scene, of parts in any order; a scene that comes again counts once."""
    found: dict[str, list[Table]] = {}
    for part in parts:
        for system, table in part.items():
            found.setdefault(system, []).append(table)
    return {system: Table.merge(tables) for system, tables in found.items()}
