"""Which video track and which audio track of a container are read, and what its channels are called."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import av.logging
import numpy as np
from av.error import FFmpegError

from raymix.data.extraction.audio_decoding import AudioFrameReader
from raymix.data.media import UnusableMediaError

COUNTED_PACKETS = 5000  # of several video tracks whose containers state no number of frames

SIMILAR_SHARE = 0.9  # tracks with so much of the most frames, or of the longest duration, are alike in it

ENCRYPTED_CODECS = ("encv", "enca", "drms", "drmi")  # tags that stand for a codec in protected MP4 files


@dataclass(frozen=True)
class SelectedTracks:
    """The two tracks that are read, by their indices in the container.

    Attributes:
        video, audio: stream indices.
        notes: what the manifest says about the choice; empty where the first track of each kind was taken.
        was_read: whether packets were read to choose, so that the container has to be opened again.
    """

    video: int
    audio: int
    notes: tuple[str, ...] = ()
    was_read: bool = False

    def of(self, container: av.container.InputContainer) -> tuple[av.VideoStream, av.AudioStream]:
        """The streams of a container of the same file."""
        video, audio = container.streams[self.video], container.streams[self.audio]
        assert isinstance(video, av.VideoStream) and isinstance(audio, av.AudioStream)
        return video, audio


@dataclass(frozen=True)
class _Extent:
    """How much a video track holds."""

    frames: int
    seconds: float
    pixels: int


def choose_tracks(container: av.container.InputContainer) -> SelectedTracks:
    """The video track with the most frames, duration and pixels, and the audio track that FFmpeg ranks first.

    Tracks without a decoder and attached pictures (cover art, thumbnails) are passed over.
    Raises Unusable where a picture or a sound that can be decoded is missing.
    """
    video, note, was_read = _choose_video(container)
    audio, other = choose_audio_track(container, video)
    return SelectedTracks(video.index, audio.index, tuple(filter(None, (note, other))), was_read)


def choose_audio_track(
    container: av.container.InputContainer, video: av.VideoStream | None = None
) -> tuple[av.AudioStream, str]:
    """The audio track to read, of the program of `video` where there are programs, and a note if one had no decoder.

    Raises Unusable where there is no audio track, or no decoder for any.
    """
    tracks = container.streams.audio
    if not tracks:
        raise UnusableMediaError("no audio", "no audio stream")
    decodable = [track for track in tracks if track.codec_context is not None]
    best = container.streams.best("audio", related=video)
    ranked = next((track for track in tracks if best is not None and track.index == best.index), tracks[0])
    if ranked in decodable:
        return ranked, ""
    if not decodable:
        raise UnusableMediaError("no audio", f"no decoder for its sound ({codec_name(container, ranked)})")
    found = max(decodable, key=_seconds)
    why = f"no decoder for track {tracks.index(ranked) + 1} ({codec_name(container, ranked)})"
    return found, f"audio track {tracks.index(found) + 1} of {len(tracks)} was read: {why}"


def _choose_video(container: av.container.InputContainer) -> tuple[av.VideoStream, str, bool]:
    """The video track to read, a note where it is not the first one, and whether packets were read to choose it."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    tracks = [track for track in container.streams.video if not track.disposition & still]
    if not tracks:
        raise UnusableMediaError("no video", "no video stream")
    decodable = [track for track in tracks if track.codec_context is not None]
    if not decodable:
        raise UnusableMediaError("no video", f"no decoder for its picture ({codec_name(container, tracks[0])})")
    if len(decodable) == 1:
        chosen, frames, was_read = decodable[0], dict[int, int](), False
    else:
        extents, was_read = _extents(container, decodable)
        chosen, frames = _largest(decodable, extents), {index: extent.frames for index, extent in extents.items()}
    note = ""
    if chosen is not tracks[0]:
        first = tracks[0]
        why = (
            f"it has {frames[chosen.index]} frames of {chosen.width}x{chosen.height}, "
            f"track 1 {frames[first.index]} of {first.width}x{first.height}"
            if first.index in frames
            else f"no decoder for track 1 ({codec_name(container, first)})"
        )
        note = f"video track {tracks.index(chosen) + 1} of {len(tracks)} was read: {why}"
    return chosen, note, was_read


