"""A trial and the evaluator: a slot makes room for one without a place, and an error in scoring ends the trial once."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayActorError

from raymix.config import config_to_plain
from raymix.methods import method_from_config
from raymix.search import trainable
from raymix.search.scoring_actor import ScoringActor
from raymix.tracking import checkpoint
from raymix.training.coordinator import TrialAssignment, TrialCoordinator
from raymix.training.loop import StepTimer
from raymix.training.worker import _TrialRun
from tests.unit.training.test_loop import small


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
    name = "a"

    def __init__(self, place: Any) -> None:
        self.place, self.alive, self.closed_at = place, True, 0.0

    def assign(self, order: TrialAssignment) -> None:
        pass  # the epoch of the test is there already

    def close(self) -> None:
        self.alive, self.closed_at = False, time.monotonic()
        ray.kill(self.place)


def waiting(evaluator: Any, slot: Slot) -> Any:
    """A trial that has come as far as a checkpoint."""
    made = object.__new__(trainable.StandingTrainable)
    coordinator = TrialCoordinator.remote()  # type: ignore[attr-defined]
    made.shared, made.slot = SimpleNamespace(evaluator=evaluator, coordinator=coordinator), slot  # type: ignore[assignment]
    return made


def test_a_slot_makes_room_for_an_evaluator_without_a_place(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "ANSWER_TIMEOUT_S", 1.0)
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
    monkeypatch.setattr(trainable, "ANSWER_TIMEOUT_S", 0.5)

    class Slow(ScoringActor.__ray_metadata__.modified_class):  # type: ignore[attr-defined, misc]
        def score(self, uri: str) -> dict[str, Any]:
            time.sleep(1.5)
            return {"uri": uri}

    evaluator = ray.remote(concurrency_groups={"health": 1})(Slow).options(num_cpus=0).remote()  # type: ignore[call-overload]
    assert ray.get(evaluator.ping.remote()) == ray.get_runtime_context().get_node_id()
    before = [evaluator.score.remote(f"other {n}") for n in range(3)]
    slot = Slot(None)
    assert waiting(evaluator, slot)._score("u") == {"uri": "u"}
    assert slot.alive and len(ray.get(before)) == 3
    ray.kill(evaluator)


def one_epoch_trained(demo: Path, folder: Path, evaluator: Any, value: float) -> Any:
    """A trial whose slot has written the checkpoint of its first epoch, all weights of which are `value`."""
    run = small(demo)
    made = object.__new__(trainable.StandingTrainable)
    made.shared = trainable.StudyContext(config_to_plain(run), str(folder), TrialCoordinator.remote(), evaluator, None)  # type: ignore[attr-defined]
    made.slot = Slot(None)  # type: ignore[assignment]
    made._take({"trial": 3, "params": {}})
    weights = {
        name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
        for name, tensor in method_from_config(run).state_dict().items()
    }
    uri = checkpoint.save_checkpoint(f"{folder}/{checkpoint.checkpoint_path(3, 1)}", weights, {}, config_to_plain(run))
    ray.get(made.shared.coordinator.report.remote(made.folder, 1, {"checkpoint": uri}))
    return made


def test_an_error_in_scoring_ends_the_trial_with_its_reason(ray_session: None, demo: Path, tmp_path: Path) -> None:
    """NaN weights give maps that cannot be scored, however often: a failed result, not an exception that Tune retries."""
    evaluator = ScoringActor.options(num_cpus=0).remote()  # type: ignore[attr-defined]
    result = one_epoch_trained(demo, tmp_path, evaluator, float("nan")).step()
    assert result["ended"] == "failed" and result["done"] and result["epoch"] == 1
    assert "scoring: ValueError: " in result["failed"] and "finite" in result["failed"] and "\n" not in result["failed"]
    whole = one_epoch_trained(demo, tmp_path, evaluator, 0.01).step()
    assert "failed" not in whole and whole["params"] == {}, "the same evaluator scores the next trial"
    ray.kill(evaluator)


def test_after_an_error_of_the_device_the_next_trial_is_scored_in_a_new_process(
    ray_session: None, demo: Path, tmp_path: Path
) -> None:
    class Broken(ScoringActor.__ray_metadata__.modified_class):  # type: ignore[attr-defined, misc]
        """In its first process the device fails, and everything after it."""

        def _score(self, uri: str) -> dict[str, Any]:
            first = tmp_path / "first"
            first.exists() or first.write_text(str(os.getpid()))
            if first.read_text() == str(os.getpid()):
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            return super()._score(uri)

    made = ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"health": 1})(Broken)  # type: ignore[call-overload]
    evaluator = made.options(num_cpus=0).remote()
    result = one_epoch_trained(demo, tmp_path, evaluator, 0.01).step()
    assert result["ended"] == "failed" and "device-side assert" in result["failed"]
    whole = one_epoch_trained(demo, tmp_path, evaluator, 0.01).step()
    assert "failed" not in whole and "val/sounding_accuracy" in whole["metrics"]
    ray.kill(evaluator)


def test_a_lost_evaluator_or_storage_is_not_the_trials_fault(ray_session: None, demo: Path, tmp_path: Path) -> None:
    """Tune sees an exception and starts the trial again."""
    evaluator = ScoringActor.options(num_cpus=0).remote()  # type: ignore[attr-defined]
    made = one_epoch_trained(demo, tmp_path, evaluator, 0.01)
    ray.kill(evaluator)
    with pytest.raises(RayActorError):
        made.step()

    class Unreachable(ScoringActor.__ray_metadata__.modified_class):  # type: ignore[attr-defined, misc]
        def score(self, uri: str) -> dict[str, Any]:
            raise ConnectionError("the storage does not answer")

    evaluator = ray.remote(concurrency_groups={"health": 1})(Unreachable).options(num_cpus=0).remote()  # type: ignore[call-overload]
    with pytest.raises(OSError, match="does not answer"):
        one_epoch_trained(demo, tmp_path, evaluator, 0.01).step()
    ray.kill(evaluator)


@pytest.mark.parametrize("error", [KeyError("frames"), IndexError("3"), ZeroDivisionError("x"), AssertionError("y")])
def test_any_error_of_the_trials_own_ends_it_at_once(ray_session: None, error: Exception) -> None:
    """Raised, it would start the group of workers again up to five times, and end as "its workers were lost"."""
    coordinator = TrialCoordinator.remote()  # type: ignore[attr-defined]

    class Raising(_TrialRun):
        def _train(self) -> None:
            raise error

    Raising(TrialAssignment(1, folder="f"), None, coordinator, "a", 0, 1, 1, StepTimer()).run()  # type: ignore[arg-type]
    found = ray.get(coordinator.result.remote("f", 1, 5.0))
    assert found["failed"].startswith(f"{type(error).__name__}: ")


def test_an_error_of_the_device_ends_the_trial_and_the_workers(ray_session: None) -> None:
    class Raising(_TrialRun):
        def _train(self) -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    coordinator = TrialCoordinator.remote()  # type: ignore[attr-defined]
    with pytest.raises(torch.AcceleratorError):
        Raising(TrialAssignment(1, folder="f"), None, coordinator, "a", 0, 1, 1, StepTimer()).run()  # type: ignore[arg-type]
    assert "illegal memory access" in ray.get(coordinator.result.remote("f", 1, 5.0))["failed"]


def test_unavailable_storage_restarts_the_workers(ray_session: None) -> None:
    class Raising(_TrialRun):
        def _train(self) -> None:
            raise TimeoutError("the storage does not answer")

    coordinator = TrialCoordinator.remote()  # type: ignore[attr-defined]
    with pytest.raises(OSError):
        Raising(TrialAssignment(1, folder="f"), None, coordinator, "a", 0, 1, 1, StepTimer()).run()  # type: ignore[arg-type]
    assert ray.get(coordinator.result.remote("f", 1, 0.1)) is None
