"""`SearchSpace`: Optuna distributions over settings, with conditions and constraints.

Conditions and constraints see the searched values over the fixed ones over the config, so a parameter that is not searched in
a trial counts with the value that the trial will really use. `raymix.search.space_file` reads spaces from YAML.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from raymix.config import ConfigError, flatten_config
from raymix.config.migration import version_0_1_setting_names
from raymix.runtime.expressions import SettingExpression

MAX_GRID_POINTS = 100_000  # points


class SearchSpace:
    """Distributions, conditions and constraints over dotted names; made by `raymix.search.space_file.parse_search_space`."""

    def __init__(
        self,
        distributions: dict[str, BaseDistribution],
        conditions: dict[str, SettingExpression],
        constraints: list[SettingExpression],
        fixed: dict[str, Any],
        base: dict[str, Any],
    ) -> None:
        self.distributions = distributions  # in an order in which each condition is decided before its parameter
        self.conditions = conditions
        self.constraints = constraints
        self.fixed = fixed
        self.initial_points: list[dict[str, Any]] = []
        self._base = {**base, **fixed}

    def changed(
        self, distributions: dict[str, BaseDistribution], fixed: dict[str, Any], constraints: list[SettingExpression]
    ) -> SearchSpace:
        """A space like this one with other distributions, fixed values and constraints, and no point that is tried first."""
        conditions = {name: text for name, text in self.conditions.items() if name in distributions}
        return SearchSpace(distributions, conditions, constraints, fixed, self._base)

    @property
    def names(self) -> list[str]:
        return list(self.distributions)

    def bounds(self) -> dict[str, list[Any]]:
        """Lowest and highest value of each range, or all choices: what a config must be able to take."""
        return {
            name: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high]  # type: ignore[attr-defined]
            for name, d in self.distributions.items()
        }

    @property
    def hash(self) -> str:
        """Twelve hex digits for ranges, conditions, constraints and fixed values; the points tried first are not in it.

        They are of our own text (`canonical_distribution`), which no other version of Optuna changes.
        """
        old = version_0_1_setting_names  # studies of version 0.1 have a hash of these names
        ranges = {old(name): canonical_distribution(each) for name, each in self.distributions.items()}
        conditions = {old(name): old(each.text) for name, each in self.conditions.items()}
        whole = [
            dict(sorted(ranges.items())),
            dict(sorted(conditions.items())),
            sorted(old(constraint.text) for constraint in self.constraints),
            sorted((old(name), value) for name, value in self.fixed.items()),
        ]
        return hashlib.blake2b(json.dumps(whole).encode(), digest_size=6).hexdigest()

    def sample_with(self, choose: Callable[[str, BaseDistribution], Any]) -> dict[str, Any]:
        """One point: asks `choose` for each parameter whose condition holds, in order."""
        params: dict[str, Any] = {}
        for name, distribution in self.distributions.items():
            condition = self.conditions.get(name)
            if condition is None or condition({**self._base, **params}):
                params[name] = choose(name, distribution)
        return params

    def point_of(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """The searched parameters in `params` whose conditions hold; None where one of them is missing."""
        try:
            return self.sample_with(lambda name, _: params[name])
        except KeyError:
            return None

    def key_of(self, params: Mapping[str, Any]) -> str | None:
        """The same text for the same point; None where a searched parameter is missing."""
        point = self.point_of(params)
        return None if point is None else json.dumps(point, sort_keys=True)

    @functools.cached_property
    def points(self) -> list[dict[str, Any]] | None:
        """All allowed points; None where a parameter is continuous, or there are more than LARGEST_GRID combinations."""
        try:
            return self.grid()
        except ConfigError:
            return None

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The trial's parameters, define by run: {dotted name: value} of those whose condition holds."""

        def choose(name: str, distribution: BaseDistribution) -> Any:
            if isinstance(distribution, FloatDistribution):
                low, high = distribution.low, distribution.high
                return trial.suggest_float(name, low, high, step=distribution.step, log=distribution.log)
            if isinstance(distribution, IntDistribution):
                low, high = distribution.low, distribution.high
                return trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
            assert isinstance(distribution, CategoricalDistribution)
            return trial.suggest_categorical(name, distribution.choices)

        return self.sample_with(choose)

    def check(self, params: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> list[str]:
        """The constraints that a point breaks, as written; a nested plain `config` replaces the one of `load`."""
        base = self._base if config is None else {**flatten_config(config), **self.fixed}
        values = {**base, **params}
        return [constraint.text for constraint in self.constraints if not constraint(values)]

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random point; conditions are obeyed, constraints are not looked at."""
        return self.sample_with(lambda _, distribution: draw_uniform(distribution, rng))

    def rejected_share(self, n: int, seed: int = 0) -> float:
        """The share of n random points that some constraint refuses."""
        rng = np.random.default_rng(seed)
        return sum(bool(self.check(self.sample(rng))) for _ in range(n)) / n

    def perturb(self, params: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A neighbour of `params` for population-based training: each float x 0.8 or 1.2, now and then drawn anew.

        Whole numbers and choices stay, since sizes shape the weights that are handed over. Keeps ranges and constraints;
        gives `params` back where no neighbour does.
        """

        def choose(name: str, distribution: BaseDistribution) -> Any:
            if not isinstance(distribution, FloatDistribution):
                return params[name] if name in params else draw_uniform(distribution, rng)
            if name not in params or rng.random() < 0.1:
                return draw_uniform(distribution, rng)
            return clip_to(distribution, params[name] * float(rng.choice([0.8, 1.2])))

        for _ in range(100):
            point = self.sample_with(choose)
            if not self.check(point):
                return point
        return dict(params)

    def grid(self) -> list[dict[str, Any]]:
        """All points that conditions and constraints allow, in the order of the YAML file.

        Raises ConfigError where a float has no step, or for more than 100,000 points.
        """
        axes = {name: _steps(name, distribution) for name, distribution in self.distributions.items()}
        size = math.prod(len(axis) for axis in axes.values())
        if size > MAX_GRID_POINTS:
            raise ConfigError(
                f"search.sampler=grid: {size} points are more than {MAX_GRID_POINTS}; use larger steps or tpe"
            )
        return list(self._allowed(axes))

    def _allowed(self, axes: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        for values in product(*axes.values()):
            full = dict(zip(axes, values, strict=True))
            point = self.sample_with(lambda name, _, full=full: full[name])  # type: ignore[misc]
            key = json.dumps(point, sort_keys=True)
            if key not in seen and not self.check(point):
                yield point
            seen.add(key)


def canonical_distribution(distribution: BaseDistribution) -> str:
    """A distribution as the hash of a space spells it: kind, bounds, log and step, or the choices in order.

    The spelling is what Optuna 5.0 printed when studies were first hashed by it, so that their hashes stay valid. It must
    never change.
    """
    if isinstance(distribution, CategoricalDistribution):
        return f"CategoricalDistribution(choices={tuple(distribution.choices)!r})"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    d, kind = distribution, "Int" if isinstance(distribution, IntDistribution) else "Float"
    return f"{kind}Distribution(high={d.high!r}, log={d.log!r}, low={d.low!r}, step={d.step!r})"


def draw_uniform(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """A uniform (or log-uniform) draw."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        half = 0.5 if isinstance(distribution, IntDistribution) else 0.0  # each integer gets its own width
        return clip_to(distribution, math.exp(rng.uniform(math.log(low - half), math.log(high + half))))
    if distribution.step:
        steps = math.floor((high - low) / distribution.step + 1e-9)
        return clip_to(distribution, low + distribution.step * int(rng.integers(steps + 1)))
    return clip_to(distribution, rng.uniform(low, high))


def clip_to(distribution: FloatDistribution | IntDistribution, value: float) -> float | int:
    """The nearest value that the distribution holds."""
    low, high, step = distribution.low, distribution.high, distribution.step
    if step:
        value = low + step * round((value - low) / step)
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def _steps(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return [distribution.low]
    if not distribution.step:
        raise ConfigError(f"space {name}: a grid needs a step (or categorical); {{float: [a, b]}} has endless values")
    count = math.floor((distribution.high - distribution.low) / distribution.step + 1e-9) + 1
    if count > MAX_GRID_POINTS:
        raise ConfigError(f"space {name}: {count} steps are too many for a grid")
    return [clip_to(distribution, distribution.low + distribution.step * i) for i in range(count)]
