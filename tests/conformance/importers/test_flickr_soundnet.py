"""Flickr-SoundNet in the layouts that people have it in: the boxes of its annotators, its lists, its middles."""

from __future__ import annotations

import base64
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import wavfile

from raymix.config import DatasetConfig
from raymix.data.importers import flickr_soundnet
from raymix.data.importers.flickr_soundnet import AnnotatorVotes
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.evaluation.predictions import open_predictions_writer
from raymix.metrics.functional import resize_maps
from raymix.metrics.regions import encode_mask, region_mask, union_mask
from raymix.reporting import contact_sheets, dataset_inspection
from raymix.reporting.figures import SOURCE_COLOURS
from tests.support.make_videos import film
from tests.support.reports import metrics_of

FIRST, SECOND, WHOLE, ALONE, BAD, GONE, QUIET, LATER = (str(10_000_130_166 + number) for number in range(8))
TRAINED = [str(2_400_000_000 + number) for number in range(4)]


def settings(root: Path, **changes: Any) -> DatasetConfig:
    known = {
        "name": "flickr_soundnet",
        "root": str(root),
        "prepared": str(root.parent / f"{root.name}-out"),
        "clip_seconds": 1.0,
        "stride_seconds": 1.0,
        "frame_size": 48,
        "val": 0.0,
        "allow_leaks": True,
    }
    return DatasetConfig(**{**known, **changes})


def marked(*annotators: list[tuple[Any, ...]]) -> bytes:
    """The publisher's XML: a node for each annotator, in it a bbox for each box, in it a name and four edges."""
    text = "<annotation>"
    for number, boxes in enumerate(annotators):
        text += f"<annotator{number}>"
        for box in boxes:
            edges = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            text += f"<bbox><name>person</name>{edges}</bbox>"
        text += f"<time>12</time></annotator{number}>"
    return (text + "</annotation>").encode()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pair(root: Path, id: str, seconds: float = 5.0, rate: int = 22_050, shade: int = 90) -> None:
    """frames/ID.jpg and audio/ID.wav, with a click in the middle of the sound."""
    (root / "frames").mkdir(parents=True, exist_ok=True)
    (root / "audio").mkdir(exist_ok=True)
    Image.new("RGB", (64, 48), (shade, 90, 90)).save(root / "frames" / f"{id}.jpg")
    times = np.arange(round(seconds * rate)) / rate
    wave = np.where(np.abs(times - seconds / 2) < 0.001, 0.9, 0.02 * np.sin(2 * np.pi * 440 * times))
    wavfile.write(root / "audio" / f"{id}.wav", rate, (32_767 * wave).astype(np.int16))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flickr") / "raw"
    boxes = root / "Annotations"
    pair(root, FIRST)
    film(root / "videos" / f"{FIRST}.mp4", 3.0)  # the picture that was annotated goes before its video
    write(boxes / f"{FIRST}.xml", marked([(32, 64, 160, 192)], [(64, 96, 224, 224)], [(240, 0, 256, 16)]))
    pair(root, SECOND, rate=44_100)
    dirty = [(200, 128, 100, 64), (0, 0, 0, 40), ("a", 1, 2, 3)], [(96, 60, 300, 130), (120, 70, 130, 80)]
    write(boxes / f"{SECOND}.xml", marked(*dirty))
    film(root / "videos" / f"{WHOLE}.mp4", 6.0, fps=25, rate=44_100, layout="stereo", flash_s=3.0)
    write(boxes / f"{WHOLE}.xml", marked([(0, 0, 128, 256)], [(0, 0, 256, 128)]))
    pair(root, ALONE)
    write(boxes / f"{ALONE}.xml", marked([(0, 0, 20, 20)], [(40, 40, 60, 60)]))
    pair(root, BAD)
    write(boxes / f"{BAD}.xml", b"<annotation><annotator1><bbox>")
    write(boxes / f"{GONE}.xml", marked([(0, 0, 20, 20)]))
    pair(root, QUIET, seconds=0.5)
    write(boxes / f"{QUIET}.xml", marked([(0, 0, 20, 20)], [(0, 0, 20, 20)]))
    pair(root, LATER)
    write(boxes / f"{LATER}.xml", marked([(0, 0, 20, 20)], [(0, 0, 20, 20)]))
    for shade, id in enumerate(TRAINED[:2]):
        pair(root / "train", id, seconds=2.5, shade=shade)
    film(root / "train" / f"{TRAINED[2]}.mkv", 2.0, rate=48_000)
    pair(root / "train", TRAINED[3])
    (root / "train" / "frames" / f"{TRAINED[3]}.jpg").unlink()
    listed = "".join(f"{id},{number}\n" for number, id in enumerate((FIRST, SECOND, WHOLE, ALONE, BAD, GONE, QUIET)))
    write(root / "metadata" / "flickr_test.csv", listed.encode())
    write(root / "metadata" / "flickr_10k.txt", "\n".join((TRAINED[0], FIRST, "2499999999")).encode())
    return root


