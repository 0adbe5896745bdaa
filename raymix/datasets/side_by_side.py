"""Units of work by several processes of this machine, a source at a time, so that all have work to the end."""

from __future__ import annotations

import operator
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from raymix import crew
from raymix.config import Dataset
from raymix.datasets import shards, spool
from raymix.datasets.source import Source

# What every process would spend its first seconds on; pandas, since pyarrow imports it where it is there.
MODULES = ("torch", "pandas", "raymix.spectrogram", "raymix.engine", "raymix.datasets.shards")
Tell = Callable[[int, bool], None]  # clips of a source, and whether it was read just now


@dataclass(frozen=True)
class _Read:
    """For a process: read one source of a unit."""

    settings: Dataset
    folder: str
    unit: str
    stem: str
    number: int
    source: Source

    def __call__(self) -> tuple[str, dict[str, Any]]:
        return self.unit, spool.fill(self.settings, self.source, self.folder, self.stem, self.number)


@dataclass(frozen=True)
class _Write:
    """For a process: write the shards of a unit whose sources are all read."""

    settings: Dataset
    folder: str
    unit: shards.Unit
    preprocessing: str

    def __call__(self) -> tuple[None, dict[str, Any]]:
        return None, shards.assemble(self.settings, self.unit, self.preprocessing, self.folder)


def over(
    settings: Dataset, todo: list[shards.Unit], preprocessing: str, workers: int, tell: Tell
) -> Iterator[dict[str, Any]]:
    """The records of the units, in the order in which they end; sources that an earlier run has read are not read again."""
    left, queue = Counter[str](), deque[_Read | _Write]()
    with spool.place(settings) as folder:
        writing = {unit.name: _Write(settings, folder, unit, preprocessing) for unit in todo}
        for unit in todo:
            for number, source in enumerate(unit.sources):
                found = spool.refusal(source) or spool.record(spool.path(folder, unit.stem, number))
                if found is None:
                    left[unit.name] += 1
                    queue.append(_Read(settings, folder, unit.name, unit.stem, number, source))
                else:
                    tell(found["entry"]["clips"], False)
            if not left[unit.name]:
                queue.append(writing[unit.name])
        for name, record in crew.over(queue, operator.call, workers, MODULES):
            if name is None:
                yield record
                continue
            tell(record["entry"]["clips"], True)
            left[name] -= 1
            if not left[name]:
                queue.appendleft(writing[name])
