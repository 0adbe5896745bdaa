"""What is not decoded makes no difference: frames, times, sound and rows of the manifest are those of a full decode."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from raymix.data import media
from raymix.data.extraction import video as data_extraction_video
from raymix.data.extraction.clip_plan import CutSettings, RawClip
from raymix.data.extraction.video import FrameSelector
from raymix.data.media import ManifestRow

FPS, SECONDS, WIDE, HIGH = 25, 7, 64, 48
PYRAMID = "b-adapt=0:bframes=7:b-pyramid=normal:ref=4:scenecut=0"
# name -> (encoder, its options, what is left undecoded of many frames)
ENCODINGS: dict[str, tuple[str, dict[str, str], bool]] = {
    "usual.mp4": ("libx264", {"g": "250"}, True),
    "usual.mkv": ("libx264", {"g": "250"}, True),
    "short gops.mp4": ("libx264", {"g": "12", "bf": "2"}, True),
    "short gops.mkv": ("libx264", {"g": "12", "bf": "2"}, True),
    "pyramid.mp4": ("libx264", {"x264-params": f"keyint=250:{PYRAMID}"}, True),
    "open gops.mp4": ("libx264", {"x264-params": f"keyint=20:min-keyint=20:open-gop=1:{PYRAMID}"}, True),
    "intra refresh.mp4": ("libx264", {"x264-params": "keyint=30:intra-refresh=1:bframes=0"}, True),
    "all referred to.mp4": ("libx264", {"x264-params": "keyint=40:bframes=0"}, True),
    "interlaced.mp4": ("libx264", {"x264-params": "keyint=50:tff=1:bframes=3"}, True),
    "baseline.mp4": ("libx264", {"profile": "baseline", "g": "30"}, True),
    "h265.mp4": ("libx265", {"x265-params": "log-level=none:keyint=25"}, False),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "40"}, True),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "25"}, False),
    "old.avi": ("libx264", {"g": "25", "bf": "0"}, False),
    "stream.ts": ("libx264", {"g": "50"}, False),
}


def moving(path: Path, codec: str, options: dict[str, str], uneven: bool = False) -> Path:
    """A film whose every frame is another one; `uneven`: frames stay on the screen from 1/25 to 2 seconds."""
    rng, at = np.random.default_rng(1), 0
    field, grain = rng.integers(0, 255, (HIGH + 40, WIDE + 220, 3), np.uint8), rng.integers(0, 60, (HIGH, WIDE, 3))
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = WIDE, HIGH, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, FPS)
        audio = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48_000, layout="mono")
        packets, number = [], 0
        while at < SECONDS * FPS:
            view = field[number % 40 :, number:][:HIGH, :WIDE] // 2 + (grain + 9 * number) % 120
            frame = av.VideoFrame.from_ndarray(view.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            packets += video.encode(frame)
            number, at = number + 1, at + (int(rng.choice([1, 1, 2, 3, 20, 50])) if uneven else 1)
        size = audio.codec_context.frame_size or 960
        for start in range(0, SECONDS * 48_000, size):
            wave = np.sin(np.arange(start, start + size)[None] * 0.05).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48_000, start, Fraction(1, 48_000)
            for each in av.AudioResampler(format=audio.codec_context.format, layout="mono").resample(sound):
                packets += audio.encode(each)
        for packet in packets + video.encode(None) + audio.encode(None):
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    made = {name: moving(folder / name, codec, options) for name, (codec, options, _) in ENCODINGS.items()}
    for name in ("uneven.mp4", "uneven.mkv"):
        made[name] = moving(folder / name, "libx264", {"g": "100"}, uneven=True)
    return made


HOWS = [
    CutSettings(1.0, 1.0, 1, 64),
    CutSettings(3.0, 3.0, 1, 64),
    CutSettings(0.5, 3.3, 3, 64),
    CutSettings(2.0, 0.7, 2, 64),
    CutSettings(20.0, 20.0, 1, 64),
    CutSettings(1.0, 1.0, 2, 64, at=(0.0, 3.01, 6.93, 6.99, 9.0)),
    CutSettings(1.0, 1.0, 1, 64, at=(5.5,)),
    CutSettings(1.0, 1.0, 1, 64, span=(3.3, 6.4)),
]


def cuts(path: Path, how: CutSettings) -> tuple[list[RawClip], ManifestRow, str]:
    entry, found, ends = ManifestRow(path.name, "train"), [], ""
    try:
        for cut in data_extraction_video.cut_video(str(path), how, entry):
            found.append(cut)
    except media.UnusableMediaError as error:
        ends = f"{error.status}: {error}"
    return found, entry, ends


def whole_decode(
    monkeypatch: pytest.MonkeyPatch, path: Path, how: CutSettings
) -> tuple[list[RawClip], ManifestRow, str]:
    with monkeypatch.context() as patch:
        patch.setattr(data_extraction_video, "SKIPPABLE_CODECS", ())
        return cuts(path, how)


@pytest.mark.parametrize("name", [*ENCODINGS, "uneven.mp4", "uneven.mkv"])
def test_the_frames_are_those_of_a_full_decode(
    films: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how in HOWS:
        mine, theirs = cuts(films[name], how), whole_decode(monkeypatch, films[name], how)
        assert [cut.start_s for cut in mine[0]] == [cut.start_s for cut in theirs[0]], how
        for one, other in zip(mine[0], theirs[0], strict=True):
            assert one.frame_times == other.frame_times, how
            assert all(map(np.array_equal, one.frames, other.frames)), how
            assert np.array_equal(one.wave, other.wave), how
        assert mine[1:] == theirs[1:], how


@pytest.mark.parametrize("name", ["usual.mp4", "short gops.mp4", "short gops.mkv", "vp9.webm"])
@pytest.mark.parametrize("harm", ["cut off", "blank to the end", "blank for a while"])
def test_damage_is_found_all_the_same(
    films: dict[str, Path], name: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = films[name].read_bytes()
    start = len(whole) // 2
    index = whole.rfind(b"moov") - 4 if name.endswith("mp4") else len(whole)  # it lies at the end, and stays
    end = {"cut off": 0, "blank to the end": index, "blank for a while": start + 4000}[harm]
    path = tmp_path / name
    path.write_bytes(whole[:start] + b"\0" * (end - start) + whole[max(start, end) : len(whole) if end else 0])
    for how in HOWS[:2]:
        mine, theirs = cuts(path, how), whole_decode(monkeypatch, path, how)
        assert mine[2].split(":")[0] == theirs[2].split(":")[0], how
        assert [cut.frame_times for cut in mine[0]] == [cut.frame_times for cut in theirs[0]], how
        for one, other in zip(mine[0], theirs[0], strict=True):
            assert all(map(np.array_equal, one.frames, other.frames)), how


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_what_is_not_needed_is_not_decoded(films: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    honest = FrameSelector.finish

    def counting(self: FrameSelector) -> None:
        counts.append(self.count)
        honest(self)

    monkeypatch.setattr(FrameSelector, "finish", counting)
    how = CutSettings(3.0, 3.0, 1, 64)  # shows the frames at 1.5 and 4.5 s
    cuts(films[name], how)
    assert (counts[0] <= 0.75 * SECONDS * FPS) == ENCODINGS[name][2], counts
    if name.startswith("short"):
        assert counts[0] < 40  # three of seventeen runs
