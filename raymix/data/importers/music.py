"""MUSIC (Zhao et al., 2018), solos and duets, with the boxes of DSOL (Hu et al., 2020): Tables 1 and 3 of the paper.

Keys are "ID_0_1000/frame_013/00411.jpg": the second, and the number of the frame in the whole video at 30 frames a second,
so this is the frame at 411 / 30 = 13.7 s whatever rate a download has. (A number below 30 is taken as counted from the
second on, which for the second 0 is the same.) Values are {"bbox": [{"normbox": [left, top, width, height], "box": the
same in px, "category_id": 1}], "wdith": 640, "height": 360}, misspelt as here. Frames without a box were looked at, and
nothing in them sounds.

`dataset.subset` is solo (also where it is empty) or duet. Below `dataset.annotations` (or the root) lie, as published,
MUSIC_solo_videos.json or MUSIC_duet_videos.json (roudimit/MUSIC_dataset), and solotest.json or duettest.json
(DTaoo/Discriminative-Sounding-Objects-Localization); `annotations` may be the JSON of videos itself, MUSIC21's for
instance. Media are called ID or ID_0_1000, in any form of `medium`: with `frames_per_second=4` also that of the paper's
code, INSTRUMENT/ID/frames/*.jpg beside INSTRUMENT/ID/audio/audio_clips/*.wav of one second each.

Videos with boxes are the test split: 27 solos, 16 duets. The others are divided between train and val by `dataset.val`
and the hash of their id, or by train.csv, val.csv and test.csv in the folder `dataset.splits`, lines of which are
MUSIC_raw/solo/INSTRUMENT/ID. (The paper's code has two versions of these: one with 404, 18 and 24 solos, whose test is
part of the 27; and one of 21 instruments, which trains on some of the 27: here they stay in test. Any other video in two
of the lists is a leak, which ends the command unless `allow_leaks`.) A test video gives a
clip every `stride_seconds`, whose first frame is the annotated one that is nearest; where that has no box, nothing in it
sounds, and the clip has no region. Of duets, each label of the regions is a source (layout `natural`).

MUSIC-Synthetic's archives are refused: their sound is a pickled log-mel picture without phase, which nothing here can
read, mix or shift, and the source clips are not among them. The same scenes, four frames of different instruments of
which two sound, are made of the solo test clips by layout `grid2x2`; they are not the published composites.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from raymix.config import DatasetConfig, did_you_mean
from raymix.data.extraction import clips
from raymix.data.importers import base
from raymix.data.importers.base import assign_split, shuffle_sources
from raymix.data.importers.media_index import MediaIndex
from raymix.data.media import ManifestRow, MediaSource, normalize_path
from raymix.data.records import SPLITS, ClipRecord
from raymix.runtime.storage import list_files, read_bytes, resolve_uri

INSTRUMENTS = {
    1: "cello",
    3: "acoustic_guitar",
    8: "saxophone",
    10: "trumpet",
    11: "violin",
    12: "flute",
    13: "accordion",
}

FRAME_RATE = 30  # frames per second that the numbers count

REACH_S = 0.15  # boxes hold for so long before and after their time, but never beyond half way to the next

BOX_SLACK = 0.001  # of a frame, that a box may reach beyond it

ROUNDING = 0.01  # of a frame, between a box and the same in px

FRAME_KEY = re.compile(r"(?P<video>.+)_\d+_\d+/frame_(?P<second>\d+)/(?P<frame>\d+)\.jpg")


@dataclass(frozen=True)
class BoxTrack:
    """The annotated frames of one video: time (s) -> boxes (label, left, top, right, bottom in [0, 1]), in time."""

    frames: dict[float, tuple[tuple[str, list[float]], ...]]
    repairs: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The instruments that have boxes."""
        return tuple(sorted({label for boxes in self.frames.values() for label, _ in boxes}))

    @property
    def regions(self) -> tuple[dict[str, Any], ...]:
        """Entries of the region sidecar: each box for the time that is nearer to its frame than to another one."""
        times, found = list(self.frames), []
        for place, time_s in enumerate(times):
            low = max(time_s - REACH_S, (times[place - 1] + time_s) / 2 if place else 0.0)
            high = min(time_s + REACH_S, (times[place + 1] + time_s) / 2 if place + 1 < len(times) else math.inf)
            for label, box in self.frames[time_s]:
                found.append({"label": label, "sounding": True, "box": box, "from_s": low, "to_s": high})
        return tuple(found)

    def near(self, seconds: float, stride_s: float) -> tuple[float, ...]:
        """The annotated times nearest to the middles of clips of so many seconds, one every `stride_s` where there is one."""
        times, chosen, number = list(self.frames), dict[float, None](), 0
        while times and seconds / 2 + (number - 0.5) * stride_s <= times[-1]:
            middle = seconds / 2 + number * stride_s
            nearest_s = min(times, key=lambda time_s: abs(time_s - middle))
            if abs(nearest_s - middle) <= max(stride_s, seconds) / 2:
                chosen[nearest_s] = None
            number += 1
        return tuple(chosen)


