"""Videos to frames and audio in one decoding pass, decoding only what the planned clips need.

Three things are left undecoded, of codecs for which it cannot be noticed:
- what comes after a wanted time, up to the next frame that decoding can begin at (H.264: IDR; VP9: key frame);
- H.264 frames that no other frame refers to (nal_ref_idc 0), unless one is on the screen at a wanted time;
- what comes after the last wanted time.
Time stamps of packets tell which frame is on the screen when, so only containers that store them are treated so.

All times are presentation times in seconds after the first frame of the video; the sound is put where its own time
stamps say, so streams that start at different times stay aligned.
"""

from __future__ import annotations

import heapq
import math
import re
import struct
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from raymix.data.extraction import color
from raymix.data.extraction.audio_decoding import AudioTrack, detect_integer_scale
from raymix.data.extraction.clip_plan import END_TOLERANCE_S, TICK_S, CutPlan, CutSettings, RawClip
from raymix.data.extraction.track_selection import (
    SelectedTracks,
    channel_names,
    choose_tracks,
    decoded_blocks,
    lossless_floats,
)
from raymix.data.media import ManifestRow, UnusableMediaError
from raymix.runtime.storage import RetryingReader


class FrameSelector:
    """Picks, for every cut, the frames that are on the screen in the middles of its n equal parts."""

    def __init__(self, plan: CutPlan, origin: float, ratio: float) -> None:
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

    def add(self, frame: av.VideoFrame, entry: ManifestRow) -> None:
        if frame.is_corrupt:
            return
        before = self._last
        now = before[0] + self.step_s if before and frame.time is None else (frame.time or 0.0) - self.origin
        if before is None:
            self._turn = _turn(frame)
            self.hdr = color.TRANSFER_NAMES.get(frame.color_trc, "")
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
        self._plan(self.end_s + END_TOLERANCE_S)
        for time_s, number, position in self._wanted:
            if self._last is not None and time_s <= self.end_s + END_TOLERANCE_S:
                self._keep(number, position, self._last)

    def take(self, number: int, sound: AudioTrack) -> RawClip:
        """The cut of this number; what only earlier ones needed is forgotten."""
        start_s = self.plan.start(number)
        found = [pair for _, pair in sorted(self._got.pop(number).items())]
        wave = sound.between(start_s, self.how.seconds)
        if self.plan.more(number + 1):
            sound.forget(self.plan.start(number + 1))
        times = [round(time_s, 6) for time_s, _ in found]
        return RawClip(round(start_s, 6), [image for _, image in found], times, wave, self.plan.given(number))


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
    small = color.resize_to_srgb(frame, *stored)
    return np.ascontiguousarray(np.rot90(small[:, ::-1] if mirrored else small, turns))


TIMESTAMPED_FORMATS = ("mov", "matroska")  # containers with a presentation time for every packet and a reliable index

SKIPPABLE_CODECS = ("h264", "vp9")  # of which packets before the next key frame may stay undecoded

MAX_REORDERED_FRAMES = (
    17  # packets: the frame shown next is at most 16 later in the file; with fewer in sight more is decoded
)

HELD_BYTES = 32 << 20  # so much is held back undecoded, in case it need not be decoded at all

H264_IDR, H264_SLICE = 5, 1  # types of H.264's units


