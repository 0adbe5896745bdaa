"""Every preset against a slow reading of its rules: one scene, one map, one threshold at a time, AP by scikit-learn."""

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score

from raymix.metrics.functional import resize_maps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import PROTOCOLS
from raymix.metrics.scoring import score_maps_under_protocols, summarize_scores

SIZE, CELLS = 12, 3
GRID = np.arange(21) / 20


def scenes(sources, maps, n=8, seed=0):
    """Random maps that know a little, boxes that overlap, a truth without a pixel, a scene without maps, one with few."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, sources, SIZE, SIZE * sources), bool)
    for i, s in np.ndindex(n, sources):
        y, x = rng.integers(0, SIZE // 2, 2)
        masks[i, s, y : y + rng.integers(1, 7), s * SIZE + x : s * SIZE + x + rng.integers(1, 7)] = True
    said = rng.normal(size=(n, maps, CELLS, CELLS * sources)).astype(np.float32)
    for which in range(min(maps, sources)):
        said[:, which] += 2 * masks[:, which].reshape(n, CELLS, 4, CELLS * sources, 4).mean(axis=(2, 4)).astype(
            np.float32
        )
    masks[3, -1] = False
    rows = [row[rng.permutation(maps)] for row in said]
    rows[5], rows[6] = None, rows[6][:1]
    names = [f"class {which}" for which in range(maps)]
    classes = [None if row is None else list(rng.permutation(names))[: len(row)] for row in rows]
    truth = SceneGroundTruth(
        ids=tuple(f"scene {i:02d}" for i in range(n)),
        videos=tuple((f"video {i // 2}",) for i in range(n)),
        layout="made",
        canvas=(SIZE, SIZE * sources),
        panels_NS=np.tile(np.arange(sources), (n, 1)),
        rects_P4=np.array([[s * SIZE, 0, (s + 1) * SIZE, SIZE] for s in range(sources)]),
        masks_NSYX=masks,
        has_truth_N=np.ones(n, bool),
        scenes_hash="made",
        labels=tuple(tuple(rng.permutation([*names, "class x", "class y"])[:sources].tolist()) for _ in range(n)),
    )
    return rows, truth, classes


def minmax(pixels):
    return (pixels - pixels.min()) / (np.ptp(pixels) or 1)


def median(pixels, q=0.5):
    return np.sort(pixels.ravel())[int(q * pixels.size)]


NORMAL = {  # what else a preset does to a map on the canvas
    "dsol-solo": lambda a: a,
    "dsol-syn": lambda a: a,
    "dsol-duet": lambda a: a,
    "slavc": lambda a: (a + 1) / 2,
}
CUT = {
    "raymix-1": lambda a: a >= 0.5,
    "mixloc-single": lambda a: a >= 0.4,
    "mixloc-multi": lambda a: a >= 0.4,
    "mixloc-multi-named": lambda a: a >= 0.4,
    "dsol-solo": lambda a: a > 0.1 * a.max(),
    "dsol-syn": lambda a: a > 0.5 * a.max(),
    "dsol-duet": lambda a: a > 0.2 * a.max(),
    "lvs": lambda a: a > median(a),
    "ezvsl": lambda a: a >= median(a),
    "slavc": lambda a: a >= median(a),
    "avgn-code": lambda a: a >= median(a),
    "avgn-fixed": lambda a: a >= median(a),
    "noprior-code": lambda a: a > median(a),
    "noprior-fixed": lambda a: a > median(a),
    "tvsl-code": lambda a: a >= 0.3,
    "tvsl-fixed": lambda a: a >= 0.3,
    "gar-union": lambda a: a >= 0.5,
    "sslalign": lambda a: a > median(a),
    "wsol-pxap": lambda a: a >= 0.5,
}
KIND = {"ezvsl": (True, False), "slavc": (True, True)} | {
    name: (False, True)
    for name in ("avgn-code", "avgn-fixed", "noprior-code", "noprior-fixed", "tvsl-code", "tvsl-fixed")
}


def iou(predicted, truth):
    return (predicted & truth).sum() / max(1, (predicted | truth).sum())


def ap(name, scores, truth):
    cut = CUT[name](scores)
    if name == "avgn-code":
        return average_precision_score(cut.ravel(), truth.ravel().astype(float)) if cut.any() else 0.0
    binary = name in ("noprior-code", "gar-union")
    return average_precision_score(truth.ravel(), (cut if binary else scores).ravel().astype(float))


def pixels(name, row, canvas):
    return [
        resize_maps(cells[None, None], canvas, *KIND.get(name, (False, False)))[0, 0].astype(np.float64)
        for cells in row
    ]


def one_map(name, row, canvas):
    """The mean of all maps (gar: the highest of each pixel), normalised before and after where the preset normalises."""
    maps = pixels(name, row, canvas)
    if name == "slavc":
        return (np.mean(maps, axis=0) + 1) / 2
    maps = [NORMAL.get(name, minmax)(each) for each in maps]
    return NORMAL.get(name, minmax)(np.max(maps, axis=0) if name == "gar-union" else np.mean(maps, axis=0))


def shown(name, maps, truth, i, s):
    """What source s is held against: each map as normalised on the canvas or in its panel, and its truth there."""
    x0, y0, x1, y1 = truth.rects_P4[truth.panels_NS[i, s]]
    part = np.s_[y0:y1, x0:x1] if name.startswith(("avgn", "noprior")) else np.s_[:, :]
    return [NORMAL.get(name, minmax)(each[part]) for each in maps], truth.masks_NSYX[i, s][part]


def pair(name, ious, aps, names, labels):
    """{star: (pairs for IoU, pairs for AP)}, a pair for each source, None where it has no map."""
    s, m = ious.shape
    by_name = name.startswith(("dsol", "avgn", "tvsl", "sslalign")) or name.endswith("-named")
    if by_name and names is not None:
        found = [names.index(label) if label in names else None for label in labels]
        return {"": (found, found)}
    if name == "noprior-code":
        left, found = ious.copy(), [None] * s
        for which in range(m):
            best = int(np.argmax(left[:, which]))
            if found[best] is None:
                found[best] = which
            left[best] = 0
        return {"": (found, found)}
    ways = [way for way in set(permutations([*range(m), *[None] * s], s))]

    def gain(values, way):
        return sum(values[source, which] for source, which in enumerate(way) if which is not None)

    joint = max(ways, key=lambda way: (round(gain(ious, way), 9), gain(aps, way)))
    best = max(ways, key=lambda way: (round(gain(aps, way), 9), gain(ious, way)))
    both = {"": (joint, joint), "*": (joint, best)}
    return (
        both
        if name == "mixloc-multi"
        else {"": both[""]}
        if name in ("raymix-1", "noprior-fixed")
        else {"*": both["*"]}
    )


def rows_of(values, way):
    return [0.0 if which is None else values[source, which] for source, which in enumerate(way)]


def several(name, rows, truth, classes):
    """Means of CIoU, its rate at .3, AUC and CAP, by unit of the preset."""
    by_source = name.startswith(("avgn", "noprior", "tvsl", "sslalign"))
    found = {}
    for i, row in enumerate(rows):
        known = [s for s in range(truth.panels_NS.shape[1]) if truth.masks_NSYX[i, s].any()]
        if row is None and name == "noprior-code":
            continue
        maps = pixels(name, [] if row is None else row, truth.canvas)
        ious, aps = np.zeros((2, len(known), len(maps)))
        for at, s in enumerate(known):
            views, mask = shown(name, maps, truth, i, s)
            for which, view in enumerate(views):
                ious[at, which], aps[at, which] = iou(CUT[name](view), mask), ap(name, view, mask)
        ways = pair(name, ious, aps, classes and (classes[i] or []), [truth.labels[i][s] for s in known])
        for star, (for_iou, for_ap) in ways.items():
            one, other = rows_of(ious, for_iou), rows_of(aps, for_ap)
            if name == "noprior-code":
                more = [0.0] * max(0, len(maps) - len(known))
                one, other = one + more, other + more
            into = found.setdefault(star, ([], []))
            into[0].extend(one if by_source else [np.mean(one)])
            into[1].extend(other if by_source else [np.mean(other)])
    at = {"success": (lambda v: v > 0.3 + 1e-9) if name.startswith("avgn") else (lambda v: v >= 0.3 - 1e-9)}
    means = {}
    for star, (ious, aps) in found.items():
        values = np.array(ious)
        means |= {f"ciou{star}": values.mean(), f"auc{star}": area(values), f"cap{star}": np.mean(aps)}
        if 0.3 in PROTOCOLS[name].iou_thresholds:
            means[f"ciou@0.3{star}"] = values.mean() if name == "tvsl-code" else at["success"](values).mean()
    return means


def area(values):
    return auc(GRID, [(values >= t - 1e-9).mean() for t in GRID])


SEVERAL = [name for name, how in PROTOCOLS.items() if how.declines(2) is None and how.scope != "union"]
ONE = [name for name, how in PROTOCOLS.items() if how.declines(1) is None]


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("sources, maps", [(2, 1), (2, 4), (3, 3), (4, 2)])
def test_several_sources(sources, maps, named):
    rows, truth, classes = scenes(sources, maps, seed=10 * sources + maps)
    classes = classes if named else None
    tables = score_maps_under_protocols(rows, truth, [PROTOCOLS[name] for name in SEVERAL], classes)
    assert len(tables) == len(SEVERAL) == 12
    for name, table in tables.items():
        summary = summarize_scores(table, resamples=2)
        expected = several(name, rows, truth, classes)
        assert {m: summary[m].value for m in expected} == pytest.approx(expected, abs=2e-6), name


@pytest.mark.parametrize("maps", [1, 2, 3])
def test_one_source(maps):
    rows, truth, _ = scenes(1, maps, seed=maps)
    tables = score_maps_under_protocols(rows, truth, [PROTOCOLS[name] for name in ONE])
    assert len(tables) == len(ONE) == 11
    for name, table in tables.items():
        ious, aps = [], []
        for i, row in enumerate(rows):
            mask = truth.masks_NSYX[i, 0]
            if mask.any():
                view = None if row is None else one_map(name, row, truth.canvas)
                ious.append(0.0 if row is None else iou(CUT[name](view), mask))
                aps.append(0.0 if row is None else ap(name, view, mask))
        expected = {"iou": np.mean(ious), "auc": area(np.array(ious))}
        if PROTOCOLS[name].ap not in ("dataset", "detection"):
            expected["ap"] = np.mean(aps)
        summary = summarize_scores(table, resamples=2)
        assert {m: summary[m].value for m in expected} == pytest.approx(expected, abs=2e-6), name


@pytest.mark.parametrize("sources, maps", [(1, 1), (1, 3), (2, 2)])
def test_union_and_pxap(sources, maps):
    rows, truth, _ = scenes(sources, maps, seed=7)
    tables = score_maps_under_protocols(rows, truth, [PROTOCOLS["gar-union"], PROTOCOLS["wsol-pxap"]])
    right, wrong, ious = np.zeros(1001), np.zeros(1001), []
    for i, row in enumerate(rows):
        mask = truth.masks_NSYX[i].any(axis=0)
        ious.append(0.0 if row is None else iou(CUT["gar-union"](one_map("gar-union", row, truth.canvas)), mask))
        view = np.zeros(truth.canvas) if row is None else one_map("wsol-pxap", row, truth.canvas)
        if mask.any():
            for score, hit in zip(view.ravel(), mask.ravel(), strict=True):  # the definition: a histogram of all scores
                (right if hit else wrong)[min(1000, int(np.floor(score * 1000 + 1e-9)))] += 1
    tp, fp = right[::-1].cumsum(), wrong[::-1].cumsum()
    pxap = sum(tp[b] / (tp[b] + fp[b]) * right[::-1][b] / right.sum() for b in range(1001) if tp[b] + fp[b])
    seen = [each for i, each in enumerate(ious) if truth.masks_NSYX[i].any()]
    union, pixel = (summarize_scores(tables[name], resamples=2) for name in ("gar-union", "wsol-pxap"))
    assert union["iou" if sources == 1 else "ciou"].value == pytest.approx(np.mean(seen), abs=1e-6)
    assert pixel["pxap"].value == pytest.approx(
        pxap, abs=2e-3 if sources * maps > 1 else 1e-9
    )  # a mean may change its bin


def test_detection():
    """At every confidence the scenes at or above it: right, wrong, missed; their precision and recall, and AP of those."""
    rows, truth, _ = scenes(1, 1, n=60, seed=3)
    masks, rng = np.zeros_like(truth.masks_NSYX), np.random.default_rng(0)
    for i, row in enumerate(rows):
        if i % 3 and row is not None:  # a side of the frame, which most maps find
            masks[i, 0, :, : SIZE // 2] = True
            row[0] += (np.arange(CELLS) < CELLS / 2) * rng.normal(2.0, 2.0)
    masks[5, 0, 0, 0] = True  # here there is no map
    truth = replace(truth, masks_NSYX=masks)
    table = score_maps_under_protocols(rows, truth, [PROTOCOLS["slavc"]])["slavc"]
    samples = []
    for row, mask in zip(rows, masks[:, 0], strict=True):
        view = None if row is None else one_map("slavc", row, truth.canvas)
        sure = -np.inf if row is None else np.sort(view.ravel())[-view.size // 4 :].mean()
        at = 0.0 if row is None else iou(CUT["slavc"](view), mask)
        samples.append(SimpleNamespace(sure=sure, right=mask.any() and at >= 0.5, visible=mask.any()))
    points = []
    for at in sorted({each.sure for each in samples if np.isfinite(each.sure)}, reverse=True):
        found = [each for each in samples if each.sure >= at]
        right, missed = sum(each.right for each in found), sum(each.visible and each.sure < at for each in samples)
        points.append((right / len(found), right / (right + missed) if right + missed else 1.0))
    expected, before = 0.0, 0.0
    for place, (_, recall) in enumerate(points):
        expected += max(p for p, _ in points[place:]) * (recall - before)
        before = recall
    summary = summarize_scores(table, resamples=200)
    assert summary["detection_ap@0.5"].value == pytest.approx(expected)
    assert summary["max_f1@0.5"].value == pytest.approx(max(2 * p * r / (p + r) if p + r else 0 for p, r in points))
    assert summary["detection_ap@0.5"].low < expected < summary["detection_ap@0.5"].high
    assert (summary.counts["detection_ap@0.5"], summary.counts["loc_acc@0.5"]) == (
        60,
        int(masks.any(axis=(1, 2, 3)).sum()),
    )
