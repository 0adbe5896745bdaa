"""Predictions files (Parquet or NPZ): raw maps or boxes of scenes by any system, checked row by row against the scenes.

Parquet, one row for one system on one scene; of the columns only `scene_id`, and `maps` or `boxes`, must be there:

    scene_id                     string, as in the scenes (`python -m raymix.evaluate export=DIR` writes them out)
    system                       string; absent: the name of the file
    maps                         list of half floats: M maps of H rows of W values, raw: not normalised, not upsampled.
                                 As booleans they are masks: taken as they are, so they have the size of the canvas.
                                 null: no prediction; such a row, and one that is not there, counts as a miss
    count, height, width         int: M, H, W; the same H, W in all rows of a system
    boxes                        instead of maps: list of [left, top, right, bottom], shares of the canvas in [0, 1]; a
                                 box is a map, 1 inside and 0 outside
    map_class                    list of M strings: the class of each map, as the scenes call it, in all rows of a system;
                                 null: anonymous. Protocols that go by class names hold a source against the map of its
                                 class; without names they take the best pairing, and star what comes of it
    presence                     list of M floats: how much of each map's class sounds; where it is given and there are
                                 more maps than sources, as many as there are sources are scored, the loudest
    canvas_height, canvas_width  int, pixels of the canvas that the maps are of; refused where the scenes have another

In the file's metadata `raymix.scenes_hash` may say which scenes these are. NPZ holds the same as arrays, the first axis
being scenes: `scene_id` (N,), `maps` (N, M, H, W) or `boxes` (N, M, 4), and, if you like, `missing` (N,) bool, `system`
(one string or N), `map_class` (N, M) or (M,), `presence` (N, M), `canvas` (2,) and `scenes_hash`.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymix.data.batches import HeatMaps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.regions import box_mask
from raymix.runtime.storage import atomic_output_file, resolve_uri

BUFFER = 1 << 20  # bytes of one read


def open_npz(uri: str, file: Any) -> zipfile.ZipFile:
    """The archive in a file; ValueError where it is none."""
    try:
        return zipfile.ZipFile(io.BufferedReader(file, BUFFER))
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{uri}: cannot be read ({str(error).splitlines()[0]})") from error


class NpzArray:
    """An array of an NPZ file: its shape and type now, its rows when they are asked for, some at a time."""

    def __init__(self, uri: str, archive: zipfile.ZipFile, name: str) -> None:
        self._uri, self._archive, self._name = uri, archive, name
        with self._reading() as stream:
            self.shape, self._fortran, self.dtype = self._head(stream)
        self.ndim = len(self.shape)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """The file of the array; no pickle is loaded."""
        try:
            with self._archive.open(f"{self._name}.npy") as stream:
                yield stream
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self._uri}: cannot be read ({str(error).splitlines()[0]})") from error

    def _head(self, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError(f"{self._name}: object arrays are pickles, which are not loaded")
        return shape, fortran, dtype

    def whole(self) -> np.ndarray:
        """All of it."""
        with self._reading() as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    def rows(self, many: int) -> Iterator[np.ndarray]:
        """One row after the other, `many` of them in memory; of an array in the order of columns all, for none stands alone."""
        if self._fortran:
            yield from self.whole()
            return
        with self._reading() as stream:
            self._head(stream)
            for start in range(0, self.shape[0], many):
                shape = (min(many, self.shape[0] - start), *self.shape[1:])
                size = math.prod(shape) * self.dtype.itemsize
                if len(data := stream.read(size)) < size:
                    raise ValueError(f"{self._name} ends before its row {start + shape[0]} does")
                some = np.frombuffer(data, self.dtype).reshape(shape)
                yield from some


ROWS_PER_CHUNK = 64  # rows in memory at a time

HASH_KEY = b"raymix.scenes_hash"

SCHEMA = pa.schema(
    [
        ("scene_id", pa.string()),
        ("system", pa.string()),
        ("maps", pa.list_(pa.float16())),
        ("count", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("map_class", pa.list_(pa.string())),
        ("presence", pa.list_(pa.float32())),
        ("canvas_height", pa.int32()),
        ("canvas_width", pa.int32()),
    ]
)


class PredictionsWriter:
    """Adds rows to a Parquet file, chunk by chunk."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self._file = file

    def add(
        self,
        system: str,
        scenes: Sequence[str],
        maps: np.ndarray | Sequence[np.ndarray | None],
        canvas: tuple[int, int],
        map_class: Sequence[str] | None = None,
        presence_NM: np.ndarray | None = None,
    ) -> None:
        """Raw maps of some scenes, (M, H, W) each; ValueError for one that half floats cannot hold."""
        for start in range(0, len(scenes), ROWS_PER_CHUNK):
            part = range(start, min(start + ROWS_PER_CHUNK, len(scenes)))
            rows = [_row(system, scenes[i], maps[i], canvas) for i in part]
            for row, place in zip(rows, part, strict=True):
                row["map_class"] = None if map_class is None else list(map_class)
                row["presence"] = None if presence_NM is None else presence_NM[place].tolist()
            self._file.write_table(pa.Table.from_pylist(rows, SCHEMA))


