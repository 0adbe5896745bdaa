"""A slot makes room for an evaluator that found no place after its node was lost."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raymix import trial
from raymix.evaluator import Evaluator
from raymix.mailbox import Mailbox


@ray.remote(num_cpus=0)
class Scores:
    def score(self, uri: str) -> dict[str, Any]:
        return {"metrics": {"loss": 1.0}, "uri": uri}

    def ping(self) -> int:
        return 0


@ray.remote(num_cpus=0)
class Place:
    """Holds CPUs until it is killed."""

    def here(self) -> bool:
        return True


class Slot:
    def __init__(self, place: Any) -> None:
        self.place, self.alive, self.closed_at = place, True, 0.0

    def close(self) -> None:
        self.alive, self.closed_at = False, time.monotonic()
        ray.kill(self.place)


def waiting(evaluator: Any, slot: Slot) -> Any:
    """A trial that has come as far as a checkpoint."""
    made = object.__new__(trial.Trial)
    mailbox = Mailbox.remote()  # type: ignore[attr-defined]
    made.shared, made.slot = SimpleNamespace(evaluator=evaluator, mailbox=mailbox), slot  # type: ignore[assignment]
    return made


def test_a_slot_makes_room_for_an_evaluator_without_a_place(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PATIENCE", 1.0)
    cpus, end = ray.cluster_resources()["CPU"] // 2 + 1, time.monotonic() + 60  # of two that take so many one must wait
    while ray.available_resources().get("CPU", 0.0) < cpus:  # what an earlier test used is given back in a moment
        assert time.monotonic() < end
        time.sleep(0.2)
    place = Place.options(num_cpus=cpus).remote()  # type: ignore[attr-defined]
    assert ray.get(place.here.remote(), timeout=60)
    evaluator = Scores.options(num_cpus=cpus).remote()  # type: ignore[attr-defined]  # pending: nothing is free
    slot = Slot(place)
    found = waiting(evaluator, slot)._score("s3://b/c")
    assert found["uri"] == "s3://b/c" and not slot.alive
    ray.kill(evaluator)


def test_a_busy_evaluator_is_only_waited_for(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait for scores, the real evaluator gives its sign at once: no slot is taken for one that must go."""
    monkeypatch.setattr(trial, "PATIENCE", 0.5)

    class Slow(Evaluator.__ray_metadata__.modified_class):  # type: ignore[attr-defined, misc]
        def score(self, uri: str) -> dict[str, Any]:
            time.sleep(1.5)
            return {"uri": uri}

    evaluator = ray.remote(concurrency_groups={"sign": 1})(Slow).options(num_cpus=0).remote()  # type: ignore[call-overload]
    assert ray.get(evaluator.ping.remote()) == ray.get_runtime_context().get_node_id()
    before = [evaluator.score.remote(f"other {n}") for n in range(3)]
    slot = Slot(None)
    assert waiting(evaluator, slot)._score("u") == {"uri": "u"}
    assert slot.alive and len(ray.get(before)) == 3
    ray.kill(evaluator)
