"""The page that `--help` prints: examples, config groups, and every setting with its default, meaning and range."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from raymix.cli import overrides, setting_conflicts
from raymix.config import METHOD_CONFIGS, MethodConfig

WIDTH = 80  # columns

INDENT = 34  # columns before the meaning of a setting

GROUPS = {  # config groups that a person chooses -> what they choose
    "dataset": "importer and its settings",
    "method": "what is trained, with its settings",
    "recipe": "sizes of network and batch for a dataset",
    "search": "scheduler that stops trials early",
    "cluster": "what a trial takes of a machine or cluster",
    "numerics": "arithmetic; chosen with cluster",
    "search_spaces": "what is searched",
    "space": "what all systems search in the same range",
}

WITHOUT_EFFECT = {  # settings and groups that a command has in its configuration and does not read
    "train": ("study.n_trials", "study.extend"),
    "compare": (*setting_conflicts.SET_BY_COMPARE, "method"),
    "prepare": (
        "cluster",
        "cluster.workers",
        "cluster.cpus_per_worker",
        "cluster.gpus_per_worker",
        "cluster.placement",
        "cluster.evaluator_cpus",
        "cluster.evaluator_gpus",
        "cluster.data_cpus",
        "cluster.object_store_share",
        "cluster.slots",
        "cluster.trials_on",
    ),
}

CLOSING_LINES = """Everything is written below $RAYMIX_HOME (default: ~/raymix), whatever the
working directory. Exit codes: 0 done, 1 unexpected, 2 bad input, 3 nothing
usable came out, 130/143 interrupted: the same command resumes."""


def format_help(name: str, schema: type, config: Any, groups: Mapping[str, Sequence[str]]) -> str:
    """The help of a command.

    Args:
        name: the command.
        schema: the dataclass of its settings.
        config: its composed config with Hydra's own part: the values in force.
        groups: the options of each of its config groups.
    """
    chosen = {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}
    parts = [str(config.hydra.help.template).strip("\n")]
    if listed := list(_groups(name, groups, chosen)):
        parts.append("\n".join(["Groups (GROUP=OPTION chooses one; * is the one chosen):", *listed]))
    parts.append(
        "\n".join(
            [
                "Settings (NAME=VALUE changes one; values in force, meanings, [ranges]):",
                *_settings(name, schema, config),
            ]
        )
    )
    return "\n\n".join([*parts, CLOSING_LINES])


def _groups(name: str, groups: Mapping[str, Sequence[str]], chosen: Mapping[str, str]) -> Iterator[str]:
    for group, options in groups.items():
        if group in GROUPS and group not in WITHOUT_EFFECT.get(name, ()):
            words = " ".join(f"{option}*" if option == chosen.get(group) else option for option in options)
            yield from _entry(f"{group}=", f"{GROUPS[group]}: {words}", 18)


def _settings(name: str, schema: type, config: Any) -> Iterator[str]:
    hidden, dataset = WITHOUT_EFFECT.get(name, ()), OmegaConf.select(config, "dataset.name")
    found = list(overrides.schema_fields(schema))
    first = [entry for entry in found if "." not in entry[0] and entry[1] not in (overrides.SECTION, overrides.MAPPING)]
    for setting, kind, item in [*first, *(entry for entry in found if entry not in first)]:
        if kind == overrides.SECTION:
            yield ""
        elif setting in hidden:
            continue
        elif setting == "method":
            yield ""
            yield from _method_settings(config.method)
        elif kind != overrides.MAPPING and (not (only := item.metadata.get("datasets")) or dataset in only):
            yield from _line(setting, OmegaConf.select(config, setting), item.metadata)


def _method_settings(settings: Mapping[Any, Any]) -> Iterator[str]:
    """The name of the chosen method and its settings, in the order of its dataclass."""
    yield from _line(
        "method.name", settings["name"], {"help": "name of the method; method=NAME sets it with its settings"}
    )
    for item in dataclasses.fields(METHOD_CONFIGS.get(settings["name"], MethodConfig)):
        if item.name in settings:
            yield from _line(f"method.{item.name}", settings[item.name], item.metadata)


def _line(name: str, value: Any, rule: Mapping[str, Any]) -> list[str]:
    limits = _range(rule)
    return _entry(f"{name}={_shown(value)}", rule["help"] + (f" [{limits}]" if limits else ""), INDENT)


def _range(rule: Mapping[str, Any]) -> str:
    """The values that a setting may have, in words; '' where any is allowed."""
    if rule.get("choices"):
        return ", ".join(rule["choices"])
    low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
    most = "" if high is None else f"{high:g}"
    if above is not None:
        return f"above {above:g}" + (f", at most {most}" if most else "")
    if low is None:
        return f"at most {most}" if most else ""
    return f"{low:g} to {most}" if most else f"at least {low:g}"


def _shown(value: Any) -> str:
    """A value as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if OmegaConf.is_list(value) else str(value)


def _entry(left: str, right: str, indent: int) -> list[str]:
    """`left`, and `right` beside it, wrapped; on a line of its own where `left` is too long."""
    margin = " " * indent
    lines = textwrap.wrap(right, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    head = f"  {left}"
    if len(head) + 2 > indent:
        return [head, *(margin + line for line in lines)]
    return [f"{head:<{indent}}{lines[0]}", *(margin + line for line in lines[1:])]
