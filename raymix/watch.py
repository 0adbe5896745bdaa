"""What a person sees while a search runs: one calm live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raymix.study import Study, TrialRow

SHOWN = 12  # trials in the live table


class Watch:
    """Fed by the recorder; `close` leaves the last table on the screen."""

    def __init__(self, study: Study, epochs: int, live: bool | None = None) -> None:
        self.epochs, self.planned, self.mode, self.objective = epochs, study.planned, study.mode, study.objective
        self.rows: dict[int, TrialRow] = dict(study.trials)
        self.began, self._before = time.time(), self._done()
        self.console = Console(file=sys.stdout, soft_wrap=True)
        self._live: Live | None = None
        if live if live is not None else self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=2)
            self._live.start()

    def say(self, line: str) -> None:
        if self._live:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def started(self, number: int, params: dict[str, Any]) -> None:
        self.rows.setdefault(number, TrialRow(number, self.objective, self.mode, params=params))
        self._show(f"trial {number}: {brief(params)}")

    def scored(self, row: TrialRow) -> None:
        self.rows[row.number] = row
        epoch = row.last_epoch
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
        if self._live:
            self._live.update(self._table())
            self._live.stop()

    def _show(self, line: str) -> None:
        if self._live:
            self._live.update(self._table())
        else:
            print(line, flush=True)

    def _done(self) -> int:
        return sum(row.state != "running" for row in self.rows.values())

    def _best(self) -> float | None:
        scores = [row.score for row in self.rows.values() if row.score is not None and row.state != "failed"]
        return (max(scores) if self.mode == "max" else min(scores)) if scores else None

    def _status(self) -> str:
        best, done = self._best(), self._done()
        text = f"{done}/{self.planned} trials" + (f", best {best:.3f}" if best is not None else "")
        new, spent = done - self._before, time.time() - self.began
        return text + (f", about {spent / new * (self.planned - done) / 60:.0f} min left" if new else "")

    def _table(self) -> Table:
        table = Table(title=self._status(), box=None, header_style="bold", title_justify="left", title_style="")
        for name in ("trial", "state", "epoch", "score", "shuffled", "best", "values"):
            table.add_column(name, justify="left" if name in ("state", "values") else "right", overflow="ellipsis")
        order = sorted(self.rows.values(), key=lambda row: (row.state != "running", -row.number))
        for row in order[:SHOWN]:
            last = row.last_epoch
            cells = [row.scores.get(last), row.values(self.objective + "_shuffled").get(last), row.score]
            shown = ["" if value is None else f"{value:.3f}" for value in cells]
            table.add_row(str(row.number), row.state, f"{last}/{self.epochs}", *shown, brief(row.params))
        return table


def brief(params: dict[str, Any]) -> str:
    """Parameters by the last part of their names, numbers short."""
    return " ".join(
        f"{k.rsplit('.', 1)[-1]}={v:.3g}" if isinstance(v, float) else f"{k.rsplit('.', 1)[-1]}={v}"
        for k, v in params.items()
    )
