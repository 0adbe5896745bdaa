"""Shards: however many, in whatever order and with scenes that are repeated, the same bits."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from raymix.evaluation import benchmark, sharded_scoring
from raymix.evaluation.predictions import PredictionsFile, check_predictions, open_predictions_writer
from raymix.metrics.baseline_heatmaps import baseline_heatmaps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS, RAYMIX_1, EvaluationProtocol, get_protocol
from raymix.metrics.scoring import ScoreSummary, ScoreTable, score_maps, summarize_scores

N = 21
CHOSEN = [each for each in PROTOCOLS.values() if each.declines(2) is None]


@pytest.fixture(scope="module")
def truth() -> SceneGroundTruth:
    rng, masks = np.random.default_rng(0), np.zeros((N, 2, 32, 64), bool)
    for i, s in np.ndindex(N, 2):
        y, x = rng.integers(0, 18, 2)
        masks[i, s, y : y + 13, 32 * s + x : 32 * s + x + 11] = True
    ids = tuple(f"scene-{i:02d}" for i in rng.permutation(N))
    return SceneGroundTruth(
        ids=ids,
        videos=tuple((f"video-{i % 8}", f"video-{(i * i + 1) % 11}") for i in range(N)),
        layout="hconcat",
        canvas=(32, 64),
        panels_NS=np.tile([0, 1], (N, 1)),
        rects_P4=np.array([[0, 0, 32, 32], [32, 0, 64, 32]]),
        masks_NSYX=masks,
        has_truth_N=np.arange(N) % 5 > 0,
        scenes_hash="made",
        labels=(("a", "b"),) * N,
    )


@pytest.fixture(scope="module")
def found(truth: SceneGroundTruth, tmp_path_factory: pytest.TempPathFactory) -> PredictionsFile:
    """Two systems, one with gaps and a missing row, the other with three maps of which the loudest two count."""
    rng, uri = np.random.default_rng(1), f"{tmp_path_factory.mktemp('said')}/maps.parquet"
    maps = rng.normal(size=(N, 3, 4, 8)).round(1).astype(np.float16)
    with open_predictions_writer(uri, truth.scenes_hash) as out:
        order = rng.permutation(N)[: N - 2]
        out.add("gaps", [truth.ids[i] for i in order], [None, *maps[order[1:], :2]], truth.canvas)
        out.add("loud", truth.ids, maps, truth.canvas, presence_NM=rng.random((N, 3)))
    return check_predictions(uri, truth)


def bits(value: Any) -> Any:
    """A table or summary as values that are equal only if all its bits are."""
    if isinstance(value, ScoreTable | ScoreSummary):
        return {each.name: bits(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "kept"):
        return bits(value.kept), bits(value.counts_N)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return repr(value)


def plain(found: PredictionsFile, truth: SceneGroundTruth, how: EvaluationProtocol) -> dict[str, ScoreTable]:
    """All scenes at once, without shards."""
    place = {scene: i for i, scene in enumerate(truth.ids)}
    said: dict[str, Any] = {system: [None] * N for system in found.systems}
    for row in found.rows(truth):
        said[row.system][place[row.scene_id]] = row.top_k_maps(2)
    said |= baseline_heatmaps(truth)
    return {system: ScoreTable.merge([score_maps(maps, truth, how)]) for system, maps in said.items()}


@pytest.mark.parametrize("how", CHOSEN, ids=lambda how: how.id)
def test_neither_shards_nor_order_nor_repeats_move_a_bit(
    found: PredictionsFile, truth: SceneGroundTruth, how: EvaluationProtocol
) -> None:
    wanted = bits(plain(found, truth, how))
    for number in (1, 2, 7):
        rows = -(-N // number)
        some = [
            *sharded_scoring.make_shards(found, truth, rows=rows),
            *sharded_scoring.baseline_shards(truth, rows=rows),
        ]
        assert len(some) == 3 * number
        again = [each for each in some if each.rows][:2]  # whole shards, and rows inside a shard
        index = np.r_[: len(again[0].truth), 0, 0]
        assert again[0].rows is not None
        repeated = sharded_scoring.ScoringShard(again[0].truth.take(index), [again[0].rows[i] for i in index])
        some += [*again, repeated]
        random.Random(number).shuffle(some)
        assert (
            bits(
                {
                    name: own[how.id]
                    for name, own in sharded_scoring.merge_tables(sharded_scoring.score_shards(some, [how])).items()
                }
            )
            == wanted
        )


def test_a_scene_scored_otherwise_is_seen(found: PredictionsFile, truth: SceneGroundTruth) -> None:
    """The comparison above can fail: one pixel less of truth in one scene."""
    masks = truth.masks_NSYX.copy()  # type: ignore[union-attr]
    masks[1, 0].flat[masks[1, 0].argmax()] = False
    other = replace(truth, masks_NSYX=masks)
    assert bits(plain(found, truth, RAYMIX_1)) != bits(plain(found, other, RAYMIX_1))


def test_rows_of_a_file_are_scored_in_shards(
    found: PredictionsFile, truth: SceneGroundTruth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded_scoring, "ROWS_PER_SHARD", 7)
    for how in (RAYMIX_1, get_protocol("wsol-pxap")):
        rows = benchmark.prediction_rows(found, truth, how)
        assert bits(rows[0].summary) == bits(summarize_scores(plain(found, truth, how)["gaps"]))
    empty = replace(truth, masks_NSYX=np.zeros_like(truth.masks_NSYX), has_truth_N=np.ones(N, bool))
    strict = replace(RAYMIX_1, id="strict", empty_truth="error")
    with pytest.raises(ValueError, match=r"^scene scene-\d\d: a source has no pixel of truth, which protocol strict"):
        benchmark.prediction_rows(found, empty, strict)
