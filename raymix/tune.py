"""Command `python -m raymix.tune`: search the hyper-parameters on a Ray cluster, and evaluate the best checkpoint.

Also: ray job submit --working-dir . -- python -m raymix.tune ...    The same command again resumes.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run_named_command("tune")

import functools
import time

from raymix import cli
from raymix.cli import recipes
from raymix.cli.commands import run_command
from raymix.config import TuneConfig
from raymix.config.errors import value_error_as_config_error
from raymix.search import dry_run
from raymix.search.planning import plan_from_config
from raymix.search.runner import run_study


def run_tune(config: TuneConfig) -> int:
    """Everything between the config and the exit code."""
    began = time.time()
    plan = plan_from_config(config)
    if config.study.dry_run:
        with value_error_as_config_error():
            return dry_run.print_dry_run(plan)
    return run_study(plan, began)


def main() -> None:
    run_command(run_tune, "tune", functools.partial(recipes.complete_command_line, "tune"))
