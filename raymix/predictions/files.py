"""The files of predictions: rows written chunk by chunk, and rows as a Parquet or NPZ file has them, not yet believed."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymix.predictions.arrays import Array, opened
from raymix.storage import making, resolve

CHUNK = 64  # rows in memory at a time
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


class Writer:
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
        for start in range(0, len(scenes), CHUNK):
            part = range(start, min(start + CHUNK, len(scenes)))
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
def writing(uri: str, scenes_hash: str) -> Iterator[Writer]:
    """A new file of predictions, which is there when the block ends well, and not before."""
    filesystem, path = resolve(uri)
    with making(filesystem, path) as part:
        schema = SCHEMA.with_metadata({HASH_KEY: scenes_hash.encode()})
        with pq.ParquetWriter(part, schema) as file:
            yield Writer(file)


class Cells(NamedTuple):
    """One row as its file has it."""

    row: int
    scene_id: Any
    system: Any
    maps_MHW: np.ndarray | None
    boxes_M4: Any = None
    map_class: Any = None
    presence_M: Any = None
    canvas: tuple[Any, Any] = (None, None)


def cells_of(uri: str, scenes_hash: str) -> Iterator[Cells]:
    """The rows of a file, Parquet or NPZ; ValueError where it is neither, or is of other scenes."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as file:
        start = bytes(file.read(4))
    name = path.rpartition("/")[2].rpartition(".")[0]
    try:
        if start == b"PAR1":
            with filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
                yield from _parquet(uri, parquet, name, scenes_hash)
        elif start == b"PK\x03\x04":
            with filesystem.open_input_file(path) as file, opened(uri, file) as archive:
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


def _parquet(uri: str, file: pq.ParquetFile, name: str, scenes_hash: str) -> Iterator[Cells]:
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
    for batch in file.iter_batches(batch_size=CHUNK, columns=wanted):
        cells = {each: batch.column(each).to_pylist() for each in wanted if each != "maps"}
        maps = batch.column("maps") if "maps" in wanted else None
        values = None if maps is None else maps.values.to_numpy(zero_copy_only=False)
        for place in range(batch.num_rows):
            row += 1
            one = {each: column[place] for each, column in cells.items()}
            flat_X = None
            if maps is not None and values is not None and maps[place].is_valid:
                flat_X = values[maps.offsets[place].as_py() : maps.offsets[place + 1].as_py()]
            yield Cells(
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
        raise ValueError(f"{where}: {len(flat_X)} values do not fill count x height x width = {size(shape)}")
    return flat_X.reshape(shape)


def _columns(uri: str, names: Sequence[str]) -> None:
    if "scene_id" not in names or not {"maps", "boxes"} & set(names):
        need = "maps, nor boxes" if "scene_id" in names else "scene_id"
        raise ValueError(f"{uri}: no column {need}; it has {', '.join(names)}")


def _npz(uri: str, archive: zipfile.ZipFile, name: str, scenes_hash: str) -> Iterator[Cells]:
    """The rows of an NPZ file; maps and boxes are in memory some at a time, the rest is short."""
    names = [each.removesuffix(".npy") for each in archive.namelist() if each.endswith(".npy")]
    every = {key: Array(uri, archive, key) for key in names}
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
    presence_NM, rows = arrays.get("presence"), {key: each.rows(CHUNK) for key, each in large.items()}
    for place, scene in enumerate(arrays["scene_id"]):
        own: dict[str, Any] = {key: next(each) for key, each in rows.items()}
        own |= {} if presence_NM is None else {"presence": presence_NM[place]}
        maps, boxes, presence = (None if missing_N[place] else own.get(key) for key in ("maps", "boxes", "presence"))
        labels = None if classes is None else classes if classes.ndim == 1 else classes[place]
        yield Cells(place + 1, scene, systems[place], maps, boxes, labels, presence, canvas)


def size(canvas: Sequence[Any]) -> str:
    return "x".join(map(str, canvas))
