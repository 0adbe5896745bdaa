"""Evaluation protocols by id: raymix-1, the paper's, and those of published code with the commit that each was read from.

The paper (Sections 4.2-4.4) leaves several of these choices open, and published code fills them in differently; so no
score in raymix exists without a protocol. The choices are in `choices`, the values in `presets`: one more protocol is one
more value there.

A column of five published tables may be called CIoU@0.3 and hold five different quantities; the fields below are what
they differ in. Defaults are those of `raymix-1`.

A preset that repeats a fault of published code ends in -code, the corrected one in -fixed. Where a code base leaves a choice to
its model (object-guided fusion, a map's sign, a softmax over classes), maps are expected as they are after that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

TruthScope = Literal["canvas", "panel", "union"]

UpsampleMode = Literal["bilinear", "bicubic"]

Normalization = Literal["none", "minmax_map", "minmax_scene", "max_map", "affine"]

Binarization = Literal["absolute", "fraction_of_max", "quantile", "truth_area"]

MapMatching = Literal["labels", "joint_iou", "oracle", "greedy_iou", "broadcast"]

MapCombination = Literal["mean", "max", "best"]

APKind = Literal["image", "binary", "swapped", "dataset", "detection"]


@dataclass(frozen=True)
class EvaluationProtocol:
    """Every choice between raw maps and numbers; ValueError for a choice that `raymix.metrics` does not know.

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
    scope: TruthScope = "canvas"
    # raw cells to canvas pixels: the conventions of torch.nn.functional.interpolate (cv2.resize is align_corners=False)
    upsample: UpsampleMode = "bilinear"
    align_corners: bool = False
    # after upsampling and, by panel, after cutting; a map (scene) that is constant becomes 0 everywhere, and so does under
    # max_map one that is nowhere positive; affine takes the numbers beside it to 0 and 1
    normalise: Normalization = "minmax_map"
    affine: tuple[float, float] = (0.0, 1.0)
    # a pixel is predicted where the normalised map reaches (strict: exceeds) `threshold`, or `threshold` times its highest
    # value, or its value at index int(threshold * pixels) in ascending order, or that of rank |truth| from above
    binarise: Binarization = "absolute"
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
    match: MapMatching = "joint_iou"
    # many maps where one is wanted (one source, union, broadcast, PIAP): the mean or maximum of the normalised maps, which is
    # then normalised as a map; best: with one source the map of the highest IoU
    combine: MapCombination = "mean"
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
    ap: APKind = "image"
    ap_bins: int = 1000
    # several sources: also AP of the mean map against the union of all sources
    piap: bool = True
    # also the rate of scenes in which all sources succeed (IIoU), and all IoU columns with binarise=truth_area
    all_sources: bool = False
    adaptive: bool = False

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(EvaluationProtocol).items():
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


RAYMIX_1 = EvaluationProtocol("raymix-1")
"""The default: every field at its default. Read from no published code; made to have one meaning.

A map is cut once, in the middle of its range: the usual half, which was tuned for no system, where the paper's .4 is that of
its own method (mixloc-single, mixloc-multi). AP, CAP and PIAP need no cut; a cut that takes as many pixels as the truth has
would give a second meaning to each IoU column: such adaptive columns are those of sslalign.
"""


_PAPER = "Mix and Localize, Section 4.4; the released code (bbdd56a) has no evaluation. "

MIXLOC_SINGLE = EvaluationProtocol(
    "mixloc-single",
    source=_PAPER
    + "Normalisation is not stated there: min-max by map. The threshold is that of the paper's own method.",
    sources="one",
    threshold=0.4,
    iou_thresholds=(0.3, 0.5),
)

MIXLOC_MULTI = EvaluationProtocol(
    "mixloc-multi",
    source=_PAPER + "Starred: the best of the k! pairings by metric, as in the tables; unstarred: one pairing by IoU.",
    sources="several",
    threshold=0.4,
    iou_thresholds=(0.1, 0.3),
    match="oracle",
)

MIXLOC_NAMED = replace(
    MIXLOC_MULTI,
    id="mixloc-multi-named",
    source="mixloc-multi for systems whose maps have class names: each source is held against the map of its class, no star.",
    match="labels",
)


_DSOL = "DTaoo/Discriminative-Sounding-Objects-Localization 7f40207, music-exp/"

_EDGES = " Edges of boxes are cut off to whole pixels there, here they are rounded."

