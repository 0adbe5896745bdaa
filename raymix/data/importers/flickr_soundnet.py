"""Flickr-SoundNet, on which Attention, LVS and their successors were tested: 250 pictures with the boxes of several people.

.../Annotations/ID.xml                   the publisher's: annotator nodes with bbox children, each a name and then left,
                                         top, right and bottom on a grid of 256
.../frames/ID.jpg and .../audio/ID.wav   the annotated picture and its sound, as LVS and EZ-VSL lay them out; also
                                         ID.mp4, ID/*.jpg with ID.wav, and whatever else `medium` knows
flickr_test.csv                          LVS's list, an id in the first column: then only these ids are for testing
flickr_10k.txt, flickr_144k.csv          EZ-VSL's training lists: `dataset.subset` names one, such as flickr_10k

Annotated ids are for testing, the other media below the root for training and, by the seed, for validation. A test id is
one clip around the middle of its sound, with the annotated picture; the publisher does not say where in its video a
picture is from, so of a video without its picture the middle frame stands for it.

The truth of published code is soft: half the number of boxes over a pixel, at most 1. Here it is half the number of
annotators, so that two boxes of one annotator over a pixel count once (there twice). A picture has two regions: the pixels
that at least two annotators have in a box, and with weight 0.5 those that one alone has. Protocols with `weighs_votes`
(lvs, ezvsl, slavc, sslalign) are of both, all others of the first.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from pyarrow import fs

from raymix.config import DatasetConfig, did_you_mean
from raymix.data.extraction import clips, video
from raymix.data.importers import base
from raymix.data.importers.base import assign_split, shuffle_sources
from raymix.data.importers.media_index import AUDIO_SUFFIXES, MEDIA_SUFFIXES, MediaFile, MediaIndex
from raymix.data.media import ManifestRow, MediaSource
from raymix.data.records import ClipRecord
from raymix.metrics.regions import encode_mask
from raymix.runtime.storage import RetryingReader, list_files, resolve_uri

OPTIONAL_SETTINGS: tuple[str, ...] = ("annotations", "subset", "frames_per_second")

GRID = 256  # of the boxes

MIN_VOTES = 2  # annotators who agree

NEAR_S = 0.25  # of a video's middle: so long its frame counts as the annotated one

TEST_CSV = "flickr_test.csv"

BOX_EDGES = ("xmin", "ymin", "xmax", "ymax")


_ID = re.compile(r"\d{7,}")


@dataclass(frozen=True)
class AnnotatorVotes:
    """What annotators drew in one picture: by how many each pixel of the grid is in a box, and what was repaired."""

    votes_YX: np.ndarray
    repairs: tuple[str, ...] = ()

    @staticmethod
    def of(content: bytes) -> AnnotatorVotes:
        """The boxes of an XML file; ValueError in one line where it holds none."""
        try:
            root = ET.fromstring(content)
        except (ET.ParseError, ValueError, LookupError) as error:
            raise ValueError(f"not XML ({error})") from error
        boxes = [[_box(node) for node in annotator if node.tag == "bbox"] for annotator in root]
        boxes = [of for of in boxes if of]
        if not boxes:
            raise ValueError("no annotator node with a bbox")
        votes_YX, repairs = np.zeros((GRID, GRID), np.uint8), list[str]()
        for number, of in enumerate(boxes, 1):
            own_YX = np.zeros((GRID, GRID), bool)
            for box, fault in of:
                repairs += [f"annotator {number}: {fault}"] if fault else []
                if box:
                    own_YX[box[1] : box[3], box[0] : box[2]] = True
            votes_YX += own_YX
        if votes_YX.max() < MIN_VOTES:
            left = "single votes alone are its truth" if votes_YX.any() else "no truth"
            repairs.append(f"no {MIN_VOTES} of {len(boxes)} annotators agree anywhere: {left}")
        return AnnotatorVotes(votes_YX, tuple(repairs))

    @property
    def regions(self) -> tuple[dict[str, Any], ...]:
        """The pixels of annotators who agree, and those of one alone; each only where there are some."""
        kinds = (1.0, self.votes_YX >= MIN_VOTES), (0.5, self.votes_YX == 1)
        masks = ((weight, mask_YX) for weight, mask_YX in kinds if mask_YX.any())
        return tuple(
            {"mask": base64.b64encode(encode_mask(mask_YX)).decode(), "weight": weight} for weight, mask_YX in masks
        )


def _box(node: ET.Element) -> tuple[tuple[int, int, int, int] | None, str]:
    """Left, top, right and bottom on the grid, and what was wrong with them; None: cannot be repaired."""
    named = {child.tag: child.text for child in node}
    texts = [named[edge] for edge in BOX_EDGES] if set(BOX_EDGES) <= set(named) else [child.text for child in node][1:]
    try:
        left, top, right, bottom = (round(float(text or "")) for text in texts)
    except (ValueError, OverflowError):
        return None, f"a box of {texts} left out"
    low_x, high_x, low_y, high_y = *sorted((left, right)), *sorted((top, bottom))
    box = max(low_x, 0), max(low_y, 0), min(high_x, GRID), min(high_y, GRID)
    shown = f"box {left},{top},{right},{bottom}"
    if box[0] >= box[2] or box[1] >= box[3]:
        return None, f"{shown} is empty: left out"
    if (left, top) != (low_x, low_y):
        return box, f"{shown} reversed: turned round"
    return box, f"{shown} cut off at the edge" if box != (left, top, right, bottom) else ""


def list_sources(settings: DatasetConfig) -> list[MediaSource]:
    """Every annotated or listed id and every medium below the root; ValueError where the root or the lists are wrong."""
    media = MediaIndex(settings.root)
    files = _files(settings, media)
    marks = {name.removesuffix(".xml"): path for name, path in files.items() if name.endswith(".xml")}
    marks = {id: path for id, path in marks.items() if _ID.fullmatch(id)}
    where = settings.annotations or settings.root
    if not marks:
        raise ValueError(
            f"{where}: no ID.xml of Flickr-SoundNet below it (as Annotations/10000130166.xml); dataset.annotations says where"
        )
    filesystem = resolve_uri(where)[0]
    test = dict.fromkeys(_ids(filesystem, files[TEST_CSV]) if TEST_CSV in files else sorted(marks))
    made = [_tested(media, filesystem, id, marks.get(id)) for id in test]
    if all(source.size_bytes < 0 for source in made):
        raise ValueError(
            f"none of {len(made)} test ids, such as {made[0].id}, has a picture or video below dataset.root='{settings.root}'"
        )
    made += _trained(settings, media, set(marks), test, _training(settings, filesystem, files))
    return shuffle_sources(settings, made)


def _files(settings: DatasetConfig, media: MediaIndex) -> dict[str, str]:
    """The files below the folder of annotations: their paths by name, the first of each name."""
    base = resolve_uri(settings.annotations or settings.root)
    paths = [f"{base[1]}/{name}" for name in media.files]
    if settings.annotations:
        if base[0].get_file_info(base[1]).type != fs.FileType.Directory:
            raise ValueError(
                f"dataset.annotations='{settings.annotations}': no such folder; name the one that holds ID.xml"
            )
        paths = [f"{base[1]}/{name}" for name in list_files(*base)]
    return {path.rpartition("/")[2]: path for path in sorted(paths, reverse=True)}


def _ids(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The first column of a list."""
    try:
        rows = list(csv.reader(io.StringIO(base.read_list_bytes(filesystem, path).decode("utf-8-sig"))))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a list of ids (not text)") from error
    for number, row in enumerate(rows, 1):
        if row and not _ID.fullmatch(row[0].strip()):
            raise ValueError(
                f"{path}, line {number}: the id of a Flickr video is expected first, found '{row[0][:60]}'"
            )
    return [row[0].strip() for row in rows if row]


