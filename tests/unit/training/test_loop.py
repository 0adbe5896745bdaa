"""The training loop in a plain process, and on two ranks: the same losses for the same global batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raymix.config import OptimizerConfig, TrainConfig, TrainingConfig
from raymix.data import prepared
from raymix.data.batches import MixtureBatch
from raymix.data.loader import CachedClips, ClipSource, MixtureLoader
from raymix.data.mixing import passes_per_epoch
from raymix.methods import data_requirements, method_from_config
from raymix.training.loop import (
    CHECK_EVERY,
    StepTimer,
    TrialFailedError,
    build_optimizer,
    capture_training_state,
    load_training_state,
    train_epochs,
)
from raymix.training.worker import wrap_ddp
from tests.support.torch_ranks import on_ranks


def small(home: Path, **fit_settings: Any) -> TrainConfig:
    run = TrainConfig()
    run.dataset.prepared = str(home / "clips/demo")
    run.encoder.width, run.encoder.image_size = 4, 64
    run.method = {"name": "cycle", "embedding_size": 8, "temperature": 0.07, "pool": "max"}
    run.optimizer.learning_rate = 1e-3
    run.training = TrainingConfig(**{"batch_size": 8, "epochs": 2, **fit_settings})
    return run


def loader(run: TrainConfig, rank: int = 0, world: int = 1) -> MixtureLoader:
    clips = prepared.read_clips(run.dataset.prepared, "train", run.encoder.image_size, truth=False, labels=False)
    return MixtureLoader(ClipSource((), len(clips), 0, ""), None, rank, world, CachedClips([clips]))


def losses(run: TrainConfig, **more: Any) -> list[float]:
    torch.manual_seed(0)
    method, own = method_from_config(run), loader(run)
    return [
        e.train["loss"]
        for e in train_epochs(
            method,
            build_optimizer(method, run.optimizer),
            lambda n: own.epoch(run, n, data_requirements(run)),
            run.training,
            **more,
        )
    ]


def test_the_same_seed_gives_the_same_losses(demo: Path) -> None:
    first, again = losses(small(demo)), losses(small(demo))
    assert first == again
    assert losses(small(demo, seed=1)) != first


def test_an_epoch_of_few_clips_goes_through_them_until_it_has_its_updates(demo: Path) -> None:
    """Passes are numbered over all epochs: two epochs of three passes are the mixtures of six epochs of one."""
    once, thrice = small(demo), small(demo)
    count = len(list(loader(once).epoch(once, 1, data_requirements(once))))
    assert count >= 2
    thrice.training.min_updates = 2 * count + 1
    assert [passes_per_epoch(thrice.training, clips) for clips in (count * 8, 3 * count * 8, 1)] == [
        3,
        1,
        thrice.training.min_updates,
    ]
    own = loader(thrice)
    found = [
        mixture.mixture_BTF for number in (1, 2) for mixture in own.epoch(thrice, number, data_requirements(thrice))
    ]
    single = [
        mixture.mixture_BTF
        for number in range(1, 7)
        for mixture in loader(once).epoch(once, number, data_requirements(once))
    ]
    assert len(found) == len(single) == 6 * count
    assert all(torch.equal(one, other) for one, other in zip(found, single, strict=True))
    assert not torch.equal(found[0], found[count])  # each pass has groups and windows of its own


def test_a_resumed_run_equals_an_unbroken_one(demo: Path) -> None:
    run = small(demo, epochs=3)
    whole = losses(run)
    torch.manual_seed(0)
    method, own = method_from_config(run), loader(run)
    optimizer = build_optimizer(method, run.optimizer)
    next(iter(train_epochs(method, optimizer, lambda n: own.epoch(run, n, data_requirements(run)), run.training)))
    weights = {k: v.clone() for k, v in method.state_dict().items()}
    state = json.loads(json.dumps({"epoch": 1})) | capture_training_state(optimizer, 1)
    torch.manual_seed(99)
    other = method_from_config(run)
    other.load_state_dict(weights)
    restored = build_optimizer(other, run.optimizer)
    first = load_training_state(restored, state)
    assert first == 2
    rest = [
        e.train["loss"]
        for e in train_epochs(
            other, restored, lambda n: own.epoch(run, n, data_requirements(run)), run.training, first=first
        )
    ]
    assert rest == pytest.approx(whole[1:], abs=1e-7)


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_reason(demo: Path) -> None:
    run = small(demo)
    run.optimizer.learning_rate = 1e30
    with pytest.raises(TrialFailedError, match="not finite"):
        losses(run)


def test_stop_ends_within_a_few_steps_and_its_time_is_counted(demo: Path) -> None:
    run, clock = small(demo, batch_size=2, epochs=50), StepTimer()
    assert losses(run, stop=lambda: True, clock=clock) == []
    assert clock.steps > 0


def test_bf16_stays_finite_and_near(demo: Path) -> None:
    full, half = small(demo, epochs=1), small(demo, epochs=1, precision="bf16")
    full.optimizer.learning_rate = half.optimizer.learning_rate = (
        1e-6  # the two loops must not wander apart by training
    )
    assert losses(half) == pytest.approx(losses(full), rel=0.05)


@pytest.mark.parametrize("pieces", [1, 2])
def test_workers_share_the_global_batch(demo: Path, pieces: int) -> None:
    """Groups are drawn for the whole batch: two ranks together hold what one rank holds, in the same groups and pieces."""
    run = small(demo, gradient_accumulation_steps=pieces)
    for whole, *halves in zip(
        *(loader(run, *at).epoch(run, 1, data_requirements(run)) for at in [(0, 1), (0, 2), (1, 2)]), strict=True
    ):
        together = torch.cat([half.mixture_BTF for half in halves])
        assert torch.equal(together, whole.mixture_BTF) and len(together) == 4 // pieces
        assert torch.equal(torch.cat([half.frames_BK3YX for half in halves]), whole.frames_BK3YX)


def test_pieces_cut_the_same_batches(demo: Path) -> None:
    run, cut = small(demo), small(demo, gradient_accumulation_steps=4)
    whole, pieces = (
        [m.mixture_BTF for m in loader(run).epoch(each, 1, data_requirements(each))] for each in (run, cut)
    )
    assert len(pieces) == 4 * len(whole) and torch.equal(torch.cat(pieces), torch.cat(whole))


class Watched(torch.nn.Module):
    """A method that writes down its losses."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[float] = []

    def forward(self, mixture: Any) -> Any:
        loss, diagnostics = self.inner(mixture)
        self.seen.append(float(loss.detach()))
        return loss, diagnostics


