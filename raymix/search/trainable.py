"""The Ray Tune Trainable of a trial: it runs in a slot and reports one result per *scored* epoch.

Training never waits for scoring: the slot trains on while `step` has the last epoch scored. A trial's own failure is a
result (`failed`, `done`), not an exception, so the slot stays warm for the next trial.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from raymix.config import config_from_plain, override_config
from raymix.config.validation import config_problems
from raymix.runtime.errors import error_summary, is_transient_error
from raymix.tracking import checkpoint
from raymix.training.coordinator import TrialAssignment, TrialProgress
from raymix.training.standing_run import StandingTrainRun

POINTER_FILE = "pointer.json"

ANSWER_TIMEOUT_S = 60.0  # seconds that the evaluator may be silent before a slot releases resources for it


@dataclass(frozen=True)
class StudyContext:
    """What all trials of a study share: handles only, so it travels cheaply."""

    plain: dict[str, Any]  # the study's config before a trial's own values
    uri: str  # the study's folder
    coordinator: Any
    evaluator: Any
    source: Any


class SlotLostError(RuntimeError):
    """The standing run ended although trials remain; Tune starts the trial again, with a fresh slot."""


class StandingTrainable(tune.Trainable):
    """`config` is {"trial": number, "params": {dotted name: value}}; see `raymix.search.optuna_searcher`."""

    def setup(self, config: dict[str, Any], shared: StudyContext | None = None) -> None:
        assert shared is not None
        self.shared = shared
        self.slot = self._open()
        self._take(config)

    def _open(self) -> StandingTrainRun:
        s = self.shared
        name, storage = f"slot-{uuid.uuid4().hex[:8]}", s.uri.rstrip("/") + "/slots"
        return StandingTrainRun(name, config_from_plain(s.plain), s.coordinator, s.source, storage)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The same warm slot takes the next trial; the trial that it leaves is forgotten."""
        ray.get(self.shared.coordinator.forget.remote(self.folder))
        if not self.slot.alive:  # it released its resources for the scoring actor
            self.slot = self._open()
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self.number = int(config["trial"])
        self.params: dict[str, Any] = config["params"]
        self.plain = override_config(self.shared.plain, self.params)
        self.progress: TrialProgress = ray.get(self.shared.coordinator.get_progress.remote(self.number))
        self.folder = self._folder(self.progress.lineage)
        self.origin: str | None = None
        self.parent: int | None = None
        self.ordered = False
        found = config_problems(config_from_plain(self.plain))
        self.broken = f"cannot run: {found[0]}" if found else ""

    def _folder(self, lineage: int) -> str:
        path = f"{self.shared.uri.rstrip('/')}/{checkpoint.checkpoint_path(self.number)}"
        return f"{path}.{lineage}" if lineage else path

    def step(self) -> dict[str, Any]:
        if self.broken:
            return self._failed(self.progress.epoch + 1, self.broken)
        if self.progress.epoch >= self.plain["training"]["epochs"]:  # scored to the end before it could be written down
            whole = {"epoch": self.progress.epoch, "trial": self.number, "known": True}
            return {self._study["metric"]: self.progress.score, **whole, "ended": "completed", "done": True}
        if not self.ordered:
            before = self.progress.checkpoint or ""
            # Its own folder's newest checkpoint comes first; one of another folder only where that folder is empty.
            origin = self.origin or (before if before and not before.startswith(self.folder + "/") else None)
            self.slot.assign(TrialAssignment(self.number, self.plain, self.folder, origin, self.progress.epoch + 1))
            self.ordered = True
        epoch = self.progress.epoch + 1
        found = self._await(epoch)
        if "failed" in found:
            return self._failed(epoch, found["failed"])
        asked = time.time()
        scores = self._score(found["checkpoint"])
        if "failed" in scores:
            return self._failed(epoch, scores["failed"])
        objective = scores["metrics"].get(self._study["metric"])
        if objective is None or not math.isfinite(objective):
            return self._failed(epoch, f"{self._study['metric']} is {objective}")
        self.progress = TrialProgress(epoch, found["checkpoint"], self.progress.lineage, objective)
        ray.get(self.shared.coordinator.set_progress.remote(self.number, self.progress))
        last = epoch >= self.plain["training"]["epochs"]
        parent, self.parent = self.parent, None
        return {
            self._study["metric"]: objective,
            "parent": parent,
            "params": self.params,
            "slot": self.slot.name,
            "epoch": epoch,
            "trial": self.number,
            "metrics": scores["metrics"],
            "outcomes": scores.get("outcomes"),
            "training": {k: v for k, v in found.items() if k != "checkpoint"},
            "checkpoint": found["checkpoint"].removeprefix(self.shared.uri.rstrip("/") + "/"),
            "score_seconds": scores["seconds"],
            "asked": asked,
            "done": last,
            **({"ended": "completed"} if last else {}),
        }

    def _score(self, uri: str) -> dict[str, Any]:
        """The evaluator's answer, however long it takes; {"failed": reason} where scoring this checkpoint raises an error.

        Scoring is deterministic, so such an error would occur again. Other errors (the scoring actor is lost
        for good, the storage does not answer) is raised, and Tune starts the trial again from its newest checkpoint.

        One that lost its node may find no place on the others, all of them taken by slots that wait for its scores: after
        PATIENCE seconds without an answer this slot releases its resources, and starts again when the score has arrived.
        """
        asked = self.shared.evaluator.score.remote(uri)
        while not ray.wait([asked], timeout=ANSWER_TIMEOUT_S)[0]:
            alive = ray.wait([self.shared.evaluator.ping.remote()], timeout=ANSWER_TIMEOUT_S)[0]
            if (
                not alive
                and self.slot.alive
                and ray.get(self.shared.coordinator.may_yield.remote(2 * ANSWER_TIMEOUT_S))
            ):
                self.slot.close()
        try:
            found: dict[str, Any] = ray.get(asked)
        except ray.exceptions.RayError as error:
            if is_transient_error(error):
                raise
            return {"failed": f"scoring: {error_summary(error)}"}
        return found

    @property
    def _study(self) -> dict[str, Any]:
        found: dict[str, Any] = self.shared.plain["study"]
        return found

    def _await(self, epoch: int) -> dict[str, Any]:
        """The slot's result of this epoch, however long it takes; SlotLostError when the slot is gone."""
        while True:
            found: dict[str, Any] | None = ray.get(self.shared.coordinator.result.remote(self.folder, epoch, 5.0))
            if found is not None:
                return found
            if not self.slot.alive:
                raise SlotLostError(f"slot {self.slot.name} ended: {self.slot.error or 'its workers left'}")

    def _failed(self, epoch: int, reason: str) -> dict[str, Any]:
        worst = -math.inf if self._study["mode"] == "max" else math.inf
        failed = {"epoch": epoch, "trial": self.number, "failed": reason, "ended": "failed", "done": True}
        return {self._study["metric"]: worst, **failed}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune carries only a pointer; the checkpoint itself is in the study's folder."""
        pointer = {"trial": self.number, "epoch": self.progress.epoch, "checkpoint": self.progress.checkpoint}
        with open(os.path.join(checkpoint_dir, POINTER_FILE), "w") as file:
            json.dump(pointer, file)

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Another trial's pointer (population-based training): its weights under this trial's number and epochs."""
        with open(os.path.join(checkpoint_dir, POINTER_FILE)) as file:
            pointer = json.load(file)
        if pointer["trial"] != self.number and pointer["checkpoint"]:
            p, lineage = self.progress, self.progress.lineage + 1
            while checkpoint.list_epoch_checkpoints(
                self._folder(lineage)
            ):  # of an earlier driver, which was killed before it was scored
                lineage += 1
            self.progress = TrialProgress(p.epoch, p.checkpoint, lineage, p.score)
            self.parent = pointer["trial"]
            self.origin, self.folder = pointer["checkpoint"], self._folder(lineage)
            ray.get(self.shared.coordinator.set_progress.remote(self.number, self.progress))

    def cleanup(self) -> None:
        self.slot.close()
