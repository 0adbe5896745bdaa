"""VoxCeleb2 as published, and as the paper's code cuts it, with its lists: every row, every split, every face."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raymix.config import DatasetConfig
from raymix.data.extraction import clips
from raymix.data.importers import voxceleb2
from raymix.data.importers.voxceleb2 import VoxCelebClipName
from raymix.data.media import MediaSource
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.preparation.split_leaks import find_source_leaks
from raymix.metrics.regions import encode_mask, region_mask
from tests.support.face_videos import box, picture, talk
from tests.support.make_videos import film

LISTED = "./data/VoxCeleb/VoxCeleb2"  # the paper's code writes its paths so
NEAR = 6  # px of 160 by 128: the cascade's boxes are as exact as that


def settings(root: Path, **changes: Any) -> DatasetConfig:
    known = {
        "name": "voxceleb2",
        "root": str(root),
        "prepared": str(root.parent / f"{root.name}-out"),
        "clip_seconds": 2.0,
        "stride_seconds": 2.0,
        "frame_size": 128,
        "frames_per_second": 10.0,
    }
    return DatasetConfig(**{**known, **changes})


def apart(folder: Path, heads: list[tuple[int, int, int]], seconds: float) -> None:
    """What the paper's code makes of a cut: ten pictures a second, and stereo sound of 44.1 kHz."""
    for number in range(round(10 * seconds)):
        path = folder / "frames" / f"{number + 1:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(heads, (160, 128))).save(path, quality=95)
    (folder / "audio").mkdir()
    with av.open(str(folder / "audio" / "audio.wav"), "w") as made:
        stream = made.add_stream("pcm_s16le", rate=44_100, layout="stereo")
        wave = 9_000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * 44_100)) / 44_100)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None].astype(np.int16), format="s16", layout="stereo")
        frame.sample_rate = 44_100
        for packet in stream.encode(frame) + stream.encode(None):
            made.mux(packet)


MOVES = {"x9PPkJvjPz4_10.520_12.620": (5, 20), "Orv5Lhywqc4_12.320_14.420": (45, -15)}  # px at 0 s, px a second


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cuts of the paper's code: films, pictures, a whole video, and every kind of dirt."""
    root = tmp_path_factory.mktemp("vox") / "cuts"
    for place, (name, (start, speed)) in enumerate(MOVES.items()):
        rate, fps = (48_000, Fraction(30_000, 1001)) if place else (16_000, 25)
        way = lambda t, start=start, speed=speed: [(round(start + speed * t), 12, 104)]  # noqa: E731
        talk(root / f"id0880{place + 1}" / f"{name}.mp4", way, 2.1, fps=fps, rate=rate)
    apart(root / "id07554" / "3IYjs1y8vjQ_74.920_77.020", [(30, 8, 112)], 2.1)
    passer = lambda t: [(0, 4, 120), *([(84, 50, 76)] if t < 0.6 else [])]  # noqa: E731
    talk(root / "id07670" / "3_XzTJXWrNI_44.000_46.100.mkv", passer, 2.1, rate=44_100, layout="stereo")
    film(root / "id08650" / "ilfpNhITphY_1.000_3.100.mp4", 2.1, fps=Fraction(30_000, 1001), size=(160, 128))
    whole = lambda t: [(0 if t < 3 else 50, 10, 104)]  # noqa: E731
    talk(root / "whole" / "KNXmWPjxUKg.mp4", whole, 6.0)
    talk(root / "id00012" / "AAAAAAAAAAA_0.000_2.100.mp4", lambda t: [(20, 10, 104)], 2.1)
    film(root / "id00015" / "BBBBBBBBBBB_0.000_2.100.mp4", 2.2)
    film(root / "id06984" / "kyApfFyua7o_112.800_114.900.mp4", 2.1, rate=44_100)
    film(root / "id08801" / "other------_0.000_2.100.mp4", 2.3)
    film(root / "id00099" / "x9PPkJvjPz4_50.000_52.100.mp4", 2.4)
    film(root / "id08821" / "shortshorts_0.000_0.500.mp4", 0.5)
    (root / "id08822").mkdir()
    (root / "id08822" / "corruptions_0.000_2.100.mp4").write_text("no film\n" * 100)
    test = [
        "id08801/x9PPkJvjPz4_10.520_12.620",
        "id08802/Orv5Lhywqc4_12.320_14.420",
        "id07554/3IYjs1y8vjQ_74.920_77.020",
        "id07670/3_XzTJXWrNI_44.000_46.100",
        "id08650/ilfpNhITphY_1.000_3.100",
        "id09205/KNXmWPjxUKg_3.200_5.300",
        "id09999/gone-gone-g_0.000_5.100",
        "id08821/shortshorts_0.000_0.500",
        "id08822/corruptions_0.000_2.100",
        "id07670/3_XzTJXWrNI_44.000_46.100",
        "id08650/ilfpNhITphY_1.000_3.100",
    ]
    (root / "test.csv").write_text("".join(f"{LISTED}/{name}\n" for name in test))
    (root / "val.csv").write_text(f"{LISTED}/id06984/kyApfFyua7o_112.800_114.900\n")
    return root


