"""Predictions scored in shards, in any order and place, merged into one table a system and protocol."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from raymix.config import did_you_mean
from raymix.evaluation.predictions import PredictionsFile, ScenePrediction
from raymix.metrics.baseline_heatmaps import ClassNamedMaps, score_baselines, score_system
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import EvaluationProtocol
from raymix.metrics.scoring import ScoreTable

ROWS_PER_SHARD = 64  # scenes of a shard


class ScoringShard(NamedTuple):
    """Some scenes with the predictions of one system; without rows, the scenes for the baselines that need no model.

    `kinds`: whether the maps have class names for protocols that go by them; for baselines, those of the systems beside them.
    """

    truth: SceneGroundTruth
    rows: list[ScenePrediction] | None = None
    kinds: frozenset[bool] = frozenset({False})


TablesBySystem = dict[str, dict[str, ScoreTable]]  # by system and protocol


def make_shards(
    found: PredictionsFile, truth: SceneGroundTruth, named: Collection[str] = (), rows: int = 0
) -> Iterator[ScoringShard]:
    """The file's rows as they come, those of one system together; a scene without a row is in a shard too.

    `named`: the systems whose maps have class names of these scenes.
    """
    rows = rows or ROWS_PER_SHARD
    place = {scene: number for number, scene in enumerate(truth.ids)}
    waiting: dict[str, list[ScenePrediction]] = {system: [] for system in found.systems}
    left: dict[str, set[str]] = {system: set(truth.ids) for system in found.systems}

    def shard(some: list[ScenePrediction]) -> ScoringShard:
        part = truth.take(np.array([place[row.scene_id] for row in some]))
        return ScoringShard(part, some, frozenset({some[0].system in named}))

    for row in found.rows(truth):
        waiting[row.system].append(row)
        left[row.system].discard(row.scene_id)
        if len(waiting[row.system]) == rows:
            yield shard(waiting[row.system])
            waiting[row.system] = []
    for system, scenes in left.items():
        rest = waiting[system] + [ScenePrediction(0, scene, system, None) for scene in sorted(scenes)]
        for start in range(0, len(rest), rows):
            yield shard(rest[start : start + rows])


def baseline_shards(
    truth: SceneGroundTruth, kinds: Collection[bool] = (False,), rows: int = 0
) -> Iterator[ScoringShard]:
    """The scenes for the baselines that do not use the audio, for systems of these kinds."""
    rows = rows or ROWS_PER_SHARD
    for start in range(0, len(truth), rows):
        yield ScoringShard(truth.take(np.arange(start, min(start + rows, len(truth)))), None, frozenset(kinds))


def score_shard(shard: ScoringShard, protocols: Sequence[EvaluationProtocol]) -> TablesBySystem:
    """The tables of one shard by system and protocol; it is all that these depend on. ValueError naming the scene."""
    truth, rows, kinds = shard.truth.drawn(), shard.rows, shard.kinds
    if rows is None:
        return score_baselines(truth, protocols, kinds)
    maps = [row.top_k_maps(truth.panels_NS.shape[1]) for row in rows]
    every = ClassNamedMaps([row.maps_MHW for row in rows], [row.map_class for row in rows]) if True in kinds else None
    return {rows[0].system: score_system(maps, truth, protocols, every)}


def score_shards(some: Iterable[ScoringShard], protocols: Sequence[EvaluationProtocol]) -> Iterator[TablesBySystem]:
    """Score shards in this process, one after the other."""
    return (score_shard(shard, protocols) for shard in some)


def merge_tables(parts: Iterable[TablesBySystem]) -> TablesBySystem:
    """One table for each system and protocol, ordered by scene, of parts in any order; a scene that comes again counts once."""
    found: dict[str, dict[str, list[ScoreTable]]] = {}
    for part in parts:
        for system, tables in part.items():
            for protocol, table in tables.items():
                found.setdefault(system, {}).setdefault(protocol, []).append(table)
    return {system: {name: ScoreTable.merge(each) for name, each in own.items()} for system, own in found.items()}


def score_prediction_tables(
    found: PredictionsFile, truth: SceneGroundTruth, protocols: Sequence[EvaluationProtocol]
) -> dict[str, dict[str, ScoreTable]]:
    """The scores of each system in a file, which is never in memory as a whole; a scene without a row is scored too.

    A table for each system and protocol. Where a protocol goes by class names, the maps that have them are held against
    the sources of their classes; where it does not, as many as there are sources, the loudest ones if that is known.
    """
    shards = make_shards(found, truth, named_systems(found, truth, protocols))
    scored = merge_tables(score_shards(shards, protocols))
    return {system: scored[system] for system in found.systems}


def named_systems(found: PredictionsFile, truth: SceneGroundTruth, protocols: Sequence[EvaluationProtocol]) -> set[str]:
    """The systems whose maps a protocol may hold against sources of their classes: of scenes that have classes.

    ValueError where a protocol would, and none of a system's names is one of theirs.
    """
    known = sorted({label for labels in truth.labels or () for label in labels if label})
    by_name = [each.id for each in protocols if each.match == "labels"]
    for system, names in found.classes.items():
        if by_name and known and not names & set(known):
            one = min(names, default="")
            hint = did_you_mean(one, known) or f", the scenes have {', '.join(known[:6])} and others"
            raise ValueError(
                f"{found.uri}: protocol {by_name[0]} goes by class names, and no map_class of {system} is a class of "
                f"these scenes: {one!r}{hint}"
            )
    return set(found.classes) if known else set()
