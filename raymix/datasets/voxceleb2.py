"""VoxCeleb2 (section 4.1, right half of table 2): speakers, their videos, and the faces that are the truth of its test clips.

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

from raymix.clip import Clip
from raymix.config import Dataset, nearest
from raymix.datasets import clips as taking
from raymix.datasets import faces, published_lists
from raymix.datasets.extracted import PICTURES
from raymix.datasets.medium import SOUNDS, VIDEOS, Media, Medium, choose, is_mask
from raymix.datasets.source import Entry, Source, same_name, shuffled, split_of
from raymix.region import Region, encode_mask
from raymix.storage import resolve

OWN: tuple[str, ...] = ("annotations", "frames_per_second", "faces", "face_shape")
LOOKS = 5.0  # frames a second in which faces are looked for, at least
LISTS = ("test", "val", "train")  # .csv
FORMS = "id00012/VIDEO/00001.mp4 or id00012/VIDEO_start_end"

_SPEAKER = re.compile(r"id\d{4,6}")
_CUT = re.compile(r"(?P<video>.+)_(?P<start>\d+\.\d+)_(?P<end>\d+\.\d+)")


@dataclass(frozen=True)
class Name:
    """What VoxCeleb2 calls a clip: id00012/VIDEO/00001, or id00012/VIDEO_start_end of the paper's code."""

    id: str
    speaker: str
    video: str
    span: tuple[float, float] | None = None  # of a cut in its video, s

    @staticmethod
    def of(path: str) -> Name | None:
        """The clip that a path is of, or lies below; None where it is of none."""
        parts = same_name(path).split("/")
        place = next((place for place, part in enumerate(parts) if _SPEAKER.fullmatch(part)), len(parts))
        rest = [_bare(part) for part in parts[place + 1 : place + 3]]
        if rest and (cut := _CUT.fullmatch(rest[0])):
            span = float(cut["start"]), float(cut["end"])
            return Name(f"{parts[place]}/{rest[0]}", parts[place], cut["video"], span)
        return Name("/".join((parts[place], *rest)), parts[place], rest[0]) if len(rest) == 2 else None


def sources(settings: Dataset) -> list[Source]:
    """Every clip below the root, and every one that a list names; ValueError where the root, a list or `faces` is wrong."""
    faces.detector(settings.faces)
    media, lists = Media(settings.root), _lists(settings)
    there = _there(media)
    if not there and not lists:
        example = f", such as {min(media.files)}" if media.files else ""
        raise ValueError(
            f"dataset.root='{settings.root}': no clips of VoxCeleb2 ({FORMS}) below it; {len(media.files)} other files{example}"
        )
    if lists:
        return shuffled(settings, [*_listed(settings, media, there, lists), *_others(settings, there, lists)])
    families = _families(name for name, _ in there.values())
    return shuffled(
        settings,
        [_source(name, medium, split_of(settings, families[name.speaker])) for name, medium in there.values()],
    )


def _bare(name: str) -> str:
    """A file's name without its ending; a cut's name has points of its own."""
    stem, point, suffix = name.rpartition(".")
    return stem if point and f".{suffix.lower()}" in (*VIDEOS, *SOUNDS, *PICTURES, ".txt") else name


def _there(media: Media) -> dict[str, tuple[Name, Medium | None]]:
    """The clips below the root by their id; a video before what was taken apart; None: sound alone, or pictures alone."""
    names: dict[str, Name] = {}
    kinds: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(3)]
    for path in sorted(media.files):
        if (name := Name.of(path)) is None:
            continue
        for of, suffixes in zip(kinds, (VIDEOS, SOUNDS, PICTURES), strict=True):
            if path.lower().endswith(suffixes) and not (suffixes is PICTURES and is_mask(path)):
                names.setdefault(name.id, name)
                of[name.id][path.rpartition("/")[0] if suffixes is PICTURES else path] += media.files[path]
    return {id: (name, _medium(*(of[id] for of in kinds))) for id, name in names.items()}


