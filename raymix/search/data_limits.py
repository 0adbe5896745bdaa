"""Restriction of a search space to what the training clips allow, before anything starts.

A batch has to fit the training clips, a group of k needs k different videos, and a batch must hold whole groups for every
worker. The cut follows from the space, the settings and the clips alone, so the same command resumes the same study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raymix.config import ConfigError, TrainConfig
from raymix.data.mixing import can_group_clips
from raymix.runtime.expressions import SettingExpression
from raymix.search.space import SearchSpace

BATCH_KEY, GROUP_SIZE_KEY, CLUSTERS_KEY = "training.batch_size", "mixture.k", "method.clusters"

SHOWN = 6  # values in a line


def fit_space_to_data(
    space: SearchSpace, run: TrainConfig, videos: Sequence[str]
) -> tuple[SearchSpace, dict[str, Any], list[str]]:
    """The space without what the training clips cannot carry, the settings that a trial starts from, and what was cut.

    Args:
        space: as read from YAML, without the parameters that the command line gives.
        run: the settings, which count for what is not searched.
        videos: the source video of each training clip.

    Returns:
        The space; {dotted name: value} of searched settings whose own value does not fit the clips; one sentence for each
        parameter of which values were cut.

    Raises:
        ConfigError: no value of a searched parameter is left.
    """
    kept, why = _groups(space, run, videos)
    if CLUSTERS_KEY in space.distributions:
        count = len(videos)
        kept[CLUSTERS_KEY] = [
            value for value in distribution_values(space.distributions[CLUSTERS_KEY]) if value <= count
        ]
        why[CLUSTERS_KEY] = lambda value: f"more than the {count} training clips"
    notes, changed = [], {}
    for name, left in kept.items():
        if len(left) == len(every := distribution_values(space.distributions[name])):
            continue
        cut = [value for value in every if value not in left]
        reason = "; ".join(dict.fromkeys(why[name](value) for value in cut))
        if not left:
            raise ConfigError(f"search space {name}: {_listed(every)}: {reason}{_hint(name, run, len(videos))}")
        notes.append(f"cut from the search space: {name} {_listed(cut)} ({reason})")
        changed[name] = left
    own = {name: config_value(run, name) for name in kept}
    base = {name: _nearest(left, own[name]) for name, left in kept.items() if own[name] not in left}
    base |= _pair(kept, {**own, **base}, run)
    return _cut(space, changed, run), base, notes


def _hint(name: str, run: TrainConfig, clips: int) -> str:
    """The largest batch that the clips fill, where it is a batch that they do not."""
    unit = run.mixture.k * run.cluster.most * run.training.gradient_accumulation_steps
    return f"; {BATCH_KEY}={clips // unit * unit} fits" if name == BATCH_KEY and clips >= unit else ""


def config_value(run: TrainConfig, name: str) -> Any:
    """The value of a dotted setting."""
    section, _, leaf = name.partition(".")
    of = getattr(run, section)
    return of.get(leaf) if isinstance(of, dict) else getattr(of, leaf)


def distribution_values(distribution: BaseDistribution) -> list[Any]:
    """All values of a choice, or of a range of whole numbers."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution), distribution
    return list(range(distribution.low, distribution.high + 1, distribution.step))


def has_whole_groups(run: TrainConfig, batch: int, k: int) -> bool:
    """Whether a batch holds whole groups of k for every worker, in every piece that is accumulated."""
    return batch % (k * run.cluster.most * run.training.gradient_accumulation_steps) == 0


def _groups(
    space: SearchSpace, run: TrainConfig, videos: Sequence[str]
) -> tuple[dict[str, list[Any]], dict[str, Callable[[Any], str]]]:
    """The values of batch and k that are left, of those of the two that are searched, and why a value is not."""
    searched = [name for name in (GROUP_SIZE_KEY, BATCH_KEY) if name in space.distributions]
    batches = (
        distribution_values(space.distributions[BATCH_KEY]) if BATCH_KEY in searched else [run.training.batch_size]
    )
    ks = distribution_values(space.distributions[GROUP_SIZE_KEY]) if GROUP_SIZE_KEY in searched else [run.mixture.k]
    carried = {k: can_group_clips(videos, k) for k in ks}
    carried_batches = [batch for batch in batches if batch <= len(videos)] or batches
    left = {
        BATCH_KEY: [
            b for b in batches if b <= len(videos) and any(carried[k] and has_whole_groups(run, b, k) for k in ks)
        ],
        GROUP_SIZE_KEY: [k for k in ks if carried[k] and any(has_whole_groups(run, b, k) for b in carried_batches)],
    }
    clips, different = len(videos), len(set(videos))

    def of_batch(batch: int) -> str:
        if batch > clips:
            return f"more than the {clips} training clips"
        return "no whole groups of mixture.k clips for every worker"

    def of_k(k: int) -> str:
        if k > different:
            return f"more than the {different} training videos"
        if not carried[k]:
            return f"{clips} clips of {different} videos give no groups of different videos"
        return (
            f"training.batch_size={run.training.batch_size} holds no whole groups"
            if BATCH_KEY not in searched
            else "divides no training.batch_size"
        )

    reasons: dict[str, Callable[[Any], str]] = {BATCH_KEY: of_batch, GROUP_SIZE_KEY: of_k}
    return {name: left[name] for name in searched}, {name: reasons[name] for name in searched}


