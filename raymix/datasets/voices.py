"""The sounds of the demo's four classes: flute, plucked strings, bell and drum, 16 kHz, random in pitch and rhythm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RATE = 16_000

Voice = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


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
    band = np.exp(-0.5 * ((np.fft.rfftfreq(len(t), 1 / RATE) - 10 * pitch) / (5 * pitch)) ** 2)
    noise = np.fft.irfft(spectrum * band, len(t))
    thump = np.sin(2 * np.pi * pitch * 0.12 * (1 - np.exp(-t / 0.06)) + 2 * np.pi * 0.5 * pitch * t)
    return np.exp(-t / 0.09) * (noise / (np.abs(noise).max() + 1e-9) + 0.7 * thump)


# voice, range of pitches (Hz), range of note lengths (s); the next note starts where one ends
VOICES: dict[str, tuple[Voice, tuple[float, float], tuple[float, float]]] = {
    "bell": (_bell, (700, 1600), (0.35, 0.8)),
    "drum": (_drum, (120, 330), (0.14, 0.32)),
    "flute": (_flute, (450, 1100), (0.3, 0.7)),
    "strings": (_strings, (110, 300), (0.25, 0.6)),
}


def play(label: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A tune of one class: float32 of `seconds` at 16 kHz, peak .25 to .45, no pause of half a second."""
    voice, pitches, lengths = VOICES[label]
    out = np.zeros(round(seconds * RATE), np.float32)
    key = np.exp(rng.uniform(*np.log(pitches)))  # a tune stays near its key: clips of one video resemble each other
    pace = rng.uniform(*lengths)
    start = int(rng.uniform(0, 0.1) * RATE)
    while start < len(out) - 400:
        length = int(np.clip(pace * rng.choice([0.75, 1, 1, 1.25]), *lengths) * RATE)
        t = np.arange(length, dtype=np.float32) / RATE
        pitch = float(np.clip(key * 2 ** (rng.integers(-5, 6) / 12), *pitches))
        note = voice(t, pitch, rng) * np.float32(rng.uniform(0.7, 1.0)) * np.minimum(1, (t[-1] - t) / 0.01)
        out[start : start + length] = note[: len(out) - start]
        start += length + int(rng.uniform(0, 0.05) * RATE)
    return (out / (np.abs(out).max() + 1e-9) * rng.uniform(0.25, 0.45)).astype(np.float32)
