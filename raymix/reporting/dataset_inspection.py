"""Inspection of a prepared dataset: an offline HTML page with contact sheets of random and unusual clips, and statistics.

Reads a few row groups whole and of the rest names and regions only, so it is a matter of seconds for any dataset.
"""

from __future__ import annotations

import html
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import fs

from raymix.data import prepared
from raymix.data.preparation import dataset_card
from raymix.data.preparation.dataset_card import CardSection
from raymix.data.prepared import PreparedDataset
from raymix.metrics.regions import region_mask
from raymix.reporting.contact_sheets import SheetClip, draw_contact_sheet, draw_region_density, sheet_to_png
from raymix.runtime.storage import resolve_uri, with_retries, write_atomic

PAGE_FILE = "index.html"

SAMPLED_ROW_GROUPS = 4  # row groups that the clips of a random sheet come from; the rows of a shard are in random order

DENSITY_GRID = 64  # cells a side of the map of where regions lie

LIGHT_COLUMNS = ["clip_id", "video", "group", "regions"]

CLIP_COLUMNS = ["clip_id", "labels", "start_s", "duration_s", "frames", "stft", "stft_frames", "stft_bins", "regions"]

REGION_LEGEND = (
    "Regions: solid where a thing sounds, dashed where it is silent, dotted where one annotator alone has it. Below each clip "
    "its sound as log-mel, low notes at the bottom; a dotted line where each frame is."
)

ODD_LEGEND = "Odd ones: repaired annotations, most regions, smallest and largest share of the frame"

PAGE_STYLE = """<style>
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:1440px;margin:24px auto;padding:0 16px}
img{max-width:100%;height:auto;display:block;margin:8px 0}
table{border-collapse:collapse;margin:8px 0;font-size:13px}
th,td{text-align:left;padding:3px 10px 3px 0;border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}
pre{background:#f4f4f4;padding:8px;overflow-x:auto}
</style>"""


@dataclass(frozen=True)
class ClipLocation:
    """Where one clip's row is, and what makes it odd."""

    file: str  # path on the dataset's filesystem
    group: int  # row group
    row: int  # in it
    clip_id: str
    names: frozenset[str]  # of its video and its group
    areas: tuple[float, ...]  # share of the frame that each region covers


Chosen = list[tuple[ClipLocation, str]]

Sheets = dict[str, tuple[str, list[SheetClip]]]


@dataclass
class RegionSurvey:
    """What the names and regions of a split tell."""

    places: list[ClipLocation] = field(default_factory=list)
    regions: int = 0
    silent: int = 0
    masks: int = 0
    alone: int = 0  # of pixels that one annotator alone has: in none of the other numbers
    areas: list[float] = field(default_factory=list)
    map_YX: np.ndarray = field(default_factory=lambda: np.zeros((DENSITY_GRID, DENSITY_GRID)))


def inspect_dataset(
    directory: str, output: str | None, pictures: int, seed: int, echo: Callable[[str], Any] = print
) -> list[str]:
    """Write the page and its PNGs; their paths. ValueError in one line where the folder is no prepared dataset."""
    found = _open(directory)
    folder = (output or f"{directory.rstrip('/')}/inspect").rstrip("/")
    surveys = {split: _survey(directory, split) for split in found.description["splits"]}
    surveys = {split: survey for split, survey in surveys.items() if survey.places}
    if not surveys:
        raise ValueError(f"{directory}: holds no clips to look at")
    filesystem, path = resolve_uri(folder)
    here, sheets = resolve_uri(directory)[0], Sheets()
    for number, (split, survey) in enumerate(surveys.items()):
        chosen = _by_chance(survey.places, pictures, np.random.default_rng([seed, number]))
        sheets[split] = (
            f"{split}: {len(chosen)} of {len(survey.places)} clips by chance (seed {seed})",
            _load(here, chosen),
        )
    odd = _odd(found, [place for survey in surveys.values() for place in survey.places], max(1, pictures // 4))
    if odd:
        sheets["odd"] = (
            "Odd ones: repaired annotations, most regions, smallest and largest share of the frame",
            _load(here, odd),
        )
    files = {
        f"{name}.png": sheet_to_png(draw_contact_sheet(clips, heading)) for name, (heading, clips) in sheets.items()
    }
    with_regions = {split: survey for split, survey in surveys.items() if survey.areas}
    if with_regions:
        maps = {split: survey.map_YX / survey.regions for split, survey in with_regions.items()}
        files["regions.png"] = sheet_to_png(
            draw_region_density(maps, {split: survey.areas for split, survey in with_regions.items()})
        )
    page = _page(found, directory, surveys, sheets, files)
    for name, data in {**files, PAGE_FILE: page.encode()}.items():
        write_atomic(filesystem, f"{path}/{name}", data)
    echo(f"inspect: {sum(len(survey.places) for survey in surveys.values())} clips, {len(files)} sheets")
    echo(f"inspect: open {folder}/{PAGE_FILE} with a browser (the PNGs lie beside it)")
    return [f"{folder}/{name}" for name in (PAGE_FILE, *files)]


def _open(directory: str) -> PreparedDataset:
    """The dataset's documents; ValueError naming prepared datasets near the folder where it is none."""
    filesystem, path = resolve_uri(directory)
    if filesystem.get_file_info(path).type == fs.FileType.File:
        raise ValueError(f"inspect={directory}: is a file; name the folder of a prepared dataset")
    try:
        return prepared.read_prepared_dataset(directory)
    except ValueError as error:
        near: list[str] = []
        for folder in (path, f"{path}/clips", path.rpartition("/")[0]):
            for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)) if folder else ():
                document = filesystem.get_file_info(f"{info.path}/dataset.json")
                if info.type == fs.FileType.Directory and document.type == fs.FileType.File and info.path != path:
                    near.append(info.path)
            if near:
                break
        hint = f"; prepared near it: {', '.join(sorted(near)[:4])}" if near else ""
        raise ValueError(f"inspect={error}{hint}") from error


