"""What happens in a search, written down as it happens: the ledger, old checkpoints removed, TensorBoard, overheads."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import median
from typing import Any

from ray import tune

from raymix import checkpoint, session
from raymix.ledger import Ledger
from raymix.study import Study, apply
from raymix.watch import Watch


class Recorder(tune.Callback):
    """Tune's callback in the driver: the one writer of the ledger while the study runs."""

    def __init__(self, ledger: Ledger, uri: str, study: Study, keep: int, watch: Watch, began: float) -> None:
        self.ledger, self.uri, self.keep, self.watch = ledger, uri.rstrip("/"), keep, watch
        self.study = study
        self.clocks = Clocks(began)
        self.board = Board(self.uri)
        self.referenced: Callable[[], Collection[str]] = frozenset  # checkpoints that must stay for now
        self._deleted: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a file that raymix never reads

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        session.check()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, params = trial.config["trial"], trial.config["params"]
        self._write("trial_started", trial=number, params=params)
        self.watch.started(number, params)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "failed" in result or "known" in result:
            return
        number, epoch = result["trial"], result["epoch"]
        if result.get("parent") is not None:
            # Not those in `trial.config`: the scheduler may have replaced them again, on seeing this very result.
            self._write("trial_perturbed", trial=number, parent=result["parent"], epoch=epoch, params=result["params"])
        self._write(
            "epoch_scored", trial=number, epoch=epoch, metrics=result["metrics"], training=result["training"],
            checkpoint=result["checkpoint"], seconds=result["training"]["ended"] - result["training"]["began"],
            score_seconds=result["score_seconds"], outcomes=self._outcomes(result.get("outcomes")),
        )  # fmt: skip
        self.clocks.epoch(result)
        self.board.epoch(number, epoch, {**result["metrics"], **result["training"]["train"]})
        self._tidy(self.referenced())
        self.watch.scored(self.study.trials[number])

    def _outcomes(self, outcomes: dict[str, Any] | None) -> dict[str, str] | None:
        """The outcomes of an epoch as they are recorded: what they share with others on the same scenes goes in once."""
        if outcomes is None:
            return None
        scenes = outcomes["scenes"]
        if scenes["scenes_hash"] not in self.study.scenes:
            self._write("scenes", **scenes)
        return {"scenes_hash": scenes["scenes_hash"], "real": outcomes["real"], "shuffled": outcomes["shuffled"]}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        state = last.get("ended", "pruned")
        reason = (
            last.get("failed", "")
            if state == "failed"
            else f"stopped at epoch {last.get('epoch')}"
            if state == "pruned"
            else ""
        )
        self._end(trial.config["trial"], state, reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        text = str((getattr(trial, "error_file", "") and trial.get_error()) or "its slot was lost")
        self._end(trial.config["trial"], "failed", text.strip().splitlines()[-1][:300])

    def _end(self, number: int, state: str, reason: str) -> None:
        self._write("trial_ended", trial=number, state=state, reason=reason)
        self.clocks.ended()
        self._tidy(self.referenced())
        self.watch.ended(self.study.trials[number])

    def exhausted(self, trials: int, points: int, unreachable: list[int]) -> None:
        """The search space has no further point: the study will have `trials` trials; `unreachable` numbers get none."""
        self._write("exhausted", trials=trials, points=points)
        for number in unreachable:
            self._write("trial_ended", trial=number, state="failed", reason="the search space has no further point")
        self.watch.limit(self.study.expected, self.study.exhaustion)

    def _write(self, kind: str, **record: Any) -> None:
        apply(self.study, self.ledger.append(kind, record))

    def _tidy(self, referenced: Collection[str] = ()) -> None:
        for path in checkpoint.retain(self.study.trials.values(), self.keep, referenced=referenced):
            if path not in self._deleted:
                checkpoint.delete(f"{self.uri}/{path}")
                self._deleted.add(path)

    def close(self, stopped: str = "") -> dict[str, Any]:
        """The overheads of this sitting, also in the ledger; no trial is under way any more."""
        self._tidy()
        self.board.close()
        found = self.clocks.overheads()
        self._write("overheads", **found, stopped=stopped)
        return found


class Clocks:
    """Where the time went, from the clocks that the slots send with every epoch."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.first: float | None = None
        self.gaps: list[float] = []
        self.scoring = 0.0
        self._slots: dict[str, list[dict[str, float]]] = {}
        self._free: list[float] = []

    def epoch(self, result: dict[str, Any]) -> None:
        training = result["training"]
        # what an earlier sitting trained may be scored in this one
        if self.first is None and training["ended"] > self.began:
            self.first = training["ended"] - self.began
        self.scoring += result["score_seconds"]
        seen = self._slots.setdefault(result["slot"], [])
        if seen and seen[-1]["trial"] != result["trial"]:
            freed = [at for at in self._free if at <= training["began"] + 5]
            if freed:
                self.gaps.append(max(0.0, training["began"] - freed[-1]))
        seen.append({"trial": result["trial"], **training["clock"]})

    def ended(self) -> None:
        self._free.append(time.time())

    def overheads(self) -> dict[str, Any]:
        """Seconds to the first epoch, median gap between trials, and shares of time after the first epoch."""
        spans = [(s[0], s[-1]) for s in self._slots.values() if len(s) > 1]
        wall = sum(last["now"] - first["now"] for first, last in spans)
        steps = sum(last["steps"] - first["steps"] for first, last in spans)
        waits = sum(last["waits"] - first["waits"] for first, last in spans)
        return {
            "seconds": time.time() - self.began,
            "seconds_to_first_epoch": self.first,
            "median_gap_seconds": median(self.gaps) if self.gaps else None,
            "gaps": len(self.gaps),
            "step_share": steps / wall if wall else None,
            "data_share": waits / wall if wall else None,
            "evaluator_share": self.scoring / wall if wall else None,
        }


class Board:
    """TensorBoard event files in `<study>/tensorboard/`, where the study lies on a local disk."""

    def __init__(self, uri: str) -> None:
        self._folder = None if "://" in uri else Path(uri) / "tensorboard"
        self._writers: dict[int, Any] = {}

    def epoch(self, number: int, epoch: int, values: dict[str, float]) -> None:
        if self._folder is None:
            return
        if number not in self._writers:
            from tensorboardX import SummaryWriter

            self._writers[number] = SummaryWriter(str(self._folder / f"trial-{number:04d}"), write_to_disk=True)
        for name, value in values.items():
            self._writers[number].add_scalar(name if "/" in name else f"train/{name}", value, epoch)
        self._writers[number].flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
