"""Decoded video frames as 8-bit sRGB: colour matrix and range, and for HDR and wide gamuts transfer and primaries too.

Codes are those of ITU-T H.273, as FFmpeg's frames have them.
"""

from __future__ import annotations

import functools

import av
import numpy as np
from av.error import FFmpegError

from raymix.data.media import UnusableMediaError

UNSPECIFIED = 2

BT709, BT601, BT2020, CHROMA_DERIVED = 1, 5, 9, 12  # matrices; 1 and 9 are the same numbers as primaries

KNOWN = (BT709, 4, BT601, 6, 7, BT2020)  # to FFmpeg's scaler

UNKNOWN = (8, 10, 11, 13, 14, 15, 16, 17)  # YCgCo, constant luminance, ICtCp ...

LIMITED = 1  # range of 16 to 235 of 255

PQ, HLG = 16, 18  # transfer functions

PQ_NITS, WHITE_NITS = 10_000.0, 203.0  # BT.2408: luminance of SDR white in PQ

HLG_WHITE = 0.265  # scene light of SDR white, which is 75 % of the signal

HD_LINES = 720  # from so many on, video without a statement is BT.709, as players take it

# Chromaticities (x, y) of red, green and blue; all have the white point D65 but for DCI's.
_D65, _DCI_WHITE = (0.3127, 0.3290), (0.314, 0.351)

PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),  # BT.2020
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI_WHITE),  # DCI-P3
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),  # Display P3
}

TRANSFER_NAMES = {PQ: "PQ", HLG: "HLG"}

KNEE = 0.8  # of SDR white, in linear light: below it nothing is changed

PEAK = 1000 / WHITE_NITS  # linear light that becomes white


def is_hdr(frame: av.VideoFrame) -> bool:
    """Whether a frame has a transfer function of high dynamic range."""
    return frame.color_trc in (PQ, HLG)


def resize_to_srgb(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """A frame at this size (px) in sRGB, uint8 of shape (height, width, 3), resampled by area.

    Raises Unusable for a colour matrix that FFmpeg's scaler does not know.
    """
    transfer, primaries, matrix = frame.color_trc, frame.color_primaries, _matrix(frame)
    mapped = transfer in TRANSFER_NAMES or (primaries != 1 and primaries in PRIMARIES)
    # only matrix and range are left to the scaler: what it does about the rest depends on its version
    frame.color_trc = frame.color_primaries = UNSPECIFIED
    form = "rgb48le" if mapped else "rgb24"
    try:
        small = frame.reformat(width, height, form, matrix, matrix, interpolation="AREA").to_ndarray()
    except FFmpegError as error:
        raise UnusableMediaError(
            "no video", f"its frames ({frame.format.name}) cannot be converted to RGB ({error})"
        ) from error
    frame.color_trc, frame.color_primaries = transfer, primaries
    if frame.format.name.startswith("gray") and frame.color_range == LIMITED:
        small = _expanded(small)  # the scaler takes grey frames for full range, whatever they say
    return to_srgb(small, transfer, primaries) if mapped else small


def _matrix(frame: av.VideoFrame) -> int | None:
    """The matrix that the frame is to be converted with, as the scaler counts them; None is the frame's own."""
    matrix = frame.colorspace
    if frame.format.is_rgb or matrix in KNOWN:
        return None
    if matrix == CHROMA_DERIVED:
        return BT2020 if frame.color_primaries == BT2020 else BT709
    if matrix in UNKNOWN:
        raise UnusableMediaError(
            "no video", f"its colour matrix (number {matrix} of ITU-T H.273) cannot be converted to RGB"
        )
    return BT709 if frame.height >= HD_LINES else BT601


def to_srgb(rgb_YX3: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Full-range RGB (uint16) of these transfer function and primaries as sRGB with BT.709's primaries, uint8.

    PQ has SDR white at 203 nits, HLG at 75 % of the signal (its scene light is taken, without a system gamma); light from
    0.8 of white up to 1000 nits is compressed into the rest of the range. Any other transfer function is taken for sRGB's.
    """
    light_YX3 = _light(transfer)[rgb_YX3]
    if primaries in PRIMARIES and primaries != 1:
        light_YX3 = light_YX3 @ _to_bt709(primaries).T
    light_YX3 = np.maximum(light_YX3, 0)
    if transfer in TRANSFER_NAMES:
        light_YX3 = _compressed(light_YX3)
    signal_YX3 = np.where(
        light_YX3 <= 0.0031308, 12.92 * light_YX3, 1.055 * np.maximum(light_YX3, 1e-9) ** (1 / 2.4) - 0.055
    )
    return (np.clip(signal_YX3, 0, 1) * 255 + 0.5).astype(np.uint8)


def _compressed(light_YX3: np.ndarray) -> np.ndarray:
    """Light above the knee, by the largest of the three components so that hues stay."""
    top_YX1 = light_YX3.max(axis=2, keepdims=True)
    over, most = np.maximum(top_YX1 - KNEE, 0) / (1 - KNEE), (PEAK - KNEE) / (1 - KNEE)
    shoulder = KNEE + (1 - KNEE) * over * (1 + over / most**2) / (1 + over)
    return np.where(top_YX1 > KNEE, light_YX3 * shoulder / np.maximum(top_YX1, 1e-9), light_YX3)


@functools.cache
def _light(transfer: int) -> np.ndarray:
    """Linear light, 1 for SDR white, of each of the 65,536 values of a signal; float32."""
    signal = np.arange(1 << 16) / 65535
    if transfer == PQ:  # SMPTE ST 2084
        power = signal ** (1 / 78.84375)
        light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        light *= PQ_NITS / WHITE_NITS
    elif transfer == HLG:  # ARIB STD-B67
        high = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(signal <= 0.5, signal**2 / 3, high) / HLG_WHITE
    else:
        light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


@functools.cache
def _to_bt709(primaries: int) -> np.ndarray:
    """The matrix that takes linear RGB of these primaries to that of BT.709; white stays white."""
    return (np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries)).astype(np.float32)


def _to_xyz(primaries: int) -> np.ndarray:
    *corners, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in PRIMARIES[primaries])
    columns = np.stack(corners, axis=1)
    # each is adapted to D65 by scaling XYZ: only DCI's white is another one
    adapted = _white_d65() / white
    return adapted[:, None] * columns * np.linalg.solve(columns, white)


def _white_d65() -> np.ndarray:
    x, y = _D65
    return np.array([x / y, 1, (1 - x - y) / y])


def _expanded(image_YX3: np.ndarray) -> np.ndarray:
    """Limited range (16 to 235 of 255) as full range, of the same type."""
    top = np.iinfo(image_YX3.dtype).max
    full = (image_YX3 / top * 255 - 16) / 219
    return (np.clip(full, 0, 1) * top + 0.5).astype(image_YX3.dtype)
