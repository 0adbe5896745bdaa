"""Media that were extracted before: image files in a folder (or a single image) with an audio file.

The n-th picture of a folder, by name, is the frame at n / `dataset.frames_per_second` seconds, from 0 on; in folders like
frame_013/00411.jpg (DSOL's) it is the frame at 411 / 30 s. The picture of a source that is a picture alone is the frame of
any time. A folder of sounds is one sound in pieces, by name. Where the numbers in names have gaps, the rest stays in its place.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError
from pyarrow import fs

from raymix.data.extraction.audio_decoding import AudioTrack, detect_integer_scale
from raymix.data.extraction.clip_plan import END_TOLERANCE_S, TICK_S, CutSettings, RawClip
from raymix.data.extraction.track_selection import channel_names, choose_audio_track, decoded_blocks, lossless_floats
from raymix.data.media import FRAME_RATE_SETTING, IMAGE_SUFFIXES, ManifestRow, MediaSource, UnusableMediaError
from raymix.runtime.storage import read_bytes, resolve_uri

TRAILING = re.compile(r"(?P<stem>(?:.*\D)?)(?P<number>\d+)(?:\.\w+)?")

WIDE = 1.5  # times the smallest step from number to number: more is a gap

OFF = 0.25  # so far from a whole number of steps a gap may be: numbers may be rounded times


@dataclass(frozen=True)
class NumberedFiles:
    """The place of each file, in files after the first one, and what the first one is called, in files too."""

    places: tuple[int, ...]
    first: int = 0

    @staticmethod
    def of(paths: Sequence[str]) -> NumberedFiles:
        """Places by the numbers that end the names, by the order where these have none; any step from name to name will do.

        Unusable where something is missing and the numbers have no step: who could say where the others belong?
        """
        matches = [TRAILING.fullmatch(path) for path in paths]
        numbers = [int(match["number"]) for match in matches if match]
        in_order = NumberedFiles(tuple(range(len(paths))))
        if len(numbers) < len(paths) or len({match["stem"] for match in matches if match}) > 1 or len(paths) < 2:
            return in_order
        steps = [after - before for before, after in itertools.pairwise(numbers)]
        if min(steps) <= 0:  # 1.jpg and 01.jpg, 1.jpg and 1.png: their order is all there is
            return in_order
        single = [step for step in steps if step <= WIDE * min(steps)]
        usual = sum(single) / len(single)
        if any(abs(step / usual - round(step / usual)) > OFF for step in steps):
            shown = ", ".join(path.rpartition("/")[2] for path in paths[:4])
            raise UnusableMediaError("corrupt", f"the numbers of {shown} ... follow no step: nothing tells their times")
        return NumberedFiles(
            tuple(round((number - numbers[0]) / usual) for number in numbers), round(numbers[0] / usual)
        )

    def missing(self, position: int) -> int:
        """How many files are missing just before this one."""
        return self.places[position] - self.places[position - 1] - 1 if position else 0


def natural_sort_key(path: str) -> list[tuple[int, str]]:
    """Sorts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]


NUMBERED = re.compile(r"(?:.*/)?frame_(\d+)/(\d+)\.\w+")

NUMBERED_RATE = 30  # frames a second that DSOL's numbers count

NUMBERED_HOLD_S = 0.5  # its pictures are 0.23 to 0.3 s apart

APART_S = 1.1  # more than this between the ends of pictures and sound is no rounding

MAX_LENGTH_RATIO = 1.1  # pieces of sound are of one length where the longest is at most so many times the shortest

Gap = tuple[float, float]  # s, from and to

AUDIO_FORMATS = "wav,flac,mp3,ogg,mov,mp4,m4a"


@dataclass(frozen=True)
class _Shown:
    """The pictures of a source in time."""

    paths: list[str]
    times: list[float]  # s
    step_s: float  # from one to the next
    hold_s: float  # so long one stands for what is on the screen
    counted: bool  # their times are those of `dataset.frames_per_second`
    first: int = 0

    @property
    def end_s(self) -> float:
        return self.times[-1] + self.step_s

    def has(self, place: int, moment: float) -> bool:
        """Whether a picture is of a moment, or none is missing between."""
        late_s = END_TOLERANCE_S if place == len(self.times) - 1 else TICK_S
        return len(self.times) == 1 or abs(moment - self.times[place]) < self.hold_s + late_s

    @property
    def gaps(self) -> list[Gap]:
        pairs = itertools.pairwise(self.times)
        return [(before + self.step_s, after) for before, after in pairs if after - before > self.hold_s + TICK_S]


