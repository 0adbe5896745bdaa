"""Predictions in files: what is written is read, whatever somebody else wrote is held against the scenes, row by row."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymix.evaluation import predictions
from raymix.evaluation.predictions import check_predictions, open_predictions_writer
from raymix.metrics.ground_truth import SceneGroundTruth

IDS = tuple(f"hconcat-0-{i:05d}" for i in range(5))


@pytest.fixture(scope="module")
def truth() -> SceneGroundTruth:
    """Five scenes of two panels on a canvas of 8x16 pixels."""
    masks = np.zeros((5, 2, 8, 16), bool)
    masks[:, 0, :, :4] = masks[:, 1, :, 12:] = True
    panels, rects = np.tile([0, 1], (5, 1)), np.array([[0, 0, 8, 8], [8, 0, 16, 8]])
    videos = tuple((f"v{i}", f"w{i}") for i in range(5))
    return SceneGroundTruth(IDS, videos, "hconcat", (8, 16), panels, rects, masks, np.ones(5, bool), "cafe")


def maps(n: int = 5, m: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, m, 4, 8)).astype(np.float32)


def table(**columns: Any) -> pa.Table:
    """A good file of five rows, with these columns instead; None takes one away."""
    flat = [each.ravel().tolist() for each in maps()]
    found: dict[str, Any] = {"scene_id": list(IDS), "system": ["mine"] * 5, "maps": flat}
    found |= {"count": [2] * 5, "height": [4] * 5, "width": [8] * 5}
    found |= columns
    return pa.table({name: value for name, value in found.items() if value is not None})


def npz(path: Path, **arrays: Any) -> str:
    found = {"scene_id": np.array(IDS), "maps": maps()} | arrays
    np.savez(path, **{name: value for name, value in found.items() if value is not None})
    return str(path)


def test_what_is_written_in_chunks_is_read_again(
    truth: SceneGroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "ROWS_PER_CHUNK", 2)
    uri, known = f"{tmp_path}/mine.parquet", [*maps()[:4], None]
    with open_predictions_writer(uri, "cafe") as out:
        out.add("first", IDS, known, (8, 16))
        out.add("second", IDS[:3], maps(m=3)[:3], (8, 16), ["a", "b", "c"], np.arange(9.0).reshape(3, 3))
        assert not Path(uri).exists()  # it comes when it is whole
    file = pq.ParquetFile(uri)
    assert file.num_row_groups == 5 and file.schema_arrow.field("maps").type.value_type == pa.float16()
    found = check_predictions(uri, truth)
    assert found.systems == {"first": 4, "second": 3}
    rows = list(found.rows(truth))
    assert [each.row for each in rows] == list(range(1, 9)) and rows[4].maps_MHW is None
    for row, each in zip(rows[:4], maps(), strict=False):
        assert row.maps_MHW is not None and row.maps_MHW.shape == (2, 4, 8)
        np.testing.assert_allclose(row.maps_MHW, each, rtol=2**-11)
    assert rows[5].map_class == ["a", "b", "c"] and rows[5].presence_M is not None
    loudest = rows[5].top_k_maps(2)
    assert loudest is not None and rows[5].maps_MHW is not None
    np.testing.assert_array_equal(loudest, rows[5].maps_MHW[[2, 1]])
    assert rows[0].top_k_maps(1) is rows[0].maps_MHW  # anonymous maps are all held against the sources


def test_what_half_floats_cannot_hold_is_not_written(tmp_path: Path) -> None:
    for wrong in (np.full((1, 2, 2), 1e6), np.full((1, 2, 2), np.nan), np.ones((1, 2, 2), bool)):
        with (
            pytest.raises(ValueError, match=r"scene a: maps of mine must be finite numbers within 65504"),
            open_predictions_writer(f"{tmp_path}/mine.parquet", "cafe") as out,
        ):
            out.add("mine", ["a"], [wrong], (8, 16))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_any_float_of_a_strangers_parquet(truth: SceneGroundTruth, tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array([each.ravel().astype(kind.to_pandas_dtype()) for each in maps()], pa.list_(kind))
    pq.write_table(table(maps=column, system=None), tmp_path / "stranger.parquet")
    found = check_predictions(f"{tmp_path}/stranger.parquet", truth)
    assert found.systems == {"stranger": 5}
    for row, each in zip(found.rows(truth), maps(), strict=True):
        np.testing.assert_allclose(row.maps_MHW, each, rtol=1e-3, atol=1e-3)


def test_npz_is_the_same(truth: SceneGroundTruth, tmp_path: Path) -> None:
    uri = npz(tmp_path / "b.npz", maps=maps().astype(np.float16), missing=np.arange(5) == 3, canvas=np.array([8, 16]))
    rows = list(check_predictions(uri, truth).rows(truth))
    assert [each.maps_MHW is None for each in rows] == [False, False, False, True, False]
    np.testing.assert_allclose(rows[4].maps_MHW, maps()[4], rtol=2**-10)
    several = npz(tmp_path / "c.npz", scene_id=np.array(IDS[:4]), maps=maps(4), system=np.array(["a", "b"] * 2))
    assert check_predictions(several, truth).systems == {"a": 2, "b": 2}
    classes = npz(tmp_path / "d.npz", map_class=np.array(["x", "y"]), presence=np.ones((5, 2)), scenes_hash="cafe")
    assert next(check_predictions(classes, truth).rows(truth)).map_class == ["x", "y"]


def test_boxes_and_masks_are_taken_as_they_are(truth: SceneGroundTruth, tmp_path: Path) -> None:
    boxes = [[[0, 0, 0.25, 1], [0.75, 0, 1, 1]], [[0.5, 0.5, 1, 1]], [], None, [[0, 0, 1e-6, 1e-6]]]
    pq.write_table(pa.table({"scene_id": list(IDS), "boxes": boxes}), tmp_path / "boxes.parquet")
    found = check_predictions(f"{tmp_path}/boxes.parquet", truth)
    assert found.systems == {"boxes": 3}
    rows = [each.maps_MHW for each in found.rows(truth)]
    assert rows[0] is not None and rows[0].dtype == bool and truth.masks_NSYX is not None
    np.testing.assert_array_equal(rows[0], truth.masks_NSYX[0])
    assert rows[1] is not None and rows[1].sum() == 32 and rows[1][0, 4:, 8:].all()
    assert rows[2] is None and rows[3] is None and rows[4] is not None and rows[4].sum() == 1
    flat = [each.ravel().tolist() for each in truth.masks_NSYX]
    pq.write_table(table(maps=flat, height=[8] * 5, width=[16] * 5), tmp_path / "masks.parquet")
    row = next(check_predictions(f"{tmp_path}/masks.parquet", truth).rows(truth))
    np.testing.assert_array_equal(row.maps_MHW, truth.masks_NSYX[0])
    uri = npz(tmp_path / "boxes.npz", maps=None, boxes=np.tile([0, 0, 0.25, 1.0], (5, 1, 1)))
    assert next(check_predictions(uri, truth).rows(truth)).maps_MHW.sum() == 32


def test_maps_of_64_bits_reach_as_far_as_those_of_32(truth: SceneGroundTruth, tmp_path: Path) -> None:
    most = float(np.finfo(np.float32).max)
    far = maps().astype(np.float64)
    far[2] = most
    assert check_predictions(npz(tmp_path / "x.npz", maps=far), truth).systems
    far[2, 0, 0, 0] = np.nextafter(-most, -np.inf)
    with pytest.raises(
        ValueError, match=r"x.npz, row 3, scene 'hconcat-0-00002': a map holds 3.4e\+38 or its negative"
    ):
        check_predictions(npz(tmp_path / "x.npz", maps=far), truth)


NAN = [[*[0.0] * 63, float("nan")], *[[0.0] * 64] * 4]
FAR = [*[[0.0] * 64] * 3, [*[0.0] * 63, -1.7e308], [0.0] * 64]
EMPTY = {name: [] for name in ("scene_id", "system", "count", "height", "width")}
EMPTY |= {"maps": pa.array([], pa.list_(pa.float32()))}
BOX = [[[0, 0, 1, 1]]] * 4
WRONG: dict[str, dict[str, Any]] = {
    "row 2, scene 'hconcat-1-00001': none of the 5 hconcat scenes (did you mean 'hconcat-0-00001'?)": {
        "scene_id": [IDS[0], "hconcat-1-00001", *IDS[2:]]
    },
    "row 1, scene '7': none of the 5 hconcat scenes, such as 'hconcat-0-00000'": {"scene_id": ["7", *IDS[1:]]},
    "row 5, scene 'hconcat-0-00001': mine has a row for this scene already, row 2": {"scene_id": [*IDS[:4], IDS[1]]},
    "row 1, scene 'hconcat-0-00000': 64 values do not fill count x height x width = 2x4x9": {"width": [9] * 5},
    "row 3, scene 'hconcat-0-00002': 64 values do not fill count x height x width = Nonex4x8": {
        "count": [2, 2, None, 2, 2]
    },
    "row 5, scene 'hconcat-0-00004': maps of 8x4, those of other rows of mine are maps of 4x8": {
        "height": [4, 4, 4, 4, 8],
        "width": [8, 8, 8, 8, 4],
    },
    "row 1, scene 'hconcat-0-00000': a map holds a value that is no number": {"maps": NAN},
    "row 4, scene 'hconcat-0-00003': a map holds 1.7e+308 or its negative; values must be within 3.4e+38": {
        "maps": FAR
    },
    "row 1, scene 'hconcat-0-00000': masks of 4x8 pixels, the canvas is 8x16": {"maps": [[True] * 64] * 5},
    "row 1, scene 'hconcat-0-00000': of a canvas of 16x16 pixels, the scene's is 8x16; name the image_size= or study=": {
        "canvas_height": [16] * 5,
        "canvas_width": [16] * 5,
    },
    "row 1, scene 'hconcat-0-00000': map_class of 1 for 2 maps": {"map_class": [["a"]] * 5},
    "row 1, scene 'hconcat-0-00000': map_class is 7; it must be a list": {"map_class": [7] * 5},
    "row 1, scene 'hconcat-0-00000': presence of 3 for 2 maps": {"presence": [[1.0, 2.0, 3.0]] * 5},
    "row 4, scene 'hconcat-0-00003': presence holds a value that is no": {
        "presence": [[1.0, 2.0]] * 3 + [[1.0, None]] * 2
    },
    "row 1, scene 'hconcat-0-00000': boxes is 7; it must be a list": {"maps": None, "boxes": [7] * 5},
    "row 1, scene 'hconcat-0-00000': box 1 is 7; it must be a list of numbers": {"maps": None, "boxes": [[7]] * 5},
    "row 1, scene 'hconcat-0-00000': boxes is left; it must be a list": {"maps": None, "boxes": ["left"] * 5},
    "row 1, scene 'hconcat-0-00000': has maps and boxes": {"boxes": [*BOX, None]},
    "row 5, scene 'hconcat-0-00004': box 1, [0, 0, 1.5, 1], reaches out of [0, 1]": {
        "maps": None,
        "boxes": [*BOX, [[0, 0, 1.5, 1]]],
    },
    "row 5, scene 'hconcat-0-00004': box 2, [0, -0.1, 1, 1], reaches out of [0, 1]": {
        "maps": None,
        "boxes": [*BOX, [[0, 0, 1, 1], [0, -0.1, 1, 1]]],
    },
    "row 5, scene 'hconcat-0-00004': box 1, [0.6, 0, 0.5, 1], is reversed": {
        "maps": None,
        "boxes": [*BOX, [[0.6, 0, 0.5, 1]]],
    },
    "row 5, scene 'hconcat-0-00004': box 1, [0, 1, 0], must be four numbers": {
        "maps": None,
        "boxes": [*BOX, [[0, 1, 0]]],
    },
    "no column scene_id; it has": {"scene_id": None},
    "no column maps, nor boxes; it has": {"maps": None},
    "no column width: the shape of the maps": {"width": None},
    "column maps holds list<element: string>": {"maps": [["a"]] * 5},
    "holds no prediction": EMPTY,
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_said_in_one_line_that_names_the_row(
    truth: SceneGroundTruth, tmp_path: Path, said: str
) -> None:
    pq.write_table(table(**WRONG[said]), tmp_path / "mine.parquet")
    with pytest.raises(ValueError) as caught:
        check_predictions(f"{tmp_path}/mine.parquet", truth)
    assert f"mine.parquet, {said}" in str(caught.value) or f"mine.parquet: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_scenes_and_other_files_are_refused(truth: SceneGroundTruth, tmp_path: Path) -> None:
    with open_predictions_writer(f"{tmp_path}/other.parquet", "beef") as out:
        out.add("mine", IDS, maps(), (8, 16))
    with pytest.raises(
        ValueError, match=r"other.parquet: predictions of the scenes beef, these are cafe; dataset, split"
    ):
        check_predictions(f"{tmp_path}/other.parquet", truth)
    with pytest.raises(ValueError, match="of the scenes beef, these are cafe"):
        check_predictions(npz(tmp_path / "x.npz", scenes_hash=np.array("beef")), truth)
    with pytest.raises(
        ValueError, match=r"x.npz: maps has the shape \(4, 2, 4, 8\), with 5 scenes it needs 4 axes from 5"
    ):
        check_predictions(npz(tmp_path / "x.npz", maps=maps(4)), truth)
    with pytest.raises(ValueError, match=r"x.npz: no column maps, nor boxes"):
        check_predictions(npz(tmp_path / "x.npz", maps=None), truth)
    with pytest.raises(ValueError, match=r"x.npz: scene_id has the shape \(\); it has one axis, an id for each scene$"):
        check_predictions(npz(tmp_path / "x.npz", scene_id=np.array(IDS[0]), maps=maps(1)), truth)
    np.savez(tmp_path / "x.npz", scene_id=np.array(IDS, object), maps=maps())  # a pickle: never loaded
    with pytest.raises(ValueError, match="pickles, which are not loaded"):
        check_predictions(f"{tmp_path}/x.npz", truth)
    for name, content in (
        ("a.csv", b"scene_id,maps"),
        ("b.parquet", b"PAR1 no more"),
        ("c.npz", b"PK\x03\x04 no more"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: (predictions are Parquet or NPZ|cannot be read)") as caught:
            check_predictions(f"{tmp_path}/{name}", truth)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        check_predictions(f"{tmp_path}/nowhere.npz", truth)


def test_npz_is_read_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: of a file of 300 maps nobody ever asks for more than 64."""
    ids, asked = [f"s{number}" for number in range(300)], list[int]()
    made = np.random.default_rng(0).normal(size=(300, 2, 16, 32)).astype(np.float16)
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or read(self, n))
    for save, form in ((np.savez, made), (np.savez_compressed, made), (np.savez, np.asfortranarray(made))):
        asked.clear()
        save(tmp_path / "x.npz", scene_id=np.array(ids), maps=form, missing=np.arange(300) == 70)
        found = list(predictions.read_prediction_rows(f"{tmp_path}/x.npz", ""))
        assert (max(asked) <= predictions.ROWS_PER_CHUNK * made[0].nbytes and min(asked) > 0) or form is not made
        assert [str(each.scene_id) for each in found] == ids and found[70].maps_MHW is None
        assert all(np.array_equal(each.maps_MHW, made[at]) for at, each in enumerate(found) if at != 70)


def test_an_array_that_ends_early_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", np.zeros((5, 2, 4, 8), np.float16))
    np.save(tmp_path / "scene_id.npy", np.array(IDS))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(tmp_path / "scene_id.npy", "scene_id.npy")
        archive.writestr("maps.npy", (tmp_path / "maps.npy").read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"x.npz: cannot be read \(maps ends before its row 5 does\)"):
        list(predictions.read_prediction_rows(f"{tmp_path}/x.npz", ""))
