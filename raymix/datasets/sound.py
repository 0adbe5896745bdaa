"""Sound of any rate and number of channels as pieces of 16 kHz mono, each where its time stamp says.

Resampled once, by FFmpeg's swresample with its default filter (linear-phase windowed sinc).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import av
import numpy as np

from raymix.datasets.cutting import RATE

GAP_S = 0.04  # time stamps may wobble this much (some containers round them) before it is a gap


@dataclass
class Sound:
    """Pieces of mono sound at 16 kHz, each where its time stamp says."""

    origin: float
    end_s: float = 0.0
    _pieces: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (first sample on the video's clock, samples)
    _resampler: av.AudioResampler | None = None
    _kind: tuple[object, ...] = ()
    _next_s: float = 0.0  # when the next input frame should start
    _at: int = 0  # where the next output sample goes

    def add(self, frame: av.AudioFrame) -> None:
        now = self._next_s if frame.time is None else frame.time - self.origin
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or kind != self._kind or abs(now - self._next_s) > GAP_S:
            self.finish()
            self._resampler, self._kind = av.AudioResampler(format="flt", layout="mono", rate=RATE), kind
            self._at, self._next_s = round(now * RATE), now
        self._next_s += frame.samples / frame.sample_rate
        self._push(self._resampler.resample(frame))

    def _push(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            samples = np.frombuffer(memoryview(frame.planes[0]), np.float32, frame.samples).copy()
            self._pieces.append((self._at, samples))
            self._at += len(samples)
            self.end_s = max(self.end_s, self._at / RATE)

    def finish(self) -> None:
        if self._resampler is not None:
            self._push(self._resampler.resample(None))
            self._resampler = None

    def between(self, start_s: float, seconds: float) -> np.ndarray:
        """The sound of a stretch, float32 at 16 kHz; zero where there is none."""
        first, out = round(start_s * RATE), np.zeros(round(seconds * RATE), np.float32)
        for at, samples in self._pieces:
            low, high = max(at, first), min(at + len(samples), first + len(out))
            if low < high:
                out[low - first : high - first] = samples[low - at : high - at]
        np.nan_to_num(out, copy=False)
        return out

    def forget(self, before_s: float) -> None:
        self._pieces = [(at, samples) for at, samples in self._pieces if (at + len(samples)) / RATE > before_s]