def video_id_of_key(key: str) -> str:
    """The id of the video that a key is about, '' if it is no such key."""
    match = FRAME_KEY.fullmatch(key)
    return match["video"] if match else ""


def read_box_tracks(known: Any, where: str) -> dict[str, BoxTrack]:
    """The annotated frames of each video; what cannot be right leaves its frame out. ValueError for another file."""
    if not isinstance(known, dict) or not known:
        raise ValueError(f"{where}: expected boxes by frame, found {json.dumps(known)[:60]}")
    frames: dict[str, dict[float, tuple[tuple[str, list[float]], ...]]] = {}
    repairs: dict[str, list[str]] = {}
    for key, value in known.items():
        match = FRAME_KEY.fullmatch(key)
        if not match or not isinstance(value, dict) or not isinstance(value.get("bbox"), list):
            expected = 'expected "ID_0_1000/frame_013/00411.jpg": {"bbox": [...]}'
            raise ValueError(f"{where}: {expected}, found {json.dumps({key: value})[:80]}")
        of, wrong = frames.setdefault(match["video"], {}), repairs.setdefault(match["video"], [])
        second, frame = int(match["second"]), int(match["frame"])
        boxes = [_box(each, value) for each in value["bbox"]]
        faults = [box for box in boxes if isinstance(box, str)]
        if frame // FRAME_RATE not in (second, 0):
            faults.append(f"frame {frame} is not of second {second} at {FRAME_RATE} frames a second")
        if faults:
            wrong.append(f"frame_{match['second']}/{match['frame']}.jpg left out: {faults[0]}")
        else:
            time_s = round(second + frame % FRAME_RATE / FRAME_RATE, 6)
            of[time_s] = tuple(box for box in boxes if not isinstance(box, str))
    return {name: BoxTrack(dict(sorted(of.items())), tuple(sorted(repairs[name]))) for name, of in frames.items()}


def _box(known: Any, frame: dict[str, Any]) -> tuple[str, list[float]] | str:
    """Label and edges (left, top, right, bottom) of one box, or what is wrong with it."""
    if not isinstance(known, dict):
        return f"no box: {json.dumps(known)[:40]}"
    category = known.get("category_id")
    label = INSTRUMENTS.get(category) if isinstance(category, int) else None
    if label is None:
        return f"no instrument has category_id {json.dumps(category)[:40]}"
    pixels, scaled = _numbers(known.get("box")), None
    sides = _numbers([frame.get("wdith", frame.get("width")), frame.get("height"), 1, 1])
    if pixels and sides and min(sides) > 0:
        scaled = [edge / sides[place % 2] for place, edge in enumerate(pixels)]
    shares = _numbers(known.get("normbox")) or scaled
    if shares is None:
        return f"no four numbers: {json.dumps(known.get('normbox'))[:60]}"
    if scaled and max(abs(a - b) for a, b in zip(shares, scaled, strict=True)) > ROUNDING:
        return f"box {known['box']} px is not normbox {shares}"
    left, top, width, height = shares
    if width <= 0 or height <= 0:
        return f"a box without area: {shares}"
    edges = [left, top, left + width, top + height]
    if min(edges) < -BOX_SLACK or max(edges) > 1 + BOX_SLACK:
        return f"a box beyond its frame: {shares}"
    return label, [min(max(edge, 0.0), 1.0) for edge in edges]


