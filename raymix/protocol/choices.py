"""Every choice between raw maps and numbers, as one frozen value that refuses what scoring could not honour.

A column of five published tables may be called CIoU@0.3 and hold five different quantities; the fields below are what
they differ in. Defaults are those of `raymix-1`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

Scope = Literal["canvas", "panel", "union"]
Upsample = Literal["bilinear", "bicubic"]
Normalise = Literal["none", "minmax_map", "minmax_scene", "max_map", "affine"]
Binarise = Literal["absolute", "fraction_of_max", "quantile", "truth_area"]
Match = Literal["labels", "joint_iou", "oracle", "greedy_iou", "broadcast"]
Combine = Literal["mean", "max", "best"]
AP = Literal["image", "binary", "swapped", "dataset", "detection"]


@dataclass(frozen=True)
class Protocol:
    """Every choice between raw maps and numbers; ValueError for a choice that `raymix.scoring` does not know.

    Maps are larger where the sound is; what a code base does to the sign of its own maps is not part of a protocol.
    Maps of type bool are predictions: they are neither resized, normalised nor binarised.
    """

    id: str
    # code base and commit that it was read from, and what is not copied from there
    source: str = ""
    # scenes that it is made for, by their number of sounding sources
    sources: Literal["any", "one", "several"] = "any"
    # the region that a map is held against: the whole canvas, so that activation on another source's panel is wrong; the
    # panel of the source, everything outside it cut away; or the canvas, one map of all sources against their union
    scope: Scope = "canvas"
    # raw cells to canvas pixels: the conventions of torch.nn.functional.interpolate (cv2.resize is align_corners=False)
    upsample: Upsample = "bilinear"
    align_corners: bool = False
    # after upsampling and, by panel, after cutting; a map (scene) that is constant becomes 0 everywhere, and so does under
    # max_map one that is nowhere positive; affine takes the numbers beside it to 0 and 1
    normalise: Normalise = "minmax_map"
    affine: tuple[float, float] = (0.0, 1.0)
    # a pixel is predicted where the normalised map reaches (strict: exceeds) `threshold`, or `threshold` times its highest
    # value, or its value at index int(threshold * pixels) in ascending order, or that of rank |truth| from above
    binarise: Binarise = "absolute"
    threshold: float = 0.5
    threshold_strict: bool = False
    # IoUs at which the success rates are taken (success: IoU >= t, strict: > t), and the grid of the AUC, always >=
    iou_thresholds: tuple[float, ...] = (0.1, 0.3, 0.5)
    success_strict: bool = False
    auc_points: int = 21
    # what a column such as ciou@0.3 holds: the rate of successes, or the mean IoU, which needs no 0.3
    reports: Literal["rate", "mean"] = "rate"
    # several sources: which map is held against which source. joint_iou: one pairing per scene, of the highest total IoU
    # (ties: highest total AP). oracle: that, and starred columns with the best pairing for each metric. greedy_iou: map
    # after map takes its best source, and a source once taken is worth 0. labels: the map of the source's class; without
    # class names the best pairing for each metric takes its place, and all columns are starred. broadcast: one map for all
    match: Match = "joint_iou"
    # many maps where one is wanted (one source, union, broadcast, PIAP): the mean or maximum of the normalised maps, which is
    # then normalised as a map; best: with one source the map of the highest IoU
    combine: Combine = "mean"
    # a source without a map scores 0; drop: a scene without any map is no row at all
    missing: Literal["zero", "drop"] = "zero"
    # a map without a source is ignored (PIAP, which pairs nothing, averages all maps), or is one more row of zeros
    surplus: Literal["ignore", "rows"] = "ignore"
    # scenes (and single sources) whose truth has no pixel count in no box metric, whatever was predicted, or are refused;
    # under ap=detection they are negatives
    empty_truth: Literal["skip", "error"] = "skip"
    # pixels that one annotator alone has (every other pixel of truth two have) count half in the truth, in IoU alone: sum(P G)
    # / (sum(G) + |P where G = 0|); a source of single votes alone is one with truth. Else, and in AP, they are not in the truth
    # and scenes with such a source are as those without regions
    weighs_votes: bool = False
    # what is averaged: scenes, each the mean over its sources, or sources
    unit: Literal["scene", "source"] = "scene"
    # nsa: also the share of pixels <= silence_threshold of the normalised maps that belong to no source
    silence: Literal["none", "nsa"] = "none"
    silence_threshold: float = 0.2
    # average precision of each map's pixels; of the binarised map's; the same with truth and prediction swapped; of all
    # pixels of the set together, in a histogram (PxAP); or of the samples, ranked by confidence
    ap: AP = "image"
    ap_bins: int = 1000
    # several sources: also AP of the mean map against the union of all sources
    piap: bool = True
    # also the rate of scenes in which all sources succeed (IIoU), and all IoU columns with binarise=truth_area
    all_sources: bool = False
    adaptive: bool = False

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Protocol).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise self._refusal(name, f"is not one of {list(get_args(hint))}")
            if hint is bool and not isinstance(value, bool):
                raise self._refusal(name, "is not True or False")
        self._check_numbers()
        if self.silence == "nsa" and self.scope != "canvas":
            raise self._refusal("silence", f"needs scope='canvas', not {self.scope!r}: a silent map has no panel")
        if self.ap in ("dataset", "detection") and self.sources != "one" and self.scope != "union":
            raise self._refusal("ap", "needs one map and one truth a scene: scope='union' or sources='one'")
        if self.combine == "best" and (self.scope == "union" or self.match == "broadcast"):
            raise self._refusal("combine", "leaves several maps where scope='union' or match='broadcast' needs one")

    def _check_numbers(self) -> None:
        free = self.normalise in ("none", "affine") and self.binarise == "absolute"
        numbers = [("threshold", self.threshold)] if not free else []
        for name, value in (*numbers, *(("iou_thresholds", each) for each in self.iou_thresholds)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"protocol {self.id}: {name}={value} lies outside [0, 1]")
        for name in ("threshold", "silence_threshold"):
            if not math.isfinite(getattr(self, name)):
                raise self._refusal(name, "is not a finite number")
        if len(self.affine) != 2 or not -math.inf < self.affine[0] < self.affine[1] < math.inf:
            raise self._refusal("affine", "is not a finite pair (low, high) with low < high")
        if self.auc_points < 2:
            raise ValueError(f"protocol {self.id}: auc_points={self.auc_points}, the trapezoid rule needs at least 2")
        if not 1 <= self.ap_bins <= 100_000:
            raise self._refusal("ap_bins", "lies outside 1..100000")

    def _refusal(self, name: str, rule: str) -> ValueError:
        value: Any = getattr(self, name)
        return ValueError(f"protocol {self.id}: {name}={value!r} {rule}")

    def declines(self, sources: int) -> str | None:
        """Why scenes of this many sounding sources are not scored under it; None where they are."""
        if self.sources == "any" or (self.sources == "one") == (sources == 1):
            return None
        wanted = "one source" if self.sources == "one" else "several sources"
        return f"protocol {self.id} is for scenes of {wanted}, these have {sources}"
