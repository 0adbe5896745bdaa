"""Negatives (frames with the sound of another clip, clips without a sounding object), from pair list to detection AP."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymix.config import EvaluateConfig
from raymix.data import pair_lists, records
from raymix.data.preparation import scene_lists, writer
from raymix.data.prepared import read_clip_metadata
from raymix.data.scenes import compose_listed_scenes
from raymix.evaluation.dispatch import run_evaluation
from raymix.evaluation.predictions import open_predictions_writer
from raymix.evaluation.scene_spec import scene_spec_from_settings
from raymix.metrics.ground_truth import SceneGroundTruth
from tests.support.reports import metrics_of
from tests.unit.evaluation.test_predictions_benchmark import a_clip, asked, home

__all__ = ["home"]

CLIPS = [2, 3, 0, 6, 4, 5]  # those whose truth is more than a quarter of the frame come first
NAMES = [f"toy:video{number:02d}:0" for number in range(12)]


def listed(file: Path, heard: dict[int, int]) -> str:
    """A list of six clips as single frames, some with the sound of another clip."""
    with open(file, "w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["scene_id", "layout", "place", "clip_id", "heard"])
        for scene in range(6):
            table.writerow(
                [f"s{scene}", "single", 0, NAMES[CLIPS[scene]], NAMES[heard[scene]] if scene in heard else ""]
            )
    return str(file)


def told(home: Path, file: str, **more: object) -> EvaluateConfig:
    given = asked(home, pair_list=file, protocol="slavc", output=f"{Path(file).parent}/out", **more)
    return replace(given, scenes=None)


def predicted(truth: SceneGroundTruth, file: Path, sure: list[float]) -> str:
    """Maps with the given maxima, inside the ground truth; for a negative in the left half of the frame."""
    assert truth.masks_NSYX is not None
    y, x = truth.canvas
    left_YX, below_YX = np.arange(x)[None, :] < x // 2, np.linspace(-1, -0.2, y * x).reshape(y, x)
    where_NYX = [mask_YX if mask_YX.any() else np.broadcast_to(left_YX, (y, x)) for mask_YX in truth.masks_NSYX[:, 0]]
    maps = [np.where(where_YX, 1, below_YX)[None] * height for where_YX, height in zip(where_NYX, sure, strict=True)]
    with open_predictions_writer(str(file), truth.scenes_hash) as out:
        out.add("mine", truth.ids, maps, truth.canvas)
    return str(file)


def test_a_frame_with_the_sound_of_another_clip_is_a_negative(home: Path, tmp_path: Path) -> None:
    settings = told(home, listed(tmp_path / "mixed.csv", {4: 7, 5: 8}))
    stage = scene_spec_from_settings(settings)
    scenes = stage.compose(clips := stage.clips())
    truth = SceneGroundTruth.of(scenes)
    assert truth.has_truth_N.all() and truth.masks_NSYX is not None
    assert truth.masks_NSYX.any(axis=(1, 2, 3)).tolist() == [True] * 4 + [False] * 2
    own = compose_listed_scenes(
        clips, replace(stage.pairs, scenes=tuple((replace(p[0], heard=""),) for p in stage.pairs.scenes))
    )
    assert (scenes.frames_N3YX == own.frames_N3YX).all() and scenes.hash != own.hash
    same = [bool((a == b).all()) for a, b in zip(scenes.mixture_NTF, own.mixture_NTF, strict=True)]
    assert same == [True] * 4 + [False] * 2
    heard = compose_listed_scenes(
        clips, replace(stage.pairs, scenes=((replace(stage.pairs.scenes[0][0], clip_id=NAMES[7]),),))
    )
    assert (scenes.mixture_NTF[4] == heard.mixture_NTF[0]).all()
    light = stage.truth().drawn()  # without pictures and sounds
    assert light.scenes_hash == truth.scenes_hash and (light.masks_NSYX == truth.masks_NSYX).all()
    assert (light.has_truth_N == truth.has_truth_N).all()


@pytest.mark.parametrize(
    ("sure", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.2, 0.1], 1.0),  # every negative below every positive
        ([0.9, 0.8, 0.7, 0.6, 0.75, 0.65], (1 + 1 + 3 / 4 + 4 / 6) / 4),  # two negatives among them
    ],
)
def test_negatives_lower_detection_ap(home: Path, tmp_path: Path, sure: list[float], expected: float) -> None:
    settings = told(home, listed(tmp_path / "mixed.csv", {4: 7, 5: 8}))
    stage = scene_spec_from_settings(settings)
    truth = stage.truth().drawn()
    file = predicted(truth, tmp_path / "mine.parquet", sure)
    report = run_evaluation(replace(settings, predictions=file), lambda line: None)
    found = metrics_of(report.scores, "single")["mine"]
    assert found["iou@0.5"]["scenes"] == 4  # negatives are rows of no box metric
    assert found["detection_ap@0.5"]["scenes"] == 6
    assert found["detection_ap@0.5"]["value"] == pytest.approx(expected)


def test_a_clip_without_a_sounding_object_is_a_negative(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "clips/toy", prepared := tmp_path / "quiet")
    made = [a_clip(number) for number in range(12)]
    made[3] = replace(made[3], regions=tuple(replace(each, sounding=False) for each in made[3].regions))
    made[5] = replace(made[5], regions=())  # nothing is told of it
    rows = pa.Table.from_pylist([writer.encode_clip(each) for each in made], records.clip_schema("cafe"))
    pq.write_table(rows, prepared / "test-0.parquet")
    for layout, known in (("single", 11), ("hconcat", None)):
        truth = SceneGroundTruth.of(
            (stage := scene_spec_from_settings(asked(home, prepared=str(prepared), layout=layout, scenes=12))).compose(
                stage.clips()
            )
        )
        with_it = ["video03" in video for video in truth.videos]
        if known is not None:
            assert truth.has_truth_N.sum() == known and truth.has_truth_N[with_it].all()
        else:
            assert not truth.has_truth_N[with_it].any()
        assert (stage.truth().has_truth_N == truth.has_truth_N).all()


def test_invalid_lists_with_foreign_sounds_are_refused(home: Path, tmp_path: Path) -> None:
    rows = "scene_id,layout,place,clip_id,heard\na,hconcat,0,toy:video00:0,toy:video02:0\na,hconcat,1,toy:video01:0,\n"
    (tmp_path / "two.csv").write_text(rows)
    with pytest.raises(ValueError, match=r"two.csv, row 1: heard='toy:video02:0': must be empty"):
        pair_lists.read_pair_list(f"{tmp_path}/two.csv")
    for clip_id, says in (("toy:video99:0", "no clip 'toy:video99:0'"), (NAMES[1], "is of the same video")):
        (tmp_path / "one.csv").write_text(f"scene_id,layout,place,clip_id,heard\na,single,0,{NAMES[1]},{clip_id}\n")
        stage = scene_spec_from_settings(told(home, f"{tmp_path}/one.csv"))
        with pytest.raises(ValueError, match=f"row 1, scene 'a', heard: .*{says}"):
            stage.compose(stage.clips())


def test_a_list_with_foreign_sounds_is_written_and_read(home: Path, tmp_path: Path) -> None:
    given = pair_lists.read_pair_list(listed(tmp_path / "mixed.csv", {4: 7, 5: 8}))
    for name in ("again.csv", "again.parquet"):
        pair_lists.write_pair_list(given, f"{tmp_path}/{name}")
        again = pair_lists.read_pair_list(f"{tmp_path}/{name}")
        assert again.hash == given.hash and [p[0].heard for p in again.scenes] == [p[0].heard for p in given.scenes]
    plain = replace(given, scenes=tuple((replace(p[0], heard=""),) for p in given.scenes))
    pair_lists.write_pair_list(plain, f"{tmp_path}/plain.parquet")
    assert "heard" not in pq.read_schema(tmp_path / "plain.parquet").names and plain.hash != given.hash

    shutil.copytree(home / "clips/toy", prepared := tmp_path / "toy")
    rows = pq.read_table(prepared / "test-0.parquet")
    pq.write_table(rows.slice(0, 8), prepared / "test-0.parquet")  # the clip that s5 hears is gone
    names = read_clip_metadata(str(prepared), "test", 8, truth=False)
    kept = scene_lists.match_published_list(given, names, "test", "mixed.csv")
    assert kept.pairs.ids == ["s0", "s1", "s2", "s3", "s4"] and [scene for scene, _ in kept.missing] == ["s5"]
    assert kept.pairs.scenes[4][0].heard == NAMES[7]