def _survey(directory: str, split: str) -> RegionSurvey:
    filesystem, survey = resolve_uri(directory)[0], RegionSurvey()
    for path in prepared.list_shards(directory, split):
        at = ((group, row) for group, size in enumerate(_sizes(filesystem, path)) for row in range(size))
        table = prepared.read_usable_rows(filesystem, path, LIGHT_COLUMNS)
        for (group, row), known in zip(at, table.to_pylist(), strict=True):  # every row of a shard is usable
            regions = known["regions"] or ()
            areas = tuple(_noted(survey, region) for region in regions if region["weight"] == 1)
            survey.alone += len(regions) - len(areas)
            names = frozenset((known["video"], known["group"]))
            survey.places.append(ClipLocation(path, group, row, known["clip_id"], names, areas))
    return survey


def _sizes(filesystem: fs.FileSystem, path: str) -> list[int]:
    def sizes() -> list[int]:
        with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
            return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]

    return with_retries(sizes)


def _noted(survey: RegionSurvey, region: dict[str, Any]) -> float:
    """Add a region to the numbers of its split; its share of the frame."""
    mask_YX = region_mask(region["box_xyxy"], region["mask"], DENSITY_GRID)
    survey.regions += 1
    survey.silent += not region["sounding"]
    survey.masks += region["mask"] is not None
    survey.map_YX += mask_YX
    if region["mask"] is not None:
        area = float((np.asarray(Image.open(io.BytesIO(region["mask"])).convert("L")) > 127).mean())
    elif region["box_xyxy"] is not None:
        left, top, right, bottom = region["box_xyxy"]
        area = float((right - left) * (bottom - top))
    else:
        area = 0.0
    survey.areas.append(area)
    return area


def _by_chance(places: Sequence[ClipLocation], count: int, rng: np.random.Generator) -> Chosen:
    """So many clips of a few row groups, of different videos as long as there are some."""
    groups: dict[tuple[str, int], list[ClipLocation]] = defaultdict(list)
    for place in places:
        groups[place.file, place.group].append(place)
    keys = list(groups)
    chosen = [place for at in rng.permutation(len(keys))[:SAMPLED_ROW_GROUPS] for place in groups[keys[at]]]
    seen: dict[frozenset[str], int] = defaultdict(int)
    ranked: list[tuple[int, int, ClipLocation]] = []
    for at in rng.permutation(len(chosen)):
        ranked.append((seen[chosen[at].names], len(ranked), chosen[at]))
        seen[chosen[at].names] += 1
    return [(place, "") for _, _, place in sorted(ranked, key=lambda each: each[:2])[:count]]


def _odd(found: PreparedDataset, places: Sequence[ClipLocation], count: int) -> Chosen:
    """Clips that deserve a look, at most so many of each kind, one of a video."""
    repaired = {name for each in found.manifest if each.repairs for name in (each.video or each.id or each.file,)}
    boxed = [place for place in places if place.areas]
    kinds = {
        "repaired": [place for place in places if place.names & repaired],
        "most regions": sorted(boxed, key=lambda place: (-len(place.areas), place.clip_id)),
        "smallest region": sorted(boxed, key=lambda place: (min(place.areas), place.clip_id)),
        "largest region": sorted(boxed, key=lambda place: (-max(place.areas), place.clip_id)),
    }
    chosen: dict[frozenset[str], tuple[ClipLocation, str]] = {}
    for kind, ordered in kinds.items():
        before = len(chosen)
        for place in ordered:
            if place.names not in chosen and len(chosen) < before + count:
                chosen[place.names] = (place, _told(kind, place))
    return list(chosen.values())


