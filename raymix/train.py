"""Command `python -m raymix.train`: one training with fixed hyper-parameters, run as a study with one trial."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run_named_command("train")

import functools
import time
from dataclasses import replace

from raymix.cli import recipes
from raymix.cli.commands import run_command
from raymix.config import ConfigError, TrainConfig
from raymix.config.errors import value_error_as_config_error
from raymix.config.validation import validate_config
from raymix.data.preparation.pipeline import find_prepared
from raymix.search import dry_run, planning, preflight
from raymix.search.runner import run_study


def run_train(config: TrainConfig) -> int:
    began = time.time()
    validate_config(config)
    if config.study.n_trials != 1 or config.study.extend:
        raise ConfigError(
            "study.n_trials and study.extend: raymix.train makes one run; python -m raymix.tune makes many"
        )
    with value_error_as_config_error():
        preflight.check_run_settings(config)
        there = find_prepared(config.dataset) is not None
        notes = [*recipes.recipe_notes, *(preflight.clip_warnings(config) if there else [])]
        plan = replace(planning.plan_study(config, None, ""), notes=notes)
        if config.study.dry_run:
            return dry_run.print_dry_run(plan)
    return run_study(plan, began)


def main() -> None:
    run_command(run_train, "train", functools.partial(recipes.complete_command_line, "train"))
