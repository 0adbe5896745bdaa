"""MUSIC as it is published and as people have it: every row, box, time and line of the manifest; what is refused."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raymix.config import DatasetConfig, EncoderConfig, TrainConfig
from raymix.data import prepared
from raymix.data.importers import music
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.scenes import compose_scenes
from raymix.evaluation.paper import SceneSet, SystemEntry, SystemPredictions, count_single_source_scenes
from raymix.evaluation.validation import CandidateCheckpoint
from raymix.methods import METHODS
from raymix.metrics.regions import box_mask
from raymix.reporting.paper_tables import PAPER_TABLES
from tests.support.make_videos import film

CELLO, CELLO_25, TRUMPET, SAX, SAX_DSOL = "4Oy5VmaacaI", "1Ju4S0qeDqw", "eBoCeQtoFtM", "lm51ySOO71o", "5_NsbkyLO2Q"
GUITAR, GONE, BROKEN, UNLISTED = "HPyM9xzrih0", "geK-gOMgm20", "86hnEemgPPw", "9dOqmTMqp1k"
TRAIN = ("wEzEcfz1QS0", "B0xFpw9qvD4", "UD2SYltnnlY", "D5gWhSH7jRU")
TORN, SHORT, MUTE, DUET = "WNeHlya4VnQ", "MvPqp3oZwOk", "qb-ttddKLYo", "HnUOaSfTA6c"


def annotated(*boxes: tuple[int, list[float]], size: tuple[int, int] = (640, 360)) -> dict[str, Any]:
    """One value of solotest.json: normbox is [left, top, width, height]."""
    found = []
    for category, box in boxes:
        pixels = [round(edge * size[place % 2]) for place, edge in enumerate(box)]
        found.append({"box": pixels, "normbox": box, "category_id": category})
    return {"bbox": found, "wdith": size[0], "height": size[1]}


# As published, but for the ids' boxes: xywh, numbers of frames in the whole video at 30 frames a second.
SOLO_BOXES = {
    f"{CELLO}_0_1000/frame_013/00411.jpg": {
        "bbox": [{"box": [224, 0, 239, 358], "normbox": [0.35, 0.0, 0.3734375, 0.9944444444444445], "category_id": 1}],
        "wdith": 640,
        "height": 360,
    },
    f"{CELLO}_0_1000/frame_001/00030.jpg": annotated((1, [0.0, 0.0, 0.5, 0.5])),
    f"{CELLO}_0_1000/frame_004/00134.jpg": annotated(),
    f"{CELLO_25}_0_1000/frame_002/00060.jpg": annotated((1, [0.5, 0.25, 0.4, 0.5])),
    f"{CELLO_25}_0_1000/frame_116/03480.jpg": annotated((1, [0.33, 0.4, 0.27, 0.47])),
    f"{TRUMPET}_0_1000/frame_002/00060.jpg": annotated((10, [0.1, 0.2, 0.3, 0.4])),
    f"{SAX}_0_1000/frame_001/00044.jpg": annotated((8, [0.25, 0.25, 0.25, 0.5])),
    f"{SAX_DSOL}_0_1000/frame_001/00051.jpg": annotated((8, [0.25, 0.25, 0.5, 0.25])),
    f"{GUITAR}_0_1000/frame_001/00014.jpg": annotated((3, [0.0, 0.0, 0.5, 0.5])),  # counted from the second on
    f"{GUITAR}_0_1000/frame_002/00097.jpg": annotated((3, [0.0, 0.0, 0.5, 0.5])),  # not of second 2
    f"{GUITAR}_0_1000/frame_003/00090.jpg": annotated((3, [0.5, 0.25, 0.9, 0.75])),  # beyond the frame: xyxy?
    f"{GUITAR}_0_1000/frame_003/00097.jpg": annotated((7, [0.0, 0.0, 0.5, 0.5])),  # no such instrument
    f"{GUITAR}_0_1000/frame_003/00104.jpg": annotated((3, [0.2, 0.2, -0.1, 0.5])),
    f"{BROKEN}_0_1000/frame_000/00000.jpg": annotated((3, [0.2, 0.2, 0.0, 0.5])),
    f"{GONE}_0_1000/frame_000/00000.jpg": annotated((8, [0.2, 0.2, 0.2, 0.5])),
    f"{UNLISTED}_0_1000/frame_001/00030.jpg": annotated((11, [0.2, 0.2, 0.2, 0.5])),
}
SOLO_VIDEOS = {
    "flute": [*TRAIN, TORN, SHORT, MUTE, TRAIN[0]],
    "cello": [CELLO, CELLO_25, DUET],
    "trumpet": [TRUMPET, "nKc4srJBgYU"],
    "saxophone": [SAX, SAX_DSOL, GONE],
    "acoustic_guitar": [GUITAR, BROKEN],
}
DUET_BOXES = {
    f"{DUET}_0_1000/frame_002/00067.jpg": {
        "bbox": [
            {"box": [29, 130, 180, 185], "normbox": [0.0477, 0.3611, 0.2961, 0.5139], "category_id": 1},
            {"box": [316, 194, 187, 59], "normbox": [0.5197, 0.5389, 0.3076, 0.1639], "category_id": 3},
        ],
        "wdith": 608,
        "height": 360,
    },
    f"{DUET}_0_1000/frame_006/00180.jpg": annotated((3, [0.5, 0.5, 0.25, 0.25])),
}


def taken_apart(root: Path, name: str, video: Path) -> None:
    """The layout of the paper's code: 4 pictures a second and wave files of one second each, stereo."""
    with av.open(str(video)) as source:
        pictures = [frame.to_image() for frame in source.decode(video=0)][::10]
    for number, picture in enumerate(pictures):
        path = root / name / "frames" / f"{number + 1:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=95)
    with av.open(str(video)) as source:
        frames = [frame.to_ndarray() for frame in source.decode(audio=0)]
        wave = np.concatenate(frames, axis=1).reshape(-1)
    for second in range(len(wave) // 44_100):
        part = np.repeat(wave[second * 44_100 : (second + 1) * 44_100], 2)[None]
        sounds(root / name / "audio" / "audio_clips" / f"{second}.wav", part, "pcm_s16le", "stereo")


def sounds(path: Path, wave: np.ndarray, codec: str, layout: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=44_100, layout=layout)
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout=layout)
        frame.sample_rate = 44_100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            made.mux(packet)


