"""Trial schedulers (ASHA, median stopping, PBT) whose state is rebuilt from the event log at every start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from raymix.config import ConfigError, SearchConfig, did_you_mean
from raymix.search.space import SearchSpace
from raymix.tracking.study import StudyState


def _best(scores: dict[int, float], mode: str) -> float:
    return max(scores.values()) if mode == "max" else min(scores.values())


def build_scheduler(settings: SearchConfig, study: StudyState, epochs: int, space: SearchSpace) -> TrialScheduler:
    """Build a trial scheduler on the attribute `epoch`, restored from all scores in the event log.

    Raises ConfigError for a name that is none of asha, fifo, median, pbt.
    """
    if settings.scheduler == "asha":
        return ResumableASHAScheduler(study, epochs, settings.grace_period, settings.reduction_factor)
    if settings.scheduler == "median":
        return ResumableMedianStopping(study, settings.grace_period)
    if settings.scheduler == "pbt":
        return ResumablePBT(space, study, settings.grace_period)
    if settings.scheduler == "fifo":
        return FIFOScheduler()
    choices = ["asha", "fifo", "median", "pbt"]
    raise ConfigError(
        f"search.scheduler={settings.scheduler}: no such scheduler{did_you_mean(settings.scheduler, choices)}"
    )


def _key(number: int) -> str:
    """Stands for a event log's trial among Tune's until it is taken up again."""
    return f"ledger-{number}"


class _IgnoreFailedTrials(FIFOScheduler):
    """A failed trial ends with the worst score; that stops it, and teaches the scheduler nothing about the others."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "failed" in result:
            return TrialScheduler.STOP
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if "failed" not in result:
            super().on_trial_complete(tune_controller, trial, result)


class ResumableASHAScheduler(_IgnoreFailedTrials, AsyncHyperBandScheduler):
    """Asynchronous successive halving (arXiv:1810.05934) whose rungs survive a restart.

    Relies on `_brackets` and `_rungs` of ray 2.60; tests/unit/search/test_searcher_and_schedulers.py notices a change.
    """

    def __init__(self, study: StudyState, epochs: int, grace: int, reduction: int) -> None:
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


class ResumableMedianStopping(_IgnoreFailedTrials, MedianStoppingRule):
    """Vizier's median rule whose results survive a restart (relies on `_results` of ray 2.60).

    Where it has too little to compare it would pause trials in turn; a warm slot carries its trial on instead.
    """

    def __init__(self, study: StudyState, grace: int) -> None:
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


class ResumablePBT(_IgnoreFailedTrials, PopulationBasedTraining):
    """Population-based training (arXiv:1711.09846) over the trials in flight; only searched floats are perturbed.

    A trial that takes over another's weights keeps its own number; its new config names that trial: `"parent": {"trial": 5}`.
    """

    def __init__(self, space: SearchSpace, study: StudyState, interval: int) -> None:
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
        # Ray forbids any searcher here, since it would receive scores of parameters that have changed meanwhile. Ours only
        # deals the starting points, and the event log records every change.
        no_searcher: Any = SimpleNamespace(search_alg=None)
        super().on_trial_add(no_searcher, trial)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        own = {name: trial.config[name] for name in ("trial", "attempt")}
        given = self._trial_state[trial_to_clone].last_result  # at which the checkpoint was saved that is handed over
        if given and given.get("checkpoint"):
            self._origins[trial] = str(given["checkpoint"])
        return {**config, **own, "parent": {"trial": trial_to_clone.config["trial"]}}, operations