def _numbers(known: Any) -> list[float] | None:
    """Four finite numbers, or None."""
    right = isinstance(known, list) and len(known) == 4
    if not right or not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in known):
        return None
    return [float(number) for number in known]


VIDEO_LIST_FILES = {"solo": "MUSIC_solo_videos.json", "duet": "MUSIC_duet_videos.json"}

BOX_FILES = {"solo": "solotest.json", "duet": "duettest.json"}


@dataclass(frozen=True)
class MusicClip:
    """What the lists say of one video: its instruments, the splits that name it, what was repaired."""

    labels: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class MusicFiles:
    """The files below `dataset.annotations` (or the root), by their names."""

    where: str
    filesystem: fs.FileSystem
    paths: tuple[str, ...]
    chosen: str = ""  # the list of videos, where `dataset.annotations` is that file

    @staticmethod
    def of(settings: DatasetConfig, media: MediaIndex) -> MusicFiles:
        """The shelf that the settings name; ValueError where there is none."""
        where = settings.annotations or settings.root
        filesystem, path = resolve_uri(where)
        if not settings.annotations:
            return MusicFiles(
                where, filesystem, tuple(f"{path}/{name}" for name in media.files if name.endswith(".json"))
            )
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            raise ValueError(f"dataset.annotations='{where}': no such file or folder")
        folder = path if kind == fs.FileType.Directory else path.rpartition("/")[0]
        paths = sorted(f"{folder}/{name}" for name in list_files(filesystem, folder) if name.endswith(".json"))
        return MusicFiles(where, filesystem, tuple(paths), "" if kind == fs.FileType.Directory else path)

    def _find(self, name: str) -> str:
        found = [path for path in self.paths if path.rpartition("/")[2] == name]
        if len(found) > 1 and len({read_bytes(self.filesystem, path) for path in found}) > 1:
            raise ValueError(f"{self.where}: {len(found)} different files {name}: {', '.join(found[:3])}; leave one")
        return found[0] if found else ""

    def _json(self, path: str) -> Any:
        try:
            return json.loads(base.read_list_bytes(self.filesystem, path).decode("utf-8-sig"))
        except (OSError, ValueError) as error:  # a JSONDecodeError, a UnicodeDecodeError
            raise ValueError(f"{path}: not a whole JSON file ({str(error).splitlines()[0]})") from error

    def videos(self, subset: str) -> dict[str, MusicClip]:
        """The videos that the publisher lists, in his order; ValueError where the file is missing or another one."""
        path = self.chosen or self._find(VIDEO_LIST_FILES[subset])
        if not path:
            others = {path.rpartition("/")[2] for path in self.paths}
            other = next((each for each, name in VIDEO_LIST_FILES.items() if name in others), "")
            hint = f"; there is {VIDEO_LIST_FILES[other]}: dataset.subset={other}" if other else ""
            like = sorted(each for each in others if "music" in each.lower())
            near = did_you_mean(VIDEO_LIST_FILES[subset], like) if like and not other else ""
            raise ValueError(
                f"{self.where}: no {VIDEO_LIST_FILES[subset]} below it (of roudimit/MUSIC_dataset){hint or near}"
            )
        known = self._json(path)
        by_name = known.get("videos") if isinstance(known, dict) else None
        if not isinstance(by_name, dict) or not by_name or not all(isinstance(ids, list) for ids in by_name.values()):
            raise ValueError(f'{path}: expected {{"videos": {{"flute": [ids]}}}}, found {json.dumps(known)[:60]}')
        return _listed(by_name, path, subset)

    def tracks(self, subset: str) -> dict[str, BoxTrack]:
        """The annotated frames of each video that has some; none where there is no such file."""
        path = self._find(BOX_FILES[subset])
        return read_box_tracks(self._json(path), path) if path else {}

    def tested(self, subset: str) -> list[str]:
        """The videos that have boxes, by the file's keys alone."""
        path = self._find(BOX_FILES[subset])
        known = self._json(path) if path else {}
        return list(dict.fromkeys(filter(None, map(video_id_of_key, known)))) if isinstance(known, dict) else []


