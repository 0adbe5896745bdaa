"""A cluster of several nodes in this process, a search on it in another, and nodes that are taken away without grace.

python tests/support/fake_cluster.py HOME     prints one JSON line of what was seen; tests/integration/test_node_loss.py reads it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_memory_monitor_refresh_ms="0",
    OMP_NUM_THREADS="1",
    RAY_health_check_initial_delay_ms="2000",
    RAY_health_check_period_ms="1000",
    RAY_health_check_timeout_ms="5000",
    RAY_health_check_failure_threshold="5",
)

import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from raymix.tracking import checkpoint
from raymix.tracking.event_log import EventLog
from tests.conftest import SMALL

TRIALS, EPOCHS = 4, 8
STORE = 150 << 20
VICTIMS = {
    "worker": "RayTrainWorker",
    "trial": "with_resources.<locals>.ResourceTrainable",
    "evaluator": "ScoringActor",
}


class Search:
    """The cluster, its nodes by id, and the search that runs on it."""

    def __init__(self, home: Path) -> None:
        self.home, self.study = home, home / "studies/nodes"
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": True, "dashboard_port": 0}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = {}
        for _ in range(3):
            self.add()
        self.cluster.wait_for_nodes()
        words = [w for w in SMALL if not w.startswith(("cluster.", "training.batch_size", "encoder.width"))]
        words += [
            f"home={home}",
            "study.name=nodes",
            "study.final=0",
            f"study.n_trials={TRIALS}",
            f"training.epochs={EPOCHS}",
        ]
        words += ["search=fifo", "encoder.width=40", "training.batch_size=12", "search_spaces=demo"]
        words += ["cluster.workers=2", "cluster.placement=STRICT_SPREAD", "cluster.slots=1", "cluster.trials_on=trials"]
        with open(home / "nodes.log", "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raymix.tune", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, "RAY_ADDRESS": self.cluster.address},
            )
        ray.init(address=self.cluster.address, logging_level="error", log_to_driver=False)

    def add(self) -> None:
        node = self.cluster.add_node(num_cpus=2, object_store_memory=STORE, resources={"trials": 1})
        self.nodes[node.node_id] = node

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in EventLog(str(self.study)).records() if record["kind"] == kind]

    def until(self, what: Callable[[], bool], seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while not what() and self.process.poll() is None:
            assert time.monotonic() < end, (self.home / "nodes.log").read_text()[-3000:]
            time.sleep(0.1)

    def newest(self) -> dict[int, int]:
        """The newest whole checkpoint of each trial."""
        found = {
            n: checkpoint.latest_valid_checkpoint(f"{self.study}/{checkpoint.checkpoint_path(n)}")
            for n in range(TRIALS)
        }
        return {n: int(c.uri[-4:]) for n, c in found.items() if c}

    def lose(self, victim: str) -> dict[str, Any]:
        """In the middle of a trial, take away the node that holds `victim`; what was seen until two epochs later."""
        seen = len(self.records("epoch_scored"))
        self.until(lambda: len(self.records("epoch_scored")) >= seen + 2 and self._midway())
        actors = [
            a
            for a in list_actors(self.cluster.address, limit=1000)
            if a.state == "ALIVE" and a.class_name == VICTIMS[victim]
        ]
        (node,) = {actors[-1].node_id}
        kept, scored, began = self.newest(), len(self.records("epoch_scored")), time.time()
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)
        self.until(lambda: any(r["training"]["began"] > began for r in self.records("epoch_scored")[scored:]))
        found = {"victim": victim, "kept": kept, "seconds_to_next_epoch": time.time() - began}
        self.add()
        return found

    def _midway(self) -> bool:
        last = self.records("epoch_scored")[-1]
        return int(last["epoch"]) in range(2, EPOCHS - 2)

    def close(self) -> dict[str, Any]:
        """The exit code, and how long after the end of the search every CPU of the cluster was free again."""
        self.until(lambda: False, 240)
        code, began = self.process.wait(), time.monotonic()
        while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < began + 60:
            time.sleep(0.5)
        free = ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
        return {"code": code, "free": free, "seconds_to_free": time.monotonic() - began}


if __name__ == "__main__":
    search = Search(Path(sys.argv[1]))
    try:
        losses = [search.lose(victim) for victim in VICTIMS]
        print(json.dumps({"losses": losses, **search.close()}))
    finally:
        search.process.kill()
        ray.shutdown()
        search.cluster.shutdown()
