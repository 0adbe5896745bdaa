"""Memory for the pixels of some scenes, written on again by the next ones: fresh pages cost a third of what a sort does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

Empty = Callable[[str, tuple[int, ...], type[np.generic]], np.ndarray]
"""An array to be written on, by what it is for, its shape and its type."""


class Sheets:
    """Arrays by owner and use; whoever asks for one that was given out before takes it from the earlier holder."""

    def __init__(self) -> None:
        self._held: dict[tuple[Any, str], np.ndarray] = {}

    def of(self, owner: object) -> Empty:
        """The arrays of one owner, a kind of surface."""
        return partial(self._empty, owner)

    def _empty(self, owner: object, use: str, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
        held = self._held.get((owner, use))
        if held is None or held.size < prod(shape) or held.dtype != kind:
            held = self._held[owner, use] = np.empty(prod(shape), kind)
        return held[: prod(shape)].reshape(shape)
