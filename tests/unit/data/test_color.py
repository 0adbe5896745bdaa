"""Stored pictures are sRGB, whatever matrix, range, transfer function and primaries a video has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raymix.data.extraction import color
from raymix.data.media import UnusableMediaError
from tests.support.numbered_videos import CORNERS, HIGH, WIDE, Picture, Sounding, corners_of, cuts, tones, write

SOUND = Sounding(tones(1)[None])
SHARES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
# from the linear RGB of BT.709: BT.2087 and, for Display P3, SMPTE EG 432-1
TO = {
    9: np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]),
    12: np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]]),
}


def linear(picture: np.ndarray) -> np.ndarray:
    value = picture / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def coded(light: np.ndarray, transfer: int) -> np.ndarray:
    """The signal of linear light, 1 for SDR white: PQ with white at 203 nits, HLG with white at 75 %, or sRGB."""
    if transfer == 16:
        y = (203 * light / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    if transfer == 18:
        e = light * 0.265
        return np.where(
            e <= 1 / 12, np.sqrt(3 * e), 0.17883277 * np.log(np.maximum(12 * e - 0.28466892, 1e-9)) + 0.55991073
        )
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def planes(each: Picture, light_factor: float = 1.0):
    """A function from an RGB picture to the planes of a frame."""

    def made(rgb: np.ndarray) -> list[np.ndarray]:
        light = linear(rgb) @ TO[each.primaries].T if each.primaries in TO else linear(rgb)
        signal = coded(light_factor * light, each.transfer)
        red, green, blue = np.moveaxis(signal, 2, 0)
        kr, kb = SHARES[each.matrix]
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        chroma = [(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))]
        step, top = 2 ** (each.bits - 8), 2**each.bits - 1
        values = [luma * top if each.full else (219 * luma + 16) * step]
        if not each.pixels.startswith("gray"):
            values += [c * (top if each.full else 224 * step) + 128 * step for c in chroma]
        if "420" in each.pixels:
            values[1:] = [c.reshape(HIGH // 2, 2, WIDE // 2, 2).mean(axis=(1, 3)) for c in values[1:]]
        return [np.clip(v.round(), 0, top).astype("u1" if each.bits == 8 else "<u2") for v in values]

    return made


def stored(path: Path, light_factor: float = 1.0, **of) -> tuple[np.ndarray, str]:
    """The corners of the stored picture of a video, and the reason in its row."""
    each = Picture("ffv1", frames=10, options={}, **of)
    each.planes = planes(each, light_factor)
    (cut,), entry = cuts(write(path / "x.mkv", [each], [SOUND]))
    return corners_of(cut.frames[0]), entry.reason


@pytest.mark.parametrize("matrix", [1, 5, 6, 9, 2])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixels", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv420p10le", 10), ("yuv444p16le", 16)])
def test_matrices_and_ranges(tmp_path: Path, matrix: int, full: bool, pixels: str, bits: int) -> None:
    found, reason = stored(tmp_path, pixels=pixels, bits=bits, matrix=matrix, full=full)
    assert np.abs(found - CORNERS).max() <= 4 and reason == ""


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixels", "bits"), [("gray", 8), ("gray10le", 10)])
def test_grey_films(tmp_path: Path, full: bool, pixels: str, bits: int) -> None:
    found, _ = stored(tmp_path, pixels=pixels, bits=bits, matrix=1, full=full)
    assert np.abs(found - (CORNERS @ [0.2126, 0.7152, 0.0722])[:, None]).max() <= 2


@pytest.mark.parametrize("pixels", ["bgr0", "gbrp10le"])
def test_rgb_films(tmp_path: Path, pixels: str) -> None:
    each = Picture("ffv1", pixels, 10, options={}, full=True)
    (cut,), _ = cuts(write(tmp_path / "x.mkv", [each], [SOUND]))
    assert np.abs(corners_of(cut.frames[0]) - CORNERS).max() <= 2


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("primaries", [9, 12])
def test_high_dynamic_range(tmp_path: Path, transfer: int, name: str, full: bool, primaries: int) -> None:
    more = {"pixels": "yuv420p10le", "bits": 10, "matrix": 9, "full": full}
    found, reason = stored(tmp_path, transfer=transfer, primaries=primaries, **more)
    assert np.abs(found - CORNERS).max() <= 6
    assert reason == f"{name} video: colours mapped to sRGB"


@pytest.mark.parametrize("primaries", [9, 12])
def test_wide_gamuts_of_standard_range(tmp_path: Path, primaries: int) -> None:
    found, reason = stored(tmp_path, pixels="yuv420p10le", bits=10, matrix=9, primaries=primaries, transfer=1)
    assert np.abs(found - CORNERS).max() <= 5 and reason == ""


@pytest.mark.parametrize("transfer", [16, 18])
def test_light_above_white_is_compressed(transfer: int) -> None:
    """A ramp of grey from black to four times white stays a ramp, is not changed up to 0.8 of white, and keeps its hue."""
    light = np.linspace(0, 3.7, 200)
    signal = (np.clip(coded(light, transfer), 0, 1) * 65535).round().astype(np.uint16)
    ramp = color.to_srgb(np.repeat(signal[None, :, None], 3, 2), transfer, 1)[0].astype(int)
    assert (np.diff(ramp[:, 0]) >= 0).all() and (ramp[:, 0] == ramp[:, 2]).all()
    assert ramp[0, 0] == 0 and 235 <= ramp[np.searchsorted(light, 1), 0] <= 246 and ramp[-1, 0] >= 250
    dark = light < 0.8
    assert np.abs(ramp[dark, 0] - 255 * coded(light[dark], 1)).max() <= 1
    bright = (coded(np.array([[[3.0, 1.5, 0.3]]]), transfer) * 65535).astype(np.uint16)
    red, green, blue = linear(color.to_srgb(bright, transfer, 1)[0, 0].astype(float))
    assert red / green == pytest.approx(2, rel=0.05) and red / blue == pytest.approx(10, rel=0.1)


def test_the_matrices_of_primaries() -> None:
    for primaries, matrix in TO.items():
        assert color._to_bt709(primaries) @ matrix == pytest.approx(np.eye(3), abs=2e-3)
    assert color._to_bt709(11).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-4)  # white stays white


def test_untagged_films_of_high_definition_are_bt709(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(color, "HD_LINES", HIGH)
    monkeypatch.setitem(SHARES, 2, SHARES[1])
    found, _ = stored(tmp_path, pixels="yuv420p")
    assert np.abs(found - CORNERS).max() <= 4


def test_a_matrix_that_follows_from_the_primaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHARES, 12, SHARES[9])
    found, _ = stored(tmp_path, pixels="yuv420p10le", bits=10, matrix=12, primaries=9, transfer=16)
    assert np.abs(found - CORNERS).max() <= 6


@pytest.mark.parametrize("matrix", [8, 10, 14, 15])
def test_other_colour_spaces_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrix: int) -> None:
    monkeypatch.setitem(SHARES, matrix, SHARES[1])
    with pytest.raises(
        UnusableMediaError, match=f"its colour matrix .number {matrix} of ITU-T H.273. cannot be converted"
    ) as caught:
        stored(tmp_path, pixels="yuv444p", matrix=matrix)
    assert caught.value.status == "no video"
