"""Files that were numbered in time, as pictures and pieces of sound are: which place each has, also where some are missing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from raymix.datasets.source import Unusable

TRAILING = re.compile(r"(?P<stem>(?:.*\D)?)(?P<number>\d+)(?:\.\w+)?")
WIDE = 1.5  # times the smallest step from number to number: more is a gap
OFF = 0.25  # so far from a whole number of steps a gap may be: numbers may be rounded times


@dataclass(frozen=True)
class Series:
    """The place of each file, in files after the first one, and what the first one is called, in files too."""

    places: tuple[int, ...]
    first: int = 0

    @staticmethod
    def of(paths: Sequence[str]) -> Series:
        """Places by the numbers that end the names, by the order where these have none; any step from name to name will do.

        Unusable where something is missing and the numbers have no step: who could say where the others belong?
        """
        matches = [TRAILING.fullmatch(path) for path in paths]
        numbers = [int(match["number"]) for match in matches if match]
        in_order = Series(tuple(range(len(paths))))
        if len(numbers) < len(paths) or len({match["stem"] for match in matches if match}) > 1 or len(paths) < 2:
            return in_order
        steps = [after - before for before, after in itertools.pairwise(numbers)]
        if min(steps) <= 0:  # 1.jpg and 01.jpg, 1.jpg and 1.png: their order is all there is
            return in_order
        single = [step for step in steps if step <= WIDE * min(steps)]
        usual = sum(single) / len(single)
        if any(abs(step / usual - round(step / usual)) > OFF for step in steps):
            shown = ", ".join(path.rpartition("/")[2] for path in paths[:4])
            raise Unusable("corrupt", f"the numbers of {shown} ... follow no step: nothing tells their times")
        return Series(tuple(round((number - numbers[0]) / usual) for number in numbers), round(numbers[0] / usual))

    def missing(self, position: int) -> int:
        """How many files are missing just before this one."""
        return self.places[position] - self.places[position - 1] - 1 if position else 0


def in_order(path: str) -> list[tuple[int, str]]:
    """Sorts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]
