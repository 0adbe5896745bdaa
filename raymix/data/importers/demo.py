"""Demo videos: MP4 files in which one object of four classes sounds, some duets, and true masks in a sidecar.

The files go through the ordinary importer (`folder`); this module only writes them. Each class has its own shape,
colours, texture and timbre; place, size, pitch, rhythm and a textured, slowly changing background are random.
The same seed gives the same files.
"""

from __future__ import annotations

import base64
import colorsys
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.extraction.clips import extract_clips
from raymix.data.importers.base import assign_split, shuffle_sources
from raymix.data.importers.demo_root import SIDECAR, claim_demo_root
from raymix.data.importers.video_folder import labels_from_folder
from raymix.data.media import ManifestRow, MediaSource
from raymix.data.records import ClipRecord
from raymix.metrics.regions import encode_png
from raymix.runtime.storage import atomic_output_file, resolve_uri, write_atomic

OPTIONAL_SETTINGS: tuple[str, ...] = ("classes", "splits", "regions", "videos", "video_seconds", "duets", "size")

FPS = 10

HUES = {"bell": (0.12, 0.18), "drum": (0.62, 0.76), "flute": (0.32, 0.48), "strings": (0.0, 0.07)}


@dataclass(frozen=True)
class DemoObject:
    """One sounding object: its class, shape (bool), picture (uint8 YX3), and where its corner is since which frame."""

    label: str
    shape_YX: np.ndarray
    picture_YX3: np.ndarray
    hops: tuple[tuple[int, int, int], ...]  # (first frame, top, left)


def video_path(settings: DatasetConfig, number: int) -> str:
    """The path of a video below the root: the folder names its class, 'a+b' for a duet."""
    label = "+".join(_cast(settings, number))
    return f"{label}/{label}-{number:04d}.mp4"


def _cast(settings: DatasetConfig, number: int) -> list[str]:
    """The class names of a video; classes go round so that each has its share, duets by a draw."""
    rng, names = np.random.default_rng([settings.seed, number, 0]), list(HUES)
    if rng.random() < settings.duets:
        return sorted(str(name) for name in rng.choice(names, 2, replace=False))
    return [names[number % len(names)]]


