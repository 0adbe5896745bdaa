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

from raymix.clip import Clip
from raymix.config import Dataset, nearest
from raymix.datasets import pickled, published_lists, vggsound, vggss
from raymix.datasets.extracted import PICTURES
from raymix.datasets.medium import SOUNDS, VIDEOS, Media
from raymix.datasets.source import Entry, Source, Unusable, shuffled
from raymix.region import encode_mask
from raymix.storage import get, resolve

OWN: tuple[str, ...] = ("annotations", "subset", "frames_per_second", "allow_leaks")
TEST = "vgginstruments_test.csv"
# The paper's appendix C: VGGSound's names by the short ones of other people's lists.
CLASSES = {
    name.replace(" ", "_"): f"playing {name}"
    for name in (
        "accordion", "acoustic guitar", "banjo", "bass drum", "bass guitar", "bongo", "cello", "clarinet", "congas",
        "cornet", "cymbal", "djembe", "double bass", "drum kit", "electric guitar", "electronic organ", "erhu", "flute",
        "glockenspiel", "guiro", "hammond organ", "harp", "harpsichord", "mandolin", "piano", "saxophone", "sitar",
        "snare drum", "tabla", "timbales", "trumpet", "ukulele", "vibraphone", "zither",
    )
} | {
    "xylophone": "playing marimba, xylophone",
    "steel_guitar": "playing steel guitar, slide guitar",
    "violin": "playing violin, fiddle",
}  # fmt: skip
GAPS = frozenset((
    8, 25, 41, 42, 47, 58, 61, 67, 71, 77, 88, 97, 104, 122, 128, 153, 163, 168, 171, 177, 178, 202, 203, 207, 210, 216,
    232, 235, 236, 241, 251, 253, 264, 301, 315, 324, 327, 329, 351, 356, 364, 371, 376, 395, 401, 408, 413, 432, 438,
    441, 442, 448, 456, 474,
))  # fmt: skip
SAMPLES = tuple(f"sample{number:04d}" for number in range(500) if number not in GAPS)


def sources(settings: Dataset) -> list[Source]:
    """The clips of the 37 classes and the annotated frames; ValueError where a list is none of VGGSound."""
    media = Media(settings.root)
    lists = vggsound.Lists(settings, media)
    uri = lists.need(vggsound.CSV, "the list of VGGSound")
    names = set(CLASSES.values())
    rows = vggsound.read(uri)
    held = {row.youtube: "VGGSound's test split" for row in rows.values() if row.split == "test"}
    rows = {name: row for name, row in rows.items() if row.label in names}
    if not rows:
        raise ValueError(f"{uri}: none of its labels is one of the 37 classes, such as 'playing accordion'")
    if boxes := "" if lists.alone else lists.find(vggsound.VGGSS):
        held |= {name[:11]: "VGG-SS" for name in vggss.read(boxes)}
    chosen = {name: row.label for name, row in rows.items() if row.split == "train"}
    if settings.subset:
        chosen = {n: _label(label, settings.subset) for n, label in vggsound.listed(lists, settings.subset).items()}
    labels = chosen | {name: row.label for name, row in rows.items()}
    found = list(vggsound.training(settings, media, chosen, labels, held, rows))
    rest = [name for name, row in rows.items() if row.split == "test" and name not in chosen]
    found += vggsound.untrained(media, rest, "and not among the annotated frames by name")
    return shuffled(settings, vggsound.there(settings, media, [*found, *_samples(settings, media, lists)]))


def _label(name: str, where: str) -> str:
    """VGGSound's name of a class of the 37, by that name or the short one; '' stays."""
    if name and name not in CLASSES and name not in CLASSES.values():
        raise ValueError(f"{where}: '{name}' is none of the 37 classes{nearest(name, list(CLASSES))}")
    return CLASSES.get(name, name)


def _samples(settings: Dataset, media: Media, lists: vggsound.Lists) -> Iterator[Source]:
    """The annotated frames, and those whose mask is there although the authors took them out."""
    masks, labels = _masks(settings.root, media.files) | _masks(lists.place, lists.files), _labels(lists)
    for name in sorted({*SAMPLES, *masks}):
        label = labels.get(name, "")
        source = replace(vggsound.of(media, name), split="test", at=(vggsound.MIDDLE_S,))
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
        if re.fullmatch(r"sample\d{4}", path.stem) and path.suffix.lower() not in (*PICTURES, *SOUNDS, *VIDEOS):
            found.setdefault(path.stem, f"{place.rstrip('/')}/{file}")
    return found


def _labels(lists: vggsound.Lists) -> dict[str, str]:
    """The classes of the annotated frames, where the list of them is there."""
    if not (uri := lists.find(TEST) if not lists.alone else ""):
        return {}
    found = {}
    for number, line in enumerate(published_lists.text(uri).splitlines(), 1):
        name, _, label = line.strip().partition(",")
        if line.strip() and (not re.fullmatch(r"sample\d{4}", name) or not label):
            raise ValueError(f"{uri}, line {number}: '{line[:60]}' is not as sample0000,accordion")
        if line.strip():
            found[name] = _label(label, f"{uri}, line {number}")
    return found


def clips(settings: Dataset, source: Source, entry: Entry) -> Iterator[Clip]:
    """The clips of one source; Unusable where it is an annotated frame whose mask is none."""
    masks = () if source.refused or source.size_bytes <= 0 else tuple(_mask(region) for region in source.regions)
    regions = tuple(
        {name: region[name] for name in ("label", "sounding")}
        | {"mask": base64.b64encode(encode_mask(mask_YX)).decode()}
        for region, mask_YX in zip(source.regions, masks, strict=False)
    )
    for clip in vggsound.clips(settings, replace(source, regions=regions), entry):
        for mask_YX in masks:
            _fit(mask_YX, entry)
        yield clip


def _mask(region: dict[str, Any]) -> np.ndarray:
    filesystem, path = resolve(region["mask_file"])
    pickled.fits(filesystem.get_file_info(path).size or 0)
    return pickled.mask(get(filesystem, path))


def _fit(mask_YX: np.ndarray, entry: Entry) -> None:
    """Unusable where a mask is not of its frame: it may be smaller or larger, or a square as networks see it."""
    high, wide = mask_YX.shape
    if high != wide and abs(high * entry.width - wide * entry.height) > max(entry.width, entry.height):
        raise Unusable("corrupt", f"mask: {wide}x{high} pixels, its frame has {entry.width}x{entry.height}")
