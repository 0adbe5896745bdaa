"""The door `python -m raymix.train`: one run with fixed hyper-parameters, as a slot with one trial in it."""

from __future__ import annotations

import time

from raymix import engine
from raymix.config import Run
from raymix.door import enter, refusing
from raymix.rules import check
from raymix.tune import run


def task(config: Run) -> int:
    began = time.time()
    check(config)
    with refusing():
        plan = engine.plan(config, None, "")
    return run(plan, began)


def main() -> None:
    enter(task, "train")


if __name__ == "__main__":
    main()
