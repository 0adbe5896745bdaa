"""Masks out of pickles: every way numpy wrote them is read, and nothing that a pickle asks for is run."""

from __future__ import annotations

import os
import pickle
import pickletools
import resource
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymix.data.importers import pickled_masks
from raymix.data.media import UnusableMediaError
from tests.support import malicious_pickles as pickles

MASK = np.arange(12).reshape(3, 4) % 5 == 1


def old(content: bytes) -> bytes:
    """The same pickle as numpy wrote it before version 2."""
    assert b"numpy._core" in content
    return content.replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_masks_of_every_protocol_and_type(protocol: int, kind: Any) -> None:
    for array in (MASK.astype(kind), np.asfortranarray(MASK.astype(kind))):
        found = pickled_masks.read_pickled_mask(pickle.dumps(array, protocol))
        assert found.dtype == bool and np.array_equal(found, MASK)


def test_masks_of_older_numpy_and_in_containers() -> None:
    assert np.array_equal(pickled_masks.read_pickled_mask(old(pickle.dumps(MASK, 2))), MASK)
    assert np.array_equal(pickled_masks.read_pickled_mask(pickle.dumps(MASK * np.uint8(255))), MASK)
    for held in ({"mask": MASK, "id": "sample0000"}, (MASK, 3), OrderedDict(a=MASK), MASK.astype(int).tolist()):
        assert np.array_equal(pickled_masks.read_pickled_mask(pickle.dumps(held)), MASK)
    scored = {"mask": MASK, "score": np.float64(2.5), "n": np.int16(3), "of": [b"x", bytearray(b"y")]}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert np.array_equal(pickled_masks.read_pickled_mask(pickle.dumps(scored, protocol)), MASK)


def test_lists_of_plain_numbers() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for rows in (
            MASK.tolist(),
            MASK.astype(float).tolist(),
            [[10**400 * value for value in row] for row in MASK.tolist()],
        ):
            assert np.array_equal(pickled_masks.read_pickled_mask(pickle.dumps(rows, protocol)), MASK)
    row = [0, 0.4, 1]
    assert pickled_masks.read_pickled_mask(pickle.dumps([row] * 5)).tolist() == [[False, False, True]] * 5
    for rows in ([[1, "1"]], [[1, None]], [[1], [1, 0]], [[np.uint8(1)]], [[[1]]], [(1, 0)]):
        with pytest.raises(UnusableMediaError, match="mask: 0 two-dimensional"):
            pickled_masks.read_pickled_mask(pickle.dumps(rows))


def test_masks_of_either_byte_order_and_of_python_2() -> None:
    for kind in (">i4", "<u2", ">f8", "<f2"):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert np.array_equal(
                pickled_masks.read_pickled_mask(pickle.dumps((MASK * 3).astype(kind), protocol)), MASK
            )
    head = b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n(I1\n(L1L\nI3\ntp6\n"
    kind_of = b"cnumpy\ndtype\np7\n(S'u1'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'|'\np11\nNNNI-1\nI-1\nI0\ntp12\nb"
    assert pickled_masks.read_pickled_mask(head + kind_of + b"I00\nS'\\x00\\xff\\x01'\np13\ntp14\nb.").tolist() == [
        [False, True, True]
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
        with pytest.raises(
            UnusableMediaError, match=rf"pickle not read: asks for .*{name}; only numpy arrays"
        ) as caught:
            pickled_masks.read_pickled_mask(pickle.dumps(evil))
        assert caught.value.status == "corrupt" and not mark.exists()


def test_what_is_allowed_cannot_be_misused() -> None:
    huge = b"cnumpy\nndarray\n((I99999999999\nttR."  # ndarray called with a shape
    assert {op.name for op, _, _ in pickletools.genops(huge)} >= {"GLOBAL", "REDUCE"}
    with pytest.raises(UnusableMediaError, match="asks for an array without content"):
        pickled_masks.read_pickled_mask(huge)
    encoded = b"c_codecs\nencode\n(V\\u0001\\u0000\nVhex\ntR"  # a codec of its own choice: read as Latin-1
    array = b"cnumpy._core.numeric\n_frombuffer\n(" + encoded + pickles.dtype("u1") + b"(I1\nI2\ntVC\ntR."
    assert pickled_masks.read_pickled_mask(array).tolist() == [[True, False]]
    with pytest.raises(UnusableMediaError, match="asks for an array of another type"):
        pickled_masks.read_pickled_mask(b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR.")


@pytest.mark.parametrize("name", pickles.attacks(Path()))
def test_no_pickle_does_harm(name: str, tmp_path: Path) -> None:
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UnusableMediaError) as caught:
        pickled_masks.read_pickled_mask(pickles.attacks(tmp_path / "was-here")[name])
    assert caught.value.status == "corrupt" and "\n" not in str(caught.value) and len(str(caught.value)) < 220
    assert not (tmp_path / "was-here").exists() and np.dtype("f8").isnative
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 600 << 10  # KiB
    assert time.process_time() - began < 30


def test_what_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pickle.dumps(MASK)
    monkeypatch.setattr(pickled_masks, "MAX_PIXELS", MASK.size - 1)
    for held in (MASK, MASK.tolist()):
        with pytest.raises(UnusableMediaError, match="mask: 12 pixels in the pickle, more than 11"):
            pickled_masks.read_pickled_mask(pickle.dumps(held))
    monkeypatch.setattr(pickled_masks, "MAX_STEPS", 10)
    with pytest.raises(UnusableMediaError, match="pickle not read: more than 10 instructions"):
        pickled_masks.read_pickled_mask(whole)
    monkeypatch.setattr(pickled_masks, "MAX_PICKLE_BYTES", len(whole) - 1)
    with pytest.raises(UnusableMediaError, match=f"pickle not read: {len(whole)} bytes, more than {len(whole) - 1}"):
        pickled_masks.read_pickled_mask(whole)


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
    with pytest.raises(UnusableMediaError, match=message):
        pickled_masks.read_pickled_mask(pickle.dumps(held))


def test_broken_pickles_are_one_line() -> None:
    whole = pickle.dumps(MASK)
    for broken in (b"", whole[:-20], b"not a pickle", whole[:30] + b"\xff" * 20, b"\x80\xff."):
        with pytest.raises(UnusableMediaError, match="pickle not read") as caught:
            pickled_masks.read_pickled_mask(broken)
        assert "\n" not in str(caught.value)
