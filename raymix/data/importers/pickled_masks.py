"""Masks in published pickles, read by an interpreter of a few opcodes: Python's unpickler is never run (section 4.2).

What they make is lists, tuples, texts, bytes and numbers, pairs where a dictionary stands, and whatever the functions give
that may be named. No other function can be reached, nothing is looked up by its name, and nothing is ever hashed, copied or
made larger than the pickle itself.

A pickle is a programme: it may name any function of this machine and call it, or change what it holds. Here its
instructions work on stand-ins (`raymix.data.importers.pickled_masks`), which keep what they were given and do nothing with it.
Only the one array that is the mask is made in the end, of a type and a size that were looked at before.
"""

from __future__ import annotations

import codecs
import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymix.data.media import UnusableMediaError

MAX_STEPS = 1 << 22  # instructions; a mask as lists of numbers has one or two a pixel

MAX_DEPTH = 4  # arguments of a function

PLAIN = "only numpy arrays and plain containers are read"


_CODES = {code.code: code for code in pickletools.opcodes}


class PickledObject:
    """Something that a pickle may make and then give a state."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Take the state, whatever it is."""
        raise pickle.UnpicklingError(f"changes what is no array; {PLAIN}")


class PickledDict(list[Any]):
    """Stands for a dictionary: its values, one after another."""

    __slots__ = ()


class PickleReader:
    """Follows the instructions of one pickle; `known` are the functions that it may name, as "module name"."""

    def __init__(self, content: bytes, known: Mapping[str, Callable[..., Any]]) -> None:
        self.stream, self.known = io.BytesIO(content), known
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """What the pickle holds; UnpicklingError for what is not read, any error where it is broken."""
        for step, (name, given) in enumerate(self._instructions()):
            if step > MAX_STEPS:
                raise pickle.UnpicklingError(f"more than {MAX_STEPS} instructions; {PLAIN}")
            if name == "STOP":
                return self.stack.pop()
            if name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in VALUE_OPCODES:
                self.stack.append(given)
            elif name.endswith("GET"):
                self.stack.append(self.memo[given])
            elif name in OPCODE_HANDLERS:
                OPCODE_HANDLERS[name](self, given)
            else:
                raise pickle.UnpicklingError(f"holds the instruction {name}; {PLAIN}")
        raise EOFError

    def _instructions(self) -> Iterator[tuple[str, Any]]:
        """Name and operand of each, as `pickletools.genops`, which takes strings of Python 2 for ASCII."""
        while True:
            code = _CODES[self.stream.read(1).decode("latin1")]
            given = None
            if code.name == "STRING":
                raw = pickletools.read_stringnl(self.stream, decode=False)
                given = codecs.escape_decode(raw)[0].decode("latin1")
            elif code.arg is not None:
                given = code.arg.reader(self.stream)
            yield code.name, given

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What came since the last mark, taken off."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def top(self, kind: type) -> Any:
        """The uppermost, which must be of this kind and no other."""
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__}")
        return self.stack[-1]

    def take(self, count: int) -> None:
        """A tuple of the uppermost ones."""
        if len(self.stack) < count:
            raise ValueError("too few")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def put(self, place: int | None) -> None:
        place = len(self.memo) if place is None else place
        if not 0 <= place <= MAX_STEPS:
            raise ValueError("no place")
        self.memo[place] = self.stack[-1]

    def name(self, asked: str) -> None:
        if asked not in self.known:
            raise pickle.UnpicklingError(f"asks for {asked.replace(' ', '.')}; {PLAIN}")
        self.stack.append(self.known[asked])

    def named(self, _: Any) -> None:
        names = [self.stack.pop(), self.stack.pop()]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("no name")
        self.name(f"{names[1]} {names[0]}")

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not any(function is known for known in self.known.values()):
            raise pickle.UnpicklingError(f"calls what is no function; {PLAIN}")
        if type(arguments) is not tuple or len(arguments) > MAX_DEPTH:
            raise ValueError("no arguments")
        self.stack.append(function(*arguments))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], PickledObject):
            raise pickle.UnpicklingError(f"changes what is no array; {PLAIN}")
        self.stack[-1].build(state)

    def push(self, made: Callable[[list[Any]], Any]) -> None:
        """What is made of all that came since the last mark."""
        found = made(self.marked())
        self.stack.append(found)

    def append(self, more: list[Any]) -> None:
        self.top(list).extend(more)

    def pairs(self, more: list[Any]) -> None:
        self.top(PickledDict).extend(more[1::2])


CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}

VALUE_OPCODES = frozenset(
    (
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    )
)

