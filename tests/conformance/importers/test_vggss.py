"""VGG-SS and VGGSound from files as people have them: every row, box, time and status; pairs find their clips; refusals."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymix.config import DatasetConfig
from raymix.data import pair_lists, records
from raymix.data.importers import vggsound_instruments, vggss
from raymix.data.preparation import pipeline
from raymix.data.prepared import read_clips
from raymix.data.scenes import compose_listed_scenes
from raymix.metrics.regions import box_mask
from raymix.runtime.storage import resolve_uri, write_atomic
from tests.support.make_videos import film
from tests.support.vggsound_files import cut_clip, picture, prepared, sound, still

CUT, WHOLE, STILL, FOLDER = "zpWuikVorYg_000032", "gEvCUcZ6w88_000006", "JIemsK_0lXc_000364", "RgyqhpOJFM4_000030"
DUST, FAR, EMPTY, TURNED, TWICE = (f"{name:-<11}_000000" for name in ("dust", "far", "empty", "turned", "twice"))
GONE, BROKEN, SHORT, MUTE = (f"{name:-<11}_000010" for name in ("gone", "broken", "short", "mute"))
GOOD = [0.25, 0.5, 0.75, 1.0]
BOXES: dict[str, list[list[float]]] = {
    CUT: [[0.125, 0.25, 0.5, 0.75], [0.625, 0.0, 1.0, 0.25]],  # as xywh the first would end at (.625, 1)
    WHOLE: [[0.0, 0.0, 0.5, 0.5]],
    STILL: [[0.5, 0.0, 1.0000004, 0.5]],
    FOLDER: [GOOD],
    DUST: [GOOD, [0.00625, 0.015625, 0.00625, 0.015625]],
    FAR: [[-2.9e16, 0.25, 0.5, 0.75], GOOD, [0.1, 0.2, 0.3, -2.9e16]],
    EMPTY: [[0.26875, 1.0, 0.753125, 1.0]],
    TURNED: [[0.75, 1.0, 0.25, 0.5]],
    TWICE: [GOOD],
    GONE: [GOOD],
    BROKEN: [GOOD],
    SHORT: [GOOD],
    MUTE: [GOOD],
}
TRAIN = [f"train-{number:05d}" for number in range(6)]
NAMES = {name: f"class {number % 5}, or other" for number, name in enumerate(BOXES)}
WITHOUT = "untested---_000001"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)


def settings(root: Path, **changes: Any) -> DatasetConfig:
    known = {
        "name": "vggss",
        "root": str(root),
        "prepared": str(root.parent / "out"),
        "clip_seconds": 3.0,
        "stride_seconds": 3.0,
        "frame_size": 64,
        "frames": 3,
        "frames_per_second": 4.0,
        "val": 0.3,
        "test": 0.0,
    }
    return DatasetConfig(**{**known, **changes})


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vggss") / "in"
    cut_clip(root, CUT, 0, flash_s=5.0)
    film(
        root / "whole" / f"{WHOLE[:11]}.mkv",
        18.0,
        fps=Fraction(30_000, 1001),
        rate=48_000,
        flash_s=10.98,
        codecs=("libx264", "aac"),
    )
    still(root, STILL, 1, seconds=8.0)
    for number in range(40):  # four a second
        picture(root / "frames" / FOLDER / f"{number:06d}.jpg", 250 if number == 20 else 60)
    sound(root / "audio" / f"{FOLDER}.wav", 10.0, 5.0, 16_000, 1)
    for number, name in enumerate((DUST, FAR, EMPTY, TURNED, TWICE)):
        cut_clip(root, name, 1 + number)
    (root / "video" / f"{BROKEN}.mp4").write_bytes(b"half of it" * 99)
    cut_clip(root, SHORT, 8, 4.0)
    cut_clip(root, MUTE, 9, codecs=("mpeg4", None))
    for number, name in enumerate(TRAIN):
        cut_clip(root, f"{name}_000020", 10 + number)
    film(root / f"{TRAIN[0]}.mp4", 21.0, fps=5, level=0.31)
    rows = [f'{name[:11]},{int(name[12:])},"{label}",test' for name, label in NAMES.items()]
    rows += [f"{name},20,singing bowl,train" for name in TRAIN]
    rows += [
        f"{TRAIN[0]},10,singing bowl,train",
        f"{TRAIN[1]},20,singing bowl,train",
        f"{CUT[:11]},90,tap dancing,train",
    ]
    rows += [f"{WITHOUT[:11]},1,singing bowl,test"]
    (root / "vggsound.csv").write_text("\n".join(rows) + "\n")
    entries = [{"file": name, "class": NAMES[name], "bbox": boxes} for name, boxes in BOXES.items()]
    entries.append({"file": TWICE, "class": NAMES[TWICE], "bbox": [[0.0, 0.0, 0.1, 0.1]]})
    (root / "vggss.json").write_text(json.dumps(entries))
    return root


@pytest.fixture(scope="module")
def made(raw: Path) -> dict[str, Any]:
    """What `prepare` made of it: rows by clip id, and the manifest by id."""
    folder, rows, manifest = prepared(settings(raw))
    return {"rows": {row["clip_id"]: row for row in rows}, "manifest": manifest, "prepared": folder}


def test_every_id_is_a_row_of_the_manifest(made: dict[str, Any]) -> None:
    found = {row["id"]: row for row in made["manifest"]}
    assert len(found) == len(made["manifest"]) == len(BOXES) + len(TRAIN) + 3
    told = {name: (row["status"], row["split"], row["clips"], row["repairs"]) for name, row in found.items()}
    test = {name: ("ok", "test", 1, 0) for name in (CUT, WHOLE, STILL, FOLDER)}
    assert {name: told[name] for name in BOXES} == test | {
        DUST: ("repaired", "test", 1, 1),
        FAR: ("repaired", "test", 1, 2),
        EMPTY: ("repaired", "test", 1, 2),
        TURNED: ("repaired", "test", 1, 1),
        TWICE: ("repaired", "test", 1, 1),
        GONE: ("missing", "test", 0, 0),
        BROKEN: ("corrupt", "test", 0, 0),
        SHORT: ("too short", "test", 0, 0),
        MUTE: ("no audio", "test", 0, 0),
    }
    assert found[FAR]["reason"] == (
        "box [-2.9e+16, 0.25, 0.5, 0.75] moved into the frame; box [0.1, 0.2, 0.3, -2.9e+16] left out: empty"
    )
    assert found[SHORT]["reason"].endswith("1 of 1 annotated times lie beyond the end at 4.0 s")
    assert told[f"{CUT[:11]}_000090"][:3] == ("leaked", "", 0) and "VGG-SS" in found[f"{CUT[:11]}_000090"]["reason"]
    assert told[WITHOUT][:3] == ("unlisted", "", 0) and found[WITHOUT]["reason"].endswith("not in VGG-SS")
    assert {told[f"{name}_000020"][0] for name in TRAIN} == {"ok"}
    assert {told[f"{name}_000020"][1] for name in TRAIN} == {"train", "val"}
    pair = [
        told[f"{TRAIN[0]}_000020"],
        told[f"{TRAIN[0]}_000010"],
    ]  # two clips of a YouTube video: one group, one split
    assert pair[0] == pair[1] and found[f"{TRAIN[0]}_000010"]["group"] == TRAIN[0] and pair[0][2] == 3


@pytest.mark.parametrize("name", [CUT, WHOLE, STILL, FOLDER])
def test_the_middle_is_met_in_every_form(made: dict[str, Any], name: str) -> None:
    row = made["rows"][f"vggss:{name}:3500"]  # the same name and clock whatever the medium
    assert (row["video"], row["group"], row["labels"], row["start_s"]) == (name, name[:11], [NAMES[name]], 3.5)
    assert row["frames"][0]["t_s"] == pytest.approx(5.0, abs=0.04)
    sample = records.decode_clips(pq_table([row]), 64, truth=True)
    if name != STILL:
        assert sample.frames[0, 0].mean() > 200 > sample.frames[0, 2].mean()  # the flash, and a second later
    loud = np.abs(sample.stft[0].astype(np.float32)).sum(axis=(1, 2)).argmax() / (sample.stft.shape[1] - 1) * 3.0
    assert loud == pytest.approx(1.5, abs=0.04)  # the click


def pq_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=records.clip_schema())


def test_boxes_are_where_the_publisher_says(made: dict[str, Any]) -> None:
    kept = {
        name: [region["box_xyxy"] for region in made["rows"][f"vggss:{name}:3500"]["regions"] if not region["frame"]]
        for name in (CUT, WHOLE, STILL, FOLDER, DUST, FAR, EMPTY, TURNED, TWICE)
    }
    assert kept == {
        CUT: BOXES[CUT],
        WHOLE: BOXES[WHOLE],
        STILL: [[0.5, 0.0, 1.0, 0.5]],
        FOLDER: [GOOD],
        DUST: [GOOD],
        FAR: [[0.0, 0.25, 0.5, 0.75], GOOD],
        EMPTY: [],
        TURNED: [GOOD],
        TWICE: [GOOD],
    }
    row = made["rows"][f"vggss:{CUT}:3500"]
    assert {region["frame"] for region in row["regions"]} <= {0, 1}  # not a second after the annotated frame
    assert all(region["sounding"] and region["label"] == NAMES[CUT] for region in row["regions"])
    sample = records.decode_clips(pq_table([row, made["rows"][f"vggss:{EMPTY}:3500"]]), 64, truth=True)
    golden = np.zeros((64, 64), bool)
    golden[16:48, 8:32] = golden[0:16, 40:64] = True
    assert np.array_equal(sample.masks[0], golden) and sample.has_truth.tolist() == [True, False]
    assert np.array_equal(golden, box_mask(BOXES[CUT][0], 64, 64) | box_mask(BOXES[CUT][1], 64, 64))


def test_a_published_pair_list_finds_its_clips(made: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "vggsound_duet_test.csv"  # as it is published: no header, class names with underscores
    path.write_text(f'{CUT},elk_bugling,{WHOLE},"woman, speaking"\n{STILL}.mp4,playing_bass_drum,{FOLDER},x\n')
    clips = read_clips(made["prepared"], "test", 32, truth=True)
    pairs = pair_lists.read_pair_list(str(path))
    assert clips.video[pairs.locate_clips(clips)].tolist() == [[CUT, WHOLE], [STILL, FOLDER]]
    scenes = compose_listed_scenes(clips, pairs)
    assert scenes.videos == [(CUT, WHOLE), (STILL, FOLDER)] and scenes.has_truth_N.all()
    assert pair_lists.read_pair_list(str(path)).scenes[0][1].label == "woman, speaking"


def test_leaks_may_be_let_through_and_lists_be_named(raw: Path) -> None:
    (raw / "mine_train.txt").write_text(f"{TRAIN[2]}_000020\n{CUT},elk\n{WITHOUT}\n")
    found = {
        (s.name, s.split): s.refused
        for s in vggss.list_sources(settings(raw, subset="mine_train"))
        if s.split != "test"
    }
    assert [(name, refused and refused[0]) for (name, _), refused in sorted(found.items())] == [
        (f"{TRAIN[2]}_000020", None),
        (WITHOUT, "leaked"),
        (CUT, "leaked"),
    ]
    let = vggss.list_sources(settings(raw, subset="mine_train", allow_leaks=True))
    assert sorted(s.name for s in let if s.split in ("train", "val")) == sorted([f"{TRAIN[2]}_000020", WITHOUT, CUT])
    with pytest.raises(
        ValueError, match=r"dataset.subset=mine_trian: no mine_trian.txt below .*did you mean mine_train"
    ):
        vggss.list_sources(settings(raw, subset="mine_trian"))
    alone = vggss.list_sources(settings(raw, annotations=str(raw / "vggss.json")))
    assert {s.split for s in alone} == {"test"} and len(alone) == len(BOXES)


def test_a_list_is_named_in_a_store_that_its_uri_describes(raw: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(*resolve_uri(f"{s3}/lists/boxes.json"), (raw / "vggss.json").read_bytes())
    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    query = f"endpoint_override={host}&scheme=http"
    for uri in (f"{s3}/lists/boxes.json?{query}", f"{s3}?{query}/lists/boxes.json"):
        assert len(vggss.list_sources(settings(raw, annotations=uri))) == len(BOXES)


WRONG_LISTS = {
    r"vggsound.csv, line 2: 3 columns; a row of VGGSound is YouTube id,": (
        "vggsound.csv",
        "a----------,1,b,test\nx,1,y\n",
    ),
    r"vggsound.csv, line 1: 'youtube_id' is no YouTube id": ("vggsound.csv", "youtube_id,start,label,split\n"),
    r"line 1: 'tes' is neither train nor test": ("vggsound.csv", "a----------,1,b,tes"),
    r"line 2: a----------_000001 is in train and in test": (
        "vggsound.csv",
        "a----------,1,b,test\na----------,1,b,train\n",
    ),
    r"vggsound.csv: a list without a row": ("vggsound.csv", ""),
    r"vggss.json: not JSON, or cut short": ("vggss.json", '[{"file": "zpWu'),
    r"vggss.json: a dict with keys such as 'ab/frame_000'; VGG-SS is a list": ("vggss.json", '{"ab/frame_000": {}}'),
    r"vggss.json, entry 1: found .*image.*; VGG-SS is a list": ("vggss.json", '[{"image": 1}]'),
    r"vggss.json, entry 1: bbox \[0.1, 0.2\] is no list of boxes": (
        "vggss.json",
        '[{"file": "zpWuikVorYg_000032", "class": "x", "bbox": [0.1, 0.2]}]',
    ),
    r"vggss.json, entry 1: bbox null is no list of boxes; VGG-SS is": (
        "vggss.json",
        '[{"file": "zpWuikVorYg_000032", "class": "x", "bbox": null}]',
    ),
    r"vggss.json, entry 1: bbox 0.5 is no list of boxes; VGG-SS is": (
        "vggss.json",
        '[{"file": "zpWuikVorYg_000032", "class": "x", "bbox": 0.5}]',
    ),
}


@pytest.mark.parametrize("message", WRONG_LISTS)
def test_a_wrong_list_is_refused_in_one_line(raw: Path, tmp_path: Path, message: str) -> None:
    for name in ("vggss.json", "vggsound.csv"):
        (tmp_path / name).write_text((raw / name).read_text())
    name, content = WRONG_LISTS[message]
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        vggss.list_sources(settings(raw, annotations=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_wrong_root_is_refused_in_one_line(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere': no such folder"):
        vggss.list_sources(settings(tmp_path / "nowhere"))
    (tmp_path / "vgg_ss.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"no vggss.json below it \(the boxes of VGG-SS\) \(did you mean vgg_ss.json\?\)"
    ):
        vggss.list_sources(settings(tmp_path))
    (tmp_path / "clips.tar.gz").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"none of the 13 listed clips is below it; unpack clips.tar.gz first; needed"):
        vggss.list_sources(settings(tmp_path, annotations=str(raw / "vggss.json")))
    with pytest.raises(
        ValueError, match=r"annotations=.*/vggsound.csv: is a file, and not vggss.json \(the boxes of VGG-SS"
    ):
        vggss.list_sources(settings(raw, annotations=str(raw / "vggsound.csv")))
    with pytest.raises(ValueError, match=r"dataset.annotations='.*gone': no such file or folder"):
        vggss.list_sources(settings(raw, annotations=str(tmp_path / "gone")))
    (tmp_path / "vggss.json").write_text((raw / "vggss.json").read_text())
    with pytest.raises(ValueError, match=r"no vggsound.csv below it \(it says which clips of dataset.subset=x"):
        vggss.list_sources(settings(raw, annotations=str(tmp_path), subset="x"))


def test_an_id_listed_again_under_another_label_is_a_repair(tmp_path: Path) -> None:
    (tmp_path / "vggss.json").write_text(
        json.dumps([{"file": "tested-----_000001", "class": "a", "bbox": [[0.1, 0.1, 0.5, 0.5]]}])
    )
    rows = (
        "twice------,20,playing flute,train",
        "twice------,20,playing cello,train",
        "same-------,3,playing cello,train",
    )
    (tmp_path / "vggsound.csv").write_text("\n".join((*rows, rows[2])) + "\n")
    for name in ("tested-----_000001", "twice------_000020", "same-------_000003"):
        (tmp_path / f"{name}.mp4").write_bytes(b"1")
    told = ("listed again as playing cello, kept as playing flute",)
    found = {source.id: source for source in vggss.list_sources(DatasetConfig(name="vggss", root=str(tmp_path)))}
    assert {name: source.repairs for name, source in found.items()} == {
        "tested-----_000001": (),
        "twice------_000020": told,
        "same-------_000003": (),
    }
    chosen = DatasetConfig(name="vggsound_instruments", root=str(tmp_path))
    other = {source.id: source for source in vggsound_instruments.list_sources(chosen)}
    assert other["twice------_000020"].repairs == told and other["twice------_000020"].labels == ("playing flute",)
