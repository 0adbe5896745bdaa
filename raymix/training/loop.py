"""The training loop, for one device or DDP, without Ray: a generator that yields once per epoch.

The method's forward *is* the loss, so DistributedDataParallel's hooks see it; the caller of the generator decides what an
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

from raymix.config import OptimizerConfig, TrainingConfig
from raymix.data.batches import MixtureBatch
from raymix.runtime.distributed import all_reduce_max

CHECK_EVERY = 4  # updates after which Python reads whether to stop, and whether a loss was not finite


class TrialFailedError(Exception):
    """This trial cannot go on (not a number, out of memory, a combination that cannot run); the message is the reason."""


@dataclass
class EpochResult:
    """What one pass over the training clips gave; seconds are wall time of this rank."""

    number: int
    train: dict[str, float] = field(default_factory=dict)
    began: float = 0.0  # Unix time of the first step
    ended: float = 0.0
    steps: int = 0  # updates
    step_seconds: float = 0.0  # forward, backward and update
    wait_seconds: float = 0.0  # for data


@dataclass
class StepTimer:
    """Seconds since the worker started, over all its trials: what an epoch that was cut short cost counts too."""

    steps: float = 0.0
    waits: float = 0.0


def build_optimizer(method: nn.Module, settings: OptimizerConfig) -> torch.optim.Adam:
    """Adam as the paper's code uses it: L2 weight decay in the gradient; the learning rate is the one in the config.

    Fused: one kernel an update, which can be skipped by a tensor on the device (see `NonFiniteGuard`).
    """
    return torch.optim.Adam(
        method.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


class NonFiniteGuard:
    """Skips every update from the first non-finite loss or gradient on, on all ranks, without waiting for the device.

    Whether to skip is a tensor on the device. It reaches the optimizer as `found_inf`, the way `torch.amp.GradScaler` skips
    a step: a fused optimizer then changes neither parameters nor its own state. For an optimizer that is not fused, Python
    reads the tensor before each update.

    Args:
        optimizer: Steps the parameters of all its groups.
        device: Where losses and gradients are.
        max_grad_norm: Largest 2-norm of the gradient; 0 leaves it as it is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, max_grad_norm: float = 0.0) -> None:
        self._optimizer, self._clip = optimizer, max_grad_norm
        self._parameters = [each for group in optimizer.param_groups for each in group["params"]]
        self._fused = all(group.get("fused") for group in optimizer.param_groups)
        self._found = torch.zeros(
            2, device=device
        )  # 1 where the first skipped update had a non-finite [loss, gradient]
        self._loss = torch.zeros((), device=device)  # 1 when a loss since the last update was not finite
        self._done = torch.zeros((), device=device)  # updates of this epoch that were not skipped

    def begin_epoch(self) -> None:
        self._done.zero_()

    @torch.no_grad()
    def add_loss(self, loss: Tensor) -> None:
        """Take in one loss (a scalar) of the coming update."""
        self._loss = torch.maximum(self._loss, (~loss.detach().isfinite()).float())

    @torch.no_grad()
    def step(self) -> None:
        """Clip the gradient and step the optimizer, unless a loss or gradient of any rank was not finite by now."""
        found = all_reduce_max(torch.stack([self._loss, (~self._norm().isfinite()).float()]))
        self._found = torch.where(self._found.any(), self._found, found)
        self._loss.zero_()
        skip = self._found.amax()
        self._done += 1 - skip
        if self._fused:
            self._optimizer.found_inf = skip  # type: ignore[attr-defined]
            self._optimizer.step()
        elif not self.stopped:
            self._optimizer.step()

    def _norm(self) -> Tensor:
        """The 2-norm of the gradient before clipping; under DDP it is the same on all ranks."""
        if self._clip > 0:
            return nn.utils.clip_grad_norm_(self._parameters, self._clip)
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        return nn.utils.get_total_norm(gradients)

    @property
    def stopped(self) -> bool:
        """Whether updates are being skipped; the same on all ranks. Waits for the device."""
        return bool(self._found.amax())

    def reason(self, epoch: int) -> str:
        """One sentence: what was not finite, and in which step."""
        what = "loss" if bool(self._found[0]) else "gradient"
        return f"the {what} is not finite (epoch {epoch}, step {int(self._done) + 1})"


