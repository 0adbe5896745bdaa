"""Fixed scenes for evaluation beside the clips: pair lists as Parquet in `scenes/`, with ids and hashes in `scenes.json`.

Drawn from a seed (`single`, `hconcat`, `grid2x2`, `natural`: exactly the scenes that `raymix.data.scenes.compose_scenes` draws of the
same clips), or given by a publisher. `python -m raymix.evaluate pair_list=` takes them (sections 4.1 to 4.3 of the paper).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymix.data import pair_lists, prepared
from raymix.data.layouts import VARIABLE_SOURCE_LAYOUTS, layout_id, panel_grid
from raymix.data.pair_lists import PairList, PairListOrigin, ScenePanel
from raymix.data.preparation import dataset_card
from raymix.data.records import ClipMetadata
from raymix.runtime.storage import resolve_uri, write_atomic

SCENES_FOLDER = "scenes"

CANVAS_SIZE = 224  # px, the paper's frame: how fine a source's mask is when sources are counted


@dataclass(frozen=True)
class SceneListRequest:
    """Lists to write: layouts to draw scenes of, files of lists that are given."""

    layouts: Sequence[str] = ()  # hconcat, or hconcat3 for another number of sources than the usual one
    pair_lists: Sequence[str] = ()
    split: str = "test"
    count: int = 256  # of a drawn list, at most
    seed: int = 0

    def check(self) -> None:
        """ValueError in one line for a layout that is none, or a list that cannot be read."""
        for word in self.layouts:
            try:
                panel_grid(*parse_layout_id(word))
            except ValueError as error:
                raise ValueError(f"layouts={word}: {error}") from None
        for uri in self.pair_lists:
            pair_lists.read_pair_list(uri)


@dataclass(frozen=True)
class SceneListEntry:
    """One list, and what scenes.json says of it beyond its content."""

    pairs: PairList
    sources: int  # that sound in each scene; of given duets, clips that do
    seed: int | None = None
    gone: tuple[tuple[str, str], ...] = ()  # scenes without their clips, and why

    def record(self, split: str) -> dict[str, Any]:
        """Its entry in scenes.json."""
        of = self.pairs.origin
        return {
            "id": self.pairs.id,
            "file": f"{self.pairs.id}.parquet",
            "layout": self.pairs.layout,
            "sources": self.sources,
            "split": split,
            "seed": self.seed,
            "scenes": len(self.pairs),
            "hash": self.pairs.hash,
            "missing": of.missing if of else 0,
            "of": {"id": of.id, "hash": of.hash, "scenes": of.scenes} if of else None,
        }


def parse_layout_id(word: str) -> tuple[str, int | None]:
    """A layout and its number of sources, as `raymix.data.layouts.layout_id` puts them together."""
    several = re.fullmatch(rf"({'|'.join(VARIABLE_SOURCE_LAYOUTS)})(\d+)", word)
    return (several[1], int(several[2])) if several else (word, None)


def write_scene_lists(
    directory: str, wanted: SceneListRequest, echo: Callable[[str], Any] = print
) -> list[dict[str, Any]]:
    """Write the lists, then `scenes.json`, then the card; what is there of another name stays.

    Returns what scenes.json says of these lists. Raises ValueError for an unknown layout, for clips that do not give a
    scene, and where a file of the same name has other scenes.
    """
    wanted.check()
    natural = any(parse_layout_id(word)[0] == "natural" for word in wanted.layouts)
    names = prepared.read_clip_metadata(directory, wanted.split, CANVAS_SIZE, truth=False, sources=natural)
    lists = [_drawn(names, word, wanted) for word in wanted.layouts]
    lists += [_given(pair_lists.read_pair_list(uri), names, wanted.split, uri) for uri in wanted.pair_lists]
    there = {each["id"]: each for each in dataset_card.read_scene_lists(directory)}
    for each in lists:
        _unlike(each, there, directory)
    folder = f"{directory.rstrip('/')}/{SCENES_FOLDER}"
    for each in lists:
        pair_lists.write_pair_list(each.pairs, f"{folder}/{each.pairs.id}.parquet")
        if each.gone:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([("scene_id", "reason"), *each.gone])
            write_atomic(*resolve_uri(f"{folder}/{each.pairs.id}-missing.csv"), text.getvalue().encode())
    made = [each.record(wanted.split) for each in lists]
    every = there | {each["id"]: each for each in made}
    text_of = json.dumps([every[name] for name in sorted(every)], indent=1, ensure_ascii=False)
    write_atomic(*resolve_uri(f"{directory.rstrip('/')}/{dataset_card.SCENES_FILE}"), text_of.encode())
    dataset_card.write_dataset_card(directory)
    for found in made:
        gone = f", {found['missing']} without their clips ({found['id']}-missing.csv)" if found["missing"] else ""
        echo(f"prepare: {found['scenes']} {found['layout']} scenes {found['hash']} in {folder}/{found['file']}{gone}")
    return made


def _drawn(names: ClipMetadata, word: str, wanted: SceneListRequest) -> SceneListEntry:
    layout, sources = parse_layout_id(word)
    name = f"{wanted.split}-{layout_id(layout, sources)}-{wanted.seed}-{wanted.count}"
    pairs = pair_lists.make_pair_list(
        names, layout=layout, count=wanted.count, seed=wanted.seed, sources=sources, name=name
    )
    return SceneListEntry(pairs, panel_grid(layout, sources)[2], seed=wanted.seed)


def _given(pairs: PairList, names: ClipMetadata, split: str, uri: str) -> SceneListEntry:
    """A given list with the ids of its clips; the scenes that lack one are counted and named."""
    places: dict[str, list[int]] = {}
    for place, (clip_id, video) in enumerate(zip(names.clip_id.tolist(), names.video.tolist(), strict=True)):
        places.setdefault(clip_id, []).append(place)
        places.setdefault(video, []).append(place)
    kept: list[tuple[ScenePanel, ...]] = []
    gone: list[tuple[str, str]] = []
    for panels in pairs.scenes:
        named = {name for panel in panels for name in (panel.clip_id or panel.video, panel.heard)}
        of = sorted({place for name in named for place in places.get(name, [])})
        try:
            one, here = replace(pairs, scenes=(panels,)), names.take(of)
            (found_P,) = found_1P = one.locate_clips(here)
            one.locate_audio(here, found_1P)
        except ValueError as error:
            gone.append((panels[0].scene_id, str(error)))
            continue
        ids = [str(names.clip_id[of[at]]) for at in found_P]
        kept.append(tuple(replace(p, clip_id=name, video="", time_s=None) for p, name in zip(panels, ids, strict=True)))
    if not kept:
        raise ValueError(
            f"pair_lists={uri}: none of {len(pairs)} scenes has its clips in split '{split}' ({gone[0][1]})"
        )
    sounding = sum(panel.sounding for panel in kept[0])
    first = pairs.origin or PairListOrigin(pairs.id, pairs.hash, len(pairs), 0)  # which may have lost scenes before
    origin = replace(first, missing=first.missing + len(gone))
    made = replace(pairs, id=f"{split}-{pairs.id}", scenes=tuple(kept), origin=origin)
    return SceneListEntry(made, sounding, gone=tuple(gone))


def _unlike(listed: SceneListEntry, there: dict[str, dict[str, Any]], directory: str) -> None:
    """ValueError where the folder has other scenes under this name."""
    pairs = listed.pairs
    if pairs.id in there and there[pairs.id]["hash"] != pairs.hash:
        raise ValueError(
            f"{directory}/{SCENES_FOLDER}/{pairs.id}.parquet: holds the scenes {there[pairs.id]['hash']}, these are {pairs.hash}; "
            "give the list another name"
        )
