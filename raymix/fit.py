"""The training loop: one page, one device or many, no Ray; it yields once per epoch.

The method's forward *is* the loss, so DistributedDataParallel's hooks see it; whoever drives the generator decides what an
epoch is followed by (a checkpoint, a score, the next trial). Section 4.1 of the paper: Adam, no schedule.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raymix.config import Fit, Optimizer
from raymix.mixture import Mixture

CHECK_EVERY = 4  # updates between two looks at "stop?" and "finite?"; both need all ranks to agree


class TrialFailed(Exception):
    """This trial cannot go on (not a number, out of memory, a combination that cannot run); the message is the reason."""


@dataclass
class Epoch:
    """What one pass over the training clips gave; seconds are wall time of this rank."""

    number: int
    train: dict[str, float] = field(default_factory=dict)
    began: float = 0.0  # Unix time of the first step
    ended: float = 0.0
    steps: int = 0  # updates
    step_seconds: float = 0.0  # forward, backward and update
    wait_seconds: float = 0.0  # for data


@dataclass
class Clock:
    """Seconds since the worker started, over all its trials: what an epoch that was cut short cost counts too."""

    steps: float = 0.0
    waits: float = 0.0


def adam(method: nn.Module, settings: Optimizer) -> torch.optim.Adam:
    """Adam as the paper's code uses it: L2 weight decay in the gradient; the learning rate is the one in the config."""
    return torch.optim.Adam(method.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def fit(
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], Iterable[Mixture]],
    settings: Fit,
    *,
    first: int = 1,
    clip_gradient: float = 0.0,
    device: torch.device | str = "cpu",
    agree: Callable[[list[float]], list[float]] = lambda flags: flags,
    stop: Callable[[], bool] = lambda: False,
    after: Callable[[int], object] = lambda number: None,
    clock: Clock | None = None,
) -> Iterator[Epoch]:
    """Train from epoch `first` to `settings.epochs`, yielding each finished Epoch; ends early, without a yield, on `stop`.

    `method(mixture)` returns (loss, diagnostics); `batches(epoch)` gives this rank's mixtures, `settings.accumulate` of them
    to an update (a rest too few for one moves no weight). `agree` takes numbers of this rank and returns their largest
    over all ranks, so that every rank leaves at the same step; `after` is called between an epoch's last step and its
    yield. Raises TrialFailed, on every rank alike, when the loss
    is no longer finite.
    """
    device, clock = torch.device(device), clock or Clock()
    half = torch.autocast(device.type, torch.bfloat16) if settings.precision == "bf16" else contextlib.nullcontext()
    alone = getattr(method, "no_sync", contextlib.nullcontext)  # DDP: leave the gradient on this rank for now
    for number in range(first, settings.epochs + 1):
        method.train()
        if settings.frozen_batch_norm:
            _freeze_batch_norm(method)
        epoch = Epoch(number)
        sums: dict[str, Tensor] = {}
        mark = time.perf_counter()
        for piece, mixture in enumerate(batches(number)):
            begins, ends = piece % settings.accumulate == 0, (piece + 1) % settings.accumulate == 0  # an update
            mixture = mixture.to(device)
            waited = time.perf_counter()
            epoch.began = epoch.began or time.time()
            epoch.wait_seconds += waited - mark
            clock.waits += waited - mark
            if begins:
                optimizer.zero_grad(set_to_none=True)
            with contextlib.nullcontext() if ends else alone():
                with half:
                    loss, diagnostics = method(mixture)
                (loss / settings.accumulate).backward()
            for name, value in {"loss": loss, **diagnostics}.items():
                # Summed on the device: reading a number every step would make the GPU wait for Python.
                sums[name] = sums.get(name, 0.0) + value.detach().float()
            if ends:
                if clip_gradient > 0:
                    nn.utils.clip_grad_norm_(method.parameters(), clip_gradient)
                optimizer.step()
                epoch.steps += 1
            mark = time.perf_counter()
            epoch.step_seconds += mark - waited
            clock.steps += mark - waited
            if ends and epoch.steps % CHECK_EVERY == 0:
                halt, broken = agree([float(stop()), float(not math.isfinite(float(sums["loss"])))])
                if broken:
                    raise TrialFailed(f"the loss is not finite (epoch {number}, step {epoch.steps})")
                if halt:
                    return
        if not epoch.steps:
            raise TrialFailed("no batch: fewer training clips than one batch on some worker")
        means = {name: float(total) / (piece + 1) for name, total in sums.items()}
        if agree([float(not all(map(math.isfinite, means.values())))])[0]:
            raise TrialFailed(f"the loss is not finite (epoch {number})")
        after(number)
        epoch.train, epoch.ended = means, time.time()
        yield epoch


def _freeze_batch_norm(method: nn.Module) -> None:
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def training_state(optimizer: torch.optim.Optimizer, epoch: int) -> dict[str, Any]:
    """What a resumed run needs besides the weights: optimizer, epoch, and the generators' states."""
    state = {"optimizer": optimizer.state_dict(), "epoch": epoch, "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    return state


def resume(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> int:
    """Put `training_state` back; returns the epoch to start with."""
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])
    return int(state["epoch"]) + 1
