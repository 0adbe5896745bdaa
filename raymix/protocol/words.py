"""A protocol in a few words for the reader of a table: what it is quoted by, and what it holds against what."""

from __future__ import annotations

from raymix.protocol.choices import Protocol


def headline(protocol: Protocol, sources: int) -> str:
    """The number that a protocol is quoted by, without its star: CIoU@0.3 or IoU@0.5 where it has that threshold."""
    wanted, kind = (0.3, "ciou") if sources > 1 else (0.5, "iou")
    if not protocol.iou_thresholds:
        return "pxap"
    at = min(protocol.iou_thresholds, key=lambda each: abs(each - wanted))
    return f"{kind}@{at:g}"


def said(protocol: Protocol, sources: int) -> str:
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
        "labels": "by class", "joint_iou": "one pairing", "oracle": "the best pairing", "greedy_iou": "map after map",
        "broadcast": "one map for all",
    }  # fmt: skip
    words = [cut, scope if sources > 1 else ""]
    if sources > 1 and protocol.scope != "union":
        words += [pairing[protocol.match], "mean of the sources" if protocol.unit == "scene" else "each source a row"]
    if protocol.reports == "mean":
        words.append("a mean IoU, no rate")
    return ", ".join(word for word in words if word)
