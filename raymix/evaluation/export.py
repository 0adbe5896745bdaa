"""Export of scenes for other models: frames (PNG), audio (WAV) and ground truth (Parquet) in one folder.

`scenes.parquet` has a row for each scene:

    scene_id, layout             as predictions must name them
    frame, sound                 paths below the folder: the canvas, and the mixture at 16 kHz (mono, 32-bit floats)
    canvas_height, canvas_width  int, pixels
    panels                       list of [left, top, right, bottom] in pixels, row after row
    sounding_panels              list of int: the panel of each source
    labels                       list of string: the class of each source, '' where it is unknown
    videos                       list of string: those of the sounding panels, then of the silent ones
    has_truth                    bool; where it is false no box metric counts this scene
    masks                        list of binary: a PNG of the canvas for each source, 255 where it is, 128 where one annotator
                                 alone has it; null without regions

`pair_list.csv` names the clips (`raymix.data.pair_lists`), `scenes.json` says what the scenes were made of.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import wavfile

from raymix.data import pair_lists
from raymix.data.audio import SAMPLE_RATE, istft
from raymix.data.batches import SceneBatch
from raymix.evaluation.predictions import HASH_KEY
from raymix.evaluation.scene_spec import SceneSpec
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.regions import encode_png
from raymix.reporting.results_folder import ResultsFolder
from raymix.runtime.storage import atomic_output_file, resolve_uri, write_atomic

CHUNK = 64  # scenes in memory as sound and files

SCHEMA = pa.schema(
    [
        ("scene_id", pa.string()),
        ("layout", pa.string()),
        ("frame", pa.string()),
        ("sound", pa.string()),
        ("canvas_height", pa.int32()),
        ("canvas_width", pa.int32()),
        ("panels", pa.list_(pa.list_(pa.int32()))),
        ("sounding_panels", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.string())),
        ("videos", pa.list_(pa.string())),
        ("has_truth", pa.bool_()),
        ("masks", pa.list_(pa.binary())),
    ]
)


def export_scenes(stage: SceneSpec, folder: str, echo: Callable[[str], Any] = print) -> ResultsFolder:
    """Write the scenes into a folder, `scenes.parquet` last. Raises ValueError where a folder has scenes of another kind."""
    filesystem, path = resolve_uri(folder)
    clips = stage.clips()
    scenes = stage.compose(clips)
    truth = SceneGroundTruth.of(scenes)
    _only_these(folder, scenes.hash)
    pair_lists.write_pair_list(stage.listed(clips), f"{folder.rstrip('/')}/pair_list.csv")
    facts = {"scenes_hash": scenes.hash, "scenes": len(scenes), "canvas": list(truth.canvas), "stage": stage.record()}
    write_atomic(filesystem, f"{path}/scenes.json", json.dumps(facts, indent=1).encode())
    with atomic_output_file(filesystem, f"{path}/scenes.parquet") as part:
        schema = SCHEMA.with_metadata({HASH_KEY: scenes.hash.encode()})
        with pq.ParquetWriter(part, schema) as table:
            done = 0
            for batch in scenes.batches(CHUNK):
                rows = _rows(batch, truth.take(np.arange(done, done + len(batch))), filesystem, path)
                table.write_table(pa.Table.from_pylist(rows, schema))
                done += len(batch)
    files = [
        f"{folder.rstrip('/')}/{name}" for name in ("scenes.parquet", "scenes.json", "pair_list.csv", "frames", "sound")
    ]
    echo(f"{len(scenes)} {scenes.layout} scenes {scenes.hash}, canvas {truth.canvas[1]}x{truth.canvas[0]} px")
    report = ResultsFolder(folder, files, facts)
    report.print_files(echo)
    return report


def _only_these(folder: str, scenes_hash: str) -> None:
    """ValueError where the folder holds other scenes, whose files would stand among these."""
    filesystem, path = resolve_uri(folder)
    if filesystem.get_file_info(f"{path}/scenes.parquet").is_file:
        with filesystem.open_input_file(f"{path}/scenes.parquet") as file:
            there = (pq.read_schema(file).metadata or {}).get(HASH_KEY, b"").decode()
        if there != scenes_hash:
            found = there or "something else"
            raise ValueError(f"export={folder}: holds the scenes {found}, these are {scenes_hash}; name another folder")


def _rows(scenes: SceneBatch, truth: SceneGroundTruth, filesystem: Any, path: str) -> list[dict[str, Any]]:
    """Write the files of some scenes; their rows."""
    wave_NL = istft(scenes.mixture_NTF).numpy()
    rows = []
    for place, scene in enumerate(scenes.ids):
        name = _file_name(scene)
        sound, frame = f"sound/{name}.wav", f"frames/{name}.png"
        out = io.BytesIO()
        wavfile.write(out, SAMPLE_RATE, wave_NL[place].astype(np.float32))
        write_atomic(filesystem, f"{path}/{sound}", out.getvalue())
        write_atomic(filesystem, f"{path}/{frame}", encode_png(scenes.frames_N3YX[place].permute(1, 2, 0).numpy()))
        masks = None
        if truth.masks_NSYX is not None:
            values_SYX = truth.masks_NSYX[place].astype(np.uint8) * 255
            if truth.halves_NSYX is not None:
                values_SYX[truth.halves_NSYX[place] & (values_SYX == 0)] = 128
            masks = [encode_png(values_YX) for values_YX in values_SYX]
        rows.append(
            {
                "scene_id": scene,
                "layout": truth.layout,
                "frame": frame,
                "sound": sound,
                "canvas_height": truth.canvas[0],
                "canvas_width": truth.canvas[1],
                "panels": truth.rects_P4.tolist(),
                "sounding_panels": truth.panels_NS[place].tolist(),
                "labels": list(scenes.labels[place]) if scenes.labels else None,
                "videos": list(truth.videos[place]),
                "has_truth": bool(truth.has_truth_N[place]),
                "masks": masks,
            }
        )
    return rows


def _file_name(scene: str) -> str:
    """The id of a scene where it can be the name of a file; else something like it that no other scene has."""
    name = re.sub(r"[^\w.-]", "_", scene)
    return name if name == scene else f"{name}-{blake2b(scene.encode(), digest_size=4).hexdigest()}"
