"""Fixed scenes for evaluation beside the clips: pair lists as Parquet in `scenes/`, with ids and hashes in `scenes.json`.

A list is drawn from a seed (the scenes that `raymix.data.scenes.compose_scenes` draws of the same clips), or made of a
published list. `python -m raymix.evaluate pair_list=` reads it (sections 4.1 to 4.3 of the paper).
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
from raymix.data.prepared import SCENES_FILE
from raymix.data.records import ClipMetadata
from raymix.runtime.storage import resolve_uri, write_atomic

SCENES_FOLDER = "scenes"

IMAGE_SIZE = 224  # px, the paper's frame: resolution of the masks by which sources are counted


@dataclass(frozen=True)
class SceneListRequest:
    """Lists to write: layouts to draw scenes of, and files of published lists."""

    layouts: Sequence[str] = ()  # hconcat, or hconcat3 for an unusual number of sources
    pair_lists: Sequence[str] = ()
    split: str = "test"
    count: int = 256  # of a drawn list, at most
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError for an unknown layout, or a list that cannot be read."""
        for word in self.layouts:
            try:
                panel_grid(*parse_layout_id(word))
            except ValueError as error:
                raise ValueError(f"layouts={word}: {error}") from None
        for uri in self.pair_lists:
            pair_lists.read_pair_list(uri)


@dataclass(frozen=True)
class SceneListEntry:
    """A list with its entry in scenes.json."""

    pairs: PairList
    sources: int  # sounding sources of each scene; of a published list of layout natural, sounding clips
    seed: int | None = None
    missing: tuple[tuple[str, str], ...] = ()  # scenes without their clips, and the reason

    def record(self, split: str) -> dict[str, Any]:
        """Return its entry in scenes.json."""
        origin = self.pairs.origin
        return {
            "id": self.pairs.id,
            "file": f"{self.pairs.id}.parquet",
            "layout": self.pairs.layout,
            "sources": self.sources,
            "split": split,
            "seed": self.seed,
            "scenes": len(self.pairs),
            "hash": self.pairs.hash,
            "missing": origin.missing if origin else 0,
            "of": {"id": origin.id, "hash": origin.hash, "scenes": origin.scenes} if origin else None,
        }


def parse_layout_id(word: str) -> tuple[str, int | None]:
    """Return layout and number of sources (None: the usual) of the result of `raymix.data.layouts.layout_id`."""
    match = re.fullmatch(rf"({'|'.join(VARIABLE_SOURCE_LAYOUTS)})(\d+)", word)
    return (match[1], int(match[2])) if match else (word, None)


def write_scene_lists(
    directory: str, request: SceneListRequest, echo: Callable[[str], Any] = print
) -> list[dict[str, Any]]:
    """Write lists, then `scenes.json`, then the card. Lists with other ids stay.

    Args:
        directory: a prepared dataset.
        request: the lists.
        echo: prints a line for each list.

    Returns:
        The entries of these lists in scenes.json.

    Raises:
        ValueError: an unknown layout, clips that give no scene, or a list with the same id and other scenes.
    """
    request.check()
    has_natural = any(parse_layout_id(word)[0] == "natural" for word in request.layouts)
    clips = prepared.read_clip_metadata(directory, request.split, IMAGE_SIZE, truth=False, sources=has_natural)
    lists = [_draw_list(clips, word, request) for word in request.layouts]
    lists += [
        match_published_list(pair_lists.read_pair_list(uri), clips, request.split, uri) for uri in request.pair_lists
    ]
    existing = {entry["id"]: entry for entry in dataset_card.read_scene_lists(directory)}
    for each in lists:
        _check_same_scenes(each, existing, directory)
    folder = f"{directory.rstrip('/')}/{SCENES_FOLDER}"
    for each in lists:
        pair_lists.write_pair_list(each.pairs, f"{folder}/{each.pairs.id}.parquet")
        if each.missing:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([("scene_id", "reason"), *each.missing])
            write_atomic(*resolve_uri(f"{folder}/{each.pairs.id}-missing.csv"), text.getvalue().encode())
    entries = [each.record(request.split) for each in lists]
    all_entries = existing | {entry["id"]: entry for entry in entries}
    document = json.dumps([all_entries[name] for name in sorted(all_entries)], indent=1, ensure_ascii=False)
    write_atomic(*resolve_uri(f"{directory.rstrip('/')}/{SCENES_FILE}"), document.encode())
    dataset_card.write_dataset_card(directory)
    for entry in entries:
        note = f", {entry['missing']} without their clips ({entry['id']}-missing.csv)" if entry["missing"] else ""
        echo(f"prepare: {entry['scenes']} {entry['layout']} scenes {entry['hash']} in {folder}/{entry['file']}{note}")
    return entries


