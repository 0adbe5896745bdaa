"""Paired differences of numbers that are not plain means over scenes: of rows that weigh differently, of a whole set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymix.data import records
from raymix.evaluation import per_scene_scores
from raymix.evaluation.dispatch import run_evaluation
from raymix.evaluation.paired import PairedDifference, paired_differences
from raymix.evaluation.per_scene_scores import SystemSceneScores
from raymix.evaluation.predictions import open_predictions_writer
from raymix.metrics.bootstrap import BootstrapClusters
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS
from raymix.metrics.scoring import SystemScores, score_maps, summarize_scores
from tests.support.reports import by_layout
from tests.unit.evaluation.test_predictions_benchmark import asked, call, home, truth_of

__all__ = ["home"]


def scored(values: list[float], weights: list[float] | None = None) -> SystemSceneScores:
    n = len(values)
    about = (
        "a",
        False,
        "noprior-code",
        "hconcat",
        "hash",
        tuple("abcdef"[:n]),
        tuple((each,) for each in "uuvvww"[:n]),
    )
    return SystemSceneScores(*about, {"ciou": np.array(values)}, {"ciou": np.array(weights)} if weights else {})


def test_each_side_weighs_its_scenes_as_its_own_number_does() -> None:
    ours, theirs = scored([1.0, 0.5, 0.0, 1.0], [2, 2, 2, 2]), scored([0.6, 0.0, 0.0, 0.3], [2, 3, 2, 5])
    (found,) = paired_differences(ours, theirs)
    assert (found.first, found.second) == pytest.approx((5 / 8, (1.2 + 1.5) / 12)) and found.scenes == 4
    assert found.value == pytest.approx(found.first - found.second) and found.low < found.value < found.high
    # two videos: a resample has both, or one of them twice
    only = {"u": 3 / 4 - 1.2 / 5, "v": 2 / 4 - 1.5 / 7}
    assert (found.low, found.high) == pytest.approx((min(only.values()), max(only.values())))


def test_scenes_that_one_side_leaves_out_count_on_neither() -> None:
    (found,) = paired_differences(scored([1.0, np.nan, 0.0, 1.0]), scored([0.5, 1.0, 0.5, np.nan]))
    assert (found.first, found.second, found.value, found.scenes) == (0.5, 0.5, 0.0, 2)


def noisy(truth: SceneGroundTruth, path: Path, amount: float, seed: int) -> str:
    assert truth.masks_NSYX is not None
    maps = truth.masks_NSYX + amount * np.random.default_rng(seed).normal(size=truth.masks_NSYX.shape)
    with open_predictions_writer(str(path), truth.scenes_hash) as out:
        out.add(path.stem, truth.ids, maps.astype(np.float32), truth.canvas)
    return str(path)


@pytest.mark.parametrize(
    ("protocol", "layout", "metric"), [("wsol-pxap", "hconcat", "pxap"), ("slavc", "single", "detection_ap@0.5")]
)
def test_numbers_of_the_whole_set(home: Path, tmp_path: Path, protocol: str, layout: str, metric: str) -> None:
    words: dict[str, Any] = {"protocol": protocol, "layout": layout, "scenes": 12}
    truth = truth_of(asked(home, **words))
    files = [noisy(truth, tmp_path / "a.parquet", 0.3, 1), noisy(truth, tmp_path / "b.parquet", 1.0, 2)]
    folders = []
    for file in files:
        run_evaluation(asked(home, predictions=file, output=file.removesuffix(".parquet"), **words), lambda line: None)
        folders.append(file.removesuffix(".parquet"))
    compared = [
        run_evaluation(asked(home, compare=both, output=f"{tmp_path}/told", **words), lambda line: None).scores
        for both in (files, folders)
    ]
    found, again = (each["systems"] for each in compared)
    assert "too narrow" not in Path(f"{tmp_path}/told/table.md").read_text()
    assert found == again  # a folder that was written needs no maps
    first, second, gap = (by_layout(each)[layout]["metrics"][metric] for each in found)
    tables = [per_scene_scores.decode_scene_scores(f"{folder}/per_scene.parquet") for folder in folders]
    (pool, other) = (next(iter(each[0].pools.values())) for each in tables if each)
    assert first["value"] == pool.numbers(np.ones((1, 12)))[metric][0] > second["value"]
    order = np.argsort(truth.ids)  # a file's scenes stand by their ids
    videos = BootstrapClusters.of([truth.sounding_videos()[i] for i in order])
    times = np.concatenate(list(videos.draws(0, 2000)))[:, videos.row_N]
    gaps = pool.numbers(times)[metric] - other.numbers(times)[metric]
    assert (gap["low"], gap["high"]) == pytest.approx(tuple(np.nanpercentile(gaps, [2.5, 97.5])))


def test_weights_and_pools_come_back_from_the_file(home: Path, tmp_path: Path) -> None:
    truth = truth_of(asked(home))
    assert truth.masks_NSYX is not None
    maps: list[np.ndarray | None] = [each.astype(np.float32) for each in truth.masks_NSYX]
    maps[0], maps[1] = np.concatenate([truth.masks_NSYX[0], truth.masks_NSYX[1][:1]]).astype(np.float32), None
    for name in ("noprior-code", "wsol-pxap", "raymix-1"):
        table = score_maps(maps, truth, PROTOCOLS[name])
        rows = [
            SystemScores("a", summarize_scores(table, resamples=2), False, table),
            SystemScores("b", summarize_scores(table, resamples=2), True, table),
        ]
        (tmp_path / "x.parquet").write_bytes(per_scene_scores.encode_scene_scores(rows))
        (first, second), own = (
            per_scene_scores.decode_scene_scores(f"{tmp_path}/x.parquet") or [],
            SystemSceneScores.of("a", table),
        )
        assert (
            (first.null, second.null) == (False, True)
            and first.ids == own.ids
            and first.values.keys() == own.values.keys()
        )
        for kind in ("values", "weights"):
            for metric, column in getattr(own, kind).items():
                np.testing.assert_array_equal(getattr(first, kind)[metric], column)
        assert first.pools.keys() == own.pools.keys() and first.weights.keys() == own.weights.keys()
        for pool in own.pools:
            np.testing.assert_array_equal(first.pools[pool].kept, own.pools[pool].kept)
            np.testing.assert_array_equal(first.pools[pool].counts_N, own.pools[pool].counts_N)
        own_differences = paired_differences(first, own)
        assert own_differences and all((each.value, each.low, each.high) == (0, 0, 0) for each in own_differences)
        assert all(isinstance(each, PairedDifference) for each in own_differences)


def test_files_of_an_older_raymix_know_the_first_video_alone(home: Path, tmp_path: Path) -> None:
    truth, folders = truth_of(asked(home)), [f"{tmp_path}/{name}" for name in "ab"]
    for seed, folder in enumerate(folders):
        file = noisy(truth, Path(f"{folder}.parquet"), 0.5 + seed, seed)
        run_evaluation(asked(home, predictions=file, output=folder), lambda line: None)

    def compared(*sides: str) -> tuple[dict[str, Any], str]:
        lines: list[str] = []
        report = run_evaluation(asked(home, compare=list(sides), output=f"{tmp_path}/out"), lines.append)
        return by_layout(report.scores["systems"][2])["hconcat"], "".join(lines)

    found, told = compared(*folders)
    heard = {name for names in truth.sounding_videos() for name in names}
    assert found["videos"] == len(heard) and f" {len(heard)} videos, paired" in told and "too narrow" not in told
    for side, folder in enumerate(folders):
        new = pq.read_table(path := f"{folder}/per_scene.parquet")
        assert {tuple(each) for each in new["video"].to_pylist()} == set(truth.sounding_videos())
        place = new.column_names.index("video")
        old = new.set_column(place, "video", pa.array([each[0] for each in new["video"].to_pylist()]))
        pq.write_table(old.replace_schema_metadata(new.schema.metadata), path)
        scored = per_scene_scores.decode_scene_scores(path)
        assert scored and all(len(names) == 1 for names in scored[0].videos)
        if side == 0:  # the other side knows all
            assert compared(*folders)[0] == found and compared(*folders[::-1])[0]["videos"] == len(heard)
    alone, told = compared(*folders)
    assert (
        alone["videos"] == len({names[0] for names in truth.sounding_videos()}) and "intervals are too narrow" in told
    )
    with pytest.raises(ValueError, match="videos: they are not the same"):
        paired_differences(scored[0], replace(scored[0], videos=(("else",), *scored[0].videos[1:])))


def test_a_folder_that_cannot_be_written_is_known_before_scoring(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = noisy(truth_of(asked(home)), tmp_path / "a.parquet", 0.3, 1)
    (tmp_path / "taken").write_text("a file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "raymix.evaluation.sharded_scoring.score_prediction_tables", lambda *_: pytest.fail("scored first")
        )
        assert call(home, f"compare={file},{file}", f"output={tmp_path}/taken") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and f"{tmp_path}/taken: cannot be written" in told[0]
    assert (tmp_path / "taken").read_text() == "a file"


def test_clips_that_were_prepared_in_two_ways(home: Path, tmp_path: Path) -> None:
    truth, other = truth_of(asked(home)), tmp_path / "other"
    shutil.copytree(home / "clips/toy", other)
    rows = pq.read_table(other / "test-0.parquet")
    pq.write_table(rows.replace_schema_metadata(records.clip_schema("beef").metadata), other / "test-0.parquet")
    file, folders = noisy(truth, tmp_path / "a.parquet", 0.3, 1), [f"{tmp_path}/{name}" for name in "ab"]
    for folder, prepared in zip(folders, (f"{home}/clips/toy", str(other)), strict=True):
        run_evaluation(asked(home, predictions=file, prepared=prepared, output=folder), lambda line: None)
    report = run_evaluation(asked(home, compare=folders), (lines := []).append)
    assert report.scores["scene_sets"][0]["preprocessing"] == ["cafe", "beef"]
    assert "prepared in two ways, cafe and beef" in "".join(map(str, lines))
    older = pq.read_table(file := f"{folders[0]}/per_scene.parquet").drop_columns(["preprocessing"])
    pq.write_table(older, file)  # as raymix wrote it before: what is not known is not told
    run_evaluation(asked(home, compare=folders), (lines := []).append)
    assert "two ways" not in "".join(map(str, lines))
