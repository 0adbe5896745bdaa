"""VoxCeleb2 (section 4.1, right half of table 2): speakers, their videos, and the faces that are the ground truth of its test clips.

.../id00012/VIDEO/00001.mp4             as published, with dev/mp4 or test/mp4 above or without
.../id08801/VIDEO_44.000_49.100/...     the cuts of the paper's code: frames/*.jpg and audio/audio.wav (10 pictures a
                                        second), or one video of that name
.../VIDEO.mp4                           a whole video of which a list names cuts

The paper's code comes with lists of its cuts, test.csv and val.csv, a path a line: where `dataset.annotations` (or the
root) holds test.csv, the lists rule; clips of other speakers are for training (train.csv, where there is one, says which).
Without them a speaker's split is drawn from the seed, and speakers who share a video share a split. VoxCeleb2's own dev and
test folders are for recognising speakers, and are not looked at.

No boxes were published. Test clips are searched for the speaker's face (`faces`), a share of a second apart; where none
stays, the clip is kept without truth, and its manifest row says so. The paper's code takes the first frame of a cut and
the sound from there on; here it is the frame in the middle of a clip and the sound around it, as everywhere in raymix.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pyarrow import fs

from raymix.config import DatasetConfig, did_you_mean
from raymix.data.extraction import clips
from raymix.data.importers import base, face_detection
from raymix.data.importers.base import assign_split, shuffle_sources
from raymix.data.importers.media_index import (
    AUDIO_SUFFIXES,
    MEDIA_SUFFIXES,
    MediaFile,
    MediaIndex,
    choose_path,
    is_mask_path,
)
from raymix.data.media import IMAGE_SUFFIXES, ManifestRow, MediaSource, normalize_path
from raymix.data.records import ClipRecord
from raymix.metrics.regions import ObjectRegion, encode_mask
from raymix.runtime.storage import resolve_uri

OPTIONAL_SETTINGS: tuple[str, ...] = ("annotations", "frames_per_second", "faces", "face_shape")

FRAMES_PER_SECOND = 5.0  # frames a second in which faces are looked for, at least

SPLIT_LISTS = ("test", "val", "train")  # .csv

NAME_FORMS = "id00012/VIDEO/00001.mp4 or id00012/VIDEO_start_end"


_SPEAKER = re.compile(r"id\d{4,6}")

_CUT = re.compile(r"(?P<video>.+)_(?P<start>\d+\.\d+)_(?P<end>\d+\.\d+)")


@dataclass(frozen=True)
class VoxCelebClipName:
    """What VoxCeleb2 calls a clip: id00012/VIDEO/00001, or id00012/VIDEO_start_end of the paper's code."""

    id: str
    speaker: str
    video: str
    span: tuple[float, float] | None = None  # of a cut in its video, s

    @staticmethod
    def of(path: str) -> VoxCelebClipName | None:
        """The clip that a path is of, or lies below; None where it is of none."""
        parts = normalize_path(path).split("/")
        place = next((place for place, part in enumerate(parts) if _SPEAKER.fullmatch(part)), len(parts))
        rest = [_bare(part) for part in parts[place + 1 : place + 3]]
        if rest and (cut := _CUT.fullmatch(rest[0])):
            span = float(cut["start"]), float(cut["end"])
            return VoxCelebClipName(f"{parts[place]}/{rest[0]}", parts[place], cut["video"], span)
        return VoxCelebClipName("/".join((parts[place], *rest)), parts[place], rest[0]) if len(rest) == 2 else None


def list_sources(settings: DatasetConfig) -> list[MediaSource]:
    """Every clip below the root, and every one that a list names; ValueError where the root, a list or `faces` is wrong."""
    face_detection.load_face_detector(settings.faces)
    media, lists = MediaIndex(settings.root), _lists(settings)
    there = _there(media)
    if not there and not lists:
        example = f", such as {min(media.files)}" if media.files else ""
        raise ValueError(
            f"dataset.root='{settings.root}': no clips of VoxCeleb2 ({NAME_FORMS}) below it; {len(media.files)} other files{example}"
        )
    if lists:
        return shuffle_sources(settings, [*_listed(settings, media, there, lists), *_others(settings, there, lists)])
    families = _families(name for name, _ in there.values())
    return shuffle_sources(
        settings,
        [_source(name, medium, assign_split(settings, families[name.speaker])) for name, medium in there.values()],
    )


