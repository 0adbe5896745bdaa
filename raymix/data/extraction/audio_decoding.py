"""Audio of any sample format, rate and channel layout as 16 kHz mono, each piece at its time stamp.

The channels are mixed first, in blocks; the mix is resampled once, by FFmpeg's swresample with its default filter
(linear-phase windowed sinc), which never sees more than one channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.error import FFmpegError

from raymix.data.extraction.clip_plan import SAMPLE_RATE
from raymix.data.media import UnusableMediaError

# Weights of ITU-R BS.775 for a mix to one channel; heights count as surrounds, and low-frequency effects are left out.
_FRONT, _CENTRE, _SURROUND = 0.5**0.5, 1.0, 0.5

CHANNEL_WEIGHTS = {
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "WL", "WR", "DL", "DR"), _FRONT),
    "FC": _CENTRE,
    **dict.fromkeys(("BL", "BR", "BC", "SL", "SR", "SDL", "SDR", "SSL", "SSR", "TTL", "TTR"), _SURROUND),
    **dict.fromkeys(("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR", "TSL", "TSR", "BFL", "BFC", "BFR"), _SURROUND),
    "LFE": 0.0,
    "LFE2": 0.0,
}

OMNIDIRECTIONAL = "AMBI0"  # channel W of an ambisonic recording

CANCELS, ADDS = 0.05, 0.1  # power of the mix over that of the same channels without correlation: below, above again

SAME = 0.5  # a channel with so much of the power of the loudest one need not give way to it

FADE_S = 0.01

LIMIT = 8.0  # times full scale: nothing that was recorded is louder

LOUD_SHARE, BEYOND_SHARE = 0.01, 0.001  # of the samples that are not zero, and of those beyond the limit

INTEGER_BITS = (15, 23, 31)  # full scale of integers of 16, 24 and 32 bits is 2 to this power

PLANES = 8  # PyAV reads beyond the end of FFmpeg's list of planes where there are so many or more

_TYPES: dict[str, tuple[type[np.generic], float]] = {
    "u8": (np.uint8, 2.0**7),
    "s16": (np.int16, 2.0**15),
    "s32": (np.int32, 2.0**31),
    "s64": (np.int64, 2.0**63),
    "flt": (np.float32, 1.0),
    "dbl": (np.float64, 1.0),
}


def has_float_samples(frame: av.AudioFrame) -> bool:
    """Whether the samples of a frame are floating-point numbers, which may have any value."""
    return frame.format.packed.name in ("flt", "dbl")


class AudioFrameReader:
    """Reads the samples of frames that are all of one format and layout."""

    def __init__(self, frame: av.AudioFrame) -> None:
        self._type, self._full = _TYPES[frame.format.packed.name]
        many = frame.format.is_planar and frame.layout.nb_channels >= PLANES
        self._packer = av.AudioResampler(format=frame.format.packed) if many else None

    def read(self, frame: av.AudioFrame) -> np.ndarray:
        """The samples of a frame, float32 of shape (channels, samples); integers are scaled to -1 to 1."""
        count, length = frame.layout.nb_channels, frame.samples
        if self._packer is not None:
            (frame,) = self._packer.resample(frame)
        if frame.format.is_planar:
            stored_CN = np.stack([np.frombuffer(memoryview(plane), self._type, length) for plane in frame.planes])
        else:
            stored = np.frombuffer(memoryview(frame.planes[0]), self._type, count * length)
            stored_CN = stored.reshape(length, count).T
        with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes infinite, and is counted
            samples_CN = stored_CN.astype(np.float32)
        if self._full != 1:
            samples_CN *= np.float32(1 / self._full)
        return samples_CN - np.float32(1) if self._type is np.uint8 else samples_CN


def channel_weights(names: Sequence[str]) -> np.ndarray:
    """The share of each channel in the mix, float32, with the sum 1.

    Channels of loudspeakers have those of ITU-R BS.775, an ambisonic recording consists of its channel W. Where the
    place of a channel is unknown, all have the same share.
    """
    if OMNIDIRECTIONAL in names:
        share_C = np.array([name == OMNIDIRECTIONAL for name in names], np.float32)
    elif all(name in CHANNEL_WEIGHTS for name in names):
        share_C = np.array([CHANNEL_WEIGHTS[name] for name in names], np.float32)
    else:
        share_C = np.ones(len(names), np.float32)
    if not share_C.any():
        share_C[:] = 1.0
    return share_C / share_C.sum()


class ChannelMixdown:
    """Mixes channels to one; where they cancel each other, the louder one alone is taken.

    Args:
        names: FFmpeg's names of the channels.
        rate: samples a second.
    """

    def __init__(self, names: Sequence[str], rate: int) -> None:
        self.share_C, self.fade = channel_weights(names), max(1, round(FADE_S * rate))
        self.cancelled = 0  # samples for which a single channel was taken
        self._single: int | None = None

    def mix(self, samples_CN: np.ndarray) -> np.ndarray:
        """One block of the sound, float32 of shape (samples,); blocks follow each other in time."""
        if len(self.share_C) == 1:
            return samples_CN[0]
        mixed_N, before = self.share_C @ samples_CN, self._single
        if np.count_nonzero(self.share_C) > 1:
            self._single = self._choose(samples_CN, mixed_N)
        out_N = mixed_N if self._single is None else samples_CN[self._single]
        if before != self._single:
            old_N = mixed_N if before is None else samples_CN[before]
            ramp = np.linspace(0, 1, min(self.fade, len(out_N)), dtype=np.float32)
            out_N = out_N.copy()
            out_N[: len(ramp)] = ramp * out_N[: len(ramp)] + (1 - ramp) * old_N[: len(ramp)]
        self.cancelled += len(out_N) * (self._single is not None)
        return out_N

    def _choose(self, samples_CN: np.ndarray, mixed_N: np.ndarray) -> int | None:
        """The channel to take alone for this block, None for the mix."""
        power_C = np.einsum("cn,cn->c", samples_CN, samples_CN) * (self.share_C > 0)
        apart = float(self.share_C**2 @ power_C)
        if apart == 0:
            return self._single  # silence
        if float(mixed_N @ mixed_N) >= (CANCELS if self._single is None else ADDS) * apart:
            return None
        if self._single is not None and power_C[self._single] >= SAME * power_C.max():
            return self._single
        return int(power_C.argmax())


def detect_integer_scale(blocks: Iterable[np.ndarray]) -> float:
    """What floating-point samples are to be divided by: 1, or the full scale of the integers that they were made of.

    Sound that is not scaled to -1 to 1 has most of its samples far beyond that; single ones are faults, and are clipped.
    Raises Unusable where the values are larger than those of any integer format.
    """
    offset = 1100  # the exponents of float64 lie within
    count_E = np.zeros(2 * offset, np.int64)  # of samples by the exponent of 2 that is just above them
    for block in blocks:
        finite = block[np.isfinite(block) & (block != 0)]
        count_E += np.bincount(np.frexp(finite)[1] + offset, minlength=2 * offset)
    beyond = [int(count_E[offset + exponent + 1 :].sum()) for exponent in (3, *(bits + 1 for bits in INTEGER_BITS))]
    loud = beyond[0]
    if loud <= LOUD_SHARE * count_E.sum():
        return 1.0
    for bits, above in zip(INTEGER_BITS, beyond[1:], strict=True):
        if above <= BEYOND_SHARE * loud:
            return 2.0**bits
    largest = int(np.flatnonzero(count_E)[-1]) - offset
    raise UnusableMediaError("corrupt", f"its sound has values up to 2^{largest}, which no sample format has")


GAP_S = 0.04  # time stamps may wobble this much (some containers round them) before it is a gap

BLOCK_S = 0.5  # so much is mixed at a time


@dataclass
class AudioTrack:
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
    _reader: AudioFrameReader | None = None
    _mixdown: ChannelMixdown | None = None
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
        self._reader, self._mixdown = AudioFrameReader(frame), ChannelMixdown(names, frame.sample_rate)
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        self._floats, self._rate = has_float_samples(frame), frame.sample_rate
        self._at, self._next_s = round(now * SAMPLE_RATE), now

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
            raise UnusableMediaError(
                "corrupt", f"its sound of {self._rate} Hz cannot be resampled ({error})"
            ) from error
        for each in frames:
            samples = np.frombuffer(memoryview(each.planes[0]), np.float32, each.samples).copy()
            self._pieces.append((self._at, samples))
            self._at += len(samples)
            self.end_s = max(self.end_s, self._at / SAMPLE_RATE)

    def finish(self) -> None:
        """Ends the sound, or the stretch before a gap."""
        self._mix()
        self._resample(None)
        if self._mixdown is not None:
            self.single_s += self._mixdown.cancelled / self._rate
        self._reader = self._mixdown = self._resampler = None

    @property
    def repairs(self) -> list[str]:
        """What was repaired in the samples, for the manifest."""
        scaled = f"floating-point sound at the scale of integers: divided by {self.scale:g}" if self.scale != 1 else ""
        no_number = f"{self.not_finite} samples of its sound are no finite numbers: silence instead"
        beyond = f"{self.clipped} samples of its sound exceed {LIMIT:g} times full scale: clipped"
        return [*filter(None, (scaled, no_number * bool(self.not_finite), beyond * bool(self.clipped)))]

    @property
    def notes(self) -> list[str]:
        """What the manifest says of the mix."""
        note = f"its channels cancel each other, so for {self.single_s:.1f} s only the louder one was taken"
        return [note] if self.single_s else []

    def between(self, start_s: float, seconds: float) -> np.ndarray:
        """The sound of a stretch, float32 at 16 kHz; zero where there is none."""
        first, out = round(start_s * SAMPLE_RATE), np.zeros(round(seconds * SAMPLE_RATE), np.float32)
        for at, samples in self._pieces:
            low, high = max(at, first), min(at + len(samples), first + len(out))
            if low < high:
                out[low - first : high - first] = samples[low - at : high - at]
        return out

    def forget(self, before_s: float) -> None:
        """Drops the pieces that end before a time."""
        self._pieces = [(at, samples) for at, samples in self._pieces if (at + len(samples)) / SAMPLE_RATE > before_s]
