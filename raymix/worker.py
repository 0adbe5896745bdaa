"""A worker's life in a slot: take the slot's order, train that trial, take the next, until the slot is closed.

Every rank runs `work`; rank 0 asks the mailbox and the others hear it from rank 0. A restarted group asks again, gets the
same order, and goes on from the trial's newest whole checkpoint.
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

from raymix import checkpoint, distributed
from raymix.config import Run, from_plain
from raymix.failures import is_transient, summary
from raymix.fit import Clock, Epoch, TrialFailed, adam, fit, resume, training_state
from raymix.mailbox import Order
from raymix.methods import Method, from_run
from raymix.row_groups import RowGroupReader
from raymix.stream import Loader

TRIES = 5  # worker groups that may be lost within one epoch of a trial before the trial is given up
LOST = (
    "gloo",
    "nccl",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "read error",
    "timed out",
)


def work(given: dict[str, Any]) -> None:
    """A worker's life (every rank runs this): take the slot's order, train the trial, take the next, until closed."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    source, mailbox, slot = given["source"], given["mailbox"], given["slot"]
    reader = None if source.parts else RowGroupReader(given["store"], rank, world)
    loader, clock, nodes = Loader(source, reader, rank, world), Clock(), _spread()
    order = Order(None)
    while True:
        order = distributed.of_first_rank(functools.partial(_ask, mailbox, slot, order.seq))
        if order.trial is None:
            return
        _Shift(order, loader, mailbox, slot, rank, world, nodes, clock).run()


def _ask(mailbox: Any, slot: str, after: int) -> Order:
    order: Order = ray.get(mailbox.order.remote(slot, after))
    return order


def _spread() -> int:
    """How many nodes this group of workers is spread over."""
    return len(set(distributed.collect_objects([ray.get_runtime_context().get_node_id()])))


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that another rank is gone, or cannot be reached; gloo says so in a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(sign in text for sign in LOST)