@dataclass(frozen=True)
class _Heard:
    """The sound of a source, from one file or from pieces that lie one after the other."""

    sound: AudioTrack
    gaps: list[Gap]
    piece_s: float  # the usual length of a piece
    first: int = 0

    def has(self, from_s: float, to_s: float) -> bool:
        """Whether nothing is missing of a stretch."""
        return not any(low < to_s - TICK_S and from_s + TICK_S < high for low, high in self.gaps)


def cut_frames_and_audio(
    root: str, source: MediaSource, rate: float, how: CutSettings, entry: ManifestRow
) -> Iterator[RawClip]:
    """The cuts of pictures and sound in time; fills `entry`, raises Unusable where they end being that.

    Cuts of which a picture or a part of the sound is missing are left out, and counted in the row's reason.
    """
    filesystem, base = resolve_uri(root)
    shown = _pictures(filesystem, f"{base}/{source.path}", rate)
    files = list_audio_files(filesystem, f"{base}/{source.sound}")
    heard = _sound(files, [read_bytes(filesystem, path) for path in files], entry)
    alone, known, sound = len(shown.paths) == 1, shown.times, heard.sound
    end_s = sound.end_s if alone else min(sound.end_s, shown.end_s)
    plan, number, lost = how.plan(0.0, end_s), 0, 0
    end_s = min(end_s, plan.until)
    entry.fps, entry.duration_s = 0.0 if alone else rate, round(end_s - (how.span or (0.0,))[0], 3)
    repairs = (_gap(shown.gaps, heard.gaps), "" if alone else _unlike(shown, heard, rate), *sound.repairs)
    entry.reason = "; ".join(filter(None, (*repairs, *sound.notes)))
    entry.status = "repaired" if any(repairs) else entry.status
    while (
        plan.more(number)
        and end_s + END_TOLERANCE_S >= plan.start(number) + how.seconds
        and plan.reaches(number, end_s)
    ):
        start_s, moments, given = plan.start(number), plan.moments(number), plan.given(number)
        places = [_place(known, moment, given is not None and not n) for n, moment in enumerate(moments)]
        if all(map(shown.has, places, moments)) and heard.has(start_s, start_s + how.seconds):
            frames = [
                _picture(read_bytes(filesystem, shown.paths[n]), shown.paths[n], how.frame_size, entry) for n in places
            ]
            times = [round(moment if alone else known[n], 6) for n, moment in zip(places, moments, strict=True)]
            yield RawClip(round(start_s, 6), frames, times, sound.between(start_s, how.seconds), given)
        else:
            lost += 1
        number += 1
    plan.account(number, end_s, entry)
    if lost:
        left = f"{lost} clips left out, since a picture or sound of them is missing; the others are kept"
        raise UnusableMediaError("corrupt", "; ".join(filter(None, (entry.reason, left))))


def _unlike(shown: _Shown, heard: _Heard, rate: float) -> str:
    """The note about frames and audio that end at different times; UnusableMediaError where the beginning of one is missing."""
    short_s = shown.end_s - heard.sound.end_s  # of the sound
    note = f"pictures end at {shown.end_s:.1f} s, sound at {heard.sound.end_s:.1f} s"
    if abs(short_s) > APART_S:
        first, what = (heard.first, "pieces of sound") if short_s > 0 else (shown.first, "pictures")
        if first > 1:
            raise UnusableMediaError("corrupt", f"{note}; the {what} begin at number {first}: its time is unknown")
        return note + (f"; {len(shown.paths)} at {FRAME_RATE_SETTING}={rate:g}, is it right?" if shown.counted else "")
    if heard.first == 1 and short_s > heard.piece_s / 2:
        return f"{note}; is the piece of number 0 missing? number 1 was taken for the beginning"
    return ""


