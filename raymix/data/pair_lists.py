"""Pair lists: files that fix which clips make which scene, so that different programs are scored on the same scenes.

The paper's random pairs (Section 4.2) were never released; the list in common use is AVGN's for VGGSound-Duet. A list is
Parquet or CSV, one row for each panel of a scene, the rows of a scene together:

    scene_id   string, the name of the scene
    layout     one of `raymix.data.layouts.LAYOUTS`, the same in the whole file
    place      panel, from 0, row after row
    clip_id    a clip of a prepared dataset; or, where it is empty or absent:
    video      a video of it, and
    time_s     a time in that video in seconds, which picks the clip; may be empty where the video has one clip only
    sounding   whether the panel sounds: true or false (or 1, 0); absent: all do
    gain       factor on its sound after loudness normalisation; absent: 1
    heard      layout single: another clip_id, whose sound is used instead, so that nothing in the frame sounds (the
               negatives of SLAVC's extended sets); empty or absent: its own
    label      class name, for readers of the file only

A list that `raymix.prepare pair_lists=` made of a given one also names that one and the number of its scenes that are
missing: Parquet in its metadata (`raymix.origin`), CSV in the columns `of_id`, `of_hash`, `of_scenes` and `of_missing`.

The name of the file is the list's id. Its hash is of the content alone, independent of the order of the scenes.
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
from raymix.data.records import ClipColumns
from raymix.runtime.storage import atomic_output_file, read_bytes, resolve_uri, write_atomic

MISSING_CLIPS_HINT = (
    "python -m raymix.prepare dataset=NAME pair_lists=[FILE] writes a list of the scenes whose clips are here, and counts the "
    "others"
)


@dataclass(frozen=True)
class ScenePanel:
    """A row of a pair list: a clip, or a video and a time in it, in a panel of a scene."""

    scene_id: str
    place: int
    clip_id: str = ""
    video: str = ""
    time_s: float | None = None
    sounding: bool = True
    gain: float = 1.0
    label: str = ""
    heard: str = ""  # clip_id of another clip whose sound is used instead: nothing in the frame sounds
    row: int = 0  # in its file, from 1; for messages

    @property
    def clip_key(self) -> tuple[Any, ...]:
        """The columns that identify the clip."""
        return (self.clip_id,) if self.clip_id else (self.video, self.time_s)


@dataclass(frozen=True)
class PairListOrigin:
    """The given list of which a list holds the scenes whose clips are in a dataset."""

    id: str
    hash: str
    scenes: int
    missing: int  # scenes whose clips are not in the dataset

    def coverage_note(self, scored: int) -> str:
        """Return the note for a score on `scored` of the scenes, '' where none is missing."""
        if not self.missing:
            return ""
        rest = self.scenes - self.missing - scored
        left_out = f", {rest} left out" if rest else ""
        return f"{scored} of {self.scenes} listed scenes, {self.missing} without their clips{left_out}"


@dataclass(frozen=True)
class PairList:
    """Scenes of one layout ordered by id; the panels of a scene are ordered by place."""

    id: str
    layout: str
    scenes: tuple[tuple[ScenePanel, ...], ...]
    origin: PairListOrigin | None = None  # not part of the hash

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def ids(self) -> list[str]:
        return [panels[0].scene_id for panels in self.scenes]

    @property
    def hash(self) -> str:
        """Hash of the content, sixteen hexadecimal digits."""
        content = [
            [[p.scene_id, p.place, *p.clip_key, p.sounding, p.gain, *filter(None, [p.heard])] for p in panels]
            for panels in self.scenes
        ]
        return blake2b(json.dumps([self.layout, content]).encode(), digest_size=8).hexdigest()

    def take(self, count: int | None) -> PairList:
        """Return a list of the first `count` scenes."""
        return replace(self, scenes=self.scenes[:count])

    def locate_clips(self, clips: ClipColumns) -> np.ndarray:
        """Return the index in `clips` of each panel's clip, (N, P).

        Raises:
            ValueError: a clip is missing, or twice in a scene; the message names the row.
        """
        index = _ClipIndex(clips)
        found_NP = np.empty((len(self), len(self.scenes[0])), np.int64)
        for scene, panels in enumerate(self.scenes):
            for place, panel in enumerate(panels):
                where = f"pair list {self.id}, row {panel.row}, scene {panel.scene_id!r}"
                found_NP[scene, place] = clip = index.locate(panel, where)
                if clip in found_NP[scene, :place]:
                    raise ValueError(f"{where}: clip {str(clips.clip_id[clip])!r} is in this scene twice")
        return found_NP

    def locate_audio(self, clips: ClipColumns, shown_NP: np.ndarray) -> np.ndarray | None:
        """Return the index in `clips` of the clip whose sound each single frame has, (N, 1); None where all have their own.

        Args:
            clips: those given to `locate_clips`.
            shown_NP: the result of `locate_clips`.

        Raises:
            ValueError: a clip is missing, or of the same video as the frame; the message names the row.
        """
        if not any(panel.heard for panels in self.scenes for panel in panels):
            return None
        audio_N1, index = shown_NP.copy(), _ClipIndex(clips)
        for scene, (panel, *_) in enumerate(self.scenes):
            where = f"pair list {self.id}, row {panel.row}, scene {panel.scene_id!r}, heard"
            if panel.heard:
                other = index.locate(ScenePanel(panel.scene_id, 0, panel.heard), where)
                if clips.video[other] == clips.video[audio_N1[scene, 0]]:
                    raise ValueError(
                        f"{where}: clip {panel.heard!r} is of the same video; name a clip of another video"
                    )
                audio_N1[scene, 0] = other
        return audio_N1


class _ClipIndex:
    """Finds clips by id, or by video and time."""

    def __init__(self, clips: ClipColumns) -> None:
        self.clips = clips
        self.by_id = {name: index for index, name in enumerate(clips.clip_id.tolist())}
        self.by_video: dict[str, list[int]] = {}
        for index, name in enumerate(clips.video.tolist()):
            self.by_video.setdefault(name, []).append(index)

    def locate(self, panel: ScenePanel, where: str) -> int:
        """The index of a panel's clip; ValueError, which begins with `where`, where there is none."""
        if panel.clip_id:
            if panel.clip_id not in self.by_id:
                near = _did_you_mean(panel.clip_id, self.by_id)
                raise ValueError(
                    f"{where}: no clip {panel.clip_id!r} among {len(self.by_id)}{near}; {MISSING_CLIPS_HINT}"
                )
            return self.by_id[panel.clip_id]
        candidates = self.by_video.get(panel.video, [])
        if not candidates:
            near = _did_you_mean(panel.video, self.by_video)
            raise ValueError(f"{where}: no clip of video {panel.video!r}{near}; {MISSING_CLIPS_HINT}")
        if panel.time_s is None:
            if len(candidates) > 1:
                raise ValueError(f"{where}: video {panel.video!r} has {len(candidates)} clips; time_s must say which")
            return candidates[0]
        if self.clips.start_s is None or self.clips.duration_s is None:
            raise ValueError(f"{where}: these clips came without their times; name a clip_id")
        start_N, length_N = self.clips.start_s[candidates], self.clips.duration_s[candidates]
        holds_N = (start_N <= panel.time_s) & (panel.time_s <= start_N + length_N)
        if not holds_N.any():
            raise ValueError(
                f"{where}: no clip of video {panel.video!r} holds {panel.time_s:g} s; {MISSING_CLIPS_HINT}"
            )
        distance_N = np.where(holds_N, np.abs(start_N + length_N / 2 - panel.time_s), np.inf)
        return candidates[int(distance_N.argmin())]


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def make_pair_list(
    clips: ClipColumns, *, layout: str, count: int, seed: int, sources: int | None = None, name: str = ""
) -> PairList:
    """Return the list of the scenes that `raymix.data.scenes.compose_scenes` draws of the same clips.

    Args:
        clips: clips, or their metadata, in any order.
        layout, count, seed, sources: see `raymix.data.layouts.draw_scenes`.
        name: id of the list; '': layout and seed.
    """
    if layout == "natural":
        clips = clips.with_sources(panel_grid(layout, sources)[2])
    drawn = draw_scenes(clips.clip_id, clips.video, clips.label, layout=layout, count=count, seed=seed, sources=sources)
    scenes = []
    for scene, indices, places in zip(drawn.ids, drawn.clips_NP.tolist(), drawn.panels_NP.tolist(), strict=True):
        panels = [
            ScenePanel(
                scene,
                place,
                str(clips.clip_id[clip]),
                sounding=position < drawn.num_sounding,
                label=str(clips.label[clip]),
            )
            for position, (clip, place) in enumerate(zip(indices, places, strict=True))
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
        ("heard", pa.string()),  # only where a scene has another clip's sound
    ]
)

