"""A checkpoint: one folder per (trial, epoch), whole or not there, on local disk or object storage.

`<study>/checkpoints/trial-0003/epoch-0007/` holds `model.safetensors` (the method's weights), `training.pt` (optimizer,
random states, step: plain data read with `weights_only=True`), `config.json` (the whole resolved config, so that the
model loads anywhere) and, written last, `manifest.json` with the size and SHA-256 of each. A folder without a manifest
that fits is no checkpoint. Nothing here is a pickle that could run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from pyarrow import fs
from torch import Tensor

from raymix.migration import rename_layouts
from raymix.storage import get, put, resolve
from raymix.study import ENDS, TrialRow

WEIGHTS, TRAINING, CONFIG, MANIFEST = "model.safetensors", "training.pt", "config.json", "manifest.json"
EPOCH = re.compile(r"epoch-(\d+)$")
TRIAL = re.compile(r"trial-(\d+)(\.\d+)?$")  # with a number behind it: after so many exploitations


class Torn(ValueError):
    """A folder is not a whole checkpoint; the message says what is missing or differs."""


@dataclass(frozen=True)
class Weights:
    """What scoring needs of a checkpoint; tensors are on the CPU."""

    uri: str
    config: dict[str, Any]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint(Weights):
    """All that a checkpoint holds: training resumes from it."""

    training: dict[str, Any]


def folder(trial: int, epoch: int | None = None) -> str:
    """The path of a trial's (or one epoch's) checkpoints, relative to the study."""
    path = f"checkpoints/trial-{trial:04d}"
    return path if epoch is None else f"{path}/epoch-{epoch:04d}"


def save(uri: str, weights: Mapping[str, Tensor], training: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Writes a checkpoint into folder `uri` and gives `uri` back once it is whole; replaces what was there.

    Raises ValueError where `training` holds more than tensors and plain data, or `config` more than JSON.
    """
    contents = {
        WEIGHTS: safetensors.torch.save({name: _own(tensor) for name, tensor in weights.items()}),
        TRAINING: _pack(training),
        CONFIG: json.dumps(config, sort_keys=True, allow_nan=False).encode(),
    }
    manifest = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
    }
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(f"{path}/{MANIFEST}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{MANIFEST}")  # while the rest is replaced, nothing may vouch for it
    for name, data in contents.items():
        put(filesystem, f"{path}/{name}", data)
    put(filesystem, f"{path}/{MANIFEST}", json.dumps(manifest).encode())
    return uri


def verify(uri: str) -> None:
    """Returns if the folder is a whole checkpoint; raises Torn otherwise."""
    _read(uri)


def load_weights(uri: str) -> Weights:
    """Reads and verifies weights and config of a checkpoint; the training state is neither read nor verified.

    Raises Torn where there is no manifest, or weights or config do not fit it.
    """
    contents = _read(uri, (WEIGHTS, CONFIG))
    return Weights(uri, rename_layouts(json.loads(contents[CONFIG])), safetensors.torch.load(contents[WEIGHTS]))


def load(uri: str) -> Checkpoint:
    """Reads and verifies a checkpoint; raises Torn where it is not whole."""
    contents = _read(uri)
    training = torch.load(io.BytesIO(contents[TRAINING]), map_location="cpu", weights_only=True)
    return Checkpoint(
        uri, rename_layouts(json.loads(contents[CONFIG])), safetensors.torch.load(contents[WEIGHTS]), training
    )


def epochs(trial_uri: str) -> dict[int, str]:
    """{epoch: folder} of a trial's checkpoint folders, whole or not, in order."""
    filesystem, path = resolve(trial_uri)
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    found = ((EPOCH.search(info.path), info) for info in listing if info.type == fs.FileType.Directory)
    numbers = sorted(int(match.group(1)) for match, _ in found if match)
    return {number: f"{trial_uri.rstrip('/')}/epoch-{number:04d}" for number in numbers}


def latest_valid(trial_uri: str, before: int | None = None) -> Checkpoint | None:
    """The newest whole checkpoint of a trial (of an epoch below `before`); torn ones are passed over."""
    for epoch, uri in sorted(epochs(trial_uri).items(), reverse=True):
        if before is None or epoch < before:
            try:
                return load(uri)
            except Torn:
                continue
    return None


def delete(uri: str) -> None:
    """Removes a checkpoint, its manifest first, so that a half-deleted one is never taken for whole."""
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        return
    if filesystem.get_file_info(f"{path}/{MANIFEST}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{MANIFEST}")
    filesystem.delete_dir(path)