def seconds_apart(root: Path, name: str, seconds: int) -> None:
    """DSOL's layout: a folder for each second, four pictures in it, whose numbers count the frames at 30 a second."""
    for second in range(seconds):
        for step in (0, 7, 14, 21):
            number = second * 30 + step
            path = root / "video_frames" / f"{name}_0_1000" / f"frame_{second:03d}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48), (number, number, number)).save(path, quality=95)
    wave = (3000 * np.sin(np.arange(seconds * 44_100) * 0.06)).astype(np.int16)[None]
    sounds(root / "audio" / f"{name}_0_1000.flac", wave, "flac", "mono")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("music")
    lists, media = root / "lists", root / "videos"
    write(lists / "MUSIC_dataset" / "MUSIC_solo_videos.json", {"version": 1.0, "videos": SOLO_VIDEOS})
    write(lists / "MUSIC_dataset" / "MUSIC_duet_videos.json", {"version": 1.0, "videos": DUETS})
    write(lists / "music-exp" / "solotest.json", SOLO_BOXES)
    write(lists / "music-exp" / "duettest.json", DUET_BOXES)
    ntsc, stereo = Fraction(30_000, 1001), {"layout": "stereo", "rate": 48_000}
    film(media / "cello" / f"{CELLO}.mp4", 16, fps=30, codecs=("libx264", "aac"), rate=44_100, flash_s=13.7)
    film(media / "cello" / f"{CELLO_25}_0_1000.mkv", 4, fps=25, codecs=("libx264", "aac"), flash_s=2.0, **stereo)
    film(media / "trumpet" / f"{TRUMPET}.mkv", 4, fps=ntsc, codecs=("mpeg4", "libmp3lame"), rate=44_100, flash_s=1.98)
    film(media / "guitar" / f"{GUITAR}.mp4", 5)
    for place, name in enumerate((*TRAIN, UNLISTED, "nKc4srJBgYU")):
        film(media / f"{name}.mp4", 3.2 + 0.1 * place)
    (media / f"{TORN}.mp4").write_bytes((media / f"{TRAIN[0]}.mp4").read_bytes()[:700])
    film(media / f"{SHORT}.mp4", 0.7)
    film(media / f"{MUTE}.mp4", 2, codecs=("mpeg4", None))
    whole = film(root / "sax.mov", 4, fps=40, codecs=("libx264", "pcm_s16le"), rate=44_100, flash_s=1.5)
    taken_apart(media / "MUSIC_raw" / "solo" / "saxophone", SAX, whole)
    seconds_apart(media / "solo", SAX_DSOL, 4)
    film(root / "duets" / f"{DUET}.mp4", 8, fps=25, codecs=("libx264", "aac"), **stereo)
    for name in DUETS["flute violin"]:
        film(root / "duets" / f"{name}.mp4", 2.5)
    return root


