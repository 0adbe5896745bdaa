"""Numbers over all scenes of a published list, those without their clips counted as zero: one denominator for everybody.

Serves VGGSound-Duet and lists like it, whose videos go offline one by one: a mean over the scenes that are left is of other
scenes with each reader, and the missing ones are not missing at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymix import comparison
from raymix.pair_list import PairList
from raymix.scoring import SystemScores


def said(pairs: PairList | None) -> str:
    """How many of the listed scenes these are; nothing where none is missing, or there is no list."""
    return pairs.origin.said(len(pairs)) if pairs and pairs.origin else ""


def facts(pairs: PairList | None) -> dict[str, int]:
    """The same for JSON, to stand among the facts of the scenes."""
    if not pairs or not pairs.origin or not said(pairs):
        return {}
    return {"listed": pairs.origin.scenes, "without_clips": pairs.origin.missing}


def over_listed(row: SystemScores, pairs: PairList | None) -> dict[str, float]:
    """Each mean of a system with a 0 for every scene that is missing, by metric: less than its value, whatever it is.

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


def record(row: SystemScores, pairs: PairList | None) -> dict[str, Any]:
    """`Summary.record`, with `over_listed` beside the value of each mean where scenes of a list are missing."""
    plain = row.summary.record()
    for metric, value in over_listed(row, pairs).items():
        plain["metrics"][metric]["over_listed"] = value
    return plain


def note(rows: Sequence[SystemScores], pairs: PairList | None, metrics: Mapping[str, str], called: str) -> list[str]:
    """A line with one number of each system over all listed scenes: of `metrics` by system, `called` so; or none."""
    numbers = [(row, metric, over_listed(row, pairs)) for row in rows if (metric := metrics.get(row.system))]
    told = [f"{row.system} {found[metric]:.3f}" for row, metric, found in numbers if metric in found]
    if not told or not pairs or not pairs.origin:
        return []
    count = max(row.summary.counts[metric] for row, metric, _ in numbers) + pairs.origin.missing
    known = "" if count == pairs.origin.scenes else f" less {pairs.origin.scenes - count} that do not count"
    return [f"{called} over all {pairs.origin.scenes} listed scenes{known}, a missing one as zero: {', '.join(told)}"]


def first(rows: Sequence[SystemScores], pairs: PairList | None) -> list[str]:
    """`note` of the first number that the systems of a table have."""
    own = [row for row in rows if not row.null]
    order = sorted({metric for row in own for metric in over_listed(row, pairs)}, key=comparison.place)
    return note(own, pairs, {row.system: order[0] for row in own}, order[0]) if order else []