def retain(
    rows: Iterable[TrialRow], keep: int = 1, overall: int | None = None, referenced: Collection[str] = ()
) -> list[str]:
    """The recorded checkpoint folders (relative to the study) that may go; a pure function, it deletes nothing.

    A trial keeps its `keep` best epochs, the earlier of equals; a live one also its latest two, in case the newest is
    torn. With `overall`, only that many of the ended trials keep any, the best first. What is `referenced` stays, and
    so does what no record names: the latest of a live trial, not yet scored (`orphans` finds those of ended ones).
    """
    rows = list(rows)
    ended = sorted((r for r in rows if r.state in ENDS), key=lambda r: (_rank(r, r.score), r.number))
    spared = {row.number for row in ended[:overall]} | {row.number for row in rows if row.state not in ENDS}
    doomed: list[str] = []
    for row in rows:
        kept = set(_best_epochs(row)[:keep]) if row.number in spared else set[int]()
        written = sorted(epoch for epoch, scored in row.epochs.items() if scored.checkpoint)
        if row.state not in ENDS:
            kept |= set(written[-2:])
        paths = [row.epochs[epoch].checkpoint or "" for epoch in written if epoch not in kept]
        doomed += [path for path in paths if path not in referenced]
    return doomed


def orphans(study_uri: str, rows: Iterable[TrialRow]) -> list[str]:
    """Checkpoint folders (relative to the study) of ended trials that no record names: written, never scored.

    A trial of population-based training has several folders of epochs: one more after each exploitation.
    """
    ended = {row.number: row for row in rows if row.state in ENDS}
    named = {scored.checkpoint for row in ended.values() for scored in row.epochs.values()}
    study_uri = study_uri.rstrip("/")
    filesystem, path = resolve(f"{study_uri}/checkpoints")
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    found = ((TRIAL.search(info.path), info) for info in listing if info.type == fs.FileType.Directory)
    folders = sorted(f"checkpoints/{match[0]}" for match, _ in found if match and int(match[1]) in ended)

    def unnamed(trial: str) -> list[str]:
        paths = [f"{trial}/{uri.rsplit('/', 1)[1]}" for uri in epochs(f"{study_uri}/{trial}").values()]
        return [each for each in paths if each not in named]

    with ThreadPoolExecutor(16) as pool:  # a listing a folder: an object store takes its time over each
        return [each for paths in pool.map(unnamed, folders) for each in paths]


def _rank(row: TrialRow, score: float | None) -> float:
    """Lower is better, whatever the study's mode; no score is worst."""
    return math.inf if score is None else (-score if row.mode == "max" else score)


def _best_epochs(row: TrialRow) -> list[int]:
    scores = row.scores
    return sorted(scores, key=lambda epoch: (_rank(row, scores[epoch]), epoch))


def _own(tensor: Tensor) -> Tensor:
    """A contiguous CPU copy, since safetensors refuses tensors that share memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _pack(training: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    try:
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception as error:
        raise ValueError(f"training state: only tensors and plain data can be stored ({str(error)[:200]})") from None
    return buffer.getvalue()


def _read(uri: str, names: Sequence[str] = (WEIGHTS, TRAINING, CONFIG)) -> dict[str, bytes]:
    """The contents of these files of a checkpoint, checked against its manifest."""
    filesystem, path = resolve(uri)
    manifest = _manifest(filesystem, path, uri)
    contents: dict[str, bytes] = {}
    for name in names:
        try:
            contents[name] = get(filesystem, f"{path}/{name}")
        except FileNotFoundError:
            raise Torn(f"{uri}: {name} is missing") from None
        wanted = manifest.get(name, {})
        if len(contents[name]) != wanted.get("bytes"):
            raise Torn(f"{uri}: {name} has {len(contents[name])} bytes instead of {wanted.get('bytes')}")
        if hashlib.sha256(contents[name]).hexdigest() != wanted.get("sha256"):
            raise Torn(f"{uri}: {name} differs from its SHA-256")
    return contents


def _manifest(filesystem: fs.FileSystem, path: str, uri: str) -> dict[str, Any]:
    try:
        manifest = json.loads(get(filesystem, f"{path}/{MANIFEST}"))
    except FileNotFoundError:
        raise Torn(f"{uri}: no checkpoint here, or one that was not finished ({MANIFEST} is missing)") from None
    except ValueError:
        raise Torn(f"{uri}: {MANIFEST} is not whole") from None
    if not isinstance(manifest, dict):
        raise Torn(f"{uri}: {MANIFEST} is not whole")
    return manifest