def _listed(by_name: dict[str, list[Any]], path: str, subset: str) -> dict[str, MusicClip]:
    """Ids by instruments turned round; an id that is listed twice keeps its first place."""
    found: dict[str, MusicClip] = {}
    for name, ids in by_name.items():
        labels, want = tuple(name.split()), {"solo": 1, "duet": 2}[subset]
        if len(labels) != want:
            raise ValueError(f"{path}: '{name}' names {len(labels)} instrument(s), a {subset} has {want}")
        for each in ids:
            if not isinstance(each, str) or not each.strip():
                raise ValueError(f"{path}, '{name}': expected ids of videos, found {json.dumps(each)[:40]}")
            video = normalize_path(each.strip())
            if video in found:
                before = found[video]
                again = f"listed again as {name}, kept as {' '.join(before.labels)}"
                found[video] = MusicClip(before.labels, (*before.repairs, again))
            else:
                found[video] = MusicClip(labels)
    return found


def read_split_files(uri: str) -> dict[str, MusicClip]:
    """The videos of train.csv, val.csv and test.csv in a folder, lines of .../INSTRUMENT/ID; ValueError with the line."""
    filesystem, folder = resolve_uri(uri)
    found: dict[str, MusicClip] = {}
    for split in SPLITS:
        path = f"{folder}/{split}.csv"
        try:
            text = base.read_list_bytes(filesystem, path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            expected = "expected a folder with train.csv, val.csv and test.csv"
            raise ValueError(f"dataset.splits='{uri}': {expected}, {split}.csv cannot be read") from error
        for number, line in enumerate(text.splitlines(), 1):
            parts = PurePosixPath(normalize_path(line.strip())).parts
            if line.strip() and (len(parts) < 2 or "," in line):
                expected = "expected MUSIC_raw/solo/INSTRUMENT/ID"
                raise ValueError(f"{path}, line {number}: {expected}, found '{line.strip()[:60]}'")
            if parts:
                before = found.get(parts[-1], MusicClip((parts[-2],)))
                splits = tuple(dict.fromkeys((*before.splits, split)))
                found[parts[-1]] = MusicClip(before.labels, splits=splits)
    return found


OPTIONAL_SETTINGS: tuple[str, ...] = ("annotations", "subset", "frames_per_second", "splits")

SYNTHETIC_FILE = re.compile(r"(^|/)((train|test1)/audio/[^/]+\.pkl|test1/box/[^/]+\.npy)$")

ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".part", ".crdownload", ".ytdl")


def list_sources(settings: DatasetConfig) -> list[MediaSource]:
    """Every video that a list or the boxes name, in the order of the shards; ValueError where files are wrong."""
    subset = _subset(settings.subset)
    media = MediaIndex(settings.root)
    if any(SYNTHETIC_FILE.search(name) for name in media.files):
        raise ValueError(f"dataset.root='{settings.root}': {_SYNTHETIC}")
    shelf = MusicFiles.of(settings, media)
    listed, tracks = shelf.videos(subset), shelf.tracks(subset)
    given = read_split_files(settings.splits) if settings.splits else None
    if not tracks and given is None:
        raise ValueError(
            f"{shelf.where}: no {BOX_FILES[subset]} below it (music-exp/ of DTaoo/Discriminative-Sounding-Objects-Localization), "
            f"which says what is tested; or name dataset.splits"
        )
    other = "duet" if subset == "solo" else "solo"
    tested = dict.fromkeys(shelf.tested(other), other)
    names = dict.fromkeys([*listed, *tracks, *(given or {})])
    found = []
    for name in names:
        source = _source(settings, media, name, listed.get(name), tracks.get(name), given, tested)
        several = (
            given is not None and source.refused is None and name not in tracks and given.get(name, MusicClip()).splits
        )
        found += [replace(source, split=split) for split in several or (source.split,)]  # `leaks` finds it in both
    _refuse_strange_root(settings, media, found)
    return shuffle_sources(settings, found)