def _training(settings: DatasetConfig, filesystem: fs.FileSystem, files: dict[str, str]) -> list[str] | None:
    """The ids of the training list; None where none is asked for."""
    if not settings.subset:
        return None
    lists = {
        name.rpartition(".")[0]: path
        for name, path in files.items()
        if name.endswith((".txt", ".csv")) and name != TEST_CSV
    }
    if settings.subset not in lists:
        raise ValueError(
            f"dataset.subset='{settings.subset}': no {settings.subset}.txt or .csv beside the annotations"
            f"{did_you_mean(settings.subset, list(lists))}"
        )
    return _ids(filesystem, lists[settings.subset])


def _tested(media: MediaIndex, filesystem: fs.FileSystem, id: str, path: str | None) -> MediaSource:
    """The source of a test id, with the regions of its annotators."""
    found = media.still(id) or media.find(id)
    if path is None:
        return _source(id, found, "test", repairs=("in the list, but it has no ID.xml: no truth",))
    try:
        marks = AnnotatorVotes.of(base.read_list_bytes(filesystem, path))
    except ValueError as error:
        return _source(id, found, "test", refused=("corrupt", f"{path.rpartition('/')[2]}: {error}"))
    return _source(id, found, "test", regions=marks.regions, repairs=marks.repairs)