DUETS = {"cello acoustic_guitar": [DUET], "flute violin": ["XbOYpwFkn7o", "RWP6BHh_c7Y"]}


def write(path: Path, known: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(known if isinstance(known, str) else json.dumps(known))
    return path


def settings(raw: Path, **changes: Any) -> DatasetConfig:
    known = {
        "name": "music",
        "root": str(raw / "videos"),
        "annotations": str(raw / "lists"),
        "clip_seconds": 2.0,
        "stride_seconds": 2.0,
        "frame_size": 48,
        "val": 0.5,
    }
    return DatasetConfig(**{**known, **changes})


@pytest.fixture(scope="module")
def made(raw: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, Any]], Path]:
    """Rows by video, lines of the manifest by id, and the folder."""
    out = raw / "solo-clips"
    prepare_dataset(settings(raw, prepared=str(out)), echo=lambda line: None)
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            rows.setdefault(row["video"], []).append(row)
    return rows, {row["id"]: row for row in pq.read_table(out / "manifest.parquet").to_pylist()}, out


def test_every_video_has_a_line(made) -> None:
    _, lines, out = made
    listed = {name for ids in SOLO_VIDEOS.values() for name in ids} | {UNLISTED}
    assert set(lines) == listed
    told = {name: (line["status"], line["clips"]) for name, line in lines.items()}
    assert told == {
        **{name: ("ok", 1) for name in (*TRAIN[1:], CELLO_25, TRUMPET, SAX, SAX_DSOL, "nKc4srJBgYU")},
        TRAIN[0]: ("repaired", 1),
        CELLO: ("ok", 3),
        GUITAR: ("repaired", 1),
        UNLISTED: ("repaired", 1),
        BROKEN: ("corrupt", 0),
        GONE: ("missing", 0),
        TORN: ("corrupt", 0),
        SHORT: ("too short", 0),
        MUTE: ("no audio", 0),
        DUET: ("leaked", 0),
    }
    assert {name for name, line in lines.items() if line["split"] == "test"} == {
        CELLO,
        CELLO_25,
        TRUMPET,
        SAX,
        SAX_DSOL,
        GUITAR,
        UNLISTED,
        BROKEN,
        GONE,
    }
    assert lines[TRAIN[0]]["reason"] == "listed again as flute, kept as flute"
    assert lines[DUET]["reason"] == "duettest.json tests it" and lines[DUET]["split"] == ""
    assert "1 of 2 annotated times lie beyond the end at 4.0 s" in lines[CELLO_25]["reason"]
    assert lines[CELLO]["reason"] == "nothing sounds in 1 of 3 annotated frames"
    assert lines[GUITAR]["repairs"] == 4 and "beyond its frame" in lines[GUITAR]["reason"]
    assert "no annotated frame can be used: frame_000/00000.jpg left out: a box without area" in lines[BROKEN]["reason"]
    assert lines[UNLISTED]["reason"].startswith("in the boxes, not in the list of videos")
    assert json.loads((out / "dataset.json").read_text())["dataset"] == "music"


