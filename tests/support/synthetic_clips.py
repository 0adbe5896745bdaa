"""Clips whose class can be seen (a colour) and heard (a pitch), made without video: for tests of mixing and scenes."""

from __future__ import annotations

import numpy as np
import torch

from raymix.data.audio import stft
from raymix.data.records import ClipTable

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])


def make_clips(count: int = 24, seconds: float = 2.0, size: int = 32, per_video: int = 2, labels: int = 4) -> ClipTable:
    """Clips whose label shows as a colour and sounds as a pitch; the mask is the upper left quarter."""
    rng = np.random.default_rng(0)
    label = (np.arange(count) // per_video) % labels
    time_L = np.arange(int(seconds * 16000)) / 16000
    waves = 0.1 * np.sin(2 * np.pi * (500 * (1 + label)[:, None]) * time_L) + 0.01 * rng.normal(
        size=(count, len(time_L))
    )
    masks = np.zeros((count, size, size), bool)
    masks[:, : size // 2, : size // 2] = True
    frames = np.broadcast_to(COLOURS[label][:, None, None, None], (count, 1, size, size, 3)).astype(np.uint8)
    frames = (frames * rng.uniform(0.5, 1, (count, 1, size, size, 1))).astype(np.uint8)
    return ClipTable(
        clip_id=np.array([f"clip{i:03d}" for i in range(count)]),
        video=np.array([f"video{i // per_video:03d}" for i in range(count)]),
        group=np.array([f"video{i // per_video:03d}" for i in range(count)]),
        label=np.array([f"class{i}" for i in label]),
        frames=frames,
        stft=torch.view_as_real(stft(torch.tensor(waves, dtype=torch.float32))).numpy().astype(np.float16),
        masks=masks,
        has_truth=np.ones(count, bool),
    )
