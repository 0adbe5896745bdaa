"""VGGSound-Instruments (sections 4.1 and 4.2, table 2): 37 classes of VGGSound, 446 frames with masks.

Trained on is the train split of `vggsound.csv` in the paper's 37 classes. The paper's own list is lost, and says 32k: of
33,934 clips of these classes VGGSound tests on 50 a class, which leaves 32,084. `dataset.subset` names another list, such
as AVGN's, which has all 33,934: clips whose video is in VGGSound's test split are leaked.
The annotated frames are called sample0000 to sample0499, and fifty-four of them were taken out by the authors. Which
videos they are of is not published, so nothing tells whether a clip to train on is one of them. Each has a picture and a
sound file (or a video), and a pickled mask: any other file of its name. `vgginstruments_test.csv` (`sample0000,accordion`)
gives their classes, where it is there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raymix.config import DatasetConfig, did_you_mean
from raymix.data.importers import base, pickled_masks, vggsound, vggss
from raymix.data.importers.base import shuffle_sources
from raymix.data.importers.media_index import AUDIO_SUFFIXES, MEDIA_SUFFIXES, MediaIndex
from raymix.data.media import IMAGE_SUFFIXES, ManifestRow, MediaSource, UnusableMediaError
from raymix.data.records import ClipRecord
from raymix.metrics.regions import encode_mask
from raymix.runtime.storage import read_bytes, resolve_uri

OPTIONAL_SETTINGS: tuple[str, ...] = ("annotations", "subset", "frames_per_second", "allow_leaks")

TEST_CSV = "vgginstruments_test.csv"

# The paper's appendix C: VGGSound's names by the short ones of other people's lists.
CLASSES = {
    name.replace(" ", "_"): f"playing {name}"
    for name in (
        "accordion",
        "acoustic guitar",
        "banjo",
        "bass drum",
        "bass guitar",
        "bongo",
        "cello",
        "clarinet",
        "congas",
        "cornet",
        "cymbal",
        "djembe",
        "double bass",
        "drum kit",
        "electric guitar",
        "electronic organ",
        "erhu",
        "flute",
        "glockenspiel",
        "guiro",
        "hammond organ",
        "harp",
        "harpsichord",
        "mandolin",
        "piano",
        "saxophone",
        "sitar",
        "snare drum",
        "tabla",
        "timbales",
        "trumpet",
        "ukulele",
        "vibraphone",
        "zither",
    )
} | {
    "xylophone": "playing marimba, xylophone",
    "steel_guitar": "playing steel guitar, slide guitar",
    "violin": "playing violin, fiddle",
}

MISSING_SAMPLES = frozenset(
    (
        8,
        25,
        41,
        42,
        47,
        58,
        61,
        67,
        71,
        77,
        88,
        97,
        104,
        122,
        128,
        153,
        163,
        168,
        171,
        177,
        178,
        202,
        203,
        207,
        210,
        216,
        232,
        235,
        236,
        241,
        251,
        253,
        264,
        301,
        315,
        324,
        327,
        329,
        351,
        356,
        364,
        371,
        376,
        395,
        401,
        408,
        413,
        432,
        438,
        441,
        442,
        448,
        456,
        474,
    )
)

SAMPLES = tuple(f"sample{number:04d}" for number in range(500) if number not in MISSING_SAMPLES)


def list_sources(settings: DatasetConfig) -> list[MediaSource]:
    """The clips of the 37 classes and the annotated frames; ValueError where a list is none of VGGSound."""
    media = MediaIndex(settings.root)
    lists = vggsound.VGGSoundFiles(settings, media)
    uri = lists.need(vggsound.VGGSOUND_CSV, "the list of VGGSound")
    names = set(CLASSES.values())
    rows = vggsound.read_vggsound_csv(uri)
    held = {row.youtube: "VGGSound's test split" for row in rows.values() if row.split == "test"}
    rows = {name: row for name, row in rows.items() if row.label in names}
    if not rows:
        raise ValueError(f"{uri}: none of its labels is one of the 37 classes, such as 'playing accordion'")
    if boxes := "" if lists.alone else lists.find(vggsound.VGGSS_JSON):
        held |= {name[:11]: "VGG-SS" for name in vggss.read_vggss_boxes(boxes)}
    chosen = {name: row.label for name, row in rows.items() if row.split == "train"}
    if settings.subset:
        chosen = {
            n: _label(label, settings.subset) for n, label in vggsound.read_id_list(lists, settings.subset).items()
        }
    labels = chosen | {name: row.label for name, row in rows.items()}
    found = list(vggsound.training_sources(settings, media, chosen, labels, held, rows))
    rest = [name for name, row in rows.items() if row.split == "test" and name not in chosen]
    found += vggsound.excluded_sources(media, rest, "and not among the annotated frames by name")
    return shuffle_sources(
        settings, vggsound.check_media_found(settings, media, [*found, *_samples(settings, media, lists)])
    )


def _label(name: str, where: str) -> str:
    """VGGSound's name of a class of the 37, by that name or the short one; '' stays."""
    if name and name not in CLASSES and name not in CLASSES.values():
        raise ValueError(f"{where}: '{name}' is none of the 37 classes{did_you_mean(name, list(CLASSES))}")
    return CLASSES.get(name, name)