WAYS: dict[str, dict[str, Any]] = {
    "frozen": {"frozen_batch_norm": True},
    "frozen, accumulated": {"frozen_batch_norm": True, "gradient_accumulation_steps": 2},
    "synchronised": {"sync_batch_norm": True},
    "synchronised, accumulated": {"sync_batch_norm": True, "gradient_accumulation_steps": 2},
}


def first_losses(rank: int, world: int, home: str) -> dict[str, list[float]]:
    """The losses of the first five updates on this rank, each way."""
    answer = {}
    for way, settings in WAYS.items():
        run = small(Path(home), **settings)
        # Rounding must stay small to be told from a fault, where BatchNorm sees 4 clips. With weights of seed 0 the loss begins
        # at 5.9, and 1e-7 of the weights moves its second value by 6e-5 in one process alone; with these all five move by
        # less than 4e-6 (and a fault in the gradient, of norm 1, moves them by 1e-3 an update).
        run.method["pool"] = "lse"
        torch.manual_seed(1)
        method = Watched(method_from_config(run))
        optimizer: Any = torch.optim.SGD(method.parameters(), lr=1e-3)
        own = loader(run, rank, world)
        wrapped = wrap_ddp(method, run.training, torch.device("cpu"))
        epochs = train_epochs(
            wrapped,
            optimizer,
            lambda n, own=own, run=run: own.epoch(run, n, data_requirements(run)),
            run.training,
            max_grad_norm=1.0,
        )
        for epoch in epochs:
            pieces = run.training.gradient_accumulation_steps * epoch.steps
            assert epoch.train["loss"] == pytest.approx(np.mean(method.seen[-pieces:]), abs=1e-6)
            if len(method.seen) >= 5 * run.training.gradient_accumulation_steps:
                break
        answer[way] = np.reshape(method.seen, (-1, run.training.gradient_accumulation_steps)).mean(1)[:5].tolist()
    return answer