class VideoDecoder:
    """The pictures of a video stream, packet by packet as the container gives them."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, pictures: FrameSelector) -> None:
        self.stream, self.pictures, self.origin = stream, pictures, pictures.origin
        self.broken = 0  # packets
        self.codec = stream.codec_context.name
        self.skipping = self.codec in SKIPPABLE_CODECS and container.format.name.split(",")[0] in TIMESTAMPED_FORMATS
        self._times: list[float] = []  # of all packets, in order
        self._queue: deque[av.Packet] = deque()  # not decoded yet
        self._starts: deque[float] = deque()  # times of those in the queue that decoding can begin at
        self._bytes = 0
        self._stopped = False  # damaged to the end: packets came, but no frames
        self._latest_s = 0.0  # of the packets so far
        self._holds_s = 0.0  # how long that frame stays
        self.stays_s = 0.0  # until when the last frame stays by the container's word, where packets do not say

    @property
    def now_s(self) -> float:
        """Up to when all wanted frames are known."""
        if not self.skipping or self._lacks(self._seen_s - TICK_S):
            return self.pictures.now_s
        return self._seen_s

    @property
    def end_s(self) -> float:
        """When the last frame leaves the screen that the container has given, or that was decoded."""
        if not self.skipping or not self._times:
            return self._staying(self.pictures.end_s, self.pictures.now_s)
        step_s = self._times[-1] - self._times[-2] if len(self._times) > 1 else self.pictures.step_s
        shown_s = self.pictures.now_s if self._stopped else self._times[-1]
        return self._staying(shown_s + step_s, shown_s)

    def _staying(self, end_s: float, shown_s: float) -> float:
        """The end where the frame shown then is the last one and stays longer than those before: also a slide is a film."""
        if shown_s < self._latest_s - TICK_S:
            return end_s
        declared, base = self.stream.duration, self.stream.time_base
        most_s = (
            float("inf")
            if declared is None or base is None
            else float((declared + (self.stream.start_time or 0)) * base)
        )
        return max(end_s, min(self._latest_s + self._holds_s, most_s - self.origin), self.stays_s)

    def _note(self, packet: av.Packet) -> None:
        if packet.pts is None or packet.is_discard:
            return
        time_s, holds_s = self._time(packet), float((packet.duration or 0) * packet.time_base)
        # what comes last in the file need not be shown last, and then it is the one that says more
        self._holds_s = holds_s if time_s > self._latest_s else max(holds_s, self._holds_s)
        self._latest_s = max(time_s, self._latest_s)

    @property
    def _seen_s(self) -> float:
        return self._times[-1] if self._times else 0.0

    def add(self, packet: av.Packet, entry: ManifestRow) -> None:
        """Takes the next packet of the stream; the last one is empty."""
        last = packet.size == 0
        self._note(packet)
        if self.skipping and not last and packet.pts is None:
            self._decode_all(entry)
            self.skipping = False
        if not self.skipping:
            self._decode(packet, entry)
        elif last:
            self._finish(packet, entry)
        else:
            self._hold(packet)
            self._work(self._seen_s - TICK_S, MAX_REORDERED_FRAMES, entry)

    def _hold(self, packet: av.Packet) -> None:
        time_s = self._time(packet)
        if not packet.is_discard:
            insort(self._times, time_s)
        self._queue.append(packet)
        self._bytes += packet.size
        if packet.is_keyframe and _begins(self.codec, self.stream, packet):
            self._starts.append(time_s)

    def _work(self, until_s: float, ahead: int, entry: ManifestRow) -> None:
        """Decodes while a wanted frame up to the given time is not known, and keeps the last packets back."""
        while len(self._queue) > ahead:
            self._jump()
            if len(self._queue) <= ahead or not (self._lacks(until_s) or self._bytes > HELD_BYTES):
                return
            packet = self._queue.popleft()
            self._bytes -= packet.size
            time_s = self._time(packet)
            if self._starts and packet.is_keyframe and time_s == self._starts[0]:
                self._starts.popleft()
            if self.codec == "h264":
                shown = self.pictures.plan.wants(time_s - TICK_S, self._next(time_s) - TICK_S)
                self.stream.codec_context.skip_frame = "DEFAULT" if shown else "NONREF"
            self._decode(packet, entry)

    def _jump(self) -> None:
        """Forgets what lies before a frame that decoding can begin at, where nothing before it is wanted."""
        while self._starts and not self._lacks(self._starts[0] - TICK_S):
            start_s = self._starts.popleft()
            while not (self._queue[0].is_keyframe and self._time(self._queue[0]) == start_s):
                self._bytes -= self._queue.popleft().size

    def _lacks(self, until_s: float) -> bool:
        """Whether a frame wanted up to then may still be in the queue or in the decoder."""
        return not self.pictures.count or self.pictures.plan.wants(self.pictures.now_s - TICK_S, until_s)

    def _next(self, time_s: float) -> float:
        """When the frame of this time leaves the screen."""
        place = bisect_right(self._times, time_s)
        return self._times[place] if place < len(self._times) else self.end_s + END_TOLERANCE_S + 2 * TICK_S

    def _finish(self, packet: av.Packet, entry: ManifestRow) -> None:
        until_s = self.end_s + END_TOLERANCE_S
        self._work(until_s, 0, entry)
        if self._lacks(until_s):
            self._decode(packet, entry)
            self._stopped = self.broken > 0 and self._lacks(until_s)

    def _decode_all(self, entry: ManifestRow) -> None:
        self.stream.codec_context.skip_frame = "DEFAULT"
        while self._queue:
            self._decode(self._queue.popleft(), entry)

    def _decode(self, packet: av.Packet, entry: ManifestRow) -> None:
        try:
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    self.pictures.add(frame, entry)
        except FFmpegError:
            self.broken += 1

    def _time(self, packet: av.Packet) -> float:
        return float((packet.pts or 0) * packet.time_base) - self.origin


def _begins(codec: str, stream: av.VideoStream, packet: av.Packet) -> bool:
    """Whether nothing from this packet on needs what was before it; a key frame by the container's word alone may."""
    if codec == "vp9":
        return True
    head = stream.codec_context.extradata or b""
    return (
        len(head) > 4
        and head[0] == 1
        and H264_IDR in (found := set(_units(bytes(packet), (head[4] & 3) + 1)))
        and (H264_SLICE not in found)
    )


