"""From the decoded frames of a film the few that its clips show, turned and made smaller as they are met."""

from __future__ import annotations

import heapq
import math
import struct
from typing import Any

import av
import numpy as np

from raymix.datasets import color
from raymix.datasets.cutting import SLACK_S, TICK_S, Cut, Plan
from raymix.datasets.sound import Sound
from raymix.datasets.source import Entry


class Pictures:
    """Picks, for every cut, the frames that are on the screen in the middles of its n equal parts."""

    def __init__(self, plan: Plan, origin: float, ratio: float) -> None:
        self.plan, self.how, self.origin, self.ratio = plan, plan.how, origin, ratio
        self.end_s, self.count = 0.0, 0
        self._last: tuple[float, av.VideoFrame] | None = None
        self._turn = (
            0,
            False,
        )  # of the whole film, by its first frame: a frame that is asked is freed late, and costs memory
        self.hdr = ""  # the transfer function of a film of high dynamic range
        self.step_s = 0.0
        self._planned = 0  # cuts whose frames are wanted
        self._wanted: list[tuple[float, int, int]] = []  # heap of (time, cut, position)
        self._got: dict[int, dict[int, tuple[float, np.ndarray]]] = {}

    @property
    def now_s(self) -> float:
        return self._last[0] if self._last else 0.0

    def add(self, frame: av.VideoFrame, entry: Entry) -> None:
        if frame.is_corrupt:
            return
        before = self._last
        now = before[0] + self.step_s if before and frame.time is None else (frame.time or 0.0) - self.origin
        if before is None:
            self._turn = _turn(frame)
            self.hdr = color.NAMES.get(frame.color_trc, "")
            wide, high = _display_size(frame, self.ratio, self._turn[0])
            entry.width, entry.height, entry.rotation = wide, high, self._turn[0]
            self.step_s = 1 / entry.fps if entry.fps else 0.04
        elif now > before[0]:
            self.step_s = now - before[0]
        if before is None or now > before[0]:
            self.end_s = now + self.step_s
        self._last, self.count = (now, frame), self.count + 1
        self._plan(now)
        while self._wanted and self._wanted[0][0] < now - TICK_S:
            _, number, position = heapq.heappop(self._wanted)
            self._keep(number, position, before or self._last)

    def _plan(self, now: float) -> None:
        while self.plan.more(self._planned):
            moments = self.plan.moments(self._planned)
            if min(moments[0], self.plan.start(self._planned)) > now:
                return
            for position, moment in enumerate(moments):
                heapq.heappush(self._wanted, (moment, self._planned, position))
            self._planned += 1

    def _keep(self, number: int, position: int, chosen: tuple[float, av.VideoFrame]) -> None:
        image_YX3 = _picture(chosen[1], self.how.frame_size, self.ratio, self._turn)
        self._got.setdefault(number, {})[position] = (chosen[0], image_YX3)

    def finish(self) -> None:
        """At the end of the film its last frame stays on the screen, if need be for whole cuts."""
        self._plan(self.end_s + SLACK_S)
        for time_s, number, position in self._wanted:
            if self._last is not None and time_s <= self.end_s + SLACK_S:
                self._keep(number, position, self._last)

    def take(self, number: int, sound: Sound) -> Cut:
        """The cut of this number; what only earlier ones needed is forgotten."""
        start_s = self.plan.start(number)
        found = [pair for _, pair in sorted(self._got.pop(number).items())]
        wave = sound.between(start_s, self.how.seconds)
        if self.plan.more(number + 1):
            sound.forget(self.plan.start(number + 1))
        times = [round(time_s, 6) for time_s, _ in found]
        return Cut(round(start_s, 6), [image for _, image in found], times, wave, self.plan.given(number))


def _turn(frame: av.VideoFrame) -> tuple[int, bool]:
    """Degrees counter-clockwise that the file asks for, and whether left and right are exchanged before that."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return frame.rotation, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))  # of x' = ax + cy, y' = bx + dy
    if a * d - b * c >= 0:
        return frame.rotation, False
    return round(math.degrees(math.atan2(b + c, d - a))), True


def _display_size(frame: av.VideoFrame, ratio: float, degrees: int) -> tuple[int, int]:
    """Width and height on the screen: pixels need not be square, and the file may ask for a turn."""
    wide, high = max(1, round(frame.width * ratio)), frame.height
    return (high, wide) if round(degrees / 90) % 2 else (wide, high)


def _picture(frame: av.VideoFrame, frame_size: int, ratio: float, turn: tuple[int, bool]) -> np.ndarray:
    """The frame as shown, in sRGB: turned and mirrored as the file asks, shorter side at most `frame_size`; uint8 YX3."""
    degrees, mirrored = turn
    wide, high = _display_size(frame, ratio, degrees)
    scale = min(1.0, frame_size / min(wide, high))
    turns = round(degrees / 90) % 4
    wide, high = max(1, round(wide * scale)), max(1, round(high * scale))
    stored = (high, wide) if turns % 2 else (wide, high)  # width and height
    small = color.resized(frame, *stored)
    return np.ascontiguousarray(np.rot90(small[:, ::-1] if mirrored else small, turns))
