"""The Ray Train function of a slot's workers: train the assigned trial, then the next one, until the slot is closed.

Every rank runs `train_loop_per_worker`; rank 0 asks the coordinator and broadcasts the answer. A restarted group asks again, gets the
same assignment, and goes on from the trial's newest whole checkpoint.
"""

from __future__ import annotations

import copy
import functools
import os
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raymix.config import TrainConfig, TrainingConfig, config_from_plain
from raymix.data.loader import MixtureLoader, RowGroupReader
from raymix.methods import method_from_config
from raymix.methods.base import Method
from raymix.runtime import distributed
from raymix.runtime.distributed import convert_sync_batch_norm, world_size
from raymix.runtime.errors import error_summary, is_transient_error
from raymix.tracking import checkpoint
from raymix.training.coordinator import TrialAssignment
from raymix.training.loop import (
    EpochResult,
    StepTimer,
    TrialFailedError,
    build_optimizer,
    capture_training_state,
    load_training_state,
    train_epochs,
)


def wrap_ddp(method: nn.Module, settings: TrainingConfig, device: torch.device) -> nn.Module:
    """The method as the loop runs it: BatchNorm over all ranks and compiled where asked for, and DDP where there are ranks.

    All of it happens in place or around the method, so `method.state_dict()` keeps the names of a plain one. Compiled are
    the method's parts (its encoders), one graph each, where the time is spent: torch cannot compile the complex numbers
    of spectrograms that go in between.
    """
    if settings.sync_batch_norm and world_size() > 1:
        convert_sync_batch_norm(method, device)
    if settings.compile:
        # A worker trains many trials: without this their graphs add up to torch's limit, after which nothing is compiled.
        torch.compiler.reset()
        for part in method.children():
            part.compile()
    if world_size() == 1:
        return method
    return DistributedDataParallel(method, device_ids=[device] if device.type == "cuda" else None)


MAX_ATTEMPTS = 5  # worker groups that may be lost within one epoch of a trial before the trial is given up

LOST_PEER_MESSAGES = (
    "gloo",
    "nccl",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "read error",
    "timed out",
)


def train_loop_per_worker(given: dict[str, Any]) -> None:
    """Ray Train's train function, run by every rank: train each trial that the slot is assigned, until the slot is closed."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    source, coordinator, slot = given["source"], given["coordinator"], given["slot"]
    reader = None if source.parts else RowGroupReader(given["store"], rank, world)
    loader, clock, nodes = MixtureLoader(source, reader, rank, world), StepTimer(), _spread()
    assignment = TrialAssignment(None)
    while True:
        assignment = distributed.broadcast_from_rank_zero(functools.partial(_ask, coordinator, slot, assignment.seq))
        if assignment.trial is None:
            return
        _TrialRun(assignment, loader, coordinator, slot, rank, world, nodes, clock).run()


def _ask(coordinator: Any, slot: str, after: int) -> TrialAssignment:
    assignment: TrialAssignment = ray.get(coordinator.next_assignment.remote(slot, after))
    return assignment


def _spread() -> int:
    """How many nodes this group of workers is spread over."""
    return len(set(distributed.all_gather_objects([ray.get_runtime_context().get_node_id()])))


def is_lost_peer_error(error: BaseException) -> bool:
    """Whether an error says that another rank is gone, or cannot be reached; gloo raises a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(sign in text for sign in LOST_PEER_MESSAGES)


