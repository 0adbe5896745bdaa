"""Named evaluation protocols: what a number such as CIoU@0.3 means, as one frozen value whose id travels with it.

The paper (Sections 4.2-4.4) leaves several of these choices open, and published code fills them in differently; so no
score in raymix exists without a protocol. One more protocol is one more value in this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Protocol:
    """Every choice between raw maps and numbers; ValueError for a choice that `raymix.scoring` does not know."""

    id: str
    # the region that a map is held against: the whole canvas, so activation on another source's panel counts as wrong
    scope: Literal["canvas"] = "canvas"
    # raw cells to canvas pixels
    upsample: Literal["bilinear"] = "bilinear"
    align_corners: bool = False
    # after upsampling, each map for itself; a constant map becomes 0 everywhere
    normalise: Literal["minmax_map"] = "minmax_map"
    # a pixel is predicted where the normalised map reaches this
    threshold: float = 0.5
    # IoUs at which the success rates are taken (a scene succeeds at IoU >= threshold), and the grid of the AUC
    iou_thresholds: tuple[float, ...] = (0.1, 0.3, 0.5)
    auc_points: int = 21
    # several sources: one pairing of maps with sources per scene, of the highest total IoU (ties: highest total AP)
    match: Literal["joint_iou"] = "joint_iou"
    # one source: the mean of the normalised maps is the map; for PIAP the same mean meets the union of all sources
    combine: Literal["mean"] = "mean"
    # a source without a map scores 0; a map without a source is ignored (PIAP, which pairs nothing, averages all maps)
    missing: Literal["zero"] = "zero"
    surplus: Literal["ignore"] = "ignore"
    # scenes (and single sources) whose truth has no pixel count in no box metric, whatever was predicted
    empty_truth: Literal["skip"] = "skip"
    # the row of the table: a scene, with the mean over its sources
    unit: Literal["scene"] = "scene"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Protocol).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ValueError(
                    f"protocol {self.id}: {name}={getattr(self, name)!r} is not one of {list(get_args(hint))}"
                )
        numbers = (("threshold", self.threshold), *(("iou_thresholds", value) for value in self.iou_thresholds))
        for name, value in numbers:
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"protocol {self.id}: {name}={value} lies outside [0, 1]")
        if self.auc_points < 2:
            raise ValueError(f"protocol {self.id}: auc_points={self.auc_points}, the trapezoid rule needs at least 2")


RAYMIX_1 = Protocol("raymix-1")
"""The default: every field at its default above. Read from no published code; made to have one meaning."""

PROTOCOLS: dict[str, Protocol] = {protocol.id: protocol for protocol in (RAYMIX_1,)}


def protocol(name: str) -> Protocol:
    """The protocol of this id; ValueError with the nearest id where there is none."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = get_close_matches(name, PROTOCOLS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(PROTOCOLS)}"
    raise ValueError(f"protocol={name!r} is unknown, {hint}")
