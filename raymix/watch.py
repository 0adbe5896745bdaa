"""What a person sees while a search runs: one calm live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from raymix import columns
from raymix.phase import Phase
from raymix.remaining import TimeLeft, duration, survival
from raymix.study import Study, TrialRow

SHOWN = 12  # trials in the live table
WORKERS = "starting workers"  # the phase that the first trial ends
HEADER = ["trial", "state", "epoch", "score", "shuf", "best"]


class Watch:
    """Fed by the recorder; `close` leaves the last table on the screen.

    Args:
        study: what the ledger says before the search goes on.
        epochs: of a trial that is not stopped.
        live: a table that is redrawn, or plain lines; None: by whether standard output is a terminal.
        expected: the share of trials expected to train each epoch (see `remaining.survival`); None: all train all.
    """

    def __init__(
        self, study: Study, epochs: int, live: bool | None = None, expected: Sequence[float] | None = None
    ) -> None:
        self.name, self.epochs, self.planned = study.name, epochs, study.expected
        self.mode, self.objective = study.mode, study.objective
        self.rows: dict[int, TrialRow] = dict(study.trials)
        self.began = time.time()
        self.left = TimeLeft(study.expected, expected or survival("fifo", epochs, 1, 2))
        self.console = Console(file=sys.stdout, soft_wrap=True)
        self._live: Live | None = None
        self._phase: Phase | None = None
        if live if live is not None else self.console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=1)
            self._live.start()

    def phase(self, name: str) -> None:
        """Say that this part of the start runs now, until the next one begins or the first epoch was scored."""
        self._end_phase()
        self._phase = Phase(name, live=False)
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
        self.rows.setdefault(number, TrialRow(number, self.objective, self.mode, params=params))
        if self._phase and self._phase.name == WORKERS:
            self.phase("first epoch")
        self._show(f"trial {number}: {brief(params)}")

    def scored(self, row: TrialRow) -> None:
        self._end_phase()
        self.rows[row.number] = row
        epoch = row.last_epoch
        self.left.scored(row.epochs[epoch].seconds, len(self._running()))
        score, shuffled = row.scores.get(epoch), row.values(self.objective + "_shuffled").get(epoch)
        twin = f" (shuffled {shuffled:.3f})" if shuffled is not None else ""
        self._show(
            f"trial {row.number}: epoch {epoch}/{self.epochs} {self.objective} {score:.3f}{twin}; {self._status()}"
        )

    def ended(self, row: TrialRow) -> None:
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

    def _running(self) -> list[TrialRow]:
        return [row for row in self.rows.values() if row.state == "running"]

    def _best(self) -> float | None:
        scores = [row.score for row in self.rows.values() if row.score is not None and row.state != "failed"]
        return (max(scores) if self.mode == "max" else min(scores)) if scores else None

    def _status(self) -> str:
        best, done = self._best(), len(self.rows) - len(self._running())
        text = f"{done}/{self.planned} trials" + (f", best {best:.3f}" if best is not None else "")
        left = self.left.seconds(self.rows.values()) if done < self.planned else None
        return text + (f", about {duration(left)} left" if left is not None else "")

    def _table(self) -> Text:
        """Study, objective, time and one line for each of the trials that run or ended last, as wide as the terminal."""
        width = self.console.width
        order = sorted(self.rows.values(), key=lambda row: (row.state != "running", -row.number))[:SHOWN]
        names = list(dict.fromkeys(name for row in order for name in row.params))
        fitted = columns.fit(
            [*HEADER, *names], [self._cells(row, names) for row in order], width, len(HEADER),
            more=f"; python -m raymix.leaderboard {self.name} shows all",
        )  # fmt: skip
        title = f"{self.name}: {self._status()}, {duration(time.time() - self.began)} so far; {self.objective} ({self.mode})"
        phase = [f"{self._phase}"] if self._phase else []
        return Text("\n".join([*columns.wrapped(title, width), *phase, *fitted.lines, *fitted.notes]), no_wrap=True)

    def _cells(self, row: TrialRow, names: Sequence[str]) -> list[str]:
        last = row.last_epoch
        scores = [row.scores.get(last), row.values(self.objective + "_shuffled").get(last), row.score]
        shown = ["" if value is None else f"{value:.3f}" for value in scores]
        state = {"running": "run", "completed": "done"}.get(row.state, row.state)
        values = [columns.number(row.params.get(name)) for name in names]
        return [str(row.number), state, f"{last}/{self.epochs}", *shown, *values]


def brief(params: dict[str, Any]) -> str:
    """Parameters by the last part of their names, numbers short."""
    return " ".join(f"{name.rsplit('.', 1)[-1]}={columns.number(value)}" for name, value in params.items())