def _pair(kept: dict[str, list[Any]], base: dict[str, Any], run: TrainConfig) -> dict[str, Any]:
    """A batch that goes with the k that trials start from, where the two that are there do not go together."""
    batch, k = base.get(BATCH_KEY, run.training.batch_size), base.get(GROUP_SIZE_KEY, run.mixture.k)
    if BATCH_KEY not in kept or has_whole_groups(run, batch, k):
        return {}
    fits = [each for each in kept[BATCH_KEY] if has_whole_groups(run, each, k)]
    return {BATCH_KEY: _nearest(fits, batch)} if fits else {}


def _nearest(values: Sequence[Any], value: Any) -> Any:
    return min(values, key=lambda each: (abs(each - value), each))


def _cut(space: SearchSpace, changed: dict[str, list[Any]], run: TrainConfig) -> SearchSpace:
    """The space with only these values of the changed parameters; one that has a single value left is fixed at it."""
    distributions = dict(space.distributions)
    fixed = dict(space.fixed)
    for name, left in changed.items():
        if len(left) == 1:
            del distributions[name]
            fixed[name] = left[0]
        else:
            distributions[name] = _distribution(space.distributions[name], left)
    if not distributions:
        raise ConfigError(
            "search space: the clips leave one value of every parameter; python -m raymix.train trains it"
        )
    rules = [*space.constraints, *_rule(space, distributions, run)]
    made = space.changed(distributions, fixed, rules)
    made.initial_points = [moved for point in space.initial_points if (moved := _moved(point, made, changed))]
    return made


def _distribution(was: BaseDistribution, left: list[Any]) -> BaseDistribution:
    if isinstance(was, IntDistribution) and left == list(range(left[0], left[-1] + 1, was.step)):
        return IntDistribution(left[0], left[-1], log=was.log, step=was.step)
    return CategoricalDistribution(left)


def _rule(
    space: SearchSpace, distributions: dict[str, BaseDistribution], run: TrainConfig
) -> Iterable[SettingExpression]:
    """Batches hold whole groups: a rule, where both are searched, some pairs break it, and the space does not say so."""
    if not {BATCH_KEY, GROUP_SIZE_KEY} <= set(distributions) or any(
        {BATCH_KEY, GROUP_SIZE_KEY} <= rule.names for rule in space.constraints
    ):
        return
    batches, ks = distribution_values(distributions[BATCH_KEY]), distribution_values(distributions[GROUP_SIZE_KEY])
    if not all(has_whole_groups(run, batch, k) for batch in batches for k in ks):
        yield SettingExpression(
            f"{BATCH_KEY} % ({GROUP_SIZE_KEY} * {run.cluster.most * run.training.gradient_accumulation_steps}) == 0"
        )


def _moved(point: dict[str, Any], space: SearchSpace, changed: dict[str, list[Any]]) -> dict[str, Any]:
    """A point to try first with the nearest values that are left; empty where the rules refuse it now."""
    moved = {
        name: _nearest(changed[name], value) if name in changed and value not in changed[name] else value
        for name, value in point.items()
        if name in space.distributions
    }
    whole = set(space.sample_with(lambda name, _: moved.get(name))) <= set(moved)
    return {} if whole and space.check(moved) else moved


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return shown if len(values) <= SHOWN else f"{shown} ... {values[-1]}"


def space_warnings(space: SearchSpace, settings: dict[str, Any], points: int, share: float) -> list[str]:
    """What is odd about a space: it leaves out a value that the settings have, or its rules refuse too many points.

    Args:
        space: the search space.
        settings: {dotted name: value} of all settings.
        points: how many random points are drawn.
        share: of them, that the rules may refuse without a word.
    """
    found = []
    for name, distribution in space.distributions.items():
        value = settings.get(name)
        if name in space.conditions and not space.conditions[name](settings):
            continue
        if value is not None and not _inside(distribution, value):
            found.append(
                f"search space: {name} is searched in {describe_distribution(distribution)}, without your setting {value}"
            )
    if space.constraints and (refused := space.rejected_share(points)) > share:
        found.append(f"search space: its rules reject {refused:.0%} of random points, which are drawn anew")
    return found


def _inside(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def describe_distribution(distribution: BaseDistribution) -> str:
    """`0.02 to 0.3, log` or `one of 64, 128`."""
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    d: Any = distribution
    how = (", log" if d.log else "") + (f", steps of {d.step:g}" if d.step and d.step != 1 else "")
    return f"{d.low:g} to {d.high:g}{how}"