def _units(data: bytes, width: int) -> Iterator[int]:
    """The types of the H.264 units in a packet, before each of which stands its length in `width` bytes."""
    at = 0
    while at + width < len(data):
        yield data[at + width] & 31
        at += width + int.from_bytes(data[at : at + width], "big")


# Containers only: a play list that calls itself x.mp4 could make the library open other files or addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"

LEAD_S = 1.0  # sound decoders need what was before

SHORT_S = 0.5  # a stream may end so much before the end that its container states

APART_S = 1.1  # more than this between the ends of picture and sound is no rounding

_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


def cut_video(file: str | RetryingReader, how: CutSettings, entry: ManifestRow) -> Iterator[RawClip]:
    """The cuts of a video in time; fills `entry`, raises Unusable where the file ends being a video with sound."""
    with _opened(file) as container:
        tracks = choose_tracks(container)
        scale, (_, audio) = 1.0, tracks.of(container)
        if lossless_floats(audio):
            scale = detect_integer_scale(decoded_blocks(container, audio))
        elif not tracks.was_read:
            yield from _cut(container, tracks, scale, how, entry)
            return
    if isinstance(file, RetryingReader):
        file.seek(0)
    with _opened(file) as container:  # from its beginning again
        yield from _cut(container, tracks, scale, how, entry)


def _opened(file: str | RetryingReader) -> av.container.InputContainer:
    try:
        return av.open(file, "r", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})
    except (FileNotFoundError, PermissionError):
        raise
    except (FFmpegError, ValueError) as error:
        raise UnusableMediaError("corrupt", f"not a video that can be opened ({_line(error)})") from error


def _cut(
    container: av.container.InputContainer, tracks: SelectedTracks, scale: float, how: CutSettings, entry: ManifestRow
) -> Iterator[RawClip]:
    video, audio = tracks.of(container)
    video.codec_context.thread_count = 1  # a task owns one core; the number of threads must not matter
    origin = _start(video)
    late = _start(audio) - origin
    plan = how.plan(late if late > END_TOLERANCE_S else 0.0, _declared(container, video, audio, origin))
    pictures, channels = FrameSelector(plan, origin, float(video.sample_aspect_ratio or 1)), channel_names(audio)
    film, sound = VideoDecoder(container, video, pictures), AudioTrack(origin, channels, scale)
    broken, number, whole = 0, 0, True
    entry.fps, entry.sample_rate, entry.channels = float(video.average_rate or 0), audio.rate, len(channels)
    _seek(container, plan, origin)
    for packet in _packets(container, video, audio):
        _refuse_encrypted(packet)
        if packet.stream is video:
            film.stays_s = 0.0 if packet.size else _stays(video, origin)
            film.add(packet, entry)
        else:
            broken += _hear(packet, sound)
        while plan.more(number) and film.now_s >= plan.done(number) <= sound.end_s:
            yield pictures.take(number, sound)
            number += 1
        if not plan.more(number) or min(film.now_s, sound.end_s) > plan.until + END_TOLERANCE_S:
            whole = False  # what comes after is not wanted
            break
    broken, pictures.end_s = broken + film.broken, film.end_s
    pictures.finish()
    sound.finish()
    end_s = min(pictures.end_s, sound.end_s, plan.until)
    known_s = end_s if whole or plan.end == float("inf") else plan.end  # reading may end before the medium does
    entry.duration_s = round(known_s - (how.span or (0.0,))[0], 3)
    if not pictures.count or sound.end_s <= 0:
        what = "sound" if pictures.count else "frame"
        raise UnusableMediaError("corrupt", f"no {what} could be decoded, {broken} broken packets")
    while (
        plan.more(number)
        and end_s + END_TOLERANCE_S >= plan.start(number) + how.seconds
        and plan.reaches(number, end_s)
    ):
        yield pictures.take(number, sound)
        number += 1
    mapped = f"{pictures.hdr} video: colours mapped to sRGB" if pictures.hdr else ""
    skipped = f"{broken} broken packets skipped" if broken else ""
    entry.status = "repaired" if sound.repairs else entry.status
    entry.reason = "; ".join(filter(None, (skipped, *tracks.notes, mapped, *sound.repairs, *sound.notes)))
    if whole:
        _check_length(video, origin, pictures.end_s)
        _check_length(audio, origin, sound.end_s)
        _check_counts(container, ((video, pictures.end_s), (audio, sound.end_s)))
        entry.reason = "; ".join(filter(None, (entry.reason, _apart(pictures.end_s, sound.end_s))))
    plan.account(number, end_s, entry)


