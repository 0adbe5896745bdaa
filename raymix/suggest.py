"""Ray Tune's searcher and schedulers, rebuilt from the ledger at every start; Optuna is told the truth.

What Ray's own OptunaSearch hides: a trial that a scheduler stopped is PRUNED with all its intermediate values, one that met
NaN or ran out of memory is FAIL with its reason, none stays RUNNING. A finished trial's value is the best of its epochs, as
in the leaderboard. Steps are our own `epoch`, since Tune's `training_iteration` starts anew after every restart.

Both carry metric and mode themselves: `tune.TuneConfig` must leave the two unset.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from raymix.config import BadInput, Search, nearest
from raymix.rebuild import STATES, rebuild
from raymix.sampler import RuledSampler, may_repeat
from raymix.space import SearchSpace
from raymix.study import Study

SEED = "fit.seed"  # of a repeated point, its own
NO_POINT = "the search space has no further point"


class OptunaSuggest(OptunaSearch):
    """Deals trial numbers and parameters: `{"trial": 3, "attempt": 1, "params": {dotted name: value}}`.

    Unfinished trials of the ledger's `study` come first, under their old numbers and parameters (then `attempt` is above
    1), then the points tried first, then the sampler's. It ends after `study.planned` trials, or when the space has no
    point left that no trial has had; then `on_exhausted` is called once, with the number of trials and of points, and the
    numbers below it that no trial can have.

    With `search.repeats`, and under pbt, points may repeat; the nth repeat of a point trains with `fit.seed` = `seed` + n,
    which is among its parameters.

    A result must bring `epoch` and the objective. The last one of a trial says `"ended": "completed"`, or `"ended":
    "failed"` with the reason in `"failed"`; one without `ended` short of `epochs` was stopped by the scheduler.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: Study,
        settings: Search,
        epochs: int,
        storage: BaseStorage | None = None,
        *,
        seed: int = 0,
        on_exhausted: Callable[[int, int, list[int]], object] = lambda trials, points, numbers: None,
    ) -> None:
        storage = storage or InMemoryStorage()
        self.space, self.known, self.epochs = space, study, epochs
        self.seed, self._on_exhausted, self._exhausted = seed, on_exhausted, False
        self._unreachable: list[int] = []  # numbers of queued trials that no point is left for
        self.repeats = may_repeat(settings)
        self.sampler = RuledSampler(space, settings.sampler, study.seed, settings.startup, self.repeats)
        self._grid = space.grid() if settings.sampler == "grid" else None
        if self._grid:
            np.random.default_rng(study.seed).shuffle(self._grid)
        self._scores: dict[str, dict[int, float]] = {}  # by Tune's trial id
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # no line per trial beside the live table
        super().__init__(
            space=space.suggest,
            metric=study.objective,
            mode=study.mode,
            sampler=self.sampler,
            study_name=study.name,
            storage=storage,
        )
        rebuild(self.study, study, space)

    @property
    def study(self) -> optuna.Study:
        assert self._ot_study is not None
        return self._ot_study

    def suggest(self, trial_id: str) -> Any:
        if not self._prepare_next():
            return Searcher.FINISHED
        trial = self._ot_trials[trial_id] = self.study.ask()
        point, number = self.space.suggest(trial), trial.number
        row = self.known.trials.get(number)
        self._scores[trial_id] = dict(row.scores) if row else {}
        params = {**(row.params if row and row.params else self._seed_of(point, number)), **point}
        return {"trial": number, "attempt": (row.attempts if row else 0) + 1, "params": params}

    def _prepare_next(self) -> bool:
        """Whether there is another trial to ask Optuna for; its queue then begins with one that can have a point."""
        while True:
            trials = self.study.get_trials(deepcopy=False)
            waiting = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
            if waiting is None:
                if len(trials) >= self.known.expected:
                    return False
                if self._grid is not None and self._queue_grid():
                    continue
                if self._grid is None and self._has_point(len(trials), {}):
                    return True
                self._end_of_space()
                return False
            fixed = waiting.system_attrs.get("fixed_params", {})
            if self._was_started(waiting.number) or self._has_point(waiting.number, fixed):
                return True
            if fixed:  # a point tried first, which another trial has had: one is drawn instead
                self.study._storage.set_trial_system_attr(waiting._trial_id, "fixed_params", {})
            else:
                self.study._storage.set_trial_user_attr(waiting._trial_id, "reason", NO_POINT)
                self.study._storage.set_trial_state_values(waiting._trial_id, TrialState.FAIL)
                self._unreachable.append(waiting.number)

    def _was_started(self, number: int) -> bool:
        return number in self.known.trials and bool(self.known.trials[number].params)

    def _has_point(self, number: int, fixed: dict[str, Any]) -> bool:
        return self.repeats or self.sampler.random_point(self.study, number, fixed) is not None

    def _end_of_space(self) -> None:
        if not self._exhausted:
            self._exhausted = True
            points = self.sampler.points(self.study, -1)
            self._on_exhausted(len(self.study.get_trials(deepcopy=False)), len(set(points.values())), self._unreachable)

    def _seed_of(self, point: dict[str, Any], number: int) -> dict[str, int]:
        """Another seed for a point that trials of lower numbers have had, unless the space searches seeds itself."""
        points, own = self.sampler.points(self.study, number), self.space.key_of(point)
        before = sum(other < number and key == own for other, key in points.items())
        return {SEED: self.seed + before} if before and SEED not in self.space.names else {}

    def _queue_grid(self) -> bool:
        """Queues the next grid point: one that no trial has had, or, with repeats, of those that the fewest have had."""
        assert self._grid is not None
        times: Counter[str | None] = Counter(self.sampler.points(self.study, -1).values())
        point = min(self._grid, key=lambda point: times[self.space.key_of(point)], default=None)
        if point is None or (times[self.space.key_of(point)] and not self.repeats):
            return False
        self.study.enqueue_trial(point)
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        epoch, value = int(result["epoch"]), result.get(self.metric)
        scores = self._scores[trial_id]
        if "failed" in result or value is None or not math.isfinite(value) or epoch in scores:
            return
        scores[epoch] = float(value)
        self._ot_trials[trial_id].report(float(value), epoch)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        if result and not error:
            self.on_trial_result(trial_id, result)  # Tune keeps the last result of a stopped trial from on_trial_result
        trial, scores = self._ot_trials[trial_id], self._scores[trial_id]
        ended, reason = self._end(result or {}, error, scores)
        if ended == "failed":
            trial.set_user_attr("reason", reason)
        value = _best(scores, self.known.mode) if ended == "completed" else None
        self.study.tell(trial, value, STATES[ended])

    def _end(self, result: dict[str, Any], error: bool, scores: dict[int, float]) -> tuple[str, str]:
        """How a trial ended, and why if it failed."""
        if error:
            return "failed", "its process was lost"
        if result.get("ended") == "failed" or "failed" in result:
            return "failed", str(result.get("failed") or "unknown")
        if not scores:
            return "failed", "ended without a score"
        whole = result.get("ended") == "completed" or max(scores) >= self.epochs
        return ("completed" if whole else "pruned"), ""

    def close(self) -> None:
        """Puts trials that were interrupted back into the queue, so that none is left RUNNING in the journal."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def save(self, checkpoint_path: str) -> None:
        """Tune would pickle the searcher here; the ledger is what a restart reads."""
        with open(checkpoint_path, "w") as note:
            note.write("raymix rebuilds the search from the study's ledger\n")

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("the search is rebuilt from the study's ledger; run the same command again")


def _best(scores: dict[int, float], mode: str) -> float:
    return max(scores.values()) if mode == "max" else min(scores.values())


def scheduler(settings: Search, study: Study, epochs: int, space: SearchSpace) -> TrialScheduler:
    """The scheduler of that name, on our `epoch`, knowing every score that the ledger holds.

    Raises BadInput for a name that is none of asha, fifo, median, pbt.
    """
    if settings.scheduler == "asha":
        return Asha(study, epochs, settings.grace, settings.reduction)
    if settings.scheduler == "median":
        return Median(study, settings.grace)
    if settings.scheduler == "pbt":
        return Population(space, study, settings.grace)
    if settings.scheduler == "fifo":
        return FIFOScheduler()
    choices = ["asha", "fifo", "median", "pbt"]
    raise BadInput(f"search.scheduler={settings.scheduler}: no such scheduler{nearest(settings.scheduler, choices)}")


def _key(number: int) -> str:
    """Stands for a ledger's trial among Tune's until it is taken up again."""
    return f"ledger-{number}"


class _Sparing(FIFOScheduler):
    """A failed trial ends with the worst score; that stops it, and teaches the scheduler nothing about the others."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "failed" in result:
            return TrialScheduler.STOP
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if "failed" not in result:
            super().on_trial_complete(tune_controller, trial, result)


