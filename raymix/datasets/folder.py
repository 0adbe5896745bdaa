"""Any tree of video files as a dataset: the ordinary importer.

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
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from PIL import Image
from pyarrow import fs

from raymix.clip import SPLITS
from raymix.config import Dataset
from raymix.datasets import duplicates, published_lists
from raymix.datasets.clips import clips as clips  # the contract of an importer
from raymix.datasets.source import LINK_TO_NOTHING, Source, same_name, shuffled, split_of, splits_of
from raymix.storage import below, broken_links, resolve

OWN: tuple[str, ...] = ("classes", "splits", "regions")
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")
PARTIAL = re.compile(r"(.+)\.(?:temp|f\d+)\.\w+")  # as yt-dlp calls what it has not merged yet


def sources(settings: Dataset) -> list[Source]:
    """All video files below the root, links to nothing too, and those that only the split file names.

    Raises ValueError if there is no root.
    """
    sizes = listing(settings.root)
    links = [name for name in broken_links(*resolve(settings.root)) if _is_video(name)]
    split_by_path = _read_splits(settings.splits) if settings.splits else None
    regions = read_regions(settings.regions) if settings.regions else {}
    if regions and not any(same_name(path) in regions for path in sizes):
        first = next(iter(regions))
        raise ValueError(f"{settings.regions}: none of its paths is a video below {settings.root}, such as '{first}'")
    whole = [path for path in sizes if not _whole(path, sizes)]
    drawn = splits_of(settings, whole) | {link: split_of(settings, link) for link in links}
    found = []
    for path, size in (sizes | dict.fromkeys(links, -1)).items():
        name = same_name(path)
        split = drawn.get(path, "") if split_by_path is None else split_by_path.pop(name, "")
        refused = None
        if (merged := _whole(path, sizes)) and not (split_by_path is not None and split):
            split, refused = "", ("unlisted", f"left by a download, whose whole file is {merged.rpartition('/')[2]}")
        elif size < 0 and split:
            refused = LINK_TO_NOTHING
        found.append(
            Source(path, split, size, labels_of(settings, name), tuple(regions.get(name, ())), refused=refused)
        )
    gone = ("missing", "in the split file, not in the folder")
    missing = [Source(path, split, refused=gone) for path, split in (split_by_path or {}).items()]
    if not settings.allow_leaks:
        found = duplicates.left_out(settings.root, found, given=split_by_path is not None)
    return shuffled(settings, found + missing)


def class_folders(settings: Dataset, files: Iterable[str]) -> str:
    """How to use the folders that videos lie in as classes, in one line; '' where they are used, or are none.

    Args:
        settings: those of the dataset.
        files: paths below the root.
    """
    folders = {path.rpartition("/")[0] for path in map(same_name, files)}
    if settings.classes == "parent" or len(folders) < 2 or "" in folders:
        return ""
    names = sorted({folder.rpartition("/")[2] for folder in folders})
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    more = "dataset.classes=parent dataset.overwrite=true"
    return f"all videos lie in folders ({shown}); to use the folders' names as classes, prepare again with {more}"


def listing(root: str) -> dict[str, int]:
    """Path below the root (with '/') and size in bytes of every video file; hidden ones are passed over."""
    filesystem, path = resolve(root) if root else (None, "")
    if filesystem is None or filesystem.get_file_info(path).type != fs.FileType.Directory:
        raise ValueError(f"dataset.root='{root}': no such folder; name the folder of your videos")
    sizes = below(filesystem, path)
    return {name: sizes[name] for name in sorted(sizes) if _is_video(name)}


def _is_video(name: str) -> bool:
    """Whether a path below the root ends as videos do, and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in name.split("/"))


def _whole(path: str, sizes: Mapping[str, int]) -> str:
    """The file of which x.temp.mp4 or x.f137.mp4 is a step on the way, where that one is there and not empty; ''."""
    match = PARTIAL.fullmatch(path)
    return next((name for end in SUFFIXES if match and sizes.get(name := f"{match[1]}{end}")), "")


def labels_of(settings: Dataset, path: str) -> tuple[str, ...]:
    """Class names from the parent folder: none at the root, two for 'a+b'."""
    parts = path.split("/")
    return tuple(parts[-2].split("+")) if settings.classes == "parent" and len(parts) > 1 else ()


def digest(uri: str) -> str:
    """A short hash of a text file's content, or of what a folder holds."""
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        return listed(uri)
    return hashlib.blake2b(published_lists.text(uri).encode(), digest_size=8).hexdigest()


def listed(uri: str) -> str:
    """A short hash of the names and sizes of the files of a folder, or of the one file."""
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.Directory:
        known = sorted((f"/{name}", size) for name, size in below(filesystem, path).items())
    else:
        known = [("", info.size)] if info.type == fs.FileType.File else []
    return hashlib.blake2b(json.dumps(known).encode(), digest_size=8).hexdigest()


def _read_splits(uri: str) -> dict[str, str]:
    reader = csv.DictReader(io.StringIO(published_lists.text(uri)))
    if not {"file", "split"} <= set(reader.fieldnames or ()):
        raise ValueError(f"{uri}: needs the columns file,split; its first line is {','.join(reader.fieldnames or ())}")
    known: dict[str, str] = {}
    for row in reader:
        name, split = same_name((row["file"] or "").strip()), (row["split"] or "").strip()
        if split not in SPLITS:
            raise ValueError(f"{uri}, line {reader.line_num}: split '{split}' is none of {', '.join(SPLITS)}")
        if known.setdefault(name, split) != split:
            raise ValueError(f"{uri}, line {reader.line_num}: '{name}' is in two splits, {known[name]} and {split}")
    return known


def read_regions(uri: str) -> dict[str, list[dict[str, Any]]]:
    """The region sidecar by path; ValueError in one line where an entry is wrong."""
    try:
        known = json.loads(published_lists.text(uri))
    except json.JSONDecodeError as error:
        raise ValueError(f"{uri}: not JSON ({error})") from error
    if not isinstance(known, dict):
        raise ValueError(f'{uri}: must be {{"path of a video": [regions]}}, found a {type(known).__name__}')
    for path, entries in known.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            wrong = _fault(entry)
            if wrong:
                raise ValueError(f"{uri}, '{path}': {wrong}")
    return {same_name(path): found if isinstance(found, list) else [found] for path, found in known.items()}


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
    for name, (right, rule) in RULES.items():
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


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "label": (lambda value: isinstance(value, str), "a class name in quotes"),
    "sounding": (lambda value: isinstance(value, bool), "true or false"),
    "from_s": (_number, "a number of seconds"),
    "to_s": (_number, "a number of seconds, or null"),
    "mask": (_picture, "a PNG in base64"),
    "mask_file": (lambda value: value is None or isinstance(value, str), "the name of a PNG beside the sidecar"),
}
