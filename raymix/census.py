"""Nodes that come and go while a search runs, said as it happens: a thread that looks at Ray's list of nodes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raymix import session
from raymix.config import BadInput
from raymix.room import Node, described

EVERY = 5.0  # seconds

Listed = Mapping[str, tuple[str, Node]]  # by id: address, and what the node has


def listed() -> Listed:
    """The living nodes of the cluster."""
    import ray

    return {each["NodeID"]: (each["NodeManagerAddress"], each["Resources"]) for each in ray.nodes() if each["Alive"]}


def changes(before: Listed, now: Listed, room: Callable[[], str]) -> Iterator[str]:
    """A line for each node that went or came; `room` says how many slots fit now, and raises BadInput for none."""
    gone, new = [before[n] for n in before if n not in now], [now[n] for n in now if n not in before]
    for address, has in gone:
        yield f"{address} ({described([has])}) is gone; what ran there starts again elsewhere from its newest checkpoint"
    for address, has in new:
        yield f"{address} ({described([has])}) has come"
    if gone:
        try:
            yield f"room now: {room()}"
        except BadInput as error:
            yield f"waiting for nodes: {error}"


@contextlib.contextmanager
def watching(cluster: Any, streaming: bool, say: Callable[[str], Any], every: float = EVERY) -> Iterator[None]:
    """Inside, changes of the cluster's nodes are said."""
    over, known = threading.Event(), listed()

    def look() -> None:
        nonlocal known
        while not over.wait(every):
            with contextlib.suppress(Exception):  # a head too busy to answer; the next look tells
                now = listed()
                for line in changes(known, now, lambda: session.fits(cluster, streaming).said):
                    say(f"nodes: {line}")
                known = now

    thread = threading.Thread(target=look, daemon=True, name="census")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(every)
