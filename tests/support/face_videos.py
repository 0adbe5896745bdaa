"""Films with a real face in them, put where the test says, and a stand-in for a face detector that is a network."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.support.make_videos import _sound_packets

# The face of scikit-image's astronaut, as three cascades of OpenCV agree on it: corner and side, in shares of HEAD.
HEAD = (80, 0, 380, 300)  # left, top, right, bottom in the photograph
FACE, SIDE = (0.322, 0.219), 0.327
GREY = 90

Places = Callable[[float], list[tuple[int, int, int]]]  # at a time: left, top and side of each head


@lru_cache
def head(side: int) -> np.ndarray:
    """The astronaut's head as a square of so many pixels; uint8 YX3."""
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).crop(HEAD).resize((side, side), Image.Resampling.BOX))


def box(left: float, top: float, side: float) -> np.ndarray:
    """Where the face of a head is: left, top, right, bottom in pixels."""
    x, y = left + FACE[0] * side, top + FACE[1] * side
    return np.array([x, y, x + SIDE * side, y + SIDE * side])


def picture(heads: list[tuple[int, int, int]], size: tuple[int, int]) -> np.ndarray:
    """Heads on grey; uint8 YX3."""
    canvas = np.full((size[1], size[0], 3), GREY, np.uint8)
    for left, top, side in heads:
        part = head(side)[max(0, -top) : size[1] - top, max(0, -left) : size[0] - left]
        y, x = max(0, top), max(0, left)
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return canvas


def talk(
    path: Path,
    places: Places,
    seconds: float = 2.0,
    *,
    fps: Fraction | int = 25,
    rate: int = 16_000,
    layout: str = "mono",
    size: tuple[int, int] = (160, 128),
    codecs: tuple[str, str] = ("libx264", "aac"),
) -> Path:
    """A film with heads at the places of each time, and a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codecs[0], rate=fps)
        video.width, video.height, video.pix_fmt, video.bit_rate = *size, "yuv420p", 2_000_000
        audio = container.add_stream(codecs[1], rate=rate, layout=layout)
        packets = []
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(picture(places(float(number / fps)), size), format="rgb24")
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            packets += video.encode(frame)
        packets += video.encode(None) + _sound_packets(audio, seconds, rate, layout, None, 0.2, 0.0)
        for packet in packets:
            container.mux(packet)
    return path
