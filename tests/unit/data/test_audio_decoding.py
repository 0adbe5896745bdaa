"""Sound of every number of channels, layout and sample format gives the tones that were written, and finite samples."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from raymix.config import DatasetConfig
from raymix.data.extraction import audio_decoding, clips
from raymix.data.extraction.audio_decoding import ChannelMixdown, channel_weights, detect_integer_scale
from raymix.data.media import MediaSource, UnusableMediaError
from tests.support.numbered_videos import LEVEL, Picture, Sounding, assert_right, cuts, tone_of, tones, write

DECLARED = {
    1: "mono",
    2: "stereo",
    3: "2.1",
    4: "quad",
    5: "5.0",
    6: "5.1",
    7: "6.1",
    8: "7.1",
    10: "5.1.4",
    16: "hexadecagonal",
}
SHORT = Picture(frames=20)
SCALES = [(1.0, 1.0), (32768.0, 2.0**15), (2.0**23, 2.0**23), (2.0**31, 2.0**31)]


def same(channels: int, **more) -> Sounding:
    """The same tones on all channels."""
    layout = more.pop("layout", f"{channels} channels")
    return Sounding(np.repeat(tones(2)[None], channels, 0), layout, **more)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8, 10, 16])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("suffix", ["mov", "mkv"])
def test_any_number_of_channels(tmp_path: Path, channels: int, declared: bool, suffix: str) -> None:
    layout = DECLARED[channels] if declared else f"{channels} channels"
    path = write(tmp_path / f"x.{suffix}", [SHORT], [same(channels, layout=layout)])
    found, entry = cuts(path)
    assert (entry.channels, entry.reason, len(found)) == (channels, "", 2)
    assert_right(found)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "flac", "wavpack"])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_any_packed_sample_format(tmp_path: Path, codec: str, channels: int) -> None:
    layout = f"{channels} channels" if codec.startswith("pcm") else DECLARED[channels]
    found, entry = cuts(write(tmp_path / "x.mkv", [SHORT], [same(channels, layout=layout, codec=codec)]))
    assert (entry.channels, entry.reason, entry.status, len(found)) == (channels, "", "ok", 2)
    assert_right(found)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24le", "alac"])
def test_a_channel_layout_in_an_order_of_its_own(tmp_path: Path, codec: str) -> None:
    """QuickTime's order L R C LFE Ls Rs Rls Rrs, which FFmpeg describes by a map on the heap."""
    layout = "7.1(wide)" if codec == "alac" else "7.1"
    path = write(tmp_path / "x.mov", [SHORT], [same(8, layout=layout, codec=codec)])
    content = bytearray(path.read_bytes())
    place = content.index(b"chan", content.rindex(b"moov")) + 8  # behind the type, version and flags
    content[place : place + 8] = bytes.fromhex("0080000800000000")  # the layout tag of that order, no bitmap
    path.write_bytes(content)
    for _ in range(3):
        found, entry = cuts(path)
        assert (entry.channels, entry.reason, len(found)) == (8, "", 2)
        assert_right(found)


@pytest.mark.parametrize("codec", ["alac", "aac"])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_planar_sample_formats(tmp_path: Path, codec: str, channels: int) -> None:
    layout = {("alac", 8): "7.1(wide)"}.get((codec, channels), DECLARED[channels])
    found, _ = cuts(write(tmp_path / "x.mov", [SHORT], [same(channels, layout=layout, codec=codec)]))
    assert len(found) == 2
    assert_right(found, level=None)


@pytest.mark.parametrize("channels", [3, 8, 10, 16])
def test_planar_frames_of_many_channels(tmp_path: Path, channels: int) -> None:
    """Opus without declared places of its channels is decoded to one plane a channel."""
    sound = same(channels, codec="libopus", options={"mapping_family": "255"})
    found, entry = cuts(write(tmp_path / "x.mkv", [SHORT], [sound]))
    assert (entry.channels, len(found)) == (channels, 2)
    assert_right(found, level=None)


def test_an_ambisonic_recording_is_its_channel_w(tmp_path: Path) -> None:
    others = np.repeat(3 * tones(2, first=1500)[None], 3, 0)
    samples = np.concatenate([tones(2)[None], others])
    sound = Sounding(samples, "ambisonic 1", "libopus", options={"mapping_family": "2"})
    found, entry = cuts(write(tmp_path / "x.mkv", [SHORT], [sound]))
    assert (entry.channels, len(found)) == (4, 2)
    assert_right(found, level=None)
    assert channel_weights(("AMBI0", "AMBI1", "AMBI2", "AMBI3", "FL", "FR")).tolist() == [1, 0, 0, 0, 0, 0]


def test_low_frequency_effects_are_not_in_the_mix(tmp_path: Path) -> None:
    samples = np.repeat(tones(2)[None], 6, 0)
    samples[3] = 3 * tones(2, first=50)  # FL FR FC LFE BL BR
    found, _ = cuts(write(tmp_path / "x.mov", [SHORT], [Sounding(samples, "5.1")]))
    assert_right(found)
    assert channel_weights(("FL", "FR", "FC", "LFE", "BL", "BR")) == pytest.approx(
        np.array([0.7071, 0.7071, 1, 0, 0.5, 0.5]) / 3.4142, abs=1e-4
    )
    assert channel_weights(("LFE",)).tolist() == [1.0]
    assert channel_weights(("FL", "FR")).tolist() == [0.5, 0.5]
    assert channel_weights(("FL", "NONE", "LFE", "USR70")).tolist() == [0.25] * 4  # who knows what they are


