"""The door `python -m raymix.train`: one run with fixed hyper-parameters, as a slot with one trial in it."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run("train")

import functools
import time
from dataclasses import replace

from raymix import engine, forecast, preflight, recipe
from raymix.config import BadInput, Run
from raymix.door import enter, refusing
from raymix.prepare import present
from raymix.rules import check
from raymix.tune import run


def task(config: Run) -> int:
    began = time.time()
    check(config)
    if config.study.trials != 1 or config.study.extend:
        raise BadInput("study.trials and study.extend: this door makes one run; python -m raymix.tune makes many")
    with refusing():
        preflight.settings(config)
        there = present(config.dataset) is not None
        notes = [*recipe.said, *(preflight.clips(config) if there else [])]
        plan = replace(engine.plan(config, None, ""), notes=notes)
        if config.study.plan:
            return forecast.show(plan)
    return run(plan, began)


def main() -> None:
    enter(task, "train", functools.partial(recipe.complete, "train"))
