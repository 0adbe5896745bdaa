"""Timing of an update and of scoring a scene on this machine, with the real method and sizes on synthetic clips."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from raymix.config import TrainConfig
from raymix.data.audio import FREQUENCY_BINS, HOP, SAMPLE_RATE
from raymix.data.batches import MixtureBatch, SceneBatch
from raymix.data.mixing import make_mixture_batch
from raymix.data.records import ClipTable
from raymix.data.scenes import compose_scenes
from raymix.methods import data_requirements, method_from_config
from raymix.methods.base import Method
from raymix.training.loop import NonFiniteGuard, build_optimizer

TIMED_SECONDS = 1.5  # that the timed updates may take together, about; as much again for mixing and scenes

MIN_TIMED_STEPS = 8  # clips of the first update, from which the number of the others is estimated

TIMED_SCENES = 4  # that are composed and scored


@dataclass(frozen=True)
class StepCost:
    """Seconds on one worker of this machine, and the size of a checkpoint."""

    update_s: float  # forward, backward and Adam of this worker's share of a batch
    mix_s: float  # to crop and mix the clips of that share, in the thread that does so
    scene_s: float  # maps of one `grid2x2` scene
    one_map: bool  # the method has one map, so other scenes are scored too
    checkpoint_bytes: int  # weights and the optimizer's state
    device: str


def measure_step_cost(run: TrainConfig) -> StepCost:
    """Build the method of a run and time updates and scenes for about 3 s.

    Updates are of as many clips as the time allows, at most a worker's share of the batch, and are scaled to that share.
    Whatever the method raises where it cannot be trained comes through.
    """
    cuda = run.cluster.gpus_per_worker > 0 and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    threads = torch.get_num_threads()
    random_state = torch.get_rng_state()
    torch.set_num_threads(max(1, int(run.cluster.cpus_per_worker)))
    try:
        return _measure(run, device)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(random_state)


def _measure(run: TrainConfig, device: torch.device) -> StepCost:
    layout = torch.channels_last if run.training.channels_last else torch.contiguous_format
    method = method_from_config(run, pretrained=False).to(device)
    method.to(memory_format=layout)
    share = max(run.mixture.k, run.training.batch_size // run.cluster.most)
    clips = _clips(run, min(share, 4 * MIN_TIMED_STEPS))
    update = _updates(method, clips, run, device)
    begun = time.perf_counter()
    count, mix_s = _group_size(run, len(clips)), 0.0
    _mixture(clips, run, count)
    mix_s = time.perf_counter() - begun
    first = update(count)  # allocates; only its magnitude counts
    affordable = int(TIMED_SECONDS / 2 / max(first, 1e-6) * count)
    many = _group_size(run, max(count, min(share, affordable)))
    update(many)
    repeats = max(1, min(10, int(TIMED_SECONDS / 2 / max(first * many / count, 1e-6))))
    seconds = float(np.median([update(many) for _ in range(repeats)]))
    scene_s, maps = _scored(method, clips, run, device)
    weights = sum(value.numel() * value.element_size() for value in method.state_dict().values())
    state = 2 * sum(value.numel() * value.element_size() for value in method.parameters())
    return StepCost(seconds * share / many, mix_s * share / count, scene_s, maps == 1, weights + state, device.type)


def _group_size(run: TrainConfig, clips: int) -> int:
    """So many clips, in whole groups: two groups at least, since some methods compare groups."""
    return max(2, clips // run.mixture.k) * run.mixture.k


def _clips(run: TrainConfig, count: int) -> ClipTable:
    """Random clips of the stored shape, each of another video."""
    rng, count = np.random.default_rng(0), max(count, MIN_TIMED_STEPS)
    size, steps = run.encoder.image_size, math.ceil(run.dataset.clip_seconds * SAMPLE_RATE / HOP) + 1
    names = np.array([f"clip{number}" for number in range(count)])
    empty = np.full(count, "")
    frames = rng.integers(0, 256, (count, data_requirements(run).frames, size, size, 3), dtype=np.uint8)
    stft = rng.standard_normal((count, steps, FREQUENCY_BINS, 2)).astype(np.float16)
    return ClipTable(names, names, empty, empty, frames, stft)


def _mixture(clips: ClipTable, run: TrainConfig, count: int) -> MixtureBatch:
    m, wanted = run.mixture, data_requirements(run)
    places = np.arange(count) % len(clips)  # with more than there are, a group may hold one twice: it takes as long
    return make_mixture_batch(
        clips,
        places.reshape(-1, m.k),
        seed=0,
        epoch=1,
        seconds=m.seconds,
        rule=m.reduction,
        level=m.loudness,
        image_size=run.encoder.image_size,
        crop=m.crop,
        flip=m.flip,
        keep_sources=wanted.sources,
        frames=wanted.frames,
        windows=wanted.windows,
    )


def _updates(method: Method, clips: ClipTable, run: TrainConfig, device: torch.device) -> Callable[[int], float]:
    """A function that makes one update of so many clips and returns its seconds."""
    optimizer = build_optimizer(method, run.optimizer)
    guard = NonFiniteGuard(optimizer, device, run.optimizer.max_grad_norm)
    half = torch.autocast(device.type, torch.bfloat16) if run.training.precision == "bf16" else contextlib.nullcontext()

    def update(count: int) -> float:
        mixture = _mixture(clips, run, count).to(device)
        method.train()
        _wait(device)
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss, _ = method(mixture)
        loss.backward()
        guard.add_loss(loss)
        guard.step()
        _wait(device)
        return time.perf_counter() - begun

    return update


def _scored(method: Method, clips: ClipTable, run: TrainConfig, device: torch.device) -> tuple[float, int]:
    """Seconds of one `grid2x2` scene, and the number of maps."""
    m = run.mixture
    scenes = compose_scenes(
        clips, layout="grid2x2", count=TIMED_SCENES, seed=0, seconds=m.seconds, rule=m.reduction, level=m.loudness
    )
    scenes = replace(scenes, masks_NSYX=None)
    _localise(method, scenes, device)
    begun = time.perf_counter()
    maps = _localise(method, scenes, device)
    return (time.perf_counter() - begun) / len(scenes), maps


def _localise(method: Method, scenes: SceneBatch, device: torch.device) -> int:
    with torch.inference_mode():
        maps = method.predict_heatmaps(scenes.to(device)).maps_NMHW.float().cpu()
    return int(maps.shape[1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
