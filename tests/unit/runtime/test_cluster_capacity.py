"""How many slots a cluster has room for, and how the sum is said."""

from __future__ import annotations

import pytest

from raymix.config import ClusterConfig, ConfigError
from raymix.runtime.cluster_capacity import NodeResources, slot_capacity

EIGHT_GPUS: NodeResources = {"CPU": 64.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("cluster", "nodes", "streaming", "slots"),
    [
        (ClusterConfig(), [{"CPU": 2.0}], False, 1),
        (ClusterConfig(), [{"CPU": 2.0}], True, 0),  # a streaming slot needs a CPU for its data
        (ClusterConfig(data_cpus=0.5, cpus_per_worker=0.5), [{"CPU": 2.0}], True, 1),
        (ClusterConfig(workers=2), [{"CPU": 8.0}], False, 3),
        (ClusterConfig(workers=4, gpus_per_worker=1, evaluator_gpus=0.5), [EIGHT_GPUS], False, 1),
        (
            ClusterConfig(gpus_per_worker=0.9, evaluator_gpus=0.1, cpus_per_worker=4),
            [{"CPU": 16.0, "GPU": 1.0}],
            False,
            1,
        ),
        (
            ClusterConfig(gpus_per_worker=0.4, evaluator_gpus=0.3),
            [{"CPU": 16.0, "GPU": 1.0}],
            False,
            1,
        ),  # .3 + .4 + .4 > 1
        (ClusterConfig(gpus_per_worker=0.5, evaluator_gpus=0.5), [EIGHT_GPUS], False, 15),
        (ClusterConfig(gpus_per_worker=1), [{"CPU": 16.0}], False, 0),
        (ClusterConfig(gpus_per_worker=1, evaluator_gpus=1), [EIGHT_GPUS], False, 7),
        (ClusterConfig(slots=2), [{"CPU": 16.0}], False, 2),
        (ClusterConfig(workers=2), [{"CPU": 2.0}] * 3, False, 2),
        (
            ClusterConfig(workers=2, cpus_per_worker=2),
            [{"CPU": 3.0}] * 3,
            False,
            1,
        ),  # 8 / 4 by totals, a CPU a node is left over
        (ClusterConfig(workers=2, placement="STRICT_PACK"), [{"CPU": 1.0}] * 5, False, 0),
        (ClusterConfig(workers=2, placement="STRICT_PACK"), [{"CPU": 3.0}] * 2, False, 2),
        (ClusterConfig(workers=3, placement="STRICT_SPREAD"), [{"CPU": 4.0}] * 2, False, 0),
        (ClusterConfig(workers=2, placement="STRICT_SPREAD"), [{"CPU": 3.0}] * 2, False, 2),
        (ClusterConfig(evaluator_cpus=3), [{"CPU": 2.0}] * 3, False, 0),
        (ClusterConfig(workers=[2, 8]), [{"CPU": 4.0}], False, 1),  # an elastic slot starts with its fewest
    ],
)
def test_slots_that_fit(cluster: ClusterConfig, nodes: list[NodeResources], streaming: bool, slots: int) -> None:
    if slots:
        assert slot_capacity(cluster, nodes, streaming).slots == slots
    else:
        with pytest.raises(ConfigError, match="the cluster is too small: 0 slots = "):
            slot_capacity(cluster, nodes, streaming)


def test_the_arithmetic_is_said() -> None:
    assert slot_capacity(ClusterConfig(workers=2, slots=1), [{"CPU": 9.0}], False).description == (
        "1 slot = CPU: (9 - 1 for the evaluator) / (2 x 1), capped by cluster.slots=1"
    )
    assert slot_capacity(ClusterConfig(workers=2, cpus_per_worker=2), [{"CPU": 3.0}] * 3, False).description == (
        "1 slot = CPU: (9 - 1 for the evaluator) / (2 x 2); node by node 1 (PACK); on 3 nodes of 3 CPU"
    )


def test_what_an_autoscaler_may_add_counts() -> None:
    head: list[NodeResources] = [{"CPU": 0.0}]
    profile = ClusterConfig(workers=4, cpus_per_worker=4, gpus_per_worker=1, evaluator_cpus=2, evaluator_gpus=1)
    assert slot_capacity(profile, head, False, [{"CPU": 48.0, "GPU": 4.0}] * 3).description == (
        "2 slots = CPU: (144 - 2 for the evaluator) / (4 x 4); GPU: (12 - 1 for the evaluator) / (4 x 1); "
        "on 1 node of 0 CPU, may autoscale by 3 nodes of 48 CPU, 4 GPU"
    )
    with pytest.raises(
        ConfigError, match="may autoscale by 1 node of 48 CPU, 4 GPU; needs an evaluator of 2 CPU, 1 GPU"
    ):
        slot_capacity(profile, head, False, [{"CPU": 48.0, "GPU": 4.0}])


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        (ClusterConfig(evaluator_cpus=9), "no node is large enough for an evaluator: lower cluster.evaluator_cpus"),
        (ClusterConfig(gpus_per_worker=8), "no node has a GPU: cluster=laptop needs none"),
        (ClusterConfig(cpus_per_worker=9), "no node is large enough for a worker: lower cluster.cpus_per_worker or"),
        (
            ClusterConfig(workers=64),
            "needs an evaluator of 1 CPU on one node, and for one slot 64 x (1 CPU); lower cluster.work",
        ),
    ],
)
def test_a_refusal_names_what_is_needed_and_what_to_change(cluster: ClusterConfig, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        slot_capacity(cluster, [{"CPU": 8.0}], False)
    assert says in str(refused.value)