def test_boxes_and_times(made) -> None:
    rows, _, _ = made
    cello = sorted(rows[CELLO], key=lambda row: row["start_s"])
    assert [row["frames"][0]["t_s"] for row in cello] == pytest.approx([1.0, 4 + 14 / 30, 13.7], abs=1e-4)
    assert [len(row["regions"]) for row in cello] == [1, 0, 1]
    (known,) = cello[2]["regions"]
    assert known["box_xyxy"] == pytest.approx([0.35, 0.0, 0.7234375, 0.9944444], abs=1e-6)
    assert (known["label"], known["sounding"], known["frame"]) == ("cello", True, 0)
    assert cello[2]["clip_id"] == f"music:{CELLO}:12700" and cello[2]["labels"] == ["cello"]
    assert brightness(cello[2]) > 200 > brightness(cello[0])
    red = pixels(cello[0])[..., 0] > 150  # the film's top-left quarter
    assert (red == box_mask(cello[0]["regions"][0]["box_xyxy"], *red.shape)).mean() > 0.98
    boxes = {name: rows[name][0]["regions"][0]["box_xyxy"] for name in (CELLO_25, TRUMPET, SAX, SAX_DSOL)}
    assert boxes[CELLO_25] == pytest.approx([0.5, 0.25, 0.9, 0.75])
    assert boxes[TRUMPET] == pytest.approx([0.1, 0.2, 0.4, 0.6])
    assert boxes[SAX] == pytest.approx([0.25, 0.25, 0.5, 0.75])
    assert boxes[SAX_DSOL] == pytest.approx([0.25, 0.25, 0.75, 0.5])
    assert rows[GUITAR][0]["frames"][0]["t_s"] == pytest.approx(1.4, abs=1e-4)
    assert rows[UNLISTED][0]["labels"] == ["violin"] and rows[TRAIN[1]][0]["regions"] == []


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["frames"][0]["jpeg"]))).astype(int)


def brightness(row: dict[str, Any]) -> float:
    return float(pixels(row).mean())


def click_s(row: dict[str, Any]) -> float:
    """When the sound of a clip is loudest, on the video's clock."""
    pairs = np.frombuffer(row["stft"], np.float16).reshape(row["stft_frames"], row["stft_bins"], 2)
    return row["start_s"] + np.square(pairs.astype(np.float32)).sum((1, 2)).argmax() * row["duration_s"] / len(pairs)


@pytest.mark.parametrize(("name", "rate", "flash_s"), [(CELLO, 30, 13.7), (CELLO_25, 25, 2.0), (TRUMPET, 29.97, 1.98)])
def test_frame_and_sound_of_an_annotated_time(made, name: str, rate: float, flash_s: float) -> None:
    row = max(made[0][name], key=lambda row: row["start_s"])
    assert brightness(row) > 200, "the annotated frame is the one that flashes"
    assert abs(row["frames"][0]["t_s"] - flash_s) <= 1 / rate
    assert abs(click_s(row) - row["frames"][0]["t_s"]) <= 1 / rate + 0.01  # a hop and a half of the spectrogram


def test_what_was_taken_apart(made) -> None:
    rows, lines, _ = made
    (row,) = rows[SAX]  # of 4 pictures a second that of 1.5 s is nearest to 1.467 s; it flashes
    assert row["frames"][0]["t_s"] == 1.5 and brightness(row) > 200
    assert click_s(row) == pytest.approx(1.5, abs=0.02)  # in the second of four wave files
    assert (lines[SAX]["sample_rate"], lines[SAX]["channels"], lines[SAX]["duration_s"]) == (44_100, 2, 4.0)
    (row,) = rows[SAX_DSOL]
    assert row["frames"][0]["t_s"] == pytest.approx(1.7) and brightness(row) == pytest.approx(51, abs=2)
    assert lines[SAX_DSOL]["file"] == f"solo/video_frames/{SAX_DSOL}_0_1000"


