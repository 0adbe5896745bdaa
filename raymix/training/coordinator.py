"""The mailbox of a study: each slot's current order, what came of it, and how far every trial is.

Orders are state, not messages: a queue would lose what a dead worker was waiting for, while a restarted worker that asks
again gets the same answer. Results are kept by (folder of a trial's checkpoints, epoch), so telling one twice is harmless.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Any

import ray


@dataclass(frozen=True)
class TrialAssignment:
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
class TrialProgress:
    """How far a trial has been scored: a restarted trial, or a resumed study, goes on after `epoch`."""

    epoch: int = 0
    checkpoint: str | None = None  # URI of that epoch's
    lineage: int = 0  # times its weights were replaced by another trial's (population-based training)
    score: float = 0.0  # the objective at that epoch


@ray.remote(num_cpus=0)  # its methods are async: a thousand may wait in it at once
class TrialCoordinator:
    """Per study: each slot's order, and the results by (trial, folder, epoch). Nothing here is lost with a worker."""

    def __init__(self) -> None:
        self._orders: dict[str, TrialAssignment] = {}
        self._results: dict[tuple[str, int], dict[str, Any]] = {}
        self._failures: dict[str, str] = {}
        self._positions: dict[int, TrialProgress] = {}
        self._starts: dict[str, list[int]] = {}  # by folder: starts in all, starts since its last result, workers
        self._over: set[str] = set()  # forgotten, and still a slot's order until it gets the next
        self._yielded = 0.0
        self._news = asyncio.Condition()

    async def assign(self, slot: str, order: TrialAssignment) -> None:
        async with self._news:
            before = self._orders.get(slot, TrialAssignment(None))
            seq = before.seq + 1
            self._over -= {before.folder, order.folder}
            self._orders[slot] = replace(order, given=time.time(), seq=seq)
            self._failures.pop(order.folder, None)
            self._news.notify_all()

    async def order(self, slot: str, after: int) -> TrialAssignment:
        """The slot's order once it is newer than `after`; one whose trial has failed is not given again."""

        def there() -> bool:
            order = self._orders.get(slot)
            return order is not None and order.seq > after and order.folder not in {*self._failures, *self._over}

        async with self._news:
            await self._news.wait_for(there)
            return self._orders[slot]

    async def begin(self, folder: str, workers: int = 1) -> list[int]:
        """A worker group starts on this trial, for the first time or again: [starts in all, starts since a result].

        A group of another size than the last is an elastic run's, which was made so and not lost.
        """
        total, lately, before = self._starts.get(folder, [0, 0, workers])
        self._starts[folder] = [total + 1, lately + (workers == before), workers]
        return self._starts[folder][:2]

    async def seq(self, slot: str) -> int:
        return self._orders[slot].seq if slot in self._orders else 0

    async def report(self, folder: str, epoch: int, result: dict[str, Any]) -> None:
        async with self._news:
            if (folder, epoch) not in self._results and folder in self._starts:
                self._starts[folder][1] = 0
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
        self._starts.pop(folder, None)
        self._over |= {folder for order in self._orders.values() if order.folder == folder}

    async def may_yield(self, every: float) -> bool:
        """Whether the slot that asks shall release its resources for the scoring actor: one slot in `every` seconds may."""
        if time.time() - self._yielded < every:
            return False
        self._yielded = time.time()
        return True

    async def place(self, trial: int, position: TrialProgress) -> None:
        self._positions[trial] = position

    async def position(self, trial: int) -> TrialProgress:
        return self._positions.get(trial, TrialProgress())
