"""Masks out of pickles: every way numpy wrote them is read, and nothing that a pickle asks for is run."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymix.datasets import pickled
from raymix.datasets.source import Unusable

MASK = np.arange(12).reshape(3, 4) % 5 == 1


def old(content: bytes) -> bytes:
    """The same pickle as numpy wrote it before version 2."""
    assert b"numpy._core" in content
    return content.replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_masks_of_every_protocol_and_type(protocol: int, kind: Any) -> None:
    for array in (MASK.astype(kind), np.asfortranarray(MASK.astype(kind))):
        found = pickled.mask(pickle.dumps(array, protocol))
        assert found.dtype == bool and np.array_equal(found, MASK)


def test_masks_of_older_numpy_and_in_containers() -> None:
    assert np.array_equal(pickled.mask(old(pickle.dumps(MASK, 2))), MASK)
    assert np.array_equal(pickled.mask(pickle.dumps(MASK * np.uint8(255))), MASK)
    for held in ({"mask": MASK, "id": "sample0000"}, (MASK, 3), OrderedDict(a=MASK), MASK.astype(int).tolist()):
        assert np.array_equal(pickled.mask(pickle.dumps(held)), MASK)
    assert pickled.load(pickle.dumps([np.float64(2.5), np.int16(3), b"x", bytearray(b"y"), {1}])) == [
        2.5,
        3,
        b"x",
        b"y",
        {1},
    ]


class Evil:
    """Calls whatever it was given when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.told = call, arguments

    def __reduce__(self) -> Any:
        return self.told


@pytest.mark.parametrize(
    ("call", "name"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.load, "load"), (np.ones, "ones")],
)
def test_no_pickle_runs_anything(tmp_path: Path, call: Any, name: str) -> None:
    mark = tmp_path / "was-here"
    argument = f"touch {mark}" if call is os.system else f"open({str(mark)!r}, 'w')"
    for evil in (Evil(call, argument), [MASK, Evil(call, argument)], np.array([Evil(call, argument)], object)):
        with pytest.raises(Unusable, match=rf"pickle not read: asks for .*{name}; only numpy arrays") as caught:
            pickled.mask(pickle.dumps(evil))
        assert caught.value.status == "corrupt" and not mark.exists()


def test_what_is_allowed_cannot_be_misused() -> None:
    huge = b"cnumpy\nndarray\n((I99999999999\ntR."  # ndarray called with a shape
    encoded = b"c_codecs\nencode\n(Vopen\nVhex\ntR."  # a codec of its own choice
    assert {op.name for op, _, _ in pickletools.genops(huge)} >= {"GLOBAL", "REDUCE"}
    with pytest.raises(Unusable, match="pickle not read"):
        pickled.load(huge)
    assert pickled.load(encoded) == b"open"  # read as Latin-1 whatever it names
    with pytest.raises(Unusable, match="asks for an array of another type"):
        pickled.load(b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR.")
    with pytest.raises(Unusable, match="asks for a thing outside itself"):
        pickled.load(b"Pidentity\n.")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (np.zeros((3, 4)), "mask: nothing is marked on its 4x3 pixels"),
        (np.ones((3, 4, 3)), "mask: 0 two-dimensional arrays of numbers"),
        ([MASK, MASK], "mask: 2 two-dimensional arrays of numbers"),
        (np.array([["a", "b"]]), "mask: 0 two-dimensional"),
        ("sample0000", "mask: 0 two-dimensional"),
    ],
)
def test_what_is_no_mask_is_said(held: Any, message: str) -> None:
    with pytest.raises(Unusable, match=message):
        pickled.mask(pickle.dumps(held))


def test_broken_pickles_are_one_line() -> None:
    whole = pickle.dumps(MASK)
    for broken in (b"", whole[:-20], b"not a pickle", whole[:30] + b"\xff" * 20, b"\x80\xff."):
        with pytest.raises(Unusable, match="pickle not read") as caught:
            pickled.mask(broken)
        assert "\n" not in str(caught.value)
