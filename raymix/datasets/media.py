"""Videos to frames and sound in one decoding pass: any container, frame rate, sample rate, channel count and rotation.

All times are presentation times in seconds after the first frame of the video; the sound is put where its own time
stamps say, so streams that start at different times stay aligned.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import av
import numpy as np
from av.error import FFmpegError

from raymix.datasets.source import Entry, Unusable
from raymix.storage import Reader

RATE = 16_000  # Hz, mono: the paper's sampling rate
GAP_S = 0.04  # time stamps may wobble this much (some containers round them) before it is a gap
TICK_S = 1e-5  # time stamps are fractions, times are floats
SLACK_S = 0.1  # a clip may reach this much beyond an end of a stream: encoders pad and round
# Containers only: a play list that calls itself x.mp4 could make the library open other files or addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"


@dataclass(frozen=True)
class Cut:
    """A stretch of a video: n frames (uint8 YX3) with their times, and mono sound at 16 kHz (float32)."""

    start_s: float
    frames: list[np.ndarray]
    frame_times: list[float]
    wave: np.ndarray


@dataclass(frozen=True)
class Cutting:
    """How to cut: length and stride of the cuts (s), frames in each, shorter side of a frame (px, never enlarged)."""

    seconds: float
    stride_s: float
    frames: int
    frame_size: int


def cut(file: str | Reader, how: Cutting, entry: Entry) -> Iterator[Cut]:
    """The cuts of a video in time; fills `entry`, raises Unusable where the file ends being a video with sound."""
    try:
        container = av.open(file, "r", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})
    except (FileNotFoundError, PermissionError):
        raise
    except (FFmpegError, ValueError) as error:
        raise Unusable("corrupt", f"not a video that can be opened ({_line(error)})") from error
    with container:
        yield from _cut(container, how, entry)


def _cut(container: av.container.InputContainer, how: Cutting, entry: Entry) -> Iterator[Cut]:
    video, audio = _streams(container)
    origin = _start(video)
    late = _start(audio) - origin
    ratio = float(video.sample_aspect_ratio or 1)
    pictures = _Pictures(how, origin, late if late > SLACK_S else 0.0, ratio)
    sound, broken, number = _Sound(origin), 0, 0
    entry.fps, entry.sample_rate, entry.channels = float(video.average_rate or 0), audio.rate, audio.channels
    for packet in _packets(container, video, audio):
        try:
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    pictures.add(frame, entry)
                elif isinstance(frame, av.AudioFrame):
                    sound.add(frame)
        except FFmpegError:
            broken += 1
        while pictures.now_s >= pictures.start(number) + how.seconds <= sound.end_s:
            yield pictures.take(number, sound)
            number += 1
    pictures.finish()
    sound.finish()
    entry.duration_s = round(min(pictures.end_s, sound.end_s), 3)
    if not pictures.count or sound.end_s <= 0:
        what = "sound" if pictures.count else "frame"
        raise Unusable("corrupt", f"no {what} could be decoded, {broken} broken packets")
    while min(pictures.end_s, sound.end_s) + SLACK_S >= pictures.start(number) + how.seconds:
        yield pictures.take(number, sound)
        number += 1
    for stream, end_s in ((video, pictures.end_s), (audio, sound.end_s)):
        _check_length(stream, origin, end_s)
    if broken:
        entry.reason = f"{broken} broken packets skipped"
    if not number:
        raise Unusable("too short", f"{entry.duration_s:g} s of picture and sound, a clip needs {how.seconds:g} s")


def _streams(container: av.container.InputContainer) -> tuple[av.VideoStream, av.AudioStream]:
    """The film and its sound; a cover picture is no film."""
    films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    audio = container.streams.best("audio")
    if not films:
        raise Unusable("no video", "no video stream")
    if not isinstance(audio, av.AudioStream):
        raise Unusable("no audio", "no audio stream")
    films[0].codec_context.thread_count = 1  # a task owns one core; the number of threads must not matter
    return films[0], audio


def _start(stream: av.VideoStream | av.AudioStream) -> float:
    return 0.0 if stream.start_time is None or stream.time_base is None else float(stream.start_time * stream.time_base)


def _packets(container: av.container.InputContainer, *streams: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
    try:
        yield from container.demux(*streams)
    except FFmpegError:
        return  # what is missing is found by the length check


def _check_length(stream: av.VideoStream | av.AudioStream, origin: float, end_s: float) -> None:
    if stream.duration is None or stream.time_base is None:
        return
    declared = float(stream.duration * stream.time_base) + _start(stream) - origin
    if end_s < declared - 0.5:
        where = f"{stream.type} stops at {end_s:.1f} s of {declared:.1f} s"
        raise Unusable("corrupt", f"{where}: truncated; whole clips before are kept")


class _Pictures:
    """Picks, for every cut, the frames that are on the screen in the middles of its n equal parts."""

    def __init__(self, how: Cutting, origin: float, first: float, ratio: float) -> None:
        self.how, self.origin, self.first, self.ratio = how, origin, first, ratio
        self.end_s, self.count = 0.0, 0
        self._last: tuple[float, av.VideoFrame] | None = None
        self._step = 0.0
        self._planned = 0  # cuts whose frames are wanted
        self._wanted: list[tuple[float, int, int]] = []  # heap of (time, cut, position)
        self._got: dict[int, dict[int, tuple[float, np.ndarray]]] = {}

    @property
    def now_s(self) -> float:
        return self._last[0] if self._last else 0.0

    def start(self, number: int) -> float:
        return self.first + number * self.how.stride_s

    def add(self, frame: av.VideoFrame, entry: Entry) -> None:
        if frame.is_corrupt:
            return
        before = self._last
        now = before[0] + self._step if before and frame.time is None else (frame.time or 0.0) - self.origin
        if before is None:
            wide, high = _display_size(frame, self.ratio)
            entry.width, entry.height, entry.rotation = wide, high, frame.rotation
            self._step = 1 / entry.fps if entry.fps else 0.04
        elif now > before[0]:
            self._step = now - before[0]
        self._last, self.count, self.end_s = (now, frame), self.count + 1, max(self.end_s, now + self._step)
        self._plan(now)
        while self._wanted and self._wanted[0][0] < now - TICK_S:
            _, number, position = heapq.heappop(self._wanted)
            self._keep(number, position, before or self._last)

    def _plan(self, now: float) -> None:
        while self.start(self._planned) <= now:
            for position in range(self.how.frames):
                middle = self.start(self._planned) + (position + 0.5) / self.how.frames * self.how.seconds
                heapq.heappush(self._wanted, (middle, self._planned, position))
            self._planned += 1

    def _keep(self, number: int, position: int, chosen: tuple[float, av.VideoFrame]) -> None:
        self._got.setdefault(number, {})[position] = (chosen[0], _picture(chosen[1], self.how.frame_size, self.ratio))

    def finish(self) -> None:
        """At the end of the film its last frame stays on the screen."""
        for time_s, number, position in self._wanted:
            if self._last is not None and time_s <= self.end_s + SLACK_S:
                self._keep(number, position, self._last)

    def take(self, number: int, sound: _Sound) -> Cut:
        start_s = self.start(number)
        found = [pair for _, pair in sorted(self._got.pop(number).items())]
        wave = sound.between(start_s, self.how.seconds)
        sound.forget(self.start(number + 1))
        return Cut(round(start_s, 6), [image for _, image in found], [round(t, 6) for t, _ in found], wave)


def _display_size(frame: av.VideoFrame, ratio: float) -> tuple[int, int]:
    """Width and height on the screen: pixels need not be square, and the file may ask for a turn."""
    wide, high = max(1, round(frame.width * ratio)), frame.height
    return (high, wide) if round(frame.rotation / 90) % 2 else (wide, high)


def _picture(frame: av.VideoFrame, frame_size: int, ratio: float) -> np.ndarray:
    """The frame as shown: turned as the file asks, shorter side at most `frame_size`; uint8 YX3."""
    wide, high = _display_size(frame, ratio)
    scale = min(1.0, frame_size / min(wide, high))
    turns = round(frame.rotation / 90) % 4
    wide, high = max(1, round(wide * scale)), max(1, round(high * scale))
    stored = (high, wide) if turns % 2 else (wide, high)
    small = frame.reformat(width=stored[0], height=stored[1], format="rgb24", interpolation="AREA")
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), turns))


@dataclass
class _Sound:
    """Pieces of mono sound at 16 kHz, each where its time stamp says."""

    origin: float
    end_s: float = 0.0
    _pieces: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (first sample on the video's clock, samples)
    _resampler: av.AudioResampler | None = None
    _kind: tuple[object, ...] = ()
    _next_s: float = 0.0  # when the next input frame should start
    _at: int = 0  # where the next output sample goes

    def add(self, frame: av.AudioFrame) -> None:
        now = self._next_s if frame.time is None else frame.time - self.origin
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or kind != self._kind or abs(now - self._next_s) > GAP_S:
            self.finish()
            self._resampler, self._kind = av.AudioResampler(format="flt", layout="mono", rate=RATE), kind
            self._at, self._next_s = round(now * RATE), now
        self._next_s += frame.samples / frame.sample_rate
        self._push(self._resampler.resample(frame))

    def _push(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            samples = np.nan_to_num(frame.to_ndarray().reshape(-1).astype(np.float32))
            self._pieces.append((self._at, samples))
            self._at += len(samples)
            self.end_s = max(self.end_s, self._at / RATE)

    def finish(self) -> None:
        if self._resampler is not None:
            self._push(self._resampler.resample(None))
            self._resampler = None

    def between(self, start_s: float, seconds: float) -> np.ndarray:
        """The sound of a stretch, float32 at 16 kHz; zero where there is none."""
        first, out = round(start_s * RATE), np.zeros(round(seconds * RATE), np.float32)
        for at, samples in self._pieces:
            low, high = max(at, first), min(at + len(samples), first + len(out))
            if low < high:
                out[low - first : high - first] = samples[low - at : high - at]
        return out

    def forget(self, before_s: float) -> None:
        self._pieces = [(at, samples) for at, samples in self._pieces if (at + len(samples)) / RATE > before_s]


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