def _hear(packet: av.Packet, sound: AudioTrack) -> int:
    """Adds the sound of a packet; 1 if it is broken."""
    try:
        frames = packet.decode()
    except FFmpegError:
        return 1
    for frame in frames:
        if isinstance(frame, av.AudioFrame):
            sound.add(frame)
    return 0


def _refuse_encrypted(packet: av.Packet) -> None:
    """Unusable for a packet that the container says is encrypted: what is decoded of it is noise."""
    if packet.size and packet.has_sidedata("encryption_info"):
        picture = packet.stream.type == "video"
        raise UnusableMediaError(
            *("no video", "its picture is encrypted") if picture else ("no audio", "its sound is encrypted")
        )


def _start(stream: av.VideoStream | av.AudioStream) -> float:
    return 0.0 if stream.start_time is None or stream.time_base is None else float(stream.start_time * stream.time_base)


def _packets(container: av.container.InputContainer, *streams: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
    try:
        yield from container.demux(*streams)
    except FFmpegError:  # what is missing is found by the length check
        for stream in streams:
            last = av.Packet()
            last.stream = stream
            yield last


def _end(stream: av.VideoStream | av.AudioStream, origin: float) -> float | None:
    """When a stream ends by its own word, on the clock of the video."""
    if stream.duration is None or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base) + _start(stream) - origin


def _stays(video: av.VideoStream, origin: float) -> float:
    """Until when Matroska says that the picture lasts, 0 where it does not."""
    declared = _CLOCK.fullmatch(video.metadata.get("DURATION", ""))
    return 3600 * int(declared[1]) + 60 * int(declared[2]) + float(declared[3]) - origin if declared else 0.0


def _declared(
    container: av.container.InputContainer, video: av.VideoStream, audio: av.AudioStream, origin: float
) -> float | None:
    ends = [end for end in (_end(video, origin), _end(audio, origin)) if end is not None]
    if ends:
        return min(ends)
    return None if container.duration is None else container.duration / av.time_base - origin


def _seek(container: av.container.InputContainer, plan: CutPlan, origin: float) -> None:
    """Jump to the key frame before the part that is wanted, where the container has an index to be trusted."""
    begin = plan.begin - LEAD_S
    if begin > 0 and container.format.name.split(",")[0] in TIMESTAMPED_FORMATS:
        container.seek(int((begin + origin) * av.time_base), backward=True)


def _check_length(stream: av.VideoStream | av.AudioStream, origin: float, end_s: float) -> None:
    declared = _end(stream, origin)
    if declared is not None and end_s < declared - SHORT_S:
        where = f"{stream.type} stops at {end_s:.1f} s of {declared:.1f} s"
        raise UnusableMediaError("corrupt", f"{where}: truncated; whole clips before are kept")


def _check_counts(
    container: av.container.InputContainer, ends: tuple[tuple[av.VideoStream | av.AudioStream, float], ...]
) -> None:
    """AVI states no durations, but how much each stream holds; one count may be a guess of its writer, two are none."""
    stated = [float(stream.frames * (stream.time_base or 0)) for stream, _ in ends]
    short = [end_s < stated_s - SHORT_S for (_, end_s), stated_s in zip(ends, stated, strict=True)]
    if container.format.name == "avi" and all(short):
        where = f"stops at {ends[0][1]:.1f} s of {stated[0]:.1f} s"
        raise UnusableMediaError("corrupt", f"{where} by its header: truncated; whole clips before are kept")


def _apart(picture_s: float, sound_s: float) -> str:
    """The note about a medium whose streams end at different times, by their declared durations."""
    return f"picture ends at {picture_s:.1f} s, sound at {sound_s:.1f} s" if abs(picture_s - sound_s) > APART_S else ""


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
