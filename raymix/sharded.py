"""Predictions scored shard by shard, so that a file of any size fits in memory: rows and truth in, tables out.

Serves the tables of Section 4 of the paper where there are many scenes. A shard carries all that its scores need: how
many shards there are, their order, and which are repeated changes no bit of the result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from raymix.baseline_heatmaps import ClassNamedMaps, score_baselines, score_system
from raymix.predictions import Prediction, Predictions
from raymix.protocol import Protocol
from raymix.scoring import Table
from raymix.truth import Truth

ROWS = 64  # scenes of a shard


class Shard(NamedTuple):
    """Some scenes and what one system says of each; without rows, the scenes for the null systems that need no model.

    `kinds`: whether the maps have class names for protocols that go by them; for nulls, those of the systems beside them.
    """

    truth: Truth
    rows: list[Prediction] | None = None
    kinds: frozenset[bool] = frozenset({False})


Tables = dict[str, dict[str, Table]]  # by system and protocol


def shards(found: Predictions, truth: Truth, named: Collection[str] = (), rows: int = 0) -> Iterator[Shard]:
    """The file's rows as they come, those of one system together; a scene without a row is in a shard too.

    `named`: the systems whose maps have class names of these scenes.
    """
    rows = rows or ROWS
    place = {scene: number for number, scene in enumerate(truth.ids)}
    waiting: dict[str, list[Prediction]] = {system: [] for system in found.systems}
    left: dict[str, set[str]] = {system: set(truth.ids) for system in found.systems}

    def shard(some: list[Prediction]) -> Shard:
        part = truth.take(np.array([place[row.scene_id] for row in some]))
        return Shard(part, some, frozenset({some[0].system in named}))

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


def of_nulls(truth: Truth, kinds: Collection[bool] = (False,), rows: int = 0) -> Iterator[Shard]:
    """The scenes for the systems that hear nothing, beside systems of these kinds."""
    rows = rows or ROWS
    for start in range(0, len(truth), rows):
        yield Shard(truth.take(np.arange(start, min(start + rows, len(truth)))), None, frozenset(kinds))


def scored(shard: Shard, protocols: Sequence[Protocol]) -> Tables:
    """The tables of one shard by system and protocol; it is all that these depend on. ValueError naming the scene."""
    truth, rows, kinds = shard.truth.drawn(), shard.rows, shard.kinds
    if rows is None:
        return score_baselines(truth, protocols, kinds)
    maps = [row.heard(truth.panels_NS.shape[1]) for row in rows]
    every = ClassNamedMaps([row.maps_MHW for row in rows], [row.map_class for row in rows]) if True in kinds else None
    return {rows[0].system: score_system(maps, truth, protocols, every)}


def here(some: Iterable[Shard], protocols: Sequence[Protocol]) -> Iterator[Tables]:
    """Score shards in this process, one after the other."""
    return (scored(shard, protocols) for shard in some)


def reduced(parts: Iterable[Tables]) -> Tables:
    """One table for each system and protocol, ordered by scene, of parts in any order; a scene that comes again counts once."""
    found: dict[str, dict[str, list[Table]]] = {}
    for part in parts:
        for system, tables in part.items():
            for protocol, table in tables.items():
                found.setdefault(system, {}).setdefault(protocol, []).append(table)
    return {system: {name: Table.merge(each) for name, each in own.items()} for system, own in found.items()}