class Asha(_Sparing, AsyncHyperBandScheduler):
    """Asynchronous successive halving (arXiv:1810.05934) whose rungs survive a restart.

    Relies on `_brackets` and `_rungs` of ray 2.60; tests/test_suggest.py notices a change.
    """

    def __init__(self, study: Study, epochs: int, grace: int, reduction: int) -> None:
        super().__init__("epoch", study.objective, study.mode, epochs, grace, reduction)
        sign = 1.0 if study.mode == "max" else -1.0
        for row in study.trials.values():
            stand_in: Any = SimpleNamespace(trial_id=_key(row.number))
            for epoch, score in row.scores.items():
                self._brackets[0].on_result(stand_in, epoch, sign * score)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for _, recorded in self._brackets[0]._rungs:  # an unfinished trial goes on under Tune's new id for it
            if (score := recorded.pop(_key(trial.config["trial"]), None)) is not None:
                recorded[trial.trial_id] = score


class Median(_Sparing, MedianStoppingRule):
    """Vizier's median rule whose results survive a restart (relies on `_results` of ray 2.60).

    Where it has too little to compare it would pause trials in turn; a warm slot carries its trial on instead.
    """

    def __init__(self, study: Study, grace: int) -> None:
        super().__init__("epoch", study.objective, study.mode, grace_period=grace)
        for row in study.trials.values():
            if row.scores:
                self._results[_key(row.number)] = [{"epoch": e, study.objective: s} for e, s in row.scores.items()]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        if (results := self._results.pop(_key(trial.config["trial"]), None)) is not None:
            self._results[trial] = results

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if action == TrialScheduler.PAUSE else action


