"""Frames that stay longer than the others, the last one above all: slides with a voice are whole films."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from raymix.data.extraction import video
from raymix.data.extraction.clip_plan import CutSettings
from raymix.data.media import ManifestRow, UnusableMediaError
from tests.support.make_videos import _sound_packets, film

CODECS = {
    "mp4": ("libx264", "aac"),
    "mkv": ("libx264", "aac"),
    "webm": ("libvpx-vp9", "libopus"),
    "mov": ("mpeg4", "aac"),
}
HELD = (0.0, 0.04, 0.08, 0.5, 1.0, 2.0, 3.0, 3.5, 4.0)


def held(path: Path, times: tuple[float, ...] = HELD, *, bframes: int = 0, says: bool = True) -> Path:
    """Frames at these times, each lighter than the one before, the last until 10 s; ten seconds of sound."""
    codecs = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codecs[0], rate=1000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        video.options = {"x264-params": f"bframes={bframes}:b-adapt=0"} if codecs[0] == "libx264" else {}
        audio = container.add_stream(codecs[1], rate=48_000, layout="mono")
        packets = []
        for number, time_s in enumerate(times):
            grey = np.full((48, 64, 3), 20 + 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        for packet in packets:
            shown_s = float(packet.pts * packet.time_base)
            after_s = min((time_s for time_s in times if time_s > shown_s + 1e-6), default=10.0 if says else shown_s)
            packet.duration = round((after_s - shown_s) / float(packet.time_base))
        if bframes and says:
            packets[-1].duration = max(packet.duration for packet in packets)  # MP4 only has room for it there
        for packet in packets + _sound_packets(audio, 10.0, 48_000, "mono", None, 0.2, 0.0):
            container.mux(packet)
    return path


def cuts(path: Path) -> tuple[list[tuple[float, int]], ManifestRow, str]:
    """Time and number of the frame of each clip of three seconds."""
    entry, found, ends = ManifestRow(path.name, "train"), list[tuple[float, int]](), ""
    try:
        for cut in video.cut_video(str(path), CutSettings(3.0, 3.0, 1, 48), entry):
            found.append((cut.frame_times[0], round((float(cut.frames[0].mean()) - 20) / 20)))
    except UnusableMediaError as error:
        ends = f"{error.status}: {error}"
    return found, entry, ends


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("bframes", [0, 2])
def test_a_last_frame_that_stays_is_no_truncation(tmp_path: Path, suffix: str, bframes: int) -> None:
    found, entry, ends = cuts(held(tmp_path / f"held.{suffix}", bframes=bframes))
    assert found == [(1.0, 4), (4.0, 8), (4.0, 8)] and not ends
    assert entry.duration_s == pytest.approx(10.0, abs=0.05 if not bframes else 1.0)


def test_no_more_is_believed_than_the_stream_states(tmp_path: Path) -> None:
    _, entry, ends = cuts(held(tmp_path / "held.mp4", bframes=2, says=False))
    assert entry.duration_s == pytest.approx(4.5, abs=0.01) and not ends  # the frame at 4 s has a second in the file


def test_a_last_frame_that_cannot_be_decoded_does_not_stay(tmp_path: Path) -> None:
    path = held(tmp_path / "held.mp4")
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
    content = bytearray(path.read_bytes())
    content[last.pos : last.pos + last.size] = bytes(last.size)
    path.write_bytes(content)
    found, _, ends = cuts(path)
    assert found == [(1.0, 4)] and "video stops at 4.0 s of 10.0 s" in ends


@pytest.mark.parametrize("suffix", CODECS)
def test_one_picture_is_a_film(tmp_path: Path, suffix: str) -> None:
    found, entry, ends = cuts(held(tmp_path / f"one.{suffix}", (0.0,)))
    assert found == [(0.0, 0)] * 3 and not ends and entry.duration_s == pytest.approx(10.0, abs=0.05)


def test_the_word_of_the_container_counts_where_packets_have_none(tmp_path: Path) -> None:
    path = held(tmp_path / "held.webm", says=False)
    found, entry, ends = cuts(path)
    assert found == [(1.0, 4)] and not ends and entry.reason == "picture ends at 4.5 s, sound at 10.0 s"
    content = path.read_bytes()
    assert content.count(b"00:00:04.001000000") == 1
    path.write_bytes(content.replace(b"00:00:04.001000000", b"00:00:10.000000000"))
    found, entry, ends = cuts(path)
    assert found == [(1.0, 4), (4.0, 8), (4.0, 8)] and not ends and not entry.reason


@pytest.mark.parametrize("suffix", CODECS)
def test_what_is_cut_short_is_noticed_as_before(tmp_path: Path, suffix: str) -> None:
    whole = film(
        tmp_path / f"whole.{suffix}",
        20,
        fps=25,
        size=(320, 240),
        codecs=CODECS[suffix],
        rate=48_000,
        options={"movflags": "faststart"} if suffix in ("mp4", "mov") else None,
    )
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 55 // 100])
    found, entry, ends = cuts(path)
    assert 0 < len(found) < 5 and "truncated" in ends and entry.duration_s < 15


@pytest.mark.parametrize("sound", ["mp3", "pcm_s16le"])
def test_an_avi_that_is_cut_short_is_noticed(tmp_path: Path, sound: str) -> None:
    path = film(tmp_path / "x.avi", 20, fps=25, size=(320, 240), codecs=("mpeg4", sound), rate=48_000)
    found, entry, ends = cuts(path)
    assert len(found) == 6 and not ends and not entry.reason
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 55 // 100])
    found, _, ends = cuts(path)
    assert len(found) == 3 and "of 20.0 s by its header: truncated" in ends
