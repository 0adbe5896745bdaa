"""Scores of a whole set that are not means over scenes: dataset-level pixel AP, and detection with negatives.

PxAP is that of Choe et al. ("Evaluating weakly supervised object localization methods right", [12] of the paper): one
histogram of normalised scores over all pixels of the set. Detection AP, max-F1 and LocAcc are those of SLAVC (Mo and
Morgado, 2022), for sets in which some scenes hold no sounding object. All take what was kept of each scene, and how
often each scene counts, so a shard adds up, a repeated scene counts once and a bootstrap only changes the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

_CELLS = 4_000_000  # numbers held at a time by one step of a bootstrap


class PooledScores(NamedTuple):
    """What is kept of each scene, (N, ...), whether it counts, and the numbers that come of all of them together."""

    kept: np.ndarray
    counts_N: np.ndarray
    measure: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # kept, how often each scene counts (R, N)
    additive: bool = False  # scenes that always count equally often may be added up

    def take(self, index: np.ndarray) -> PooledScores:
        """The scenes of these indices."""
        return self._replace(kept=self.kept[index], counts_N=self.counts_N[index])

    def of_clusters(self, cluster_N: np.ndarray, clusters: int) -> tuple[PooledScores, np.ndarray]:
        """A pool to draw clusters from, and the cluster of each of its rows: scenes, or where they add up clusters."""
        if not self.additive:
            return self, cluster_N
        kept = np.zeros((clusters, *self.kept.shape[1:]))
        np.add.at(kept, cluster_N[self.counts_N], self.kept[self.counts_N])
        return self._replace(kept=kept, counts_N=np.ones(clusters, bool)), np.arange(clusters)

    def numbers(self, times_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Each number, (R,), where each scene counts so many times."""
        step = max(1, _CELLS // max(1, len(self.kept)))
        parts = [self.measure(self.kept, times_RN[at : at + step]) for at in range(0, len(times_RN), step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def make_pool(name: str, kept: np.ndarray, counts_N: np.ndarray) -> PooledScores:
    """The pool that a table calls so, from what was kept of each scene: `pxap_score`, or `detection@t`."""
    kind, _, at = name.partition("@")
    if kind == "pxap":
        return PooledScores(kept, counts_N, pxap_score, True)
    return PooledScores(kept, counts_N, partial(detection_scores, at=float(at)))


def join_pools(pools: Sequence[PooledScores]) -> PooledScores:
    """The scenes of all pools, which are of one kind."""
    kept, counts_N = (np.concatenate([pool[place] for pool in pools]) for place in (0, 1))
    return pools[0]._replace(kept=kept, counts_N=counts_N)


def pxap_score(kept_N2B: np.ndarray, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
    """{"pxap"}: sum of precision times the step in recall over the bins, highest scores first; NaN without truth.

    `kept_N2B` are pixels inside and outside the truth of each scene, by bin of normalised score from low to high.
    """
    n, _, b = kept_N2B.shape
    total_R2B = (counts_RN @ kept_N2B.reshape(n, 2 * b).astype(np.float64, copy=False)).reshape(-1, 2, b)[..., ::-1]
    true_RB, false_RB = total_R2B.cumsum(axis=-1).swapaxes(0, 1)
    all_RB = true_RB + false_RB
    precision_RB = true_RB / np.where(all_RB > 0, all_RB, 1.0)
    positive_R = true_RB[:, -1]
    area_R = (precision_RB * total_R2B[:, 0]).sum(axis=-1)
    return {"pxap": np.where(positive_R > 0, area_R / np.where(positive_R > 0, positive_R, 1.0), np.nan)}


def detection_scores(kept_N3: np.ndarray, counts_RN: np.ndarray, at: float) -> dict[str, np.ndarray]:
    """{"detection_ap@t", "max_f1@t"} of scenes ranked by confidence; NaN where no scene has a sounding object.

    `kept_N3`: IoU, confidence (-inf: never detected), and 1 where the truth has a region, 0 where it has none. At a
    threshold a detected scene is right if it has a region and its IoU reaches `at`, else wrong; a scene with a region
    that is not detected is missed. Precision = right / detected, made non-increasing; recall = right / (right + missed).
    """
    iou_N, confidence_N, visible_N = kept_N3.T
    order_N = np.argsort(-confidence_N, kind="stable")
    right_N = (visible_N == 1) & (iou_N >= at - 1e-9)
    ranked_RN = counts_RN[:, order_N]
    detected_RN = ranked_RN.cumsum(axis=1)
    right_RN = (ranked_RN * right_N[order_N]).cumsum(axis=1)
    seen_RN = (ranked_RN * (visible_N == 1)[order_N]).cumsum(axis=1)
    missed_RN = seen_RN[:, -1:] - seen_RN
    sorted_N = confidence_N[order_N]
    last_N = np.ones(len(sorted_N), bool)  # scenes of one confidence enter together
    np.not_equal(sorted_N[1:], sorted_N[:-1], out=last_N[:-1])
    ends = np.flatnonzero(last_N & np.isfinite(sorted_N))
    right_RN, detected_RN, missed_RN = right_RN[:, ends], detected_RN[:, ends], missed_RN[:, ends]
    precision_RN = np.where(detected_RN > 0, right_RN / np.maximum(detected_RN, 1.0), 1.0)
    found_RN = right_RN + missed_RN
    recall_RN = np.where(found_RN > 0, right_RN / np.where(found_RN > 0, found_RN, 1.0), 1.0)
    both_RN = precision_RN + recall_RN
    f1_RN = 2 * precision_RN * recall_RN / np.where(both_RN > 0, both_RN, 1.0)
    envelope_RN = np.maximum.accumulate(precision_RN[:, ::-1], axis=1)[:, ::-1]
    ap_R = (envelope_RN * np.diff(recall_RN, axis=1, prepend=0.0)).sum(axis=1)
    seen_R = seen_RN[:, -1] if len(iou_N) else np.zeros(len(counts_RN))
    found = {f"detection_ap@{at:g}": ap_R, f"max_f1@{at:g}": f1_RN.max(axis=1, initial=0.0)}
    return {name: np.where(seen_R > 0, number_R, np.nan) for name, number_R in found.items()}