def _trained(
    settings: DatasetConfig, media: MediaIndex, marked: set[str], test: dict[str, None], listed: list[str] | None
) -> Iterator[MediaSource]:
    """The ids of the training list, and the media that are not in it; all media are for training where there is none."""
    chances = replace(settings, test=0.0)  # those that are drawn have no boxes
    there, named = _there(media), set(listed or ())
    for id in dict.fromkeys([*(listed or ()), *there]):
        if id in test and id not in named:
            continue  # its row is there
        found, refused, split = media.find(id), None, ""
        if id in test:
            refused = "leaked", f"in the training list {settings.subset}, and a test id"
        elif listed is not None and id not in named:
            refused = "unlisted", f"not in {settings.subset}"
        elif listed is None and id in marked:
            refused = "unlisted", f"it has an ID.xml, but is not in {TEST_CSV}"
        else:
            split = assign_split(chances, id)
            refused = ("no video", "sound without pictures") if found is None and id in there else None
        yield _source(id, found, split, refused=refused)


def _source(id: str, found: MediaFile | None, split: str, *, repairs: tuple[str, ...] = (), **more: Any) -> MediaSource:
    if found is None:
        return MediaSource(id, split, id=id, repairs=repairs, **more)
    doubts = (*found.doubts, *repairs)
    return MediaSource(found.path, split, found.size_bytes, sound=found.sound, id=id, repairs=doubts, **more)


def _there(media: MediaIndex) -> dict[str, str]:
    """The media below the root that are called after a Flickr id: a file, or the folder that it is in."""
    found: dict[str, str] = {}
    for path in sorted(media.files):
        if path.lower().endswith((*MEDIA_SUFFIXES, *AUDIO_SUFFIXES)):
            *above, name = path.split("/")
            id = next(filter(_ID.fullmatch, (name.rpartition(".")[0], *reversed(above))), None)
            if id is not None:
                found.setdefault(id, path)
    return found


def import_clips(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
    """The clips of one source: of a test id the one around its middle; see `raymix.data.extraction.clips`."""
    if source.split == "test" and source.refused is None and source.size_bytes > 0:
        middle_s = _middle(settings, source)
        still = source.sound and source.path.lower().endswith((".jpg", ".jpeg", ".png"))
        when: dict[str, float] = {} if still else {"from_s": max(0.0, middle_s - NEAR_S), "to_s": middle_s + NEAR_S}
        regions = tuple({**known, **when} for known in source.regions)
        source = replace(source, at=(middle_s,) if middle_s else (), regions=regions)
    yield from clips.extract_clips(settings, source, entry)


def _middle(settings: DatasetConfig, source: MediaSource) -> float:
    """The middle of the sound by its file's own word, in seconds; 0 where it has none."""
    filesystem, root = resolve_uri(settings.root)
    path = f"{root}/{source.sound or source.path}"
    try:
        with (
            RetryingReader(filesystem, path) as file,
            av.open(file, "r", options={"format_whitelist": f"{video.FORMATS},wav,flac,mp3"}) as container,
        ):
            return round((container.duration or 0) / av.time_base / 2, 3)
    except (FFmpegError, ValueError):
        return 0.0  # errors are reported when it is read
