"""The coordinator actor of a study: the trial assigned to each slot, its results, and the progress of every trial.

Assignments are state, not messages: a queue would lose the message that a dead worker waited for, while a restarted worker
that asks again gets the same answer. Results are stored by (folder of a trial's checkpoints, epoch), so reporting one twice
is harmless.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Any

import ray


@dataclass(frozen=True)
class TrialAssignment:
    """The trial that a slot trains; `trial` None closes the slot.

    `folder` holds the trial's checkpoints; `origin` is the checkpoint it starts from when that folder is empty
    (population-based training copies another trial's)."""

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
    """Assigns trials to slots and collects their results, one actor per study. Its state survives the loss of a worker."""

    def __init__(self) -> None:
        self._assignments: dict[str, TrialAssignment] = {}
        self._results: dict[tuple[str, int], dict[str, Any]] = {}
        self._failures: dict[str, str] = {}
        self._progress: dict[int, TrialProgress] = {}
        self._starts: dict[str, list[int]] = {}  # by folder: starts in all, starts since its last result, workers
        self._forgotten: set[str] = set()  # folders of ended trials that are still the assignment of a slot
        self._yielded = 0.0
        self._changed = asyncio.Condition()

    async def assign(self, slot: str, assignment: TrialAssignment) -> None:
        async with self._changed:
            before = self._assignments.get(slot, TrialAssignment(None))
            seq = before.seq + 1
            self._forgotten -= {before.folder, assignment.folder}
            self._assignments[slot] = replace(assignment, given=time.time(), seq=seq)
            self._failures.pop(assignment.folder, None)
            self._changed.notify_all()

    async def next_assignment(self, slot: str, after: int) -> TrialAssignment:
        """Wait for an assignment of the slot that is newer than number `after`; a failed trial is not assigned again."""

        def there() -> bool:
            assignment = self._assignments.get(slot)
            return (
                assignment is not None
                and assignment.seq > after
                and assignment.folder not in {*self._failures, *self._forgotten}
            )

        async with self._changed:
            await self._changed.wait_for(there)
            return self._assignments[slot]

    async def begin(self, folder: str, workers: int = 1) -> list[int]:
        """Record that a worker group starts this trial; returns [starts in total, starts since its last result].

        A group of another size than the last one is a resize of an elastic run, not a loss.
        """
        total, lately, before = self._starts.get(folder, [0, 0, workers])
        self._starts[folder] = [total + 1, lately + (workers == before), workers]
        return self._starts[folder][:2]

    async def seq(self, slot: str) -> int:
        return self._assignments[slot].seq if slot in self._assignments else 0

    async def report(self, folder: str, epoch: int, result: dict[str, Any]) -> None:
        async with self._changed:
            if (folder, epoch) not in self._results and folder in self._starts:
                self._starts[folder][1] = 0
            self._results.setdefault((folder, epoch), result)
            self._changed.notify_all()

    async def fail(self, folder: str, reason: str) -> None:
        async with self._changed:
            self._failures.setdefault(folder, reason)
            self._changed.notify_all()

    async def result(self, folder: str, epoch: int, timeout: float) -> dict[str, Any] | None:
        """The result of an epoch, {"failed": reason}, or None when neither came within `timeout` seconds."""

        def there() -> bool:
            return (folder, epoch) in self._results or folder in self._failures

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(there), timeout)
            except TimeoutError:
                return None
            found = self._results.get((folder, epoch))
            return found if found is not None else {"failed": self._failures[folder]}

    async def forget(self, folder: str) -> None:
        """Delete the results of an ended trial, so that memory does not grow with the study."""
        self._results = {key: value for key, value in self._results.items() if key[0] != folder}
        self._failures.pop(folder, None)
        self._starts.pop(folder, None)
        self._forgotten |= {folder for assignment in self._assignments.values() if assignment.folder == folder}

    async def may_yield(self, every: float) -> bool:
        """Whether the calling slot should release its resources for the scoring actor: at most one slot in `every` seconds."""
        if time.time() - self._yielded < every:
            return False
        self._yielded = time.time()
        return True

    async def set_progress(self, trial: int, progress: TrialProgress) -> None:
        self._progress[trial] = progress

    async def get_progress(self, trial: int) -> TrialProgress:
        return self._progress.get(trial, TrialProgress())