@pytest.fixture(scope="module")
def made(cuts: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The manifest by id and the rows by clip id."""
    chosen = settings(cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_ray_runs", lambda: False)
        prepare_dataset(chosen, lambda line: None)
    manifest = {row["id"]: row for row in pq.read_table(f"{chosen.prepared}/manifest.parquet").to_pylist()}
    files = sorted(Path(chosen.prepared).glob("t*.parquet")) + sorted(Path(chosen.prepared).glob("val*.parquet"))
    return manifest, {row["clip_id"]: row for file in files for row in pq.read_table(file).to_pylist()}


def test_every_listed_clip_and_every_other_is_a_row(made) -> None:
    manifest, rows = made
    assert {id: (row["split"], row["status"], row["clips"]) for id, row in manifest.items()} == {
        "id08801/x9PPkJvjPz4_10.520_12.620": ("test", "ok", 1),
        "id08802/Orv5Lhywqc4_12.320_14.420": ("test", "ok", 1),
        "id07554/3IYjs1y8vjQ_74.920_77.020": ("test", "ok", 1),
        "id07670/3_XzTJXWrNI_44.000_46.100": ("test", "repaired", 1),
        "id08650/ilfpNhITphY_1.000_3.100": ("test", "no face", 1),
        "id09205/KNXmWPjxUKg_3.200_5.300": ("test", "ok", 1),
        "id09999/gone-gone-g_0.000_5.100": ("test", "missing", 0),
        "id08821/shortshorts_0.000_0.500": ("test", "too short", 0),
        "id08822/corruptions_0.000_2.100": ("test", "corrupt", 0),
        "id06984/kyApfFyua7o_112.800_114.900": ("val", "ok", 1),
        "id00012/AAAAAAAAAAA_0.000_2.100": ("train", "ok", 1),
        "id00015/BBBBBBBBBBB_0.000_2.100": ("train", "ok", 1),
        "id08801/other------_0.000_2.100": ("", "unlisted", 0),
        "id00099/x9PPkJvjPz4_50.000_52.100": ("", "leaked", 0),
    }
    assert {
        id: row["reason"] for id, row in manifest.items() if row["status"] in ("no face", "leaked", "repaired")
    } == {
        "id08650/ilfpNhITphY_1.000_3.100": "no face stays in 1 of 1 clips: they have no truth; listed 2 times",
        "id00099/x9PPkJvjPz4_50.000_52.100": "its video x9PPkJvjPz4 is in test.csv, of another speaker",
        "id07670/3_XzTJXWrNI_44.000_46.100": "listed 2 times",
    }
    row = rows["voxceleb2:id08801/x9PPkJvjPz4_10.520_12.620:0"]
    assert (row["group"], row["video"], row["split"], row["labels"]) == ("id08801", "x9PPkJvjPz4", "test", [])
    assert manifest["id07554/3IYjs1y8vjQ_74.920_77.020"]["fps"] == 10.0


def test_the_box_is_where_the_face_is_at_the_time_of_the_frame(made) -> None:
    _, rows = made
    where = {}
    for place, (name, (start, speed)) in enumerate(MOVES.items()):
        row = rows[f"voxceleb2:id0880{place + 1}/{name}:0"]
        (frame,), (region,) = row["frames"], row["regions"]
        assert frame["t_s"] == pytest.approx(1.0, abs=0.034) and (frame["width"], frame["height"]) == (160, 128)
        assert region["frame"] == 0 and region["sounding"] and region["mask"] is None
        found = np.array(region["box_xyxy"]) * (160, 128, 160, 128)
        where[place] = found - box(start + speed * frame["t_s"], 12, 104)
        assert np.abs(where[place]).max() <= NEAR
    assert np.abs(where[0] - where[1]).max() <= 4  # one face, moved by a known way


def test_of_pictures_of_two_faces_and_in_a_whole_video(made) -> None:
    _, rows = made
    for id, start_ms, head in (
        ("id07554/3IYjs1y8vjQ_74.920_77.020", 0, (30, 8, 112)),
        ("id07670/3_XzTJXWrNI_44.000_46.100", 0, (0, 4, 120)),  # the other one leaves
        ("id09205/KNXmWPjxUKg_3.200_5.300", 3200, (50, 10, 104)),  # where it is after 3 s
    ):
        (region,) = rows[f"voxceleb2:{id}:{start_ms}"]["regions"]
        assert np.abs(np.array(region["box_xyxy"]) * (160, 128, 160, 128) - box(*head)).max() <= NEAR


def test_what_has_no_truth(made) -> None:
    _, rows = made
    without = {row["clip_id"].split(":")[1].split("/")[0] for row in rows.values() if not row["regions"]}
    assert without == {"id08650", "id06984", "id00012", "id00015"}  # no face; faces are looked for in test clips alone


def test_looking_for_faces_changes_neither_frames_nor_sound(cuts: Path) -> None:
    path = cuts / "id08801" / "x9PPkJvjPz4_10.520_12.620.mp4"
    for frames in (1, 2, 3):
        chosen = settings(cuts, frames=frames, face_shape="oval")
        source = MediaSource(str(path.relative_to(cuts)), "test", path.stat().st_size, group="id08801")
        (found,) = voxceleb2.import_clips(chosen, source, source.manifest_row())
        (plain,) = clips.extract_clips(chosen, source, source.manifest_row())
        assert found.frame_times == plain.frame_times and np.array_equal(found.wave, plain.wave)
        assert all(np.array_equal(a, b) for a, b in zip(found.frames, plain.frames, strict=True))
        assert [region.frame for region in found.regions] == list(range(frames))
        for region, time_s in zip(found.regions, found.frame_times, strict=True):
            assert (
                np.abs(np.array(region.box_xyxy) * (160, 128, 160, 128) - box(5 + 20 * time_s, 12, 104)).max() <= NEAR
            )
            assert np.array_equal(
                region_mask(None, region.mask, 64), region_mask(None, encode_mask(oval_of(region)), 64)
            )


def oval_of(region) -> np.ndarray:
    """The ellipse in a region's box, pixel by pixel of a frame of 160 by 128."""
    left, top, right, bottom = (edge * size for edge, size in zip(region.box_xyxy, (160, 128, 160, 128), strict=True))
    out = np.zeros((128, 160), bool)
    wide, high = (right - left) / 2, (bottom - top) / 2
    for y in range(128):
        for x in range(160):
            out[y, x] = ((x + 0.5 - left) / wide - 1) ** 2 + ((y + 0.5 - top) / high - 1) ** 2 <= 1
    return out


def test_the_same_again(cuts: Path) -> None:
    path = cuts / "id08802" / "Orv5Lhywqc4_12.320_14.420.mp4"
    source = MediaSource(str(path.relative_to(cuts)), "test", path.stat().st_size)
    first, second = (next(voxceleb2.import_clips(settings(cuts), source, source.manifest_row())) for _ in range(2))
    assert first.regions == second.regions and first.regions


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (
            "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4",
            VoxCelebClipName("id00012/21Uxsk56VDQ/00001", "id00012", "21Uxsk56VDQ"),
        ),
        ("id00012/_raOc3-IRsw/00110.m4a", VoxCelebClipName("id00012/_raOc3-IRsw/00110", "id00012", "_raOc3-IRsw")),
        ("id00012/V/00001/frames/000001.jpg", VoxCelebClipName("id00012/V/00001", "id00012", "V")),
        (
            f"{LISTED}/id08801/x9PPkJvjPz4_1000.520_1005.620",
            VoxCelebClipName("id08801/x9PPkJvjPz4_1000.520_1005.620", "id08801", "x9PPkJvjPz4", (1000.52, 1005.62)),
        ),
        (
            "id08847/_z_Qs_f2_00_384.920_390.020/audio/audio.wav",
            VoxCelebClipName("id08847/_z_Qs_f2_00_384.920_390.020", "id08847", "_z_Qs_f2_00", (384.92, 390.02)),
        ),
        ("id00012/readme.txt", None),
        ("music/V/00001.mp4", None),
    ],
)
def test_what_a_path_says(path: str, found: VoxCelebClipName | None) -> None:
    assert VoxCelebClipName.of(path) == found


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")