@pytest.fixture(scope="module")
def groups(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, list[float]]]]:
    return on_ranks(first_losses, (1, 2), tmp_path_factory.mktemp("groups"), str(demo))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_one_and_two_ddp_workers_give_the_same_losses(groups: list[list[dict[str, list[float]]]], way: str) -> None:
    """Same global batch; BatchNorm in evaluation mode, or over the clips of both workers: five losses agree to 1e-5."""
    [[one], two] = groups
    assert len(one[way]) == 5 and len(set(one[way])) == 5
    np.testing.assert_allclose(np.mean([rank[way] for rank in two], axis=0), one[way], atol=1e-5)


@pytest.mark.slow
def test_a_batch_in_pieces_gives_the_losses_of_a_whole_one(groups: list[list[dict[str, list[float]]]]) -> None:
    """Where BatchNorm does not look at the batch: the mean over pieces is the loss, and so is the update."""
    [[one], _] = groups
    np.testing.assert_allclose(one["frozen, accumulated"], one["frozen"], atol=1e-5)
    assert not np.allclose(one["synchronised"], one["frozen"], atol=1e-3)


class Fixed:
    """Mixtures that a test made, where a loader stands; a method of one weight, whose loss is mean(weight x number)."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = numbers

    def __call__(self, epoch: int) -> list[Any]:
        one = torch.ones(1, 1, 1, 1, 1)
        return [MixtureBatch(number * one, one, one) for number in self.numbers]


class Weighed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, mixture: MixtureBatch) -> Any:
        loss = (self.weight * mixture.frames_BK3YX).mean()
        return loss, {"number": mixture.frames_BK3YX.mean()}


def test_pieces_too_few_for_an_update_move_nothing() -> None:
    method = Weighed()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    epochs = train_epochs(
        method, optimizer, Fixed([1.0, 3.0, 5.0, 7.0, 100.0]), TrainingConfig(epochs=2, gradient_accumulation_steps=2)
    )
    one = next(epochs)
    assert one.steps == 2 and float(method.weight.detach()) == -(2 + 6)
    assert one.train["number"] == pytest.approx(116 / 5)
    two = next(epochs)
    assert two.steps == 2 and float(method.weight.detach()) == -2 * (2 + 6)  # nothing of the fifth came along


def test_the_gradient_is_clipped_once_an_update() -> None:
    method = Weighed()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    list(
        train_epochs(
            method,
            optimizer,
            Fixed([0.5, 0.7]),
            TrainingConfig(epochs=1, gradient_accumulation_steps=2),
            max_grad_norm=0.1,
        )
    )
    assert float(method.weight.detach()) == pytest.approx(-0.1, abs=1e-5)
    method = Weighed()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    list(
        train_epochs(
            method,
            optimizer,
            Fixed([5.0, -4.9]),
            TrainingConfig(epochs=1, gradient_accumulation_steps=2),
            max_grad_norm=0.1,
        )
    )
    assert float(method.weight.detach()) == pytest.approx(-0.05, abs=1e-5)  # each piece alone would have been clipped


class Looks(TorchDispatchMode):
    """Counts the numbers that Python reads from tensors: on a GPU each makes it wait for all that was queued."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_python_reads_numbers_every_few_steps_only(demo: Path) -> None:
    """Whether updates are being skipped every CHECK_EVERY updates and at the end, where the means are read too."""
    run = small(demo, batch_size=2, epochs=1)
    method, mixtures = method_from_config(run), list(loader(run).epoch(run, 1, data_requirements(run)))
    optimizer = build_optimizer(method, run.optimizer)
    with Looks() as looks:
        [epoch] = train_epochs(method, optimizer, lambda n: mixtures, run.training, max_grad_norm=1.0)
    assert epoch.steps >= 12
    assert looks.count <= epoch.steps // CHECK_EVERY + 1 + len(epoch.train)


class Row:
    """One clip of a `Batches` epoch, where a mixture stands; `fault` says what of this rank's step is not finite."""

    def __init__(self, x_NC: torch.Tensor, fault: str) -> None:
        self.x_NC, self.fault = x_NC, fault

    def to(self, device: Any) -> Row:
        return self


