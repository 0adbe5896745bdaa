"""Figures 3 to 9 of the paper of one's own systems: which scenes each shows, of which systems, under which protocol.

Of a dataset that the paper does not have, the scenes are of the paper's kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from raymix import figures, gallery, paths
from raymix.hall import Act, Hall, Held, Shown, held
from raymix.methods.cycle import Cycle
from raymix.report import of_clips
from raymix.scoring import score
from raymix.truth import Truth
from raymix.verdict import pictured

OURS = "cycle"  # the paper's own method
ABLATIONS = ("corre", "isi", "permute", OURS)
ROWS = 4  # scenes of a figure, besides the worst ones of some
FIGURES = {  # layout, whether it is of the ablations, the first of its scenes, how many are the worst ones
    3: ("hconcat", False, 0, 1), 4: ("grid2x2", False, 0, 2), 5: ("grid2x2", True, 0, 0), 6: ("hconcat", True, 0, 0),
    7: ("grid2x2", False, ROWS, 0), 8: ("single", False, 0, 0), 9: ("hconcat", False, ROWS, 0),
}  # fmt: skip
PROTOCOLS = ("mixloc-multi", "mixloc-single")  # of several sources, of one: those of the tables


def drawn(number: int, hall: Hall) -> tuple[Any, dict[str, Any]] | str:
    """A figure and what it is of; or the sentence that says why there is none."""
    layout, ablations, first, failures = FIGURES[number]
    once = {each.system: each for each in reversed(hall.shown)}  # of several seeds the first
    shown = [once[s] for s in dict.fromkeys(e.system for e in hall.shown) if s == OURS or (s in ABLATIONS) == ablations]
    if not shown:
        return f"none of these systems ({', '.join(once)})"
    if isinstance(act := hall.of(layout), str):
        return act
    heading = f"Figure {number}: {hall.dataset}, {hall.split} split, {layout}"
    about = {"figure": number, "dataset": hall.dataset, **act.truth.facts(), "systems": [each.study for each in shown]}
    if number == 6:
        return _paths(shown, act, f"{heading}, {_scenes(act)}", hall.device, about)
    own = {each.system: held(hall.maps(each, act), act.truth, PROTOCOLS[layout == "single"]) for each in shown}
    judge = OURS if OURS in own else shown[-1].system
    index = _index(act.truth, own[judge], first, failures)
    if not len(index):
        return f"the {hall.split} split has too few {layout} scenes"
    columns = {system: _pictures(act, each, index) for system, each in own.items()}
    rows = [{system: column[place] for system, column in columns.items()} for place in range(len(index))]
    ids = {each.protocol.id: None for each in own.values()}
    heading += f", {' and '.join(ids)} (by class names)" if len(ids) > 1 else f", {next(iter(ids))}"
    heading += f", {_scenes(act)}"
    if failures:
        heading += f"; the last {'is' if failures == 1 else f'{failures} are'} the worst of {judge}"
    return gallery.systems(rows, heading), about | {
        "protocols": list(ids),
        "drawn": [act.truth.ids[at] for at in index],
    }


def _scenes(act: Act) -> str:
    return f"scenes {act.truth.scenes_hash}{of_clips(act.truth.preprocessing)}"


def _pictures(act: Act, own: Held, index: np.ndarray) -> list[figures.Picture]:
    """The maps that were held against the sources: of one map that one, of maps with names those of the sources' names."""
    found = pictured(act.scenes, act.truth, own.maps_NMHW, index, own.protocol, own.classes)
    if own.alone:
        return [
            replace(each, maps_MHW=each.maps_MHW[:1], map_S=tuple(min(which, 0) for which in each.map_S))
            for each in found
        ]
    if own.classes is None or act.truth.labels is None:
        return found
    return [_of_names(each, own.classes, act.truth.labels[at]) for each, at in zip(found, index, strict=True)]


def _of_names(picture: figures.Picture, classes: Sequence[str], names: Sequence[str]) -> figures.Picture:
    """The same scene with a map for each source, that of its name; a blank one where there is none."""
    places = [classes.index(name) if name in classes else -1 for name in names]
    blank_HW = np.zeros_like(picture.maps_MHW[0])
    maps_SHW = np.stack([blank_HW if place < 0 else picture.maps_MHW[place] for place in places])
    map_S = tuple(-1 if which < 0 else source for source, which in enumerate(picture.map_S))
    return replace(picture, maps_MHW=maps_SHW, map_S=map_S)


def _index(truth: Truth, judge: Held, first: int, worst: int) -> np.ndarray:
    """The scenes to draw: in their order, those with truth first; last the `worst` ones by IoU of one system."""
    order = np.argsort(~truth.has_truth_N, kind="stable")
    chosen = order[first : first + ROWS]
    if not worst:
        return chosen
    iou_N = mean_iou(score(judge.maps_NMHW, truth, judge.protocol, judge.classes).iou_NS)
    rest = [scene for scene in np.argsort(iou_N, kind="stable") if scene not in chosen]
    return np.concatenate([chosen, rest[:worst]]).astype(np.int64)


def mean_iou(iou_NS: np.ndarray) -> np.ndarray:
    """The mean over the sources of a scene whose truth is known (not NaN); infinite without any, for it is no failure."""
    known_NS = ~np.isnan(iou_NS)
    total_N, known_N = np.where(known_NS, iou_NS, 0.0).sum(axis=1), known_NS.sum(axis=1)
    return np.where(known_N > 0, total_N / np.maximum(known_N, 1), np.inf)


def _paths(
    shown: list[Shown], act: Act, heading: str, device: str, about: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | str:
    """Walks between the nodes of a mixture and its panels, of the model of the paper with as many nodes."""
    ours = [each for each in shown if isinstance(each.contender.method, Cycle)]
    if not ours:
        return "the paths are those of cycle, which is not here"
    method, panels = ours[0].contender.method, len(act.scenes.rects_P4)
    if not isinstance(method, Cycle) or method.k != panels:
        return f"{ours[0].study} has {method.k} nodes, these scenes have {panels} panels"
    few = next(act.scenes.batches(ROWS)).to(device)
    rects = few.rects_P4.tolist()
    frames_BK3YX = torch.stack([few.frames_N3YX[..., y0:y1, x0:x1] for x0, y0, x1, y1 in rects], dim=1)
    steps = method.to(device).transitions(frames_BK3YX.float() / 255, few.mixture_NTF)
    out_BIJ, home_BJI = (each.cpu().numpy() for each in steps)
    seen = frames_BK3YX.permute(0, 1, 3, 4, 2).cpu().numpy()
    walks = [paths.Walk(few.ids[n], seen[n], out_BIJ[n], home_BJI[n]) for n in range(len(few))]
    return paths.cycle_paths(walks, heading), about | {"systems": [ours[0].study], "protocols": [], "drawn": few.ids}
