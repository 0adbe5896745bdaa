"""Matching of channels or clusters to class labels over the clips of all ranks, for semi-supervised methods.

Labels of training clips enter here and nowhere else: after learning, to say what a cluster or a channel is called.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from raymix.data.batches import ClipBatch
from raymix.runtime.distributed import all_gather_objects, all_gather_variable_length, broadcast_from_rank_zero

KMEANS_STARTS = 10  # of k-means, of which the tightest is kept


@dataclass(frozen=True)
class LabelMatching:
    """Class names, and the class of each of M channels, -1 for a channel that has none."""

    classes: list[str]
    class_of_M: list[int]

    def total(self, rows_NMX: Tensor) -> Tensor:
        """For each of C classes the sum over its channels: (N, M, ...) -> (N, C, ...)."""
        member_CM = torch.tensor([[float(own == c) for own in self.class_of_M] for c in range(len(self.classes))])
        return torch.einsum("cm,nm...->nc...", member_CM.to(rows_NMX), rows_NMX)


def match_channels(weight_MC: np.ndarray, classes: list[str], surplus: bool) -> LabelMatching:
    """The one-to-one assignment of channels to classes with the largest total weight (Hungarian algorithm).

    With `surplus`, channels that are left over join the class of their largest weight, if it is above 0. Classes without
    a channel, because there are more classes than channels, are left out of the names.
    """
    class_of_M = np.full(len(weight_MC), -1)
    rows, columns = linear_sum_assignment(weight_MC, maximize=True)
    class_of_M[rows] = columns
    if surplus:
        free = (class_of_M < 0) & (weight_MC.max(1) > 0)
        class_of_M[free] = weight_MC.argmax(1)[free]
    kept = sorted(set(class_of_M.tolist()) - {-1})
    return LabelMatching([classes[c] for c in kept], [kept.index(c) if c >= 0 else -1 for c in class_of_M.tolist()])


def match_labels(activity_NM: Tensor, labels: list[str], surplus: bool) -> LabelMatching | None:
    """`match_channels` by the mean activity of each channel over the clips of a class; None where no clip has a label.

    Of clusters, whose activity is 0 or 1, that mean is the share P(cluster | class). Rank 0 decides for all.
    """
    classes = sorted({label for label in labels if label})
    if not classes:
        return None

    def decide() -> LabelMatching:
        activity, of_N = activity_NM.double().cpu().numpy(), np.array(labels)
        return match_channels(np.stack([activity[of_N == name].mean(0) for name in classes], axis=1), classes, surplus)

    return broadcast_from_rank_zero(decide)


@torch.no_grad()
def collect_features(
    module: nn.Module, examples: Iterator[ClipBatch], see: Callable[[ClipBatch], Tensor], width: int
) -> tuple[Tensor, list[str]]:
    """`see` of all training clips, `width` numbers each, in evaluation mode: float32 (N, width) on the CPU, and labels.

    They are those of all ranks, in the order of `Examples.place_N`: the number of ranks changes nothing.
    """
    training = module.training
    module.eval()
    rows, places, labels = [torch.zeros(0, width)], [torch.zeros(0, dtype=torch.int64)], []
    try:
        for part in examples:
            rows.append(see(part).float().cpu())
            places.append(part.global_index_N.cpu())
            labels += part.labels
    finally:
        module.train(training)
    every_NX, place_N, names = (
        all_gather_variable_length(torch.cat(rows)),
        all_gather_variable_length(torch.cat(places)),
        all_gather_objects(labels),
    )
    order_N = place_N.argsort(stable=True)
    return every_NX[order_N], [names[at] for at in order_N.tolist()]


def kmeans_clusters(unit_NF: np.ndarray, centres_MF: np.ndarray, known: bool) -> tuple[np.ndarray, np.ndarray]:
    """Centres (M, F) and the cluster of each row by k-means, the tightest of STARTS seeded starts.

    Where there are clusters already (`known`), each new one takes the number of an old one, so that most rows keep theirs.
    """
    m = len(centres_MF)
    tightest, best = math.inf, (centres_MF, np.zeros(len(unit_NF), int))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # where all rows are one
        warnings.simplefilter("ignore", UserWarning)  # a cluster without rows keeps the centre it had
        for seed in range(KMEANS_STARTS):
            centres, of_N = kmeans2(unit_NF.astype(np.float64), m, iter=50, minit="++", seed=seed)
            if (spent := float(np.square(unit_NF - centres[of_N]).sum())) < tightest - 1e-9:
                tightest, best = spent, (centres, of_N)
    centres, of_N = best
    if known:
        before_N = cdist(unit_NF, centres_MF, "sqeuclidean").argmin(1)  # never an array of N x M x F
        shared = np.zeros((m, m))
        np.add.at(shared, (of_N, before_N), 1)
        number_M = linear_sum_assignment(shared, maximize=True)[1]
        centres, of_N = centres[np.argsort(number_M)], number_M[of_N]
    return centres, of_N


def pack_state(state: dict[str, Any]) -> Tensor:
    """A dict of plain values as one uint8 tensor of JSON: what `get_extra_state` may keep in a checkpoint."""
    return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


def unpack_state(state: Tensor) -> dict[str, Any]:
    """The dict of `pack_state`."""
    found: dict[str, Any] = json.loads(bytes(state.cpu().tolist()))
    return found
