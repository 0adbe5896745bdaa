"""Pair lists: files that fix which clips make which scene, so that scores of different code are of the same scenes.

The paper's random pairs (Section 4.2) were never released; the list in common use is AVGN's for VGGSound-Duet. A list is
Parquet or CSV, one row for each panel of a scene, the rows of a scene together:

    scene_id   string, the name of the scene
    layout     one of `raymix.data.layouts.LAYOUTS`, the same in the whole file
    place      panel, from 0, row after row
    clip_id    a clip of a prepared dataset; or, where it is empty or absent:
    video      a video of it, and
    time_s     a time in that video in seconds, which picks the clip; may be empty where the video has one clip only
    sounding   whether the panel is heard: true or false (or 1, 0); absent: all are
    gain       factor on its sound after it was brought to a level; absent: 1
    heard      layout single: another clip_id, whose sound is heard instead, so that nothing in the frame sounds (the
               negatives of SLAVC's extended sets); empty or absent: its own
    label      class name, for the reader; nothing is done with it

A list that `raymix.prepare pair_lists=` made of a given one also says what that one was and how many of its scenes are missing:
Parquet in its metadata (`raymix.origin`), CSV in the columns `of_id`, `of_hash`, `of_scenes` and `of_missing`.

The name of the file is the list's id; its hash is of the content alone, in whatever order the scenes stand.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymix.data.layouts import draw_scenes, layout_id, panel_grid
from raymix.data.records import ClipTable
from raymix.runtime.storage import atomic_output_file, read_bytes, resolve_uri, write_atomic

INSTEAD = (
    "python -m raymix.prepare dataset=NAME pair_lists=[FILE] writes a list of the scenes whose clips are here, and counts the "
    "others"
)


@dataclass(frozen=True)
class ScenePanel:
    """One row of a list: a clip (or a video and a time in it) in a panel."""

    scene_id: str
    place: int
    clip_id: str = ""
    video: str = ""
    time_s: float | None = None
    sounding: bool = True
    gain: float = 1.0
    label: str = ""
    heard: str = ""  # clip_id of another clip that is heard instead: nothing in the frame sounds
    row: int = 0  # in its file, from 1: for messages

    @property
    def named(self) -> tuple[Any, ...]:
        """What the row says of its clip."""
        return (self.clip_id,) if self.clip_id else (self.video, self.time_s)


@dataclass(frozen=True)
class PairListOrigin:
    """The list that was given, where a list has those of its scenes whose clips are in a dataset."""

    id: str
    hash: str
    scenes: int
    missing: int  # of these, scenes without their clips

    def said(self, here: int) -> str:
        """What must stand beside a number of `here` of its scenes; nothing where none is missing."""
        if not self.missing:
            return ""
        rest = self.scenes - self.missing - here
        left_out = f", {rest} left out" if rest else ""
        return f"{here} of {self.scenes} listed scenes, {self.missing} without their clips{left_out}"


@dataclass(frozen=True)
class PairList:
    """Scenes of one layout in the order of their ids, and the panels of each in the order of their places."""

    id: str
    layout: str
    scenes: tuple[tuple[ScenePanel, ...], ...]
    origin: PairListOrigin | None = None  # no part of the content, nor of its hash

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def ids(self) -> list[str]:
        return [panels[0].scene_id for panels in self.scenes]

    @property
    def hash(self) -> str:
        """Sixteen hex digits that name the content."""
        told = [
            [[p.scene_id, p.place, *p.named, p.sounding, p.gain, *filter(None, [p.heard])] for p in panels]
            for panels in self.scenes
        ]
        return blake2b(json.dumps([self.layout, told]).encode(), digest_size=8).hexdigest()

    def take(self, count: int | None) -> PairList:
        """The first `count` scenes: a list with a hash of its own."""
        return replace(self, scenes=self.scenes[:count])

    def find(self, clips: ClipTable) -> np.ndarray:
        """Where each panel's clip stands in `clips`, (N, P); ValueError naming the row of one that is not there."""
        known = {name: place for place, name in enumerate(clips.clip_id.tolist())}
        of_video: dict[str, list[int]] = {}
        for place, name in enumerate(clips.video.tolist()):
            of_video.setdefault(name, []).append(place)
        found_NP = np.empty((len(self), len(self.scenes[0])), np.int64)
        for scene, panels in enumerate(self.scenes):
            for place, panel in enumerate(panels):
                where = f"pair list {self.id}, row {panel.row}, scene {panel.scene_id!r}"
                found_NP[scene, place] = at = _find(panel, clips, known, of_video, where)
                if at in found_NP[scene, :place]:
                    raise ValueError(f"{where}: clip {str(clips.clip_id[at])!r} is in this scene twice")
        return found_NP

    def sounds(self, clips: ClipTable, seen_NP: np.ndarray) -> np.ndarray | None:
        """The clip whose sound each single frame hears, (N, 1); None where all hear their own. ValueError as in `find`,
        which gave `seen_NP`."""
        if not any(panel.heard for panels in self.scenes for panel in panels):
            return None
        sounds_N1 = seen_NP.copy()
        known = {name: place for place, name in enumerate(clips.clip_id.tolist())}
        for scene, (panel, *_) in enumerate(self.scenes):
            where = f"pair list {self.id}, row {panel.row}, scene {panel.scene_id!r}, heard"
            if panel.heard:
                other = _find(ScenePanel(panel.scene_id, 0, panel.heard), clips, known, {}, where)
                if clips.video[other] == clips.video[sounds_N1[scene, 0]]:
                    raise ValueError(f"{where}: clip {panel.heard!r} is of the same video, which is no other's sound")
                sounds_N1[scene, 0] = other
        return sounds_N1


