"""The plan of clips of a medium: which intervals and frames, at a fixed stride or around each annotated time."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from raymix.data.media import ManifestRow, UnusableMediaError

SAMPLE_RATE = 16_000  # Hz, mono: the paper's sampling rate

TICK_S = 1e-5  # time stamps are fractions, times are floats

END_TOLERANCE_S = 0.1  # a clip may reach this much beyond an end of a stream: encoders pad and round


@dataclass(frozen=True)
class RawClip:
    """A stretch of a video: n frames (uint8 YX3) with their times, and mono sound at 16 kHz (float32)."""

    start_s: float
    frames: list[np.ndarray]
    frame_times: list[float]
    wave: np.ndarray
    at: float | None = None  # the given time that its first frame was picked for


@dataclass(frozen=True)
class CutSettings:
    """How to cut: length and stride of the cuts (s), frames in each, shorter side of a frame (px, never enlarged).

    With `at` there is one cut around each of these times, whose first frame is the one on the screen then, and no stride;
    with `span` only what lies between two times is read. Both in seconds on the clock of the video.
    """

    seconds: float
    stride_s: float
    frames: int
    frame_size: int
    at: tuple[float, ...] = ()
    span: tuple[float, float] | None = None

    def plan(self, first: float, end: float | None) -> CutPlan:
        """Where the cuts lie in a medium that can be heard from `first` on, to `end` as far as one knows."""
        low, high = self.span or (0.0, float("inf"))
        first, end = max(first, low), min(high, float("inf") if end is None else end)
        return CutPlan(self, first, end).once()


@dataclass
class _Moments:
    """The times of the frames of the first so many cuts, in order: asked for with every packet of a film."""

    cuts: int = 0
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class CutPlan:
    """The cuts of one medium, by their number."""

    how: CutSettings
    first: float
    end: float
    left_out: tuple[float, ...] = ()  # given times whose cuts would be those of earlier ones

    def once(self) -> CutPlan:
        """The plan without given times whose cuts, moved into the medium, would start where an earlier one does."""
        starts_ms, kept, left = set[int](), list[float](), list[float]()
        for number, time_s in enumerate(self.how.at):
            start_ms = round(self.start(number) * 1000)  # as the name of a clip says it
            (left if start_ms in starts_ms else kept).append(time_s)
            starts_ms.add(start_ms)
        return replace(self, how=replace(self.how, at=tuple(kept)), left_out=tuple(left))

    def given(self, number: int) -> float | None:
        """The time that a cut lies around, where there are such times."""
        return self.how.at[number] if self.how.at else None

    def more(self, number: int) -> bool:
        """Whether there is a cut of this number, in a medium that is long enough."""
        if self.how.at:
            return number < len(self.how.at)
        return self.start(number) + self.how.seconds <= self.until + END_TOLERANCE_S

    def done(self, number: int) -> float:
        """From when on all its frames and its sound are known."""
        end_s = self.start(number) + self.how.seconds
        return max(end_s, self.how.at[number] + 2 * TICK_S) if self.how.at else end_s

    @property
    def begin(self) -> float:
        """From when on the medium is read."""
        return min(*self.how.at, *self.starts) if self.how.at else self.first

    @property
    def starts(self) -> list[float]:
        return [self.start(number) for number in range(len(self.how.at))]

    @property
    def until(self) -> float:
        """When there is nothing more to read."""
        return float("inf") if self.how.span is None else self.how.span[1]

    def reaches(self, number: int, end_s: float) -> bool:
        """Whether the given time of a cut lies in a medium that turned out to end then."""
        return not self.how.at or self.how.at[number] <= end_s + END_TOLERANCE_S

    def start(self, number: int) -> float:
        """When a cut starts; around a given time it stays inside the medium."""
        if not self.how.at:
            return self.first + number * self.how.stride_s
        latest = max(self.first, self.end - self.how.seconds)
        return min(max(self.how.at[number] - self.how.seconds / 2, self.first), latest)

    def moments(self, number: int) -> list[float]:
        """The times of its frames: the middles of n equal parts, or first the given time."""
        count, start_s = self.how.frames, self.start(number)
        parts = [(part + 0.5) / count * self.how.seconds + start_s for part in range(count)]
        return [self.how.at[number], *parts[1:]] if self.how.at else parts

    def wants(self, low_s: float, high_s: float) -> bool:
        """Whether a frame of some cut is one at a time from `low_s` on and before `high_s`."""
        known = self._moments
        while self.more(known.cuts) and (self.how.at or self.start(known.cuts) < high_s):
            for moment in self.moments(known.cuts):
                insort(known.times, moment)
            known.cuts += 1
        place = bisect_left(known.times, low_s)
        return place < len(known.times) and known.times[place] < high_s

    @cached_property
    def _moments(self) -> _Moments:
        return _Moments()

    def account(self, number: int, end_s: float, entry: ManifestRow) -> None:
        """Add the notes about a medium that gave so many cuts to its entry; UnusableMediaError where it gave none."""
        count, beyond = len(self.how.at) + len(self.left_out), sum(t > end_s + END_TOLERANCE_S for t in self.left_out)
        again, beyond = len(self.left_out) - beyond, beyond + (len(self.how.at) - number if self.how.at else 0)
        notes = (
            f"{beyond} of {count} annotated times lie beyond the end at {end_s:.1f} s" if beyond else "",
            f"{again} of {count} annotated times left out: their clips would be those of earlier ones" if again else "",
        )
        entry.reason = "; ".join(filter(None, (entry.reason, *notes)))
        if not number:
            have = f"{entry.duration_s:g} s of picture and sound, a clip needs {self.how.seconds:g} s"
            raise UnusableMediaError("too short", "; ".join(filter(None, (have, entry.reason))))