@pytest.fixture(scope="module")
def made(raw: Path) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The manifest by id and the rows by video."""
    chosen = settings(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_ray_runs", lambda: False)
        prepare_dataset(chosen, lambda line: None)
    manifest = {row["id"]: row for row in pq.read_table(f"{chosen.prepared}/manifest.parquet").to_pylist()}
    rows: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(Path(chosen.prepared).glob("t*-0*.parquet")):
        for row in pq.read_table(file).to_pylist():
            rows.setdefault(row["video"], []).append(row)
    return manifest, rows


def test_every_id_is_a_row(made) -> None:
    manifest, _ = made
    assert {id: (row["split"], row["status"], row["clips"]) for id, row in manifest.items()} == {
        FIRST: ("test", "ok", 1),
        SECOND: ("test", "repaired", 1),
        WHOLE: ("test", "ok", 1),
        ALONE: ("test", "repaired", 1),
        BAD: ("test", "corrupt", 0),
        GONE: ("test", "missing", 0),
        QUIET: ("test", "too short", 0),
        LATER: ("", "unlisted", 0),
        TRAINED[0]: ("train", "ok", 2),
        TRAINED[1]: ("train", "ok", 2),
        TRAINED[2]: ("train", "ok", 2),
        TRAINED[3]: ("train", "no video", 0),
    }
    assert manifest[SECOND]["reason"] == (
        "annotator 1: box 200,128,100,64 reversed: turned round; annotator 1: box 0,0,0,40 is empty: left out; "
        "annotator 1: a box of ['a', '1', '2', '3'] left out"
    )
    assert manifest[SECOND]["repairs"] == 4
    assert manifest[ALONE]["reason"] == "no 2 of 2 annotators agree anywhere: single votes alone are its truth"
    assert manifest[BAD]["reason"].startswith(f"{BAD}.xml: not XML (")
    assert manifest[FIRST]["file"] == f"frames/{FIRST}.jpg"
    assert manifest[LATER]["reason"] == "it has an ID.xml, but is not in flickr_test.csv"


def box(edges: tuple[int, int, int, int], size: int) -> np.ndarray:
    """The pixels of a box on the grid of 256, on one of `size`."""
    left, top, right, bottom = (edge * size // 256 for edge in edges)
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


BOXES = {  # the boxes of each annotator, as what was wrong with them was mended, and where two of them agree
    # of 32,64..160,192 and 64,96..224,224; as widths and heights they would be 64..192
    FIRST: ([[(32, 64, 160, 192)], [(64, 96, 224, 224)], [(240, 0, 256, 16)]], [(64, 96, 160, 192)]),
    # of 100,64..200,128 and 96,60..256,130; one annotator's two boxes are one vote
    SECOND: ([[(100, 64, 200, 128)], [(96, 60, 256, 130), (120, 70, 130, 80)]], [(100, 64, 200, 128)]),
    WHOLE: ([[(0, 0, 128, 256)], [(0, 0, 256, 128)]], [(0, 0, 128, 128)]),
    ALONE: ([[(0, 0, 20, 20)], [(40, 40, 60, 60)]], []),
}


def test_the_truth_is_where_two_annotators_agree_and_half_where_one_is_alone_to_the_pixel(made) -> None:
    _, rows = made
    for id, (annotators, agreed) in BOXES.items():
        (row,) = rows[id]
        assert [region["weight"] for region in row["regions"]] == [1.0] * bool(agreed) + [0.5], id
        for region in row["regions"]:
            assert region["box_xyxy"] is None and region["sounding"] and region["frame"] == 0
            for size in (256, 128):
                expected = sum((box(edges, size) for edges in agreed), np.zeros((size, size), bool))
                if region["weight"] < 1:
                    expected = ~expected & np.any([box(each, size) for boxes in annotators for each in boxes], axis=0)
                assert np.array_equal(region_mask(None, region["mask"], size), expected), (id, region["weight"], size)
    masks, halves, known = union_mask([rows[id][0]["regions"] for id in (FIRST, ALONE, TRAINED[0])], 128)
    assert known.tolist() == [True, True, False] and masks.any(axis=(1, 2)).tolist() == [True, False, False]
    assert np.array_equal(halves[1], box((0, 0, 20, 20), 128) | box((40, 40, 60, 60), 128)) and not halves[2].any()


@pytest.mark.parametrize("size", [224, 96, 50])
def test_on_a_coarser_grid_no_pixel_is_both_or_lost_between_the_two(made, size: int) -> None:
    _, rows = made
    masks, halves, _ = union_mask([rows[id][0]["regions"] for id in BOXES], size)
    assert not (masks & halves).any()
    for place, (annotators, _) in enumerate(BOXES.values()):
        drawn = np.any([box(each, 256) for boxes in annotators for each in boxes], axis=0)
        lost = region_mask(None, encode_mask(drawn), size) & ~masks[place] & ~halves[place]
        assert lost.sum() <= 2  # where the corner of one region lies in a pixel with the edge of the other


@pytest.mark.parametrize(
    ("annotators", "whole", "half"),
    [
        ([[(10, 20, 110, 220)]], [], [(10, 20, 110, 220)]),
        (
            [[(0, 0, 40, 40), (20, 20, 60, 60)]],
            [],
            [(0, 0, 40, 40), (20, 20, 60, 60)],
        ),  # published code: 20..40 counts 1
        ([[(0, 0, 40, 40)], [(20, 0, 60, 40)]], [(20, 0, 40, 40)], [(0, 0, 20, 40), (40, 0, 60, 40)]),
        ([[(8, 8, 16, 16)], [(8, 8, 16, 16)]], [(8, 8, 16, 16)], []),
        (
            [[(0, 0, 40, 40)], [(20, 0, 60, 40)], [(30, 0, 80, 40)]],
            [(20, 0, 60, 40)],  # of 30..40 all three, of 20..30 and 40..60 two
            [(0, 0, 20, 40), (60, 0, 80, 40)],
        ),
    ],
)
def test_regions_of_one_two_and_three_annotators(annotators: list[Any], whole: list[Any], half: list[Any]) -> None:
    marks = AnnotatorVotes.of(marked(*annotators))
    found = {region["weight"]: region_mask(None, base64.b64decode(region["mask"]), 256) for region in marks.regions}
    expected = {1.0: whole, 0.5: half}
    assert list(found) == [weight for weight, boxes in expected.items() if boxes]
    for weight, mask in found.items():
        assert np.array_equal(mask, np.any([box(edges, 256) for edges in expected[weight]], axis=0)), weight
    said = f"no 2 of {len(annotators)} annotators agree anywhere: single votes alone are its truth"
    assert marks.repairs == (() if whole else (said,))


def test_where_no_box_is_left_there_is_no_truth() -> None:
    marks = AnnotatorVotes.of(marked([(0, 0, 0, 40)]))
    assert marks.regions == () and marks.repairs[-1] == "no 2 of 1 annotators agree anywhere: no truth"


def test_a_test_id_is_the_middle_of_its_sound(made) -> None:
    _, rows = made
    (first,), (whole,) = rows[FIRST], rows[WHOLE]
    assert first["start_s"] == pytest.approx(2.0, abs=0.01) and first["clip_id"] == f"flickr_soundnet:{FIRST}:2000"
    assert first["frames"][0]["t_s"] == pytest.approx(2.5, abs=0.01)
    assert whole["start_s"] == pytest.approx(2.5, abs=0.05) and whole["frames"][0]["t_s"] == pytest.approx(
        3.0, abs=0.05
    )
    for row in (first, whole):
        stft = np.frombuffer(row["stft"], np.float16).astype(float).reshape(row["stft_frames"], row["stft_bins"], 2)
        click = np.abs(stft[:, stft.shape[1] // 2 :]).sum((1, 2)).argmax() / row["stft_frames"]
        assert click == pytest.approx(0.5, abs=0.04)
    assert sorted(row["start_s"] for row in rows[TRAINED[0]]) == [0.0, 1.0] and not rows[TRAINED[0]][0]["regions"]


def test_a_training_list_says_who_is_in_training(raw: Path) -> None:
    found = [
        (s.id, s.split, (s.refused or ("",))[0], s.size_bytes > 0)
        for s in flickr_soundnet.list_sources(settings(raw, subset="flickr_10k"))
    ]
    trained = sorted(row for row in found if row[1] != "test")
    assert trained == [
        (FIRST, "", "leaked", True),
        (LATER, "", "unlisted", True),
        (TRAINED[0], "train", "", True),
        *((id, "", "unlisted", id != TRAINED[3]) for id in TRAINED[1:]),
        ("2499999999", "train", "", False),
    ]
    assert len(found) == len(trained) + 7


def test_without_a_list_all_annotated_ids_are_tested(tmp_path: Path) -> None:
    pair(tmp_path / "media", FIRST)
    pair(tmp_path / "media", SECOND)
    for number, id in enumerate(TRAINED):
        pair(tmp_path / "media", id, 0.1, shade=number)
    write(tmp_path / "boxes" / f"{FIRST}.xml", marked([(0, 0, 20, 20)], [(0, 0, 20, 20)]))
    chosen = settings(tmp_path / "media", annotations=str(tmp_path / "boxes"), val=0.5)
    found = {source.id: source.split for source in flickr_soundnet.list_sources(chosen)}
    assert found.pop(FIRST) == "test" and set(found) == {SECOND, *TRAINED} and set(found.values()) == {"train", "val"}


def test_the_annotated_picture_goes_before_its_video_and_may_take_its_sound(tmp_path: Path) -> None:
    pair(tmp_path, FIRST)
    (tmp_path / "audio" / f"{FIRST}.wav").unlink()
    write(tmp_path / f"{FIRST}.xml", marked([(0, 0, 20, 20)], [(0, 0, 20, 20)]))
    film(tmp_path / f"{FIRST}.mp4", 3.0, rate=44_100)
    (source,) = flickr_soundnet.list_sources(settings(tmp_path, val=0.5))
    assert (source.path, source.sound) == (f"frames/{FIRST}.jpg", f"{FIRST}.mp4")
    (found,) = flickr_soundnet.import_clips(settings(tmp_path), source, source.manifest_row())
    assert found.start_s == pytest.approx(1.0, abs=0.05) and found.frames[0].shape == (48, 64, 3)


def test_boxes_without_named_edges_go_by_their_order() -> None:
    named, plain = (marked([(10, 20, 110, 220)], [(10, 20, 110, 220)]) for _ in range(2))
    for edge in (b"xmin", b"ymin", b"xmax", b"ymax"):
        plain = plain.replace(b"<" + edge + b">", b"<v>").replace(b"</" + edge + b">", b"</v>")
    mask = np.zeros((256, 256), bool)
    mask[20:220, 10:110] = True
    for content in (named, plain):
        assert np.array_equal(AnnotatorVotes.of(content).votes_YX, 2 * mask)
        assert np.array_equal(
            region_mask(None, base64.b64decode(AnnotatorVotes.of(content).regions[0]["mask"]), 256), mask
        )


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    root = tmp_path / "in"

    def refused(**changes: Any) -> str:
        with pytest.raises(ValueError) as caught:
            flickr_soundnet.list_sources(settings(root, **changes))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in refused()
    pair(root, FIRST)
    assert "no ID.xml of Flickr-SoundNet below it" in refused()
    assert "no such folder; name the one that holds ID.xml" in refused(annotations=str(tmp_path / "none"))
    write(root / "Annotations" / f"{GONE}.xml", marked([(0, 0, 20, 20)]))
    assert refused().startswith(f"none of 1 test ids, such as {GONE}, has a picture or video below dataset.root=")
    write(root / "Annotations" / f"{FIRST}.xml", marked([(0, 0, 20, 20)]))
    write(root / "flickr_10k.txt", TRAINED[0].encode())
    assert refused(subset="flickr_1k").endswith("beside the annotations (did you mean flickr_10k?)")
    write(root / "flickr_test.csv", b"file,split\n")
    assert refused().endswith("line 1: the id of a Flickr video is expected first, found 'file'")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not XML"),
        (b"PK\x03\x04", "not XML"),
        (b"<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>", "no annotator node with a bbox"),
    ],
)
def test_what_is_no_annotation(content: bytes, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        AnnotatorVotes.of(content)


def command(door: str, *words: str) -> None:
    """Through a door as the command line does, which must end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{door}.py", *words])
        patch.setattr(pipeline, "_ray_runs", lambda: False)
        try:
            code = importlib.import_module(f"raymix.{door}").main()
        except SystemExit as stop:
            code = stop.code
    assert not code


