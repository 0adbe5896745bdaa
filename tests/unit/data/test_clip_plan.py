"""Clips around annotated times, in a part of a whole video, and of media that were taken apart before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from raymix.config import DatasetConfig
from raymix.data.extraction import clips, video
from raymix.data.extraction.clip_plan import SAMPLE_RATE, CutSettings, RawClip
from raymix.data.extraction.video import cut_video
from raymix.data.importers.media_index import MediaIndex
from raymix.data.media import ManifestRow, MediaSource, UnusableMediaError
from tests.support.make_videos import film


def cuts(path: Path, frames: int = 1, **how) -> tuple[list[RawClip], ManifestRow]:
    entry = ManifestRow(path.name, "train")
    return list(video.cut_video(str(path), CutSettings(1.0, 1.0, frames, 64, **how), entry)), entry


def lag(wave: np.ndarray, other: np.ndarray) -> float:
    """Seconds between the 440 Hz tones of two sounds."""
    turn = np.exp(-2j * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    return abs(float(np.angle((wave * turn).sum() / (other * turn).sum()))) / (2 * np.pi * 440)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds, a key frame every 1.2 s, a flash and a click at 8.3 s."""
    return film(tmp_path_factory.mktemp("long") / "long.mp4", 12.0, codecs=("libx264", "aac"), flash_s=8.3)


def test_a_clip_lies_around_its_time_and_begins_with_its_frame(long: Path) -> None:
    found, entry = cuts(long, 3, at=(0.2, 8.3, 11.9))
    assert [cut.start_s for cut in found] == [0.0, 7.8, 11.0]  # inside the medium at both ends
    assert [cut.frame_times[0] for cut in found] == [0.2, 8.3, 11.9]
    assert [t for t in found[1].frame_times[1:]] == pytest.approx([8.3, 8.6], abs=0.051)  # middles of the other parts
    assert [cut.frames[0].mean() > 200 for cut in found] == [False, True, False]
    assert np.abs(found[1].wave).argmax() / SAMPLE_RATE == pytest.approx(0.5, abs=0.05)
    assert entry.reason == "" and all(cut.wave.shape == (SAMPLE_RATE,) and len(cut.frames) == 3 for cut in found)


def test_times_beyond_the_end_are_counted(long: Path) -> None:
    found, entry = cuts(long, at=(3.0, 15.0, 20.0))
    assert len(found) == 1 and entry.reason.startswith("2 of 3 annotated times lie beyond the end at 12")
    with pytest.raises(UnusableMediaError, match="beyond the end") as caught:
        cuts(long, at=(15.0,))
    assert caught.value.status == "too short"


def test_two_times_give_no_clip_twice(long: Path) -> None:
    found, entry = cuts(long, at=(8.3, 11.6, 11.9, 20.0))  # the second and the third are moved to the last second
    assert [(cut.start_s, cut.at) for cut in found] == [(7.8, 8.3), (11.0, 11.6)]
    assert entry.reason == (
        "1 of 4 annotated times lie beyond the end at 12.0 s; "
        "1 of 4 annotated times left out: their clips would be those of earlier ones"
    )


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.avi"])
def test_a_part_of_a_whole_video_is_what_the_whole_gives_there(tmp_path: Path, name: str) -> None:
    codecs = ("mpeg4", "libmp3lame") if name.endswith("avi") else ("libx264", "aac")
    path = film(tmp_path / name, 12.0, codecs=codecs, rate=44_100, flash_s=8.3)
    whole, _ = cuts(path)
    part, entry = cuts(path, span=(7.0, 10.0))
    assert [cut.start_s for cut in part] == [7.0, 8.0, 9.0] and entry.duration_s == pytest.approx(3.0, abs=0.1)
    for mine, theirs in zip(part, whole[7:10], strict=True):
        assert mine.frame_times == theirs.frame_times and np.array_equal(mine.frames[0], theirs.frames[0])
        assert lag(mine.wave, theirs.wave) <= 0.6e-3  # Matroska's time stamps are whole milliseconds


def test_media_that_were_taken_apart_give_what_the_video_gives(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole" / "abc_000030.mp4", 4.0, flash_s=2.2, codecs=("libx264", "pcm_s16le"), format="mov")
    for number, cut in enumerate(cut_video(str(whole), CutSettings(0.25, 0.25, 1, 64), ManifestRow("x", ""))):
        picture = tmp_path / "apart" / "abc_000030" / "frames" / f"{number:06d}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cut.frames[0]).save(picture)
    sound = tmp_path / "apart" / "abc_000030" / "audio.wav"
    with av.open(str(whole)) as source, av.open(str(sound), "w") as made:
        stream = made.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for frame in source.decode(audio=0):
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    chosen = {"name": "folder", "clip_seconds": 1.0, "stride_seconds": 1.0, "frame_size": 32, "frames_per_second": 4.0}
    found = MediaIndex(str(tmp_path / "apart")).find("abc", "abc_000030")
    assert found is not None and (found.path, found.sound) == ("abc_000030/frames", "abc_000030/audio.wav")
    source = MediaSource(found.path, "train", found.size_bytes, sound=found.sound, id="abc_000030", at=(2.2,))
    entry = source.manifest_row()
    (apart,) = clips.extract_clips(DatasetConfig(root=str(tmp_path / "apart"), **chosen), source, entry)
    video = MediaSource("abc_000030.mp4", "train", whole.stat().st_size, id="abc_000030", at=(2.2,))
    (theirs,) = clips.extract_clips(DatasetConfig(root=str(tmp_path / "whole"), **chosen), video, video.manifest_row())
    assert apart.clip_id == theirs.clip_id == "folder:abc_000030:1700" and apart.video == "abc_000030"
    assert apart.frame_times == [2.25] and theirs.frame_times == [2.2]  # the picture nearest to the time
    np.testing.assert_allclose(apart.wave, theirs.wave, atol=1e-3)
    assert entry.fps == 4.0 and entry.media
    moment = {
        "label": "a",
        "box": [0.0, 0.0, 0.5, 0.5],
        "from_s": 2.1,
        "to_s": 2.201,
    }  # over when the picture was taken
    (marked,) = clips.extract_clips(
        DatasetConfig(root=str(tmp_path / "apart"), **chosen), replace(source, regions=(moment,)), entry
    )
    assert marked.frame_times == [2.25] and [region.label for region in marked.regions] == ["a"]


def test_where_media_are_found(tmp_path: Path) -> None:
    for name in ("v/a.mp4", "frames/b.jpg", "audio/b.wav", "frames/c/1.jpg", "audio/c.wav", "d/x/1.png", ".e/e.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    media_below = MediaIndex(str(tmp_path))
    found = {name: media_below.find(name) for name in "abcde"}
    assert {name: (f.path, f.sound) for name, f in found.items() if f} == {
        "a": ("v/a.mp4", ""),
        "b": ("frames/b.jpg", "audio/b.wav"),
        "c": ("frames/c", "audio/c.wav"),
    }
    with pytest.raises(ValueError, match=r"dataset.root='.*nowhere': no such folder"):
        MediaIndex(str(tmp_path / "nowhere"))
