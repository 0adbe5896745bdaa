"""Mutually exclusive settings of each command, checked before anything is opened.

A setting that a command would ignore in silence is refused. This module imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raymix.config import ConfigError, EvaluateConfig

SCENE_SETTINGS = ("prepared", "sources", "seed", "image_size", "seconds", "rule", "level", "protocol")

_CHECKPOINT_SETTINGS = ("checkpoint", "store", "top", "pictures")

_EXHIBIT_SETTINGS = (*_CHECKPOINT_SETTINGS, *SCENE_SETTINGS, "layout", "pair_list", "scenes")

IGNORED_SETTINGS = {  # what is not read beside a word, and so is refused
    "predictions": _CHECKPOINT_SETTINGS,
    "compare": _CHECKPOINT_SETTINGS,
    "export": (*_CHECKPOINT_SETTINGS, "protocol", "output"),
    "tables": _EXHIBIT_SETTINGS,
    "figures": _EXHIBIT_SETTINGS,
    "protocols": ("store", "pictures", "protocol"),
    "layout": ("pictures",),
    "pair_list": ("pictures",),
}

INSPECT_SETTINGS = ("inspect", "output", "pictures", "seed", "home")  # what `prepare inspect=` reads

SET_BY_COMPARE = {  # settings that `compare` makes itself, and why
    "method": "each system brings its own; put ranges of its settings into its search space",
    "search_spaces": "each system searches the space of its own name",
    "study.seed": "a study is made for each of seeds=[...]",
    "training.seed": "a study is made for each of seeds=[...]",
    "study.final": "the best checkpoint of each study is scored once, for the table",
    "dataset.overwrite": "each study would prepare anew; python -m raymix.prepare does it once",
    "study.extend": "a larger study.n_trials goes on from what there is",
}


def refuse_ignored_settings(settings: EvaluateConfig) -> None:
    """BadInput for a setting that would be passed over in silence beside another one."""
    plain, of_exhibits = EvaluateConfig(), bool(settings.tables or settings.figures)
    if settings.comparison and not of_exhibits:
        raise ConfigError(f"comparison={settings.comparison}: goes with tables= or figures=")
    for word, names in IGNORED_SETTINGS.items():
        for name in names if getattr(settings, word) else ():
            if (value := getattr(settings, name)) != getattr(plain, name):
                raise ConfigError(f"{name}={value}: does not go with {word}=")


def refuse_in_compare(words: Sequence[str]) -> None:
    """BadInput for a setting that a comparison makes itself."""
    for word in words:
        name = word.partition("=")[0]
        for settled, why in SET_BY_COMPARE.items():
            if name == settled or name.startswith(f"{settled}."):
                raise ConfigError(f"{name}: cannot be given to a comparison: {why}")


def refuse_with_inspect(words: Sequence[str]) -> None:
    """BadInput for a setting of `prepare` that `inspect=` does not read, or that goes only with it."""
    given = [word for word in words if not word.startswith("hydra.")]
    names = {name: value for name, _, value in (word.partition("=") for word in given)}
    if names.get("inspect"):
        if unread := [word for word in given if word.partition("=")[0] not in INSPECT_SETTINGS]:
            raise ConfigError(f"{unread[0]}: does not go with inspect=, which reads {', '.join(INSPECT_SETTINGS[1:])}")
    elif alone := [word for word in given if word.partition("=")[0] in ("output", "pictures")]:
        raise ConfigError(f"{alone[0]}: goes with inspect=DIR")


CONFLICT_CHECKS: dict[
    str, Callable[[Sequence[str]], None]
] = {  # what a command refuses before its settings are composed
    "compare": refuse_in_compare,
    "prepare": refuse_with_inspect,
}
