"""Annotated objects of a frame (box or mask), and their pixel masks: of all sounding objects, or of each source."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class ObjectRegion:
    """Where one object is in one frame: a box in [0, 1] (left, top, right, bottom), a mask (PNG bytes), or both."""

    label: str
    sounding: bool = True
    frame: int = 0
    box_xyxy: tuple[float, float, float, float] | None = None
    mask: bytes | None = None
    weight: float = 1.0  # of its pixels in a truth of several annotators: 1 where two agree, 0.5 where one is alone

    def __post_init__(self) -> None:
        if self.weight not in (0.5, 1.0):
            raise ValueError(f"a region's weight is 1 or 0.5, not {self.weight}")


def encode_png(pixels: np.ndarray) -> bytes:
    """A picture as the bytes of a PNG file.

    Args:
        pixels: uint8 (Y, X, 3) or (Y, X), or bool (Y, X), which becomes a PNG of one bit a pixel.
    """
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def encode_mask(mask_YX: np.ndarray) -> bytes:
    """A bool mask as the bytes of an 8-bit PNG file, 255 where it is true."""
    return encode_png(np.where(mask_YX, 255, 0).astype(np.uint8))


def union_mask(region_lists: list[list[dict[str, Any]]], size: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Union masks (N, Y, X) of the sounding regions of frame 0, the pixels beside them that one annotator alone has
    (None where no clip has any), and which clips have either."""
    masks_NYX = np.zeros((len(region_lists), size, size), bool)
    single: dict[int, np.ndarray] = {}
    for row, regions in enumerate(region_lists):
        for region in filter(_heard, regions or []):
            mask_YX = region_mask(region["box_xyxy"], region["mask"], size)
            if region["weight"] < 1:
                single[row] = single[row] | mask_YX if row in single else mask_YX
            else:
                masks_NYX[row] |= mask_YX
    known_N = np.asarray(masks_NYX.any(axis=(1, 2)))
    single = {row: mask_YX & ~masks_NYX[row] for row, mask_YX in single.items()}
    if not any(mask_YX.any() for mask_YX in single.values()):
        return masks_NYX, None, known_N
    halves_NYX = np.zeros_like(masks_NYX)
    for row, mask_YX in single.items():
        halves_NYX[row] = mask_YX
    return masks_NYX, halves_NYX, known_N | halves_NYX.any(axis=(1, 2))


def has_no_sounding_object(region_lists: list[list[dict[str, Any]]]) -> np.ndarray:
    """Clips (N,) whose objects are annotated and all silent."""
    return np.array([bool(of) and not any(region["sounding"] for region in of) for of in region_lists], bool)


def _heard(region: dict[str, Any]) -> bool:
    """Whether it is a sounding region of frame 0."""
    return bool(region["sounding"] and region["frame"] == 0)


def region_mask(box_xyxy: Sequence[float] | None, mask: bytes | None, size: int) -> np.ndarray:
    """A region as a bool mask (size, size); the mask wins where there is both a mask and a box."""
    if mask is not None:
        image = Image.open(io.BytesIO(mask)).convert("L")
        return np.asarray(image.resize((size, size), Image.Resampling.BOX)) > 127
    return np.zeros((size, size), bool) if box_xyxy is None else box_mask(box_xyxy, size, size)


def box_mask(box_xyxy: Sequence[float], height: int, width: int) -> np.ndarray:
    """A box in [0, 1] (left, top, right, bottom) as a bool mask (height, width); edges are rounded to whole pixels."""
    left, right = (round(float(edge) * width) for edge in (box_xyxy[0], box_xyxy[2]))
    top, bottom = (round(float(edge) * height) for edge in (box_xyxy[1], box_xyxy[3]))
    out_YX = np.zeros((height, width), bool)
    out_YX[max(top, 0) : max(bottom, top + 1), max(left, 0) : max(right, left + 1)] = True
    return out_YX


def masks_by_source(region_lists: list[list[dict[str, Any]]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, S, Y, X) and labels (N, S) of the sounding sources of frame 0, ordered by label; clips with fewer of
    them have empty ones last.

    A label is a source: its regions are one mask (no set of duets has two sources of one class in a frame). Regions
    without a label are a source each; pixels that one annotator alone has are of none.
    """
    found: list[dict[tuple[str, int], np.ndarray]] = []
    for regions in region_lists:
        of: dict[tuple[str, int], np.ndarray] = {}
        for place, region in enumerate(regions or []):
            if _heard(region) and region["weight"] == 1:
                mask_YX = region_mask(region["box_xyxy"], region["mask"], size)
                key = (region["label"], 0) if region["label"] else ("", place)
                of[key] = of[key] | mask_YX if key in of else mask_YX
        found.append({key: of[key] for key in sorted(of) if of[key].any()})
    most = max([1, *map(len, found)])
    masks_NSYX, label_NS = np.zeros((len(found), most, size, size), bool), np.full((len(found), most), "", object)
    for row, sources in enumerate(found):
        for place, ((label, _), mask_YX) in enumerate(sources.items()):
            masks_NSYX[row, place], label_NS[row, place] = mask_YX, label
    return masks_NSYX, label_NS.astype(str)
