"""Sorted pixels of many maps, and what every protocol reads off them: AP, counts above a threshold, quantiles, histograms.

A map is sorted once. After that a threshold is a place in its row, so any number of thresholds and of truths costs a
binary search each; min-max and any other increasing normalisation only moves the threshold. A panel is not sorted again:
a running count of its pixels along the row of the whole canvas says the same.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np

from raymix.precision import mean_precision, sort_keys, sorted_pixels
from raymix.scoring.sheets import Empty

_BLOCK = 1 << 17  # labels counted at a time, a multiple of eight


class Order:
    """R rows of pixels from the highest score to the lowest, with the labels that they carry, one bit for each truth.

    Counts are of the pixels within one panel where `within` made it, else of all.
    """

    def __init__(
        self,
        keys: np.ndarray,
        labels: np.ndarray,
        starts: np.ndarray,
        union: int,
        empty: Empty,
        whole: Order | None = None,
        panel: int = 0,
    ) -> None:
        self._keys, self._labels, self._starts, self._union = keys, labels, starts, union
        self._empty = empty
        self._whole, self._panel = whole, panel
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._precision: dict[int, np.ndarray] = {}

    @staticmethod
    def of(scores_NMP: np.ndarray, labels_NP: np.ndarray, union: int, empty: Empty) -> Order:
        """Sort each map's pixels: a row for each map of each scene, R = N M; `union` are the bits of all truths."""
        n, m, p = scores_NMP.shape
        into = empty("keys", (n * m, p), np.uint32), empty("labels", (n * m, p), labels_NP.dtype.type)
        keys_RP, labels_RP = sorted_pixels(scores_NMP, labels_NP, into)
        return Order(keys_RP.ravel(), labels_RP.ravel(), np.arange(n * m + 1) * p, union, empty)

    def within(self, bit: int) -> Order:
        """The same rows, where only the pixels that carry this bit count."""
        return Order(self._keys, self._labels, self._starts, self._union, self._empty, self, 1 << bit)

    @cached_property
    def size_R(self) -> np.ndarray:
        """Pixels of each row that count."""
        return self._counted(self._starts[1:], self._starts[:-1])

    @property
    def highest_R(self) -> np.ndarray:
        """The highest score of each row, 0 where it has no pixel."""
        return self.score_at(np.zeros(len(self._starts) - 1, np.int64))

    @property
    def lowest_R(self) -> np.ndarray:
        """The lowest score of each row, 0 where it has no pixel."""
        return self.score_at(self.size_R - 1)

    def area(self, truth: int) -> np.ndarray:
        """Pixels of each row that carry any of the bits of `truth`, (R,)."""
        return np.diff(self._positive(truth)[1])

    def average_precision(self, truth: int) -> np.ndarray:
        """AP of each row against the pixels that carry any of these bits, (R,); NaN where there are none."""
        if truth not in self._precision:
            place = self._positive(truth)[0]
            self._precision[truth] = mean_precision(place, self._keys, self._starts, self._running)
        return self._precision[truth]

    def score_at(self, rank_R: np.ndarray) -> np.ndarray:
        """The score of rank 0 (the highest) and so on of each row, (R,); of the nearest rank that exists."""
        rank_R = np.clip(rank_R, 0, np.maximum(self.size_R - 1, 0))
        if not len(self._keys):
            return np.zeros(len(rank_R), np.float32)
        place_R = self._starts[:-1] + rank_R
        if self._running is not None:
            place_R = self._running.place(self._running(self._starts[:-1]) + rank_R)
        return np.where(self.size_R > 0, _scores(self._keys[np.minimum(place_R, len(self._keys) - 1)]), np.float32(0))

    def top_mean(self, share: float) -> np.ndarray:
        """Mean of the highest scores of each whole row, this share of its pixels and at least one, (R,) in float64."""
        size_R = np.diff(self._starts)
        ends_R = self._starts[:-1] + np.maximum(np.ceil(size_R * share).astype(np.int64), 1)
        rows = zip(self._starts, ends_R, strict=False)
        return np.array([_scores(self._keys[a:b]).mean(dtype=np.float64) for a, b in rows]).reshape(len(size_R))

    def counts(self, truth: int, score_RT: np.ndarray, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """How many pixels reach (strict: exceed) each float32 threshold, and how many of those are in `truth`, (R, T)."""
        keys_RT, side = sort_keys(score_RT), "left" if strict else "right"
        spans = zip(self._starts, self._starts[1:], keys_RT, strict=False)
        found = [a + self._keys[a:b].searchsorted(keys_T, side=side) for a, b, keys_T in spans]  # type: ignore[call-overload]
        end_RT = np.array(found, np.int64).reshape(score_RT.shape)
        place, bounds = self._positive(truth)
        hits_RT = place.searchsorted(end_RT.ravel()).reshape(end_RT.shape) - bounds[:-1, None]
        return self._counted(end_RT, self._starts[:-1, None]), hits_RT

    def _counted(self, end: np.ndarray, start: np.ndarray) -> np.ndarray:
        """How many pixels count between two places of all rows together."""
        return end - start if self._running is None else self._running(end) - self._running(start)

    @cached_property
    def _running(self) -> _Running | None:
        """Counts the pixels of the panel; None where all pixels count."""
        if self._whole is None:
            return None
        return _Running(self._labels, self._panel, self._empty)

    def _positive(self, truth: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the pixels with any of these bits that count, ascending, and where each row's begin among them."""
        if truth not in self._found:
            kind, whole = self._labels.dtype.type, self._whole
            if whole is not None:
                place = whole._positive(truth)[0]
                place = place[(self._labels[place] & kind(self._panel)).astype(bool)]
            else:  # the pixels of all truths are found once, and those of each among them
                place, bits = self._labelled
                place = place if truth == self._union else place[(bits & kind(truth)).astype(bool)]
            self._found[truth] = place, place.searchsorted(self._starts)
        return self._found[truth]

    @cached_property
    def _labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the pixels that are in any truth, ascending, and the bits that they carry."""
        labels, union = self._labels, self._labels.dtype.type(self._union)
        spans = pairwise(self._starts.tolist())  # row by row, and as bool: a long way faster
        parts = [a + np.flatnonzero((labels[a:b] & union).astype(bool)) for a, b in spans]
        place = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return place, labels[place]


class _Running:
    """How many labels carry a bit before any place, in an eighth of a byte a label and a sum every eight."""

    _ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
    _HEAD = np.array([0xFF00 >> bits & 0xFF for bits in range(8)], np.uint8)

    def __init__(self, labels: np.ndarray, bit: int, empty: Empty) -> None:
        words = len(labels) // 8 + 1
        self._bytes, self._before = (
            empty(f"{use} {bit}", (words + more,), kind)
            for use, more, kind in (("bits", 0, np.uint8), ("counts", 1, np.int64))
        )
        self._before[0] = 0
        flags = np.zeros(_BLOCK, bool)
        for start in range(0, 8 * words, _BLOCK):  # in pieces that stay in the processor's cache
            part = labels[start : start + _BLOCK]
            flags[: len(part)], flags[len(part) :] = part & labels.dtype.type(bit), False
            place = slice(start // 8, min(start + _BLOCK, 8 * words) // 8)
            count = place.stop - place.start
            self._bytes[place] = np.packbits(flags)[:count]
            # the top byte of this product is the sum of all eight bytes
            self._before[1:][place] = (flags.view(np.uint64) * np.uint64(0x0101010101010101) >> np.uint64(56))[:count]
        np.cumsum(self._before, out=self._before)

    def __call__(self, place: np.ndarray) -> np.ndarray:
        byte = place >> 3
        return self._before[byte] + self._ONES[self._bytes[byte] & self._HEAD[place & 7]]

    def place(self, number: np.ndarray) -> np.ndarray:
        """The place of the flag before which so many are set."""
        byte = self._before.searchsorted(number, side="right") - 1
        up_to = self(8 * np.minimum(byte, len(self._bytes) - 2)[:, None] + np.arange(1, 9))
        return 8 * byte + (up_to > number[:, None]).argmax(axis=1)


class Plain:
    """The same counts of maps that nobody has to sort, for protocols that cut each map once at a value."""

    def __init__(self, scores_NMP: np.ndarray, labels_NP: np.ndarray) -> None:
        self._scores_NMP, self._labels_NP = scores_NMP, labels_NP
        n, m, p = scores_NMP.shape
        self.size_R = np.full(n * m, p)

    @property
    def highest_R(self) -> np.ndarray:
        """The highest score of each row."""
        return self._scores_NMP.max(axis=-1).ravel()

    @property
    def lowest_R(self) -> np.ndarray:
        """The lowest score of each row."""
        return self._scores_NMP.min(axis=-1).ravel()

    def area(self, truth: int) -> np.ndarray:
        """Pixels of each row that carry any of the bits of `truth`, (R,)."""
        return np.repeat(np.count_nonzero(self._inside(truth), axis=-1), self._scores_NMP.shape[1])

    def counts(self, truth: int, score_R1: np.ndarray, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """How many pixels reach (strict: exceed) a float32 threshold, and how many of those are in `truth`, (R, 1)."""
        at_NM1 = score_R1.reshape(*self._scores_NMP.shape[:2], 1)
        predicted_NMP = self._scores_NMP > at_NM1 if strict else self._scores_NMP >= at_NM1
        hit_NMP = predicted_NMP & self._inside(truth)[:, None, :]
        return tuple(np.count_nonzero(each, axis=-1).reshape(-1, 1) for each in (predicted_NMP, hit_NMP))

    def _inside(self, truth: int) -> np.ndarray:
        return (self._labels_NP & self._labels_NP.dtype.type(truth)).astype(bool)


def _scores(keys: np.ndarray) -> np.ndarray:
    """The float32 scores of sort keys."""
    negative = keys >> 31 == 1
    return np.where(negative, keys, ~keys & np.uint32(0x7FFFFFFF)).astype(np.uint32).view(np.float32)