DSOL_SOLO = EvaluationProtocol(
    "dsol-solo",
    source=_DSOL + "tools.py; maps after the sigmoid. AP is not reported there." + _EDGES,
    sources="one",
    normalise="none",
    binarise="fraction_of_max",
    threshold=0.1,
    threshold_strict=True,
    iou_thresholds=(0.5,),
)

DSOL_SYN = EvaluationProtocol(
    "dsol-syn",
    source=_DSOL + "eval.py; one map a class, after the softmax over classes. CAP is not reported there." + _EDGES,
    sources="several",
    normalise="none",
    binarise="fraction_of_max",
    threshold=0.5,
    threshold_strict=True,
    iou_thresholds=(0.3, 0.5),
    match="labels",
    silence="nsa",
    piap=False,
)

DSOL_DUET = replace(
    DSOL_SYN,
    id="dsol-duet",
    source=_DSOL
    + "eval_duet.py; as dsol-syn. There a class without a box is silent, here one that is not in the scene."
    + _EDGES,
    threshold=0.2,
)


LVS = EvaluationProtocol(
    "lvs",
    source="hche11/Localizing-Visual-Sounds-the-Hard-Way 8fe8cbb, test.py; always half of the pixels. Single votes weigh "
    "half; there every box is a vote, here all boxes of an annotator are one. AP, not reported there, is of agreed pixels.",
    sources="one",
    binarise="quantile",
    threshold_strict=True,
    iou_thresholds=(0.5,),
    weighs_votes=True,
)

EZVSL = EvaluationProtocol(
    "ezvsl",
    source="stoneMo/EZ-VSL 95ff5bf, test.py and utils.py; maps before or after the fusion with the object prior. Votes as "
    "under lvs.",
    sources="one",
    align_corners=True,
    binarise="quantile",
    iou_thresholds=(0.5,),
    weighs_votes=True,
)

SLAVC = EvaluationProtocol(
    "slavc",
    source="stoneMo/SLAVC 05b429c, test.py (--relative_prediction) and utils.py; maps are cosines, there divided by tau as is "
    "the range. Detection AP from recall 0 over all confidences; there it skips the first and takes some 200. LocAcc "
    "(precision_at_50) is the rate of IoU > .5 there, here iou@0.5 is that of >= .5, as AP and F1 have it in both. "
    "Votes as under lvs.",
    sources="one",
    upsample="bicubic",
    align_corners=True,
    normalise="affine",
    affine=(-1.0, 1.0),
    binarise="quantile",
    iou_thresholds=(0.5,),
    weighs_votes=True,
    ap="detection",
)


AVGN_CODE = EvaluationProtocol(
    "avgn-code",
    source="stoneMo/AVGN 5ab8cab, train.py and utils.py; each source on its own frame, here its panel of the canvas. AP "
    "(PIAP there) has truth and binarised map swapped. Faults of its reader of boxes are not repeated.",
    scope="panel",
    upsample="bicubic",
    binarise="quantile",
    success_strict=True,
    match="labels",
    unit="source",
    ap="swapped",
    piap=False,
)

AVGN_FIXED = replace(AVGN_CODE, id="avgn-fixed", source="avgn-code with the AP of the continuous map.", ap="image")

NOPRIOR_CODE = EvaluationProtocol(
    "noprior-code",
    source="VisualAIKHU/NoPrior_MultiSSL 9910fb1, train.py; greedy in the order of the maps, a scene without any map is left "
    "out, a surplus map is a row of zeros, AP of the binarised map. PIAP is left out.",
    sources="several",
    scope="panel",
    upsample="bicubic",
    binarise="quantile",
    threshold_strict=True,
    iou_thresholds=(0.3, 0.5),
    match="greedy_iou",
    missing="drop",
    surplus="rows",
    unit="source",
    ap="binary",
    piap=False,
)

NOPRIOR_FIXED = replace(
    NOPRIOR_CODE,
    id="noprior-fixed",
    source="noprior-code with one joint pairing, a fixed denominator and the AP of the continuous map.",
    match="joint_iou",
    missing="zero",
    surplus="ignore",
    ap="image",
)

TVSL_CODE = EvaluationProtocol(
    "tvsl-code",
    source="enyac-group/T-VSL 2cddbbb, main.py (validate_multi) and utils.py; what it calls CIoU@0.3 is the mean IoU of maps "
    "cut at 0.3. Its inversion of the map is the sign of its model's map.",
    sources="several",
    upsample="bicubic",
    threshold=0.3,
    iou_thresholds=(0.3,),
    reports="mean",
    match="labels",
    unit="source",
    piap=False,
)

