"""Nodes of the cluster: resources, autoscaling, placement of the scoring actor, and visibility of paths."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymix.config import ConfigError, PrepareConfig, TrainConfig, did_you_mean
from raymix.runtime import ray_internals
from raymix.runtime.cluster_capacity import NodeResources, SlotCapacity, slot_capacity

STANDARD = ("CPU", "GPU", "memory", "object_store_memory")

HEAD = "node:__internal_head__"  # the resource that Ray gives to the head alone

ENDLESS = 1000  # nodes that an autoscaler without a limit is taken to bring


NodesById = Mapping[str, tuple[str, NodeResources]]  # by id: address, and what the node has


def alive_nodes() -> NodesById:
    """The living nodes."""
    alive = [each for each in ray.nodes() if each["Alive"]]
    return {e["NodeID"]: (e["NodeManagerAddress"], {k: float(v) for k, v in e["Resources"].items()}) for e in alive}


def autoscalable_nodes() -> list[NodeResources]:
    """The nodes that an autoscaler may add to those that are there, by each node type's own limit; none where nothing
    scales."""
    config = ray_internals.autoscaler_config()
    there = Counter(each["Labels"].get("ray.io/node-group", "") for each in ray.nodes() if each["Alive"])
    more: list[NodeResources] = []
    for group in config.node_group_configs if config else ():
        count = ENDLESS if group.max_count < 0 else max(0, group.max_count - there[group.name])
        more += [dict(group.resources)] * min(count, ENDLESS)
    return more


def check_cluster_capacity(cluster: Any, streaming: bool) -> SlotCapacity:
    """The capacity of the cluster; ConfigError where no slot fits."""
    there, more = [has for _, has in alive_nodes().values()], autoscalable_nodes()
    if (asked := next(iter(trial_actor_resources(cluster)))) not in (
        names := {name for node in (*there, *more) for name in node}
    ):
        own = [name for name in names if name not in STANDARD and ":" not in name]
        raise ConfigError(f"cluster.trials_on={asked}: no node has this resource{did_you_mean(asked, ['head', *own])}")
    return slot_capacity(cluster, there, streaming, more)


def trial_actor_resources(cluster: Any) -> dict[str, float]:
    """Resources of the process of a trial, which only waits for its slot: a tiny share of a resource that selects the node."""
    return {HEAD if cluster.trials_on == "head" else cluster.trials_on: 0.001}


def driver_node_scheduling() -> Any:
    """Where what must live as long as this process is put: on its own node, so that no other node's loss takes it."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def scoring_actor_scheduling(found: SlotCapacity) -> Any:
    """Where the evaluator goes: the node where it leaves the most resources, if it is there; another one after that is lost."""
    ids = list(alive_nodes())
    if found.evaluator is None or found.evaluator >= len(ids):
        return "DEFAULT"
    return NodeAffinitySchedulingStrategy(ids[found.evaluator], soft=True, _spill_on_unavailable=True)


def local_path_settings(run: TrainConfig | PrepareConfig) -> dict[str, str]:
    """The settings that name places on a disk, not in an object store; the demo's videos are made where they are missing."""
    found = {"home": run.home, "dataset.prepared": run.dataset.prepared}
    if isinstance(run, TrainConfig):
        found["encoder.weights"] = run.encoder.weights or ""
    if run.dataset.name != "demo":
        found["dataset.root"] = run.dataset.root
        found["dataset.annotations"], found["dataset.regions"] = run.dataset.annotations, run.dataset.regions or ""
    if run.dataset.faces != "opencv":
        found["dataset.faces"] = run.dataset.faces
    local = {name: uri.removeprefix("file://") for name, uri in found.items()}
    return {name: uri for name, uri in local.items() if uri and "://" not in uri}


def check_shared_paths(places: Mapping[str, str]) -> None:
    """BadInput where a node of the cluster does not see a place on a disk that this one does.

    Where only the head is there and nodes are yet to come, one is waited for and asked. A file is written to find out, and
    taken away again.
    """
    known, own = alive_nodes(), ray.get_runtime_context().get_node_id()
    others = {node: address for node, (address, _) in known.items() if node != own}
    first = not any(has.get("CPU", 0) > 0 for _, has in known.values()) and bool(autoscalable_nodes())
    if not places or not (others or first):
        return
    look = ray.remote(num_cpus=0, max_retries=3)(_looks)
    for name, place in places.items():
        probe, made = _probe(place)
        try:
            asked = [
                look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, False)).remote(probe) for n in others
            ]
            asked += [look.options(num_cpus=1).remote(probe)] if first else []
            answers = ray.get(asked)
        finally:
            if made:
                os.unlink(probe)
        if blind := [address for address, is_visible in answers if not is_visible]:
            many = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
            raise ConfigError(
                f"{name}={place}: node {blind[0]}{many} does not see it; name storage that all nodes share (NFS, s3://, gs://)"
            )


def _looks(path: str) -> tuple[str, bool]:
    return ray.util.get_node_ip_address(), os.path.exists(path)


def _probe(place: str) -> tuple[str, bool]:
    """A path to look for: a new file in the place, or in the nearest folder above it that is there; else the place itself."""
    folder = place
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    if os.path.isfile(place):
        return place, False
    try:
        handle, probe = tempfile.mkstemp(prefix=".seen-by-all-", dir=folder)
    except OSError:  # one may read there, and not write
        return place, False
    os.close(handle)
    return probe, True
