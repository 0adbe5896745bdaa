"""Which recipe (sizes of network and batch, budget) a command line has where it names none.

It follows from the command line alone, so that the same command means the same study on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from raymix import door

DEMO, SMALL, PAPER = "demo", "small", "paper"
DATASET, CLUSTER = "demo", "laptop"  # of configs/tune.yaml, train.yaml and compare.yaml


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """{name: value} of the settings on a command line, values as they were typed; the last of a name counts."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def usual(words: Sequence[str], config_dir: str | None) -> str:
    """The recipe of a command line that names none: `demo` for the demo, `small` where workers have no GPU, else `paper`."""
    given = settings_of(words)
    if given.get("dataset", DATASET) == DATASET:
        return DEMO
    return PAPER if _gpus(given, config_dir) else SMALL


def _gpus(given: dict[str, str], config_dir: str | None) -> float:
    """GPUs of a worker; 0 where that cannot be read, which Hydra will refuse in its own words."""
    if "cluster.gpus_per_worker" in given:
        value: Any = given["cluster.gpus_per_worker"]
    else:
        name = f"cluster/{given.get('cluster', CLUSTER)}.yaml"
        places = [*([Path(config_dir)] if config_dir else []), door.folder("configs")]
        found = next((place / name for place in places if (place / name).is_file()), None)
        loaded: Any = OmegaConf.load(found) if found else {}
        value = loaded.get("gpus_per_worker", 0)
    try:
        return float(value)
    except ValueError:
        return 0.0


def complete() -> None:
    """Adds the recipe to the words of this process's command line, where it follows from them and is not the demo's.

    Then the line that resumes names it too; `said` has the sentence about a recipe that was added.
    """
    words, config_dir = door.words()
    if "recipe" in settings_of(words) or (name := usual(words, config_dir)) == DEMO:
        return
    sys.argv.append(f"recipe={name}")
    said[:] = [REASONS[name]]


said: list[str] = []  # the sentence about the recipe that was added to this command line
REASONS = {
    SMALL: "recipe=small: a narrow network at 96 px, because workers have no GPU (cluster=one_gpu: one each); recipe=paper: "
    "the paper's sizes",
    PAPER: "recipe=paper: the paper's sizes, because workers have GPUs; recipe=small: a narrow network for small sets",
}
