"""Systems that hear nothing on the sets of published tables: what a box in the middle gets there, against known figures.

The annotations are not part of raymix. Where the folder that RAYMIX_ANNOTATIONS names has them, as their authors released
them (`vggss.json` of VGG-SS, `solotest.json` and `duettest.json` of DSOL's MUSIC boxes, `vggsound_duet_test.csv` of AVGN),
the figures are checked; no media is needed. Small files of the same forms, worked by hand, run the same code everywhere.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from raymix.metrics.baseline_heatmaps import BOX_SIDES, baseline_heatmaps
from raymix.metrics.functional import success_auc, success_rate
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import RAYMIX_1, EvaluationProtocol
from raymix.metrics.regions import box_mask
from raymix.metrics.scoring import ScoreTable, score_maps

FOLDER = os.environ.get("RAYMIX_ANNOTATIONS", "")
SIDE = 224  # px, of a panel
NEAR = 0.006  # half a point: the edge of a box may fall on the pixel beside
SAMPLED = 0.01  # the figures of MUSIC-Solo are of every fourth frame, and which ones these are is the file's order
BOXES = replace(RAYMIX_1, id="boxes", ap="binary", piap=False)  # no pixel is ranked: predictions are masks
OWN = replace(BOXES, id="boxes-own", scope="panel", match="labels", unit="source")  # without names: the best pairing
UNION = replace(BOXES, id="boxes-union", scope="union", combine="max")

Scene = tuple[str, list[list[tuple[float, ...]]]]  # its id, and the boxes (left, top, right, bottom) of each source


def vggss(path: Path) -> Iterator[Scene]:
    """Clips of VGG-SS; some boxes reach out of the frame, some are reversed or have no size."""
    for clip in json.loads(path.read_text()):
        edges = (tuple(min(max(float(edge), 0.0), 1.0) for edge in box) for box in clip["bbox"])
        yield clip["file"], [[box for box in edges if box[0] < box[2] and box[1] < box[3]]]


def music(path: Path, sources: int) -> Iterator[Scene]:
    """Annotated frames of MUSIC, a source for each class (boxes are left, top, width, height); others are left out."""
    for frame, found in json.loads(path.read_text()).items():
        of: dict[int, list[tuple[float, ...]]] = {}
        for each in found["bbox"]:
            x, y, w, h = each["normbox"]
            of.setdefault(each["category_id"] if sources > 1 else 0, []).append((x, y, x + w, y + h))
        if of:
            yield frame, [*of.values(), *[[]] * (sources - len(of))]


def duets(path: Path, clips: dict[str, list[tuple[float, ...]]]) -> Iterator[Scene]:
    """Pairs of VGG-SS clips, the first on the left."""
    for number, row in enumerate(csv.DictReader(path.open())):
        yield f"{number:05d}", [clips[Path(row[file]).stem] for file in ("file1", "file2")]


def pieces(scenes: Iterable[Scene], size: int = 128) -> Iterator[list[Scene]]:
    """So many scenes at a time: their masks are not in memory together."""
    left = iter(scenes)
    while some := list(islice(left, size)):
        yield some


def truth_of(scenes: Iterable[Scene], panels: int) -> SceneGroundTruth:
    """Each source in its own panel, side by side, or all in one."""
    ids, boxes = zip(*scenes, strict=True)
    sources = len(boxes[0])
    masks_NSYX = np.zeros((len(ids), sources, SIDE, SIDE * panels), bool)
    for scene, of in enumerate(boxes):
        for source, own in enumerate(of):
            left = SIDE * source if panels > 1 else 0
            for box in own:
                masks_NSYX[scene, source, :, left : left + SIDE] |= box_mask(box, SIDE, SIDE)
    return SceneGroundTruth(
        ids=ids,
        videos=tuple((each,) for each in ids),
        layout="hconcat" if panels > 1 else "natural",
        canvas=(SIDE, SIDE * panels),
        panels_NS=np.tile(np.arange(sources) % panels, (len(ids), 1)),
        rects_P4=np.array([[SIDE * p, 0, SIDE * (p + 1), SIDE] for p in range(panels)]),
        masks_NSYX=masks_NSYX,
        has_truth_N=np.ones(len(ids), bool),
        scenes_hash="annotated",
    )


def measured(
    scenes: Iterable[Scene], panels: int = 1, how: EvaluationProtocol = BOXES, boxes: str = "centre box"
) -> dict[str, dict]:
    """Means of the box-only nulls by system and metric, a part of the scenes at a time."""
    parts: dict[str, list[ScoreTable]] = {}
    for some in pieces(scenes):
        truth = truth_of(some, panels)
        for name, maps in baseline_heatmaps(truth, panel_boxes=panels > 1).items():
            if name == "full frame" or name.startswith(boxes):
                parts.setdefault(name, []).append(score_maps(maps, truth, how))
    tables = {name: ScoreTable.merge(each) for name, each in parts.items()}
    return {name: {metric: table.mean(metric) for metric in table.values} for name, table in tables.items()}


def best(found: dict[str, dict], metric: str) -> tuple[float, str]:
    """The best box by a metric, and which one it is."""
    return max((values[metric], name) for name, values in found.items() if "box" in name)


def half_ceiling(scenes: Iterable[Scene]) -> tuple[float, float]:
    """IoU@0.5 and AUC of maps that always predict half of the pixels, put where they are worth most."""
    area_N = np.concatenate([truth_of(some, 1).masks_NSYX.mean(axis=(1, 2, 3)) for some in pieces(scenes)])
    area_N = area_N[area_N > 0]
    iou_N = np.minimum(area_N, 0.5) / np.maximum(area_N, 0.5)
    return float(success_rate(iou_N, 0.5).mean()), float(success_auc(iou_N).mean())


def released(name: str) -> Path:
    """A file of annotations; skips the test where it is not there."""
    if not FOLDER:
        pytest.skip(f"RAYMIX_ANNOTATIONS names no folder with {name}")
    if not (path := Path(FOLDER) / name).is_file():
        pytest.skip(f"{FOLDER} (RAYMIX_ANNOTATIONS) has no {name}")
    return path


def test_vgg_ss() -> None:
    scenes = list(vggss(released("vggss.json")))
    assert len(scenes) == 5158 and sum(not boxes[0] for _, boxes in scenes) <= 2
    found = measured(scenes)
    assert (found["full frame"]["iou@0.5"], found["full frame"]["auc"]) == pytest.approx((0.219, 0.313), abs=NEAR)
    assert (best(found, "iou@0.5")[0], best(found, "auc")[0]) == pytest.approx((0.319, 0.369), abs=NEAR)
    assert half_ceiling(scenes) == pytest.approx((0.505, 0.495), abs=NEAR)


def test_music_solo() -> None:
    scenes = list(music(released("solotest.json"), 1))
    assert len(scenes) == 12356
    found = measured(scenes[::4])
    assert (found["full frame"]["iou@0.5"], found["full frame"]["auc"]) == pytest.approx((0.160, 0.335), abs=SAMPLED)
    (iou, which), (auc, other) = best(found, "iou@0.5"), best(found, "auc")
    assert (iou, auc) == pytest.approx((0.246, 0.380), abs=SAMPLED)
    assert (which, other) == ("centre box 0.7", "centre box 0.8")
    assert half_ceiling(scenes[::4]) == pytest.approx((0.582, 0.513), abs=SAMPLED)


@pytest.mark.parametrize(
    ("classes", "count", "frame", "box"),
    [(1, 10284, (0.063, 0.162), (0.206, 0.229)), (2, 4751, (0.017, 0.128), (0.210, 0.224))],
)
def test_music_duet(classes: int, count: int, frame: tuple[float, float], box: tuple[float, float]) -> None:
    scenes = [each for each in music(released("duettest.json"), 2) if sum(map(bool, each[1])) >= classes]
    assert len(scenes) == count
    found = measured(scenes)
    assert (found["full frame"]["ciou@0.3"], found["full frame"]["auc"]) == pytest.approx(frame, abs=NEAR)
    assert (best(found, "ciou@0.3")[0], best(found, "auc")[0]) == pytest.approx(box, abs=NEAR)


def test_vggsound_duet() -> None:
    clips = {name: boxes[0] for name, boxes in vggss(released("vggss.json"))}
    scenes = list(duets(released("vggsound_duet_test.csv"), clips))
    assert len(scenes) == 5158
    frame = measured(scenes, 2, boxes="no box")["full frame"]
    assert [frame[name] for name in ("ciou@0.3", "auc", "ciou@0.1")] == pytest.approx([0.055, 0.157, 0.717], abs=NEAR)
    own = measured(scenes, 2, OWN, "panel box")
    assert (own["full frame"]["ciou@0.3*"], own["full frame"]["auc*"]) == pytest.approx((0.435, 0.313), abs=NEAR)
    assert (best(own, "ciou@0.3*")[0], best(own, "auc*")[0]) == pytest.approx((0.621, 0.370), abs=NEAR)
    assert (own["panel box 0.7"]["ciou@0.3*"], own["panel box 0.7"]["auc*"]) == pytest.approx((0.597, 0.370), abs=NEAR)
    union = measured(scenes, 2, UNION, "no box")["full frame"]
    assert (union["ciou@0.3"], union["auc"]) == pytest.approx((0.487, 0.313), abs=NEAR)


VGGSS = [
    {"file": "a_000001", "class": "dog barking", "bbox": [[0.25, 0.25, 0.75, 0.75]]},  # a quarter, in the middle
    {"file": "b_000002", "class": "rain", "bbox": [[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 1.0]]},  # overlap: 3/4
    {"file": "c_000003", "class": "owl", "bbox": [[-2.9e16, 0.0, 0.5, 0.5], [0.9, 0.9, 0.9, 0.95]]},  # 1/4, and nothing
    {"file": "d_000004", "class": "cat", "bbox": [[0.7, 0.1, 0.3, 0.2]]},  # reversed: no truth, counted nowhere
]


def put(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_small_file_of_vgg_ss_by_hand(tmp_path: Path) -> None:
    scenes = list(vggss(put(tmp_path / "vggss.json", VGGSS)))
    assert [len(boxes[0]) for _, boxes in scenes] == [1, 2, 1, 0] and scenes[2][1][0] == [(0.0, 0.0, 0.5, 0.5)]
    found = measured(scenes)
    assert set(found) == {"full frame", *(f"centre box {side:g}" for side in BOX_SIDES)}
    # of the full frame IoU is the area: .25, .75, .25; a success at thresholds 0 to .25 is worth 5.5 / 20, to .75 15.5 / 20
    assert found["full frame"] == pytest.approx(
        {
            "iou": 1.25 / 3,
            "iou@0.1": 1,
            "iou@0.3": 1 / 3,
            "iou@0.5": 1 / 3,
            "auc": (5.5 + 15.5 + 5.5) / 60,
            "ap": 1.25 / 3,
        }
    )
    # the box of half a side: the same as the first, inside the second but for a quarter of it, a quarter of the third
    middle = [1.0, 0.25 / 0.75 * 1.0, 0.0625 / (0.5 - 0.0625)]
    assert found["centre box 0.5"]["iou"] == pytest.approx(np.mean(middle))
    assert best(found, "iou@0.5") == (pytest.approx(2 / 3), "centre box 0.7")  # of .515, .509 and .15
    assert half_ceiling(scenes) == pytest.approx((1.0, (10.5 + 13.5 + 10.5) / 60))  # IoU .5, 2/3 and .5


def test_a_small_file_of_music_by_hand(tmp_path: Path) -> None:
    def frame(*boxes: tuple[int, list[float]]) -> dict:
        return {
            "bbox": [{"box": [0, 0, 1, 1], "normbox": box, "category_id": of} for of, box in boxes],
            "wdith": 9,
            "height": 9,
        }

    left, right, all_of = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]
    frames = {
        "v/frame_000/00000.jpg": frame((3, left), (11, right)),
        "v/frame_000/00007.jpg": frame((3, all_of)),
        "e": frame(),
    }
    path = put(tmp_path / "duettest.json", frames)
    assert [len(sources) for _, sources in music(path, 2)] == [2, 2] and len(list(music(path, 1))) == 2
    found = measured(music(path, 2))["full frame"]
    assert found["ciou"] == pytest.approx((0.5 + 1.0) / 2)  # a class without a box counts nowhere
    assert measured(music(path, 1))["full frame"]["iou"] == 1.0  # of a solo all boxes are one truth


def test_small_duets_by_hand(tmp_path: Path) -> None:
    clips = {name: boxes[0] for name, boxes in vggss(put(tmp_path / "vggss.json", VGGSS[:2]))}
    (tmp_path / "duet.csv").write_text("file1,class1,file2,class2\na_000001.mp4,dog barking,b_000002,rain\n")

    def frame(protocol: EvaluationProtocol) -> dict:
        return measured(duets(tmp_path / "duet.csv", clips), 2, protocol)["full frame"]

    assert frame(BOXES)["ciou"] == pytest.approx((0.125 + 0.375) / 2)  # on the whole canvas half of the areas
    assert frame(OWN)["ciou*"] == pytest.approx((0.25 + 0.75) / 2)
    assert frame(UNION)["ciou"] == pytest.approx(0.5)
    boxes = measured(duets(tmp_path / "duet.csv", clips), 2, OWN, "panel box")
    assert boxes["panel box 0.5"]["ciou*"] == pytest.approx((1.0 + 0.25 / 0.75) / 2)
