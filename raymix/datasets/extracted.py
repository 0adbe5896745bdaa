"""Media that somebody has taken apart already: pictures in a folder (or a single one) beside a sound file.

The n-th picture of a folder, by name, is the frame at n / `dataset.frames_per_second` seconds, from 0 on; in folders like
frame_013/00411.jpg (DSOL's) it is the frame at 411 / 30 s. The picture of a source that is a picture alone is the frame of
any time. A folder of sounds is one sound in pieces, by name.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterator

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError
from pyarrow import fs

from raymix.datasets.cutting import SLACK_S, TICK_S, Cut, Cutting
from raymix.datasets.sound import Sound
from raymix.datasets.source import Entry, Source, Unusable
from raymix.storage import get, resolve

PICTURES = (".jpg", ".jpeg", ".png")
SECOND = re.compile(r"frame_\d+")
NUMBERED = re.compile(r"(?:.*/)?frame_(\d+)/(\d+)\.\w+")
NUMBERED_RATE = 30  # frames a second that DSOL's numbers count
SOUNDS = "wav,flac,mp3,ogg,mov,mp4,m4a"


def cut(root: str, source: Source, rate: float, how: Cutting, entry: Entry) -> Iterator[Cut]:
    """The cuts of pictures and sound in time; fills `entry`, raises Unusable where they end being that."""
    filesystem, base = resolve(root)
    pictures = _pictures(filesystem, f"{base}/{source.path}")
    sound = _sound([get(filesystem, path) for path in pieces(filesystem, f"{base}/{source.sound}")], entry)
    alone, known = len(pictures) == 1, _times(pictures, rate)
    end_s = sound.end_s if alone else min(sound.end_s, known[-1] + 1 / rate)
    plan, number = how.plan(0.0, end_s), 0
    end_s = min(end_s, plan.until)
    entry.fps, entry.duration_s = 0.0 if alone else rate, round(end_s - (how.span or (0.0,))[0], 3)
    while plan.more(number) and end_s + SLACK_S >= plan.start(number) + how.seconds and plan.reaches(number, end_s):
        start_s, frames, times = plan.start(number), [], []
        for position, moment in enumerate(plan.moments(number)):
            place = 0 if alone else _place(known, moment, bool(how.at) and not position)
            frames.append(_picture(get(filesystem, pictures[place]), pictures[place], how.frame_size, entry))
            times.append(round(moment if alone else known[place], 6))
        wave = sound.between(start_s, how.seconds)
        yield Cut(round(start_s, 6), frames, times, wave, plan.given(number))
        number += 1
    plan.account(number, end_s, entry)


def _place(times: list[float], moment: float, given: bool) -> int:
    """The picture on the screen at a time; of a given time the nearest, for a picture stands for the moment it was taken."""
    place = max(bisect_right(times, moment + TICK_S) - 1, 0)
    later = times[place + 1] if place + 1 < len(times) else float("inf")
    return place + 1 if given and later - moment < moment - times[place] else place


def pieces(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The sound file, or those of a folder in the order of the numbers in their names."""
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        return [path]
    infos = filesystem.get_file_info(fs.FileSelector(path))
    return sorted((info.path for info in infos if info.type == fs.FileType.File), key=_order)


def _pictures(filesystem: fs.FileSystem, path: str) -> list[str]:
    if path.lower().endswith(PICTURES):
        return [path]
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    found = sorted((info.path for info in infos if info.path.lower().endswith(PICTURES)), key=_order)
    if not found:
        raise Unusable("no video", "no pictures in the folder")
    return found


def _order(path: str) -> list[tuple[int, str]]:
    """Sorts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]


def _times(pictures: list[str], rate: float) -> list[float]:
    """When each picture is on the screen, in seconds."""
    numbered = [NUMBERED.fullmatch(path) for path in pictures]
    if all(numbered):
        return [int(match[2]) / NUMBERED_RATE for match in numbered if match]
    return [number / rate for number in range(len(pictures))]


def _picture(content: bytes, path: str, size: int, entry: Entry) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise Unusable("corrupt", f"{path.rpartition('/')[2]}: not a picture that can be opened") from error
    entry.width, entry.height = image.size
    scale = min(1.0, size / min(image.size))
    if scale < 1:
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(small, Image.Resampling.BOX)
    return np.asarray(image)


def _sound(contents: list[bytes], entry: Entry) -> Sound:
    sound, end_s = Sound(0.0), 0.0
    for content in contents:
        sound.origin = -end_s  # each piece has a clock of its own
        try:
            with av.open(io.BytesIO(content), "r", options={"format_whitelist": SOUNDS}) as container:
                stream = container.streams.best("audio")
                if not isinstance(stream, av.AudioStream):
                    raise Unusable("no audio", "no audio stream")
                entry.sample_rate, entry.channels = stream.rate, stream.channels
                for frame in container.decode(stream):
                    sound.add(frame)
                    end_s += frame.samples / frame.sample_rate
        except (FFmpegError, ValueError) as error:
            raise Unusable("corrupt", "not a sound file that can be read") from error
    sound.finish()
    if sound.end_s <= 0:
        raise Unusable("no audio", "the sound file holds no sound")
    return sound
