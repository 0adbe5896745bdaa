"""Means over all scenes of a published list, with scenes of missing clips as zero: one denominator for all.

For VGGSound-Duet and lists like it, whose videos go offline one by one: a mean over the scenes that are left is over other
scenes for each reader, and the missing ones are not missing at random.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raymix.data.pair_lists import PairList
from raymix.metrics.scoring import SystemScores


def coverage(pairs: PairList | None) -> str:
    """Returns a phrase with how many of the listed scenes these are; '' where none is missing, or there is no list."""
    return pairs.origin.coverage_note(len(pairs)) if pairs and pairs.origin else ""


def coverage_facts(pairs: PairList | None) -> dict[str, int]:
    """Returns the same as numbers, `listed` and `without_clips`; {} where none is missing."""
    if not pairs or not pairs.origin or not coverage(pairs):
        return {}
    return {"listed": pairs.origin.scenes, "without_clips": pairs.origin.missing}


def means_over_listed(row: SystemScores, pairs: PairList | None) -> dict[str, float]:
    """Returns each mean of a system with a 0 for every missing scene, by metric; never more than the mean itself.

    A missing scene is one row, or where a protocol counts sources, as many as sound in a scene. Numbers of a whole set (PxAP,
    detection AP) are no means and have none; there is none at all where only a part of the list was taken.
    """
    if row.table is None or not pairs or not pairs.origin or len(pairs) + pairs.origin.missing != pairs.origin.scenes:
        return {}
    found, missing = {}, pairs.origin.missing
    for metric, value_N in row.table.values.items():
        if missing and metric in row.summary:
            weight_N = row.table.weights.get(metric)
            rows = float((np.ones(len(value_N)) if weight_N is None else weight_N)[~np.isnan(value_N)].sum())
            gone = missing * (1 if weight_N is None else row.table.iou_NS.shape[1])
            found[metric] = row.summary[metric].value * rows / (rows + gone)
    return found


def coverage_record(row: SystemScores, pairs: PairList | None) -> dict[str, Any]:
    """Returns `Summary.record`, with `means_over_listed` for each mean where scenes of a list are missing."""
    plain = row.summary.record()
    for metric, value in means_over_listed(row, pairs).items():
        plain["metrics"][metric]["over_listed"] = value
    return plain