def _row(system: str, scene: str, maps_MHW: np.ndarray | None, canvas: tuple[int, int]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(SCHEMA.names) | {"scene_id": scene, "system": system}
    found |= {"canvas_height": canvas[0], "canvas_width": canvas[1]}
    if maps_MHW is None:
        return found
    with np.errstate(over="ignore"):
        half_MHW = maps_MHW.astype(np.float16)
    if maps_MHW.dtype == bool or not np.isfinite(half_MHW).all():
        raise ValueError(
            f"scene {scene}: maps of {system} must be finite numbers within 65504, to be stored in half precision"
        )
    sizes = dict(zip(("count", "height", "width"), half_MHW.shape, strict=True))
    return found | sizes | {"maps": half_MHW.ravel()}


@contextlib.contextmanager
def open_predictions_writer(uri: str, scenes_hash: str) -> Iterator[PredictionsWriter]:
    """A new file of predictions, which is there when the block ends well, and not before."""
    filesystem, path = resolve_uri(uri)
    with atomic_output_file(filesystem, path) as part:
        schema = SCHEMA.with_metadata({HASH_KEY: scenes_hash.encode()})
        with pq.ParquetWriter(part, schema) as file:
            yield PredictionsWriter(file)


class PredictionRow(NamedTuple):
    """One row as its file has it."""

    row: int
    scene_id: Any
    system: Any
    maps_MHW: np.ndarray | None
    boxes_M4: Any = None
    map_class: Any = None
    presence_M: Any = None
    canvas: tuple[Any, Any] = (None, None)


def read_prediction_rows(uri: str, scenes_hash: str) -> Iterator[PredictionRow]:
    """The rows of a file, Parquet or NPZ; ValueError where it is neither, or is of other scenes."""
    filesystem, path = resolve_uri(uri)
    with filesystem.open_input_file(path) as file:
        start = bytes(file.read(4))
    name = path.rpartition("/")[2].rpartition(".")[0]
    try:
        if start == b"PAR1":
            with filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
                yield from _parquet(uri, parquet, name, scenes_hash)
        elif start == b"PK\x03\x04":
            with filesystem.open_input_file(path) as file, open_npz(uri, file) as archive:
                yield from _npz(uri, archive, name, scenes_hash)
        else:
            raise ValueError(f"{uri}: predictions are Parquet or NPZ, this is neither")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{uri}: cannot be read ({str(error).splitlines()[0]})") from error


def _agree(uri: str, found: str | None, scenes_hash: str) -> None:
    if found and found != scenes_hash:
        raise ValueError(
            f"{uri}: predictions of the scenes {found}, these are {scenes_hash}; dataset, split, layout, sources, scenes, "
            "seed, seconds and pair_list must be those that they were made with"
        )


def _parquet(uri: str, file: pq.ParquetFile, name: str, scenes_hash: str) -> Iterator[PredictionRow]:
    schema = file.schema_arrow
    _agree(uri, (schema.metadata or {}).get(HASH_KEY, b"").decode(), scenes_hash)
    _columns(uri, schema.names)
    if "maps" in schema.names:
        kind = schema.field("maps").type
        flat = getattr(kind, "value_type", None)
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not (
            pa.types.is_floating(flat) or pa.types.is_boolean(flat)
        ):
            raise ValueError(f"{uri}: column maps holds {kind}, it must hold flat lists of floats or booleans")
        if missing := [each for each in ("count", "height", "width") if each not in schema.names]:
            raise ValueError(f"{uri}: no column {missing[0]}: the shape of the maps is count, height, width")
    wanted = [each for each in (*SCHEMA.names, "boxes") if each in schema.names]
    row = 0
    for batch in file.iter_batches(batch_size=ROWS_PER_CHUNK, columns=wanted):
        cells = {each: batch.column(each).to_pylist() for each in wanted if each != "maps"}
        maps = batch.column("maps") if "maps" in wanted else None
        values = None if maps is None else maps.values.to_numpy(zero_copy_only=False)
        for place in range(batch.num_rows):
            row += 1
            one = {each: column[place] for each, column in cells.items()}
            flat_X = None
            if maps is not None and values is not None and maps[place].is_valid:
                flat_X = values[maps.offsets[place].as_py() : maps.offsets[place + 1].as_py()]
            yield PredictionRow(
                row,
                one["scene_id"],
                one.get("system") or name,
                None if flat_X is None else _shaped(flat_X, one, f"{uri}, row {row}, scene {one['scene_id']!r}"),
                one.get("boxes"),
                one.get("map_class"),
                one.get("presence"),
                (one.get("canvas_height"), one.get("canvas_width")),
            )


def _shaped(flat_X: np.ndarray, one: dict[str, Any], where: str) -> np.ndarray:
    shape = tuple(one[each] for each in ("count", "height", "width"))
    if not all(isinstance(each, int) and each >= 0 for each in shape) or np.prod(shape) != len(flat_X):
        raise ValueError(f"{where}: {len(flat_X)} values do not fill count x height x width = {canvas_text(shape)}")
    return flat_X.reshape(shape)


def _columns(uri: str, names: Sequence[str]) -> None:
    if "scene_id" not in names or not {"maps", "boxes"} & set(names):
        need = "maps, nor boxes" if "scene_id" in names else "scene_id"
        raise ValueError(f"{uri}: no column {need}; it has {', '.join(names)}")


def _npz(uri: str, archive: zipfile.ZipFile, name: str, scenes_hash: str) -> Iterator[PredictionRow]:
    """The rows of an NPZ file; maps and boxes are in memory some at a time, the rest is short."""
    names = [each.removesuffix(".npy") for each in archive.namelist() if each.endswith(".npy")]
    every = {key: NpzArray(uri, archive, key) for key in names}
    large = {key: every[key] for key in ("maps", "boxes") if key in every}
    arrays: dict[str, Any] = {key: each.whole() for key, each in every.items() if key not in large} | large
    _columns(uri, list(arrays))
    _agree(uri, str(arrays.get("scenes_hash", "")), scenes_hash)
    if (ids := arrays["scene_id"]).ndim != 1:
        raise ValueError(f"{uri}: scene_id has the shape {ids.shape}; it has one axis, an id for each scene")
    n = len(ids)
    axes = {"maps": (4,), "boxes": (3,), "missing": (1,), "map_class": (1, 2), "presence": (2,)}
    for key, ranks in axes.items():
        found = arrays.get(key)
        if found is not None and (found.ndim not in ranks or (found.shape[0] != n and found.ndim == max(ranks))):
            raise ValueError(
                f"{uri}: {key} has the shape {found.shape}, with {n} scenes it needs {max(ranks)} axes from {n}"
            )
    system = arrays.get("system", np.array(name))
    if system.shape not in ((), (1,), (n,)):
        raise ValueError(f"{uri}: system has the shape {system.shape}; it is one name, or one for each of {n} scenes")
    if "canvas" in arrays and arrays["canvas"].shape != (2,):
        raise ValueError(f"{uri}: canvas has the shape {arrays['canvas'].shape}; it is (2,): height, width")
    systems = np.broadcast_to(system, n)
    canvas = tuple(arrays["canvas"].tolist()) if "canvas" in arrays else (None, None)
    missing_N = arrays.get("missing", np.zeros(n, bool))
    if missing_N.dtype.kind != "b":
        raise ValueError(f"{uri}: missing is of {missing_N.dtype}; it must be booleans")
    classes = arrays.get("map_class")
    presence_NM, rows = arrays.get("presence"), {key: each.rows(ROWS_PER_CHUNK) for key, each in large.items()}
    for place, scene in enumerate(arrays["scene_id"]):
        own: dict[str, Any] = {key: next(each) for key, each in rows.items()}
        own |= {} if presence_NM is None else {"presence": presence_NM[place]}
        maps, boxes, presence = (None if missing_N[place] else own.get(key) for key in ("maps", "boxes", "presence"))
        labels = None if classes is None else classes if classes.ndim == 1 else classes[place]
        yield PredictionRow(place + 1, scene, systems[place], maps, boxes, labels, presence, canvas)


def canvas_text(canvas: Sequence[Any]) -> str:
    return "x".join(map(str, canvas))


_MOST = float(np.finfo(np.float32).max)  # beyond it the range of a map may be infinite


class ScenePrediction(NamedTuple):
    """The prediction of one system on one scene; `maps_MHW` is None where there is none."""

    row: int  # in its file, from 1
    scene_id: str
    system: str
    maps_MHW: np.ndarray | None
    map_class: list[str] | None = None
    presence_M: np.ndarray | None = None

    def top_k_maps(self, sources: int) -> np.ndarray | None:
        """The maps to hold against so many sources: all, or where their presence is known the loudest."""
        if self.maps_MHW is None or self.presence_M is None or len(self.maps_MHW) <= sources:
            return self.maps_MHW
        return self.maps_MHW[np.argsort(-self.presence_M, kind="stable")[:sources]]


@dataclass(frozen=True)
class PredictionsFile:
    """A file of predictions that was read once and found whole."""

    uri: str
    systems: dict[str, int]  # in the order of the file, and how many scenes each has a prediction for
    classes: dict[str, set[str]]  # what the maps are called, of systems whose maps have names

    def rows(self, truth: SceneGroundTruth) -> Iterator[ScenePrediction]:
        """All rows once more, one by one, as the file has them."""
        return _valid(self.uri, truth)


def check_predictions(uri: str, truth: SceneGroundTruth) -> PredictionsFile:
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
    return PredictionsFile(uri, systems, {name: found for name, found in classes.items() if named[name]})


def _valid(uri: str, truth: SceneGroundTruth) -> Iterator[ScenePrediction]:
    """The rows of a file in its order; ValueError at the first that cannot be a prediction of these scenes."""
    known, seen = set(truth.ids), dict[tuple[str, str], int]()
    shapes: dict[str, tuple[Any, ...]] = {}
    for cells in read_prediction_rows(uri, truth.scenes_hash):
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
                f"{where}: of a canvas of {canvas_text(cells.canvas)} pixels, the scene's is {canvas_text(truth.canvas)}; name the "
                "image_size= or study= that it was made with"
            )
        maps_MHW = _maps(cells, truth.canvas, where)
        if maps_MHW is None:
            yield ScenePrediction(cells.row, scene, system, None)
            continue
        kind = (*maps_MHW.shape[1:], maps_MHW.dtype == bool)
        if shapes.setdefault(system, kind) != kind:
            raise ValueError(f"{where}: {_said(kind)}, those of other rows of {system} are {_said(shapes[system])}")
        yield ScenePrediction(cells.row, scene, system, maps_MHW, *_beside(cells, len(maps_MHW), where))