TVSL_FIXED = replace(
    TVSL_CODE, id="tvsl-fixed", source="tvsl-code with the rate of successes as CIoU@0.3.", reports="rate"
)


GAR_UNION = EvaluationProtocol(
    "gar-union",
    source="VisualAIKHU/GAR-SSL de1edbe, GAR_vggss_duet.py; the union of all boxes against the union of all true boxes, and "
    "its AP, there CAP. Continuous maps, which it has not, are cut at half their range. PIAP over all pixels is left out.",
    scope="union",
    iou_thresholds=(0.3, 0.5),
    combine="max",
    ap="binary",
    piap=False,
)

SSLALIGN = EvaluationProtocol(
    "sslalign",
    source="kaistmm/SSLalignment e7ae3c5, test.py and utils.py; a row is one sound asked for; IIoU: all sounds of a scene "
    "succeed; adaptive: as many pixels as the truth has, single votes with them. AP is not reported there. Votes as under lvs.",
    binarise="quantile",
    threshold_strict=True,
    iou_thresholds=(0.5,),
    match="labels",
    weighs_votes=True,
    unit="source",
    all_sources=True,
    adaptive=True,
    piap=False,
)

WSOL_PXAP = EvaluationProtocol(
    "wsol-pxap",
    source="clovaai/wsolevaluation 96f4b88, evaluation.py (MaskEvaluator); all instances are one truth. There is no IoU, "
    "and its ignore regions are not known here. A missing map is 0 everywhere.",
    scope="union",
    iou_thresholds=(),
    ap="dataset",
    piap=False,
)


def get_protocol(name: str) -> EvaluationProtocol:
    """The protocol of this id; ValueError with the nearest id where there is none."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = get_close_matches(name, PROTOCOLS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(PROTOCOLS)}"
    raise ValueError(f"protocol={name!r} is unknown, {hint}")


PROTOCOLS: dict[str, EvaluationProtocol] = {
    protocol.id: protocol
    for protocol in (
        *(
            RAYMIX_1,
            MIXLOC_SINGLE,
            MIXLOC_MULTI,
            MIXLOC_NAMED,
            DSOL_SOLO,
            DSOL_SYN,
            DSOL_DUET,
            LVS,
            EZVSL,
            SLAVC,
            AVGN_CODE,
            AVGN_FIXED,
        ),
        *(NOPRIOR_CODE, NOPRIOR_FIXED, TVSL_CODE, TVSL_FIXED, GAR_UNION, SSLALIGN, WSOL_PXAP),
    )
}


def headline_metric(protocol: EvaluationProtocol, sources: int) -> str:
    """The number that a protocol is quoted by, without its star: CIoU@0.3 or IoU@0.5 where it has that threshold."""
    wanted, kind = (0.3, "ciou") if sources > 1 else (0.5, "iou")
    if not protocol.iou_thresholds:
        return "pxap"
    at = min(protocol.iou_thresholds, key=lambda each: abs(each - wanted))
    return f"{kind}@{at:g}"


def describe_protocol(protocol: EvaluationProtocol, sources: int) -> str:
    """What a protocol holds against what, in a few words."""
    at = f"{protocol.threshold:g}"
    ends = "" if protocol.normalise in ("none", "affine") else " of the range"
    cut = {
        "absolute": f"pixels from {at}{ends}",
        "fraction_of_max": f"pixels above {at} of the maximum",
        "quantile": "the highest half of the pixels",
        "truth_area": "as many pixels as the truth has",
    }[protocol.binarise]
    if not protocol.iou_thresholds:
        cut = "all pixels of all scenes together"
    scope = {"canvas": "", "panel": "its own panel alone", "union": "one map against the union"}[protocol.scope]
    pairing = {
        "labels": "by class",
        "joint_iou": "one pairing",
        "oracle": "the best pairing",
        "greedy_iou": "map after map",
        "broadcast": "one map for all",
    }
    words = [cut, scope if sources > 1 else ""]
    if sources > 1 and protocol.scope != "union":
        words += [pairing[protocol.match], "mean of the sources" if protocol.unit == "scene" else "each source a row"]
    if protocol.reports == "mean":
        words.append("a mean IoU, no rate")
    return ", ".join(word for word in words if word)
