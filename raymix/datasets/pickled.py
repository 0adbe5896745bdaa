"""Masks out of the pickles of strangers, without running what is in them: VGGSound-Instruments' (section 4.2).

A pickle is a programme: it may name any function of this machine and call it, or change what it holds. Here its
instructions work on stand-ins (`raymix.datasets.pickle_reader`), which keep what they were given and do nothing with it.
Only the one array that is the mask is made in the end, of a type and a size that were looked at before.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymix.datasets.pickle_reader import PLAIN, Pairs, Reader, StandIn
from raymix.datasets.source import Unusable

LARGEST = 1 << 27  # bytes of a file
PIXELS = 1 << 26  # of a mask

_KIND = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_PACKAGES = ("numpy.core", "numpy._core")  # before numpy 2 and since


@dataclass(slots=True)
class _Kind(StandIn):
    """Stands for a dtype: its code, and the byte order that its state gives."""

    code: Any
    order: str = "="

    def build(self, state: Any) -> None:
        """Take (version, byte order, ...)."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("no state of a dtype")
        self.order = state[1].replace("|", "=")

    @property
    def real(self) -> np.dtype | None:
        """The dtype of plain numbers that it says, None for any other."""
        if not isinstance(self.code, str) or not _KIND.fullmatch(self.code):
            return None
        return np.dtype(self.order + self.code.lstrip("<>|="))


@dataclass(slots=True)
class _Array(StandIn):
    """Stands for an array: what its state says of it."""

    kind: Any = None
    shape: Any = None
    content: Any = None
    order: str = "C"

    def build(self, state: Any) -> None:
        """Take (version, shape, kind, whether columns come first, bytes)."""
        _, self.shape, self.kind, fortran, self.content = state
        self.order = "F" if fortran else "C"

    @property
    def flat(self) -> bool:
        """Whether it is a picture of plain numbers."""
        two = isinstance(self.shape, tuple) and len(self.shape) == 2 and all(map(_size, self.shape))
        return two and isinstance(self.kind, _Kind) and self.kind.real is not None

    def mask(self) -> np.ndarray:
        """Where it is marked; Unusable where it is larger than any mask, or its bytes are not as many as it says."""
        kind, content, pixels = self.kind.real, self.content, math.prod(self.shape)
        _small(pixels)
        if isinstance(content, str):  # of Python 2, or of protocol 2
            content = content.encode("latin1", "ignore")
        if not isinstance(content, bytes | bytearray) or len(content) != pixels * kind.itemsize:
            raise Unusable("corrupt", f"pickle not read: an array of {pixels} pixels without their bytes")
        found_YX = np.frombuffer(content, kind).reshape(self.shape, order="F" if self.order == "F" else "C")
        return np.asarray(found_YX >= 0.5 if kind.kind == "f" else found_YX > 0)


class _Opaque(StandIn):
    """Stands for a number of numpy's, which is no mask."""

    __slots__ = ()


def _rebuilt(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _ndarray:
        raise pickle.UnpicklingError(f"asks for an array of another type; {PLAIN}")
    return _Array()


def _from_bytes(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """What protocol 5 says of an array; `order` is "C" or "F"."""
    return _Array(kind, shape, content, order)


def _ndarray(*given: Any) -> Any:
    """Stands for numpy.ndarray, which a pickle may name, never call."""
    raise pickle.UnpicklingError(f"asks for an array without content; {PLAIN}")


def _text(text: Any, encoding: Any) -> str:
    """How protocol 2 writes bytes: they stay text until they are needed, read as Latin-1 whatever is named."""
    if not isinstance(text, str):
        raise ValueError("no text")
    return text


def _bytes(content: Any, encoding: Any = "latin1") -> Any:
    """What a bytearray is made of; a number would ask for so many bytes."""
    if not isinstance(content, bytes | bytearray | str):
        raise pickle.UnpicklingError(f"asks for empty bytes; {PLAIN}")
    return content


KNOWN: dict[str, Callable[..., Any]] = {
    "numpy ndarray": _ndarray,
    "numpy dtype": lambda code, *flags: _Kind(code),
    "_codecs encode": _text,
    "builtins bytearray": _bytes,
    "__builtin__ bytearray": _bytes,
    "collections OrderedDict": lambda: Pairs(),
}
for _package in _PACKAGES:
    KNOWN |= {
        f"{_package}.multiarray _reconstruct": _rebuilt,
        f"{_package}.multiarray scalar": lambda kind, content: _Opaque(),
        f"{_package}.numeric _frombuffer": _from_bytes,
    }


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= PIXELS


def _small(pixels: int) -> None:
    if pixels > PIXELS:
        raise Unusable("corrupt", f"mask: {pixels} pixels in the pickle, more than {PIXELS}")


def mask(content: bytes) -> np.ndarray:
    """The mask in a pickle of any protocol, bool YX: a 2-D array of numbers, or the one such array in a list, tuple or dict.

    Lists of lists of plain numbers are such an array. Raises Unusable in one line for everything else.
    """
    fits(len(content))
    try:
        found = _masks(Reader(content, KNOWN).read())
    except pickle.UnpicklingError as error:
        raise Unusable("corrupt", f"pickle not read: {' '.join(str(error).split())[:150]}") from error
    except Unusable:
        raise
    except Exception as error:  # whatever stands there, in whatever order
        raise Unusable("corrupt", f"pickle not read: {type(error).__name__}, broken or cut short") from error
    if len(found) != 1:
        raise Unusable("corrupt", f"mask: {len(found)} two-dimensional arrays of numbers in the pickle, not one")
    mask_YX = found[0].mask() if isinstance(found[0], _Array) else found[0]
    if not mask_YX.any():
        raise Unusable("corrupt", f"mask: nothing is marked on its {mask_YX.shape[1]}x{mask_YX.shape[0]} pixels")
    return mask_YX


def fits(size_bytes: int) -> None:
    """Unusable where a file is larger than the pickle of any mask: known before it is read."""
    if size_bytes > LARGEST:
        raise Unusable("corrupt", f"pickle not read: {size_bytes} bytes, more than {LARGEST}")


def _masks(found: Any) -> list[Any]:
    """The flat arrays in what was read, one level deep."""
    if type(found) is list and found and all(type(row) is list for row in found):
        return _of_lists(found)
    inside = found if isinstance(found, list | tuple) else [found]
    return [each for each in inside if isinstance(each, _Array) and each.flat]


def _of_lists(rows: list[list[Any]]) -> list[np.ndarray]:
    """The one array that lists of plain numbers are; rows may be the same list again and again."""
    if len({len(row) for row in rows}) != 1:
        return []
    _small(len(rows) * len(rows[0]))
    own = {id(row): row for row in rows}
    if not all(type(value) in (bool, int, float) for row in own.values() for value in row):
        return []
    made = {key: bytes(value >= 0.5 for value in row) for key, row in own.items()}
    return [np.frombuffer(b"".join(made[id(row)] for row in rows), bool).reshape(len(rows), len(rows[0]))]