def test_duets_are_natural_scenes(raw: Path) -> None:
    out = raw / "duet-clips"
    prepare_dataset(settings(raw, prepared=str(out), root=str(raw / "duets"), subset="duet"), echo=lambda line: None)
    clips = prepared.read_clips(str(out), "test", 64, truth=True, sources=True)
    assert len(clips) == 2 and set(clips.video) == {DUET}
    scenes = compose_scenes(clips, layout="natural", count=8, seed=0)
    assert scenes.labels == [("acoustic_guitar", "cello")]
    assert scenes.masks_NSYX is not None
    cello = box_mask([0.0477, 0.3611, 0.3438, 0.875], 64, 64)
    assert np.array_equal(scenes.masks_NSYX[0, 1].numpy(), cello)
    rows = pq.read_table(next(out.glob("test-*.parquet"))).to_pylist()
    assert all(row["labels"] == ["cello", "acoustic_guitar"] for row in rows)
    assert sorted(len(row["regions"]) for row in rows) == [1, 2]


def test_each_column_of_the_papers_table_has_its_own_clips(raw: Path, tmp_path: Path) -> None:
    for subset, root in (("solo", "videos"), ("duet", "duets")):
        chosen = settings(raw, prepared=str(tmp_path / f"music-{subset}"), root=str(raw / root), subset=subset)
        if subset == "duet":
            hall = a_hall(replace(chosen, subset="solo", prepared=str(tmp_path / "music-solo")))
            told = (
                f"no clips of dataset.subset=duet are prepared beside {tmp_path}/music-solo: python -m raymix.prepare "
            )
            assert hall.of("natural", "duet") == f"{told}dataset=music dataset.subset=duet"
        prepare_dataset(chosen, echo=lambda line: None)
    solo = a_hall(replace(chosen, subset="solo", prepared=str(tmp_path / "music-solo")))
    for hall in (solo, a_hall(chosen)):
        acts = {part.head: hall.of(part.layout, part.subset, part.fewer) for part in PAPER_TABLES[1].parts}
        duet, single = acts["MUSIC-Duet"], acts["MUSIC-Solo"]
        assert isinstance(duet, SceneSet) and set(duet.scenes.videos) == {(DUET,)}
        assert isinstance(single, SceneSet) and len(single.scenes.videos) > 5 and (DUET,) not in single.scenes.videos
        # every annotated frame of the duet counts, also the one with one box; elsewhere natural scenes have two
        assert sorted(duet.truth.masks_NSYX.any(axis=(2, 3)).sum(axis=1)) == [1, 2]
        assert count_single_source_scenes(duet) == 1 and duet.truth.panels_NS.shape == (2, 2)
        usual = hall.of("natural", "duet")
        assert isinstance(usual, SceneSet) and len(usual.truth) == 1 and count_single_source_scenes(usual) == 0


def test_a_subset_is_found_by_what_its_folder_says(raw: Path, tmp_path: Path) -> None:
    """Wherever `dataset.prepared` was: no part of the path is a name of a subset, or all of them are."""
    solo, duet, other = tmp_path / "clips/music", tmp_path / "clips/two", tmp_path / "clips/musicduet"
    for place, root, changes in (
        (solo, "videos", {"subset": "solo"}),
        (duet, "duets", {"subset": "duet"}),
        (other, "duets", {"subset": "duet", "frame_size": 32}),
    ):
        prepare_dataset(settings(raw, prepared=str(place), root=str(raw / root), **changes), echo=lambda line: None)
    hall = a_hall(settings(raw, prepared=f"{solo}/", root=str(raw / "videos"), subset="solo"))
    act = hall.of("natural", "duet", True)
    assert isinstance(act, SceneSet) and act.stage.prepared == str(duet) and set(act.scenes.videos) == {(DUET,)}
    back = a_hall(settings(raw, prepared=str(duet), root=str(raw / "duets"), subset="duet")).of("single", "solo")
    assert isinstance(back, SceneSet) and back.stage.prepared == str(solo)
    away = a_hall(settings(raw, prepared=str(tmp_path / "far/music"), subset="solo"), home=str(tmp_path))
    found = away.of("natural", "duet", True)
    assert isinstance(found, SceneSet) and found.stage.prepared == str(duet)


