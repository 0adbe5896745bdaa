"""Configs as plain values: the form that is sent to workers and stored in checkpoints; suggestions for misspelt names."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raymix.config.errors import SIMILAR, ConfigError, simplified_name
from raymix.config.migration import current_setting_names
from raymix.config.schema import TrainConfig


def package_data_folder(name: str) -> Path:
    """`configs` or `search_spaces`: beside the package in a checkout, inside it when installed as a wheel."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / name
    return beside if (package.parent / "pyproject.toml").exists() and beside.is_dir() else package / name


def raymix_home() -> str:
    """Where clips and studies are kept by default: $RAYMIX_HOME, else ~/raymix; never the working directory."""
    return os.path.expanduser(os.environ.get("RAYMIX_HOME") or os.path.join("~", "raymix"))


def did_you_mean_setting(name: str, names: Sequence[str]) -> str:
    """` (did you mean X?)` for a setting whose last component is like that of `name`; else ''.

    Of several, the one whose other components are most like those of `name`, then the first. A name of version 0.1 is
    answered with the one that it has now.
    """
    if (renamed := current_setting_names(name)) != name and renamed in names:
        return f" (did you mean {renamed}?)"
    section, _, leaf = simplified_name(name).rpartition(".")
    parts = [(each, *simplified_name(each).rpartition(".")[::2]) for each in names]
    likeness = {each: (_ratio(leaf, own), _ratio(section, of)) for each, of, own in parts}
    best = max(likeness, key=lambda each: likeness[each], default="")  # the first of equals
    begun = [each for each, of, own in parts if len(leaf) >= 4 and own.startswith(leaf) and section in ("", of)]
    if len(begun) == 1 and likeness[best][0] < 0.8:
        best = begun[0]
    elif not best or (likeness[best][0] < SIMILAR and not _one_letter_more(leaf, section, best)):
        return ""
    return f" (did you mean {best}?)"


def _one_letter_more(leaf: str, section: str, name: str) -> bool:
    """Whether a short last component, in the right section, has one letter too many at its end (`mixture.kk`)."""
    of, _, own = simplified_name(name).rpartition(".")
    return bool(section) and section == of and leaf[:-1] == own


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def flatten_config(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> {dotted name: value}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten_config(value, name + "."))
        else:
            flat[name] = value
    return flat


def override_config(plain: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested plain config with dotted names set; a name that is not there is refused."""
    copy: dict[str, Any] = json.loads(json.dumps(plain))
    for name, value in params.items():
        *path, leaf = name.split(".")
        node = copy
        for part in path:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if leaf not in node:
            raise ConfigError(f"{name}: no such setting{did_you_mean_setting(name, list(flatten_config(plain)))}")
        node[leaf] = value
    return copy


def config_to_plain(config: Any) -> dict[str, Any]:
    """A config as nested plain Python values: what travels to workers and into checkpoints."""
    return json.loads(json.dumps(asdict(config)))


@functools.cache
def _shape(schema: type) -> Any:
    """The schema as OmegaConf holds it; made once, since each trial's config is merged into a copy of it."""
    return OmegaConf.structured(schema)


def config_from_plain(plain: Mapping[str, Any], schema: type = TrainConfig) -> Any:
    """The typed config of a plain one, without checking ranges; keys of other commands (search, search_spaces) are dropped.

    Raises ConfigError where a value has the wrong type or a key is unknown.
    """
    known = {f.name for f in fields(schema)}
    try:
        return OmegaConf.to_object(OmegaConf.merge(_shape(schema), {k: v for k, v in plain.items() if k in known}))
    except OmegaConfBaseException as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}") from None


def config_hash(plain: Mapping[str, Any]) -> str:
    """Twelve hex digits that name a whole config: the same config is the same run."""
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=6).hexdigest()