def _find(
    panel: ScenePanel, clips: ClipTable, known: Mapping[str, int], of_video: Mapping[str, list[int]], where: str
) -> int:
    """Where the clip of a panel stands."""
    if panel.clip_id:
        if panel.clip_id not in known:
            raise ValueError(
                f"{where}: no clip {panel.clip_id!r} among {len(known)}{_near(panel.clip_id, known)}; {INSTEAD}"
            )
        return known[panel.clip_id]
    places = of_video.get(panel.video, [])
    if not places:
        raise ValueError(f"{where}: no clip of video {panel.video!r}{_near(panel.video, of_video)}; {INSTEAD}")
    if panel.time_s is None:
        if len(places) > 1:
            raise ValueError(f"{where}: video {panel.video!r} has {len(places)} clips; time_s must say which")
        return places[0]
    if clips.start_s is None or clips.duration_s is None:
        raise ValueError(f"{where}: these clips came without their times; name a clip_id")
    start_N, length_N = clips.start_s[places], clips.duration_s[places]
    holds = (start_N <= panel.time_s) & (panel.time_s <= start_N + length_N)
    if not holds.any():
        raise ValueError(f"{where}: no clip of video {panel.video!r} holds {panel.time_s:g} s; {INSTEAD}")
    off_N = np.where(holds, np.abs(start_N + length_N / 2 - panel.time_s), np.inf)
    return places[int(off_N.argmin())]


