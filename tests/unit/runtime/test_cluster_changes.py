"""What is said of nodes that come and go."""

from __future__ import annotations

from raymix.config import ConfigError
from raymix.runtime.cluster_changes import node_change_lines

A, B = ("10.0.0.5", {"CPU": 16.0, "GPU": 4.0}), ("10.0.0.6", {"CPU": 2.0})


def none() -> str:
    raise ConfigError("the cluster is too small: 0 slots = CPU: (2 - 1 for the evaluator) / (4 x 4)")


def test_nothing_new_is_not_said() -> None:
    assert list(node_change_lines({"a": A, "b": B}, {"b": B, "a": A}, none)) == []


def test_gone_come_and_the_room_that_is_left() -> None:
    gone, come, room = node_change_lines(
        {"a": A}, {"b": B}, lambda: "1 slot = CPU: (2 - 1 for the evaluator) / (1 x 1)"
    )
    assert gone.startswith("10.0.0.5 (1 node of 16 CPU, 4 GPU) is gone; what ran there, if anything, starts again")
    assert come == "10.0.0.6 (1 node of 2 CPU) has come"
    assert room == "capacity now: 1 slot = CPU: (2 - 1 for the evaluator) / (1 x 1)"


def test_no_room_left_is_waited_for_with_the_numbers() -> None:
    assert list(node_change_lines({"a": A, "b": B}, {"b": B}, none))[-1] == f"waiting for nodes: {_text()}"


def _text() -> str:
    try:
        return none()
    except ConfigError as error:
        return str(error)
