"""A slot: one standing Ray Train run that lives as long as the study, through which trials flow; and its mailbox.

Starting a Train run costs far more than an epoch of a small model, and stopping one leaks what it held; so nothing is
started or stopped between trials. Orders are state, not messages: the mailbox holds each slot's current order under a
sequence number, so a restarted worker asks again and gets the same answer, and resumes from the trial's last checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from raymix import checkpoint
from raymix.config import Run, from_plain

# Ray Train polls its workers at this interval; its preemption watcher and metrics would each add a process per slot.
TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
RESTARTS = 20  # of a slot's worker group before the slot gives up


@dataclass(frozen=True)
class Order:
    """What a slot works on: `trial` None closes it. `folder` holds this trial's checkpoints; `origin` is where it starts
    from when that folder is empty (population-based training copies another trial's checkpoint)."""

    trial: int | None
    plain: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    origin: str | None = None
    first: int = 1  # the epoch to start with when starting from `origin`
    given: float = 0.0  # Unix time
    seq: int = 0


@dataclass(frozen=True)
class Position:
    """How far a trial has been scored: a restarted trial, or a resumed study, goes on after `epoch`."""

    epoch: int = 0
    checkpoint: str | None = None  # URI of that epoch's
    lineage: int = 0  # times its weights were replaced by another trial's (population-based training)


@ray.remote(num_cpus=0, max_concurrency=1000)
class Mailbox:
    """Per study: each slot's order, and the results by (trial, folder, epoch). Nothing here is lost with a worker."""

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}
        self._results: dict[tuple[str, int], dict[str, Any]] = {}
        self._failures: dict[str, str] = {}
        self._positions: dict[int, Position] = {}
        self._news = asyncio.Condition()

    async def assign(self, slot: str, order: Order) -> None:
        async with self._news:
            seq = self._orders[slot].seq + 1 if slot in self._orders else 1
            self._orders[slot] = replace(order, given=time.time(), seq=seq)
            self._failures.pop(order.folder, None)
            self._news.notify_all()

    async def order(self, slot: str, after: int) -> Order:
        """The slot's order once it is newer than `after`."""
        async with self._news:
            await self._news.wait_for(lambda: slot in self._orders and self._orders[slot].seq > after)
            return self._orders[slot]

    async def seq(self, slot: str) -> int:
        return self._orders[slot].seq if slot in self._orders else 0

    async def report(self, folder: str, epoch: int, result: dict[str, Any]) -> None:
        async with self._news:
            self._results.setdefault((folder, epoch), result)
            self._news.notify_all()

    async def fail(self, folder: str, reason: str) -> None:
        async with self._news:
            self._failures.setdefault(folder, reason)
            self._news.notify_all()

    async def result(self, folder: str, epoch: int, timeout: float) -> dict[str, Any] | None:
        """The result of an epoch, {"failed": reason}, or None when neither came within `timeout` seconds."""

        def there() -> bool:
            return (folder, epoch) in self._results or folder in self._failures

        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(there), timeout)
            except TimeoutError:
                return None
            found = self._results.get((folder, epoch))
            return found if found is not None else {"failed": self._failures[folder]}

    async def forget(self, folder: str) -> None:
        """Drop an ended trial's results: the mailbox does not grow with the study."""
        self._results = {key: value for key, value in self._results.items() if key[0] != folder}
        self._failures.pop(folder, None)


    async def place(self, trial: int, position: Position) -> None:
        self._positions[trial] = position

    async def position(self, trial: int) -> Position:
        return self._positions.get(trial, Position())


class Slot:
    """The standing run seen from its trial: give it an order, ask for results, close it."""

    def __init__(self, name: str, run: Run, mailbox: Any, source: Any, storage: str) -> None:
        self.name, self._mailbox = name, mailbox
        self.error: BaseException | None = None
        os.environ.update(TRAIN_SETTINGS)
        self._thread = threading.Thread(target=self._fit, args=(run, source, storage), daemon=True)
        self._thread.start()

    def _fit(self, run: Run, source: Any, storage: str) -> None:
        import ray.train
        from ray.train.torch import TorchTrainer

        from raymix.stream import read

        c = run.cluster
        use_gpu = c.gpus_per_worker > 0
        resources = {"CPU": c.cpus_per_worker} | ({"GPU": c.gpus_per_worker} if use_gpu else {})
        try:
            TorchTrainer(
                work,
                train_loop_config={"mailbox": self._mailbox, "slot": self.name, "source": source},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=c.workers, use_gpu=use_gpu, resources_per_worker=resources
                ),
                datasets={} if source.parts else {"train": lambda: read(run)},
                run_config=ray.train.RunConfig(
                    name=self.name, storage_path=storage,
                    failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
                ),
            ).fit()  # fmt: skip
        except BaseException as error:  # told to the trial, which asks for results in another thread
            self.error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def assign(self, order: Order) -> None:
        ray.get(self._mailbox.assign.remote(self.name, order))

    def close(self, timeout: float = 30.0) -> None:
        self.assign(Order(None))
        self._thread.join(timeout)