def _gap(shown: list[Gap], heard: list[Gap]) -> str:
    """Where something is missing, '' where nothing is."""
    gaps = [(what, *gap) for what, found in (("sound", heard), ("pictures", shown)) for gap in found]
    if not gaps:
        return ""
    what, low_s, high_s = gaps[0]
    more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
    return f"{what} missing by their numbers from {low_s:.2f} to {high_s:.2f} s{more}"


def _place(times: list[float], moment: float, given: bool) -> int:
    """The picture on the screen at a time; of a given time the nearest, for a picture stands for the moment it was taken."""
    place = max(bisect_right(times, moment + TICK_S) - 1, 0)
    later = times[place + 1] if place + 1 < len(times) else float("inf")
    return place + 1 if given and later - moment < moment - times[place] else place


def list_audio_files(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The sound file, or those of a folder in the order of the numbers in their names."""
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        return [path]
    infos = filesystem.get_file_info(fs.FileSelector(path))
    return sorted((info.path for info in infos if info.type == fs.FileType.File), key=natural_sort_key)


def _pictures(filesystem: fs.FileSystem, path: str, rate: float) -> _Shown:
    if path.lower().endswith(IMAGE_SUFFIXES):
        return _Shown([path], [0.0], 0.0, 0.0, False)
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    found = sorted((info.path for info in infos if info.path.lower().endswith(IMAGE_SUFFIXES)), key=natural_sort_key)
    if not found:
        raise UnusableMediaError("no video", "no pictures in the folder")
    if all(numbered := [NUMBERED.fullmatch(each) for each in found]):
        times = [int(match[2]) / NUMBERED_RATE for match in numbered if match]
        return _Shown(found, times, 1 / rate, NUMBERED_HOLD_S, False)
    series = NumberedFiles.of(found)
    return _Shown(found, [place / rate for place in series.places], 1 / rate, 1 / rate, True, series.first)


def _picture(content: bytes, path: str, size: int, entry: ManifestRow) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UnusableMediaError("corrupt", f"{_name(path)}: not a picture that can be opened") from error
    entry.width, entry.height = image.size
    scale = min(1.0, size / min(image.size))
    if scale < 1:
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(small, Image.Resampling.BOX)
    return np.asarray(image)


def _sound(paths: list[str], contents: list[bytes], entry: ManifestRow) -> _Heard:
    series, end_s = NumberedFiles.of(paths), 0.0
    sound, gaps, lengths = AudioTrack(0.0, scale=detect_integer_scale(_floats(contents))), list[Gap](), list[float]()
    for number, content in enumerate(contents):
        if missing := series.missing(number):
            if max(lengths) > MAX_LENGTH_RATIO * min(lengths):
                raise UnusableMediaError(
                    "corrupt", f"no sound before {_name(paths[number])}, and its pieces are not of one length"
                )
            gaps.append((end_s, end_s + missing * median(lengths)))
            end_s = gaps[-1][1]
        sound.origin, start_s = -end_s, end_s  # each piece has a clock of its own
        with _opened(content) as (container, stream):
            sound.channels = channel_names(stream)
            entry.sample_rate, entry.channels = stream.rate, len(sound.channels)
            for frame in container.decode(stream):
                sound.add(frame)
                end_s += frame.samples / frame.sample_rate
        lengths.append(end_s - start_s)
    sound.finish()
    if sound.end_s <= 0:
        raise UnusableMediaError("no audio", "the sound file holds no sound")
    return _Heard(sound, gaps, median(lengths), series.first if len(paths) > 1 else 0)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    """A sound file and its track; inside, what cannot be decoded is Unusable."""
    try:
        with av.open(io.BytesIO(content), "r", options={"format_whitelist": AUDIO_FORMATS}) as container:
            yield container, choose_audio_track(container)[0]
    except (FFmpegError, ValueError) as error:
        raise UnusableMediaError("corrupt", "not a sound file that can be read") from error


def _floats(contents: list[bytes]) -> Iterator[np.ndarray]:
    """The samples of those sound files that may be of any scale."""
    for content in contents:
        with _opened(content) as (container, stream):
            if lossless_floats(stream):
                yield from decoded_blocks(container, stream)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