def _near(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def make_pair_list(
    clips: ClipTable, *, layout: str, count: int, seed: int, sources: int | None = None, name: str = ""
) -> PairList:
    """The list of the scenes that `raymix.data.scenes.compose_scenes` draws: the same for the same seed and clips in any order."""
    if layout == "natural":
        clips = clips.with_sources(panel_grid(layout, sources)[2])
    drawn = draw_scenes(clips.clip_id, clips.video, clips.label, layout=layout, count=count, seed=seed, sources=sources)
    scenes = []
    for scene, cast, places in zip(drawn.ids, drawn.clips_NP.tolist(), drawn.place_NP.tolist(), strict=True):
        panels = [
            ScenePanel(scene, place, str(clips.clip_id[at]), sounding=rank < drawn.heard, label=str(clips.label[at]))
            for rank, (at, place) in enumerate(zip(cast, places, strict=True))
        ]
        scenes.append(tuple(sorted(panels, key=lambda panel: panel.place)))
    return PairList(name or f"{layout_id(layout, sources)}-{seed}", layout, tuple(scenes))


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

CLIP_NAME = re.compile(r"([\w-]{11}_\d{6}|sample\d{4})(\.\w+)?")  # a file there

MIDDLE_S = 5.0  # of the 10 s clips of VGGSound: the frame that VGG-SS annotates

ORIGIN_KEY, ORIGIN_PREFIX = b"raymix.origin", "of_"  # where a file says what list it was made of: metadata, or columns

_BOOLS = {"true": True, "1": True, "false": False, "0": False, "": True}


def write_pair_list(pairs: PairList, uri: str) -> None:
    """The list as a file, CSV or Parquet by its name; it carries the list's content, and its own name is the id."""
    every = [panel for panels in pairs.scenes for panel in panels]
    schema = SCHEMA if any(panel.heard for panel in every) else SCHEMA.remove(SCHEMA.get_field_index("heard"))
    rows = [
        {name: pairs.layout if name == "layout" else getattr(panel, name) for name in schema.names} for panel in every
    ]
    filesystem, path = resolve_uri(uri)
    if path.endswith(".parquet"):
        with atomic_output_file(filesystem, path) as part:
            told = {ORIGIN_KEY: json.dumps(asdict(pairs.origin)).encode()} if pairs.origin else None
            pq.write_table(pa.Table.from_pylist(rows, schema.with_metadata(told)), part)
        return
    text = io.StringIO()
    of = {f"{ORIGIN_PREFIX}{name}": value for name, value in (asdict(pairs.origin) if pairs.origin else {}).items()}
    writer = csv.DictWriter(text, [*schema.names, *of], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shown = {
            "sounding": str(row["sounding"]).lower(),
            "time_s": "" if row["time_s"] is None else repr(row["time_s"]),
        }
        writer.writerow(row | shown | of)
    write_atomic(filesystem, path, text.getvalue().encode())


def read_pair_list(uri: str, layout: str | None = None) -> PairList:
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


def _origin(cells: Mapping[str, Any], here: int, uri: str) -> PairListOrigin | None:
    """What a file says of the list that it was made of; ValueError where that cannot be."""
    told = {each.name: cells.get(f"{ORIGIN_PREFIX}{each.name}") for each in fields(PairListOrigin)}
    if not any(told.values()):
        return None
    try:
        found = PairListOrigin(str(told["id"]), str(told["hash"]), int(str(told["scenes"])), int(str(told["missing"])))
    except ValueError:
        raise ValueError(
            f"{uri}: {ORIGIN_PREFIX}scenes={told['scenes']!r}, {ORIGIN_PREFIX}missing={told['missing']!r}: must be numbers"
        ) from None
    if found.missing < 0 or found.scenes < found.missing + here:
        raise ValueError(
            f"{uri}: {ORIGIN_PREFIX}scenes={found.scenes}: must be at least its {here} scenes and the "
            f"{ORIGIN_PREFIX}missing={found.missing} others"
        )
    return found


def _rows(uri: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a file, and what its metadata say of where it comes from."""
    filesystem, path = resolve_uri(uri)
    if not filesystem.get_file_info(path).is_file:
        raise ValueError(f"pair_list={uri}: no such file")
    data = read_bytes(filesystem, path)
    if data[:4] == b"PAR1":
        try:
            table = pq.read_table(pa.BufferReader(data))
            of = json.loads((table.schema.metadata or {}).get(ORIGIN_KEY, b"{}"))
            return table.to_pylist(), {f"{ORIGIN_PREFIX}{name}": value for name, value in of.items()}
        except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{uri}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    try:
        text = data.decode("utf-8-sig")
        first = next(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True), [])
        bare = len(first) == len(PUBLISHED) and all(CLIP_NAME.fullmatch(name) for name in first[::2])
        head = PUBLISHED if bare else None
        return list(csv.DictReader(io.StringIO(text, newline=""), head, skipinitialspace=True)), {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{uri}: a pair list is Parquet or CSV, this is neither ({error})") from error


def _published(rows: list[dict[str, Any]], uri: str, name: str) -> Iterator[ScenePanel]:
    """Panels of AVGN's form: both clips of a row are heard; a file is named by its video, an ending such as .mp4 is cut.

    Its lists are of VGG-SS and of the annotated frames of VGGSound-Instruments.
    """
    for number, row in enumerate(rows, 1):
        for place in (0, 1):
            file, label = row[f"file{place + 1}"], row[f"class{place + 1}"]
            if not file:
                raise ValueError(f"{uri}, row {number}: file{place + 1} is empty")
            video = re.sub(r"\.(mp4|mkv|webm|wav|jpg)$", "", str(file))
            yield ScenePanel(f"{name}-{number:05d}", place, "", video, MIDDLE_S, label=str(label or ""), row=number)


def _panel(row: Mapping[str, Any], number: int, layout: str, uri: str) -> ScenePanel:
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
    return ScenePanel(
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


def _scenes(panels: list[ScenePanel], layout: str, uri: str) -> tuple[tuple[ScenePanel, ...], ...]:
    """Panels by scene, ordered by id and place; ValueError naming the row that does not belong."""
    scenes: dict[str, list[ScenePanel]] = {}
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
        rows, columns, _ = panel_grid(layout, len(first) if layout in ("hconcat", "vconcat") else None)
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
