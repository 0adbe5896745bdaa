"""Importers and decoding: time, turn and sound of real files; the demo's truth; splits, split files and sidecars."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymix.config import DatasetConfig
from raymix.data.extraction import clip_plan, clips, video
from raymix.data.importers import demo, demo_root, folder
from raymix.data.importers.base import assign_split, assign_splits, hash_fraction
from raymix.data.importers.registry import load_importer
from raymix.data.media import ManifestRow, MediaSource, UnusableMediaError
from raymix.metrics.regions import region_mask
from tests.support.make_videos import displayed, film, turned


def cuts(
    path: Path, seconds: float = 1.0, frames: int = 1, size: int = 64
) -> tuple[list[clip_plan.RawClip], ManifestRow]:
    entry = ManifestRow(path.name, "train")
    return list(video.cut_video(str(path), clip_plan.CutSettings(seconds, seconds, frames, size), entry)), entry


def settings(root: Path, **changes: Any) -> DatasetConfig:
    known = {"name": "folder", "root": str(root), "clip_seconds": 1.0, "stride_seconds": 1.0, "frame_size": 32}
    return DatasetConfig(**{**known, **changes})


KINDS: dict[str, dict[str, Any]] = {
    "mono.mp4": {"rate": 44_100},
    "surround.mkv": {"codecs": ("libx264", "aac"), "rate": 48_000, "layout": "5.1", "fps": Fraction(30_000, 1001)},
    "stereo.webm": {"codecs": ("libvpx-vp9", "libopus"), "rate": 48_000, "layout": "stereo", "fps": 25},
    "old.avi": {"codecs": ("mpeg4", "libmp3lame"), "rate": 22_050, "fps": 15},
    "plain.mov": {"codecs": ("libx264", "pcm_s16le"), "rate": 8_000, "fps": 24},
    "late-sound.mp4": {"codecs": ("libx264", "aac"), "rate": 48_000, "fps": 25, "starts": (0.0, 0.8)},
    "late-picture.mkv": {"codecs": ("libx264", "aac"), "rate": 48_000, "fps": 25, "starts": (0.8, 0.0)},
    "both-late.mkv": {"starts": (3.0, 3.3)},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_flash_and_a_click_stay_within_one_frame(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    fps, starts = float(kind.get("fps", 10)), kind.get("starts", (0.0, 0.0))
    flash_s = max(starts) + 1.2
    found, entry = cuts(film(tmp_path / name, flash_s=flash_s, **kind), frames=round(fps))
    seen = [
        (float(picture.mean()), -t) for cut in found for picture, t in zip(cut.frames, cut.frame_times, strict=True)
    ]
    heard = [
        (float(np.abs(cut.wave).max()), cut.start_s + np.abs(cut.wave).argmax() / clip_plan.SAMPLE_RATE)
        for cut in found
    ]
    brightness, flash = max(seen)
    assert brightness > 200, "the flash was not among the frames"
    assert abs(-flash - max(heard)[1]) <= 1 / fps
    assert abs(-flash - (flash_s - starts[0])) <= 1.01 / fps  # one clock: that of the first frame
    assert len(found) == (3 if starts[0] != starts[1] else 4)
    assert entry.fps == pytest.approx(fps, rel=0.01) and entry.sample_rate == kind.get("rate", 16_000)
    assert all(cut.wave.shape == (16_000,) and cut.wave.dtype == np.float32 for cut in found)


def test_channels_are_mixed_and_rates_converted(tmp_path: Path) -> None:
    for name in ("mono.mp4", "surround.mkv", "plain.mov"):
        found, _ = cuts(film(tmp_path / name, **KINDS[name]))
        spectrum = np.abs(np.fft.rfft(found[1].wave))
        assert abs(int(spectrum.argmax()) - 440) <= 1, name  # one second: a bin is a hertz
        assert 0.02 < float(np.std(found[1].wave)) < 0.6, name


def test_a_quarter_turn_is_honoured(tmp_path: Path) -> None:
    upright, _ = cuts(film(tmp_path / "upright.mp4"))
    found, entry = cuts(turned(film(tmp_path / "turned.mp4")))
    assert (entry.width, entry.height) == (48, 64) and abs(entry.rotation) == 90
    before, after = upright[0].frames[0], found[0].frames[0]
    assert before.shape == (48, 64, 3) and after.shape == (64, 48, 3)
    np.testing.assert_allclose(after.astype(int), np.rot90(before, -1).astype(int), atol=12)
    assert after[5, -5, 0] > 150 > after[5, 5, 0]  # the red quarter went from the top left to the top right


@pytest.mark.parametrize("pixel", [1, 2])
@pytest.mark.parametrize(
    ("matrix", "red", "rotation"),  # of x' = ax + cy, y' = bx + dy
    [
        ((1, 0, 0, 1), (0, 0), 0),
        ((0, 1, -1, 0), (0, 1), -90),
        ((-1, 0, 0, -1), (1, 1), -180),
        ((0, -1, 1, 0), (1, 0), 90),
        ((-1, 0, 0, 1), (0, 1), 0),
        ((1, 0, 0, -1), (1, 0), 180),
        ((0, 1, 1, 0), (0, 0), 90),
        ((0, -1, -1, 0), (1, 1), -90),
    ],
)
def test_turns_and_mirrors_are_honoured(
    tmp_path: Path, matrix: tuple[int, int, int, int], red: tuple[int, int], rotation: int, pixel: int
) -> None:
    path = displayed(film(tmp_path / "x.mp4", 1.0, pixel=Fraction(pixel)), matrix)
    found, entry = cuts(path, size=256)
    frame = found[0].frames[0][:, :, 0]
    shape = (48, 64 * pixel) if matrix[0] else (64 * pixel, 48)
    assert frame.shape == shape == (entry.height, entry.width) and entry.rotation == rotation
    quarters = [part for half in np.array_split(frame, 2) for part in np.array_split(half, 2, axis=1)]
    means = [quarter[4:-4, 4:-4].mean() for quarter in quarters]
    assert divmod(int(np.argmax(means)), 2) == red


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    found, entry = cuts(film(tmp_path / "x.mp4", 1.0, pixel=Fraction(3, 2)))
    assert (entry.width, entry.height) == (96, 48) and found[0].frames[0].shape == (48, 96, 3)


def test_the_shorter_side_is_reduced_and_never_enlarged(tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4", 1.0)
    assert cuts(path, size=24)[0][0].frames[0].shape == (24, 32, 3)
    assert cuts(path, size=500)[0][0].frames[0].shape == (48, 64, 3)


def test_overlapping_cuts_and_several_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4", 4.0)
    found = list(video.cut_video(str(path), clip_plan.CutSettings(2.0, 0.5, 2, 64), ManifestRow("x", "")))
    assert [cut.start_s for cut in found] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert found[1].frame_times == [1.0, 2.0] and found[3].frame_times == [2.0, 3.0]
    np.testing.assert_array_equal(found[0].wave[8_000:], found[1].wave[:24_000])


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"this is a text file\n" * 40, "corrupt"), (b"#EXTM3U\nhttp://localhost:1/x.ts\n", "corrupt"), (b"", "corrupt")],
)
def test_what_is_no_video_is_corrupt(tmp_path: Path, content: bytes, status: str) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(UnusableMediaError) as caught:
        cuts(tmp_path / "x.mp4")
    assert caught.value.status == status and "\n" not in str(caught.value)


def test_a_truncated_file_keeps_the_clips_before_the_break(tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4", 6.0, options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    found = []
    with pytest.raises(UnusableMediaError, match="truncated") as caught:
        for cut in video.cut_video(str(path), clip_plan.CutSettings(1.0, 1.0, 1, 64), ManifestRow("x", "")):
            found.append(cut)
    assert caught.value.status == "corrupt" and 2 <= len(found) <= 4


def test_splits_are_a_seeded_hash_of_the_path() -> None:
    assert hash_fraction(0, "a/b.mp4") == pytest.approx(0.8164972571)
    assert hash_fraction(0, "Cafe\u0301/b.mp4") == hash_fraction(0, "Caf\u00e9/b.mp4")  # the two spellings of one name
    shares = DatasetConfig(val=0.1, test=0.2, seed=3)
    splits = [assign_split(shares, f"v{number}.mp4") for number in range(2_000)]
    assert abs(splits.count("val") / 2_000 - 0.1) < 0.02 and abs(splits.count("test") / 2_000 - 0.2) < 0.03
    assert splits != [
        assign_split(DatasetConfig(val=0.1, test=0.2, seed=4), f"v{number}.mp4") for number in range(2_000)
    ]


def test_every_importer_answers_the_same_questions(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a" / "x.mp4", 2.0)
    for name in ("demo", "folder"):  # those of published sets have tests of their own
        importer, root = load_importer(name), tmp_path / ("in" if name == "folder" else "out")
        chosen = settings(root, name=name, videos=8, video_seconds=2.0, size=32, classes="parent")
        found = importer.list_sources(chosen)
        assert found and all(isinstance(source, MediaSource) and source.labels for source in found)
        entry = ManifestRow(found[0].path, found[0].split)
        made = list(importer.import_clips(chosen, found[0], entry))
        assert len(made) == 2 and entry.duration_s == pytest.approx(2.0, abs=0.1)
        assert made[1].clip_id == f"{name}:{found[0].path}:1000" and made[1].wave.shape == (16_000,)


def test_folder_finds_videos_and_their_classes(tmp_path: Path) -> None:
    for name in ("a/x.MP4", "a+b/y.webm", "z.mov", ".hidden/q.mp4", "a/._x.mp4", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = {source.path: source.labels for source in folder.list_sources(settings(tmp_path, classes="parent"))}
    assert found == {"a/x.MP4": ("a",), "a+b/y.webm": ("a", "b"), "z.mov": ()}
    assert all(not source.labels for source in folder.list_sources(settings(tmp_path)))


def test_what_a_download_left_is_no_second_video(tmp_path: Path) -> None:
    for name in ("z.mp4", "z.temp.mp4", "z.f137.mp4", "y.f137.mp4", "x.temp.mp4", "v1.f2.mkv", "v1.mkv"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "x.mp4").write_bytes(b"")
    found = {source.path: source for source in folder.list_sources(settings(tmp_path))}
    told = {path: source.refused[1] for path, source in found.items() if source.refused}
    assert told == {
        "z.temp.mp4": "left by a download, whose whole file is z.mp4",
        "z.f137.mp4": "left by a download, whose whole file is z.mp4",
        "v1.f2.mkv": "left by a download, whose whole file is v1.mkv",
    }
    assert all(bool(source.split) == (path not in told) for path, source in found.items()) and len(found) == 8


def test_small_sets_have_videos_enough_for_scenes() -> None:
    """At a tenth of 40 videos about 4 would be drawn, often fewer: scenes need four different ones, and others for control."""
    for seed in range(50):
        few = DatasetConfig(val=0.1, test=0.1, seed=seed)
        counts = Counter(assign_splits(few, [f"v{number}.mp4" for number in range(40)]).values())
        assert counts["val"] >= 6 and counts["test"] >= 6 and counts["train"] >= 20, (seed, counts)
    paths = [f"v{number}.mp4" for number in range(2_000)]
    assert assign_splits(few, paths) == {
        path: assign_split(few, path) for path in paths
    }  # of many a seeded hash, as ever
    drawn, before = assign_splits(few, paths[:40]), assign_splits(few, paths[:39])
    assert sum(drawn[path] != before[path] for path in paths[:39]) <= 1
    assert set(assign_splits(DatasetConfig(val=0.0, test=0.1), paths[:40]).values()) == {"train", "test"}
    assert assign_splits(few, paths[:15]) == {
        path: assign_split(few, path) for path in paths[:15]
    }  # scenes are out of reach
    assert set(assign_splits(few, paths[:16]).values()) == {"train", "val", "test"} and assign_splits(few, []) == {}


def test_a_split_file_rules(tmp_path: Path) -> None:
    for name in ("x.mp4", "y.mp4"):
        (tmp_path / name).write_bytes(b"x")
    lists = tmp_path / "splits.csv"
    lists.write_text("file,split\nx.mp4,test\ngone.mp4,val\n")
    found = {source.path: source for source in folder.list_sources(settings(tmp_path, splits=str(lists)))}
    assert {path: source.split for path, source in found.items()} == {"x.mp4": "test", "gone.mp4": "val", "y.mp4": ""}
    with pytest.raises(UnusableMediaError, match="split file") as caught:
        list(clips.extract_clips(settings(tmp_path), found["gone.mp4"], ManifestRow("gone.mp4", "val")))
    assert caught.value.status == "missing"
    for text, message in {
        "video,split\n": "columns file,split",
        "file,split\nx.mp4,training\n": "line 2: split 'training'",
        "file,split\nx.mp4,val\nx.mp4,test\n": "two splits",
    }.items():
        lists.write_text(text)
        with pytest.raises(ValueError, match=message):
            folder.list_sources(settings(tmp_path, splits=str(lists)))


def test_regions_hold_for_their_time(tmp_path: Path) -> None:
    film(tmp_path / "x.mp4", 3.0)
    sidecar = tmp_path / "regions.json"
    early = {"label": "a", "box": [0, 0, 0.5, 0.5], "to_s": 1.0}
    late = {"label": "b", "box": [0.5, 0.5, 1, 1], "from_s": 1.0, "sounding": False}
    sidecar.write_text(json.dumps({"x.mp4": [early, late]}))
    chosen = settings(tmp_path, regions=str(sidecar), val=0.0, test=0.0)
    (source,) = folder.list_sources(chosen)
    made = list(clips.extract_clips(chosen, source, ManifestRow("x.mp4", "train")))
    assert [[region.label for region in clip.regions] for clip in made] == [["a"], ["b"], ["b"]]
    assert made[0].regions[0].box_xyxy == (0, 0, 0.5, 0.5) and not made[1].regions[0].sounding


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON"),
        ("[]", "found a list"),
        ('{"y.mp4": [{"box": [0, 0, 1, 1]}]}', "none of its paths"),
        ('{"x.mp4": [{"label": "a"}]}', "needs a box"),
        ('{"x.mp4": [{"box": [0.5, 0, 0.2, 1]}]}', "left < right"),
        ('{"x.mp4": [{"box": [0, 0, 224, 224]}]}', "left < right"),
        ('{"x.mp4": [{"box": [0, 0, 1, 1], "sound": true}]}', "no 'sound'"),
        ('{"x.mp4": [{"box": null}]}', "needs a box"),
        ('{"x.mp4": [{"mask": "bm8gUE5H"}]}', 'mask is a PNG in base64, found "bm8gUE5H"'),
        ('{"x.mp4": [{"mask": 3}]}', "mask is a PNG in base64, found 3"),
        ('{"x.mp4": [{"box": [0, 0, 1, 1], "label": null}]}', "label is a class name in quotes, found null"),
        ('{"x.mp4": [{"box": [0, 0, 1, 1], "sounding": "no"}]}', 'sounding is true or false, found "no"'),
        ('{"x.mp4": [{"box": [0, 0, 1, 1], "from_s": "1"}]}', 'from_s is a number of seconds, found "1"'),
        ('{"x.mp4": [{"box": [0, 0, 1, 1], "to_s": true}]}', "to_s is a number of seconds, or null, found true"),
    ],
)
def test_a_wrong_sidecar_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.mp4").write_bytes(b"x")
    (tmp_path / "regions.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        folder.list_sources(settings(tmp_path, regions=str(tmp_path / "regions.json")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["folder", "vggss"])
def test_a_name_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/caf\xe9.mp4", "wb") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"/in: the name 'caf\\xe9.mp4' in it is not UTF-8; rename it"):
        load_importer(name).list_sources(settings(tmp_path, name=name))


def demo_settings(root: Path, **changes: Any) -> DatasetConfig:
    known = {"name": "demo", "classes": "parent", "frame_size": 96, "videos": 8, "video_seconds": 4.0, "seed": 1}
    return settings(root, **{**known, **changes})


def test_the_demo_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    names = demo.write_demo(demo_settings(tmp_path / "a"))
    assert demo.write_demo(demo_settings(tmp_path / "b")) == names and len(set(names)) == 8
    for name in [*names, demo_root.SIDECAR]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = demo.write_demo(demo_settings(tmp_path / "c", seed=2))
    assert (tmp_path / "c" / other[0]).read_bytes() != (tmp_path / "a" / names[0]).read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        demo.write_demo(demo_settings(tmp_path / "a", seed=2))


@pytest.mark.parametrize("name", ["holiday.mp4", "bell/holiday.mp4", "bell/bell-0001.mov", "flute+guitar/a.mp4"])
def test_the_demo_leaves_a_folder_of_other_files_alone(tmp_path: Path, name: str) -> None:
    chosen, own = demo_settings(tmp_path / "videos", duets=0.0), MediaSource("drum/drum-0001.mp4", "train")
    (tmp_path / "videos" / name).parent.mkdir(parents=True)
    (tmp_path / "videos" / name).write_bytes(b"x")
    for write in (
        lambda: demo.list_sources(chosen),
        lambda: list(demo.import_clips(chosen, own, ManifestRow(own.path, "train"))),
    ):
        with pytest.raises(ValueError, match=r"holds .*; did you mean dataset=folder\?$"):
            write()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "videos" / name]


@pytest.mark.parametrize("left", [(), (demo_root.SIDECAR,), ("bell/bell-0000.mp4", ".DS_Store"), (demo_root.RECIPE,)])
def test_the_demo_goes_on_in_a_folder_of_its_own(tmp_path: Path, left: tuple[str, ...]) -> None:
    chosen, root = demo_settings(tmp_path / "other"), tmp_path / "videos"
    demo.write_demo(chosen)
    for name in left:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "other" / name, root / name) if name[0] != "." else (root / name).touch()
    assert demo.write_demo(demo_settings(root)) == demo.write_demo(chosen)


def test_the_ordinary_importer_reads_the_demo_as_any_folder(tmp_path: Path) -> None:
    chosen = demo_settings(tmp_path)
    demo.write_demo(chosen)
    plain = settings(tmp_path, classes="parent", regions=str(tmp_path / demo_root.SIDECAR), frame_size=96, seed=1)
    assert folder.list_sources(plain) == [
        MediaSource(s.path, s.split, (tmp_path / s.path).stat().st_size, s.labels, s.regions)
        for s in demo.list_sources(chosen)
    ]


def test_the_masks_of_the_demo_are_where_the_objects_are(tmp_path: Path) -> None:
    """Two frames of a video differ most in the background, so inside the mask they must show one hue of the class."""
    chosen = demo_settings(tmp_path, videos=8, duets=0.3)
    sides = []
    for source in demo.list_sources(chosen):
        for clip in demo.import_clips(chosen, source, ManifestRow(source.path, source.split)):
            assert [region.label for region in clip.regions] == list(source.labels)
            frame = round(clip.frame_times[0] * demo.FPS)
            drawn = demo.draw_frames(chosen, int(source.path[-8:-4]))[frame].astype(int)
            assert np.abs(drawn - clip.frames[0]).mean() < 12  # the right frame, through a lossy codec
            for region in clip.regions:
                mask = region_mask(None, region.mask, 96)
                saturation = np.ptp(clip.frames[0][mask].astype(int), axis=1) / clip.frames[0][mask].max(axis=1)
                assert np.median(saturation) > 0.5
                sides.append(max(np.ptp(np.nonzero(mask)[axis]) + 1 for axis in (0, 1)) / 96)
                around = np.nonzero(mask)
                things = [
                    thing for thing in demo.draw_objects(chosen, int(source.path[-8:-4])) if thing.label == region.label
                ]
                hop = [hop for hop in things[0].hops if hop[0] <= frame][-1]
                assert (around[0].min() - hop[1], around[1].min() - hop[2]) <= (3, 3)
    assert min(sides) > 0.36 and max(sides) < 0.6


def test_a_class_can_be_told_by_any_window_of_its_sound() -> None:
    """No window of .96 s is silent, and the nearest mean of log-mel features names the class of unseen tunes."""
    torch = pytest.importorskip("torch")
    from raymix.data.audio import log_mel_spectrogram, stft

    def features(label: str, number: int) -> np.ndarray:
        windows = demo.synthesize_tune(label, 6.0, np.random.default_rng([number, 5]))[: 6 * 15_360].reshape(6, 15_360)
        level = np.sqrt((windows**2).mean(1, keepdims=True))
        assert level.min() > 0.005, f"{label} {number} is silent somewhere"
        mel_NTF = log_mel_spectrogram(stft(torch.from_numpy(windows / level * 0.1))).numpy()
        return np.concatenate([mel_NTF.mean(1), mel_NTF.std(1), np.abs(np.diff(mel_NTF, axis=1)).mean(1)], 1)

    names = list(demo.VOICES)
    means = np.stack([np.mean([features(name, number).mean(0) for number in range(10)], 0) for name in names])
    hits = [
        np.argmin(np.linalg.norm(means - window, axis=1)) == position
        for position, name in enumerate(names)
        for number in range(10, 16)
        for window in features(name, number)
    ]
    assert np.mean(hits) > 0.9