def _told(kind: str, place: ClipLocation) -> str:
    if kind == "most regions":
        return f"{len(place.areas)} regions"
    if kind == "repaired":
        return kind
    return f"{kind}, {(min if kind == 'smallest region' else max)(place.areas):.1%}"


def _load(filesystem: fs.FileSystem, chosen: Sequence[tuple[ClipLocation, str]]) -> list[SheetClip]:
    """The clips, in this order; each row group is read once, and one at a time."""
    wanted: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, (place, _) in enumerate(chosen):
        wanted[place.file, place.group].append(number)
    loaded: dict[int, SheetClip] = {}
    for (path, group), numbers in wanted.items():
        table = with_retries(lambda path=path, group=group: _row_group(filesystem, path, group))  # type: ignore[misc]
        for number in numbers:
            place, why = chosen[number]
            loaded[number] = SheetClip.of(table.slice(place.row, 1).to_pylist()[0], why)
    return [loaded[number] for number in range(len(chosen))]


def _row_group(filesystem: fs.FileSystem, path: str, group: int) -> pa.Table:
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
        return file.read_row_group(group, columns=CLIP_COLUMNS)


def _numbers(surveys: dict[str, RegionSurvey]) -> CardSection:
    """What the regions of each split are like."""
    rows: list[tuple[str, ...]] = [
        ("split", "clips", "with regions", "regions", "silent", "masks", "most in a clip", "share of the frame")
    ]
    for split, survey in surveys.items():
        share = "-"
        if survey.areas:
            low, middle, high = np.quantile(survey.areas, (0.05, 0.5, 0.95))
            share = f"{middle:.1%} ({low:.1%} to {high:.1%})"
        most = max(len(place.areas) for place in survey.places)
        counts = (len(survey.places), sum(bool(each.areas) for each in survey.places), survey.regions, survey.silent)
        rows.append((split, *map(str, (*counts, survey.masks, most)), share))
    text = "Share of the frame: the median over all regions, and from the 5th to the 95th percentile."
    if alone := sum(survey.alone for survey in surveys.values()):
        text += f" Besides, in {alone} pictures there are pixels that one annotator alone has."
    return CardSection("Regions", (text,), tuple(rows))


def _page(
    found: PreparedDataset, directory: str, surveys: dict[str, RegionSurvey], sheets: Sheets, files: dict[str, bytes]
) -> str:
    """One HTML document, the PNGs beside it."""
    sections = dataset_card.card_sections(found, dataset_card.read_scene_lists(directory))
    body = [*_html(sections[0], "h1"), f"<p>{html.escape(directory)}</p>", *_html(_numbers(surveys))]
    if "regions.png" in files:
        body.append(_image("regions.png"))
    for name, (heading, clips) in sheets.items():
        body += [f"<h2 id={name}>{html.escape(heading)}</h2>", f"<p>{REGION_LEGEND}</p>", _image(f"{name}.png")]
        body += ["<details><summary>These clips by name</summary>", *_table(_listed(clips)), "</details>"]
    for section in sections[1:]:
        body += _html(section)
    title = html.escape(f"{sections[0].title}, inspected")
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>{PAGE_STYLE}\n" + "\n".join(body)


def _listed(clips: Sequence[SheetClip]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "clip", "classes", "from (s)", "to (s)", "regions", "")]
    for number, each in enumerate(clips, 1):
        span = f"{each.start_s:.3f}", f"{each.start_s + each.duration_s:.3f}"
        rows.append((str(number), each.clip_id, ", ".join(each.labels), *span, str(len(each.regions)), each.why))
    return rows


def _html(section: CardSection, level: str = "h2") -> Iterator[str]:
    yield f"<{level}>{html.escape(section.title)}</{level}>"
    yield from (f"<p>{html.escape(sentence)}</p>" for sentence in section.text)
    yield from _table(section.table)
    if section.commands:
        yield f"<pre>{html.escape(chr(10).join(section.commands))}</pre>"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield "<table>"
        for number, row in enumerate(rows):
            mark = "td" if number else "th"
            yield "<tr>" + "".join(f"<{mark}>{html.escape(cell)}</{mark}>" for cell in row)
        yield "</table>"


def _image(name: str) -> str:
    return f'<img alt="{name}" src="{name}">'
