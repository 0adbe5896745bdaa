"""Configs as plain values: what travels to workers and into checkpoints, and how a misspelt name is told."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from raymix.config.schema import Run


class BadInput(ValueError):
    """What a person gave cannot be used; the message is one line: what, where, the rule, the nearest valid name."""


class Unavailable(RuntimeError):
    """Something that the work needs cannot be started or reached; the message is one line with the remedy (exit code 1)."""


def nearest(name: str, names: list[str]) -> str:
    """` (did you mean X?)`, or the list where nothing is near and the list is short."""
    if not (close := difflib.get_close_matches(name, names, n=1, cutoff=0.5)):
        leaf = {n.rsplit(".", 1)[-1]: n for n in names}
        close = [leaf[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(leaf), n=1, cutoff=0.6)]
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (one of: {', '.join(sorted(names))})" if 0 < len(names) <= 12 else ""


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> {dotted name: value}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, name + "."))
        else:
            flat[name] = value
    return flat


def override(plain: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested plain config with dotted names set; a name that is not there is refused."""
    copy: dict[str, Any] = json.loads(json.dumps(plain))
    for name, value in params.items():
        *path, leaf = name.split(".")
        node = copy
        for part in path:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if leaf not in node:
            raise BadInput(f"{name}: no such setting{nearest(name, list(flatten(plain)))}")
        node[leaf] = value
    return copy


def to_plain(config: Any) -> dict[str, Any]:
    """A config as nested plain Python values: what travels to workers and into checkpoints."""
    return json.loads(json.dumps(asdict(config)))


@functools.cache
def _shape(schema: type) -> Any:
    """The schema as OmegaConf holds it; made once, since each trial's config is merged into a copy of it."""
    return OmegaConf.structured(schema)


def from_plain(plain: Mapping[str, Any], schema: type = Run) -> Any:
    """The typed config of a plain one, without checking ranges; keys of richer doors (search, search_spaces) are dropped.

    Raises BadInput where a value has the wrong type or a key is unknown.
    """
    known = {f.name for f in fields(schema)}
    try:
        return OmegaConf.to_object(OmegaConf.merge(_shape(schema), {k: v for k, v in plain.items() if k in known}))
    except OmegaConfBaseException as error:
        raise BadInput(f"config: {str(error).splitlines()[0]}") from None


def signature(plain: Mapping[str, Any]) -> str:
    """Twelve hex digits that name a whole config: the same config is the same run."""
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=6).hexdigest()
