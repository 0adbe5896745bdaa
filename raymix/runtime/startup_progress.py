"""Progress of the start of a search: a status line on a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

EVERY = 10.0  # seconds between two lines where standard output is no terminal


class StartupPhase:
    """Shown from `with` to its end, with the seconds so far; `say` prints a line meanwhile.

    Args:
        name: what is being done, such as "starting Ray".
        live: a status line that is redrawn and goes at the end, or plain lines; None: by whether standard output is a
            terminal.
    """

    def __init__(self, name: str, live: bool | None = None) -> None:
        self.name = name
        self._began = time.monotonic()
        self._over = threading.Event()
        console = Console(file=sys.stdout, soft_wrap=True)
        self._live: Live | None = None
        if live if live is not None else console.is_terminal:
            self._live = Live(
                get_renderable=lambda: Text(str(self), no_wrap=True),
                console=console,
                refresh_per_second=2,
                transient=True,
            )

    def __str__(self) -> str:
        return f"{self.name}: {time.monotonic() - self._began:.0f} s"

    def say(self, line: str) -> None:
        if self._live:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def __enter__(self) -> StartupPhase:
        if self._live:
            self._live.start()
        else:
            self.say(f"{self.name} ...")
            threading.Thread(target=self._repeat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._live:
            self._live.stop()

    def _repeat(self) -> None:
        while not self._over.wait(EVERY):
            self.say(str(self))
