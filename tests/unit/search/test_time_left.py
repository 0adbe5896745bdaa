"""The estimate of the time left, on studies whose trials a real ASHA stops."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

from raymix.config import SearchConfig
from raymix.search.schedulers import ResumableASHAScheduler
from raymix.search.time_left import TimeLeftEstimator, expected_survival, format_duration, remaining_rounds
from raymix.tracking.study import EpochRecord, StudyState, TrialRecord

EPOCHS = 27
SEEDS = 12


def row(number: int, epochs: int, state: str) -> TrialRecord:
    scored = {e: EpochRecord({"x": 0.5}, {}, None, 1.0, 0.0) for e in range(1, epochs + 1)}
    return TrialRecord(number, "x", "max", state=state, epochs=scored)


@pytest.mark.parametrize(
    ("scheduler", "epochs", "grace", "reduction", "mean"),
    [
        ("fifo", 30, 3, 3, 30.0),
        ("asha", 30, 30, 3, 30.0),
        ("asha", 9, 3, 3, 3 + 6 / 3),
        ("asha", 30, 3, 3, 3 + 6 / 3 + 18 / 9 + 3 / 27),
        ("asha", 20, 4, 2, 4 + 4 / 2 + 8 / 4 + 4 / 8),
    ],
)
def test_expected_epochs_of_a_trial(scheduler: str, epochs: int, grace: int, reduction: int, mean: float) -> None:
    assert sum(expected_survival(scheduler, epochs, grace, reduction)) == pytest.approx(mean)


def test_before_anything_ended_the_scheduler_decides() -> None:
    assert remaining_rounds([], 1000, expected_survival("asha", 9, 3, 3), 1) == pytest.approx(5000, rel=0.05)
    assert remaining_rounds([], 10, expected_survival("fifo", 9, 3, 3), 1) == 90
    assert remaining_rounds([], 10, expected_survival("fifo", 9, 3, 3), 4) == 27  # three rounds: 4, 4 and 2 trials


def test_a_running_trial_has_passed_the_rung_that_it_stands_at() -> None:
    expected = expected_survival("asha", 9, 3, 3)
    assert remaining_rounds([row(0, 3, "running")], 1, expected, 1) == 5.5  # half of an epoch is done
    standing = [row(number, 2, "running") for number in range(200)]
    assert remaining_rounds(standing, 200, expected, 200) == 6.5  # one of many is not stopped after its third epoch


def test_what_trials_cost_outweighs_an_expectation_that_is_wrong() -> None:
    """No scheduler is expected to stop anything, but all trials end after 3 of 90 epochs: 40 left take 120, not 3600."""
    rows = [row(number, 3, "failed") for number in range(40)]
    assert 120 <= remaining_rounds(rows, 80, expected_survival("median", 90, 3, 3), 1) < 120 * 4


def test_nothing_is_left_of_a_finished_study() -> None:
    rows = [row(0, 9, "completed"), row(1, 3, "pruned")]
    assert remaining_rounds(rows, 2, expected_survival("asha", 9, 3, 3), 1) == 0


@dataclass(frozen=True)
class Simulated:
    """A study on a simulated clock; `trend`: how much better later trials are, as under a sampler that learns."""

    trials: int
    slots: int
    grace: int
    reduction: int
    trend: float
    seed: int

    def play(self, stops: Sequence[float] = ()) -> tuple[float, list[float]]:
        """(when it ends, the estimates of the time left at each of `stops`), with trials stopped by raymix's own ASHA."""
        rng = random.Random(self.seed)
        study, rest, found = StudyState(objective="x", mode="max", planned=self.trials), list(stops), []
        asha, now = ResumableASHAScheduler(study, EPOCHS, self.grace, self.reduction), 0.0
        left = TimeLeftEstimator(
            self.trials, expected_survival("asha", EPOCHS, self.grace, self.reduction), clock=lambda: now
        )
        quality = [rng.gauss(self.trend * n / self.trials, 1.0) for n in range(self.trials)]
        queue: list[tuple[float, int, float]] = []

        def begin(number: int) -> None:
            study.trials[number] = TrialRecord(number, "x", "max")
            asha.on_trial_add(None, SimpleNamespace(trial_id=str(number), config={"trial": number}))
            cost = rng.uniform(5, 20)
            heapq.heappush(queue, (now + cost, number, cost))

        for number in range(min(self.slots, self.trials)):
            begin(number)
        while queue:
            now, number, cost = heapq.heappop(queue)
            current = study.trials[number]
            epoch = current.last_epoch + 1
            score = quality[number] * (1 - 0.7**epoch) + rng.gauss(0, 0.2)
            current.epochs[epoch] = EpochRecord({"x": score}, {}, None, cost, now)
            left.scored(cost, len(queue) + 1)
            trial: Any = SimpleNamespace(trial_id=str(number), config={"trial": number})
            if epoch == EPOCHS or asha.on_trial_result(None, trial, {"epoch": epoch, "x": score}) == "STOP":
                current.state = "completed" if epoch == EPOCHS else "pruned"
                if len(study.trials) < self.trials:
                    begin(len(study.trials))
            else:
                heapq.heappush(queue, (now + cost, number, cost))
            if rest and now >= rest[0]:
                rest.pop(0)
                estimate = left.seconds(study.trials.values())
                assert estimate is not None
                found.append(estimate / (end - now) if (end := stops[-1]) > now else 1.0)
        return now, found

    def ratios(self) -> list[float]:
        """Estimate / truth of the time left at a quarter and at half of the study."""
        end, _ = self.play()
        return self.play([end / 4, end / 2, end])[1][:2]


@pytest.mark.parametrize("trend", [0.0, 1.0])
@pytest.mark.parametrize(
    ("trials", "slots", "grace", "reduction"), [(64, 1, 3, 3), (64, 4, 3, 3), (40, 2, 2, 4), (200, 16, 1, 3)]
)
def test_the_estimate_at_a_quarter_and_at_half_of_a_study(
    trials: int, slots: int, grace: int, reduction: int, trend: float
) -> None:
    """Within a factor of 1.5 of the truth for the median study and for most others."""
    found = [Simulated(trials, slots, grace, reduction, trend, seed).ratios() for seed in range(SEEDS)]
    for at in range(2):
        ratios = sorted(ratio[at] for ratio in found)
        within = sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios)
        print(trials, slots, grace, reduction, trend, at, [round(r, 2) for r in ratios])
        assert 1 / 1.5 <= median(ratios) <= 1.5 and within >= 0.6 * SEEDS, [f"{ratio:.2f}" for ratio in ratios]


def test_duration() -> None:
    assert [format_duration(s) for s in (40, 540, 9000)] == ["40 s", "9 min", "2.5 h"]


def test_defaults_of_the_search() -> None:
    """The settings that the estimate is made from, at their defaults: 30 epochs are expected to be 7.1 on average."""
    search = SearchConfig()
    assert sum(expected_survival(search.scheduler, 30, search.grace_period, search.reduction_factor)) == pytest.approx(
        7 + 1 / 9
    )