def _bare(name: str) -> str:
    """A file's name without its ending; a cut's name has points of its own."""
    stem, point, suffix = name.rpartition(".")
    return (
        stem if point and f".{suffix.lower()}" in (*MEDIA_SUFFIXES, *AUDIO_SUFFIXES, *IMAGE_SUFFIXES, ".txt") else name
    )


def _there(media: MediaIndex) -> dict[str, tuple[VoxCelebClipName, MediaFile | None]]:
    """The clips below the root by their id; a video before what was taken apart; None: sound alone, or pictures alone."""
    names: dict[str, VoxCelebClipName] = {}
    kinds: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(3)]
    for path in sorted(media.files):
        if (name := VoxCelebClipName.of(path)) is None:
            continue
        for of, suffixes in zip(kinds, (MEDIA_SUFFIXES, AUDIO_SUFFIXES, IMAGE_SUFFIXES), strict=True):
            if path.lower().endswith(suffixes) and not (suffixes is IMAGE_SUFFIXES and is_mask_path(path)):
                names.setdefault(name.id, name)
                of[name.id][path.rpartition("/")[0] if suffixes is IMAGE_SUFFIXES else path] += media.files[path]
    return {id: (name, _medium(*(of[id] for of in kinds))) for id, name in names.items()}


def _medium(videos: Counter[str], sounds: Counter[str], pictures: Counter[str]) -> MediaFile | None:
    """The video, or pictures and sound, of one clip; a video before what was taken apart."""
    video, doubts = choose_path(videos)
    if videos[video]:
        return MediaFile(video, videos[video], doubts=doubts)
    (sound, more), (folder, others) = choose_path(sounds), choose_path(pictures)
    if sound and folder:
        return MediaFile(folder, sounds[sound], sound, (*others, *more))
    return MediaFile(video, 0, doubts=doubts) if video else None


def _source(name: VoxCelebClipName, medium: MediaFile | None, split: str, **more: Any) -> MediaSource:
    known: dict[str, Any] = {"id": name.id, "video": name.video, "group": name.speaker, **more}
    if medium is None:
        return MediaSource(
            name.id, split, **{"refused": ("no video", "sound without pictures, or pictures without sound"), **known}
        )
    repairs = (*medium.doubts, *known.pop("repairs", ()))
    return MediaSource(medium.path, split, medium.size_bytes, sound=medium.sound, repairs=repairs, **known)


def _families(names: Iterable[VoxCelebClipName]) -> dict[str, str]:
    """For each speaker one of those with whom it shares a video, and who share one with those: the first of them."""
    parent: dict[str, str] = {}
    first: dict[str, str] = {}

    def root(speaker: str) -> str:
        while parent[speaker] != speaker:
            speaker = parent[speaker]
        return speaker

    for name in names:
        parent.setdefault(name.speaker, name.speaker)
        low, high = sorted((root(name.speaker), root(first.setdefault(name.video, name.speaker))))
        parent[high] = low
    return {speaker: root(speaker) for speaker in parent}


def _lists(settings: DatasetConfig) -> dict[str, list[VoxCelebClipName]]:
    """The clips of each list, by its split; nothing where there is no test.csv. ValueError where a named one is wrong."""
    uri = settings.annotations or settings.root
    filesystem, base = resolve_uri(uri)
    info = filesystem.get_file_info(base)
    if info.type == fs.FileType.File:
        base, _, only = base.rpartition("/")
        files = [only]
    else:
        infos = filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True))
        files = [each.base_name for each in infos if each.type == fs.FileType.File]
    if "test.csv" not in files:
        if settings.annotations:
            raise ValueError(
                f"dataset.annotations='{uri}': no test.csv there, the list of test clips{did_you_mean('test.csv', files)}"
            )
        return {}
    return {split: _read(filesystem, f"{base}/{split}.csv") for split in SPLIT_LISTS if f"{split}.csv" in files}


