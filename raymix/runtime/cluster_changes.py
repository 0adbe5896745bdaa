"""Reports nodes that leave or join while a search runs: a thread that polls Ray's list of nodes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from raymix.config import ConfigError
from raymix.runtime import cluster_nodes
from raymix.runtime.cluster_capacity import describe_nodes
from raymix.runtime.cluster_nodes import NodesById

EVERY = 5.0  # seconds


def node_change_lines(before: NodesById, now: NodesById, capacity: Callable[[], str]) -> Iterator[str]:
    """A line for each node that went or came; `capacity` describes how many slots fit now, and raises ConfigError for none."""
    gone, new = [before[n] for n in before if n not in now], [now[n] for n in now if n not in before]
    for address, has in gone:
        yield f"{address} ({describe_nodes([has])}) is gone; what ran there, if anything, starts again elsewhere"
    for address, has in new:
        yield f"{address} ({describe_nodes([has])}) has come"
    if gone:
        try:
            yield f"capacity now: {capacity()}"
        except ConfigError as error:
            yield f"waiting for nodes: {error}"


@contextlib.contextmanager
def watch_node_changes(
    cluster: Any,
    streaming: bool,
    say: Callable[[str], Any],
    every: float = EVERY,
) -> Iterator[None]:
    """In this context, changes of the cluster's nodes are printed."""
    over, known = threading.Event(), cluster_nodes.alive_nodes()

    def look() -> None:
        nonlocal known
        while not over.wait(every):
            with contextlib.suppress(Exception):  # the head is too busy to answer; the next poll will
                before, known = known, cluster_nodes.alive_nodes()
                for line in node_change_lines(
                    before, known, lambda: cluster_nodes.check_cluster_capacity(cluster, streaming).description
                ):
                    say(f"nodes: {line}")

    thread = threading.Thread(target=look, daemon=True, name="census")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(every)
