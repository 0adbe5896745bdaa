"""Sorted pixels of many maps, and what every protocol reads off them: AP, counts above a threshold, quantiles, histograms.

A map is sorted once. After that a threshold is a place in its row, so any number of thresholds and of truths costs a
binary search each; min-max and any other increasing normalisation only moves the threshold.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from raymix.metrics import last_of_ties, mean_precision, sort_keys, sorted_pixels


class Order:
    """Rows of pixels from the highest score to the lowest, with the labels that they carry (one bit for each truth)."""

    def __init__(self, keys: np.ndarray, labels: np.ndarray, starts: np.ndarray) -> None:
        self._keys, self._labels, self._starts = keys, labels, starts
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._precision: dict[int, np.ndarray] = {}
        self._within: dict[int, Order] = {}

    @staticmethod
    def of(scores_NMP: np.ndarray, labels_NP: np.ndarray) -> Order:
        """Sort each map's pixels: a row for each map of each scene, R = N M."""
        n, m, p = scores_NMP.shape
        keys_NMP, labels_NMP = sorted_pixels(scores_NMP, labels_NP)
        small = np.uint8 if labels_NP.size == 0 or int(labels_NP.max()) < 256 else np.uint32
        labels = labels_NMP.astype(small)
        return Order(np.ascontiguousarray(keys_NMP).ravel(), labels.ravel(), np.arange(n * m + 1) * p)

    @property
    def size_R(self) -> np.ndarray:
        """Pixels of each row."""
        return np.diff(self._starts)

    def within(self, bit: int) -> Order:
        """Only the pixels that carry this bit, in their order."""
        if bit not in self._within:
            place, bounds = self._positive(1 << bit)
            self._within[bit] = Order(self._keys[place], self._labels[place], bounds)
        return self._within[bit]

    def area(self, truth: int) -> np.ndarray:
        """Pixels of each row that carry any of the bits of `truth`, (R,)."""
        return np.diff(self._positive(truth)[1])

    def average_precision(self, truth: int) -> np.ndarray:
        """AP of each row against the pixels that carry any of these bits, (R,); NaN where there are none."""
        if truth not in self._precision:
            self._precision[truth] = mean_precision(self._positive(truth)[0], self._last, self._starts)
        return self._precision[truth]

    def score_at(self, rank_R: np.ndarray) -> np.ndarray:
        """The score of rank 0 (the highest) and so on of each row, (R,); the nearest rank that exists."""
        place = self._starts[:-1] + np.clip(rank_R, 0, np.maximum(self.size_R - 1, 0))
        return _scores(self._keys[place]) if len(self._keys) else np.zeros(len(self.size_R), np.float32)

    def top_mean(self, share: float) -> np.ndarray:
        """Mean of the highest scores of each row, this share of its pixels and at least one, (R,) in float64."""
        count_R = np.maximum(np.ceil(self.size_R * share).astype(np.int64), 1)
        rows = zip(self._starts, count_R, strict=False)
        return np.array([_scores(self._keys[a : a + k]).mean(dtype=np.float64) for a, k in rows]).reshape(len(count_R))

    def above(self, score_RT: np.ndarray, strict: bool = False) -> np.ndarray:
        """How many pixels of each row reach (strict: exceed) each of its float32 thresholds, (R, T)."""
        keys_RT, side = sort_keys(score_RT), "left" if strict else "right"
        spans = zip(self._starts, self._starts[1:], keys_RT, strict=False)
        found = [self._keys[a:b].searchsorted(keys_T, side=side) for a, b, keys_T in spans]  # type: ignore[call-overload]
        return np.array(found, np.int64).reshape(score_RT.shape)

    def hits(self, truth: int, count_RT: np.ndarray) -> np.ndarray:
        """How many of the first so many pixels of each row carry any of these bits, (R, T)."""
        positive, bounds = self._positive(truth)
        ends = positive.searchsorted((self._starts[:-1, None] + count_RT).ravel())
        return ends.reshape(count_RT.shape) - bounds[:-1, None]

    @cached_property
    def _last(self) -> np.ndarray:
        return last_of_ties(self._keys, self._starts)

    def _positive(self, truth: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the pixels with any of these bits, ascending, and where each row's begin among them."""
        if truth not in self._found:
            place = np.flatnonzero(self._labels & self._labels.dtype.type(truth))
            self._found[truth] = place, place.searchsorted(self._starts)
        return self._found[truth]


def _scores(keys: np.ndarray) -> np.ndarray:
    """The float32 scores of sort keys."""
    negative = keys >> 31 == 1
    return np.where(negative, keys, ~keys & np.uint32(0x7FFFFFFF)).astype(np.uint32).view(np.float32)