class _Shift:
    """One order on one worker."""

    def __init__(
        self, order: Order, loader: Loader, mailbox: Any, slot: str, rank: int, world: int, nodes: int, clock: Clock
    ) -> None:
        self.order, self.loader, self.mailbox, self.slot = order, loader, mailbox, slot
        self.rank, self.world, self.nodes, self.clock = rank, world, nodes, clock
        self.starts = 0  # of worker groups on this trial
        self.first = 1  # epoch that this group began with
        self._asked: Any = None

    def run(self) -> None:
        """Train until the trial ends, fails, or the slot gets another order.

        An error of the trial's own, of whatever type, ends only the trial. One that another attempt may not meet is raised:
        Ray Train starts the group of workers again, which goes on from the newest checkpoint.
        """
        try:
            self._train()
        except TrialFailed as failure:  # all ranks raise it together
            self._fail(str(failure))
        except Exception as error:
            traceback.print_exc()
            if is_transient(error) or (self.world > 1 and lost_peer(error)):
                raise
            self._fail(summary(error))
            # A fresh group of workers takes the next order: the other ranks wait in a collective, or the device refuses all
            # further work of this process.
            if self.world > 1 or isinstance(error, torch.AcceleratorError):
                raise

    def _fail(self, reason: str) -> None:
        ray.get(self.mailbox.fail.remote(self.order.folder, reason))

    def _train(self) -> None:
        run: Run = from_plain(self.order.plain)
        starts, lately = distributed.of_first_rank(self._begin)
        if lately > TRIES:
            raise TrialFailed(f"its workers were lost {TRIES} times within one epoch")
        self.starts = starts
        model, device, start = self._build(run)
        optimizer = adam(model, run.optimizer)
        first = self.first = self._restore(start, optimizer) if start else 1
        wrapped = distributed.wrap(model, run.fit, device)
        epochs = fit(
            wrapped, optimizer, lambda number: self.loader.epoch(run, number, model.needs), run.fit, first=first,
            clip_gradient=run.optimizer.clip_gradient, device=device, agree=self._agree, stop=self._superseded,
            after=functools.partial(self._after, run, model, device), clock=self.clock,
        )  # fmt: skip
        with ThreadPoolExecutor(1) as keeper:  # writing a checkpoint overlaps the next epoch
            pending: Future[None] | None = None
            for epoch in epochs:
                if pending:
                    pending.result()
                if self.rank == 0:
                    pending = keeper.submit(self._keep, *self._copy(model, optimizer, epoch))
            if pending:
                pending.result()

    def _after(self, run: Run, model: Method, device: torch.device, number: int) -> None:
        """What the method does between epochs, on this rank's share of the clips as they are."""
        model.after_epoch(number, run.fit.epochs, lambda: (each.to(device) for each in self.loader.examples(run)))

    def _begin(self) -> list[int]:
        counts: list[int] = ray.get(self.mailbox.begin.remote(self.order.folder, self.world))
        return counts

    def _build(self, run: Run) -> tuple[Any, Any, Any]:
        """Model and device, and the checkpoint to go on from, if there is one: this trial's newest, else its origin."""
        device = ray.train.torch.get_device()
        torch.manual_seed(run.fit.seed)
        model = from_run(run)
        uri = distributed.of_first_rank(self._newest) or self.order.origin
        start = checkpoint.load(uri) if uri else None
        if start:
            model.load_state_dict(start.weights)
        layout = torch.channels_last if run.fit.channels_last else torch.contiguous_format
        model.to(device).to(memory_format=layout)
        return model, device, start

    def _newest(self) -> str | None:
        """The checkpoint of this trial to go on from, and all results up to it told (again): a worker may have died
        between writing and telling, and a driver before the score of what was written."""
        scored = ray.get(self.mailbox.position.remote(self.order.trial)).epoch
        whole, there = None, checkpoint.epochs(self.order.folder)
        while (epoch := scored + 1) in there:
            try:
                found = checkpoint.load(there[epoch])
            except checkpoint.Torn:
                break
            told = {**found.config["result"], "checkpoint": found.uri}
            ray.get(self.mailbox.report.remote(self.order.folder, epoch, told))
            whole, scored = found, epoch
        whole = whole or checkpoint.latest_valid(self.order.folder, before=scored + 1)
        return whole.uri if whole else None

    def _restore(self, start: Any, optimizer: Any) -> int:
        """Load the optimizer's state from a checkpoint of this trial or of the one it copies; returns the first epoch."""
        copied = start.uri == self.order.origin
        epoch = resume(optimizer, start.training, generators=not copied)
        return self.order.first if copied else epoch

    def _copy(self, model: Any, optimizer: Any, epoch: Epoch) -> tuple[Any, Any, dict[str, Any]]:
        """Weights and training state on the CPU, apart from what the next epoch changes, and the epoch's result."""
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        result = {
            "epoch": epoch.number, "train": epoch.train, "began": epoch.began, "ended": epoch.ended,
            "steps": epoch.steps, "step_seconds": epoch.step_seconds, "wait_seconds": epoch.wait_seconds,
            "given": self.order.given, "workers": self.world, "nodes": self.nodes, "starts": self.starts, "first": self.first,
            "clock": {"steps": self.clock.steps, "waits": self.clock.waits, "now": epoch.ended},
        }  # fmt: skip
        return weights, copy.deepcopy(training_state(optimizer, epoch.number)), result

    def _keep(self, weights: Any, training: Any, result: dict[str, Any]) -> None:
        uri = f"{self.order.folder}/epoch-{result['epoch']:04d}"
        checkpoint.save(uri, weights, training, {**self.order.plain, "result": result})
        ray.get(self.mailbox.report.remote(self.order.folder, result["epoch"], {**result, "checkpoint": uri}))

    def _superseded(self) -> bool:
        """Rank 0 looks, without waiting, whether the mailbox has a newer order for this slot."""
        if self.rank != 0:
            return False
        self._asked = self._asked or self.mailbox.seq.remote(self.slot)
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return False
        newest, self._asked = ray.get(self._asked), None
        return bool(newest > self.order.seq)

    def _agree(self, flags: list[float]) -> list[float]:
        if self.world == 1:
            return flags
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(flags, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [float(value) for value in tensor]
