"""Which tracks of a file are read: those that can be decoded, the film instead of its thumbnail, none that is encrypted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raymix.data.media import UnusableMediaError
from tests.support.make_videos import film
from tests.support.numbered_videos import Picture, Sounding, assert_right, cuts, tones, write

FILM = Picture(frames=20)
THUMBNAIL = Picture("mjpeg", "yuvj420p", 1, (80, 60), {}, full=True)
SOUND, OTHER = Sounding(tones(2)[None]), Sounding(tones(2, first=2000)[None], codec="aac")
CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def patched(path: Path, old: bytes, new: bytes, place: int = -1) -> Path:
    """Another codec tag where `old` stands for the first (0) or last (-1) time behind the sample table's beginning."""
    content = bytearray(path.read_bytes())
    places = [at for at in range(content.index(b"moov"), len(content)) if content[at : at + len(old)] == old]
    content[places[place] : places[place] + len(old)] = new
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("still", [THUMBNAIL, Picture(frames=1), Picture(frames=6, size=(320, 240))])
def test_the_video_track_with_the_most_frames(tmp_path: Path, suffix: str, still: Picture) -> None:
    path = write(tmp_path / f"x.{suffix}", [still, FILM], [OTHER if suffix == "mp4" else SOUND])
    found, entry = cuts(path)
    assert len(found) == 2 and entry.status == "ok" and (entry.width, entry.height) == (160, 120)
    assert_right(found, first=2000 if suffix == "mp4" else 300, level=None)
    wide, high = still.size
    told = f"video track 2 of 2 was read: it has 20 frames of 160x120, track 1 {still.frames} of {wide}x{high}"
    assert entry.reason.split("; ")[0] == told
    found, entry = cuts(write(tmp_path / f"y.{suffix}", [FILM, still], [OTHER]))
    assert (len(found), entry.reason) == (2, "")


def test_of_tracks_alike_the_one_with_most_pixels(tmp_path: Path) -> None:
    small, longer = Picture(frames=20, size=(80, 60)), Picture(frames=21, size=(96, 64))
    _, entry = cuts(write(tmp_path / "x.mp4", [small, longer, FILM], [OTHER]))
    assert (entry.width, entry.height) == (160, 120) and "video track 3 of 3" in entry.reason
    _, entry = cuts(write(tmp_path / "y.mp4", [FILM, FILM], [OTHER]))
    assert entry.reason == ""


@pytest.mark.parametrize(("tag", "said"), [(b"zzzz", "zzzz"), (b"encv", "encv: encrypted")])
def test_a_picture_without_a_decoder(tmp_path: Path, tag: bytes, said: str) -> None:
    path = patched(write(tmp_path / "x.mp4", [FILM], [OTHER]), b"avc1", tag)
    with pytest.raises(UnusableMediaError) as caught:
        cuts(path)
    assert (caught.value.status, str(caught.value)) == ("no video", f"no decoder for its picture ({said})")
    two = patched(write(tmp_path / "y.mp4", [FILM, FILM], [OTHER]), b"avc1", tag, 0)
    found, entry = cuts(two)
    assert_right(found, first=2000, level=None)
    assert len(found) == 2 and entry.reason == f"video track 2 of 2 was read: no decoder for track 1 ({said})"


@pytest.mark.parametrize("tag", [b"ac-4", b"zzzz"])
def test_a_sound_without_a_decoder(tmp_path: Path, tag: bytes) -> None:
    path = patched(write(tmp_path / "x.mov", [FILM], [SOUND]), b"sowt", tag)
    with pytest.raises(UnusableMediaError) as caught:
        cuts(path)
    assert (caught.value.status, str(caught.value)) == ("no audio", f"no decoder for its sound ({tag.decode()})")
    stereo = Sounding(np.repeat(tones(2, first=2000)[None], 2, 0), "stereo")
    two = patched(write(tmp_path / "y.mov", [FILM], [stereo, SOUND]), b"sowt", tag, 0)
    found, entry = cuts(two)
    assert_right(found)
    assert entry.reason == f"audio track 2 of 2 was read: no decoder for track 1 ({tag.decode()})"


def test_encrypted_packets(tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4", 2.0, codecs=("libx264", "aac"), options=CENC)
    with pytest.raises(UnusableMediaError) as caught:
        cuts(path)
    assert (caught.value.status, str(caught.value)) in (
        ("no video", "its picture is encrypted"),
        ("no audio", "its sound is encrypted"),
    )
