"""Optuna samplers that draw whole points within the constraints, reproducibly across restarts.

Rules are kept at suggestion: a point that breaks one is redrawn before any trial of it exists, so it costs no number.
Each trial's draw depends on (seed, trial number, recorded trials), never on how often the search was restarted.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from raymix.config import ConfigError, SearchConfig, did_you_mean
from raymix.search.space import SearchSpace, draw_uniform

SAMPLERS = ["tpe", "random", "gp", "cmaes", "grid"]

# Draws of the sampler's own before random ones take over: a model may insist on what a rule forbids. A Gaussian process
# does nearly always, and takes seconds for each.
MODELLED_DRAWS = {"tpe": 16, "random": 16, "grid": 16, "cmaes": 16, "gp": 2}

RANDOM_DRAWS = 10_000


def allows_duplicates(settings: SearchConfig) -> bool:
    """Whether trials may have the same point: where asked for, and in a population, whose members change on the way."""
    return settings.repeats or settings.scheduler == "pbt"


def build_sampler(name: str, seed: int, startup: int) -> BaseSampler:
    """One of Optuna's samplers; `startup` trials are random before it models anything.

    Raises ConfigError for an unknown name, or for cmaes where its package is not installed.
    """
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=startup)
    if name in ("random", "grid"):  # a grid's points are queued one by one (suggest), nothing is left to draw
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
    if name != "cmaes":
        raise ConfigError(f"search.sampler={name}: no such sampler{did_you_mean(name, SAMPLERS)}")
    if importlib.util.find_spec("cmaes") is None:
        raise ConfigError("search.sampler=cmaes: needs the package cmaes; pip install 'raymix[cmaes]', or sampler=tpe")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of consider_pruned_trials; most trials are pruned
        return CmaEsSampler(
            seed=seed, n_startup_trials=startup, consider_pruned_trials=True, warn_independent_sampling=False
        )


class ConstrainedSampler(BaseSampler):
    """Draws from a sampler of Optuna's, a whole point at a time, until the point keeps the space's rules and is new.

    New is a point that no other trial of the study has had, has, or has been queued with; any, with `repeats`. `rejected`
    counts what each rule refused.

    Raises ConfigError for an unknown name, and where 10,000 random draws bring no point that keeps the rules.
    """

    def __init__(self, space: SearchSpace, name: str, seed: int, startup: int, repeats: bool = False) -> None:
        self.space, self.name, self.seed, self.startup, self.repeats = space, name, seed, startup, repeats
        self.rejected: Counter[str] = Counter()
        self._base = build_sampler(name, seed, startup)  # refuses a bad name now

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.distributions)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # A fresh sampler per trial: one that was built once would start its random numbers again after a restart.
        seed = int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0])
        self._base = build_sampler(self.name, seed, self.startup)
        self._base.before_trial(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        fixed = dict(trial.system_attrs.get("fixed_params", {}))  # queued points; their gaps are drawn
        if self.space.point_of(fixed) is not None:
            return {}
        taken = set(self.points(study, trial.number).values())
        drawn: set[str | None] = set()
        for _ in range(MODELLED_DRAWS[self.name]):
            point = self._modelled(study, trial, fixed)
            key = self.space.key_of(point)
            if key in drawn:
                break  # the model proposes nothing else
            drawn.add(key)
            if self._keeps(point) and (self.repeats or key not in taken):
                return point
        found = self.random_point(study, trial.number, fixed)
        if found is None:
            raise ConfigError("the search space has no point left that no trial has had")  # the caller asks this before
        return found

    def points(self, study: Study, number: int, queued_behind: bool = True) -> dict[int, str]:
        """{number: key of its point} of the other trials of a study whose points are decided.

        Queued trials are among them, unless `queued_behind` is false: then only those of lower numbers.
        """
        found = {}
        for trial in study.get_trials(deepcopy=False):
            params = trial.params or trial.system_attrs.get("fixed_params", {})
            behind = trial.state == TrialState.WAITING and trial.number > number
            key = self.space.key_of(params)
            if key is not None and trial.number != number and (queued_behind or not behind):
                found[trial.number] = key
        return found

    def random_point(self, study: Study, number: int, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """A random new point for a trial that has `fixed` values; None where there is none.

        The same for the same study and number. A space of at most LARGEST_GRID combinations is searched to the last; of a
        larger one, None means that 10,000 draws found none.
        """
        whole = self.space.point_of(fixed)  # a queued point, which it has before those behind it in the queue
        taken = set() if self.repeats else set(self.points(study, number, queued_behind=whole is None).values())
        if whole is not None:
            return None if self.space.key_of(whole) in taken else whole
        rng, repeated = np.random.default_rng([self.seed, number]), False
        for _ in range(RANDOM_DRAWS):
            point = self.space.sample_with(lambda name, distribution: fixed.get(name, draw_uniform(distribution, rng)))
            if not self._keeps(point):
                continue
            if self.space.key_of(point) not in taken:
                return point
            repeated = True
        left = [
            point
            for point in self.space.points or ()
            if self.space.key_of(point) not in taken
            and all(point.get(name, value) == value for name, value in fixed.items())
        ]
        if left:
            return left[int(rng.integers(len(left)))]
        if not repeated and self.space.points is None:
            raise ConfigError(
                f"constraints: no allowed point in {RANDOM_DRAWS} draws; refused by {dict(self.rejected)}"
            )
        return None

    def _modelled(self, study: Study, trial: FrozenTrial, fixed: Mapping[str, Any]) -> dict[str, Any]:
        together = self._base.infer_relative_search_space(study, trial)
        relative = self._base.sample_relative(study, trial, together)

        def choose(name: str, distribution: BaseDistribution) -> Any:
            if name in fixed:
                return fixed[name]
            if name in relative:
                return relative[name]
            if distribution.single():
                return draw_uniform(distribution, np.random.default_rng(0))
            return self._base.sample_independent(study, trial, name, distribution)

        return self.space.sample_with(choose)

    def _keeps(self, point: Mapping[str, Any]) -> bool:
        broken = self.space.check(point)
        self.rejected.update(broken)
        return not broken

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._base.after_trial(study, trial, state, values)