class Population(_Sparing, PopulationBasedTraining):
    """Population-based training (arXiv:1711.09846) over the trials in flight; only searched floats are perturbed.

    A trial that takes over another's weights keeps its own number; its new config says whose: `"parent": {"trial": 5}`.
    """

    def __init__(self, space: SearchSpace, study: Study, interval: int) -> None:
        super().__init__(
            time_attr="epoch",
            metric=study.objective,
            mode=study.mode,
            perturbation_interval=interval,
            custom_explore_fn=self._explored,
            log_config=False,
        )
        self._space, self._rng = space, np.random.default_rng(study.seed)
        self._origins: dict[Any, str] = {}  # by trial: the checkpoint it was given, until it has scored one of its own

    def referenced(self) -> set[str]:
        """Checkpoints (relative to the study) that a trial starts from, or that the next exploitation may choose."""
        live = (state.last_result for trial, state in self._trial_state.items() if not trial.is_finished())
        offered = {str(result["checkpoint"]) for result in live if result and result.get("checkpoint")}
        return offered | set(self._origins.values())

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self._origins.pop(trial, None)
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._origins.pop(trial, None)
        super().on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._origins.pop(trial, None)
        super().on_trial_error(tune_controller, trial)

    def _explored(self, config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "params": self._space.perturb(config["params"], self._rng)}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Ray forbids any searcher here, since one would be told scores of parameters that have changed since. Ours only
        # deals the starting points, and the ledger records every change.
        no_searcher: Any = SimpleNamespace(search_alg=None)
        super().on_trial_add(no_searcher, trial)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        own = {name: trial.config[name] for name in ("trial", "attempt")}
        given = self._trial_state[trial_to_clone].last_result  # at which the checkpoint was saved that is handed over
        if given and given.get("checkpoint"):
            self._origins[trial] = str(given["checkpoint"])
        return {**config, **own, "parent": {"trial": trial_to_clone.config["trial"]}}, operations