def _medium(videos: Counter[str], sounds: Counter[str], pictures: Counter[str]) -> Medium | None:
    """The video, or pictures and sound, of one clip; a video before what was taken apart."""
    video, doubts = choose(videos)
    if videos[video]:
        return Medium(video, videos[video], doubts=doubts)
    (sound, more), (folder, others) = choose(sounds), choose(pictures)
    if sound and folder:
        return Medium(folder, sounds[sound], sound, (*others, *more))
    return Medium(video, 0, doubts=doubts) if video else None


def _source(name: Name, medium: Medium | None, split: str, **more: Any) -> Source:
    known: dict[str, Any] = {"id": name.id, "video": name.video, "group": name.speaker, **more}
    if medium is None:
        return Source(
            name.id, split, **{"refused": ("no video", "sound without pictures, or pictures without sound"), **known}
        )
    repairs = (*medium.doubts, *known.pop("repairs", ()))
    return Source(medium.path, split, medium.size_bytes, sound=medium.sound, repairs=repairs, **known)


def _families(names: Iterable[Name]) -> dict[str, str]:
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


def _lists(settings: Dataset) -> dict[str, list[Name]]:
    """The clips of each list, by its split; nothing where there is no test.csv. ValueError where a named one is wrong."""
    uri = settings.annotations or settings.root
    filesystem, base = resolve(uri)
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
                f"dataset.annotations='{uri}': no test.csv there, the list of test clips{nearest('test.csv', files)}"
            )
        return {}
    return {split: _read(filesystem, f"{base}/{split}.csv") for split in LISTS if f"{split}.csv" in files}


def _read(filesystem: fs.FileSystem, path: str) -> list[Name]:
    try:
        lines = published_lists.get(filesystem, path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a list of clips (not text)") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            name = Name.of(next(iter(line.replace(",", " ").split()), ""))
            if name is None:
                raise ValueError(
                    f"{path}, line {number}: a path of the form {FORMS} is expected, found '{line.strip()[:60]}'"
                )
            found.append(name)
    return found


def _listed(
    settings: Dataset, media: Media, there: dict[str, tuple[Name, Medium | None]], lists: dict[str, list[Name]]
) -> list[Source]:
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
    settings: Dataset, there: dict[str, tuple[Name, Medium | None]], lists: dict[str, list[Name]]
) -> Iterator[Source]:
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
            yield _source(name, medium, split_of(chances, families[name.speaker]))


def clips(settings: Dataset, source: Source, entry: Entry) -> Iterator[Clip]:
    """The clips of one source, those of the test split with the speaker's face as their region; see `raymix.datasets.clips`."""
    if source.split != "test":
        yield from taking.clips(settings, source, entry)
        return
    # an odd number of looks a frame: the middle of a part is then the middle of its middle look
    looks = math.ceil(LOOKS * settings.clip_seconds / settings.frames) | 1
    shown, counts = slice(looks // 2, None, looks), Counter[bool]()
    for clip in taking.clips(replace(settings, frames=settings.frames * looks), source, entry):
        regions: tuple[Region, ...] = ()
        if clip.status == "ok":
            find = faces.detector(settings.faces)
            boxes = faces.speaker([find(frame) for frame in clip.frames])[shown]
            regions = tuple(_regions(settings, clip, boxes))
            counts[boxes[0] is not None] += 1
        yield replace(clip, frames=clip.frames[shown], frame_times=clip.frame_times[shown], regions=regions)
    if counts[False]:
        entry.status = entry.status if counts[True] else "no face"
        lost = f"no face stays in {counts[False]} of {counts.total()} clips: they have no truth"
        entry.reason = "; ".join(filter(None, (entry.reason, lost)))


def _regions(settings: Dataset, clip: Clip, boxes: list[faces.Box | None]) -> Iterator[Region]:
    height, width = clip.frames[0].shape[:2]
    for place, box in enumerate(boxes):
        if box is not None:
            box_xyxy = faces.within(box, height, width)
            mask = encode_mask(faces.oval(box_xyxy, height, width)) if settings.face_shape == "oval" else None
            yield Region("face", frame=place, box_xyxy=box_xyxy, mask=mask)
