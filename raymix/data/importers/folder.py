"""Importer of any folder tree of video files.

`classes=parent`: the folder a video lies in names its class, `a+b` two classes. `splits`: a CSV with the columns
`file,split`; videos that it does not list are left out. Of files of one content one is used, unless `allow_leaks`.
`regions`: a JSON file, {"path/below/root.mp4": [region, ...]}, where a region is {"label": "bell", "sounding": true, "box":
[left, top, right, bottom] in 0 to 1, "mask": base64 PNG, "mask_file": PNG beside the sidecar, "from_s": 0.0, "to_s": 2.0 or
null}: a box or a mask, the rest may be missing. Times are seconds after the first frame; a region holds for the frames from
`from_s` to just before `to_s`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from raymix.config import DatasetConfig
from raymix.data.extraction.clips import extract_clips as import_clips
from raymix.data.importers import base, duplicates
from raymix.data.importers.base import assign_split, assign_splits, shuffle_sources
from raymix.data.importers.video_folder import is_video, labels_from_folder, list_videos
from raymix.data.media import BROKEN_LINK, VIDEO_SUFFIXES, MediaSource, normalize_path
from raymix.data.records import SPLITS
from raymix.runtime.storage import list_broken_links, resolve_uri

__all__ = ["OPTIONAL_SETTINGS", "import_clips", "list_sources"]

OPTIONAL_SETTINGS: tuple[str, ...] = ("classes", "splits", "regions")

PARTIAL_DOWNLOAD = re.compile(r"(.+)\.(?:temp|f\d+)\.\w+")  # as yt-dlp calls what it has not merged yet


def list_sources(settings: DatasetConfig) -> list[MediaSource]:
    """All video files below the root, links to nothing too, and those that only the split file names.

    Raises ValueError if there is no root.
    """
    sizes = list_videos(settings.root)
    links = [name for name in list_broken_links(*resolve_uri(settings.root)) if is_video(name)]
    split_by_path = _read_splits(settings.splits) if settings.splits else None
    regions = read_region_sidecar(settings.regions) if settings.regions else {}
    if regions and not any(normalize_path(path) in regions for path in sizes):
        first = next(iter(regions))
        raise ValueError(f"{settings.regions}: none of its paths is a video below {settings.root}, such as '{first}'")
    whole = [path for path in sizes if not _whole(path, sizes)]
    drawn = assign_splits(settings, whole) | {link: assign_split(settings, link) for link in links}
    found = []
    for path, size in (sizes | dict.fromkeys(links, -1)).items():
        name = normalize_path(path)
        split = drawn.get(path, "") if split_by_path is None else split_by_path.pop(name, "")
        refused = None
        if (merged := _whole(path, sizes)) and not (split_by_path is not None and split):
            split, refused = "", ("unlisted", f"left by a download, whose whole file is {merged.rpartition('/')[2]}")
        elif size < 0 and split:
            refused = BROKEN_LINK
        found.append(
            MediaSource(
                path, split, size, labels_from_folder(settings, name), tuple(regions.get(name, ())), refused=refused
            )
        )
    gone = ("missing", "in the split file, not in the folder")
    missing = [MediaSource(path, split, refused=gone) for path, split in (split_by_path or {}).items()]
    if not settings.allow_leaks:
        found = duplicates.drop_duplicates(settings.root, found, splits_given=split_by_path is not None)
    return shuffle_sources(settings, found + missing)


def _whole(path: str, sizes: Mapping[str, int]) -> str:
    """The file of which x.temp.mp4 or x.f137.mp4 is a step on the way, where that one is there and not empty; ''."""
    match = PARTIAL_DOWNLOAD.fullmatch(path)
    return next((name for end in VIDEO_SUFFIXES if match and sizes.get(name := f"{match[1]}{end}")), "")


def _read_splits(uri: str) -> dict[str, str]:
    reader = csv.DictReader(io.StringIO(base.read_list_text(uri)))
    if not {"file", "split"} <= set(reader.fieldnames or ()):
        raise ValueError(f"{uri}: needs the columns file,split; its first line is {','.join(reader.fieldnames or ())}")
    known: dict[str, str] = {}
    for row in reader:
        name, split = normalize_path((row["file"] or "").strip()), (row["split"] or "").strip()
        if split not in SPLITS:
            raise ValueError(f"{uri}, line {reader.line_num}: split '{split}' is none of {', '.join(SPLITS)}")
        if known.setdefault(name, split) != split:
            raise ValueError(f"{uri}, line {reader.line_num}: '{name}' is in two splits, {known[name]} and {split}")
    return known


def read_region_sidecar(uri: str) -> dict[str, list[dict[str, Any]]]:
    """The region sidecar by path; ValueError in one line where an entry is wrong."""
    try:
        known = json.loads(base.read_list_text(uri))
    except json.JSONDecodeError as error:
        raise ValueError(f"{uri}: not JSON ({error})") from error
    if not isinstance(known, dict):
        raise ValueError(f'{uri}: must be {{"path of a video": [regions]}}, found a {type(known).__name__}')
    for path, entries in known.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            wrong = _fault(entry)
            if wrong:
                raise ValueError(f"{uri}, '{path}': {wrong}")
    return {normalize_path(path): found if isinstance(found, list) else [found] for path, found in known.items()}


def _fault(entry: Any) -> str:
    """What is wrong with one entry of the sidecar, '' if nothing is."""
    if not isinstance(entry, dict) or all(entry.get(name) is None for name in ("box", "mask", "mask_file")):
        return f"a region needs a box, a mask or a mask_file, found {str(entry)[:60]}"
    unknown = set(entry) - {"label", "sounding", "box", "mask", "mask_file", "from_s", "to_s"}
    if unknown:
        return f"a region has no '{sorted(unknown)[0]}'; known are label, sounding, box, mask, mask_file, from_s, to_s"
    box = entry.get("box")
    if box is not None:
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)
        if not numbers or not (-0.001 <= box[0] < box[2] <= 1.001 and -0.001 <= box[1] < box[3] <= 1.001):
            return f"a box is [left, top, right, bottom] in [0, 1] with left < right and top < bottom, found {box}"
    for name, (right, rule) in REGION_RULES.items():
        if name in entry and not right(entry[name]):
            return f"{name} is {rule}, found {json.dumps(entry[name])[:60]}"
    return ""


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _picture(value: Any) -> bool:
    """Whether it is a PNG in base64, whole as far as its checksums tell; null says that there is none."""
    if value is None:
        return True
    try:
        Image.open(io.BytesIO(base64.b64decode(value)), formats=["PNG"]).verify()
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError):  # Pillow raises each of them
        return False
    return True


REGION_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "label": (lambda value: isinstance(value, str), "a class name in quotes"),
    "sounding": (lambda value: isinstance(value, bool), "true or false"),
    "from_s": (_number, "a number of seconds"),
    "to_s": (_number, "a number of seconds, or null"),
    "mask": (_picture, "a PNG in base64"),
    "mask_file": (lambda value: value is None or isinstance(value, str), "the name of a PNG beside the sidecar"),
}
