"""The rules that a config must keep: each field's range, and what holds between fields; every refusal is one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from raymix.config.errors import ConfigError
from raymix.config.methods import MethodConfig, method_config
from raymix.config.schema import PrepareConfig, TrainConfig
from raymix.config.values import did_you_mean


def range_violation(name: str, value: Any, rule: Mapping[str, Any]) -> str | None:
    """The sentence that refuses `value`, or None."""
    if rule.get("choices") and value not in rule["choices"]:
        choices = list(rule["choices"])
        near = did_you_mean(str(value), choices)
        return f"{name}={value}: must be one of {', '.join(choices)}{near if 'did you' in near else ''}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name}={value!r}: must be a number" if {"low", "above"} & set(rule) else None
    low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
    if value != value:
        return f"{name}={value}: must be a number"
    if rule.get("whole") and not isinstance(value, int):
        return f"{name}={value}: must be a whole number"
    if above is not None and not value > above:
        return f"{name}={value}: must be greater than {above:g}"
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
        return f"{name}={value}: must be {span}"
    return None


def range_problems(config: Any, prefix: str = "") -> Iterator[str]:
    """A sentence for each field whose value is outside its range; `prefix` is that of the fields' dotted names."""
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from range_problems(value, name + ".")
        elif item.name == "method" and isinstance(value, Mapping):
            yield from _method_problems(value)
        elif item.metadata.get("workers"):
            yield from filter(None, [_broken_workers(name, value)])
        elif value is not None or "None" not in str(item.type):
            rule = {**item.metadata, "whole": item.type in (int, "int")}
            yield from filter(None, [range_violation(name, value, rule)])


def _method_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each broken rule of `method.*`; a config without a method has none."""
    if not settings:
        return
    try:
        config = method_config(str(settings.get("name", "")), {k: v for k, v in settings.items() if k != "name"})
    except ConfigError as error:
        yield str(error)
    else:
        yield from method_config_problems(config)


def method_config_problems(config: MethodConfig) -> list[str]:
    """A sentence for each setting of a method that is out of its range; if there is none, for each broken rule between them."""
    return list(range_problems(config, "method.")) or list(config.conflicts())


def _broken_workers(name: str, value: Any) -> str | None:
    """A whole number from 1, or [fewest, most]."""
    span = value if isinstance(value, list) else [value, value]
    whole = len(span) == 2 and all(isinstance(each, int) and not isinstance(each, bool) for each in span)
    if not whole or not 1 <= span[0] <= span[1]:
        return f"{name}={value}: must be a whole number from 1, or [fewest, most] for raymix.train"
    return None


def _between(run: TrainConfig) -> Iterator[str]:
    """The rules between fields; each names both sides."""
    yield from _batch(run)
    if run.mixture.seconds > run.dataset.clip_seconds:
        yield f"mixture.seconds={run.mixture.seconds}: longer than dataset.clip_seconds={run.dataset.clip_seconds}"
    if run.encoder.image_size % 16:
        yield f"encoder.image_size={run.encoder.image_size}: must be a multiple of 16, the encoder's stride"
    if run.training.compile and run.training.sync_batch_norm and run.cluster.most > 1:
        yield (
            f"training.compile=true: torch.compile stops at every BatchNorm that training.sync_batch_norm=true shares between "
            f"cluster.workers={run.cluster.workers}; one of the two must be false"
        )
    search = getattr(run, "search", None)
    if search and run.cluster.elastic:
        yield f"cluster.workers={run.cluster.workers}: a search needs one number; [fewest, most] is for raymix.train"


def _batch(run: TrainConfig) -> Iterator[str]:
    """A batch must come out even: groups of k, for every worker, in every piece that is accumulated."""
    batch, k, fewest, most = run.training.batch_size, run.mixture.k, run.cluster.fewest, run.cluster.most
    pieces, parts = run.training.gradient_accumulation_steps, {"mixture.k": k}
    if k > batch:
        yield f"mixture.k={k}: larger than training.batch_size={batch}; a batch must hold at least one group of k clips"
        return
    for workers in range(fewest, most + 1):
        parts |= {"cluster.workers": workers} if most > 1 else {}
        parts |= {"training.gradient_accumulation_steps": pieces} if pieces > 1 else {}
        unit = math.prod(parts.values())
        if batch % unit:
            names, values = " x ".join(parts), " x ".join(map(str, parts.values()))
            need = f"{names} = {values}" if len(parts) > 1 else f"mixture.k={k}"
            even = math.lcm(*(k * pieces * each for each in range(fewest, most + 1)))
            good = max(even, round(batch / even) * even)
            yield (
                f"training.batch_size={batch}: not divisible by {need}; groups of k must fit evenly into every worker's share "
                f"(training.batch_size={good} does)"
            )
            return


def _shares(config: TrainConfig | PrepareConfig) -> Iterator[str]:
    """The rules of what every door that reads videos has."""
    val, test, store = config.dataset.val, config.dataset.test, config.cluster.object_store_gib
    if val + test >= 1:
        yield f"dataset.val={val} and dataset.test={test}: leave no videos to train on"
    if 0 < store < 0.1:
        yield f"cluster.object_store_gib={store}: must be at least 0.1, or 0 for Ray's own choice"


def config_problems(config: Any) -> list[str]:
    """Every sentence that refuses this config; empty for a good one."""
    found = list(range_problems(config))
    if isinstance(config, TrainConfig | PrepareConfig) and not found:
        found += _shares(config)
    if isinstance(config, TrainConfig) and not found:
        found += _between(config)
    return found


def validate_config(config: Any) -> Any:
    """The config itself; ConfigError with the first broken rule otherwise (and how many more there are)."""
    found = config_problems(config)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(found[0] + more)
    return config
