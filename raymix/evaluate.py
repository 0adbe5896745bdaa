"""The command `python -m raymix.evaluate`: a study's best checkpoints, baselines and controls on the test split.

Writes pictures, `table.md`, the scores of each scene and, last, `scores.json`. On the validation split it scores as the
search does and compares its numbers with the recorded ones. One process and torch are enough; Ray is not started.
The same command scores predictions of any model (`benchmark`), compares two results (`paired`) and writes scenes as files
(`scene_files`).
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run_named_command("evaluate")

import sys

from raymix.cli.commands import run_command
from raymix.config import EvaluateConfig
from raymix.evaluation.dispatch import run_evaluation
from raymix.runtime.ray_cluster import InterruptedBySignal, handle_interrupts


def run_evaluate(settings: EvaluateConfig) -> int:
    """Everything between the config and the exit code."""
    try:
        with handle_interrupts():
            run_evaluation(settings)
    except InterruptedBySignal as stop:
        print(f"raymix: {stop}: nothing half-written counts; the same command starts over", file=sys.stderr, flush=True)
        return stop.code
    return 0


def main() -> None:
    run_command(run_evaluate, "evaluate")
