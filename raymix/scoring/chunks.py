"""Score maps under one protocol or many: some scenes at a time, their surfaces shared, and all tables side by side.

Per chunk each map is upsampled and sorted once for each kind of upsampling, whatever the number of protocols; what is
held at a time does not grow with the number of scenes, and neither order nor chunks nor shards change a number.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from raymix.protocol import RAYMIX_1, Protocol
from raymix.scoring.chunk import Chunk
from raymix.scoring.columns import Judged, judge
from raymix.scoring.intake import Classes, Maps, same_class, stack
from raymix.scoring.pooled import Pool, joined
from raymix.scoring.sheets import Sheets
from raymix.scoring.sounding import heard
from raymix.scoring.summary import Table
from raymix.truth import Truth

_CHUNK_PIXELS = 1 << 22  # pixels of maps scored at a time: bounds the memory, changes no number


def score(maps: Maps, truth: Truth, protocol: Protocol = RAYMIX_1, classes: Classes | None = None) -> Table:
    """Score each scene once; of several rows of one id the first counts.

    ValueError where the protocol is not for scenes of so many sources, and naming the scene where maps are not finite,
    or of another shape than those of the other scenes.
    """
    return score_all(maps, truth, [protocol], classes)[protocol.id]


def score_all(
    maps: Maps, truth: Truth, protocols: Iterable[Protocol], classes: Classes | None = None
) -> dict[str, Table]:
    """A table for each protocol, by its id, as `score` makes it; what they have in common is computed once.

    `Protocol.declines` tells beforehand which protocols are refused.
    """
    chosen = list(protocols)
    for protocol in chosen:
        if refusal := protocol.declines(truth.panels_NS.shape[1]):
            raise ValueError(refusal)
    if len({protocol.id for protocol in chosen}) < len(chosen):
        raise ValueError(f"two protocols of one id among {', '.join(protocol.id for protocol in chosen)}")
    if len(maps) != len(truth):
        raise ValueError(f"maps of {len(maps)} scenes, truth of {len(truth)}: an absent prediction is a row of None")
    first: dict[str, int] = {}
    for place, scene in enumerate(truth.ids):
        first.setdefault(scene, place)
    keep = np.fromiter(first.values(), np.int64, len(first))
    like = np.asarray(next((each for each in maps if each is not None and np.ndim(each) == 3), np.zeros((0, 1, 1))))
    step = max(1, _CHUNK_PIXELS // (truth.canvas[0] * truth.canvas[1] * (len(like) + 1)))
    sheets = Sheets()
    parts = [
        _score_chunk([maps[i] for i in index], truth.take(index).drawn(), like, chosen, (classes, index), sheets)
        for index in np.split(keep, range(step, len(keep), step))
    ]
    heard_videos = truth.heard()
    videos = tuple(heard_videos[i] for i in keep)
    return {
        how.id: _table(how, [part[place] for part in parts], truth, tuple(first), videos)
        for place, how in enumerate(chosen)
    }


def _score_chunk(
    rows: list[np.ndarray | None],
    truth: Truth,
    like_MHW: np.ndarray,
    protocols: list[Protocol],
    named: tuple[Classes | None, np.ndarray],
    sheets: Sheets,
) -> list[Judged]:
    """What each protocol makes of the scenes of one chunk; those without known truth have NaN."""
    maps_NMHW, present_NM = stack(rows, truth, like_MHW)
    classes, index = named
    same_NSM = None if classes is None else same_class(classes, index, truth, present_NM)
    n, s = truth.panels_NS.shape
    shared: dict[str, np.ndarray] = {}
    if s < len(truth.rects_P4) and classes is None:
        shared["sounding_accuracy"] = heard(maps_NMHW, truth, present_NM)
    known = np.flatnonzero(truth.has_truth_N) if truth.masks_NSYX is not None else np.zeros(0, np.int64)
    if len(known) < n:
        maps_NMHW, present_NM, truth = maps_NMHW[known], present_NM[known], truth.take(known)
        same_NSM = None if same_NSM is None else same_NSM[known]
    chunk = Chunk(maps_NMHW, present_NM, truth, same_NSM, protocols, sheets)
    for protocol in protocols:
        weighed = chunk.weighs(protocol)
        empty = np.flatnonzero(chunk.told_N(weighed) & ~chunk.known_NS(weighed).all(axis=1))
        if protocol.empty_truth == "error" and len(empty):
            scene = truth.ids[empty[0]]
            raise ValueError(f"scene {scene}: a source has no pixel of truth, which protocol {protocol.id} refuses")
    return [_spread(judge(chunk, protocol), known, n, shared) for protocol in protocols]


def _spread(judged: Judged, known: np.ndarray, n: int, shared: dict[str, np.ndarray]) -> Judged:
    """The same for all n scenes of the chunk: NaN, no map and no count where the truth is unknown."""

    def whole(part: np.ndarray, blank: float) -> np.ndarray:
        found = np.full((n, *part.shape[1:]), blank, part.dtype)
        found[known] = part
        return found

    return Judged(
        iou_NS=whole(judged.iou_NS, np.nan),
        ap_NS=whole(judged.ap_NS, np.nan),
        map_NS=whole(judged.map_NS, -1),
        columns=shared | {name: whole(column, np.nan) for name, column in judged.columns.items()},
        weights={name: whole(column, 0.0) for name, column in judged.weights.items()},
        pools={
            name: pool._replace(kept=whole(pool.kept, 0), counts_N=whole(pool.counts_N, False))
            for name, pool in judged.pools.items()
        },
    )


def _table(
    protocol: Protocol, parts: list[Judged], truth: Truth, ids: tuple[str, ...], videos: tuple[tuple[str, ...], ...]
) -> Table:
    first = parts[0]
    pools: dict[str, Pool] = {name: joined([part.pools[name] for part in parts]) for name in first.pools}
    return Table(
        protocol=protocol.id,
        layout=truth.layout,
        scenes_hash=truth.scenes_hash,
        ids=ids,
        videos=videos,
        values={name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        iou_NS=np.concatenate([part.iou_NS for part in parts]),
        ap_NS=np.concatenate([part.ap_NS for part in parts]),
        map_NS=np.concatenate([part.map_NS for part in parts]),
        weights={name: np.concatenate([part.weights[name] for part in parts]) for name in first.weights},
        pools=pools,
        preprocessing=truth.preprocessing,
    )


def metrics(protocol: Protocol, sources: int = 2) -> list[str]:
    """The columns of a table of scenes with so many sources whose regions are known; ValueError where it declines them."""
    panels_NS, masks_NSYX = np.zeros((0, sources), np.int64), np.zeros((0, sources, 1, 1), bool)
    empty = Truth((), (), "", (1, 1), panels_NS, np.array([[0, 0, 1, 1]] * sources), masks_NSYX, np.zeros(0, bool), "")
    return [name for name in score([], empty, protocol).values if name != "sounding_accuracy"]
