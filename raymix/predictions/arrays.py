"""The arrays of an NPZ file, which may be larger than the memory: read row by row, and no pickle is ever loaded."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

BUFFER = 1 << 20  # bytes of one read


def opened(uri: str, file: Any) -> zipfile.ZipFile:
    """The archive in a file; ValueError where it is none."""
    try:
        return zipfile.ZipFile(io.BufferedReader(file, BUFFER))
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{uri}: cannot be read ({str(error).splitlines()[0]})") from error


class Array:
    """An array of an NPZ file: its shape and type now, its rows when they are asked for, some at a time."""

    def __init__(self, uri: str, archive: zipfile.ZipFile, name: str) -> None:
        self._uri, self._archive, self._name = uri, archive, name
        with self._reading() as stream:
            self.shape, self._fortran, self.dtype = self._head(stream)
        self.ndim = len(self.shape)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """The file of the array; no pickle is loaded."""
        try:
            with self._archive.open(f"{self._name}.npy") as stream:
                yield stream
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self._uri}: cannot be read ({str(error).splitlines()[0]})") from error

    def _head(self, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError(f"{self._name}: object arrays are pickles, which are not loaded")
        return shape, fortran, dtype

    def whole(self) -> np.ndarray:
        """All of it."""
        with self._reading() as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    def rows(self, many: int) -> Iterator[np.ndarray]:
        """One row after the other, `many` of them in memory; of an array in the order of columns all, for none stands alone."""
        if self._fortran:
            yield from self.whole()
            return
        with self._reading() as stream:
            self._head(stream)
            for start in range(0, self.shape[0], many):
                shape = (min(many, self.shape[0] - start), *self.shape[1:])
                size = math.prod(shape) * self.dtype.itemsize
                if len(data := stream.read(size)) < size:
                    raise ValueError(f"{self._name} ends before its row {start + shape[0]} does")
                some = np.frombuffer(data, self.dtype).reshape(shape)
                yield from some
