"""Callbacks of a search: event log and TensorBoard (`StudyCallback`), progress lines and live table (`ProgressReporter`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.text import Text

from raymix.reporting import text_tables
from raymix.runtime import ray_cluster
from raymix.runtime.startup_progress import StartupPhase
from raymix.search.time_left import TimeLeftEstimator, expected_survival, format_duration
from raymix.tracking import checkpoint
from raymix.tracking.event_log import EventLog
from raymix.tracking.study import StudyState, TrialRecord, apply_event

MAX_SHOWN_TRIALS = 12  # trials in the live table

WORKERS_PHASE = "starting workers"  # the phase that the first trial ends

TABLE_HEADER = ["trial", "state", "epoch", "score", "shuf", "best"]


class ProgressReporter:
    """Fed by the callback; `close` leaves the last table on the screen.

    Args:
        study: the state replayed from the event log before the search continues.
        epochs: of a trial that is not stopped.
        live: a table that is redrawn, or plain lines; None: by whether standard output is a terminal.
        expected: the share of trials expected to train each epoch (see `time_left.expected_survival`); None: all train all.
    """

    def __init__(
        self, study: StudyState, epochs: int, live: bool | None = None, expected: Sequence[float] | None = None
    ) -> None:
        self.name, self.epochs, self.planned = study.name, epochs, study.expected
        self.mode, self.objective = study.mode, study.objective
        self.rows: dict[int, TrialRecord] = dict(study.trials)
        self.began = time.time()
        self.left = TimeLeftEstimator(study.expected, expected or expected_survival("fifo", epochs, 1, 2))
        self.console = Console(file=sys.stdout, soft_wrap=True)
        self._live: Live | None = None
        self._phase: StartupPhase | None = None
        if live if live is not None else self.console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=1)
            self._live.start()

    def phase(self, name: str) -> None:
        """Say that this part of the start runs now, until the next one begins or the first epoch was scored."""
        self._end_phase()
        self._phase = StartupPhase(name, live=False)
        if self._live:
            self._live.refresh()
        else:
            self._phase.__enter__()

    def _end_phase(self) -> None:
        if self._phase:
            self._phase.__exit__(None, None, None)
        self._phase = None

    def say(self, line: str) -> None:
        if self._live:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def limit(self, trials: int, why: str) -> None:
        """The study will have fewer trials than planned."""
        self.planned = self.left.planned = trials
        self.say(why)

    def started(self, number: int, params: dict[str, Any]) -> None:
        self.rows.setdefault(number, TrialRecord(number, self.objective, self.mode, params=params))
        if self._phase and self._phase.name == WORKERS_PHASE:
            self.phase("first epoch")
        self._show(f"trial {number}: {format_params(params)}")

    def scored(self, row: TrialRecord) -> None:
        self._end_phase()
        self.rows[row.number] = row
        epoch = row.last_epoch
        self.left.scored(row.epochs[epoch].seconds, len(self._running()))
        score, shuffled = row.scores.get(epoch), row.values(self.objective + "_shuffled").get(epoch)
        control = f" (shuffled {shuffled:.3f})" if shuffled is not None else ""
        self._show(
            f"trial {row.number}: epoch {epoch}/{self.epochs} {self.objective} {score:.3f}{control}; {self._status()}"
        )

    def ended(self, row: TrialRecord) -> None:
        self.rows[row.number] = row
        score = f", best {row.score:.3f}" if row.score is not None else ""
        self._show(f"trial {row.number}: {row.state}{f' ({row.reason})' if row.reason else ''}{score}")

    def close(self) -> None:
        self._end_phase()
        if self._live:
            self._live.refresh()
            self._live.stop()

    def _show(self, line: str) -> None:
        if self._live:
            self._live.refresh()
        else:
            print(line, flush=True)

    def _running(self) -> list[TrialRecord]:
        return [row for row in self.rows.values() if row.state == "running"]

    def _best(self) -> float | None:
        scores = [row.score for row in self.rows.values() if row.score is not None and row.state != "failed"]
        return (max(scores) if self.mode == "max" else min(scores)) if scores else None

    def _status(self) -> str:
        best, done = self._best(), len(self.rows) - len(self._running())
        text = f"{done}/{self.planned} trials" + (f", best {best:.3f}" if best is not None else "")
        left = self.left.seconds(self.rows.values()) if done < self.planned else None
        return text + (f", about {format_duration(left)} left" if left is not None else "")

    def _table(self) -> Text:
        """Study, objective, time and one line for each of the trials that run or ended last, as wide as the terminal."""
        width = self.console.width
        order = sorted(self.rows.values(), key=lambda row: (row.state != "running", -row.number))[:MAX_SHOWN_TRIALS]
        names = list(dict.fromkeys(name for row in order for name in row.params))
        fitted = text_tables.fit_table(
            [*TABLE_HEADER, *names],
            [self._cells(row, names) for row in order],
            width,
            len(TABLE_HEADER),
            more=f"; python -m raymix.leaderboard {self.name} shows all",
        )
        title = f"{self.name}: {self._status()}, {format_duration(time.time() - self.began)} so far; {self.objective} ({self.mode})"
        phase = [f"{self._phase}"] if self._phase else []
        return Text(
            "\n".join([*text_tables.wrap_text(title, width), *phase, *fitted.lines, *fitted.notes]), no_wrap=True
        )

    def _cells(self, row: TrialRecord, names: Sequence[str]) -> list[str]:
        last = row.last_epoch
        scores = [row.scores.get(last), row.values(self.objective + "_shuffled").get(last), row.score]
        shown = ["" if value is None else f"{value:.3f}" for value in scores]
        state = {"running": "run", "completed": "done"}.get(row.state, row.state)
        values = [text_tables.format_number(row.params.get(name)) for name in names]
        return [str(row.number), state, f"{last}/{self.epochs}", *shown, *values]


def format_params(params: dict[str, Any]) -> str:
    """Parameters by the last part of their names, numbers short."""
    return " ".join(f"{name.rsplit('.', 1)[-1]}={text_tables.format_number(value)}" for name, value in params.items())


class StudyCallback(tune.Callback):
    """Tune's callback in the driver: the one writer of the event log while the study runs."""

    def __init__(
        self, event_log: EventLog, uri: str, study: StudyState, keep: int, reporter: ProgressReporter, began: float
    ) -> None:
        self.event_log, self.uri, self.keep, self.reporter = event_log, uri.rstrip("/"), keep, reporter
        self.study = study
        self.clocks = OverheadClocks(began)
        self.board = TensorBoardWriter(self.uri)
        self.referenced: Callable[[], Collection[str]] = frozenset  # checkpoints that must stay for now
        self._deleted: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a file that raymix never reads

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        ray_cluster.raise_if_interrupted()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, params = trial.config["trial"], trial.config["params"]
        self._write("trial_started", trial=number, params=params)
        self.reporter.started(number, params)

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
            "epoch_scored",
            trial=number,
            epoch=epoch,
            metrics=result["metrics"],
            training=result["training"],
            checkpoint=result["checkpoint"],
            seconds=result["training"]["ended"] - result["training"]["began"],
            score_seconds=result["score_seconds"],
            outcomes=self._outcomes(result.get("outcomes")),
        )
        self.clocks.epoch(result)
        self.board.epoch(number, epoch, {**result["metrics"], **result["training"]["train"]})
        self._tidy(self.referenced())
        self.reporter.scored(self.study.trials[number])

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
        self.reporter.ended(self.study.trials[number])

    def exhausted(self, trials: int, points: int, unreachable: list[int]) -> None:
        """The search space has no further point: the study will have `trials` trials; `unreachable` numbers get none."""
        self._write("exhausted", trials=trials, points=points)
        for number in unreachable:
            self._write("trial_ended", trial=number, state="failed", reason="the search space has no further point")
        self.reporter.limit(self.study.expected, self.study.exhaustion)

    def _write(self, kind: str, **record: Any) -> None:
        apply_event(self.study, self.event_log.append(kind, record))

    def _tidy(self, referenced: Collection[str] = ()) -> None:
        for path in checkpoint.checkpoints_to_delete(self.study.trials.values(), self.keep, referenced=referenced):
            if path not in self._deleted:
                checkpoint.delete_checkpoint(f"{self.uri}/{path}")
                self._deleted.add(path)

    def close(self, stopped: str = "") -> dict[str, Any]:
        """The overheads of this driver run, which are also appended to the event log; no trial is running any more."""
        self._tidy()
        self.board.close()
        found = self.clocks.overheads()
        self._write("overheads", **found, stopped=stopped)
        return found


class OverheadClocks:
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
        # an epoch trained in an earlier driver run may be scored in this one
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


class TensorBoardWriter:
    """TensorBoard event files in `<study>/tensorboard/`, where the study is on a local disk."""

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
