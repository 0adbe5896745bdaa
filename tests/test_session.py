"""How many slots a cluster has room for."""

from __future__ import annotations

import os
import signal

import pytest

from raymix.config import BadInput, Cluster
from raymix.session import Interrupted, interruptible, room


@pytest.mark.parametrize(
    ("cluster", "has", "streaming", "slots"),
    [
        (Cluster(), {"CPU": 2.0}, False, 1),
        (Cluster(), {"CPU": 2.0}, True, 0),  # a streaming slot needs a CPU for its data
        (Cluster(workers=2), {"CPU": 8.0}, False, 3),
        (Cluster(workers=4, gpus_per_worker=1, evaluator_gpus=0.5), {"CPU": 64.0, "GPU": 8.0}, False, 1),
        (Cluster(gpus_per_worker=0.9, evaluator_gpus=0.1, cpus_per_worker=4), {"CPU": 16.0, "GPU": 1.0}, False, 1),
        (Cluster(gpus_per_worker=1), {"CPU": 16.0}, False, 0),
        (Cluster(slots=2), {"CPU": 16.0}, False, 2),
    ],
)
def test_slots_that_fit(cluster: Cluster, has: dict[str, float], streaming: bool, slots: int) -> None:
    if slots:
        assert room(cluster, has, streaming).slots == slots
    else:
        with pytest.raises(BadInput, match="the cluster is too small: 0 slots = "):
            room(cluster, has, streaming)


def test_the_arithmetic_is_said() -> None:
    assert room(Cluster(workers=2, slots=1), {"CPU": 9.0}, False).said == (
        "1 slot = CPU: (9 - 1 for the evaluator) / (2 x 1), capped by cluster.slots=1"
    )


def test_a_signal_becomes_an_exit_code_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped, interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
