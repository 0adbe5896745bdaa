"""DSOL's boxes of MUSIC test videos (Tables 1 and 3): `solotest.json` and `duettest.json`, as published and mended.

Keys are "ID_0_1000/frame_013/00411.jpg": the second, and the number of the frame in the whole video at 30 frames a second,
so this is the frame at 411 / 30 = 13.7 s whatever rate a download has. (A number below 30 is taken as counted from the
second on, which for the second 0 is the same.) Values are {"bbox": [{"normbox": [left, top, width, height], "box": the
same in px, "category_id": 1}], "wdith": 640, "height": 360}, misspelt as here. Frames without a box were looked at, and
nothing in them sounds.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

INSTRUMENTS = {
    1: "cello", 3: "acoustic_guitar", 8: "saxophone", 10: "trumpet", 11: "violin", 12: "flute", 13: "accordion",
}  # fmt: skip
RATE = 30  # frames per second that the numbers count
REACH_S = 0.15  # boxes hold for so long before and after their time, but never beyond half way to the next
SLACK = 0.001  # of a frame, that a box may reach beyond it
ROUNDING = 0.01  # of a frame, between a box and the same in px
KEY = re.compile(r"(?P<video>.+)_\d+_\d+/frame_(?P<second>\d+)/(?P<frame>\d+)\.jpg")


@dataclass(frozen=True)
class Track:
    """The annotated frames of one video: time (s) -> boxes (label, left, top, right, bottom in [0, 1]), in time."""

    frames: dict[float, tuple[tuple[str, list[float]], ...]]
    repairs: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The instruments that have boxes."""
        return tuple(sorted({label for boxes in self.frames.values() for label, _ in boxes}))

    @property
    def regions(self) -> tuple[dict[str, Any], ...]:
        """Entries of the region sidecar: each box for the time that is nearer to its frame than to another one."""
        times, found = list(self.frames), []
        for place, time_s in enumerate(times):
            low = max(time_s - REACH_S, (times[place - 1] + time_s) / 2 if place else 0.0)
            high = min(time_s + REACH_S, (times[place + 1] + time_s) / 2 if place + 1 < len(times) else math.inf)
            for label, box in self.frames[time_s]:
                found.append({"label": label, "sounding": True, "box": box, "from_s": low, "to_s": high})
        return tuple(found)

    def near(self, seconds: float, stride_s: float) -> tuple[float, ...]:
        """The annotated times nearest to the middles of clips of so many seconds, one every `stride_s` where there is one."""
        times, chosen, number = list(self.frames), dict[float, None](), 0
        while times and seconds / 2 + (number - 0.5) * stride_s <= times[-1]:
            middle = seconds / 2 + number * stride_s
            nearest_s = min(times, key=lambda time_s: abs(time_s - middle))
            if abs(nearest_s - middle) <= max(stride_s, seconds) / 2:
                chosen[nearest_s] = None
            number += 1
        return tuple(chosen)


def video_of(key: str) -> str:
    """The id of the video that a key is about, '' if it is no such key."""
    match = KEY.fullmatch(key)
    return match["video"] if match else ""


def read_tracks(known: Any, where: str) -> dict[str, Track]:
    """The annotated frames of each video; what cannot be right leaves its frame out. ValueError for another file."""
    if not isinstance(known, dict) or not known:
        raise ValueError(f"{where}: expected boxes by frame, found {json.dumps(known)[:60]}")
    frames: dict[str, dict[float, tuple[tuple[str, list[float]], ...]]] = {}
    repairs: dict[str, list[str]] = {}
    for key, value in known.items():
        match = KEY.fullmatch(key)
        if not match or not isinstance(value, dict) or not isinstance(value.get("bbox"), list):
            expected = 'expected "ID_0_1000/frame_013/00411.jpg": {"bbox": [...]}'
            raise ValueError(f"{where}: {expected}, found {json.dumps({key: value})[:80]}")
        of, wrong = frames.setdefault(match["video"], {}), repairs.setdefault(match["video"], [])
        second, frame = int(match["second"]), int(match["frame"])
        boxes = [_box(each, value) for each in value["bbox"]]
        faults = [box for box in boxes if isinstance(box, str)]
        if frame // RATE not in (second, 0):
            faults.append(f"frame {frame} is not of second {second} at {RATE} frames a second")
        if faults:
            wrong.append(f"frame_{match['second']}/{match['frame']}.jpg left out: {faults[0]}")
        else:
            time_s = round(second + frame % RATE / RATE, 6)
            of[time_s] = tuple(box for box in boxes if not isinstance(box, str))
    return {name: Track(dict(sorted(of.items())), tuple(sorted(repairs[name]))) for name, of in frames.items()}


def _box(known: Any, frame: dict[str, Any]) -> tuple[str, list[float]] | str:
    """Label and edges (left, top, right, bottom) of one box, or what is wrong with it."""
    if not isinstance(known, dict):
        return f"no box: {json.dumps(known)[:40]}"
    category = known.get("category_id")
    label = INSTRUMENTS.get(category) if isinstance(category, int) else None
    if label is None:
        return f"no instrument has category_id {json.dumps(category)[:40]}"
    pixels, scaled = _numbers(known.get("box")), None
    sides = _numbers([frame.get("wdith", frame.get("width")), frame.get("height"), 1, 1])
    if pixels and sides and min(sides) > 0:
        scaled = [edge / sides[place % 2] for place, edge in enumerate(pixels)]
    shares = _numbers(known.get("normbox")) or scaled
    if shares is None:
        return f"no four numbers: {json.dumps(known.get('normbox'))[:60]}"
    if scaled and max(abs(a - b) for a, b in zip(shares, scaled, strict=True)) > ROUNDING:
        return f"box {known['box']} px is not normbox {shares}"
    left, top, width, height = shares
    if width <= 0 or height <= 0:
        return f"a box without area: {shares}"
    edges = [left, top, left + width, top + height]
    if min(edges) < -SLACK or max(edges) > 1 + SLACK:
        return f"a box beyond its frame: {shares}"
    return label, [min(max(edge, 0.0), 1.0) for edge in edges]


def _numbers(known: Any) -> list[float] | None:
    """Four finite numbers, or None."""
    right = isinstance(known, list) and len(known) == 4
    if not right or not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in known):
        return None
    return [float(number) for number in known]
