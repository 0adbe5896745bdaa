"""How many slots fit into a cluster, with the arithmetic: pure sums over nodes, no Ray.

A slot is `cluster.workers` equal bundles; the evaluator sits on one node. Totals give the sum that a person can check in
the head; node by node it may come to less, because a worker or an evaluator cannot be cut in two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raymix.config import ClusterConfig, ConfigError

NodeResources = Mapping[str, float]  # {"CPU": 8.0, "GPU": 1.0, ...}

MANY = 10_000  # slots: more than fit into any cluster

EPSILON = 1e-9


@dataclass(frozen=True)
class SlotCapacity:
    """How many slots fit, and the arithmetic behind it."""

    slots: int
    description: str
    evaluator: int | None = None  # the node, by its place in the list, where the evaluator leaves the most resources


def slot_capacity(
    cluster: ClusterConfig, nodes: Sequence[NodeResources], streaming: bool, grows: Sequence[NodeResources] = ()
) -> SlotCapacity:
    """Slots that fit on `nodes` and those that an autoscaler may add (`grows`), after the evaluator's share, and when
    clips are streamed the data's.

    Raises ConfigError, with what is needed, what there is and what there may be, where not one fits.
    """
    every = [*nodes, *grows]
    fit, sums = _by_totals(cluster, every, streaming)
    by_node, evaluator = _node_by_node(cluster, every)
    placed = min(fit, by_node)
    slots = min(placed, cluster.slots) if cluster.slots else placed
    description = f"{slots} slot{'s' if slots != 1 else ''} = {'; '.join(sums)}"
    if placed < fit:
        description += f"; node by node {placed} ({cluster.placement})"
    if slots < placed:
        description += f", capped by cluster.slots={cluster.slots}"
    if len(every) > 1:
        description += f"; on {describe_nodes(nodes)}" + (
            f", may autoscale by {describe_nodes(grows)}" if grows else ""
        )
    if slots == 0:
        raise ConfigError(
            f"the cluster is too small: {description}; {_needs(cluster, streaming)}; {_advice(cluster, every)}"
        )
    return SlotCapacity(slots, description, evaluator)


def _by_totals(cluster: ClusterConfig, nodes: Sequence[NodeResources], streaming: bool) -> tuple[int, list[str]]:
    data = cluster.data_cpus if streaming else 0.0
    sums, fits = [], []
    for name, per_worker, evaluator, extra in (
        ("CPU", cluster.cpus_per_worker, cluster.evaluator_cpus, data),
        ("GPU", cluster.gpus_per_worker, cluster.evaluator_gpus, 0.0),
    ):
        slot, total = cluster.fewest * per_worker + extra, sum(node.get(name, 0.0) for node in nodes)
        if slot == 0 and evaluator == 0:
            continue
        fits.append(math.floor((total - evaluator) / slot + EPSILON) if slot else MANY * int(total >= evaluator))
        parts = f"{cluster.fewest} x {per_worker:g}" + (f" + {extra:g} for data" if extra else "")
        sums.append(f"{name}: ({total:g} - {evaluator:g} for the evaluator) / ({parts})")
    return max(0, min(fits, default=0)), sums


def _node_by_node(cluster: ClusterConfig, nodes: Sequence[NodeResources]) -> tuple[int, int | None]:
    """Slots whose workers find nodes, with the evaluator where it leaves the most, and where that is."""
    alone = [_workers(cluster, node, evaluator=False) for node in nodes]
    best, place = 0, None
    for number, node in enumerate(nodes):
        beside = _workers(cluster, node, evaluator=True)
        if beside >= 0:
            found = _slots(cluster, [*alone[:number], beside, *alone[number + 1 :]])
            best, place = max((best, place), (found, number), key=lambda pair: pair[0])
    return best, place


def _workers(cluster: ClusterConfig, node: NodeResources, evaluator: bool) -> int:
    """Workers that fit on a node; -1 where the evaluator itself does not."""
    cpus = node.get("CPU", 0.0) - evaluator * cluster.evaluator_cpus
    gpus, share = node.get("GPU", 0.0), evaluator * cluster.evaluator_gpus
    if cpus < -EPSILON or gpus + EPSILON < (share if share < 1 else math.ceil(share)):
        return -1
    by_cpu = math.floor(cpus / cluster.cpus_per_worker + EPSILON)
    return min(by_cpu, _on_gpus(gpus, cluster.gpus_per_worker, share))


def _on_gpus(gpus: float, each: float, evaluator: float) -> int:
    """Workers that fit on whole GPUs: less than one GPU shares one, more than one takes whole GPUs."""
    if each == 0:
        return MANY
    if each >= 1:
        return max(0, math.floor((gpus - math.ceil(evaluator)) / math.ceil(each) + EPSILON))
    taken, rest = int(evaluator), evaluator % 1
    whole = int(gpus) - taken - (rest > 0)
    beside = math.floor((1 - rest) / each + EPSILON) if rest else 0
    return max(0, whole) * math.floor(1 / each + EPSILON) + beside


def _slots(cluster: ClusterConfig, fits: Sequence[int]) -> int:
    """Slots for so many workers a node, under Ray's placement strategies."""
    workers = cluster.fewest
    if cluster.placement == "STRICT_PACK":
        return sum(fit // workers for fit in fits)
    if cluster.placement == "STRICT_SPREAD":  # each node takes at most one worker of a slot
        upper = sum(fits) // workers
        return next((s for s in range(upper, 0, -1) if sum(min(s, fit) for fit in fits) >= s * workers), 0)
    return sum(fits) // workers


def describe_nodes(nodes: Sequence[NodeResources]) -> str:
    """`2 nodes of 16 CPU, 4 GPU and 1 node of 4 CPU`."""
    kinds = Counter((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes)
    parts = [
        f"{count} node{'s' if count > 1 else ''} of {cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")
        for (cpus, gpus), count in kinds.most_common()
    ]
    return " and ".join(parts) or "no node"


def _needs(cluster: ClusterConfig, streaming: bool) -> str:
    def share(cpus: float, gpus: float) -> str:
        return f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")

    data = f" and {cluster.data_cpus:g} CPU for data" if streaming and cluster.data_cpus else ""
    return (
        f"needs an evaluator of {share(cluster.evaluator_cpus, cluster.evaluator_gpus)} on one node, and for one slot "
        f"{cluster.fewest} x ({share(cluster.cpus_per_worker, cluster.gpus_per_worker)}){data}"
    )


def _advice(cluster: ClusterConfig, nodes: Sequence[NodeResources]) -> str:
    """The setting that is too large for any node, else those that decide."""
    if cluster.gpus_per_worker + cluster.evaluator_gpus > 0 and not any(node.get("GPU") for node in nodes):
        return "no node has a GPU: cluster=laptop needs none"
    for what, cpus, gpus in (
        ("evaluator", cluster.evaluator_cpus, cluster.evaluator_gpus),
        ("worker", cluster.cpus_per_worker, cluster.gpus_per_worker),
    ):
        if not any(node.get("CPU", 0.0) >= cpus and node.get("GPU", 0.0) >= gpus for node in nodes):
            unit = {"evaluator": "cluster.evaluator_cpus or cluster.evaluator_gpus"}.get(
                what, "cluster.cpus_per_worker or cluster.gpus_per_worker"
            )
            return f"no node is large enough for {'an' if what == 'evaluator' else 'a'} {what}: lower {unit}"
    return "lower cluster.workers or cluster.cpus_per_worker"