def draw_objects(settings: DatasetConfig, number: int) -> list[DemoObject]:
    """The objects of a video: two of a duet stand side by side or one above the other and never overlap."""
    rng, labels = np.random.default_rng([settings.seed, number, 1]), _cast(settings, number)
    size, length = settings.size, round(settings.video_seconds * FPS)
    halves, axis = rng.permutation(len(labels)), int(rng.integers(2))
    made = []
    for half, label in zip(halves, labels, strict=True):
        side = int(size * rng.uniform(*((0.5, 0.65) if len(labels) == 1 else (0.42, 0.48))))
        low, high = np.zeros(2, int), np.full(2, size - side)
        if len(labels) == 2:
            low[axis], high[axis] = (0, size // 2 - side) if half == 0 else (size // 2, size - side)
        corner, frame, hops = rng.integers(low, high + 1), 0, []
        while frame < length:
            hops.append((frame, int(corner[0]), int(corner[1])))
            frame += int(rng.integers(12, 30))
            corner = np.clip(corner + rng.integers(-3, 4, 2), low, high)
        shape_YX, picture_YX3 = _look(label, side, rng)
        made.append(DemoObject(label, shape_YX, picture_YX3, tuple(hops)))
    return made


def _look(label: str, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shape and picture of an object of this class, `side` pixels wide and high."""
    v, u = np.meshgrid(*[(np.arange(side) + 0.5) / side * 2 - 1] * 2, indexing="ij")
    phase, turns = rng.uniform(0, 2 * np.pi), rng.uniform(8, 12)
    if label == "flute":
        shape, wave = np.abs(u) <= 0.25 + 0.375 * (v + 1), np.sin(turns * v + phase)
    elif label == "strings":
        shape, wave = np.maximum(np.abs(u), np.abs(v)) < 0.9, np.sin(turns * u + phase)
    elif label == "bell":
        shape, wave = np.hypot(u, v) < 1, np.sin(turns * np.hypot(u, v) + phase)
    else:
        shape, wave = np.minimum(np.abs(u), np.abs(v)) < 0.45, np.sin(turns * u + phase) * np.sin(turns * v)
    color = np.array(colorsys.hsv_to_rgb(rng.uniform(*HUES[label]), rng.uniform(0.75, 1), rng.uniform(0.8, 1)))
    picture = 255 * color * (0.78 + 0.22 * wave[..., None])
    return shape, picture.astype(np.uint8)


def _backdrop(size: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Colour noise of four scales that turns slowly into another: uint8 (length, size, size, 3)."""
    ends = []
    for _ in range(2):
        field = rng.uniform(40, 215, 3) * np.ones((size, size, 3))
        for cells in (2, 5, 12, 32):
            spread = np.maximum(0, 1 - np.abs(np.linspace(0, cells - 1, size)[:, None] - np.arange(cells)))
            grid = rng.standard_normal((cells, cells, 3)) * rng.uniform(5, 40)
            field += np.einsum("yi,ijc,xj->yxc", spread, grid, spread, optimize=True)
        grey = field.mean(axis=2, keepdims=True)
        ends.append((grey + (field - grey) * rng.uniform(0.2, 0.8)).clip(0, 255).astype(np.float32))
    turn_T = 0.5 - 0.5 * np.cos(np.linspace(0, rng.uniform(1, 4), length) * np.pi / 2, dtype=np.float32)
    return np.stack([ends[0] + (ends[1] - ends[0]) * turn for turn in turn_T]).astype(np.uint8)


def draw_frames(settings: DatasetConfig, number: int) -> np.ndarray:
    """All frames of a video: uint8 (T, Y, X, 3)."""
    rng, length = np.random.default_rng([settings.seed, number, 2]), round(settings.video_seconds * FPS)
    frames_TYX3 = _backdrop(settings.size, length, rng)
    for thing in draw_objects(settings, number):
        side = len(thing.shape_YX)
        ends = [hop[0] for hop in thing.hops[1:]] + [length]
        for (first, top, left), end in zip(thing.hops, ends, strict=True):
            place_TYX3 = frames_TYX3[first:end, top : top + side, left : left + side]
            place_TYX3[:, thing.shape_YX] = thing.picture_YX3[thing.shape_YX]
    return frames_TYX3


def demo_regions(settings: DatasetConfig, number: int) -> list[dict[str, object]]:
    """The true masks of a video as entries of the region sidecar, one for every object and stay."""
    entries: list[dict[str, object]] = []
    for thing in draw_objects(settings, number):
        side = len(thing.shape_YX)
        ends: list[float | None] = [(hop[0] - 0.5) / FPS for hop in thing.hops[1:]]
        for (first, top, left), end in zip(thing.hops, [*ends, None], strict=True):
            canvas = np.zeros((settings.size, settings.size), bool)
            canvas[top : top + side, left : left + side] = thing.shape_YX
            start = max(0.0, (first - 0.5) / FPS)
            mask = base64.b64encode(encode_png(canvas)).decode()
            entries.append({"label": thing.label, "sounding": True, "from_s": start, "to_s": end, "mask": mask})
    return entries


def write_demo_video(settings: DatasetConfig, number: int, uri: str) -> None:
    """Encode one video (MPEG-4 and AAC) and put it in its place when it is whole."""
    filesystem, path = resolve_uri(uri)
    rng = np.random.default_rng([settings.seed, number, 3])
    wave = sum(synthesize_tune(label, settings.video_seconds, rng) for label in _cast(settings, number))
    with atomic_output_file(filesystem, path) as part:
        encode_mp4(part, draw_frames(settings, number), FPS, np.asarray(wave, np.float32))


def encode_mp4(path: str, frames_TYX3: np.ndarray, fps: int, wave: np.ndarray) -> None:
    """Write frames and a mono 16 kHz wave as one MP4 file."""
    with av.open(path, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("mpeg4", rate=fps)
        video.height, video.width, video.pix_fmt = frames_TYX3.shape[1], frames_TYX3.shape[2], "yuv420p"
        video.bit_rate, video.gop_size, video.codec_context.thread_count = 800_000, 10, 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 64_000
        for number, picture in enumerate(frames_TYX3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        sound = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux([*video.encode(None), *audio.encode(sound), *audio.encode(None)])


def write_demo(settings: DatasetConfig) -> list[str]:
    """Write all videos that are not there yet, and the sidecar; the paths below `settings.root`."""
    made = list_sources(settings)
    for source in made:
        _ensure(settings, source)
    return [source.path for source in made]


def _ensure(settings: DatasetConfig, source: MediaSource) -> int:
    """Write the video if it is not there yet; its size in bytes."""
    filesystem, root = resolve_uri(settings.root)
    path = f"{root}/{source.path}"
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        claim_demo_root(settings)
        number = int(source.path.rsplit("-", 1)[1].removesuffix(".mp4"))
        write_demo_video(settings, number, f"{settings.root.rstrip('/')}/{source.path}")
    return int(filesystem.get_file_info(path).size)


def list_sources(settings: DatasetConfig) -> list[MediaSource]:
    """The videos that the demo consists of; writes the sidecar.

    Raises ValueError if the root holds other files or another demo.
    """
    claim_demo_root(settings)
    filesystem, root = resolve_uri(settings.root)
    known = {video_path(settings, number): demo_regions(settings, number) for number in range(settings.videos)}
    write_atomic(filesystem, f"{root}/{SIDECAR}", json.dumps(known).encode())
    return shuffle_sources(
        settings,
        [
            MediaSource(
                path,
                assign_split(settings, path),
                labels=labels_from_folder(settings, path),
                regions=tuple(entries),
            )
            for path, entries in known.items()
        ],
    )


def import_clips(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
    """Write the video if this machine has it not yet (nodes need no shared disk), then import it like any other."""
    size = _ensure(settings, source)
    entry.size_bytes = size
    yield from extract_clips(settings, replace(source, size_bytes=size), entry)


SAMPLE_RATE = 16_000


VoiceFunction = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _flute(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Few harmonics, vibrato, breath, a soft start and end."""
    angle = 2 * np.pi * pitch * t + 0.8 * np.sin(2 * np.pi * rng.uniform(4, 6) * t)
    tone = np.sin(angle) + rng.uniform(0.2, 0.4) * np.sin(2 * angle) + 0.1 * np.sin(3 * angle)
    rise = np.minimum(1, np.minimum(t, t[-1] - t) / 0.04)
    return rise * (tone + 0.04 * rng.standard_normal(len(t), dtype=np.float32))


def _strings(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Eight harmonics that start at once and die away, the high ones first."""
    tone, strength = np.zeros_like(t), rng.uniform(0.75, 1.0)
    for number in range(1, 9):
        level = strength**number / number**0.5
        tone += level * np.exp(-(0.8 + 0.9 * number) * t) * np.sin(2 * np.pi * number * pitch * t)
    return tone * np.minimum(1, t / 0.002)


def _bell(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Frequency modulation at a ratio that is no whole number: inharmonic partials, a long decay."""
    depth = rng.uniform(1.5, 3) * np.exp(-2.5 * t)
    return np.exp(-1.8 * t) * np.sin(2 * np.pi * pitch * t + depth * np.sin(2 * np.pi * 1.414 * pitch * t))


def _drum(t: np.ndarray, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A burst of noise around a band, with a falling thump under it."""
    spectrum = np.fft.rfft(rng.standard_normal(len(t)))
    band = np.exp(-0.5 * ((np.fft.rfftfreq(len(t), 1 / SAMPLE_RATE) - 10 * pitch) / (5 * pitch)) ** 2)
    noise = np.fft.irfft(spectrum * band, len(t))
    thump = np.sin(2 * np.pi * pitch * 0.12 * (1 - np.exp(-t / 0.06)) + 2 * np.pi * 0.5 * pitch * t)
    return np.exp(-t / 0.09) * (noise / (np.abs(noise).max() + 1e-9) + 0.7 * thump)


# voice, range of pitches (Hz), range of note lengths (s); the next note starts where one ends
VOICES: dict[str, tuple[VoiceFunction, tuple[float, float], tuple[float, float]]] = {
    "bell": (_bell, (700, 1600), (0.35, 0.8)),
    "drum": (_drum, (120, 330), (0.14, 0.32)),
    "flute": (_flute, (450, 1100), (0.3, 0.7)),
    "strings": (_strings, (110, 300), (0.25, 0.6)),
}


def synthesize_tune(label: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A tune of one class: float32 of `seconds` at 16 kHz, peak .25 to .45, no pause of half a second."""
    voice, pitches, lengths = VOICES[label]
    out = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    key = np.exp(rng.uniform(*np.log(pitches)))  # a tune stays near its key: clips of one video resemble each other
    pace = rng.uniform(*lengths)
    start = int(rng.uniform(0, 0.1) * SAMPLE_RATE)
    while start < len(out) - 400:
        length = int(np.clip(pace * rng.choice([0.75, 1, 1, 1.25]), *lengths) * SAMPLE_RATE)
        t = np.arange(length, dtype=np.float32) / SAMPLE_RATE
        pitch = float(np.clip(key * 2 ** (rng.integers(-5, 6) / 12), *pitches))
        note = voice(t, pitch, rng) * np.float32(rng.uniform(0.7, 1.0)) * np.minimum(1, (t[-1] - t) / 0.01)
        out[start : start + length] = note[: len(out) - start]
        start += length + int(rng.uniform(0, 0.05) * SAMPLE_RATE)
    return (out / (np.abs(out).max() + 1e-9) * rng.uniform(0.25, 0.45)).astype(np.float32)
