"""A network in an ONNX file that answers as YuNet does, written by hand: a stand-in for weights that no package holds.

It finds, wherever a cell of 32 by 32 pixels is red, a face of 64 by 96 around the middle of the cell.
"""

from __future__ import annotations

import math
import struct

import numpy as np

STRIDES = (8, 16, 32)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def _message(*fields: tuple[int, int | str | bytes | float]) -> bytes:
    """A protocol buffer of (field number, value)."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        elif isinstance(value, float):
            out += _varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _node(kind: str, into: list[str], out: str, **ints: list[int]) -> tuple[int, bytes]:
    attributes = [(5, _message((1, name), *((8, v) for v in values), (20, 7))) for name, values in ints.items()]
    return 1, _message(*((1, name) for name in into), (2, out), (3, f"make {out}"), (4, kind), *attributes)


def _tensor(name: str, array: np.ndarray) -> tuple[int, bytes]:
    kind = 7 if array.dtype == np.int64 else 1
    return 5, _message(*((1, size) for size in array.shape), (2, kind), (8, name), (9, array.tobytes()))


def _value(number: int, name: str, shape: tuple[int, ...]) -> tuple[int, bytes]:
    dims = _message(*((1, _message((1, size))) for size in shape))
    return number, _message((1, name), (2, _message((1, _message((1, 1), (2, dims))))))


def yunet() -> bytes:
    """The content of the file."""
    fields: list[tuple[int, bytes]] = []
    for stride in STRIDES:
        weights = {name: np.zeros((channels, 3, stride, stride), np.float32) for name, channels in HEADS.items()}
        for name in ("cls", "obj") if stride == 32 else ():
            weights[name][0, 2] = 1 / (255 * stride**2)  # it reads blue, green, red
            weights[name][0, 0] = -1 / (255 * stride**2)
        for name, channels in HEADS.items():
            bias = np.array([0.5, 0.5, math.log(2), math.log(3)] if name == "bbox" else [0.0] * channels, np.float32)
            of = f"{name}_{stride}"
            fields += [
                _tensor(f"w {of}", weights[name]),
                _tensor(f"b {of}", bias),
                _tensor(f"s {of}", np.array([1, -1, channels])),
            ]
            conv = _node(
                "Conv", ["input", f"w {of}", f"b {of}"], f"c {of}", kernel_shape=[stride] * 2, strides=[stride] * 2
            )
            turn = _node("Transpose", [f"c {of}"], f"t {of}", perm=[0, 2, 3, 1])
            fields += [conv, turn, _node("Reshape", [f"t {of}", f"s {of}"], of), _value(12, of, (1, 1, channels))]
    graph = _message((2, "faces"), _value(11, "input", (1, 3, 64, 64)), *fields)
    return _message((1, 8), (7, graph), (8, _message((1, ""), (2, 13))))


HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
