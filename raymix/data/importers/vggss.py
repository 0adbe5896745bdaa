"""VGG-SS: 5,158 test clips of VGGSound with boxes in their middle frame; the set of most systems beside the paper's.

`vggss.json` is a list of {"file": "ID_000032", "class": "elk bugling", "bbox": [[left, top, right, bottom], ...]} with
edges in 0 to 1; eighteen boxes of the published file are empty or have an edge at -2.9e16. Edges beyond the frame are
moved onto it, reversed ones are exchanged, and boxes that are empty then are left out: each counts as a repair. Two
clips are left without a box and stay in the set. With `vggsound.csv` beside it, its train split is trained on, or those
of it that `dataset.subset` lists; the pairs of VGGSound-Duet (`raymix.evaluate pair_list=FILE`) name clips as here.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from raymix.config import DatasetConfig
from raymix.data.importers import base, vggsound
from raymix.data.importers.base import shuffle_sources
from raymix.data.importers.media_index import MediaIndex
from raymix.data.importers.vggsound import import_clips as import_clips
from raymix.data.media import MediaSource

OPTIONAL_SETTINGS: tuple[str, ...] = ("annotations", "subset", "frames_per_second", "allow_leaks")

ENTRY_KEYS = ("file", "class", "bbox")

EDGE_TOLERANCE = 1e-3  # an edge this far outside is a rounded one, nothing to speak of


def list_sources(settings: DatasetConfig) -> list[MediaSource]:
    """The clips of VGG-SS, and of VGGSound if its list is there; ValueError where a list is none of them."""
    media = MediaIndex(settings.root)
    lists = vggsound.VGGSoundFiles(settings, media)
    known = read_vggss_boxes(lists.need(vggsound.VGGSS_JSON, "the boxes of VGG-SS"))
    found = [_annotated(media, name, entries) for name, entries in known.items()]
    table = "" if lists.alone else lists.find(vggsound.VGGSOUND_CSV)
    if settings.subset and not table:
        lists.need(
            vggsound.VGGSOUND_CSV, f"it says which clips of dataset.subset={settings.subset} are in the test split"
        )
    if table:
        rows = vggsound.read_vggsound_csv(table)
        labels = {name: row.label for name, row in rows.items()}
        chosen = vggsound.read_id_list(lists, settings.subset) if settings.subset else _of(rows, "train")
        held = {row.youtube: "VGGSound's test split" for row in rows.values() if row.split == "test"}
        held |= {name[:11]: "VGG-SS" for name in known}
        found += vggsound.training_sources(settings, media, chosen, chosen | labels, held, rows)
        rest = [name for name in _of(rows, "test") if name not in known and name not in chosen]
        found += vggsound.excluded_sources(media, rest, "not in VGG-SS")
    return shuffle_sources(settings, vggsound.check_media_found(settings, media, found))


def _of(rows: dict[str, vggsound.VGGSoundRow], split: str) -> dict[str, str]:
    return {name: row.label for name, row in rows.items() if row.split == split}


def _annotated(media: MediaIndex, name: str, entries: list[dict[str, Any]]) -> MediaSource:
    """A test clip with the boxes of its first entry."""
    first = entries[0]
    boxes, repairs = repair_boxes(first["bbox"])
    if len(entries) > 1:
        repairs.append(f"listed {len(entries)} times, the first was taken")
    if not boxes:
        repairs.append("no box is left")
    regions = tuple({"label": first["class"], "sounding": True, "box": box} for box in boxes)
    source = vggsound.middle_frame_source(vggsound.source_without_split(media, name))
    return replace(source, split="test", labels=(first["class"],), regions=regions, repairs=(*source.repairs, *repairs))


def repair_boxes(boxes: list[list[float]]) -> tuple[list[list[float]], list[str]]:
    """The boxes that hold something, xyxy in [0, 1], and a line for each that had to be changed or left out."""
    kept, repairs = [], []
    for raw in boxes:
        shown = f"box [{', '.join(f'{edge:.4g}' for edge in raw)}]"
        if not all(map(math.isfinite, raw)):
            repairs.append(f"{shown} left out: no numbers")
            continue
        left, top, right, bottom = (min(max(float(edge), 0.0), 1.0) for edge in raw)
        outside = any(edge < -EDGE_TOLERANCE or edge > 1 + EDGE_TOLERANCE for edge in raw)
        turned = not outside and (left > right or top > bottom)
        if turned:
            left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        if left >= right or top >= bottom:
            repairs.append(f"{shown} left out: empty")
            continue
        if outside or turned:
            repairs.append(f"{shown} {'reversed' if turned else 'moved into the frame'}")
        kept.append([left, top, right, bottom])
    return kept, repairs


def read_vggss_boxes(uri: str) -> dict[str, list[dict[str, Any]]]:
    """The entries of `vggss.json` by clip; ValueError in one line where it is another file."""
    try:
        found = json.loads(base.read_list_text(uri))
    except json.JSONDecodeError as error:
        raise ValueError(f"{uri}: not JSON, or cut short ({error})") from error
    rule = 'VGG-SS is a list of {"file": "ID_000032", "class": "...", "bbox": [[left, top, right, bottom], ...]}'
    if not isinstance(found, list) or not found:
        hint = f"with keys such as '{next(iter(found))}'" if isinstance(found, dict) and found else "or empty"
        raise ValueError(f"{uri}: a {type(found).__name__} {hint}; {rule}")
    known: dict[str, list[dict[str, Any]]] = {}
    for number, entry in enumerate(found, 1):
        if wrong := _fault(entry):
            raise ValueError(f"{uri}, entry {number}: {wrong}; {rule}")
        known.setdefault(entry["file"], []).append(entry)
    return known


def _fault(entry: Any) -> str:
    """What is wrong with one entry, '' if nothing is; broken boxes are repaired."""
    if not isinstance(entry, dict) or not set(ENTRY_KEYS) <= set(entry):
        return f"found {json.dumps(entry)[:60]}"
    if not isinstance(entry["file"], str) or not vggsound.CLIP_ID.fullmatch(entry["file"]):
        return f"file '{entry['file']}' is no id of a clip"
    if not isinstance(entry["class"], str):
        return f"class {entry['class']} is no name"
    boxes = entry["bbox"]
    right = isinstance(boxes, list) and all(isinstance(box, list) and len(box) == 4 for box in boxes)
    numbers = right and all(isinstance(edge, int | float) for box in boxes for edge in box)
    return "" if numbers else f"bbox {json.dumps(boxes)[:60]} is no list of boxes"
