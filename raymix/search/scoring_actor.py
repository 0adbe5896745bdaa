"""The Ray actor that scores the checkpoints of a study's trials on validation scenes: `raymix.evaluation.validation` behind a queue."""

from __future__ import annotations

import os
import time
from typing import Any

import ray
import torch

from raymix.config import TrainConfig, config_from_plain
from raymix.evaluation.candidates import load_method
from raymix.evaluation.validation import EvaluationScenes, score_method_with_outcomes


@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"health": 1})  # type: ignore[call-overload]
class ScoringActor:
    """Scores checkpoints one after the other, with a restart and a retry after any loss of its process or node.

    The composed scenes are a cache: scoring is deterministic, and a restarted actor composes the same ones. `ping` runs in
    a concurrency group of its own, so it is answered at once however many checkpoints wait.

    Args:
        threads: Intra-op threads of PyTorch.
    """

    def __init__(self, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        self._benches: dict[tuple[Any, ...], EvaluationScenes] = {}
        self._device_failed = False

    @ray.method(concurrency_group="health")
    def ping(self) -> str:
        """The id of the node that the actor runs on."""
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def warm(self, plain: dict[str, Any]) -> None:
        """Compose the validation scenes of a run (its config as a plain dictionary) before the first checkpoint arrives."""
        self._bench(config_from_plain(plain))

    def score(self, uri: str) -> dict[str, Any]:
        """{"metrics", "outcomes", "seconds", "pid"} of the checkpoint at `uri` on the validation scenes.

        An error of the device is raised like any other. CUDA refuses all work of a process after it, so the next call ends
        the process: Ray starts the actor again and repeats that call there.
        """
        if self._device_failed:
            os._exit(1)
        try:
            return self._score(uri)
        except torch.AcceleratorError:
            self._device_failed = True
            raise

    def _score(self, uri: str) -> dict[str, Any]:
        began = time.time()
        method, run = load_method(uri)
        metrics, outcomes = score_method_with_outcomes(method.to(self._device), self._bench(run), run, self._device)
        return {"metrics": metrics, "outcomes": outcomes, "seconds": time.time() - began, "pid": os.getpid()}

    def _bench(self, run: TrainConfig) -> EvaluationScenes:
        """The validation scenes of a run, composed once for all runs that agree on `Bench.key`."""
        key = EvaluationScenes.key(run)
        if key not in self._benches:
            self._benches[key] = EvaluationScenes.open(run, "val", run.evaluation.scenes)
        return self._benches[key]