def work(given: dict[str, Any]) -> None:
    """A worker's life (every rank runs this): take the slot's order, train the trial, take the next, until closed."""
    import ray.train
    import torch

    from raymix.fit import Clock
    from raymix.stream import Loader

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    source, mailbox, slot = given["source"], given["mailbox"], given["slot"]
    shard = None if source.parts else ray.train.get_dataset_shard("train")
    loader, clock = Loader(source, shard, rank, world), Clock()
    order = Order(None)
    while True:
        order = _from_rank_0(rank, world, lambda after=order.seq: ray.get(mailbox.order.remote(slot, after)))
        if order.trial is None:
            return
        _Shift(order, loader, mailbox, slot, rank, world, clock).run()


def _from_rank_0(rank: int, world: int, ask: Callable[[], Any]) -> Any:
    """What rank 0 got from `ask`, on every rank."""
    answer = ask() if rank == 0 else None
    if world > 1:
        import torch.distributed as dist

        line = [answer]
        dist.broadcast_object_list(line, src=0)
        answer = line[0]
    return answer


class _Shift:
    """One order on one worker."""

    def __init__(self, order: Order, loader: Any, mailbox: Any, slot: str, rank: int, world: int, clock: Any) -> None:
        self.order, self.loader, self.mailbox, self.slot = order, loader, mailbox, slot
        self.rank, self.world, self.clock = rank, world, clock
        self._asked: Any = None

    def run(self) -> None:
        """Train until the trial ends, fails, or the slot gets another order. A trial's own failure ends only the trial."""
        import torch

        from raymix.fit import TrialFailed

        try:
            self._train()
        except TrialFailed as failure:  # all ranks raise it together
            self._fail(str(failure))
        except (torch.OutOfMemoryError, RuntimeError, ValueError, TypeError) as error:
            traceback.print_exc()
            self._fail(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            if self.world > 1:  # the other ranks wait in a collective: a fresh group takes the next order
                raise

    def _fail(self, reason: str) -> None:
        ray.get(self.mailbox.fail.remote(self.order.folder, reason))

    def _train(self) -> None:
        from raymix.fit import adam, fit

        run: Run = from_plain(self.order.plain)
        model, device, start = self._build(run)
        optimizer = adam(model, run.optimizer)
        first = self._restore(start, optimizer) if start else 1
        wrapped = self._wrap(model, device)
        epochs = fit(
            wrapped, optimizer, lambda number: self.loader.epoch(run, number), run.fit, first=first,
            clip_gradient=run.optimizer.clip_gradient, device=device, agree=self._agree, stop=self._superseded,
            clock=self.clock,
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

    def _build(self, run: Run) -> tuple[Any, Any, Any]:
        """Model and device, and the checkpoint to go on from, if there is one: this trial's newest, else its origin."""
        import ray.train.torch
        import torch

        from raymix.methods import from_run

        device = ray.train.torch.get_device()
        torch.manual_seed(run.fit.seed)
        model = from_run(run)
        newest = checkpoint.latest_valid(self.order.folder)
        start = newest or (checkpoint.load(self.order.origin) if self.order.origin else None)
        if start:
            model.load_state_dict(start.weights)
        if newest and self.rank == 0:  # a worker may have died between writing a checkpoint and telling of it
            told = {**newest.config["result"], "checkpoint": newest.uri}
            ray.get(self.mailbox.report.remote(self.order.folder, told["epoch"], told))
        layout = torch.channels_last if run.fit.channels_last else torch.contiguous_format
        return model.to(device, memory_format=layout), device, start

    def _restore(self, start: Any, optimizer: Any) -> int:
        """Optimizer state from the checkpoint; the epoch to begin with."""
        from raymix.fit import resume

        epoch = resume(optimizer, start.training)
        return self.order.first if start.uri == self.order.origin else epoch

    def _wrap(self, model: Any, device: Any) -> Any:
        if self.world == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def _copy(self, model: Any, optimizer: Any, epoch: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Weights and training state on the CPU, apart from what the next epoch changes, and the epoch's result."""
        import copy

        from raymix.fit import training_state

        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        result = {
            "epoch": epoch.number, "train": epoch.train, "began": epoch.began, "ended": epoch.ended,
            "steps": epoch.steps, "step_seconds": epoch.step_seconds, "wait_seconds": epoch.wait_seconds,
            "given": self.order.given, "workers": self.world,
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
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(flags, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [float(value) for value in tensor]