def _samples(settings: DatasetConfig, media: MediaIndex, lists: vggsound.VGGSoundFiles) -> Iterator[MediaSource]:
    """The annotated frames, and those whose mask is there although the authors took them out."""
    masks, labels = _masks(settings.root, media.files) | _masks(lists.place, lists.files), _labels(lists)
    for name in sorted({*SAMPLES, *masks}):
        label = labels.get(name, "")
        source = replace(vggsound.find_source(media, name), split="test", at=(vggsound.MIDDLE_S,))
        if name not in SAMPLES:
            yield replace(source, split="", refused=("unlisted", "not among the 446 that the authors kept"))
        elif name not in masks and source.refused is None:
            yield replace(source, refused=("missing", f"no mask: a pickle called {name}, with any ending"))
        else:
            region = {"label": label, "sounding": True, "mask_file": masks.get(name, "")}
            yield replace(source, labels=(label,) if label else (), regions=(region,))


def _masks(place: str, files: Iterable[str]) -> dict[str, str]:
    """Where the pickles are, by sample."""
    found: dict[str, str] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if re.fullmatch(r"sample\d{4}", path.stem) and path.suffix.lower() not in (
            *IMAGE_SUFFIXES,
            *AUDIO_SUFFIXES,
            *MEDIA_SUFFIXES,
        ):
            found.setdefault(path.stem, f"{place.rstrip('/')}/{file}")
    return found


def _labels(lists: vggsound.VGGSoundFiles) -> dict[str, str]:
    """The classes of the annotated frames, where the list of them is there."""
    if not (uri := lists.find(TEST_CSV) if not lists.alone else ""):
        return {}
    found = {}
    for number, line in enumerate(base.read_list_text(uri).splitlines(), 1):
        name, _, label = line.strip().partition(",")
        if line.strip() and (not re.fullmatch(r"sample\d{4}", name) or not label):
            raise ValueError(f"{uri}, line {number}: '{line[:60]}' is not as sample0000,accordion")
        if line.strip():
            found[name] = _label(label, f"{uri}, line {number}")
    return found


def import_clips(settings: DatasetConfig, source: MediaSource, entry: ManifestRow) -> Iterator[ClipRecord]:
    """The clips of one source; Unusable where it is an annotated frame whose mask is none."""
    masks = () if source.refused or source.size_bytes <= 0 else tuple(_mask(region) for region in source.regions)
    regions = tuple(
        {name: region[name] for name in ("label", "sounding")}
        | {"mask": base64.b64encode(encode_mask(mask_YX)).decode()}
        for region, mask_YX in zip(source.regions, masks, strict=False)
    )
    for clip in vggsound.import_clips(settings, replace(source, regions=regions), entry):
        for mask_YX in masks:
            _fit(mask_YX, entry)
        yield clip


def _mask(region: dict[str, Any]) -> np.ndarray:
    filesystem, path = resolve_uri(region["mask_file"])
    pickled_masks.check_pickle_size(filesystem.get_file_info(path).size or 0)
    return pickled_masks.read_pickled_mask(read_bytes(filesystem, path))


def _fit(mask_YX: np.ndarray, entry: ManifestRow) -> None:
    """Unusable where a mask is not of its frame: it may be smaller or larger, or a square as networks see it."""
    high, wide = mask_YX.shape
    if high != wide and abs(high * entry.width - wide * entry.height) > max(entry.width, entry.height):
        raise UnusableMediaError("corrupt", f"mask: {wide}x{high} pixels, its frame has {entry.width}x{entry.height}")
