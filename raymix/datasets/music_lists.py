"""The publishers' files about MUSIC (Tables 1 and 3): which videos there are, who has boxes, who is in which split."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from raymix.clip import SPLITS
from raymix.config import Dataset, nearest
from raymix.datasets import published_lists
from raymix.datasets.medium import Media
from raymix.datasets.music_boxes import Track, read_tracks, video_of
from raymix.datasets.source import same_name
from raymix.storage import below, get, resolve

VIDEOS = {"solo": "MUSIC_solo_videos.json", "duet": "MUSIC_duet_videos.json"}
BOXES = {"solo": "solotest.json", "duet": "duettest.json"}


@dataclass(frozen=True)
class Listed:
    """What the lists say of one video: its instruments, the splits that name it, what was mended."""

    labels: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shelf:
    """The files below `dataset.annotations` (or the root), by their names."""

    where: str
    filesystem: fs.FileSystem
    paths: tuple[str, ...]
    chosen: str = ""  # the list of videos, where `dataset.annotations` is that file

    @staticmethod
    def of(settings: Dataset, media: Media) -> Shelf:
        """The shelf that the settings name; ValueError where there is none."""
        where = settings.annotations or settings.root
        filesystem, path = resolve(where)
        if not settings.annotations:
            return Shelf(where, filesystem, tuple(f"{path}/{name}" for name in media.files if name.endswith(".json")))
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            raise ValueError(f"dataset.annotations='{where}': no such file or folder")
        folder = path if kind == fs.FileType.Directory else path.rpartition("/")[0]
        paths = sorted(f"{folder}/{name}" for name in below(filesystem, folder) if name.endswith(".json"))
        return Shelf(where, filesystem, tuple(paths), "" if kind == fs.FileType.Directory else path)

    def _find(self, name: str) -> str:
        found = [path for path in self.paths if path.rpartition("/")[2] == name]
        if len(found) > 1 and len({get(self.filesystem, path) for path in found}) > 1:
            raise ValueError(f"{self.where}: {len(found)} different files {name}: {', '.join(found[:3])}; leave one")
        return found[0] if found else ""

    def _json(self, path: str) -> Any:
        try:
            return json.loads(published_lists.get(self.filesystem, path).decode("utf-8-sig"))
        except (OSError, ValueError) as error:  # a JSONDecodeError, a UnicodeDecodeError
            raise ValueError(f"{path}: not a whole JSON file ({str(error).splitlines()[0]})") from error

    def videos(self, subset: str) -> dict[str, Listed]:
        """The videos that the publisher lists, in his order; ValueError where the file is missing or another one."""
        path = self.chosen or self._find(VIDEOS[subset])
        if not path:
            others = {path.rpartition("/")[2] for path in self.paths}
            other = next((each for each, name in VIDEOS.items() if name in others), "")
            hint = f"; there is {VIDEOS[other]}: dataset.subset={other}" if other else ""
            like = sorted(each for each in others if "music" in each.lower())
            near = nearest(VIDEOS[subset], like) if like and not other else ""
            raise ValueError(f"{self.where}: no {VIDEOS[subset]} below it (of roudimit/MUSIC_dataset){hint or near}")
        known = self._json(path)
        by_name = known.get("videos") if isinstance(known, dict) else None
        if not isinstance(by_name, dict) or not by_name or not all(isinstance(ids, list) for ids in by_name.values()):
            raise ValueError(f'{path}: expected {{"videos": {{"flute": [ids]}}}}, found {json.dumps(known)[:60]}')
        return _listed(by_name, path, subset)

    def tracks(self, subset: str) -> dict[str, Track]:
        """The annotated frames of each video that has some; none where there is no such file."""
        path = self._find(BOXES[subset])
        return read_tracks(self._json(path), path) if path else {}

    def tested(self, subset: str) -> list[str]:
        """The videos that have boxes, by the file's keys alone."""
        path = self._find(BOXES[subset])
        known = self._json(path) if path else {}
        return list(dict.fromkeys(filter(None, map(video_of, known)))) if isinstance(known, dict) else []


def _listed(by_name: dict[str, list[Any]], path: str, subset: str) -> dict[str, Listed]:
    """Ids by instruments turned round; an id that is listed twice keeps its first place."""
    found: dict[str, Listed] = {}
    for name, ids in by_name.items():
        labels, want = tuple(name.split()), {"solo": 1, "duet": 2}[subset]
        if len(labels) != want:
            raise ValueError(f"{path}: '{name}' names {len(labels)} instrument(s), a {subset} has {want}")
        for each in ids:
            if not isinstance(each, str) or not each.strip():
                raise ValueError(f"{path}, '{name}': expected ids of videos, found {json.dumps(each)[:40]}")
            video = same_name(each.strip())
            if video in found:
                before = found[video]
                again = f"listed again as {name}, kept as {' '.join(before.labels)}"
                found[video] = Listed(before.labels, (*before.repairs, again))
            else:
                found[video] = Listed(labels)
    return found


def read_splits(uri: str) -> dict[str, Listed]:
    """The videos of train.csv, val.csv and test.csv in a folder, lines of .../INSTRUMENT/ID; ValueError with the line."""
    filesystem, folder = resolve(uri)
    found: dict[str, Listed] = {}
    for split in SPLITS:
        path = f"{folder}/{split}.csv"
        try:
            text = published_lists.get(filesystem, path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            expected = "expected a folder with train.csv, val.csv and test.csv"
            raise ValueError(f"dataset.splits='{uri}': {expected}, {split}.csv cannot be read") from error
        for number, line in enumerate(text.splitlines(), 1):
            parts = PurePosixPath(same_name(line.strip())).parts
            if line.strip() and (len(parts) < 2 or "," in line):
                expected = "expected MUSIC_raw/solo/INSTRUMENT/ID"
                raise ValueError(f"{path}, line {number}: {expected}, found '{line.strip()[:60]}'")
            if parts:
                before = found.get(parts[-1], Listed((parts[-2],)))
                splits = tuple(dict.fromkeys((*before.splits, split)))
                found[parts[-1]] = Listed(before.labels, splits=splits)
    return found