AVGN_COLUMNS = ("file1", "class1", "file2", "class2")  # of AVGN's list, which has no header

AVGN_FILE = re.compile(r"([\w-]{11}_\d{6}|sample\d{4})(\.\w+)?")

MIDDLE_S = 5.0  # middle of the 10 s clips of VGGSound: the frame that VGG-SS annotates

ORIGIN_KEY, ORIGIN_PREFIX = (
    b"raymix.origin",
    "of_",
)  # of the original list: key of Parquet metadata, prefix of CSV columns

_BOOLS = {"true": True, "1": True, "false": False, "0": False, "": True}


def write_pair_list(pairs: PairList, uri: str) -> None:
    """Write a list as Parquet where `uri` ends in .parquet, else as CSV. The file has no id: its name is the id."""
    all_panels = [panel for panels in pairs.scenes for panel in panels]
    schema = SCHEMA if any(panel.heard for panel in all_panels) else SCHEMA.remove(SCHEMA.get_field_index("heard"))
    rows = [
        {name: pairs.layout if name == "layout" else getattr(panel, name) for name in schema.names}
        for panel in all_panels
    ]
    filesystem, path = resolve_uri(uri)
    if path.endswith(".parquet"):
        with atomic_output_file(filesystem, path) as part:
            metadata = {ORIGIN_KEY: json.dumps(asdict(pairs.origin)).encode()} if pairs.origin else None
            pq.write_table(pa.Table.from_pylist(rows, schema.with_metadata(metadata)), part)
        return
    text = io.StringIO()
    origin = {f"{ORIGIN_PREFIX}{name}": value for name, value in (asdict(pairs.origin) if pairs.origin else {}).items()}
    writer = csv.DictWriter(text, [*schema.names, *origin], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        formatted = {
            "sounding": str(row["sounding"]).lower(),
            "time_s": "" if row["time_s"] is None else repr(row["time_s"]),
        }
        writer.writerow(row | formatted | origin)
    write_atomic(filesystem, path, text.getvalue().encode())


def read_pair_list(uri: str, layout: str | None = None) -> PairList:
    """Read a pair list.

    Args:
        uri: a file in the format of this module, or in AVGN's: `file1,class1,file2,class2` with this header or none.
        layout: layout of the scenes of a file in AVGN's format; None: hconcat.

    Raises:
        ValueError: the file is no such list; one line that names the row.
    """
    (rows, origin), name = _read_rows(uri), uri.rstrip("/").rpartition("/")[2].rpartition(".")[0]
    if not rows:
        raise ValueError(f"{uri}: a pair list without a row")
    if set(AVGN_COLUMNS) <= set(rows[0]):
        list_layout, panels = layout or "hconcat", list(_avgn_panels(rows, uri, name))
    else:
        missing = [column for column in ("scene_id", "layout", "place") if column not in rows[0]]
        if missing or not {"clip_id", "video"} & set(rows[0]):
            need = f"column {missing[0]}" if missing else "column clip_id, nor video"
            raise ValueError(f"{uri}: no {need}; it has {', '.join(map(str, rows[0]))}")
        list_layout = str(rows[0]["layout"])
        panels = [_parse_panel(row, number, list_layout, uri) for number, row in enumerate(rows, 1)]
    scenes = _group_by_scene(panels, list_layout, uri)
    return PairList(name, list_layout, scenes, _parse_origin(origin or rows[0], len(scenes), uri))


def _parse_origin(cells: Mapping[str, Any], scenes: int, uri: str) -> PairListOrigin | None:
    """The original list that a file with `scenes` scenes names; ValueError where its numbers are impossible."""
    values = {each.name: cells.get(f"{ORIGIN_PREFIX}{each.name}") for each in fields(PairListOrigin)}
    if not any(values.values()):
        return None
    try:
        origin = PairListOrigin(
            str(values["id"]), str(values["hash"]), int(str(values["scenes"])), int(str(values["missing"]))
        )
    except ValueError:
        raise ValueError(
            f"{uri}: {ORIGIN_PREFIX}scenes={values['scenes']!r}, {ORIGIN_PREFIX}missing={values['missing']!r}: must be numbers"
        ) from None
    if origin.missing < 0 or origin.scenes < origin.missing + scenes:
        raise ValueError(
            f"{uri}: {ORIGIN_PREFIX}scenes={origin.scenes}: must be at least its {scenes} scenes and the "
            f"{ORIGIN_PREFIX}missing={origin.missing} others"
        )
    return origin


def _read_rows(uri: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a file, and the original list from its metadata."""
    filesystem, path = resolve_uri(uri)
    if not filesystem.get_file_info(path).is_file:
        raise ValueError(f"pair_list={uri}: no such file")
    data = read_bytes(filesystem, path)
    if data[:4] == b"PAR1":
        try:
            table = pq.read_table(pa.BufferReader(data))
            origin = json.loads((table.schema.metadata or {}).get(ORIGIN_KEY, b"{}"))
            return table.to_pylist(), {f"{ORIGIN_PREFIX}{name}": value for name, value in origin.items()}
        except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{uri}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    try:
        text = data.decode("utf-8-sig")
        first = next(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True), [])
        has_no_header = len(first) == len(AVGN_COLUMNS) and all(AVGN_FILE.fullmatch(name) for name in first[::2])
        head = AVGN_COLUMNS if has_no_header else None
        return list(csv.DictReader(io.StringIO(text, newline=""), head, skipinitialspace=True)), {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{uri}: a pair list is Parquet or CSV, this is neither ({error})") from error


def _avgn_panels(rows: list[dict[str, Any]], uri: str, name: str) -> Iterator[ScenePanel]:
    """Panels of a list in AVGN's format: both clips of a row sound, and a file name without its suffix is the video.

    AVGN's lists are of VGG-SS and of the annotated frames of VGGSound-Instruments.
    """
    for number, row in enumerate(rows, 1):
        for place in (0, 1):
            file, label = row[f"file{place + 1}"], row[f"class{place + 1}"]
            if not file:
                raise ValueError(f"{uri}, row {number}: file{place + 1} is empty")
            video = re.sub(r"\.(mp4|mkv|webm|wav|jpg)$", "", str(file))
            yield ScenePanel(f"{name}-{number:05d}", place, "", video, MIDDLE_S, label=str(label or ""), row=number)


def _parse_panel(row: Mapping[str, Any], number: int, layout: str, uri: str) -> ScenePanel:
    """One row of a file; ValueError that names it where a cell is not valid."""
    where = f"{uri}, row {number}"
    if None in row:
        raise ValueError(f"{where}: has more cells than there are columns")
    cells = {key: "" if value is None else str(value).strip() for key, value in row.items()}

    def invalid(column: str, rule: str) -> ValueError:
        return ValueError(f"{where}: {column}={cells.get(column, '')!r}: must be {rule}")

    if not cells["scene_id"]:
        raise invalid("scene_id", "the name of a scene")
    if cells["layout"] != layout:
        raise invalid("layout", f"{layout} as in row 1: a list has one layout")
    if not cells["place"].isdecimal():
        raise invalid("place", "a panel's number, from 0")
    if not cells.get("clip_id") and not cells.get("video"):
        raise ValueError(f"{where}: neither clip_id nor video names a clip")
    if cells.get("sounding", "").lower() not in _BOOLS:
        raise invalid("sounding", "true or false")
    time_s, gain = (_number(cells.get(column, "")) for column in ("time_s", "gain"))
    if time_s is not None and not 0.0 <= time_s < math.inf:
        raise invalid("time_s", "seconds from 0")
    if gain is not None and not 0.0 < gain < math.inf:
        raise invalid("gain", "a factor above 0")
    if cells.get("heard") and layout != "single":
        raise invalid("heard", "empty: only the clip of a single frame can be heard in another's place")
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
    """A cell as a number: None where it is empty, NaN where it is no number (no check accepts NaN)."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return math.nan


def _group_by_scene(panels: list[ScenePanel], layout: str, uri: str) -> tuple[tuple[ScenePanel, ...], ...]:
    """Panels by scene, ordered by id and place; ValueError that names the row which does not fit."""
    scenes: dict[str, list[ScenePanel]] = {}
    last = ""
    for panel in panels:
        where, others = f"{uri}, row {panel.row}", scenes.setdefault(panel.scene_id, [])
        if others and panel.scene_id != last:
            raise ValueError(f"{where}: scene {panel.scene_id!r} was there before, in row {others[0].row}")
        for other in others:
            if other.place == panel.place:
                raise ValueError(
                    f"{where}: scene {panel.scene_id!r} has place {panel.place} already, in row {other.row}"
                )
            if other.clip_key == panel.clip_key:
                raise ValueError(f"{where}: scene {panel.scene_id!r} has the clip of row {other.row} twice")
        others.append(panel)
        last = panel.scene_id
    first = next(iter(scenes.values()))
    num_sounding = sum(panel.sounding for panel in first)
    try:
        rows, columns, _ = panel_grid(layout, len(first) if layout in ("hconcat", "vconcat") else None)
    except ValueError as error:
        raise ValueError(f"{uri}, row {first[0].row}: scene {first[0].scene_id!r}: {error}") from error
    for scene, members in scenes.items():
        where = f"{uri}, row {members[-1].row}: scene {scene!r}"
        if sorted(panel.place for panel in members) != list(range(rows * columns)):
            raise ValueError(
                f"{where} has {len(members)} rows; {layout} needs places 0 to {rows * columns - 1}, each once"
            )
        if not num_sounding or sum(panel.sounding for panel in members) != num_sounding:
            raise ValueError(
                f"{where}: {sum(p.sounding for p in members)} of its panels sound, in the first scene {num_sounding}; the "
                "number must be the same in a list, and at least 1"
            )
    return tuple(tuple(sorted(members, key=lambda panel: panel.place)) for _, members in sorted(scenes.items()))
