"""Optuna's samplers, drawing whole points that keep the rules, the same ones before and after a crash.

Rules are kept at suggestion: a point that breaks one is redrawn before any trial of it exists, so it costs no number.
Each trial's draw depends on (seed, trial number, what the study knows), never on how often the search was restarted.
"""

from __future__ import annotations

import importlib.util
import json
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

from raymix.config import BadInput, nearest
from raymix.space import SearchSpace, draw

SAMPLERS = ["tpe", "random", "gp", "cmaes", "grid"]
# Draws of the sampler's own before random ones take over: a model may insist on what a rule forbids. A Gaussian process
# does nearly always, and takes seconds for each.
MODELLED_DRAWS = {"tpe": 16, "random": 16, "grid": 16, "cmaes": 16, "gp": 2}
RANDOM_DRAWS = 10_000


def build(name: str, seed: int, startup: int) -> BaseSampler:
    """One of Optuna's samplers; `startup` trials are random before it models anything.

    Raises BadInput for an unknown name, or for cmaes where its package is not installed.
    """
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=startup)
    if name in ("random", "grid"):  # a grid's points are queued one by one (suggest), nothing is left to draw
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
    if name != "cmaes":
        raise BadInput(f"search.sampler={name}: no such sampler{nearest(name, SAMPLERS)}")
    if importlib.util.find_spec("cmaes") is None:
        raise BadInput("search.sampler=cmaes: needs the package cmaes; pip install 'raymix[cmaes]', or sampler=tpe")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of consider_pruned_trials; most trials are pruned
        return CmaEsSampler(
            seed=seed, n_startup_trials=startup, consider_pruned_trials=True, warn_independent_sampling=False
        )


class RuledSampler(BaseSampler):
    """Draws from a sampler of Optuna's, a whole point at a time, until the point keeps the space's rules.

    Raises BadInput where 10,000 random draws bring no point that does. `rejected` counts what each rule refused.
    """

    def __init__(self, space: SearchSpace, name: str, seed: int, startup: int) -> None:
        self.space, self.name, self.seed, self.startup = space, name, seed, startup
        self.rejected: Counter[str] = Counter()
        self._base = build(name, seed, startup)  # refuses a bad name now

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.distributions)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # A fresh sampler per trial: one that was built once would start its random numbers again after a restart.
        seed = int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0])
        self._base = build(self.name, seed, self.startup)
        self._base.before_trial(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        fixed = dict(trial.system_attrs.get("fixed_params", {}))  # queued points; their gaps are drawn
        if set(self.space.walk(lambda name, _: fixed.get(name))) <= set(fixed):
            return {}
        rng = np.random.default_rng([self.seed, trial.number])
        drawn: set[str] = set()
        for _ in range(MODELLED_DRAWS[self.name]):
            point = self._modelled(study, trial, fixed)
            key = json.dumps(point, sort_keys=True)
            if key in drawn:
                break  # the model has made up its mind
            drawn.add(key)
            if self._keeps(point):
                return point
        for _ in range(RANDOM_DRAWS):
            point = self.space.walk(lambda name, distribution: fixed.get(name, draw(distribution, rng)))
            if self._keeps(point):
                return point
        raise BadInput(f"require: no allowed point in {RANDOM_DRAWS} draws; refused by {dict(self.rejected)}")

    def _modelled(self, study: Study, trial: FrozenTrial, fixed: Mapping[str, Any]) -> dict[str, Any]:
        together = self._base.infer_relative_search_space(study, trial)
        relative = self._base.sample_relative(study, trial, together)

        def choose(name: str, distribution: BaseDistribution) -> Any:
            if name in fixed:
                return fixed[name]
            if name in relative:
                return relative[name]
            if distribution.single():
                return draw(distribution, np.random.default_rng(0))
            return self._base.sample_independent(study, trial, name, distribution)

        return self.space.walk(choose)

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
