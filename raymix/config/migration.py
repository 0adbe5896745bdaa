"""Reading what version 0.1 wrote: names that have changed since, in event logs, in configs of checkpoints and in JSON documents.

Pure functions of plain values (what `json.loads` gives), applied where a file is read; old names are in this module alone.
"""

from __future__ import annotations

import re
from typing import Any

OLD_LAYOUTS = {
    "quad": "grid2x2",
    "solo": "solo2x2",
    "pair": "hconcat",
}  # today's ids of layouts by those of version 0.1

_SOLO_METRIC = re.compile(r"^(val|test)/solo/(?=sounding_accuracy)")  # the one metric whose prefix was an old id


def rename_layouts(value: Any) -> Any:
    """Returns plain values with today's ids of layouts in place of those of version 0.1.

    Keys that are an old id and metrics that begin with one (`val/solo/sounding_accuracy`, as keys or values) are renamed;
    everything else stays, so values that have today's ids come back equal.

    Args:
        value: a event log record, the config of a checkpoint, or the content of scores.json or comparison.json.
    """
    if isinstance(value, dict):
        return {OLD_LAYOUTS.get(key, rename_layouts(key)): rename_layouts(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rename_layouts(each) for each in value]
    return _SOLO_METRIC.sub(r"\1/solo2x2/", value) if isinstance(value, str) else value


OLD_SECTIONS = {
    "fit": "training",
}  # today's sections of a config by those of version 0.1
OLD_SETTINGS = {
    "fit.batch": "training.batch_size",
    "fit.accumulate": "training.gradient_accumulation_steps",
    "fit.keep": "training.num_checkpoints_to_keep",
    "optimizer.clip_gradient": "optimizer.max_grad_norm",
    "study.trials": "study.n_trials",
    "study.plan": "study.dry_run",
    "search.startup": "search.n_startup_trials",
    "search.grace": "search.grace_period",
    "search.reduction": "search.reduction_factor",
    "mixture.level": "mixture.loudness",
    "mixture.rule": "mixture.reduction",
    "mixture.shift": "mixture.second_view",
}  # today's settings by those of version 0.1 whose own name changed, too

OLD_SPACE_SECTIONS = {"first": "initial_points", "require": "constraints"}  # sections of a search space, as above
_OLD_CONDITION, _CONDITION = "when", "condition"  # option of a searched setting

_OLD_IN_JSON = re.compile(
    "|".join(
        [
            "/solo/",
            rf'"(?:first":\[|require":|{_OLD_CONDITION}":)',
            rf'"(?:{"|".join([*OLD_LAYOUTS, *OLD_SECTIONS])})":',
            *(rf"\b{section}\." for section in OLD_SECTIONS),
            *(rf"\b{setting.replace('.', '[.]')}\b" for setting in OLD_SETTINGS),
        ]
    ).encode()
)


def has_old_names(line: bytes) -> bool:
    """Return whether a line of compact JSON may hold what `current_names` changes: cheaper than renaming, most have none."""
    return _OLD_IN_JSON.search(line) is not None


def _names_in(text: str, sections: dict[str, str], settings: dict[str, str]) -> str:
    """Replaces dotted settings in an expression or a name, each by `settings`, else its section by `sections`."""

    def renamed(match: re.Match[str]) -> str:
        section, _, name = match[0].partition(".")
        return settings.get(match[0], f"{sections.get(section, section)}.{name}")

    return re.sub(r"(?<![\w./])[a-z_]+\.[a-z_]+\b", renamed, text)


def current_setting_names(text: str) -> str:
    """Returns a dotted setting, or an expression of such, with today's names: `fit.batch` is `training.batch_size`."""
    return _names_in(text, OLD_SECTIONS, OLD_SETTINGS)


def version_0_1_setting_names(text: str) -> str:
    """Returns a dotted setting, or an expression of such, with the names of version 0.1 (the hash of a search space has them)."""
    sections = {new: old for old, new in OLD_SECTIONS.items()}
    return _names_in(text, sections, {new: old for old, new in OLD_SETTINGS.items()})


def rename_settings(value: Any, rule: bool = False) -> Any:
    """Returns plain values with today's configuration keys in place of those of version 0.1.

    In a whole config (a dictionary with the sections `mixture` and `optimizer`) sections and settings are renamed; elsewhere
    dotted names that are keys or items of a list, the sections of `search_spaces` and the expressions of its constraints
    and conditions. Everything else stays.

    Args:
        value: a event log record or the config of a checkpoint.
        rule: whether strings in `value` are expressions.
    """
    if isinstance(value, dict):
        if isinstance(value.get("mixture"), dict) and isinstance(value.get("optimizer"), dict):
            value = {
                OLD_SECTIONS.get(section, section): _rename_section(section, each) for section, each in value.items()
            }
        if isinstance(value.get("search_spaces"), dict):
            value = {**value, "search_spaces": _rename_space(value["search_spaces"])}
        return {
            current_setting_names(key): rename_settings(each, key in ("constraints", _CONDITION))
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [
            current_setting_names(each)
            if isinstance(each, str) and (rule or re.fullmatch(r"[a-z_]+\.[a-z_]+", each))
            else rename_settings(each, rule)
            for each in value
        ]
    return current_setting_names(value) if rule and isinstance(value, str) else value


def _rename_section(section: str, values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {OLD_SETTINGS.get(f"{section}.{key}", f".{key}").partition(".")[2]: each for key, each in values.items()}


def _rename_space(sections: dict[str, Any]) -> dict[str, Any]:
    """A search space with today's names of its sections and of the condition of a searched setting."""
    renamed = {OLD_SPACE_SECTIONS.get(section, section): each for section, each in sections.items()}
    if isinstance(renamed.get("space"), dict):
        renamed["space"] = {
            name: {_CONDITION if key == _OLD_CONDITION else key: each for key, each in entry.items()}
            if isinstance(entry, dict)
            else entry
            for name, entry in renamed["space"].items()
        }
    return renamed


def current_names(value: Any) -> Any:
    """Returns what version 0.1 wrote (a event log record, the config of a checkpoint) with today's layouts and settings."""
    return rename_settings(rename_layouts(value))
