"""From decoded audio frames of any sample format and channel layout to one channel of float32 samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import av
import numpy as np

from raymix.datasets.source import Unusable

# Weights of ITU-R BS.775 for a mix to one channel; heights count as surrounds, and low-frequency effects are left out.
_FRONT, _CENTRE, _SURROUND = 0.5**0.5, 1.0, 0.5
WEIGHTS = {
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


def is_float(frame: av.AudioFrame) -> bool:
    """Whether the samples of a frame are floating-point numbers, which may have any value."""
    return frame.format.packed.name in ("flt", "dbl")


class FrameReader:
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


def weights(names: Sequence[str]) -> np.ndarray:
    """The share of each channel in the mix, float32, with the sum 1.

    Channels of loudspeakers have those of ITU-R BS.775, an ambisonic recording consists of its channel W. Where the
    place of a channel is unknown, all have the same share.
    """
    if OMNIDIRECTIONAL in names:
        share_C = np.array([name == OMNIDIRECTIONAL for name in names], np.float32)
    elif all(name in WEIGHTS for name in names):
        share_C = np.array([WEIGHTS[name] for name in names], np.float32)
    else:
        share_C = np.ones(len(names), np.float32)
    if not share_C.any():
        share_C[:] = 1.0
    return share_C / share_C.sum()


class Mixdown:
    """Mixes channels to one; where they cancel each other, the louder one alone is taken.

    Args:
        names: FFmpeg's names of the channels.
        rate: samples a second.
    """

    def __init__(self, names: Sequence[str], rate: int) -> None:
        self.share_C, self.fade = weights(names), max(1, round(FADE_S * rate))
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


def integer_scale(blocks: Iterable[np.ndarray]) -> float:
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
    raise Unusable("corrupt", f"its sound has values up to 2^{largest}, which no sample format has")