def train_epochs(
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], Iterable[MixtureBatch]],
    settings: TrainingConfig,
    *,
    first: int = 1,
    max_grad_norm: float = 0.0,
    device: torch.device | str = "cpu",
    agree: Callable[[list[float]], list[float]] = lambda flags: flags,
    stop: Callable[[], bool] = lambda: False,
    after: Callable[[int], object] = lambda number: None,
    clock: StepTimer | None = None,
) -> Iterator[EpochResult]:
    """Train from epoch `first` to `settings.epochs`, yielding an EpochResult after each epoch; ends early, without a yield, on `stop`.

    `method(mixture)` returns (loss, diagnostics); `batches(epoch)` yields the mixtures of this rank,
    `settings.gradient_accumulation_steps` of them per update (a rest too small for an update moves no weight). `agree` takes
    numbers of this rank and returns their maximum over all ranks, so that every rank stops at the same step; `after` is called
    between an epoch's last step and its yield.

    Raises TrialFailedError, on every rank alike, when a loss or gradient of any rank is not finite: the weights are then those
    before that step.
    """
    device, clock = torch.device(device), clock or StepTimer()
    guard = NonFiniteGuard(optimizer, device, max_grad_norm)
    half = torch.autocast(device.type, torch.bfloat16) if settings.precision == "bf16" else contextlib.nullcontext()
    alone = getattr(method, "no_sync", contextlib.nullcontext)  # DDP: leave the gradient on this rank for now
    for number in range(first, settings.epochs + 1):
        method.train()
        if settings.frozen_batch_norm:
            _freeze_batch_norm(method)
        epoch = EpochResult(number)
        guard.begin_epoch()
        sums: dict[str, Tensor] = {}
        mark = time.perf_counter()
        for piece, mixture in enumerate(batches(number)):
            begins, ends = (
                piece % settings.gradient_accumulation_steps == 0,
                (piece + 1) % settings.gradient_accumulation_steps == 0,
            )  # an update
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
                (loss / settings.gradient_accumulation_steps).backward()
            guard.add_loss(loss)
            for name, value in {"loss": loss, **diagnostics}.items():
                # Summed on the device: reading a number every step would make the GPU wait for Python.
                sums[name] = sums.get(name, 0.0) + value.detach().float()
            if ends:
                guard.step()
                epoch.steps += 1
            mark = time.perf_counter()
            epoch.step_seconds += mark - waited
            clock.steps += mark - waited
            if ends and epoch.steps % CHECK_EVERY == 0:
                if guard.stopped:
                    raise TrialFailedError(guard.reason(number))
                if agree([float(stop())])[0]:
                    return
        if not epoch.steps:
            raise TrialFailedError("no batch: fewer training clips than one batch on some worker")
        if guard.stopped:
            raise TrialFailedError(guard.reason(number))
        means = {name: float(total) / (piece + 1) for name, total in sums.items()}
        odd = [
            name for name, mean in means.items() if not math.isfinite(mean)
        ]  # the loss: of pieces too few for an update
        if agree([float(bool(odd))])[0]:
            raise TrialFailedError(
                f"{' and '.join(odd) or 'a value of another worker'}: not finite (mean over epoch {number})"
            )
        after(number)
        epoch.train, epoch.ended = means, time.time()
        yield epoch


def _freeze_batch_norm(method: nn.Module) -> None:
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def capture_training_state(optimizer: torch.optim.Optimizer, epoch: int) -> dict[str, Any]:
    """What a resumed run needs besides the weights: optimizer, epoch, and the generators' states."""
    state = {"optimizer": optimizer.state_dict(), "epoch": epoch, "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    return state


def load_training_state(optimizer: torch.optim.Optimizer, state: dict[str, Any], *, generators: bool = True) -> int:
    """Load what `capture_training_state` saved; returns the epoch to start with.

    The hyper-parameters in the optimizer's groups (learning rate, weight decay and all others) stay those that the optimizer
    was made with; the checkpoint may be another trial's, as in population-based training. What was accumulated in
    training (moments, step counts) is loaded.

    Args:
        generators: Also restore the states of the random number generators; not those of another trial.
    """
    saved, own = state["optimizer"], optimizer.state_dict()["param_groups"]
    groups = [{**group, "params": theirs["params"]} for group, theirs in zip(own, saved["param_groups"], strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    if generators:
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"])
    return int(state["epoch"]) + 1
