"""Search-space YAML files: parsed and checked against the settings; recipe ranges; the shared space of a comparison.

space:
  method.temperature: {float: [0.02, 0.3], log: true}
  method.embedding_size: {categorical: [64, 128, 256]}
  mixture.k: {int: [2, 4]}
  method.pool_sharpness: {float: [1.0, 20.0], condition: "method.pool == 'lse'"}
constraints: ["method.embedding_size * mixture.k <= 1024"]
fixed: {training.batch_size: 96}
recipe_ranges: true   # configs/ranges/RECIPE.yaml replaces ranges of the same name (raymix.search.space_file.apply_recipe_ranges)
initial_points: [{method.temperature: 0.07, method.embedding_size: 128, mixture.k: 2}]   # tried first; gaps are drawn
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raymix.config import ConfigError, did_you_mean, did_you_mean_setting, flatten_config
from raymix.config.migration import OLD_SPACE_SECTIONS
from raymix.runtime.expressions import SettingExpression
from raymix.search.space import SearchSpace

RECIPE_RANGES_KEY = "recipe_ranges"  # of a space in which a recipe may replace ranges


def apply_recipe_ranges(
    own: Mapping[str, Any], ranges: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A space in which `ranges` replace those of the same name, where it has `recipe_ranges: true`.

    The only point that is tried first is then that of `settings` ({dotted name: value}), the recipe's own.
    """
    space = {name: value for name, value in own.items() if name != RECIPE_RANGES_KEY}
    if not own.get(RECIPE_RANGES_KEY) or not ranges:
        return space
    entries = {name: _replaced(entry, ranges.get(name)) for name, entry in (own.get("space") or {}).items()}
    start = {n: settings[n] for n, entry in entries.items() if n in settings and range_contains(entry, settings[n])}
    start = {name: value for name, value in start.items() if _active(entries[name], settings)}
    return {**space, "space": entries, "initial_points": [start] if start else []}


def _replaced(entry: Any, by: Any) -> Any:
    if by is None:
        return entry
    condition = (
        {"condition": entry["condition"]} if isinstance(entry, Mapping) and entry.get("condition") is not None else {}
    )
    return {**by, **condition}


