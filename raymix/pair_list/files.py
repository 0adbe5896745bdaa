"""Pair lists as files: Parquet, CSV and the published CSV in, Parquet and CSV out; columns as in the package's docstring."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymix.layout import arrange
from raymix.pair_list.listing import Origin, PairList, Panel
from raymix.storage import get, making, put, resolve

SCHEMA = pa.schema(
    [
        ("scene_id", pa.string()),
        ("layout", pa.string()),
        ("place", pa.int64()),
        ("clip_id", pa.string()),
        ("video", pa.string()),
        ("time_s", pa.float64()),
        ("sounding", pa.bool_()),
        ("gain", pa.float64()),
        ("label", pa.string()),
        ("heard", pa.string()),  # where any is
    ]
)
PUBLISHED = ("file1", "class1", "file2", "class2")  # the columns of AVGN's list, which has no header
NAMED = re.compile(r"([\w-]{11}_\d{6}|sample\d{4})(\.\w+)?")  # a file there
MIDDLE_S = 5.0  # of the 10 s clips of VGGSound: the frame that VGG-SS annotates
ORIGIN_KEY, OF = b"raymix.origin", "of_"  # where a file says what list it was made of: metadata, or columns
_BOOLS = {"true": True, "1": True, "false": False, "0": False, "": True}


def write(pairs: PairList, uri: str) -> None:
    """The list as a file, CSV or Parquet by its name; it carries the list's content, and its own name is the id."""
    every = [panel for panels in pairs.scenes for panel in panels]
    schema = SCHEMA if any(panel.heard for panel in every) else SCHEMA.remove(SCHEMA.get_field_index("heard"))
    rows = [
        {name: pairs.layout if name == "layout" else getattr(panel, name) for name in schema.names} for panel in every
    ]
    filesystem, path = resolve(uri)
    if path.endswith(".parquet"):
        with making(filesystem, path) as part:
            told = {ORIGIN_KEY: json.dumps(asdict(pairs.origin)).encode()} if pairs.origin else None
            pq.write_table(pa.Table.from_pylist(rows, schema.with_metadata(told)), part)
        return
    text = io.StringIO()
    of = {f"{OF}{name}": value for name, value in (asdict(pairs.origin) if pairs.origin else {}).items()}
    writer = csv.DictWriter(text, [*schema.names, *of], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shown = {
            "sounding": str(row["sounding"]).lower(),
            "time_s": "" if row["time_s"] is None else repr(row["time_s"]),
        }
        writer.writerow(row | shown | of)
    put(filesystem, path, text.getvalue().encode())


def read(uri: str, layout: str | None = None) -> PairList:
    """The list in a file; the published form `file1,class1,file2,class2` too (with this header or none), whose scenes have
    `layout`.

    Raises ValueError with one line that names the row where the file is no such list.
    """
    (rows, of), name = _rows(uri), uri.rstrip("/").rpartition("/")[2].rpartition(".")[0]
    if not rows:
        raise ValueError(f"{uri}: a pair list without a row")
    if set(PUBLISHED) <= set(rows[0]):
        found, panels = layout or "hconcat", list(_published(rows, uri, name))
    else:
        missing = [column for column in ("scene_id", "layout", "place") if column not in rows[0]]
        if missing or not {"clip_id", "video"} & set(rows[0]):
            need = f"column {missing[0]}" if missing else "column clip_id, nor video"
            raise ValueError(f"{uri}: no {need}; it has {', '.join(map(str, rows[0]))}")
        found = str(rows[0]["layout"])
        panels = [_panel(row, number, found, uri) for number, row in enumerate(rows, 1)]
    scenes = _scenes(panels, found, uri)
    return PairList(name, found, scenes, _origin(of or rows[0], len(scenes), uri))


def _origin(cells: Mapping[str, Any], here: int, uri: str) -> Origin | None:
    """What a file says of the list that it was made of; ValueError where that cannot be."""
    told = {each.name: cells.get(f"{OF}{each.name}") for each in fields(Origin)}
    if not any(told.values()):
        return None
    try:
        found = Origin(str(told["id"]), str(told["hash"]), int(str(told["scenes"])), int(str(told["missing"])))
    except ValueError:
        raise ValueError(
            f"{uri}: {OF}scenes={told['scenes']!r}, {OF}missing={told['missing']!r}: must be numbers"
        ) from None
    if found.missing < 0 or found.scenes < found.missing + here:
        raise ValueError(
            f"{uri}: {OF}scenes={found.scenes}: must be at least its {here} scenes and the {OF}missing={found.missing} others"
        )
    return found


def _rows(uri: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a file, and what its metadata say of where it comes from."""
    filesystem, path = resolve(uri)
    if not filesystem.get_file_info(path).is_file:
        raise ValueError(f"pair_list={uri}: no such file")
    data = get(filesystem, path)
    if data[:4] == b"PAR1":
        try:
            table = pq.read_table(pa.BufferReader(data))
            of = json.loads((table.schema.metadata or {}).get(ORIGIN_KEY, b"{}"))
            return table.to_pylist(), {f"{OF}{name}": value for name, value in of.items()}
        except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{uri}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    try:
        text = data.decode("utf-8-sig")
        first = next(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True), [])
        bare = len(first) == len(PUBLISHED) and all(NAMED.fullmatch(name) for name in first[::2])
        head = PUBLISHED if bare else None
        return list(csv.DictReader(io.StringIO(text, newline=""), head, skipinitialspace=True)), {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{uri}: a pair list is Parquet or CSV, this is neither ({error})") from error


def _published(rows: list[dict[str, Any]], uri: str, name: str) -> Iterator[Panel]:
    """Panels of AVGN's form: both clips of a row are heard; a file is named by its video, an ending such as .mp4 is cut.

    Its lists are of VGG-SS and of the annotated frames of VGGSound-Instruments.
    """
    for number, row in enumerate(rows, 1):
        for place in (0, 1):
            file, label = row[f"file{place + 1}"], row[f"class{place + 1}"]
            if not file:
                raise ValueError(f"{uri}, row {number}: file{place + 1} is empty")
            video = re.sub(r"\.(mp4|mkv|webm|wav|jpg)$", "", str(file))
            yield Panel(f"{name}-{number:05d}", place, "", video, MIDDLE_S, label=str(label or ""), row=number)


def _panel(row: Mapping[str, Any], number: int, layout: str, uri: str) -> Panel:
    """One row of a file; ValueError naming it where a cell is not what its column holds."""
    where = f"{uri}, row {number}"
    if None in row:
        raise ValueError(f"{where}: has more cells than there are columns")
    cells = {key: "" if value is None else str(value).strip() for key, value in row.items()}

    def refuse(column: str, rule: str) -> ValueError:
        return ValueError(f"{where}: {column}={cells.get(column, '')!r}: must be {rule}")

    if not cells["scene_id"]:
        raise refuse("scene_id", "the name of a scene")
    if cells["layout"] != layout:
        raise refuse("layout", f"{layout} as in row 1: a list has one layout")
    if not cells["place"].isdecimal():
        raise refuse("place", "a panel's number, from 0")
    if not cells.get("clip_id") and not cells.get("video"):
        raise ValueError(f"{where}: neither clip_id nor video names a clip")
    if cells.get("sounding", "").lower() not in _BOOLS:
        raise refuse("sounding", "true or false")
    time_s, gain = (_number(cells.get(column, "")) for column in ("time_s", "gain"))
    if time_s is not None and not 0.0 <= time_s < math.inf:
        raise refuse("time_s", "seconds from 0")
    if gain is not None and not 0.0 < gain < math.inf:
        raise refuse("gain", "a factor above 0")
    if cells.get("heard") and layout != "single":
        raise refuse("heard", "empty: only the clip of a single frame can be heard in another's place")
    return Panel(
        scene_id=cells["scene_id"],
        place=int(cells["place"]),
        clip_id=cells.get("clip_id", ""),
        video=cells.get("video", ""),
        time_s=time_s,
        sounding=_BOOLS[cells.get("sounding", "").lower()],
        gain=1.0 if gain is None else gain,
        label=cells.get("label", ""),
        heard=cells.get("heard", ""),
        row=number,
    )


def _number(cell: str) -> float | None:
    """A cell as a number: None where it is empty, NaN (which passes no rule) where it holds something else."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return math.nan


def _scenes(panels: list[Panel], layout: str, uri: str) -> tuple[tuple[Panel, ...], ...]:
    """Panels by scene, ordered by id and place; ValueError naming the row that does not belong."""
    scenes: dict[str, list[Panel]] = {}
    last = ""
    for panel in panels:
        where, known = f"{uri}, row {panel.row}", scenes.setdefault(panel.scene_id, [])
        if known and panel.scene_id != last:
            raise ValueError(f"{where}: scene {panel.scene_id!r} was there before, in row {known[0].row}")
        for other in known:
            if other.place == panel.place:
                raise ValueError(
                    f"{where}: scene {panel.scene_id!r} has place {panel.place} already, in row {other.row}"
                )
            if other.named == panel.named:
                raise ValueError(f"{where}: scene {panel.scene_id!r} has the clip of row {other.row} twice")
        known.append(panel)
        last = panel.scene_id
    first = next(iter(scenes.values()))
    heard = sum(panel.sounding for panel in first)
    try:
        rows, columns, _ = arrange(layout, len(first) if layout in ("hconcat", "vconcat") else None)
    except ValueError as error:
        raise ValueError(f"{uri}, row {first[0].row}: scene {first[0].scene_id!r}: {error}") from error
    for scene, found in scenes.items():
        where = f"{uri}, row {found[-1].row}: scene {scene!r}"
        if sorted(panel.place for panel in found) != list(range(rows * columns)):
            raise ValueError(
                f"{where} has {len(found)} rows; {layout} needs places 0 to {rows * columns - 1}, each once"
            )
        if not heard or sum(panel.sounding for panel in found) != heard:
            raise ValueError(
                f"{where}: {sum(p.sounding for p in found)} of its panels sound, in the first scene {heard}; the "
                "number must be the same in a list, and at least 1"
            )
    return tuple(tuple(sorted(found, key=lambda panel: panel.place)) for _, found in sorted(scenes.items()))