class BreakingGradient(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * float("inf")


class Breaking(torch.nn.Module):
    """A network whose loss is NaN, infinite with a finite gradient, or finite with an infinite gradient, as told by the row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        self.states: list[list[torch.Tensor]] = []  # the weights that each forward pass has met

    def forward(self, row: Row) -> Any:
        self.states.append([each.detach().clone() for each in self.parameters()])
        loss = self.layers(row.x_NC).square().mean()
        if row.fault == "gradient":
            loss = BreakingGradient.apply(loss)
        if row.fault in ("nan", "inf"):
            loss = loss + float(row.fault)  # the gradient stays finite: only the loss tells
        return loss, {}


def broken_run(rank: int, world: int, fault: str, at: int, faulty_rank: int, accumulate: int, which: str) -> list[Any]:
    """Train with a fault in piece `at` (from 0) on one rank: [reason, weights as before the faulty update, last finite]."""
    method = Breaking()
    make: Any = {
        "adam": lambda p: build_optimizer(method, TrainConfig().optimizer),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    }
    optimizer = make[which](method.parameters())
    generator = torch.Generator().manual_seed(rank)
    rows = [
        Row(torch.randn(4, 3, generator=generator), fault if (n, rank) == (at, faulty_rank) else "") for n in range(20)
    ]
    settings = TrainingConfig(epochs=2, gradient_accumulation_steps=accumulate)
    wrapped = wrap_ddp(method, settings, torch.device("cpu"))
    reason = ""
    try:
        list(train_epochs(wrapped, optimizer, lambda number: rows, settings))
    except TrialFailedError as failure:
        reason = str(failure)
    before = method.states[at]  # the weights that the piece with the fault was computed with
    same = all(torch.equal(now, then) for now, then in zip(method.parameters(), before, strict=True))
    moved = not torch.equal(method.states[0][0], method.states[-1][0])
    return [reason, same, moved, len(method.states)]


# What is not finite, in which piece (from 0) of the epoch, and how many pieces make an update.
FAULTS = [("nan", 5, 1), ("inf", 6, 1), ("gradient", 7, 1), ("nan", 19, 1), ("nan", 9, 2)]


def broken_runs(rank: int, world: int) -> list[list[Any]]:
    """Each fault on the last rank alone, with the fused optimizer of the project and with one that is not fused."""
    cases = [(fault, at, world - 1, pieces, which) for fault, at, pieces in FAULTS for which in ("adam", "sgd")]
    return [broken_run(rank, world, *case) for case in cases]


@pytest.mark.slow
def test_training_stops_at_the_first_step_that_is_not_finite(tmp_path: Path) -> None:
    """To the bit, on one rank and on two where only the second has the fault; the reason names the step on both."""
    for group in on_ranks(broken_runs, (1, 2), tmp_path):
        for answers in group:
            for (fault, at, pieces), (reason, same, moved, seen) in zip(
                [each for each in FAULTS for _ in range(2)], answers, strict=True
            ):
                what = "gradient" if fault == "gradient" else "loss"
                assert reason == f"the {what} is not finite (epoch 1, step {at // pieces + 1})"
                assert same and moved
                assert seen <= (at // pieces + 1 + CHECK_EVERY) * pieces


def test_a_loaded_optimizer_keeps_its_own_settings() -> None:
    """Population-based training loads another trial's state: moments and counts are its, rate and decay are not."""
    donor, own = Weighed(), Weighed()
    theirs = torch.optim.Adam(donor.parameters(), lr=0.5, weight_decay=0.25, betas=(0.5, 0.6))  # also: not fused
    donor.weight.grad = torch.ones(())
    theirs.step()
    torch.manual_seed(1)
    state = capture_training_state(theirs, 3)
    mine = build_optimizer(own, OptimizerConfig(learning_rate=0.125, weight_decay=0.0625))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert load_training_state(mine, state, generators=False) == 4
    [group] = mine.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"], group["fused"]) == (0.125, 0.0625, (0.9, 0.999), True)
    assert torch.equal(torch.get_rng_state(), before)
    kept = mine.state[own.weight]
    assert float(kept["step"]) == 1 and torch.equal(kept["exp_avg"], theirs.state[donor.weight]["exp_avg"])
    load_training_state(mine, state)
    assert torch.equal(torch.get_rng_state(), state["rng"])
