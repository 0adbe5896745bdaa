"""Arrays out of the pickles of strangers, without running what is in them: the masks of VGGSound-Instruments (section 4.2).

A pickle is a programme: it may name any function of this machine and call it. Here it may name the few things that numpy
arrays and plain containers are made of; whatever else it asks for is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from raymix.datasets.source import Unusable

PLAIN = "only numpy arrays and plain containers are read"


class _Array:
    """Stands for numpy.ndarray, which a pickle may name, never call: a call could ask for any amount of memory."""


def _rebuilt(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """The empty array that a pickle then fills, whatever shape it asks for."""
    if kind is not _Array:
        raise pickle.UnpicklingError(f"asks for an array of another type; {PLAIN}")
    return np.ndarray((0,), np.int8)


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """What protocol 5 says of an array; `order` is "C" or "F"."""
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    return np.frombuffer(content, np.dtype(dtype), 1)[0]


def _bytes(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    return bytes(str(text), "latin1")


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
    ("builtins", "bytearray"): bytearray,
    ("collections", "OrderedDict"): OrderedDict,
}
for _package in ("numpy.core", "numpy._core"):  # before numpy 2 and since
    KNOWN |= {
        (f"{_package}.multiarray", "_reconstruct"): _rebuilt,
        (f"{_package}.multiarray", "scalar"): _scalar,
        (f"{_package}.numeric", "_frombuffer"): _from_bytes,
    }


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"asks for {module}.{name}; {PLAIN}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"asks for a thing outside itself; {PLAIN}")


def load(content: bytes) -> Any:
    """What a pickle holds, of any protocol and of Python 2 as well; Unusable in one line where it is no plain data."""
    try:
        return _Restricted(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise Unusable("corrupt", f"pickle not read: {' '.join(str(error).split())[:150]}") from error
    except Exception as error:  # its instructions run here, so it can raise anything
        raise Unusable("corrupt", f"pickle not read: {type(error).__name__}, broken or cut short") from error


def mask(content: bytes) -> np.ndarray:
    """The mask in a pickle, bool YX: a 2-D array of numbers, or the one such array in a list, tuple or dict."""
    found = [each for each in _arrays(load(content)) if each.ndim == 2 and each.dtype.kind in "biuf"]
    if len(found) != 1:
        raise Unusable("corrupt", f"mask: {len(found)} two-dimensional arrays of numbers in the pickle, not one")
    mask_YX = np.asarray(found[0] >= 0.5 if found[0].dtype.kind == "f" else found[0] > 0)
    if not mask_YX.any():
        raise Unusable("corrupt", f"mask: nothing is marked on its {mask_YX.shape[1]}x{mask_YX.shape[0]} pixels")
    return mask_YX


def _arrays(found: Any) -> list[np.ndarray]:
    if isinstance(found, np.ndarray):
        return [found]
    if isinstance(found, list) and found and all(isinstance(row, list) for row in found):
        return [np.asarray(found)] if len({len(row) for row in found}) == 1 else []
    inside = found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else ()
    return [each for each in inside if isinstance(each, np.ndarray)]
