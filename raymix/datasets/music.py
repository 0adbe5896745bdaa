"""MUSIC (Zhao et al., 2018), solos and duets, with the boxes of Hu et al. (2020): Tables 1 and 3 of the paper.

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
hear, mix or shift, and the source clips are not among them. The same scenes, four frames of different instruments of
which two sound, are made of the solo test clips by layout `grid2x2`; they are not the published composites.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from raymix.clip import Clip
from raymix.config import Dataset, nearest
from raymix.datasets import clips as taking
from raymix.datasets.medium import Media
from raymix.datasets.music_boxes import Track
from raymix.datasets.music_lists import BOXES, Listed, Shelf, read_splits
from raymix.datasets.source import Entry, Source, shuffled, split_of

OWN: tuple[str, ...] = ("annotations", "subset", "frames_per_second", "splits")
SYNTHETIC = re.compile(r"(^|/)((train|test1)/audio/[^/]+\.pkl|test1/box/[^/]+\.npy)$")
PACKED = (".zip", ".tar", ".gz", ".part", ".crdownload", ".ytdl")


def sources(settings: Dataset) -> list[Source]:
    """Every video that a list or the boxes name, in the order of the shards; ValueError where files are wrong."""
    subset = _subset(settings.subset)
    media = Media(settings.root)
    if any(SYNTHETIC.search(name) for name in media.files):
        raise ValueError(f"dataset.root='{settings.root}': {_SYNTHETIC}")
    shelf = Shelf.of(settings, media)
    listed, tracks = shelf.videos(subset), shelf.tracks(subset)
    given = read_splits(settings.splits) if settings.splits else None
    if not tracks and given is None:
        raise ValueError(
            f"{shelf.where}: no {BOXES[subset]} below it (music-exp/ of DTaoo/Discriminative-Sounding-Objects-Localization), "
            f"which says what is tested; or name dataset.splits"
        )
    other = "duet" if subset == "solo" else "solo"
    tested = dict.fromkeys(shelf.tested(other), other)
    names = dict.fromkeys([*listed, *tracks, *(given or {})])
    found = []
    for name in names:
        source = _source(settings, media, name, listed.get(name), tracks.get(name), given, tested)
        several = (
            given is not None and source.refused is None and name not in tracks and given.get(name, Listed()).splits
        )
        found += [replace(source, split=split) for split in several or (source.split,)]  # `leaks` finds it in both
    _refuse_strange_root(settings, media, found)
    return shuffled(settings, found)


def clips(settings: Dataset, source: Source, entry: Entry) -> Iterator[Clip]:
    """The clips of one video, in time; the manifest says how many of its annotated frames show nothing that sounds."""
    yield from taking.clips(settings, source, entry)
    silent = sum(not any(known["from_s"] <= time_s < known["to_s"] for known in source.regions) for time_s in source.at)
    if silent:
        said = f"nothing sounds in {silent} of {len(source.at)} annotated frames"
        entry.reason = "; ".join(filter(None, (entry.reason, said)))


_SYNTHETIC = (
    "MUSIC-Synthetic cannot be imported: its sound is pickled log-mel pictures without phase, its four frames one picture, "
    "and its clips are not there; dataset.subset=solo with layouts=[grid2x2] makes the same kind of scene, not those"
)


def _subset(name: str) -> str:
    if name == "synthetic":
        raise ValueError(f"dataset.subset=synthetic: {_SYNTHETIC}")
    if name and name not in BOXES:
        raise ValueError(f"dataset.subset={name}: must be one of {', '.join(BOXES)}{nearest(name, list(BOXES))}")
    return name or "solo"


def _source(
    settings: Dataset,
    media: Media,
    name: str,
    listed: Listed | None,
    track: Track | None,
    given: Mapping[str, Listed] | None,
    tested: Mapping[str, str],
) -> Source:
    """One video: where it is, in which split, with what is known of it."""
    divided = None if given is None else given.get(name, Listed())
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
    return Source(
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
    settings: Dataset, name: str, divided: Listed | None, tested: Mapping[str, str]
) -> tuple[str, tuple[str, str] | None]:
    """The split of a video without boxes, or why it is in none."""
    if name in tested:
        return "", ("leaked", f"{BOXES[tested[name]]} tests it")
    if divided is None:
        return split_of(replace(settings, test=0.0), name), None
    return (divided.splits[0] if divided.splits else ""), None


def _refuse_strange_root(settings: Dataset, media: Media, found: list[Source]) -> None:
    """ValueError where not one video is there: another folder, or archives that nobody unpacked."""
    if any(source.size_bytes >= 0 for source in found):
        return
    packed = next((name for name in media.files if name.lower().endswith(PACKED)), "")
    there = f"'{packed}' is not unpacked or not whole" if packed else f"it holds {len(media)} media of other names"
    raise ValueError(
        f"dataset.root='{settings.root}': none of {len(found)} videos is below it, such as {found[0].id}.mp4; {there}"
    )
