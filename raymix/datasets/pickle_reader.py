"""The instructions of pickles that plain data are written with, followed one by one: nothing of Python's own unpickling runs.

What they make is lists, tuples, texts, bytes and numbers, pairs where a dictionary stands, and whatever the functions give
that may be named. No other function can be reached, nothing is looked up by its name, and nothing is ever hashed, copied or
made larger than the pickle itself.
"""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

STEPS = 1 << 22  # instructions; a mask as lists of numbers has one or two a pixel
MOST = 4  # arguments of a function
PLAIN = "only numpy arrays and plain containers are read"

_CODES = {code.code: code for code in pickletools.opcodes}


class StandIn:
    """Something that a pickle may make and then give a state."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Take the state, whatever it is."""
        raise pickle.UnpicklingError(f"changes what is no array; {PLAIN}")


class Pairs(list[Any]):
    """Stands for a dictionary: its values, one after another."""

    __slots__ = ()


class Reader:
    """Follows the instructions of one pickle; `known` are the functions that it may name, as "module name"."""

    def __init__(self, content: bytes, known: Mapping[str, Callable[..., Any]]) -> None:
        self.stream, self.known = io.BytesIO(content), known
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """What the pickle holds; UnpicklingError for what is not read, any error where it is broken."""
        for step, (name, given) in enumerate(self._instructions()):
            if step > STEPS:
                raise pickle.UnpicklingError(f"more than {STEPS} instructions; {PLAIN}")
            if name == "STOP":
                return self.stack.pop()
            if name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in GIVEN:
                self.stack.append(given)
            elif name.endswith("GET"):
                self.stack.append(self.memo[given])
            elif name in OWN:
                OWN[name](self, given)
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
        if not 0 <= place <= STEPS:
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
        if type(arguments) is not tuple or len(arguments) > MOST:
            raise ValueError("no arguments")
        self.stack.append(function(*arguments))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], StandIn):
            raise pickle.UnpicklingError(f"changes what is no array; {PLAIN}")
        self.stack[-1].build(state)

    def push(self, made: Callable[[list[Any]], Any]) -> None:
        """What is made of all that came since the last mark."""
        found = made(self.marked())
        self.stack.append(found)

    def append(self, more: list[Any]) -> None:
        self.top(list).extend(more)

    def pairs(self, more: list[Any]) -> None:
        self.top(Pairs).extend(more[1::2])


CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
GIVEN = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
))  # fmt: skip
OWN: dict[str, Callable[[Reader, Any], None]] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "MARK": Reader.mark,
    "EMPTY_LIST": lambda reader, _: reader.stack.append([]),
    "EMPTY_TUPLE": lambda reader, _: reader.stack.append(()),
    "EMPTY_DICT": lambda reader, _: reader.stack.append(Pairs()),
    "LIST": lambda reader, _: reader.push(list),
    "TUPLE": lambda reader, _: reader.push(tuple),
    "DICT": lambda reader, _: reader.push(lambda found: Pairs(found[1::2])),
    "TUPLE1": lambda reader, _: reader.take(1),
    "TUPLE2": lambda reader, _: reader.take(2),
    "TUPLE3": lambda reader, _: reader.take(3),
    "APPEND": lambda reader, _: reader.append([reader.stack.pop()]),
    "APPENDS": lambda reader, _: reader.append(reader.marked()),
    "SETITEM": lambda reader, _: reader.pairs([reader.stack.pop(-2), reader.stack.pop()]),
    "SETITEMS": lambda reader, _: reader.pairs(reader.marked()),
    "PUT": Reader.put,
    "BINPUT": Reader.put,
    "LONG_BINPUT": Reader.put,
    "MEMOIZE": Reader.put,
    "GLOBAL": Reader.name,
    "STACK_GLOBAL": Reader.named,
    "REDUCE": Reader.call,
    "BUILD": Reader.build,
}
