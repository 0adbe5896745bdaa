"""A long work with files: a line now and then, and an end to it where it is not one's own any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raymix import lock


class Progress:
    """A line now and then: files done, clips so far, seconds left. `lost`: by whom it was taken over, if it was."""

    def __init__(self, echo: Callable[[str], Any], lost: list[str]) -> None:
        self.echo, self.lost = echo, lost
        self.total = self.files = self.clips = 0
        self.said = time.monotonic()
        self.first: tuple[float, int] | None = None  # (when the first files were read, how many were done then)

    def begin(self, total: int, before: list[dict[str, Any]]) -> None:
        """`before`: the records of what an earlier run has done."""
        self.total, self.said = total, time.monotonic()
        self.files = sum(len(record["entries"]) for record in before)
        self.clips = sum(record["clips"] for record in before)
        goes_on = f", {self.files} of them done before" if before else ""
        self.echo(f"prepare: {total} files{goes_on}")

    def alone(self) -> None:
        """Taken where another one may have gone on with this dataset."""
        if self.lost:
            raise lock.Taken(self.lost[0], "what is done is kept, and the same command goes on")

    def add(self, files: int, clips: int, fresh: bool = True) -> None:
        """`fresh`: they were read just now, not by an earlier run."""
        self.alone()
        self.files += files
        self.clips += clips
        if not fresh:
            return
        now = time.monotonic()
        if self.first is None:  # what came before, the start of the processes too, says nothing of what is to come
            self.first = now, self.files
        if now - self.said >= 2 or self.files == self.total:
            since, count = now - self.first[0], self.files - self.first[1]
            left = f", {since / count * (self.total - self.files):.0f} s left" if count else ""
            self.echo(f"prepare: {self.files}/{self.total} files, {self.clips} clips{left}")
            self.said = now
