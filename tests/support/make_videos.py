"""Small video files for the tests: a flash in the picture and a click in the sound at one known time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def film(
    path: Path,
    seconds: float = 4.0,
    *,
    fps: Fraction | int = 10,
    rate: int = 16_000,
    layout: str = "mono",
    size: tuple[int, int] = (64, 48),  # width, height
    codecs: tuple[str, str | None] = ("mpeg4", "aac"),
    format: str | None = None,
    flash_s: float | None = None,
    level: float = 0.2,  # of the tone; 0 is digital silence
    starts: tuple[float, float] = (0.0, 0.0),  # of picture and sound
    options: dict[str, str] | None = None,
    pixel: Fraction = Fraction(1),  # width of a pixel over its height
) -> Path:
    """Write one file: a red top-left quarter on grey and a 440 Hz tone; at `flash_s`, white and a click."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        video = container.add_stream(codecs[0], rate=fps)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.bit_rate, video.gop_size = 500_000, 12
        video.codec_context.sample_aspect_ratio = pixel
        audio = container.add_stream(codecs[1], rate=rate, layout=layout) if codecs[1] else None
        packets = _picture_packets(video, seconds, Fraction(fps), size, flash_s, starts[0])
        if audio is not None:
            packets += _sound_packets(audio, seconds, rate, layout, flash_s, level, starts[1])
        for packet in packets:
            container.mux(packet)
    return path


def _picture_packets(video, seconds, fps, size, flash_s, start_s):
    packets = []
    for number in range(round(seconds * fps)):
        time_s = start_s + float(number / fps)
        picture = np.full((size[1], size[0], 3), 90, np.uint8)
        picture[: size[1] // 2, : size[0] // 2] = (200, 30, 30)
        if flash_s is not None and abs(time_s - flash_s) <= float(0.5 / fps):
            picture[:] = 255
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number + round(start_s * fps), 1 / fps
        packets += video.encode(frame)
    return packets + video.encode(None)


def _sound_packets(audio, seconds, rate, layout, flash_s, level, start_s):
    times = np.arange(round(seconds * rate)) / rate + start_s
    wave = level * np.sin(2 * np.pi * 440 * times)
    if flash_s is not None:
        wave = np.where(np.abs(times - flash_s) < 0.001, 1.0, 0.02 * wave)
    channels = len(av.AudioLayout(layout).channels)
    sound = av.AudioFrame.from_ndarray(
        np.repeat(wave[None], channels, 0).astype(np.float32), format="fltp", layout=layout
    )
    sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(format=audio.codec_context.format, layout=layout, rate=rate)
    fifo, packets = av.AudioFifo(), []
    for frame in resampler.resample(sound) + resampler.resample(None):
        fifo.write(frame)
    while frame := fifo.read(audio.codec_context.frame_size or 1024, partial=True):
        frame.pts += round(start_s * rate)
        packets += audio.encode(frame)
    return packets + audio.encode(None)


def turned(path: Path) -> Path:
    """Set the display matrix to (height - y, x), as a telephone held upright does: a quarter turn clockwise."""
    return displayed(path, (0, 1, -1, 0), 48)


def displayed(path: Path, matrix: tuple[int, int, int, int], shift: int = 0) -> Path:
    """Set the display matrix to (ax + cy + shift, bx + dy)."""
    content = bytearray(path.read_bytes())
    place = (
        content.index(b"tkhd") + 4 + 40
    )  # version 0: forty bytes of flags, times, duration, layer and volume come first
    assert content[place : place + 4] == (1 << 16).to_bytes(4, "big"), "not the identity matrix: wrong place"
    a, b, c, d = (value << 16 for value in matrix)
    values = [a, b, 0, c, d, 0, shift << 16, 0, 1 << 30]
    content[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(content)
    return path
