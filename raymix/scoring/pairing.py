"""Which map is held against which source: by name, by one joint pairing, by the best for each metric, greedily."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from raymix.metrics import assign
from raymix.protocol import Protocol


class Pairing(NamedTuple):
    """The map of each source, (N, S), -1 for none; `star` where the truth chose it for each metric anew."""

    star: str
    for_iou_NS: np.ndarray
    for_ap_NS: np.ndarray


def pairings(
    protocol: Protocol, iou_NSM: np.ndarray, ap_NSM: np.ndarray, there_NSM: np.ndarray, same_NSM: np.ndarray | None
) -> list[Pairing]:
    """All pairings that a protocol reports, at least one, the first one told by source.

    `there_NSM` says which pairs exist; `same_NSM` which maps are of their source's class, None without class names.
    """
    if protocol.match == "labels" and same_NSM is not None:
        fits_NSM = same_NSM & there_NSM
        return [_one(np.where(fits_NSM.any(axis=-1), fits_NSM.argmax(axis=-1), -1))]
    if protocol.match == "greedy_iou":
        return [_one(_greedy(iou_NSM, there_NSM))]
    second_NSM = ap_NSM + _fine(iou_NSM, ap_NSM) if protocol.unit == "source" else ap_NSM
    joint_NS = _existing(assign(iou_NSM, second_NSM), there_NSM)
    if protocol.match == "joint_iou":
        return [_one(joint_NS)]
    starred = Pairing("*", joint_NS, _existing(assign(ap_NSM, iou_NSM), there_NSM))
    return [starred] if protocol.match == "labels" else [_one(joint_NS), starred]


def _fine(iou_NSM: np.ndarray, ap_NSM: np.ndarray) -> np.ndarray:
    """A millionth of numbers that tell pairings of equal totals apart by their sources, so that where sources are
    scored one by one the order of the maps decides nothing."""
    weight_S = np.sqrt(np.arange(2, 2 + iou_NSM.shape[1]))[:, None]
    return 1e-6 * weight_S * (iou_NSM + np.pi * ap_NSM)


def only_map(there_NSM: np.ndarray) -> list[Pairing]:
    """The one pairing there is where one map serves all sources."""
    return [_one(np.where(there_NSM[..., 0], 0, -1))]


def _one(map_NS: np.ndarray) -> Pairing:
    return Pairing("", map_NS, map_NS)


def _existing(map_NS: np.ndarray, there_NSM: np.ndarray) -> np.ndarray:
    """-1 where the assigned pair is one of a map or a truth that does not exist."""
    return np.where((map_NS >= 0) & take(there_NSM, map_NS), map_NS, -1)


def take(values_NSM: np.ndarray, map_NS: np.ndarray) -> np.ndarray:
    """The value of each source's map, (N, S); that of map 0 where it has none."""
    return np.take_along_axis(values_NSM, np.maximum(map_NS, 0)[..., None], axis=2)[..., 0]


def _greedy(iou_NSM: np.ndarray, there_NSM: np.ndarray) -> np.ndarray:
    """Map after map goes to the source of its highest IoU (ties: the first), where one that is taken is worth 0."""
    n, s, m = iou_NSM.shape
    map_NS, scene_N = np.full((n, s), -1), np.arange(n)
    for which in range(m):
        free_NS = (map_NS < 0) & there_NSM[:, :, which]
        best_N = np.where(free_NS, iou_NSM[:, :, which], 0.0).argmax(axis=1)
        takes_N = free_NS[scene_N, best_N]
        map_NS[scene_N[takes_N], best_N[takes_N]] = which
    return map_NS
