"""Videos to frames and sound in one decoding pass: any container, frame rate, sample rate, channel count and rotation.

All times are presentation times in seconds after the first frame of the video; the sound is put where its own time
stamps say, so streams that start at different times stay aligned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import av
from av.error import FFmpegError

from raymix.datasets.cutting import SLACK_S, Cut, Cutting, Plan
from raymix.datasets.film import STAMPED, Film
from raymix.datasets.mixdown import integer_scale
from raymix.datasets.pictures import Pictures
from raymix.datasets.sound import Sound
from raymix.datasets.source import Entry, Unusable
from raymix.datasets.tracks import Tracks, channel_names, choose, decoded_blocks, lossless_floats
from raymix.storage import Reader

# Containers only: a play list that calls itself x.mp4 could make the library open other files or addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"
LEAD_S = 1.0  # sound decoders need what was before
SHORT_S = 0.5  # a stream may end so much before the end that its container states
APART_S = 1.1  # more than this between the ends of picture and sound is no rounding
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


def cut(file: str | Reader, how: Cutting, entry: Entry) -> Iterator[Cut]:
    """The cuts of a video in time; fills `entry`, raises Unusable where the file ends being a video with sound."""
    with _opened(file) as container:
        tracks = choose(container)
        scale, (_, audio) = 1.0, tracks.of(container)
        if lossless_floats(audio):
            scale = integer_scale(decoded_blocks(container, audio))
        elif not tracks.was_read:
            yield from _cut(container, tracks, scale, how, entry)
            return
    if isinstance(file, Reader):
        file.seek(0)
    with _opened(file) as container:  # from its beginning again
        yield from _cut(container, tracks, scale, how, entry)


def _opened(file: str | Reader) -> av.container.InputContainer:
    try:
        return av.open(file, "r", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})
    except (FileNotFoundError, PermissionError):
        raise
    except (FFmpegError, ValueError) as error:
        raise Unusable("corrupt", f"not a video that can be opened ({_line(error)})") from error


def _cut(
    container: av.container.InputContainer, tracks: Tracks, scale: float, how: Cutting, entry: Entry
) -> Iterator[Cut]:
    video, audio = tracks.of(container)
    video.codec_context.thread_count = 1  # a task owns one core; the number of threads must not matter
    origin = _start(video)
    late = _start(audio) - origin
    plan = how.plan(late if late > SLACK_S else 0.0, _declared(container, video, audio, origin))
    pictures, channels = Pictures(plan, origin, float(video.sample_aspect_ratio or 1)), channel_names(audio)
    film, sound = Film(container, video, pictures), Sound(origin, channels, scale)
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
        if not plan.more(number) or min(film.now_s, sound.end_s) > plan.until + SLACK_S:
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
        raise Unusable("corrupt", f"no {what} could be decoded, {broken} broken packets")
    while plan.more(number) and end_s + SLACK_S >= plan.start(number) + how.seconds and plan.reaches(number, end_s):
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


def _hear(packet: av.Packet, sound: Sound) -> int:
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
        raise Unusable(*("no video", "its picture is encrypted") if picture else ("no audio", "its sound is encrypted"))


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
    said = _CLOCK.fullmatch(video.metadata.get("DURATION", ""))
    return 3600 * int(said[1]) + 60 * int(said[2]) + float(said[3]) - origin if said else 0.0


def _declared(
    container: av.container.InputContainer, video: av.VideoStream, audio: av.AudioStream, origin: float
) -> float | None:
    ends = [end for end in (_end(video, origin), _end(audio, origin)) if end is not None]
    if ends:
        return min(ends)
    return None if container.duration is None else container.duration / av.time_base - origin


def _seek(container: av.container.InputContainer, plan: Plan, origin: float) -> None:
    """Jump to the key frame before the part that is wanted, where the container has an index to be trusted."""
    begin = plan.begin - LEAD_S
    if begin > 0 and container.format.name.split(",")[0] in STAMPED:
        container.seek(int((begin + origin) * av.time_base), backward=True)


def _check_length(stream: av.VideoStream | av.AudioStream, origin: float, end_s: float) -> None:
    declared = _end(stream, origin)
    if declared is not None and end_s < declared - SHORT_S:
        where = f"{stream.type} stops at {end_s:.1f} s of {declared:.1f} s"
        raise Unusable("corrupt", f"{where}: truncated; whole clips before are kept")


def _check_counts(
    container: av.container.InputContainer, ends: tuple[tuple[av.VideoStream | av.AudioStream, float], ...]
) -> None:
    """AVI states no durations, but how much each stream holds; one count may be a guess of its writer, two are none."""
    stated = [float(stream.frames * (stream.time_base or 0)) for stream, _ in ends]
    short = [end_s < stated_s - SHORT_S for (_, end_s), stated_s in zip(ends, stated, strict=True)]
    if container.format.name == "avi" and all(short):
        where = f"stops at {ends[0][1]:.1f} s of {stated[0]:.1f} s"
        raise Unusable("corrupt", f"{where} by its header: truncated; whole clips before are kept")


def _apart(picture_s: float, sound_s: float) -> str:
    """What is to be said of a medium whose streams end apart, by their own word."""
    return f"picture ends at {picture_s:.1f} s, sound at {sound_s:.1f} s" if abs(picture_s - sound_s) > APART_S else ""


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