OPCODE_HANDLERS: dict[str, Callable[[PickleReader, Any], None]] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "MARK": PickleReader.mark,
    "EMPTY_LIST": lambda reader, _: reader.stack.append([]),
    "EMPTY_TUPLE": lambda reader, _: reader.stack.append(()),
    "EMPTY_DICT": lambda reader, _: reader.stack.append(PickledDict()),
    "LIST": lambda reader, _: reader.push(list),
    "TUPLE": lambda reader, _: reader.push(tuple),
    "DICT": lambda reader, _: reader.push(lambda found: PickledDict(found[1::2])),
    "TUPLE1": lambda reader, _: reader.take(1),
    "TUPLE2": lambda reader, _: reader.take(2),
    "TUPLE3": lambda reader, _: reader.take(3),
    "APPEND": lambda reader, _: reader.append([reader.stack.pop()]),
    "APPENDS": lambda reader, _: reader.append(reader.marked()),
    "SETITEM": lambda reader, _: reader.pairs([reader.stack.pop(-2), reader.stack.pop()]),
    "SETITEMS": lambda reader, _: reader.pairs(reader.marked()),
    "PUT": PickleReader.put,
    "BINPUT": PickleReader.put,
    "LONG_BINPUT": PickleReader.put,
    "MEMOIZE": PickleReader.put,
    "GLOBAL": PickleReader.name,
    "STACK_GLOBAL": PickleReader.named,
    "REDUCE": PickleReader.call,
    "BUILD": PickleReader.build,
}


MAX_PICKLE_BYTES = 1 << 27  # bytes of a file

MAX_PIXELS = 1 << 26  # of a mask


_KIND = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")

_PACKAGES = ("numpy.core", "numpy._core")  # before numpy 2 and since


@dataclass(slots=True)
class _Kind(PickledObject):
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
class _Array(PickledObject):
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
            raise UnusableMediaError("corrupt", f"pickle not read: an array of {pixels} pixels without their bytes")
        found_YX = np.frombuffer(content, kind).reshape(self.shape, order="F" if self.order == "F" else "C")
        return np.asarray(found_YX >= 0.5 if kind.kind == "f" else found_YX > 0)


class _Opaque(PickledObject):
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


ALLOWED_GLOBALS: dict[str, Callable[..., Any]] = {
    "numpy ndarray": _ndarray,
    "numpy dtype": lambda code, *flags: _Kind(code),
    "_codecs encode": _text,
    "builtins bytearray": _bytes,
    "__builtin__ bytearray": _bytes,
    "collections OrderedDict": lambda: PickledDict(),
}

for _package in _PACKAGES:
    ALLOWED_GLOBALS |= {
        f"{_package}.multiarray _reconstruct": _rebuilt,
        f"{_package}.multiarray scalar": lambda kind, content: _Opaque(),
        f"{_package}.numeric _frombuffer": _from_bytes,
    }


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_PIXELS


def _small(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise UnusableMediaError("corrupt", f"mask: {pixels} pixels in the pickle, more than {MAX_PIXELS}")


def read_pickled_mask(content: bytes) -> np.ndarray:
    """The mask in a pickle of any protocol, bool YX: a 2-D array of numbers, or the one such array in a list, tuple or dict.

    Lists of lists of plain numbers are such an array. Raises Unusable in one line for everything else.
    """
    check_pickle_size(len(content))
    try:
        found = _masks(PickleReader(content, ALLOWED_GLOBALS).read())
    except pickle.UnpicklingError as error:
        raise UnusableMediaError("corrupt", f"pickle not read: {' '.join(str(error).split())[:150]}") from error
    except UnusableMediaError:
        raise
    except Exception as error:  # whatever stands there, in whatever order
        raise UnusableMediaError("corrupt", f"pickle not read: {type(error).__name__}, broken or cut short") from error
    if len(found) != 1:
        raise UnusableMediaError(
            "corrupt", f"mask: {len(found)} two-dimensional arrays of numbers in the pickle, not one"
        )
    mask_YX = found[0].mask() if isinstance(found[0], _Array) else found[0]
    if not mask_YX.any():
        raise UnusableMediaError(
            "corrupt", f"mask: nothing is marked on its {mask_YX.shape[1]}x{mask_YX.shape[0]} pixels"
        )
    return mask_YX


def check_pickle_size(size_bytes: int) -> None:
    """Unusable where a file is larger than the pickle of any mask: known before it is read."""
    if size_bytes > MAX_PICKLE_BYTES:
        raise UnusableMediaError("corrupt", f"pickle not read: {size_bytes} bytes, more than {MAX_PICKLE_BYTES}")


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