def a_hall(chosen: DatasetConfig, home: str = "/none") -> SystemPredictions:
    run = TrainConfig(home=home, dataset=chosen, encoder=EncoderConfig(image_size=32))
    contender = CandidateCheckpoint("cycle", "", METHODS["cycle"], run, 1, None, None, {}, {})  # only the run is asked
    return SystemPredictions([SystemEntry("cycle", "", contender)], "test", "cpu")


def test_the_papers_lists_divide_them(raw: Path, tmp_path: Path) -> None:
    rows = {"train": [("flute", TRAIN[0]), ("flute", TRAIN[1]), ("cello", CELLO)], "val": [("flute", TRAIN[2])]}
    rows |= {"test": [("trumpet", TRUMPET), ("pipa", "qljUWQ1rY3Q")]}
    for split, of in rows.items():
        write(tmp_path / f"{split}.csv", "".join(f"MUSIC_raw/solo/{label}/{name}\n" for label, name in of))
    found = {source.id: source for source in music.list_sources(settings(raw, splits=str(tmp_path)))}
    assert {name: found[name].split for name in (TRAIN[0], TRAIN[2], TRUMPET, "qljUWQ1rY3Q", TRAIN[3])} == {
        TRAIN[0]: "train",
        TRAIN[2]: "val",
        TRUMPET: "test",
        "qljUWQ1rY3Q": "test",
        TRAIN[3]: "",
    }
    assert found["qljUWQ1rY3Q"].labels == ("pipa",) and found["qljUWQ1rY3Q"].size_bytes == -1
    assert found[CELLO].split == "test" and "train.csv has it too: it is tested" in found[CELLO].repairs
    assert found[TRAIN[3]].refused is None  # in no list: left out as unlisted
    write(tmp_path / "val.csv", "file,split\na.mp4,val\n")
    with pytest.raises(ValueError, match=r"val.csv, line 1: expected MUSIC_raw/solo/INSTRUMENT/ID, found 'file,split'"):
        music.list_sources(settings(raw, splits=str(tmp_path)))
    os.remove(tmp_path / "val.csv")
    with pytest.raises(
        ValueError, match=r"dataset.splits='.*': expected a folder with train.csv.*val.csv cannot be read"
    ):
        music.list_sources(settings(raw, splits=str(tmp_path)))


def test_a_video_in_two_lists_stops_the_command(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)
    rows = {"train": (TRAIN[0], TRAIN[1], CELLO), "val": (TRAIN[1], TRAIN[2]), "test": (TRUMPET,)}
    for split, of in rows.items():
        write(tmp_path / f"{split}.csv", "".join(f"MUSIC_raw/solo/flute/{name}\n" for name in of))
    chosen = settings(raw, splits=str(tmp_path), prepared=str(tmp_path / "out"))
    told = f"leaks between splits: video {TRAIN[1]} in train and val; dataset.allow_leaks=true continues anyway"
    with pytest.raises(ValueError, match=f"^{told}$"):
        prepare_dataset(chosen, lambda line: None)
    assert not (tmp_path / "out").exists()
    prepare_dataset(replace(chosen, allow_leaks=True), lambda line: None)
    entries = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert sorted(row["split"] for row in entries if row["id"] == TRAIN[1] and row["clips"]) == ["train", "val"]
    assert f"video,{TRAIN[1]},val,{TRAIN[1]}" in (tmp_path / "out" / "leaks.csv").read_text()