def test_a_look_counts_regions_apart_from_single_votes_and_dots_these(made, raw: Path, tmp_path: Path) -> None:
    _, rows = made
    survey = dataset_inspection._survey(settings(raw).prepared, "test")
    assert (survey.regions, survey.alone, len(survey.areas)) == (3, 4, 3)
    areas = {next(iter(place.names)): place.areas for place in survey.places}
    assert areas[ALONE] == () and areas[WHOLE] == (0.25,)
    page = Path(
        dataset_inspection.inspect_dataset(settings(raw).prepared, str(tmp_path), 4, 0, lambda line: None)[0]
    ).read_text()
    assert "Besides, in 4 pictures there are pixels that one annotator alone has." in page

    def inked(weight: float) -> int:
        row = rows[ALONE][0]
        row = {**row, "regions": [{**region, "weight": weight} for region in row["regions"]]}
        drawn = matplotlib.image.imread(
            io.BytesIO(
                contact_sheets.sheet_to_png(contact_sheets.draw_contact_sheet([contact_sheets.SheetClip.of(row)], ""))
            )
        )
        return int((np.abs(drawn[..., :3] - matplotlib.colors.to_rgb(SOURCE_COLOURS[0])) < 0.1).all(axis=-1).sum())

    assert 20 < inked(0.5) < 0.8 * inked(1.0)


