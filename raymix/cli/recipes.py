"""Defaults that depend on the command line: recipe (sizes of network and batch, budget), search space and scheduler.

They follow from the command line alone, so that the same command means the same study on every machine. Needs neither
PyTorch nor Ray: `--help` shows the values in force.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from raymix import config
from raymix.cli import commands

DEMO, SMALL, PAPER = "demo", "small", "paper"

DATASET, CLUSTER, METHOD = "demo", "laptop", "cycle"  # of configs/tune.yaml, train.yaml and compare.yaml

COMMON_SPACE = "optimizer"  # of methods without a space of their own name

WITHOUT_EARLY_STOPPING = ("dsol",)  # methods whose `supports_early_stopping` is False

WITH_RECIPE = ("tune", "train", "compare")  # commands


def parse_settings(words: Sequence[str]) -> dict[str, str]:
    """{name: value} of the settings on a command line, values as they were typed; the last of a name counts."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def default_recipe(words: Sequence[str], config_dir: str | None) -> str:
    """The recipe of a command line that names none: `demo` for the demo, `small` where workers have no GPU, else `paper`."""
    given = parse_settings(words)
    if given.get("dataset", DATASET) == DATASET:
        return DEMO
    return PAPER if _gpus(given, config_dir) else SMALL


def _gpus(given: dict[str, str], config_dir: str | None) -> float:
    """GPUs of a worker; 0 where that cannot be read, which Hydra will refuse in its own words."""
    if "cluster.gpus_per_worker" in given:
        value: Any = given["cluster.gpus_per_worker"]
    else:
        name = f"cluster/{given.get('cluster', CLUSTER)}.yaml"
        places = [*([Path(config_dir)] if config_dir else []), config.package_data_folder("configs")]
        found = next((place / name for place in places if (place / name).is_file()), None)
        loaded: Any = OmegaConf.load(found) if found else {}
        value = loaded.get("gpus_per_worker", 0)
    try:
        return float(value)
    except ValueError:
        return 0.0


def complete_command_line(command: str) -> None:
    """Adds to the command line of this process what follows from it, for `command` and as far as it does not say otherwise.

    Then the line that resumes names it too. The demo's recipe is what the configs name already. `recipe_notes` has the sentence
    about a recipe that was added.
    """
    if command not in WITH_RECIPE:
        return
    words, config_dir = commands.command_line_settings()
    if "recipe" not in parse_settings(words) and (name := default_recipe(words, config_dir)) != DEMO:
        sys.argv.append(f"recipe={name}")
        recipe_notes[:] = [REASONS[name]]
    if command == "tune":
        sys.argv += implied_settings(*commands.command_line_settings())


def implied_settings(words: Sequence[str], config_dir: str | None) -> list[str]:
    """The settings of raymix.tune that follow from recipe and method.

    A method searches the space of its own name, or COMMON_SPACE, and METHOD in the demo's sizes that of the demo. No trial of
    WITHOUT_EARLY_STOPPING is stopped early.
    """
    given = parse_settings(words)
    method, sizes = given.get("method", METHOD), given.get("recipe") or default_recipe(words, config_dir)
    more = []
    if "search_spaces" not in given and (method, sizes) != (METHOD, DEMO):
        more += [f"search_spaces={method_search_space(method, config_dir)}"]
    if "search" not in given and method in WITHOUT_EARLY_STOPPING:
        more += ["search=fifo"]
    return more


def method_search_space(method: str, config_dir: str | None) -> str:
    """The search space of a method, by its name in `search_spaces/` or in the person's own folder of configs."""
    places = [
        config.package_data_folder("search_spaces"),
        *([Path(config_dir) / "search_spaces"] if config_dir else []),
    ]
    return method if any((place / f"{method}.yaml").is_file() for place in places) else COMMON_SPACE


recipe_notes: list[str] = []  # the sentence about the recipe that was added to this command line

REASONS = {
    SMALL: "recipe=small: a narrow network at 96 px, because workers have no GPU (cluster=one_gpu: one each); recipe=paper: "
    "the paper's sizes",
    PAPER: "recipe=paper: the paper's sizes, because workers have GPUs; recipe=small: a narrow network for small sets",
}