def test_splits_go_by_speaker_and_keep_a_shared_video_together(tmp_path: Path) -> None:
    names = [
        f"dev/mp4/id{speaker:05d}/V{speaker}-{video}/0000{clip}.mp4"
        for speaker in range(60)
        for video in (1, 2)
        for clip in (1, 2)
    ]
    shared = [
        f"test/mp4/id{100 + place:05d}/{video}/00001.mp4" for place, video in enumerate(("S1", "S1", "S2", "S3", "S3"))
    ]
    touch(tmp_path, *names, *shared, "test/mp4/id00101/S2/00007.mp4")
    chosen = settings(tmp_path, val=0.2, test=0.3)
    found = voxceleb2.list_sources(chosen)
    assert len(found) == 60 * 4 + 6 and not find_source_leaks(found)
    splits = {source.group: source.split for source in found}
    assert set(splits.values()) == {"train", "val", "test"}
    assert len({splits[f"id{speaker:05d}"] for speaker in (100, 101, 102)}) == 1  # 100 and 101 share S1, 101 and 102 S2
    assert found == voxceleb2.list_sources(chosen) and [s.id for s in found] != sorted(s.id for s in found)
    assert splits != {source.group: source.split for source in voxceleb2.list_sources(replace(chosen, seed=1))}
    for seed in range(20):
        of = {s.group: s.split for s in voxceleb2.list_sources(replace(chosen, seed=seed))}
        assert of["id00100"] == of["id00101"] == of["id00102"] and of["id00103"] == of["id00104"]