def import_clips(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
    """The clips of one video, in time; the manifest says how many of its annotated frames show nothing that sounds."""
    yield from clips.extract_clips(settings, source, entry)
    silent = sum(not any(known["from_s"] <= time_s < known["to_s"] for known in source.regions) for time_s in source.at)
    if silent:
        note = f"nothing sounds in {silent} of {len(source.at)} annotated frames"
        entry.reason = "; ".join(filter(None, (entry.reason, note)))


_SYNTHETIC = (
    "MUSIC-Synthetic cannot be imported: its sound is pickled log-mel pictures without phase, its four frames one picture, "
    "and its clips are not there; dataset.subset=solo with layouts=[grid2x2] makes the same kind of scene, not those"
)


def _subset(name: str) -> str:
    if name == "synthetic":
        raise ValueError(f"dataset.subset=synthetic: {_SYNTHETIC}")
    if name and name not in BOX_FILES:
        raise ValueError(
            f"dataset.subset={name}: must be one of {', '.join(BOX_FILES)}{did_you_mean(name, list(BOX_FILES))}"
        )
    return name or "solo"


def _source(
    settings: DatasetConfig,
    media: MediaIndex,
    name: str,
    listed: MusicClip | None,
    track: BoxTrack | None,
    given: Mapping[str, MusicClip] | None,
    tested: Mapping[str, str],
) -> MediaSource:
    """One video: where it is, in which split, with what is known of it."""
    divided = None if given is None else given.get(name, MusicClip())
    repairs = list(listed.repairs) if listed else []
    labels = listed.labels if listed else track.labels if track else divided.labels if divided else ()
    if track and not listed:
        repairs.append("in the boxes, not in the list of videos: its labels are those of its boxes")
    split, refused = _split(settings, name, divided, tested)
    if track:
        split, refused = "test", None
        repairs += track.repairs
        repairs += (
            [f"{other}.csv has it too: it is tested" for other in divided.splits if other != "test"] if divided else []
        )
        if not track.frames:
            refused = ("corrupt", f"no annotated frame can be used: {track.repairs[0]}")
    medium = media.find(name, f"{name}_0_1000")
    repairs += medium.doubts if medium else ()
    return MediaSource(
        medium.path if medium else name,
        split,
        medium.size_bytes if medium else -1,
        labels,
        track.regions if track else (),
        medium.sound if medium else "",
        id=name,
        video=name,
        at=track.near(settings.clip_seconds, settings.stride_seconds) if track else (),
        repairs=tuple(repairs),
        refused=refused,
    )


def _split(
    settings: DatasetConfig, name: str, divided: MusicClip | None, tested: Mapping[str, str]
) -> tuple[str, tuple[str, str] | None]:
    """The split of a video without boxes, or why it is in none."""
    if name in tested:
        return "", ("leaked", f"{BOX_FILES[tested[name]]} tests it")
    if divided is None:
        return assign_split(replace(settings, test=0.0), name), None
    return (divided.splits[0] if divided.splits else ""), None


def _refuse_strange_root(settings: DatasetConfig, media: MediaIndex, found: list[MediaSource]) -> None:
    """ValueError where not one video is there: another folder, or archives that were not unpacked."""
    if any(source.size_bytes >= 0 for source in found):
        return
    packed = next((name for name in media.files if name.lower().endswith(ARCHIVE_SUFFIXES)), "")
    there = f"'{packed}' is not unpacked or not whole" if packed else f"it holds {len(media)} media of other names"
    raise ValueError(
        f"dataset.root='{settings.root}': none of {len(found)} videos is below it, such as {found[0].id}.mp4; {there}"
    )