def test_from_the_raw_files_to_both_kinds_of_protocol(raw: Path, tmp_path: Path) -> None:
    """What lvs and raymix-1 say of one's maps is what an outsider computes from the exported truth."""
    asked = settings(raw, prepared=str(tmp_path / "clips"))
    words = [
        f"dataset.{name}={getattr(asked, name)}" for name in ("root", "prepared", "clip_seconds", "stride_seconds")
    ]
    words += ["dataset.frame_size=48", "dataset.val=0.0", "dataset.allow_leaks=true", "cluster=laptop"]
    command("prepare", "dataset=flickr_soundnet", *words)
    old = (tmp_path / "clips/dataset.json").read_text()
    (tmp_path / "clips/dataset.json").write_text(old.replace('"schema_version": 2', '"schema_version": 1'))
    command("prepare", "dataset=flickr_soundnet", *words, "dataset.overwrite=true")  # as the refusal of it says
    assert json.loads((tmp_path / "clips/dataset.json").read_text())["schema_version"] == 2
    scenes = f"prepared={tmp_path}/clips", "layout=single", "image_size=64"
    command("evaluate", *scenes, f"export={tmp_path}/scenes")
    rows = pq.read_table(tmp_path / "scenes/scenes.parquet").to_pylist()
    facts = json.loads((tmp_path / "scenes/scenes.json").read_text())
    rng, lvs, plain = np.random.default_rng(0), [], []
    maps = rng.random((len(rows), 1, 8, 8)).astype(np.float16)
    with open_predictions_writer(f"{tmp_path}/maps.parquet", facts["scenes_hash"]) as out:
        out.add("mine", [row["scene_id"] for row in rows], maps, (64, 64))
    for row, map_MHW in zip(rows, maps, strict=True):
        values = np.asarray(Image.open(io.BytesIO(row["masks"][0])))
        assert set(np.unique(values)) <= {0, 128, 255} and row["has_truth"]
        truth, view = values // 127 / 2, resize_maps(map_MHW[None].astype(np.float32), (64, 64))[0, 0]
        said = view > np.sort(view.ravel())[view.size // 2]
        lvs.append((said * truth).sum() / (truth.sum() + (said * (truth == 0)).sum()))
        said, agreed = view - view.min() >= 0.5 * np.ptp(view), values == 255
        plain += [(said & agreed).sum() / (said | agreed).sum()] if agreed.any() else []
    assert (len(lvs), len(plain)) == (4, 3)  # of one picture there are single votes alone
    command(
        "evaluate",
        *scenes,
        f"predictions={tmp_path}/maps.parquet",
        "protocols=[lvs,raymix-1]",
        f"output={tmp_path}/out",
    )
    found = json.loads((tmp_path / "out/scores.json").read_text())
    for name, expected in (("lvs", lvs), ("raymix-1", plain)):
        mine = metrics_of(found, "single", name)["mine"]
        assert mine["iou"]["value"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert (mine["iou"]["scenes"], mine["ap"]["scenes"]) == (len(expected), 3)
    assert "1 of 4 scenes have a source on which no two annotators agree" in (tmp_path / "out/table.md").read_text()
