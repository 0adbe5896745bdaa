"""What of a checkpoint's score in a search is the model's forward: the rest is to be small, scenes and truth being kept.

    python tests/benchmarks/forward_share.py dataset=demo home=HOME                   HOME has the prepared demo
    python tests/benchmarks/forward_share.py dataset=demo home=HOME --checkpoints 20 --parts

Settings are those of `raymix.tune`. Differently seeded networks are scored as the search's evaluator scores checkpoints
(`raymix.evaluation.validation.score_method` on the same scenes), in this process, without Ray and without reading a
checkpoint; CPU time of this
process. Exit code 1 where less than four fifths of it are spent in `forward_heatmaps`.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from typing import Any

import torch

from raymix.cli import commands
from raymix.config import TrainConfig, raymix_home
from raymix.evaluation.validation import EvaluationScenes, score_method
from raymix.methods import method_from_config
from raymix.methods.base import Method

LEAST = 0.8


class Clock:
    """The seconds of CPU spent in the forward of the methods that it watches."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, method: Method) -> Method:
        inner = method.forward_heatmaps

        def forward_heatmaps(scenes: Any) -> Any:
            began = time.process_time()
            try:
                return inner(scenes)
            finally:
                self.seconds += time.process_time() - began

        method.forward_heatmaps = forward_heatmaps  # type: ignore[method-assign]
        return method


def network(run: TrainConfig, seed: int) -> Method:
    torch.manual_seed(seed)
    return method_from_config(run, pretrained=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="as of raymix.tune, and home=HOME")
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--parts", action="store_true", help="a profile of one checkpoint")
    asked, clock = parser.parse_args(), Clock()
    torch.set_num_threads(1)
    home = next((word.removeprefix("home=") for word in asked.settings if word.startswith("home=")), raymix_home())
    settings = [word for word in asked.settings if not word.startswith("home=")]
    run: TrainConfig = commands.compose_config("tune", settings, None, home)
    began = time.process_time()
    evaluation_scenes = EvaluationScenes.open(run, "val", run.evaluation.scenes)
    opened = time.process_time() - began
    methods = [clock.watch(network(run, seed)) for seed in range(asked.checkpoints)]
    score_method(methods[0], evaluation_scenes, run)  # what is done once: warm caches
    clock.seconds, began = 0.0, time.process_time()
    for method in methods:
        score_method(method, evaluation_scenes, run)
    whole = time.process_time() - began
    share, count = clock.seconds / whole, len(methods)
    sizes = ", ".join(f"{len(each)} {name}" for name, each in evaluation_scenes.scenes.items())
    print(f"scenes composed once: {opened:.2f} s ({sizes})")
    print(
        f"a checkpoint: {whole / count:.3f} s, forward {clock.seconds / count:.3f} s, share of the forward {share:.3f}"
    )
    if asked.parts:
        with cProfile.Profile(time.process_time) as profile:
            score_method(methods[0], evaluation_scenes, run)
        pstats.Stats(profile).sort_stats("tottime").print_stats(16)
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