def _draw_list(clips: ClipMetadata, word: str, request: SceneListRequest) -> SceneListEntry:
    layout, sources = parse_layout_id(word)
    name = f"{request.split}-{layout_id(layout, sources)}-{request.seed}-{request.count}"
    pairs = pair_lists.make_pair_list(
        clips, layout=layout, count=request.count, seed=request.seed, sources=sources, name=name
    )
    return SceneListEntry(pairs, panel_grid(layout, sources)[2], seed=request.seed)


def match_published_list(pairs: PairList, clips: ClipMetadata, split: str, uri: str) -> SceneListEntry:
    """Return the scenes of a published list whose clips are all there, with the ids of these clips.

    Args:
        pairs: the published list.
        clips: of the split.
        split: prefix of the new list's id.
        uri: of the published list, for messages.

    Raises:
        ValueError: no scene has its clips.
    """
    indices: dict[str, list[int]] = {}
    for index, (clip_id, video) in enumerate(zip(clips.clip_id.tolist(), clips.video.tolist(), strict=True)):
        indices.setdefault(clip_id, []).append(index)
        indices.setdefault(video, []).append(index)
    complete: list[tuple[ScenePanel, ...]] = []
    missing: list[tuple[str, str]] = []
    for panels in pairs.scenes:
        names = {name for panel in panels for name in (panel.clip_id or panel.video, panel.heard)}
        candidates = sorted({index for name in names for index in indices.get(name, [])})
        try:
            scene, scene_clips = replace(pairs, scenes=(panels,)), clips.take(candidates)
            (shown_P,) = shown_1P = scene.locate_clips(scene_clips)
            scene.locate_audio(scene_clips, shown_1P)
        except ValueError as error:
            missing.append((panels[0].scene_id, str(error)))
            continue
        ids = [str(scene_clips.clip_id[clip]) for clip in shown_P]
        complete.append(
            tuple(replace(p, clip_id=name, video="", time_s=None) for p, name in zip(panels, ids, strict=True))
        )
    if not complete:
        raise ValueError(
            f"pair_lists={uri}: none of {len(pairs)} scenes has its clips in split '{split}' ({missing[0][1]})"
        )
    sounding = sum(panel.sounding for panel in complete[0])
    first = pairs.origin or PairListOrigin(pairs.id, pairs.hash, len(pairs), 0)  # which may lack scenes already
    origin = replace(first, missing=first.missing + len(missing))
    matched = replace(pairs, id=f"{split}-{pairs.id}", scenes=tuple(complete), origin=origin)
    return SceneListEntry(matched, sounding, missing=tuple(missing))


def _check_same_scenes(entry: SceneListEntry, existing: dict[str, dict[str, Any]], directory: str) -> None:
    """ValueError where the folder has other scenes under this id."""
    pairs = entry.pairs
    if pairs.id in existing and existing[pairs.id]["hash"] != pairs.hash:
        raise ValueError(
            f"{directory}/{SCENES_FOLDER}/{pairs.id}.parquet: holds the scenes {existing[pairs.id]['hash']}, these are "
            f"{pairs.hash}; give the list another name"
        )
