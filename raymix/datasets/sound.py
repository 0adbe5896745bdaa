"""Sound of any sample format, rate and number of channels as pieces of 16 kHz mono, each where its time stamp says.

The channels are mixed first, in blocks; the mix is resampled once, by FFmpeg's swresample with its default filter
(linear-phase windowed sinc), which never sees more than one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.error import FFmpegError

from raymix.datasets.cutting import RATE
from raymix.datasets.mixdown import LIMIT, FrameReader, Mixdown, is_float
from raymix.datasets.source import Unusable

GAP_S = 0.04  # time stamps may wobble this much (some containers round them) before it is a gap
BLOCK_S = 0.5  # so much is mixed at a time


@dataclass
class Sound:
    """Pieces of mono sound at 16 kHz, each where its time stamp says; all samples are finite.

    Args:
        origin: time of the video's first frame on the sound's clock, in seconds.
        channels: FFmpeg's names of the channels as the container declares them; () takes those of the frames.
        scale: what floating-point samples are divided by.
    """

    origin: float
    channels: Sequence[str] = ()
    scale: float = 1.0
    end_s: float = 0.0
    not_finite: int = 0  # samples that became silence
    clipped: int = 0  # samples beyond what can have been recorded
    single_s: float = 0.0  # for so long a single channel was taken
    _pieces: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (first sample on the video's clock, samples)
    _held: list[np.ndarray] = field(default_factory=list)  # blocks (channels, samples) that are not mixed yet
    _held_samples: int = 0
    _kind: tuple[object, ...] = ()
    _floats: bool = False
    _rate: int = 0  # of the input
    _reader: FrameReader | None = None
    _mixdown: Mixdown | None = None
    _resampler: av.AudioResampler | None = None
    _next_s: float = 0.0  # when the next input frame should start
    _at: int = 0  # where the next output sample goes

    def add(self, frame: av.AudioFrame) -> None:
        """Takes the next decoded frame. Raises Unusable where it cannot be resampled."""
        now = self._next_s if frame.time is None else frame.time - self.origin
        kind = (frame.format.name, frame.layout.name, frame.sample_rate, tuple(self.channels))
        if self._reader is None or kind != self._kind or abs(now - self._next_s) > GAP_S:
            self.finish()
            self._begin(frame, now)
            self._kind = kind
        assert self._reader is not None
        self._next_s += frame.samples / frame.sample_rate
        self._held.append(self._reader.read(frame))
        self._held_samples += frame.samples
        if self._held_samples >= BLOCK_S * self._rate:
            self._mix()

    def _begin(self, frame: av.AudioFrame, now: float) -> None:
        names = [channel.name for channel in frame.layout.channels]
        if len(self.channels) == len(names):
            names = list(self.channels)
        self._reader, self._mixdown = FrameReader(frame), Mixdown(names, frame.sample_rate)
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        self._floats, self._rate = is_float(frame), frame.sample_rate
        self._at, self._next_s = round(now * RATE), now

    def _mix(self) -> None:
        """Mixes and resamples what is held."""
        if not self._held or self._mixdown is None:
            return
        samples_CN = self._held[0] if len(self._held) == 1 else np.concatenate(self._held, axis=1)
        self._held, self._held_samples = [], 0
        mono_N = self._mixdown.mix(self._checked(samples_CN) if self._floats else samples_CN)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono_N[None]), format="flt", layout="mono")
        frame.sample_rate = self._rate
        self._resample(frame)

    def _checked(self, samples_CN: np.ndarray) -> np.ndarray:
        """Floating-point samples at full scale 1, without values that are no numbers or beyond anything recorded."""
        if self.scale != 1:
            samples_CN = samples_CN / np.float32(self.scale)
        if (
            samples_CN.max(initial=0) <= LIMIT
            and samples_CN.min(initial=0) >= -LIMIT
            and not np.isnan(samples_CN).any()
        ):
            return samples_CN
        finite = np.isfinite(samples_CN)
        samples_CN = np.where(finite, samples_CN, np.float32(0))
        self.not_finite += int(finite.size - np.count_nonzero(finite))
        self.clipped += int(np.count_nonzero(np.abs(samples_CN) > LIMIT))
        return np.clip(samples_CN, -LIMIT, LIMIT)

    def _resample(self, frame: av.AudioFrame | None) -> None:
        """Puts the mix of a block, or with None what the filter still holds, into the pieces."""
        resampler = self._resampler
        if resampler is None:
            return
        try:
            frames = resampler.resample(frame)
        except (FFmpegError, ValueError) as error:
            self._resampler = None  # FFmpeg's filter graph is in no state to be called again
            raise Unusable("corrupt", f"its sound of {self._rate} Hz cannot be resampled ({error})") from error
        for each in frames:
            samples = np.frombuffer(memoryview(each.planes[0]), np.float32, each.samples).copy()
            self._pieces.append((self._at, samples))
            self._at += len(samples)
            self.end_s = max(self.end_s, self._at / RATE)

    def finish(self) -> None:
        """Ends the sound, or the stretch before a gap."""
        self._mix()
        self._resample(None)
        if self._mixdown is not None:
            self.single_s += self._mixdown.cancelled / self._rate
        self._reader = self._mixdown = self._resampler = None

    @property
    def repairs(self) -> list[str]:
        """What was mended in the samples, for the manifest."""
        scaled = f"floating-point sound at the scale of integers: divided by {self.scale:g}" if self.scale != 1 else ""
        no_number = f"{self.not_finite} samples of its sound are no finite numbers: silence instead"
        beyond = f"{self.clipped} samples of its sound exceed {LIMIT:g} times full scale: clipped"
        return [*filter(None, (scaled, no_number * bool(self.not_finite), beyond * bool(self.clipped)))]

    @property
    def notes(self) -> list[str]:
        """What the manifest says of the mix."""
        said = f"its channels cancel each other, so for {self.single_s:.1f} s only the louder one was taken"
        return [said] if self.single_s else []

    def between(self, start_s: float, seconds: float) -> np.ndarray:
        """The sound of a stretch, float32 at 16 kHz; zero where there is none."""
        first, out = round(start_s * RATE), np.zeros(round(seconds * RATE), np.float32)
        for at, samples in self._pieces:
            low, high = max(at, first), min(at + len(samples), first + len(out))
            if low < high:
                out[low - first : high - first] = samples[low - at : high - at]
        return out

    def forget(self, before_s: float) -> None:
        """Drops the pieces that end before a time."""
        self._pieces = [(at, samples) for at, samples in self._pieces if (at + len(samples)) / RATE > before_s]