class _TrialRun:
    """Training of one assignment on one worker."""

    def __init__(
        self,
        assignment: TrialAssignment,
        loader: MixtureLoader,
        coordinator: Any,
        slot: str,
        rank: int,
        world: int,
        nodes: int,
        clock: StepTimer,
    ) -> None:
        self.assignment, self.loader, self.coordinator, self.slot = assignment, loader, coordinator, slot
        self.rank, self.world, self.nodes, self.clock = rank, world, nodes, clock
        self.starts = 0  # of worker groups on this trial
        self.first = 1  # epoch that this group began with
        self._asked: Any = None

    def run(self) -> None:
        """Train until the trial ends, fails, or the slot gets another assignment.

        An error of the trial, of any type, ends only the trial. A transient error is raised:
        Ray Train starts the group of workers again, which goes on from the newest checkpoint.
        """
        try:
            self._train()
        except TrialFailedError as failure:  # all ranks raise it together
            self._fail(str(failure))
        except Exception as error:
            traceback.print_exc()
            if is_transient_error(error) or (self.world > 1 and is_lost_peer_error(error)):
                raise
            self._fail(error_summary(error))
            # A fresh group of workers takes the next assignment: the other ranks wait in a collective, or the device refuses all
            # further work of this process.
            if self.world > 1 or isinstance(error, torch.AcceleratorError):
                raise

    def _fail(self, reason: str) -> None:
        ray.get(self.coordinator.fail.remote(self.assignment.folder, reason))

    def _train(self) -> None:
        run: TrainConfig = config_from_plain(self.assignment.plain)
        starts, lately = distributed.broadcast_from_rank_zero(self._begin)
        if lately > MAX_ATTEMPTS:
            raise TrialFailedError(f"its workers were lost {MAX_ATTEMPTS} times within one epoch")
        self.starts = starts
        model, device, start = self._build(run)
        optimizer = build_optimizer(model, run.optimizer)
        first = self.first = self._restore(start, optimizer) if start else 1
        wrapped = wrap_ddp(model, run.training, device)
        epochs = train_epochs(
            wrapped,
            optimizer,
            lambda number: self.loader.epoch(run, number, model.requirements),
            run.training,
            first=first,
            max_grad_norm=run.optimizer.max_grad_norm,
            device=device,
            agree=self._agree,
            stop=self._superseded,
            after=functools.partial(self._after, run, model, device),
            clock=self.clock,
        )
        with ThreadPoolExecutor(1) as keeper:  # writing a checkpoint overlaps the next epoch
            pending: Future[None] | None = None
            for epoch in epochs:
                if pending:
                    pending.result()
                if self.rank == 0:
                    pending = keeper.submit(self._keep, *self._copy(model, optimizer, epoch))
            if pending:
                pending.result()

    def _after(self, run: TrainConfig, model: Method, device: torch.device, number: int) -> None:
        """What the method does between epochs, on this rank's share of the clips as they are."""
        model.on_epoch_end(
            number, run.training.epochs, lambda: (each.to(device) for each in self.loader.clip_batches(run))
        )

    def _begin(self) -> list[int]:
        counts: list[int] = ray.get(self.coordinator.begin.remote(self.assignment.folder, self.world))
        return counts

    def _build(self, run: TrainConfig) -> tuple[Any, Any, Any]:
        """Model and device, and the checkpoint to go on from, if there is one: this trial's newest, else its origin."""
        device = ray.train.torch.get_device()
        torch.manual_seed(run.training.seed)
        model = method_from_config(run)
        uri = distributed.broadcast_from_rank_zero(self._newest) or self.assignment.origin
        start = checkpoint.load_checkpoint(uri) if uri else None
        if start:
            model.load_state_dict(start.weights)
        layout = torch.channels_last if run.training.channels_last else torch.contiguous_format
        model.to(device).to(memory_format=layout)
        return model, device, start

    def _newest(self) -> str | None:
        """The checkpoint of this trial to go on from, and all results up to it are reported (again): a worker may have died
        between writing and telling, and a driver before the score of what was written."""
        scored = ray.get(self.coordinator.get_progress.remote(self.assignment.trial)).epoch
        whole, there = None, checkpoint.list_epoch_checkpoints(self.assignment.folder)
        while (epoch := scored + 1) in there:
            try:
                found = checkpoint.load_checkpoint(there[epoch])
            except checkpoint.CorruptCheckpointError:
                break
            result = {**found.config["result"], "checkpoint": found.uri}
            ray.get(self.coordinator.report.remote(self.assignment.folder, epoch, result))
            whole, scored = found, epoch
        whole = whole or checkpoint.latest_valid_checkpoint(self.assignment.folder, before=scored + 1)
        return whole.uri if whole else None

    def _restore(self, start: Any, optimizer: Any) -> int:
        """Load the optimizer's state from a checkpoint of this trial or of the one it copies; returns the first epoch."""
        copied = start.uri == self.assignment.origin
        epoch = load_training_state(optimizer, start.training, generators=not copied)
        return self.assignment.first if copied else epoch

    def _copy(self, model: Any, optimizer: Any, epoch: EpochResult) -> tuple[Any, Any, dict[str, Any]]:
        """Weights and training state on the CPU, apart from what the next epoch changes, and the epoch's result."""
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        result = {
            "epoch": epoch.number,
            "train": epoch.train,
            "began": epoch.began,
            "ended": epoch.ended,
            "steps": epoch.steps,
            "step_seconds": epoch.step_seconds,
            "wait_seconds": epoch.wait_seconds,
            "given": self.assignment.given,
            "workers": self.world,
            "nodes": self.nodes,
            "starts": self.starts,
            "first": self.first,
            "clock": {"steps": self.clock.steps, "waits": self.clock.waits, "now": epoch.ended},
        }
        return weights, copy.deepcopy(capture_training_state(optimizer, epoch.number)), result

    def _keep(self, weights: Any, training: Any, result: dict[str, Any]) -> None:
        uri = f"{self.assignment.folder}/epoch-{result['epoch']:04d}"
        checkpoint.save_checkpoint(uri, weights, training, {**self.assignment.plain, "result": result})
        ray.get(self.coordinator.report.remote(self.assignment.folder, result["epoch"], {**result, "checkpoint": uri}))

    def _superseded(self) -> bool:
        """Rank 0 looks, without waiting, whether the coordinator has a newer assignment for this slot."""
        if self.rank != 0:
            return False
        self._asked = self._asked or self.coordinator.seq.remote(self.slot)
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return False
        newest, self._asked = ray.get(self._asked), None
        return bool(newest > self.assignment.seq)

    def _agree(self, flags: list[float]) -> list[float]:
        if self.world == 1:
            return flags
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(flags, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [float(value) for value in tensor]
