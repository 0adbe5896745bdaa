"""Videos whose frames show their number between four coloured corners, and whose every second has a tone of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from raymix.data.extraction import video
from raymix.data.extraction.clip_plan import SAMPLE_RATE, CutSettings, RawClip
from raymix.data.media import ManifestRow

FPS, WIDE, HIGH, LEVEL = 10, 160, 120, 0.3
CORNERS = np.array([(200, 40, 40), (40, 180, 60), (40, 60, 200), (200, 200, 40)])  # top left, top right, bottom ...
KINDS = {"u8": "u1", "s16": "<i2", "s32": "<i4", "flt": "<f4", "dbl": "<f8"}
FULL = {"u8": 128.0, "s16": 32768.0, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}


@dataclass
class Picture:
    """A video track; `planes` makes the planes of a frame in the codec's pixel format, from its RGB picture."""

    codec: str = "libx264"
    pixels: str = "yuv420p"
    frames: int = 3 * FPS
    size: tuple[int, int] = (WIDE, HIGH)
    options: dict[str, str] = field(default_factory=lambda: {"crf": "8", "preset": "ultrafast"})
    bits: int = 8
    matrix: int = 2  # codes of ITU-T H.273
    transfer: int = 2
    primaries: int = 2
    full: bool = False
    planes: object = None


@dataclass
class Sounding:
    """An audio track: samples (channels, samples) with full scale 1, written in the format of the codec."""

    samples_CN: np.ndarray
    layout: str = "mono"
    codec: str = "pcm_s16le"
    rate: int = 48_000
    options: dict[str, str] = field(default_factory=dict)


def picture(number: int, size: tuple[int, int] = (WIDE, HIGH)) -> np.ndarray:
    """The frame of a number, uint8 RGB."""
    wide, high = size
    frame = np.full((high, wide, 3), 128, np.uint8)
    for place, color in enumerate(CORNERS):
        rows = slice(0, high // 3) if place < 2 else slice(high - high // 3, high)
        frame[rows, slice(0, wide // 2) if place % 2 == 0 else slice(wide // 2, wide)] = color
    for bit in range(10):
        frame[high // 3 : high - high // 3, bit * wide // 10 : (bit + 1) * wide // 10] = (
            235 if number >> bit & 1 else 20
        )
    return frame


def tones(seconds: int = 3, rate: int = 48_000, first: int = 300) -> np.ndarray:
    """A sine of 300 Hz in the first second, of 400 Hz in the second ..."""
    times = np.arange(seconds * rate) / rate
    return LEVEL * np.sin(2 * np.pi * (first + 100 * np.floor(times)) * times)


def write(path: Path, pictures: Sequence[Picture], sounds: Sequence[Sounding], **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        tracks = []
        for each in pictures:
            stream = container.add_stream(each.codec, rate=FPS, options=each.options)
            stream.width, stream.height, stream.pix_fmt = *each.size, each.pixels
            context = stream.codec_context
            context.colorspace, context.color_range = each.matrix, 2 if each.full else 1
            context.color_trc, context.color_primaries = each.transfer, each.primaries
            tracks.append((stream, each))
        for sound in sounds:
            stream = container.add_stream(sound.codec, rate=sound.rate, layout=sound.layout, options=sound.options)
            tracks.append((stream, sound))
        made = list[av.Packet]()
        for stream, track in tracks:
            made += _shown(stream, track) if isinstance(track, Picture) else _heard(stream, track)
        for packet in sorted(made, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _shown(stream: av.VideoStream, each: Picture) -> list[av.Packet]:
    packets = []
    for number in range(each.frames):
        rgb = picture(number, each.size)
        if each.planes is None:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        else:
            frame = av.VideoFrame(*each.size, each.pixels)
            for plane, values in zip(frame.planes, each.planes(rgb), strict=True):
                stored = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
                stored[:, : values.shape[1]] = values
                plane.update(stored.tobytes())
            frame.colorspace, frame.color_range = each.matrix, 2 if each.full else 1
            frame.color_trc, frame.color_primaries = each.transfer, each.primaries
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _heard(stream: av.AudioStream, sound: Sounding) -> list[av.Packet]:
    packets, form = [], stream.codec_context.format
    kind, size = form.packed.name, stream.codec_context.frame_size or 4800
    for start in range(0, sound.samples_CN.shape[1], size):
        part_CN = sound.samples_CN[:, start : start + size] * FULL[kind] + (128 if kind == "u8" else 0)
        if kind not in ("flt", "dbl"):
            part_CN = np.clip(part_CN.round(), np.iinfo(KINDS[kind]).min, np.iinfo(KINDS[kind]).max)
        part_CN = part_CN.astype(KINDS[kind])
        frame = av.AudioFrame(format=form.name, layout=sound.layout, samples=part_CN.shape[1])
        planes = frame.planes  # of many channels PyAV lists more than there are
        for plane, values in zip(planes, part_CN if form.is_planar else [part_CN.T], strict=False):
            plane.update(np.ascontiguousarray(values).tobytes().ljust(plane.buffer_size, b"\0"))
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, start, Fraction(1, sound.rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def cuts(path: Path, seconds: float = 1.0) -> tuple[list[RawClip], ManifestRow]:
    """All clips of a second each, with the row of the manifest."""
    entry = ManifestRow(path.name, "train")
    return list(video.cut_video(str(path), CutSettings(seconds, seconds, 1, HIGH), entry)), entry


def number_of(frame: np.ndarray) -> int:
    high, wide, _ = frame.shape
    blocks = [frame[high // 2 - 2 : high // 2 + 2, int((bit + 0.5) * wide / 10)] for bit in range(10)]
    return sum(int(block.mean() > 128) << bit for bit, block in enumerate(blocks))


def corners_of(frame: np.ndarray) -> np.ndarray:
    """The colours of the four corners, in the order of CORNERS."""
    high, wide, _ = frame.shape
    places = [(y, x) for y in (high // 6, high - high // 6) for x in (wide // 4, wide - wide // 4)]
    return np.array([frame[y - 4 : y + 4, x - 4 : x + 4].mean(axis=(0, 1)) for y, x in places])


def tone_of(wave: np.ndarray) -> tuple[float, float]:
    """Frequency (Hz) and amplitude of the loudest sine in the middle of a second."""
    middle = wave[SAMPLE_RATE // 10 : -SAMPLE_RATE // 10] * np.hanning(len(wave) - 2 * (SAMPLE_RATE // 10))
    spectrum = np.abs(np.fft.rfft(middle, 8 * SAMPLE_RATE))
    return float(spectrum.argmax() / 8), float(spectrum.max() * 4 / len(middle))


def assert_right(found: Sequence[RawClip], first: int = 300, level: float | None = LEVEL, fps: int = FPS) -> None:
    """Each clip has the frames of its time, the right colours and the tone of its second."""
    for number, cut in enumerate(found):
        assert cut.start_s == number
        assert number_of(cut.frames[0]) == round(cut.frame_times[0] * fps)
        assert np.abs(corners_of(cut.frames[0]) - CORNERS).max() <= 6
        frequency, amplitude = tone_of(cut.wave)
        assert abs(frequency - (first + 100 * number)) <= 2
        assert level is None or abs(amplitude / level - 1) < 0.05