def test_lists_that_overlap_are_a_leak(tmp_path: Path) -> None:
    touch(tmp_path, "id00001/V/00001.mp4", "id00001/W/00001.mp4", "id00002/X/00001.mp4")
    (tmp_path / "test.csv").write_text("id00001/V/00001.mp4\n")
    (tmp_path / "val.csv").write_text("id00001/W/00001\n")
    assert [str(leak) for leak in find_source_leaks(voxceleb2.list_sources(settings(tmp_path)))] == [
        "group id00001 in test and val"
    ]
    (tmp_path / "train.csv").write_text("id00003/Y/00001\n")
    (tmp_path / "val.csv").unlink()
    found = {s.id: (s.split, (s.refused or ("",))[0]) for s in voxceleb2.list_sources(settings(tmp_path))}
    assert found == {
        "id00001/V/00001": ("test", ""),
        "id00001/W/00001": ("", "unlisted"),
        "id00002/X/00001": ("", "unlisted"),
        "id00003/Y/00001": ("train", "missing"),
    }


def test_sound_alone_is_a_row(tmp_path: Path) -> None:
    touch(tmp_path, "dev/mp4/id00001/V/00001.mp4", "dev/aac/id00001/V/00001.m4a", "dev/aac/id00001/V/00002.m4a")
    found = {source.id: source for source in voxceleb2.list_sources(settings(tmp_path))}
    assert found["id00001/V/00001"].path == "dev/mp4/id00001/V/00001.mp4" and not found["id00001/V/00001"].sound
    assert (found["id00001/V/00002"].refused or ("",))[0] == "no video"


def test_other_weights_make_other_clips(tmp_path: Path) -> None:
    def asked(faces: str) -> Any:
        return pipeline.describe_provenance(settings(tmp_path, faces=faces))["settings"]["faces"]

    weights, same, other = (tmp_path / name / "yunet.onnx" for name in "abc")
    for path, content in ((weights, b"1"), (same, b"1"), (other, b"22")):
        path.parent.mkdir()
        path.write_bytes(content)
    assert asked("opencv") == "opencv" and asked(str(weights)) == asked(str(same)) != asked(str(other))


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    root = tmp_path / "in"
    touch(root, "vox2_dev_mp4_partaa", "films/a.mp4")

    def refused(root: Path, **changes: Any) -> str:
        with pytest.raises(ValueError) as caught:
            voxceleb2.list_sources(settings(root, **changes))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    line = refused(root)
    assert "no clips of VoxCeleb2 (id00012/VIDEO/00001.mp4 or" in line and "2 other files, such as films/a.mp4" in line
    assert "no such folder" in refused(root / "nowhere")
    touch(root, "id00001/V/00001.mp4", "lists/tests.csv")
    assert "no test.csv there, the list of test clips (did you mean tests.csv?)" in refused(
        root, annotations=str(root / "lists")
    )
    (root / "lists" / "test.csv").write_text("file,split\nid00001/V/00001.mp4,test\n")
    assert "test.csv, line 1: a path of the form" in refused(root, annotations=str(root / "lists" / "test.csv"))
    (root / "lists" / "test.csv").write_text("id00001/V/00001.mp4\n,\n")
    assert refused(root, annotations=str(root / "lists")).endswith("is expected, found ','")
    (root / "lists" / "test.csv").write_text(f"{LISTED}/id08801/x9PPkJvjPz4_10.520_12.620\n")
    line = refused(root, annotations=str(root / "lists"))
    assert line.startswith("none of 1 listed clips, such as id08801/x9PPkJvjPz4_10.520_12.620, is below dataset.root=")
    assert line.endswith("it holds id00001/V/00001")
    assert "dataset.faces='yunet'" in refused(root, faces="yunet")