def _extents(
    container: av.container.InputContainer, tracks: Sequence[av.VideoStream]
) -> tuple[dict[int, _Extent], bool]:
    """What each track holds by the container's word; counted in its first packets where it does not say."""
    frames = {track.index: track.frames for track in tracks}
    seconds = {track.index: _seconds(track) for track in tracks}
    was_read = not all(frames.values())
    if was_read:
        frames, ends_s = _count(container, tracks)
        seconds = {index: seconds[index] or ends_s[index] for index in seconds}
    pixels = {track.index: track.width * track.height for track in tracks}
    return {index: _Extent(frames[index], seconds[index], pixels[index]) for index in pixels}, was_read


def _count(
    container: av.container.InputContainer, tracks: Sequence[av.VideoStream]
) -> tuple[dict[int, int], dict[int, float]]:
    """The number of packets of each track and when the last one ends (s), in the first part of a file."""
    packets, ends_s = Counter[int](), dict.fromkeys((track.index for track in tracks), 0.0)
    try:
        for packet in container.demux(*tracks):
            if not packet.size:
                continue
            packets[packet.stream.index] += 1
            if packet.pts is not None:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                ends_s[packet.stream.index] = max(ends_s[packet.stream.index], end_s)
            if packets.total() >= COUNTED_PACKETS:
                break
    except FFmpegError:
        pass  # what is damaged is found when it is decoded
    return {index: packets[index] for index in ends_s}, ends_s


def _largest(tracks: Sequence[av.VideoStream], extents: dict[int, _Extent]) -> av.VideoStream:
    """Of the tracks with about the most frames those of about the longest duration, of these the first with most pixels."""
    most = max(extents[track.index].frames for track in tracks)
    left = [track for track in tracks if extents[track.index].frames >= SIMILAR_SHARE * most]
    longest = max(extents[track.index].seconds for track in left)
    left = [track for track in left if extents[track.index].seconds >= SIMILAR_SHARE * longest]
    return max(left, key=lambda track: extents[track.index].pixels)


def _seconds(track: av.VideoStream | av.AudioStream) -> float:
    return 0.0 if track.duration is None or track.time_base is None else float(track.duration * track.time_base)


def codec_name(container: av.container.InputContainer, track: av.VideoStream | av.AudioStream) -> str:
    """What the container calls the codec of a track for which there is no decoder, such as 'encv: encrypted'.

    PyAV gives no access to it but by FFmpeg's printed description of the file.
    """
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        described: str = container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(before)
    line = next((each for each in described.splitlines() if re.match(rf"\s*Stream #0:{track.index}\D", each)), "")
    name, tag = re.search(r": (?:Video|Audio): (\w+)", line), re.search(r"\(([^()]{1,16}?) / 0x[0-9A-F]+\)", line)
    found = tag[1] if tag else name[1] if name and name[1] != "none" else "unknown codec"
    return f"{found}: encrypted" if found in ENCRYPTED_CODECS else found


def channel_names(track: av.AudioStream) -> tuple[str, ...]:
    """FFmpeg's names of the channels of an audio track ('FL', 'LFE', 'AMBI0', 'NONE' ...), before it is decoded.

    A layout in an order of its own has a channel map on the heap. PyAV (up to 18.1) copies the pointer into every layout
    object and into every decoded frame, and each of them frees it: the process dies. So the layout is read once, here,
    and the decoder is given one of the same size without a map.
    """
    layout = track.codec_context.layout
    names = tuple(channel.name for channel in layout.channels)
    if names and not track.codec_context.is_open:
        track.codec_context.layout = f"{len(names)} channels"
    return names


def lossless_floats(track: av.AudioStream) -> bool:
    """Whether a track stores floating-point samples as they were given to it, so that they may have any scale."""
    context = track.codec_context
    floats = context.format is not None and context.format.packed.name == "flt"
    return context.name.startswith("pcm_f") or (context.name == "wavpack" and floats)


def decoded_blocks(container: av.container.InputContainer, track: av.AudioStream) -> Iterator[np.ndarray]:
    """All samples of a track from where the container stands, float32 (channels, samples) a frame; broken packets left out."""
    reader, kind = None, ("", "")
    channel_names(track)
    try:
        for packet in container.demux(track):
            with contextlib.suppress(FFmpegError):
                for frame in packet.decode():
                    if reader is None or kind != (frame.format.name, frame.layout.name):
                        reader, kind = AudioFrameReader(frame), (frame.format.name, frame.layout.name)
                    yield reader.read(frame)
    except FFmpegError:
        return  # the rest cannot be read