def _maps(cells: PredictionRow, canvas: tuple[int, int], where: str) -> np.ndarray | None:
    """The maps of a row, (M, H, W); None where there is none."""
    if cells.boxes_M4 is not None:
        if cells.maps_MHW is not None:
            raise ValueError(f"{where}: has maps and boxes; a prediction is one of them")
        return _drawn(cells.boxes_M4, canvas, where)
    maps_MHW = cells.maps_MHW
    if maps_MHW is None or not len(maps_MHW):
        return None
    if 0 in maps_MHW.shape:
        raise ValueError(f"{where}: maps of {canvas_text(maps_MHW.shape[1:])} cells")
    if maps_MHW.dtype.kind not in "bf":
        raise ValueError(f"{where}: maps of {maps_MHW.dtype}; they must be floats, or booleans for masks")
    if maps_MHW.dtype == bool and maps_MHW.shape[1:] != canvas:
        raise ValueError(
            f"{where}: masks of {canvas_text(maps_MHW.shape[1:])} pixels, the canvas is {canvas_text(canvas)}"
        )
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


def _beside(cells: PredictionRow, count: int, where: str) -> tuple[list[str] | None, np.ndarray | None]:
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
    return f"{'masks' if kind[-1] else 'maps'} of {canvas_text(kind[:-1])}"


def write_predictions(uri: str, truth: SceneGroundTruth, predicted: dict[str, HeatMaps]) -> None:
    """Writes predictions of several systems on the same scenes as one file."""
    with open_predictions_writer(uri, truth.scenes_hash) as out:
        for system, maps in predicted.items():
            loud = None if maps.loudness_NM is None else maps.loudness_NM.numpy()
            out.add(system, truth.ids, maps.maps_NMHW.numpy(), truth.canvas, maps.classes, loud)
