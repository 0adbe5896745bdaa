"""Media that somebody has taken apart already: pictures in a folder (or a single one) beside a sound file.

The n-th picture of a folder, by name, is the frame at n / `dataset.frames_per_second` seconds, from 0 on; the picture of
a source that is a picture alone is the frame of any time.
"""

from __future__ import annotations

import io
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
SOUNDS = "wav,flac,mp3,ogg,mov,mp4,m4a"


def cut(root: str, source: Source, rate: float, how: Cutting, entry: Entry) -> Iterator[Cut]:
    """The cuts of pictures and sound in time; fills `entry`, raises Unusable where they end being that."""
    filesystem, base = resolve(root)
    pictures = _pictures(filesystem, f"{base}/{source.path}")
    sound = _sound(get(filesystem, f"{base}/{source.sound}"), entry)
    alone = len(pictures) == 1
    end_s = sound.end_s if alone else min(sound.end_s, len(pictures) / rate)
    plan, number = how.plan(0.0, end_s), 0
    end_s = min(end_s, plan.until)
    entry.fps, entry.duration_s = 0.0 if alone else rate, round(end_s - (how.span or (0.0,))[0], 3)
    while plan.more(number) and end_s + SLACK_S >= plan.start(number) + how.seconds and plan.reaches(number, end_s):
        start_s, frames, times = plan.start(number), [], []
        for moment in plan.moments(number):
            place = 0 if alone else min(int(moment * rate + TICK_S), len(pictures) - 1)
            frames.append(_picture(get(filesystem, pictures[place]), pictures[place], how.frame_size, entry))
            times.append(round(moment if alone else place / rate, 6))
        yield Cut(round(start_s, 6), frames, times, sound.between(start_s, how.seconds))
        number += 1
    plan.account(number, end_s, entry)


def _pictures(filesystem: fs.FileSystem, path: str) -> list[str]:
    if path.lower().endswith(PICTURES):
        return [path]
    infos = filesystem.get_file_info(fs.FileSelector(path))
    found = sorted(info.path for info in infos if info.path.lower().endswith(PICTURES))
    if not found:
        raise Unusable("no video", "no pictures in the folder")
    return found


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


def _sound(content: bytes, entry: Entry) -> Sound:
    sound = Sound(0.0)
    try:
        with av.open(io.BytesIO(content), "r", options={"format_whitelist": SOUNDS}) as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream):
                raise Unusable("no audio", "no audio stream")
            entry.sample_rate, entry.channels = stream.rate, stream.channels
            for frame in container.decode(stream):
                sound.add(frame)
    except (FFmpegError, ValueError) as error:
        raise Unusable("corrupt", "not a sound file that can be read") from error
    sound.finish()
    if sound.end_s <= 0:
        raise Unusable("no audio", "the sound file holds no sound")
    return sound
