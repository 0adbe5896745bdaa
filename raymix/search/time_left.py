"""Estimate of a study's remaining time, from the cost of its trials so far and the expected early stopping."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Iterable, Sequence

from raymix.tracking.study import END_STATES, TrialRecord

PRIOR_TRIALS = 4.0  # trials that the scheduler's expectation counts for at each epoch

SIMULATION_DRAWS = 24  # random continuations of a study that are averaged


def expected_survival(scheduler: str, epochs: int, grace: int, reduction: int) -> list[float]:
    """The share of trials that are expected to train each of the epochs 1 ... `epochs`.

    Under successive halving 1/reduction of the trials pass each rung (grace, grace * reduction, ...); of other schedulers
    nothing is known before trials have ended.
    """
    shares, share, rung = [], 1.0, grace
    for epoch in range(epochs):
        if scheduler == "asha" and epoch == rung:
            share, rung = share / reduction, rung * reduction
        shares.append(share)
    return shares


def continuation_rates(trials: Iterable[TrialRecord], expected: Sequence[float]) -> list[float]:
    """[e]: the share of the trials with e epochs that train another one.

    Counted over the trials that got so far, with `expected` (see `expected_survival`) as a prior that weighs PRIOR trials; a trial
    that still runs counts as one that went on after each epoch before its last.
    """
    epochs = len(expected)
    ended, reached = [0] * (epochs + 1), [0] * (epochs + 2)
    for row in trials:
        last = min(row.last_epoch, epochs)
        reached[last] += 1
        ended[last] += row.state in END_STATES
    for epoch in reversed(range(epochs + 1)):  # from now on [e]: trials with at least e epochs
        reached[epoch] += reached[epoch + 1]
    shares = []
    for epoch in range(epochs):
        prior = expected[epoch] / expected[epoch - 1] if epoch else 1.0
        went_on = reached[epoch + 1]
        shares.append((PRIOR_TRIALS * prior + went_on) / (PRIOR_TRIALS + ended[epoch] + went_on))
    return shares


def remaining_rounds(trials: Iterable[TrialRecord], planned: int, expected: Sequence[float], slots: int) -> float:
    """How many epochs, one after another, the busiest of `slots` slots still trains until the study ends, on average.

    The rest of the study is played DRAWS times: each trial ends at random by `continuation_rates`, and a free slot takes the next
    one. So the end counts, where a few long trials keep the study waiting while other slots are free.

    Args:
        trials: all trials that were started.
        planned: trials of the whole study.
        expected: the share of trials expected to train each epoch.
        slots: trials that run at the same time.
    """
    rows = list(trials)
    shares, epochs = continuation_rates(rows, expected), len(expected)
    running = [row.last_epoch for row in rows if row.state not in END_STATES]
    waiting, rng, total = max(0, planned - len(rows)), random.Random(0), 0.0

    def more(done: int, goes_on: bool) -> int:
        """Epochs that a trial with `done` epochs still trains; `goes_on`: it was decided that it trains another one."""
        reached = done
        while reached < epochs and (goes_on or rng.random() < shares[reached]):
            reached, goes_on = reached + 1, False
        return reached - done

    for _ in range(SIMULATION_DRAWS):
        free = [
            max(0.0, more(done, goes_on=True) - 0.5) for done in running
        ]  # the current epoch is half done on average
        free += [0.0] * (slots - len(free))
        heapq.heapify(free)
        for _ in range(waiting):
            heapq.heapreplace(free, free[0] + more(0, goes_on=True))
        total += max(free)
    return total / SIMULATION_DRAWS


class TimeLeftEstimator:
    """The expected seconds until a study ends, by the pace of this run of it."""

    def __init__(self, planned: int, expected: Sequence[float], clock: Callable[[], float] = time.time) -> None:
        self.planned, self.expected, self._clock = planned, expected, clock
        self._began: float | None = None  # when the first epoch that was scored in this run began
        self._scored = self._slots = 0

    def scored(self, seconds: float | None, running: int) -> None:
        """An epoch that trained for `seconds` was scored; `running` trials are in flight."""
        if self._began is None:
            self._began = self._clock() - (seconds or 0.0)
        self._scored += 1
        self._slots = max(self._slots, running)

    def seconds(self, trials: Iterable[TrialRecord]) -> float | None:
        """The estimate; None before the first epoch was scored. Speculative epochs and gaps are part of the pace."""
        rows = list(trials)
        spent = 0.0 if self._began is None else self._clock() - self._began
        if not spent:
            return None
        running = sum(row.state not in END_STATES for row in rows)
        epochs = self._scored + running / 2
        return (
            remaining_rounds(rows, self.planned, self.expected, max(1, self._slots))
            * spent
            * max(1, self._slots)
            / epochs
        )


def format_duration(seconds: float) -> str:
    """`40 s`, `9 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