def remove_fixed_parameters(
    own: Mapping[str, Any], given: Collection[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A space that does not search the names in `given`, whose values stand in `settings`.

    Points to try first lose these values, and those of parameters whose condition no longer holds.
    """
    entries = {name: entry for name, entry in (own.get("space") or {}).items() if name not in given}
    first = []
    for point in own.get("initial_points") or []:
        if isinstance(point, Mapping):
            left = {name: value for name, value in point.items() if name not in given}
            values = {**settings, **left}
            point = {n: v for n, v in left.items() if n not in entries or _active(entries[n], values)}
            if not point:
                continue
        first.append(point)
    fixed = {name: value for name, value in (own.get("fixed") or {}).items() if name not in given}
    return {**own, "space": entries, "initial_points": first, "fixed": fixed}


def _active(entry: Any, values: Mapping[str, Any]) -> bool:
    """Whether the condition of a parameter holds; what is no condition is refused where the space is read."""
    condition = entry.get("condition") if isinstance(entry, Mapping) else None
    try:
        return condition is None or bool(SettingExpression(condition)(values))
    except (ValueError, KeyError):
        return True


def range_contains(entry: Any, value: Any) -> bool:
    """Whether a range has this value; what is no range at all is refused where the space is read."""
    if not isinstance(entry, Mapping):
        return False
    for kind in ("float", "int"):
        span = entry.get(kind)
        if isinstance(span, list) and len(span) == 2 and not entry.get("step"):
            numbers = all(isinstance(each, int | float) for each in (*span, value))
            return numbers and span[0] <= value <= span[1]
    return value in (entry.get("categorical") or [])


METHOD_SPECIFIC = ("method.", "mixture.k")  # what a system may fix for itself; it searches method.* alone


def shared_search_space(
    own: Mapping[str, Any], space: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A system's space in which only its own settings (`method.*`) differ, and `space` is what all systems search.

    Points to try first lose what is not searched, and begin for all at the values that the settings have, where these
    lie in the common range.
    """
    searched = {name: entry for name, entry in own["space"].items() if name.startswith("method.") and name not in space}
    fixed = {name: value for name, value in (own.get("fixed") or {}).items() if name.startswith(METHOD_SPECIFIC)}
    start = {
        name: settings[name]
        for name, entry in space.items()
        if name in settings and range_contains(entry, settings[name])
    }
    first: list[dict[str, Any]] = []
    for point in own.get("initial_points") or [{}]:
        begun = {name: value for name, value in point.items() if name in searched} | start
        if begun and begun not in first:
            first.append(begun)
    fixed = {name: value for name, value in fixed.items() if name not in space}
    return {
        "space": {**searched, **space},
        "constraints": own.get("constraints"),
        "fixed": fixed,
        "initial_points": first,
    }


SEARCHABLE = [
    "mixture",
    "encoder",
    "method",
    "optimizer",
    "training",
]  # what a trial may change; the rest is the study's

FILE_SECTIONS = ["space", "constraints", "fixed", "initial_points", RECIPE_RANGES_KEY]

PARAMETER_OPTIONS = {
    "float": ["log", "step", "condition"],
    "int": ["log", "step", "condition"],
    "categorical": ["condition"],
}

PROBED_POINTS = 512  # random points that a new space is tried on


def parse_search_space(mapping: Mapping[str, Any], config: Mapping[str, Any]) -> SearchSpace:
    """The search space that a YAML file describes, over a nested plain config.

    Raises ConfigError with one line: a section, option or name that does not exist (and the nearest that does), a range
    that is none, a value that does not fit the config's own, conditions in a circle, a rule that no point keeps.
    """
    for section in mapping:
        if section not in FILE_SECTIONS:
            renamed = OLD_SPACE_SECTIONS.get(section)
            hint = f"; it is called {renamed} now" if renamed else did_you_mean(str(section), FILE_SECTIONS)
            raise ConfigError(f"search space: {section} is no section{hint}")
    if not isinstance(mapping.get(RECIPE_RANGES_KEY, False), bool):
        raise ConfigError(
            f"search space: {RECIPE_RANGES_KEY} must be true or false, not {mapping[RECIPE_RANGES_KEY]!r}"
        )
    known = flatten_config(config)
    described = _mapping(mapping.get("space"), "space")
    if not described:
        raise ConfigError("search space: `space` names no parameter to search")
    distributions: dict[str, BaseDistribution] = {}
    conditions: dict[str, SettingExpression] = {}
    for name, entry in described.items():
        current = _current(name, known, "space")
        if name.split(".")[0] not in SEARCHABLE:
            raise ConfigError(f"space {name}: cannot differ between trials; only {', '.join(SEARCHABLE)} can")
        distributions[name] = _distribution(name, _mapping(entry, f"space {name}"), current)
        if entry.get("condition") is not None:
            conditions[name] = _expression(entry["condition"], known, f"space {name}, condition")
    fixed = _fixed(_mapping(mapping.get("fixed"), "fixed"), known, distributions)
    rules = [_expression(text, known, "constraints") for text in _list(mapping.get("constraints"), "constraints")]
    ordered = {name: distributions[name] for name in _order(distributions, conditions)}
    space = SearchSpace(ordered, conditions, rules, fixed, known)
    space.initial_points = [
        _point(space, point, i) for i, point in enumerate(_list(mapping.get("initial_points"), "initial_points"))
    ]
    if rules and space.rejected_share(PROBED_POINTS) == 1.0:
        texts = " and ".join(rule.text for rule in rules)
        raise ConfigError(f"constraints: none of {PROBED_POINTS} random points of the space keeps {texts}")
    return space


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be a mapping, not {value!r}")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if value is None:
        return []
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise ConfigError(f"{where}: must be a list, not {value!r}")
    return value


def _current(name: Any, known: Mapping[str, Any], where: str) -> Any:
    """The config's value under a dotted name."""
    if name in known and not (isinstance(known[name], Mapping | list)):
        return known[name]
    inside = [other for other in known if other.startswith(f"{name}.")]
    if inside:
        raise ConfigError(f"{where} {name}: a group of settings, not one (for instance {inside[0]})")
    raise ConfigError(f"{where} {name}: no such setting{did_you_mean_setting(str(name), list(known))}")


def _expression(text: Any, known: Mapping[str, Any], where: str) -> SettingExpression:
    try:
        expression = SettingExpression(text)
        for name in sorted(expression.names):
            _current(name, known, f"{where} {expression.text!r}:")
        expression(known)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where} {error}") from None
    return expression


def _fits(value: Any, current: Any) -> bool:
    """Whether a value may stand where the config has `current`; a setting that is empty now takes anything plain."""
    if not isinstance(value, bool | int | float | str | None):
        return False
    if current is None or value is None:
        return True
    if isinstance(current, bool) or isinstance(value, bool):
        return isinstance(current, bool) and isinstance(value, bool)
    if isinstance(current, float):
        return isinstance(value, int | float)
    return isinstance(value, type(current))


def _kind(value: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(type(value), "a list")


def _distribution(name: str, entry: Mapping[str, Any], current: Any) -> BaseDistribution:
    types = [key for key in entry if key in PARAMETER_OPTIONS]
    if len(types) != 1:
        unknown = next((str(key) for key in entry if key not in ("log", "step", "condition", *PARAMETER_OPTIONS)), None)
        hint = (
            f"; {unknown} is not one{did_you_mean(unknown, list(PARAMETER_OPTIONS))}"
            if unknown
            else f", not {len(types)}"
        )
        raise ConfigError(f"space {name}: needs one of float, int, categorical{hint}")
    kind, options = types[0], PARAMETER_OPTIONS[types[0]]
    for key in entry:
        if key != kind and key not in options:
            hint = "; it is called condition now" if key == "when" else did_you_mean(str(key), options)
            raise ConfigError(f"space {name}: {key} is no option of {kind}{hint}")
    values = _list(entry[kind], f"space {name}, {kind}")
    if kind == "categorical":
        return _choices(name, values, current)
    if len(values) != 2:
        raise ConfigError(f"space {name}: {kind} needs [low, high], not {list(values)}")
    return _range(name, kind, values, entry, current)


def _choices(name: str, values: Sequence[Any], current: Any) -> CategoricalDistribution:
    if not values:
        raise ConfigError(f"space {name}: categorical needs at least one choice")
    for value in values:
        if not _fits(value, current):
            raise ConfigError(
                f"space {name}: choice {value!r} does not fit; the setting is {_kind(current)} ({current!r})"
            )
    if len({(type(value), value) for value in values}) != len(values):
        raise ConfigError(f"space {name}: categorical repeats a choice: {list(values)}")
    return CategoricalDistribution([float(v) if isinstance(current, float) and v is not None else v for v in values])


def _number(name: str, value: Any, kind: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"space {name}: {value!r} is not a number{_spelling(value)}")
    if kind == "int" and value != int(value):
        raise ConfigError(f"space {name}: {value!r} is not a whole number; use float")
    return int(value) if kind == "int" else float(value)


def _spelling(value: Any) -> str:
    """YAML 1.1 reads 1e-5 as text; only 1.0e-5 is a number."""
    try:
        return f" (write {float(value):.1e})" if isinstance(value, str) else ""
    except ValueError:
        return ""


def _range(name: str, kind: str, values: Sequence[Any], entry: Mapping[str, Any], current: Any) -> BaseDistribution:
    low, high = (_number(name, value, kind) for value in values)
    log, step = entry.get("log", False), entry.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"space {name}: log must be true or false, not {log!r}")
    if isinstance(current, bool | str) or (kind == "float" and isinstance(current, int)):
        raise ConfigError(
            f"space {name}: a range of {kind}s does not fit; the setting is {_kind(current)} ({current!r})"
        )
    if low > high:
        raise ConfigError(f"space {name}: low {low:g} is above high {high:g}")
    if log and low <= 0:
        raise ConfigError(f"space {name}: log needs low above 0, not {low:g}")
    if step is not None:
        step = _number(name, step, kind)
        if step <= 0:
            raise ConfigError(f"space {name}: step must be above 0, not {step:g}")
        if log:
            raise ConfigError(f"space {name}: log and step exclude each other")
        high = low + step * math.floor((high - low) / step + 1e-9)  # the last step inside, as Optuna would warn
    if kind == "int":
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _fixed(values: Mapping[str, Any], known: Mapping[str, Any], searched: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        current = _current(name, known, "fixed")
        if name in searched:
            raise ConfigError(f"fixed {name}: is searched as well; keep one of the two")
        if not _fits(value, current):
            raise ConfigError(f"fixed {name}: {value!r} does not fit; the setting is {_kind(current)} ({current!r})")
    return dict(values)


def _order(distributions: Mapping[str, Any], conditions: Mapping[str, SettingExpression]) -> list[str]:
    """The names in the file's order, but each after those that its condition looks at."""
    ordered: list[str] = []
    waiting = list(distributions)
    while waiting:
        ready = [n for n in waiting if n not in conditions or not conditions[n].names & set(waiting)]
        if not ready:
            raise ConfigError(f"space: the conditions of {', '.join(waiting)} wait for each other")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _point(space: SearchSpace, point: Any, index: int) -> dict[str, Any]:
    """A point to try first, its values as the distributions hold them; ValueError where it is not in the space."""
    where, values = f"initial_points[{index}]", dict(_mapping(point, f"initial_points[{index}]"))
    for name, value in values.items():
        if name not in space.distributions:
            raise ConfigError(f"{where} {name}: is not searched{did_you_mean_setting(str(name), space.names)}")
        values[name] = _inside(space.distributions[name], value, f"{where} {name}")
    active = space.sample_with(lambda name, _: values.get(name))
    if all(name in values for name in active) and (broken := space.check(values)):
        raise ConfigError(f'{where}: breaks the rule "{broken[0]}"')
    if surplus := [name for name in values if name not in active and _decided(space, name, values)]:
        raise ConfigError(
            f'{where} {surplus[0]}: has no use here; it is searched when "{space.conditions[surplus[0]].text}"'
        )
    return values


def _decided(space: SearchSpace, name: str, values: Mapping[str, Any]) -> bool:
    """Whether the point itself settles the condition of `name`, rather than what will be drawn."""
    return all(other in values for other in space.conditions[name].names if other in space.distributions)


def _inside(distribution: BaseDistribution, value: Any, where: str) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ConfigError(f"{where}: {value!r} is not one of {list(distribution.choices)}")
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    number = _number(where, value, "int" if isinstance(distribution, IntDistribution) else "float")
    on_step = not distribution.step or abs((r := (number - distribution.low) / distribution.step) - round(r)) < 1e-6
    if not (distribution.low <= number <= distribution.high and on_step):
        step = f" in steps of {distribution.step:g}" if distribution.step and not on_step else ""
        raise ConfigError(f"{where}: {number:g} is not in [{distribution.low:g}, {distribution.high:g}]{step}")
    return number