def _read(filesystem: fs.FileSystem, path: str) -> list[VoxCelebClipName]:
    try:
        lines = base.read_list_bytes(filesystem, path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a list of clips (not text)") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            name = VoxCelebClipName.of(next(iter(line.replace(",", " ").split()), ""))
            if name is None:
                raise ValueError(
                    f"{path}, line {number}: a path of the form {NAME_FORMS} is expected, found '{line.strip()[:60]}'"
                )
            found.append(name)
    return found


def _listed(
    settings: DatasetConfig,
    media: MediaIndex,
    there: dict[str, tuple[VoxCelebClipName, MediaFile | None]],
    lists: dict[str, list[VoxCelebClipName]],
) -> list[MediaSource]:
    """Every clip of every list: its own medium, or its part of a whole video, or missing."""
    made, gone = [], ("missing", "in the list, not below dataset.root")
    for split, names in lists.items():
        for name, times in Counter(names).items():
            repairs = (f"listed {times} times",) if times > 1 else ()
            whole = media.find(name.video) if name.id not in there and name.span else None
            if name.id in there:
                made.append(_source(name, there[name.id][1], split, repairs=repairs))
            elif whole is not None and not whole.sound:
                made.append(_source(name, whole, split, span=name.span, repairs=repairs))
            else:
                made.append(_source(name, None, split, refused=gone))
    if all(source.refused == gone for source in made):
        holds = f"; it holds {next(iter(there))}" if there else ""
        raise ValueError(
            f"none of {len(made)} listed clips, such as {made[0].id}, is below dataset.root='{settings.root}'{holds}"
        )
    return made


def _others(
    settings: DatasetConfig,
    there: dict[str, tuple[VoxCelebClipName, MediaFile | None]],
    lists: dict[str, list[VoxCelebClipName]],
) -> Iterator[MediaSource]:
    """The clips that no list names: for training unless their speaker or their video is in a list."""
    named = {name.id for names in lists.values() for name in names}
    speakers = {name.speaker: split for split, names in lists.items() for name in names}
    videos = {name.video: split for split, names in lists.items() for name in names}
    families = _families(name for name, _ in there.values() if name.speaker not in speakers)
    chances = replace(settings, test=0.0, val=0.0 if "val" in lists else settings.val)
    for name, medium in there.values():
        if name.id in named:
            continue
        if "train" in lists:
            yield _source(name, medium, "", refused=("unlisted", "in none of the lists"))
        elif name.speaker in speakers:
            reason = f"not in {speakers[name.speaker]}.csv, which has its speaker"
            yield _source(name, medium, "", refused=("unlisted", reason))
        elif name.video in videos:
            reason = f"its video {name.video} is in {videos[name.video]}.csv, of another speaker"
            yield _source(name, medium, "", refused=("leaked", reason))
        else:
            yield _source(name, medium, assign_split(chances, families[name.speaker]))


def import_clips(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
    """The clips of one source, those of the test split with the speaker's face as their region; see `raymix.data.extraction.clips`."""
    if source.split != "test":
        yield from clips.extract_clips(settings, source, entry)
        return
    # an odd number of looks a frame: the middle of a part is then the middle of its middle look
    looks = math.ceil(FRAMES_PER_SECOND * settings.clip_seconds / settings.frames) | 1
    shown, counts = slice(looks // 2, None, looks), Counter[bool]()
    for clip in clips.extract_clips(replace(settings, frames=settings.frames * looks), source, entry):
        regions: tuple[ObjectRegion, ...] = ()
        if clip.status == "ok":
            find = face_detection.load_face_detector(settings.faces)
            boxes = face_detection.speaker_boxes([find(frame) for frame in clip.frames])[shown]
            regions = tuple(_regions(settings, clip, boxes))
            counts[boxes[0] is not None] += 1
        yield replace(clip, frames=clip.frames[shown], frame_times=clip.frame_times[shown], regions=regions)
    if counts[False]:
        entry.status = entry.status if counts[True] else "no face"
        lost = f"no face stays in {counts[False]} of {counts.total()} clips: they have no truth"
        entry.reason = "; ".join(filter(None, (entry.reason, lost)))


def _regions(
    settings: DatasetConfig, clip: ClipRecord, boxes: list[face_detection.FaceBox | None]
) -> Iterator[ObjectRegion]:
    height, width = clip.frames[0].shape[:2]
    for place, box in enumerate(boxes):
        if box is not None:
            box_xyxy = face_detection.normalize_box(box, height, width)
            mask = (
                encode_mask(face_detection.ellipse_mask(box_xyxy, height, width))
                if settings.face_shape == "oval"
                else None
            )
            yield ObjectRegion("face", frame=place, box_xyxy=box_xyxy, mask=mask)
