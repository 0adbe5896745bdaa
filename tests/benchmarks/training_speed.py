"""How fast the training loop is, on one device without Ray: the paper's setting, bf16 against fp32, and what pays.

    python tests/benchmarks/training_speed.py                  a GPU: 224 px, 128 clips, k = 2, ResNet-18, 128 numbers
    python tests/benchmarks/training_speed.py --compile        with torch.compile too (a minute or more at first)
    python tests/benchmarks/training_speed.py --smoke          a minute on a laptop: does it run at all?

Clips are synthetic and mixed beforehand, so that the loop is measured, not the disk; what mixing costs is printed beside it.
Every variant trains the same model on the same mixtures. "on device" is the share of wall time between the first kernel of
an update and its last one (CUDA events); the rest is spent waiting for Python. fp32 lets cuDNN use TF32, as torch does.
Exit code 1 where the mean loss over all steps is more than 2 % off that in fp32; "fp32 channels_last" computes the same in
another order, so what it is off by is what rounding alone does to a training run.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from raymix.config import OptimizerConfig, TrainingConfig
from raymix.data.audio import FREQUENCY_BINS, stft_frame_count
from raymix.data.batches import MixtureBatch
from raymix.data.mixing import make_mixture_batch
from raymix.data.records import ClipTable
from raymix.methods import build_method
from raymix.training.loop import build_optimizer, train_epochs
from raymix.training.worker import wrap_ddp

TOLERANCE = 0.02
VARIANTS = {  # each beside the one it is compared with
    "fp32": ({}, None),
    "fp32 channels_last": ({"channels_last": True}, "fp32"),
    "bf16": ({"precision": "bf16"}, "fp32"),
    "bf16 channels_last": ({"precision": "bf16", "channels_last": True}, "bf16"),
    "bf16 channels_last compile": (
        {"precision": "bf16", "channels_last": True, "compile": True},
        "bf16 channels_last",
    ),
}


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, value in {
        "size": 224,
        "batch": 128,
        "k": 2,
        "width": 64,
        "blocks": 2,
        "stages": 4,
        "embedding": 128,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--steps", type=int, default=50, help="updates that are measured, after one fifth as many to warm up"
    )
    parser.add_argument("--accumulate", type=int, default=1, help="pieces of a batch")
    parser.add_argument("--mixtures", type=int, default=60, help="different batches in memory (60: none comes twice)")
    parser.add_argument("--seconds", type=float, default=0.96, help="of sound")
    parser.add_argument("--compile", action="store_true", help="with the variant that torch.compile makes")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms first")
    parser.add_argument("--smoke", action="store_true", help="32 px, 8 clips, width 4, one block, 10 steps")
    if parser.parse_args().smoke:
        parser.set_defaults(size=32, batch=8, width=4, blocks=1, stages=3, embedding=16, steps=10, mixtures=4)
    return parser.parse_args()


def clips(given: argparse.Namespace) -> ClipTable:
    """Sixteen kinds of clips, told apart by a tint and a faint pitch, each a video of its own.

    Plainer ones are learnt within 50 steps; then rounding alone decides how soon, and losses near zero differ by much.
    """
    rng, count = np.random.default_rng(0), given.batch * given.mixtures
    kind_N, frames = rng.integers(0, 16, count), stft_frame_count(given.seconds) + 16
    colours = rng.integers(0, 256, (16, 3))
    pictures = rng.integers(0, 192, (count, 1, given.size, given.size, 3), dtype=np.uint8)
    pictures += (colours[kind_N] * 0.25).astype(np.uint8)[:, None, None, None]
    sound = (0.5 * rng.standard_normal((count, frames, FREQUENCY_BINS, 2), dtype=np.float32)).astype(np.float16)
    sound[np.arange(count), :, 4 + 4 * kind_N] += 1
    names = np.array([f"{n:05d}" for n in range(count)])
    return ClipTable(clip_id=names, video=names, group=names, frames=pictures, stft=sound, label=names)


def mixtures(given: argparse.Namespace) -> tuple[list[MixtureBatch], float]:
    """The pieces of `mixtures` batches, pinned where there is a GPU, and clips mixed per second by one thread."""
    made, source, began = [], clips(given), time.perf_counter()
    for groups_BK in np.split(np.arange(len(source.clip_id)).reshape(-1, given.k), given.mixtures * given.accumulate):
        made.append(
            make_mixture_batch(source, groups_BK, seed=0, epoch=1, seconds=given.seconds, image_size=given.size)
        )
    speed = len(source.clip_id) / (time.perf_counter() - began)
    return [each.pin() for each in made] if given.device.startswith("cuda") else made, speed


@dataclass
class Seen:
    """What one variant gave."""

    losses: list[float] = field(default_factory=list)  # means over a fifth of the steps each
    clips_per_second: float = 0.0
    peak_gib: float = 0.0
    on_device: float = 0.0
    waits: float = 0.0  # for the device, per update
    warm_up_seconds: float = 0.0


def events(method: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[Any, Any]]:
    """A growing list of CUDA events (begin, end) of the updates."""
    pairs: list[tuple[Any, Any]] = []

    def event() -> Any:
        made = torch.cuda.Event(enable_timing=True)
        made.record()
        return made

    def begin(*_: Any) -> None:
        if not pairs or pairs[-1][1] is not None:  # the first piece of an update
            pairs.append((event(), None))

    def end(*_: Any) -> None:
        pairs[-1] = (pairs[-1][0], event())

    method.register_forward_pre_hook(begin)
    optimizer.register_step_post_hook(end)
    return pairs


def train(given: argparse.Namespace, batches: list[MixtureBatch], knobs: dict[str, Any]) -> Seen:
    """Six epochs of a fifth of the steps each; the first is the warm-up."""
    each = max(1, given.steps // 5)
    device, seen = torch.device(given.device), Seen()
    run = TrainingConfig(batch_size=given.batch, epochs=6, gradient_accumulation_steps=given.accumulate, **knobs)
    torch.manual_seed(0)
    encoder = {"width": given.width, "blocks": given.blocks, "stages": given.stages}
    method = build_method("cycle", given.k, encoder, {"embedding_size": given.embedding}).to(device)
    method.to(memory_format=torch.channels_last if run.channels_last else torch.contiguous_format)  # type: ignore[call-overload]
    optimizer, cuda = build_optimizer(method, OptimizerConfig()), device.type == "cuda"
    pairs = events(method, optimizer) if cuda else []

    def epoch(number: int) -> list[MixtureBatch]:
        first = (number - 1) * each * given.accumulate
        return [batches[at % len(batches)] for at in range(first, first + each * given.accumulate)]

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        began = time.perf_counter()
        for done in train_epochs(wrap_ddp(method, run, device), optimizer, epoch, run, device=device):
            if done.number == 1:
                seen.warm_up_seconds, began = time.perf_counter() - began, time.perf_counter()
                pairs.clear(), told.clear()
                if cuda:
                    torch.cuda.reset_peak_memory_stats(device)
                    torch.cuda.set_sync_debug_mode("warn")
            else:
                seen.losses.append(done.train["loss"])
        wall = time.perf_counter() - began  # the last epoch's means were read: nothing is under way
        seen.waits = sum("synchronizing" in str(each.message) for each in told) / (5 * each)
    seen.clips_per_second = 5 * each * given.batch / wall
    if cuda:
        torch.cuda.set_sync_debug_mode("default")
        seen.peak_gib = torch.cuda.max_memory_allocated(device) / 2**30
        seen.on_device = sum(first.elapsed_time(last) for first, last in pairs) / 1000 / wall
    return seen


def main() -> int:
    given = settings()
    torch.backends.cudnn.benchmark = given.cudnn_benchmark
    name = (
        torch.cuda.get_device_name() if given.device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"{name}, torch {torch.__version__}; {' '.join(f'{k}={v}' for k, v in vars(given).items())}")
    batches, speed = mixtures(given)
    print(f"mixing: {speed:.0f} clips/s in one thread")
    print(f"{'':28}{'clips/s':>9}{'ratio':>28}{'peak GiB':>10}{'on device':>11}{'waits/update':>14}{'warm-up s':>11}")
    found: dict[str, Seen] = {}
    for variant, (knobs, beside) in VARIANTS.items():
        if knobs.get("compile") and not given.compile:
            continue
        seen = found[variant] = train(given, batches, knobs)
        ratio = f"{seen.clips_per_second / found[beside].clips_per_second:.2f} x {beside}" if beside else ""
        cuda = (
            f"{seen.peak_gib:10.2f}{seen.on_device:11.1%}{seen.waits:14.2f}"
            if seen.peak_gib
            else f"{'-':>10}{'-':>11}{'-':>14}"
        )
        print(f"{variant:28}{seen.clips_per_second:9.1f}{ratio:>28}{cuda}{seen.warm_up_seconds:11.1f}", flush=True)
    full, off = np.array(found["fp32"].losses), 0.0
    print("mean losses of the five fifths: fp32 " + " ".join(f"{loss:.4f}" for loss in full))
    for variant, seen in found.items():
        apart = np.array(seen.losses) / full - 1
        off = max(off, abs(np.mean(seen.losses) / full.mean() - 1))
        print(
            f"  {variant:26} off by {np.mean(seen.losses) / full.mean() - 1:+.2%}, at most {np.abs(apart).max():.2%} in a fifth"
        )
    print(
        f"largest difference of the mean loss: {off:.2%}, {'within' if off <= TOLERANCE else 'MORE THAN'} {TOLERANCE:.0%}"
    )
    return int(off > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
