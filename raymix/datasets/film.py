"""Decodes of a film what its clips show, and no more: the frames that come out at the wanted times are those of a full decode.

Three things are left undecoded, of codecs for which it cannot be noticed:
- what comes after a wanted time, up to the next frame that decoding can begin at (H.264: IDR; VP9: key frame);
- H.264 frames that no other frame refers to (nal_ref_idc 0), unless one is on the screen at a wanted time;
- what comes after the last wanted time.
Time stamps of packets tell which frame is on the screen when, so only containers that store them are treated so.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator

import av
from av.error import FFmpegError

from raymix.datasets.cutting import SLACK_S, TICK_S
from raymix.datasets.pictures import Pictures
from raymix.datasets.source import Entry

STAMPED = ("mov", "matroska")  # containers with a presentation time for every packet, and an index to be trusted
AHEAD = 17  # packets: the frame shown next is at most 16 later in the file; with fewer in sight more is decoded
HELD_BYTES = 32 << 20  # so much is held back undecoded, in case it need not be decoded at all
IDR, SLICE = 5, 1  # types of H.264's units


class Film:
    """The pictures of a video stream, packet by packet as the container gives them."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, pictures: Pictures) -> None:
        self.stream, self.pictures, self.origin = stream, pictures, pictures.origin
        self.broken = 0  # packets
        self.codec = stream.codec_context.name
        self.skipping = self.codec in ("h264", "vp9") and container.format.name.split(",")[0] in STAMPED
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
        said, base = self.stream.duration, self.stream.time_base
        most_s = float("inf") if said is None or base is None else float((said + (self.stream.start_time or 0)) * base)
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

    def add(self, packet: av.Packet, entry: Entry) -> None:
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
            self._work(self._seen_s - TICK_S, AHEAD, entry)

    def _hold(self, packet: av.Packet) -> None:
        time_s = self._time(packet)
        if not packet.is_discard:
            insort(self._times, time_s)
        self._queue.append(packet)
        self._bytes += packet.size
        if packet.is_keyframe and _begins(self.codec, self.stream, packet):
            self._starts.append(time_s)

    def _work(self, until_s: float, ahead: int, entry: Entry) -> None:
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
        return self._times[place] if place < len(self._times) else self.end_s + SLACK_S + 2 * TICK_S

    def _finish(self, packet: av.Packet, entry: Entry) -> None:
        until_s = self.end_s + SLACK_S
        self._work(until_s, 0, entry)
        if self._lacks(until_s):
            self._decode(packet, entry)
            self._stopped = self.broken > 0 and self._lacks(until_s)

    def _decode_all(self, entry: Entry) -> None:
        self.stream.codec_context.skip_frame = "DEFAULT"
        while self._queue:
            self._decode(self._queue.popleft(), entry)

    def _decode(self, packet: av.Packet, entry: Entry) -> None:
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
        and IDR in (found := set(_units(bytes(packet), (head[4] & 3) + 1)))
        and (SLICE not in found)
    )


def _units(data: bytes, width: int) -> Iterator[int]:
    """The types of the H.264 units in a packet, before each of which stands its length in `width` bytes."""
    at = 0
    while at + width < len(data):
        yield data[at + width] & 31
        at += width + int.from_bytes(data[at : at + width], "big")
