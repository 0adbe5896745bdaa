"""Predictions held against the truth of their scenes: what is wrong is said in one line that names the row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from raymix.predictions.files import Cells, cells_of, size
from raymix.region import box_mask
from raymix.truth import Truth

_MOST = float(np.finfo(np.float32).max)  # beyond it the range of a map may be infinite


class Prediction(NamedTuple):
    """What one system says of one scene; `maps_MHW` is None where it says nothing."""

    row: int  # in its file, from 1
    scene_id: str
    system: str
    maps_MHW: np.ndarray | None
    map_class: list[str] | None = None
    presence_M: np.ndarray | None = None

    def heard(self, sources: int) -> np.ndarray | None:
        """The maps to hold against so many sources: all, or where their presence is known the loudest."""
        if self.maps_MHW is None or self.presence_M is None or len(self.maps_MHW) <= sources:
            return self.maps_MHW
        return self.maps_MHW[np.argsort(-self.presence_M, kind="stable")[:sources]]


@dataclass(frozen=True)
class Predictions:
    """A file of predictions that was read once and found whole."""

    uri: str
    systems: dict[str, int]  # in the order of the file, and how many scenes each has a prediction for
    classes: dict[str, set[str]]  # what the maps are called, of systems whose maps have names

    def rows(self, truth: Truth) -> Iterator[Prediction]:
        """All rows once more, one by one, as the file has them."""
        return _valid(self.uri, truth)


def check(uri: str, truth: Truth) -> Predictions:
    """A file, held against the scenes that it must be of; ValueError in one line that names the row which is wrong."""
    systems, classes, named = dict[str, int](), dict[str, set[str]](), dict[str, bool]()
    for each in _valid(uri, truth):
        systems[each.system] = systems.get(each.system, 0) + (each.maps_MHW is not None)
        if each.maps_MHW is not None:
            if named.setdefault(each.system, each.map_class is not None) != (each.map_class is not None):
                where = f"{uri}, row {each.row}, scene {each.scene_id!r}"
                raise ValueError(f"{where}: the maps of {each.system} have a map_class in all rows, or in none")
            classes.setdefault(each.system, set()).update(each.map_class or ())
    if not systems:
        raise ValueError(f"{uri}: holds no prediction")
    return Predictions(uri, systems, {name: found for name, found in classes.items() if named[name]})


def _valid(uri: str, truth: Truth) -> Iterator[Prediction]:
    """The rows of a file in its order; ValueError at the first that cannot be a prediction of these scenes."""
    known, seen = set(truth.ids), dict[tuple[str, str], int]()
    shapes: dict[str, tuple[Any, ...]] = {}
    for cells in cells_of(uri, truth.scenes_hash):
        scene, system = str(cells.scene_id), str(cells.system)
        where = f"{uri}, row {cells.row}, scene {scene!r}"
        if scene not in known:
            near = get_close_matches(scene, truth.ids, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f", such as {truth.ids[0]!r}" if truth.ids else ""
            raise ValueError(f"{where}: none of the {len(truth)} {truth.layout} scenes{hint}")
        if (first := seen.setdefault((system, scene), cells.row)) != cells.row:
            raise ValueError(f"{where}: {system} has a row for this scene already, row {first}")
        if any(cells.canvas) and tuple(cells.canvas) != truth.canvas:
            raise ValueError(
                f"{where}: of a canvas of {size(cells.canvas)} pixels, the scene's is {size(truth.canvas)}; name the "
                "image_size= or study= that it was made with"
            )
        maps_MHW = _maps(cells, truth.canvas, where)
        if maps_MHW is None:
            yield Prediction(cells.row, scene, system, None)
            continue
        kind = (*maps_MHW.shape[1:], maps_MHW.dtype == bool)
        if shapes.setdefault(system, kind) != kind:
            raise ValueError(f"{where}: {_said(kind)}, those of other rows of {system} are {_said(shapes[system])}")
        yield Prediction(cells.row, scene, system, maps_MHW, *_beside(cells, len(maps_MHW), where))


def _maps(cells: Cells, canvas: tuple[int, int], where: str) -> np.ndarray | None:
    """The maps of a row, (M, H, W); None where there is none."""
    if cells.boxes_M4 is not None:
        if cells.maps_MHW is not None:
            raise ValueError(f"{where}: has maps and boxes; a prediction is one of them")
        return _drawn(cells.boxes_M4, canvas, where)
    maps_MHW = cells.maps_MHW
    if maps_MHW is None or not len(maps_MHW):
        return None
    if 0 in maps_MHW.shape:
        raise ValueError(f"{where}: maps of {size(maps_MHW.shape[1:])} cells")
    if maps_MHW.dtype.kind not in "bf":
        raise ValueError(f"{where}: maps of {maps_MHW.dtype}; they must be floats, or booleans for masks")
    if maps_MHW.dtype == bool and maps_MHW.shape[1:] != canvas:
        raise ValueError(f"{where}: masks of {size(maps_MHW.shape[1:])} pixels, the canvas is {size(canvas)}")
    if not np.isfinite(maps_MHW).all():
        raise ValueError(f"{where}: a map holds a value that is no number, or is infinite")
    if maps_MHW.dtype.itemsize > 4 and (most := np.abs(maps_MHW).max()) > _MOST:
        raise ValueError(
            f"{where}: a map holds {most:.3g} or its negative; values must be within {_MOST:.3g}, as of 32 bits"
        )
    return maps_MHW


def _drawn(boxes: Any, canvas: tuple[int, int], where: str) -> np.ndarray | None:
    """Boxes as masks of the canvas, (M, Y, X)."""
    if not isinstance(boxes, list | np.ndarray):
        raise ValueError(f"{where}: boxes is {str(boxes)[:60]}; it must be a list, four numbers for each box")
    for number, box in enumerate(boxes, 1):
        edges = _numbers(box, f"{where}: box {number}")
        called = f"box {number}, [{', '.join(f'{edge:g}' for edge in edges)}],"
        if edges.shape != (4,) or not np.isfinite(edges).all():
            raise ValueError(f"{where}: {called} must be four numbers: left, top, right, bottom")
        if (edges < 0).any() or (edges > 1).any():
            raise ValueError(f"{where}: {called} reaches out of [0, 1]: its edges are shares of the canvas, not pixels")
        if edges[0] >= edges[2] or edges[1] >= edges[3]:
            raise ValueError(f"{where}: {called} is reversed: left < right and top < bottom")
    return np.stack([box_mask(box, *canvas) for box in boxes]) if len(boxes) else None


def _numbers(values: Any, what: str) -> np.ndarray:
    """A flat list of numbers as an array; ValueError where it is something else."""
    try:
        found = np.asarray([] if values is None else values, np.float64)
    except (ValueError, TypeError):
        found = np.zeros(())
    if found.ndim != 1:
        raise ValueError(f"{what} is {str(values)[:60]}; it must be a list of numbers")
    return found


def _beside(cells: Cells, count: int, where: str) -> tuple[list[str] | None, np.ndarray | None]:
    """Class and presence of each of `count` maps."""
    if not isinstance(cells.map_class, list | np.ndarray | None):
        raise ValueError(f"{where}: map_class is {cells.map_class!r}; it must be a list, a name for each map")
    classes = None if cells.map_class is None else [str(each) for each in cells.map_class]
    presence_M = None if cells.presence_M is None else _numbers(cells.presence_M, f"{where}: presence")
    for name, value in (("map_class", classes), ("presence", presence_M)):
        if value is not None and len(value) != count:
            raise ValueError(f"{where}: {name} of {len(value)} for {count} maps")
    if presence_M is not None and not np.isfinite(presence_M).all():
        raise ValueError(f"{where}: presence holds a value that is no number, or is infinite")
    return classes, presence_M


def _said(kind: tuple[Any, ...]) -> str:
    return f"{'masks' if kind[-1] else 'maps'} of {size(kind[:-1])}"
