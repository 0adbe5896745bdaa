"""The protocols by name: raymix-1, the paper's, and those of published code, each with the commit it was read from.

A preset that repeats a fault of published code ends in -code, and its twin in -fixed. Where a code base leaves a choice to
its model (object-guided fusion, a map's sign, a softmax over classes), maps are expected as they are after that.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from raymix.protocol.choices import Protocol

RAYMIX_1 = Protocol("raymix-1")
"""The default: every field at its default. Read from no published code; made to have one meaning.

A map is cut once, in the middle of its range: the usual half, which was tuned for no system, where the paper's .4 is that of
its own method (mixloc-single, mixloc-multi). AP, CAP and PIAP need no cut; a cut that takes as many pixels as the truth has
would give a second meaning to each IoU column: such adaptive columns are those of sslalign.
"""

_PAPER = "Mix and Localize, Section 4.4; the released code (bbdd56a) has no evaluation. "
MIXLOC_SINGLE = Protocol(
    "mixloc-single",
    source=_PAPER
    + "Normalisation is not stated there: min-max by map. The threshold is that of the paper's own method.",
    sources="one",
    threshold=0.4,
    iou_thresholds=(0.3, 0.5),
)
MIXLOC_MULTI = Protocol(
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
DSOL_SOLO = Protocol(
    "dsol-solo",
    source=_DSOL + "tools.py; maps after the sigmoid. AP is not reported there." + _EDGES,
    sources="one",
    normalise="none",
    binarise="fraction_of_max",
    threshold=0.1,
    threshold_strict=True,
    iou_thresholds=(0.5,),
)
DSOL_SYN = Protocol(
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

LVS = Protocol(
    "lvs",
    source="hche11/Localizing-Visual-Sounds-the-Hard-Way 8fe8cbb, test.py; always half of the pixels. Single votes weigh "
    "half; there every box is a vote, here all boxes of an annotator are one. AP, not reported there, is of agreed pixels.",
    sources="one",
    binarise="quantile",
    threshold_strict=True,
    iou_thresholds=(0.5,),
    weighs_votes=True,
)
EZVSL = Protocol(
    "ezvsl",
    source="stoneMo/EZ-VSL 95ff5bf, test.py and utils.py; maps before or after the fusion with the object prior. Votes as "
    "under lvs.",
    sources="one",
    align_corners=True,
    binarise="quantile",
    iou_thresholds=(0.5,),
    weighs_votes=True,
)
SLAVC = Protocol(
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

AVGN_CODE = Protocol(
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
NOPRIOR_CODE = Protocol(
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
TVSL_CODE = Protocol(
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

GAR_UNION = Protocol(
    "gar-union",
    source="VisualAIKHU/GAR-SSL de1edbe, GAR_vggss_duet.py; the union of all boxes against the union of all true boxes, and "
    "its AP, there CAP. Continuous maps, which it has not, are cut at half their range. PIAP over all pixels is left out.",
    scope="union",
    iou_thresholds=(0.3, 0.5),
    combine="max",
    ap="binary",
    piap=False,
)
SSLALIGN = Protocol(
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
WSOL_PXAP = Protocol(
    "wsol-pxap",
    source="clovaai/wsolevaluation 96f4b88, evaluation.py (MaskEvaluator); all instances are one truth. There is no IoU, "
    "and its ignore regions are not known here. A missing map is 0 everywhere.",
    scope="union",
    iou_thresholds=(),
    ap="dataset",
    piap=False,
)

PROTOCOLS: dict[str, Protocol] = {
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


def protocol(name: str) -> Protocol:
    """The protocol of this id; ValueError with the nearest id where there is none."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = get_close_matches(name, PROTOCOLS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(PROTOCOLS)}"
    raise ValueError(f"protocol={name!r} is unknown, {hint}")
