"""Command-line settings (`name=value`) parsed, checked and converted to Hydra overrides.

Hydra has a grammar of its own for values, in which spaces, `=`, `#`, `&`, brackets and letters outside ASCII are refused or
mean something. Where a setting is text in the schema, its value is quoted for Hydra, so that it arrives as typed.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from raymix.config import ConfigError, did_you_mean_setting

TEXT, TEXTS, INTEGERS, MAPPING, SECTION, VALUE = "text", "texts", "integers", "mapping", "section", "value"


# What people call a setting elsewhere -> the settings here that may be meant; the first that the command has is suggested.
ALIASES: dict[str, tuple[str, ...]] = {
    "accumulate_grad_batches": ("training.gradient_accumulation_steps",),
    "algorithm": ("method",),
    "amp": ("training.precision",),
    "arch": ("method",),
    "batch_size": ("training.batch_size",),
    "batchsize": ("training.batch_size",),
    "bf16": ("training.precision",),
    "bs": ("training.batch_size",),
    "clip_grad_norm": ("optimizer.max_grad_norm",),
    "config": ("recipe",),
    "cpu": ("cluster.cpus",),
    "data_dir": ("dataset.root",),
    "data_path": ("dataset.root",),
    "data_root": ("dataset.root",),
    "device": ("cluster",),
    "direction": ("study.mode",),
    "dry_run": ("study.dry_run",),
    "dtype": ("training.precision",),
    "epoch": ("training.epochs",),
    "experiment": ("study.name",),
    "experiment_name": ("study.name",),
    "fp16": ("training.precision",),
    "gpu": ("cluster.gpus_per_worker",),
    "gpus": ("cluster.gpus_per_worker",),
    "grace_period": ("search.grace_period",),
    "grad_accum": ("training.gradient_accumulation_steps",),
    "grad_clip": ("optimizer.max_grad_norm",),
    "gradient_accumulation_steps": ("training.gradient_accumulation_steps",),
    "gradient_clip_val": ("optimizer.max_grad_norm",),
    "img_size": ("encoder.image_size", "image_size"),
    "input": ("dataset.root",),
    "input_dir": ("dataset.root",),
    "layouts": ("layout",),
    "lr": ("optimizer.learning_rate",),
    "max_epochs": ("training.epochs",),
    "max_grad_norm": ("optimizer.max_grad_norm",),
    "max_trials": ("study.n_trials",),
    "methods": ("systems", "method"),
    "mixed_precision": ("training.precision",),
    "model": ("method",),
    "models": ("systems", "method"),
    "n_epochs": ("training.epochs",),
    "n_gpus": ("cluster.gpus_per_worker",),
    "n_samples": ("study.n_trials",),
    "n_startup_trials": ("search.n_startup_trials",),
    "n_trials": ("study.n_trials",),
    "n_workers": ("cluster.workers",),
    "name": ("study.name", "study"),
    "num_cpus": ("cluster.cpus",),
    "num_epochs": ("training.epochs",),
    "num_gpus": ("cluster.gpus_per_worker",),
    "num_samples": ("study.n_trials",),
    "num_trials": ("study.n_trials",),
    "num_workers": ("cluster.workers",),
    "objective": ("study.metric",),
    "out": ("output", "home"),
    "out_dir": ("output", "home"),
    "output": ("output", "home"),
    "output_dir": ("output", "home"),
    "path": ("dataset.root", "prepared"),
    "pruner": ("search",),
    "reduction_factor": ("search.reduction_factor",),
    "resolution": ("encoder.image_size", "image_size"),
    "run_name": ("study.name",),
    "save_dir": ("output", "home"),
    "seed": ("seed", "study.seed", "seeds"),
    "space": ("search_spaces",),
    "study_name": ("study.name", "study"),
    "tau": ("method.temperature",),
    "temp": ("method.temperature",),
    "test_split": ("dataset.test",),
    "val_split": ("dataset.val",),
    "videos_dir": ("dataset.root",),
    "wd": ("optimizer.weight_decay",),
}


def schema_fields(schema: type, prefix: str = "") -> Iterator[tuple[str, str, dataclasses.Field[Any]]]:
    """Every setting of a schema, sections before what is in them: dotted name, kind (TEXT, TEXTS, ...) and field."""
    hints = _hints(schema)
    for item in dataclasses.fields(schema):
        hint, name = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(hint):
            yield name, SECTION, item
            yield from schema_fields(typing.cast(type, hint), f"{name}.")
        else:
            yield name, _kind(hint), item


@functools.cache
def _hints(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema)


def _kind(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return TEXT if str in typing.get_args(hint) else VALUE
    simple = {str: TEXT, list[str]: TEXTS, list[int]: INTEGERS}
    return MAPPING if typing.get_origin(hint) is dict else simple.get(hint, VALUE)


def to_hydra_overrides(
    words: Sequence[str], schema: type, groups: Sequence[str], methods: Sequence[str] = ()
) -> list[str]:
    """The same settings for Hydra: text in quotes, lists in brackets; ConfigError for a word that names no setting.

    `groups`: names of the config groups that can be chosen; `methods`: settings that methods have (`method.NAME`).
    """
    kinds = {name: kind for name, kind, _ in schema_fields(schema)}
    ready = []
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word}: not of the form name=value{_split_value(words, place, kinds)}")
        if problem := _unknown(name, value, kinds, groups, methods):
            raise ConfigError(problem)
        kind = VALUE if name in groups else kinds.get(name, VALUE)
        ready.append(f"{name}={_value(value, kind)}")
    return ready


def _split_value(words: Sequence[str], place: int, kinds: dict[str, str]) -> str:
    """What to say where a shell has taken a value apart at its spaces."""
    first = next((at for at in range(place, -1, -1) if "=" in words[at]), None)
    if first is None or kinds.get(words[first].partition("=")[0]) not in (TEXT, TEXTS):
        return ""
    last = next((at for at in range(place, len(words)) if "=" in words[at]), len(words))
    return f"; a value with spaces needs quotes: {shlex.quote(' '.join(words[first:last]))}"


def _unknown(name: str, value: str, kinds: dict[str, str], groups: Sequence[str], methods: Sequence[str]) -> str:
    """Why there is no such setting; '' where there is, or where Hydra has to say it (settings of methods and spaces)."""
    first = name.partition(".")[0]
    if name in groups or first == "hydra" or (kinds.get(first) == MAPPING and parse_override(f"{name}=1")):
        return ""
    known = [each for each, kind in kinds.items() if kind not in (MAPPING, SECTION)]
    if name in known:
        return ""
    leaf = name.rpartition(".")[2]
    if kinds.get(name) == SECTION:
        inside = next(each for each in known if each.startswith(f"{name}."))
        if f"{name}.name" in known:
            return f"{name}={value}: {name} is a group of settings (did you mean {name}.name={value}?)"
        return f"{name}={value}: {name} is a group of settings, such as {inside}"
    meant = [*ALIASES.get(_plain(name), ()), *ALIASES.get(_plain(leaf), ())]
    everything = [*known, *groups, *methods]
    found = next((each for each in meant if each in everything), None)
    hint = f" (did you mean {found}?)" if found else did_you_mean_setting(name, everything)
    return f"{name}: no such setting{hint}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").lstrip("_")


def _value(value: str, kind: str) -> str:
    """A value in Hydra's syntax."""
    if value == "null" or (kind == TEXT and _is_quoted(value)):
        return value
    if kind == TEXT:
        return quote_value(value)
    if kind in (TEXTS, INTEGERS):
        return _list(value, kind)
    return value if not value or parse_override(f"x={value}") else quote_value(value)


def _list(value: str, kind: str) -> str:
    """`[a,b]`, `a,b` or `a` as a list for Hydra; items in quotes, nested lists and interpolations are Hydra's own."""
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if re.search(r"['\"\[\]{}]", inner) and parse_override(f"x=[{inner}]"):
        return value if value.startswith("${") else f"[{inner}]"
    items = [item.strip() for item in inner.split(",") if item.strip()]
    if kind == INTEGERS and all(re.fullmatch(r"[+-]?\d+", item) for item in items):
        return f"[{','.join(items)}]"
    return f"[{','.join(map(quote_value, items))}]"


def quote_value(text: str) -> str:
    """Any text as a quoted value of Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def _is_quoted(value: str) -> bool:
    """Whether a person has quoted the whole value for Hydra."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return False
    found = parse_override(f"x={value}")
    return found is not None and isinstance(found.value(), str) and found.is_sweep_override() is False


def parse_override(word: str) -> Override | None:
    """What Hydra reads in a word; None where its grammar refuses it."""
    try:
        return _parser().parse_override(word)
    except HydraException:
        return None


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def escape_interpolation(text: str) -> str:
    """A text that OmegaConf takes as it is: `${` begins no interpolation in it."""
    return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)
