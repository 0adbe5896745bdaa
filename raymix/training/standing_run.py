"""A slot: one standing Ray Train run that lasts as long as the study and trains one trial after another.

Starting a Train run costs far more than an epoch of a small model, and stopping one leaks what it held; so nothing is
started or stopped between trials.
"""

from __future__ import annotations

import os
import threading
from typing import Any, cast

import ray

from raymix.config import TrainConfig
from raymix.runtime.storage import resolve_uri
from raymix.training.coordinator import TrialAssignment

# Ray Train polls its workers at this interval; its preemption watcher and metrics would each add a process per slot.
RAY_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",  # a GPU node that must come first takes its time
}

ELASTIC_START_S = "60"  # its workers have a place when it starts; if not (a node just went), it counts them anew

RESTARTS = (
    200  # of a slot's worker group; a trial that kills its workers is given up much earlier (`worker.MAX_ATTEMPTS`)
)


class StandingTrainRun:
    """The standing run seen from its trial: give it an assignment, ask for results, close it."""

    def __init__(self, name: str, run: TrainConfig, coordinator: Any, source: Any, storage: str) -> None:
        self.name, self._coordinator = name, coordinator
        self.error: BaseException | None = None
        os.environ.update(RAY_TRAIN_ENVIRONMENT)
        if run.cluster.elastic:
            os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = ELASTIC_START_S
        self._thread = threading.Thread(target=self._fit, args=(run, source, storage), daemon=True)
        self._thread.start()

    def _fit(self, run: TrainConfig, source: Any, storage: str) -> None:
        import ray.train
        from ray.train.torch import TorchTrainer

        from raymix.data.loader import open_row_group_store
        from raymix.methods import data_requirements
        from raymix.training.worker import train_loop_per_worker

        c = run.cluster
        use_gpu, workers = c.gpus_per_worker > 0, cast(Any, (c.fewest, c.most) if c.elastic else c.most)
        filesystem, path = resolve_uri(storage)
        resources = {"CPU": c.cpus_per_worker} | ({"GPU": c.gpus_per_worker} if use_gpu else {})
        try:
            store = None if source.parts else open_row_group_store(run, data_requirements(run).labels)
            TorchTrainer(
                train_loop_per_worker,
                train_loop_config={
                    "coordinator": self._coordinator,
                    "slot": self.name,
                    "source": source,
                    "store": store,
                },
                scaling_config=ray.train.ScalingConfig(
                    num_workers=workers,
                    use_gpu=use_gpu,
                    resources_per_worker=resources,
                    placement_strategy=c.placement,
                ),
                run_config=ray.train.RunConfig(
                    name=self.name,
                    storage_path=path,
                    storage_filesystem=filesystem,
                    failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
                ),
            ).fit()
        except BaseException as error:  # passed to the trial, which asks for results in another thread
            self.error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def assign(self, assignment: TrialAssignment) -> None:
        ray.get(self._coordinator.assign.remote(self.name, assignment))

    def close(self, timeout: float = 30.0) -> None:
        self.assign(TrialAssignment(None))
        self._thread.join(timeout)