@pytest.mark.parametrize("codec", ["pcm_s16le", "aac"])
def test_of_channels_that_cancel_the_louder_one(tmp_path: Path, codec: str) -> None:
    samples = np.stack([0.9 * tones(2), -tones(2)])
    path = write(tmp_path / "x.mov", [SHORT], [Sounding(samples, "stereo", codec)])
    found, entry = cuts(path)
    assert_right(found, level=LEVEL if codec != "aac" else None)
    assert entry.status == "ok"
    assert entry.reason == "its channels cancel each other, so for 2.0 s only the louder one was taken"


def test_channels_are_taken_alone_only_while_they_cancel() -> None:
    rate, tone = 8000, tones(1, 8000).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, rate)).astype(np.float32)
    mixdown = ChannelMixdown(("FL", "FR"), rate)
    together, against, apart, silence = np.stack([tone, tone]), np.stack([tone, -tone]), noise, np.zeros((2, rate))
    assert np.allclose(mixdown.mix(together), tone, atol=1e-6)
    out = mixdown.mix(against)
    assert np.allclose(out[80:], tone[80:]) and abs(out[0]) < 1e-6  # faded in within 10 ms
    assert np.abs(mixdown.mix(silence.astype(np.float32))).max() == 0
    assert np.allclose(mixdown.mix(apart)[80:], noise.mean(axis=0)[80:], atol=1e-6)
    assert mixdown.cancelled == 2 * rate


@pytest.mark.parametrize(("factor", "scale"), SCALES)
@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_floats_at_the_scale_of_integers(tmp_path: Path, factor: float, scale: float, codec: str) -> None:
    quiet = np.random.default_rng(0).integers(-1, 2, 48_000) / 32768  # a second of dither comes before the sound
    samples = factor * np.concatenate([quiet, tones(2)])[None]
    found, entry = cuts(write(tmp_path / "x.mov", [Picture()], [Sounding(samples, codec=codec)]))
    assert len(found) == 3
    assert tone_of(found[1].wave) == (pytest.approx(300, abs=2), pytest.approx(LEVEL, rel=0.05))
    assert np.abs(found[0].wave).max() < 1e-3
    if factor > 1:
        assert entry.status == "repaired"
        assert entry.reason == f"floating-point sound at the scale of integers: divided by {scale:g}"
    else:
        assert (entry.status, entry.reason) == ("ok", "")


def test_values_of_no_scale_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mov", [SHORT], [Sounding(1e20 * tones(2)[None], codec="pcm_f64le")])
    with pytest.raises(UnusableMediaError, match="values up to 2\\^65, which no sample format has") as caught:
        cuts(path)
    assert caught.value.status == "corrupt"


def test_scales_from_few_loud_samples() -> None:
    sound = tones(2)
    sound[1000:1010] = 5000.0  # ten faults
    assert detect_integer_scale([sound]) == 1.0
    assert detect_integer_scale([np.zeros(9), np.array([np.nan, np.inf])]) == 1.0
    assert detect_integer_scale([32767 * tones(1), np.array([1e9])]) == 2.0**15
    assert detect_integer_scale([]) == 1.0


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_values_that_are_no_numbers_become_silence(tmp_path: Path, layout: str) -> None:
    channels = 1 if layout == "mono" else 2
    samples = np.repeat(tones(2)[None], channels, 0)
    samples[0, 1000:1010], samples[0, 2000:2005], samples[0, 60_000:60_003] = np.nan, np.inf, 1e6
    found, entry = cuts(write(tmp_path / "x.mov", [SHORT], [Sounding(samples, layout, "pcm_f32le")]))
    assert all(np.isfinite(cut.wave).all() and np.abs(cut.wave).max() < 10 for cut in found)
    assert entry.status == "repaired"
    assert "15 samples of its sound are no finite numbers: silence instead" in entry.reason
    assert "3 samples of its sound exceed 8 times full scale: clipped" in entry.reason
    assert tone_of(found[0].wave)[0] == pytest.approx(300, abs=2)


def test_a_resampler_that_failed_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Failing:
        def __init__(self, **_: object) -> None:
            pass

        def resample(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
            calls.append(frame)
            raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(audio_decoding.av, "AudioResampler", Failing)
    sound = audio_decoding.AudioTrack(0.0)
    frame = av.AudioFrame(format="s16", layout="mono", samples=48_000)
    frame.sample_rate = 48_000
    with pytest.raises(UnusableMediaError, match="its sound of 48000 Hz cannot be resampled"):
        sound.add(frame)
    sound.finish()
    assert len(calls) == 1


def test_sound_files_of_pictures_go_the_same_way(tmp_path: Path) -> None:
    """A WAV of floats at the scale of integers, in three channels, beside a picture."""
    samples = (32768 * np.repeat(tones(2)[None], 3, 0)).T.astype("<f4")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((3, 4, 48_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[20:22] = (3).to_bytes(2, "little")  # IEEE float
    (tmp_path / "a.wav").write_bytes(content)
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    chosen = DatasetConfig(name="folder", root=str(tmp_path), clip_seconds=1.0, stride_seconds=1.0)
    source = MediaSource("a.jpg", "train", 9, sound="a.wav")
    entry = source.manifest_row()
    found = list(clips.extract_clips(chosen, source, entry))
    assert (entry.status, entry.channels) == ("repaired", 3)
    assert entry.reason == "floating-point sound at the scale of integers: divided by 32768"
    assert [tone_of(clip.wave)[0] for clip in found] == pytest.approx([300, 400], abs=2)
    assert tone_of(found[0].wave)[1] == pytest.approx(LEVEL, rel=0.05)