def test_times_around_which_clips_lie() -> None:
    keys = [
        f"abcdefghijk_0_1000/frame_{s:03d}/{s * 30 + i:05d}.jpg"
        for s in (*range(4), *range(20, 24))
        for i in (0, 7, 14, 21)
    ]
    track = music.read_box_tracks({key: annotated() for key in keys}, "x.json")["abcdefghijk"]
    assert list(track.frames)[:5] == pytest.approx([0.0, 7 / 30, 14 / 30, 0.7, 1.0], abs=1e-6)
    assert track.near(3.0, 3.0) == pytest.approx((1 + 14 / 30, 3.7, 20.0, 22 + 14 / 30), abs=1e-6)
    assert track.regions == ()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "MUSIC_solo_videos.json": ({"version": 1.0}, r'MUSIC_solo_videos.json: expected \{"videos"'),
    "solotest.json": ({"abc/3": {"bbox": []}}, r'solotest.json: expected "ID_0_1000/frame_013/00411.jpg"'),
}


@pytest.mark.parametrize("name", FAULTS)
def test_another_json_is_refused(raw: Path, tmp_path: Path, name: str) -> None:
    for file in raw.glob("lists/*/*.json"):
        write(tmp_path / file.name, file.read_text())
    known, said = FAULTS[name]
    write(tmp_path / name, known)
    with pytest.raises(ValueError, match=said):
        music.list_sources(settings(raw, annotations=str(tmp_path)))
    write(tmp_path / name, '{"version": 1.0, "vid')
    with pytest.raises(ValueError, match=f"{name}: not a whole JSON file"):
        music.list_sources(settings(raw, annotations=str(tmp_path)))
    os.remove(tmp_path / name)
    with pytest.raises(ValueError, match=f"no {name} below it"):
        music.list_sources(settings(raw, annotations=str(tmp_path)))


def test_duets_under_the_name_of_solos_are_refused(raw: Path, tmp_path: Path) -> None:
    write(tmp_path / "MUSIC_solo_videos.json", {"videos": DUETS})
    with pytest.raises(ValueError, match=r"'cello acoustic_guitar' names 2 instrument\(s\), a solo has 1"):
        music.list_sources(settings(raw, annotations=str(tmp_path)))
    os.rename(tmp_path / "MUSIC_solo_videos.json", tmp_path / "MUSIC_duet_videos.json")
    with pytest.raises(ValueError, match=r"there is MUSIC_duet_videos.json: dataset.subset=duet"):
        music.list_sources(settings(raw, annotations=str(tmp_path)))


def test_other_roots_and_subsets_are_refused(raw: Path, tmp_path: Path) -> None:
    film(tmp_path / "other" / "holiday.mp4", 0.5)
    with pytest.raises(ValueError, match=r"none of 18 videos is below it, such as .*; it holds 1 media of other names"):
        music.list_sources(settings(raw, root=str(tmp_path / "other")))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "solo.zip.part").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"'solo.zip.part' is not unpacked or not whole"):
        music.list_sources(settings(raw, root=str(tmp_path / "packed")))
    for path in ("test1/audio/1.pkl", "test1/video/1.jpg", "test1/box/1.npy"):
        write(tmp_path / "synthetic" / path, "x")
    with pytest.raises(ValueError, match="MUSIC-Synthetic cannot be imported: its sound is pickled"):
        music.list_sources(settings(raw, root=str(tmp_path / "synthetic")))
    with pytest.raises(ValueError, match=r"dataset.subset=synthetic: MUSIC-Synthetic cannot be imported"):
        music.list_sources(settings(raw, subset="synthetic"))
    with pytest.raises(ValueError, match=r"dataset.subset=duets: must be one of solo, duet \(did you mean"):
        music.list_sources(settings(raw, subset="duets"))
    with pytest.raises(ValueError, match=r"dataset.annotations='.*nowhere': no such file or folder"):
        music.list_sources(settings(raw, annotations=str(tmp_path / "nowhere")))
