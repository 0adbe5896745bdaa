"""Every method on one device, without Ray: is it the same method there, and what does it cost?

    python tests/benchmarks/methods_speed.py             a GPU beside this CPU: 224 px, ResNet-18, 64 clips
    python tests/benchmarks/methods_speed.py --smoke     seconds on a laptop: does it run at all?

Each method gets one batch of groups of two clips. "loss off" and "maps off" are the relative differences from the CPU's
fp32 of the same weights (TF32 off), "bf16 off" that of the loss under autocast. Speeds are those of whole updates
(forward, backward, Adam), TF32 on and channels last; scenes are 224 px, 16 at a time. Exit code 1 where fp32 is off by
more than .1 %, bf16 by more than 5 %, or a gradient is missing or not finite.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from raymix.config import METHOD_CONFIGS
from raymix.data.batches import MixtureBatch, SceneBatch
from raymix.methods import METHODS, build_method
from raymix.methods.base import Method

SAME, ROUNDED = 1e-3, 0.05


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, value in {"size": 224, "clips": 64, "width": 64, "blocks": 2, "stages": 4, "steps": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--smoke", action="store_true", help="32 px, 8 clips, width 4, one block, 2 steps")
    if parser.parse_args().smoke:
        parser.set_defaults(size=32, clips=8, width=4, blocks=1, stages=3, steps=2)
    return parser.parse_args()


def batch(clips: int, size: int) -> MixtureBatch:
    """Groups of two clips that can be told apart by colour and by pitch, three frames each, .96 s."""
    rng = torch.Generator().manual_seed(1)
    colour = torch.rand(clips // 2, 2, 1, 3, 1, 1, generator=rng)
    pictures = (colour + 0.1 * torch.rand(clips // 2, 2, 3, 3, size, size, generator=rng)).clamp(0, 1)
    sounds = 0.05 * torch.randn(2, clips // 2, 2, 65, 81, dtype=torch.complex64, generator=rng)
    sounds += 4 * (torch.arange(81) == 5 + (60 * colour[:, :, 0, 0]).long())
    return MixtureBatch(pictures[:, :, 0], sounds[0].sum(1), sounds[1].sum(1), sounds[0], pictures[:, :, 1:])


def scenes(count: int, size: int) -> SceneBatch:
    rng = torch.Generator().manual_seed(2)
    return SceneBatch(
        layout="single",
        ids=[f"s{n}" for n in range(count)],
        videos=[(f"v{n}",) for n in range(count)],
        frames_N3YX=torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=rng),
        mixture_NTF=torch.randn(count, 193, 81, dtype=torch.complex64, generator=rng),
        panels_NS=torch.zeros(count, 1, dtype=torch.int64),
        rects_P4=torch.tensor([[0, 0, size, size]]),
        masks_NSYX=None,
        has_truth_N=None,
        hash="",
    )


def moved(thing: MixtureBatch | SceneBatch, device: str) -> MixtureBatch | SceneBatch:
    made = {each.name: getattr(thing, each.name) for each in fields(thing)}
    return type(thing)(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in made.items()})


@contextlib.contextmanager
def exactly(exact: bool) -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not exact
    yield


def apart(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def speed(method: Method, mixture: MixtureBatch, steps: int, autocast: bool) -> float:
    """Clips per second of whole updates."""
    device = mixture.mixture_BTF.device.type
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-4)
    for step in range(steps + 3):
        if step == 3:
            _wait(device)
            began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss, _ = method(mixture)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return steps * mixture.frames_BK3YX.shape[0] * mixture.frames_BK3YX.shape[1] / (time.perf_counter() - began)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def line(name: str, given: argparse.Namespace) -> tuple[str, bool]:
    encoder = {"width": given.width, "blocks": given.blocks, "stages": given.stages, "image_size": given.size}
    torch.manual_seed(0)
    steady = {k: 0.0 for k in ("image_dropout", "audio_dropout") if hasattr(METHOD_CONFIGS[name], k)}
    here, there = (build_method(name, 2, encoder, steady) for _ in range(2))
    there.load_state_dict(here.state_dict())
    there.to(given.device)
    mixture, few = batch(given.clips, given.size), scenes(16, given.size)
    same, same_few = moved(mixture, given.device), moved(few, given.device)
    with exactly(True):
        maps = apart(there.predict_heatmaps(same_few).maps_NMHW, here.predict_heatmaps(few).maps_NMHW)
        loss, off = here(mixture)[0], there(same)[0]
        with torch.autocast(given.device, torch.bfloat16):
            rounded = there(same)[0]
        rounded.backward()
    lacking = [
        p for p, v in there.named_parameters() if v.requires_grad and (v.grad is None or not v.grad.isfinite().all())
    ]
    there.zero_grad()
    there.to(memory_format=torch.channels_last)
    if given.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with exactly(False):
        full, half = (speed(there, same, given.steps, autocast) for autocast in (False, True))
        began = time.perf_counter()
        for _ in range(given.steps):
            there.predict_heatmaps(same_few)
        _wait(given.device)
        seen = 16 * given.steps / (time.perf_counter() - began)
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:9.2f}" if given.device == "cuda" else f"{'-':>9}"
    offs = apart(off, loss), maps, apart(rounded, loss)
    good = offs[0] <= SAME and offs[1] <= SAME and offs[2] <= ROUNDED and not lacking
    text = (
        f"{name:16}"
        + "".join(f"{each:10.1e}" for each in offs)
        + f"{full:11.0f}{half:11.0f}{half / full:8.2f}{peak}{seen:10.0f}"
    )
    return text + ("" if good else f"  OFF {lacking[:3]}"), good


def main() -> int:
    given = settings()
    where = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}; {' '.join(f'{k}={v}' for k, v in vars(given).items())}")
    columns = {
        "loss off": 10,
        "maps off": 10,
        "bf16 off": 10,
        "fp32 cl/s": 11,
        "bf16 cl/s": 11,
        "ratio": 8,
        "peak GiB": 9,
    }
    print(" " * 16 + "".join(f"{name:>{wide}}" for name, wide in columns.items()) + f"{'scenes/s':>10}")
    well = True
    for name in given.methods.split(","):
        text, good = line(name, given)
        well = well and good
        print(text, flush=True)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
