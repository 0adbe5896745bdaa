"""Raw files as people have VGGSound and its localisation sets: cut clips, whole videos, pictures and sound, lists."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raymix.config import DatasetConfig
from raymix.data import records
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.data.prepared import list_shards
from tests.support.make_videos import film

Rows = list[dict[str, Any]]
CHEAP = {"codecs": ("mpeg4", "aac"), "fps": 5}
KINDS = (
    {"codecs": ("libx264", "aac"), "fps": 25, "rate": 44_100, "layout": "stereo"},
    {"codecs": ("mpeg4", "mp3"), "fps": 10, "rate": 48_000},
)


def cut_clip(root: Path, name: str, number: int, seconds: float = 10.0, **changes) -> Path:
    """A clip of ten seconds; no two numbers give the same file."""
    kind = KINDS[number] if number < len(KINDS) else CHEAP
    return film(root / "video" / f"{name}.mp4", seconds, **{**kind, "level": 0.1 + 0.005 * number, **changes})


def picture(path: Path, grey: int, size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), grey, np.uint8)).save(path, quality=95)


def sound(path: Path, seconds: float, click_s: float, rate: int = 22_050, channels: int = 2) -> None:
    """A quiet tone with one click, 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate)) / rate
    tone = np.where(np.abs(times - click_s) < 1e-3, 1.0, 0.02 * np.sin(2 * np.pi * 440 * times))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((tone * 32_000).astype("<i2")[:, None], channels, 1).tobytes())


def still(root: Path, name: str, number: int, seconds: float = 10.0) -> None:
    """A picture and its sound in the layout of most systems since 2021; a click in the middle."""
    picture(root / "frames" / f"{name}.jpg", 100 + number)
    sound(root / "audio" / f"{name}.wav", seconds, seconds / 2)


def prepared(settings: DatasetConfig) -> tuple[str, Rows, Rows]:
    """What `prepare` makes in this process: the folder, the rows of all splits, and those of the manifest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_ray_runs", lambda: False)
        folder = prepare_dataset(settings, lambda line: None).prepared
    files = [file for split in records.SPLITS for file in list_shards(folder, split)]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return folder, rows, pq.read_table(f"{folder}/manifest.parquet").to_pylist()
