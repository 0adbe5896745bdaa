"""Writing and reading checkpoints: one folder per (trial, epoch), complete or absent, on local disk or object storage.

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

from raymix.config.migration import current_names
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic
from raymix.tracking.study import END_STATES, TrialRecord

WEIGHTS_FILE, TRAINING_STATE_FILE, CONFIG_FILE, MANIFEST_FILE = (
    "model.safetensors",
    "training.pt",
    "config.json",
    "manifest.json",
)

EPOCH_FOLDER = re.compile(r"epoch-(\d+)$")

TRIAL_FOLDER = re.compile(r"trial-(\d+)(\.\d+)?$")  # with a number behind it: after so many exploitations


class CorruptCheckpointError(ValueError):
    """A folder is not a complete checkpoint; the message names what is missing or differs."""


@dataclass(frozen=True)
class CheckpointWeights:
    """What scoring needs of a checkpoint; tensors are on the CPU."""

    uri: str
    config: dict[str, Any]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint(CheckpointWeights):
    """All that a checkpoint holds: training resumes from it."""

    training: dict[str, Any]


def checkpoint_path(trial: int, epoch: int | None = None) -> str:
    """The path of a trial's (or one epoch's) checkpoints, relative to the study."""
    path = f"checkpoints/trial-{trial:04d}"
    return path if epoch is None else f"{path}/epoch-{epoch:04d}"


def save_checkpoint(
    uri: str, weights: Mapping[str, Tensor], training: Mapping[str, Any], config: Mapping[str, Any]
) -> str:
    """Writes a checkpoint into folder `uri` and gives `uri` back once it is whole; replaces what was there.

    Raises ValueError where `training` holds more than tensors and plain data, or `config` more than JSON.
    """
    contents = {
        WEIGHTS_FILE: safetensors.torch.save({name: _own(tensor) for name, tensor in weights.items()}),
        TRAINING_STATE_FILE: _pack(training),
        CONFIG_FILE: json.dumps(config, sort_keys=True, allow_nan=False).encode(),
    }
    manifest = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
    }
    filesystem, path = resolve_uri(uri)
    if filesystem.get_file_info(f"{path}/{MANIFEST_FILE}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{MANIFEST_FILE}")  # while the rest is replaced, nothing may vouch for it
    for name, data in contents.items():
        write_atomic(filesystem, f"{path}/{name}", data)
    write_atomic(filesystem, f"{path}/{MANIFEST_FILE}", json.dumps(manifest).encode())
    return uri


def verify_checkpoint(uri: str) -> None:
    """Returns if the folder is a whole checkpoint; raises Torn otherwise."""
    _read(uri)


def load_checkpoint_weights(uri: str) -> CheckpointWeights:
    """Reads and verifies weights and config of a checkpoint; the training state is neither read nor verified.

    Raises Torn where there is no manifest, or weights or config do not fit it.
    """
    contents = _read(uri, (WEIGHTS_FILE, CONFIG_FILE))
    return CheckpointWeights(
        uri, current_names(json.loads(contents[CONFIG_FILE])), safetensors.torch.load(contents[WEIGHTS_FILE])
    )


def load_checkpoint(uri: str) -> Checkpoint:
    """Reads and verifies a checkpoint; raises Torn where it is not whole."""
    contents = _read(uri)
    training = torch.load(io.BytesIO(contents[TRAINING_STATE_FILE]), map_location="cpu", weights_only=True)
    return Checkpoint(
        uri, current_names(json.loads(contents[CONFIG_FILE])), safetensors.torch.load(contents[WEIGHTS_FILE]), training
    )


def list_epoch_checkpoints(trial_uri: str) -> dict[int, str]:
    """{epoch: folder} of a trial's checkpoint folders, whole or not, in order."""
    filesystem, path = resolve_uri(trial_uri)
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    found = ((EPOCH_FOLDER.search(info.path), info) for info in listing if info.type == fs.FileType.Directory)
    numbers = sorted(int(match.group(1)) for match, _ in found if match)
    return {number: f"{trial_uri.rstrip('/')}/epoch-{number:04d}" for number in numbers}


def latest_valid_checkpoint(trial_uri: str, before: int | None = None) -> Checkpoint | None:
    """The newest whole checkpoint of a trial (of an epoch below `before`); torn ones are passed over."""
    for epoch, uri in sorted(list_epoch_checkpoints(trial_uri).items(), reverse=True):
        if before is None or epoch < before:
            try:
                return load_checkpoint(uri)
            except CorruptCheckpointError:
                continue
    return None


def delete_checkpoint(uri: str) -> None:
    """Removes a checkpoint, its manifest first, so that a half-deleted one is never taken for whole."""
    filesystem, path = resolve_uri(uri)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        return
    if filesystem.get_file_info(f"{path}/{MANIFEST_FILE}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{MANIFEST_FILE}")
    filesystem.delete_dir(path)


def checkpoints_to_delete(
    rows: Iterable[TrialRecord], keep: int = 1, overall: int | None = None, referenced: Collection[str] = ()
) -> list[str]:
    """The recorded checkpoint folders (relative to the study) that may go; a pure function, it deletes nothing.

    A trial keeps its `keep` best epochs, the earlier of equals; a live one also its latest two, in case the newest is
    torn. With `overall`, only that many of the ended trials keep any, the best first. What is `referenced` stays, and
    so does what no record names: the latest of a live trial, not yet scored (`unreferenced_checkpoints` finds those of ended ones).
    """
    rows = list(rows)
    ended = sorted((r for r in rows if r.state in END_STATES), key=lambda r: (_rank(r, r.score), r.number))
    spared = {row.number for row in ended[:overall]} | {row.number for row in rows if row.state not in END_STATES}
    doomed: list[str] = []
    for row in rows:
        kept = set(_best_epochs(row)[:keep]) if row.number in spared else set[int]()
        written = sorted(epoch for epoch, scored in row.epochs.items() if scored.checkpoint)
        if row.state not in END_STATES:
            kept |= set(written[-2:])
        paths = [row.epochs[epoch].checkpoint or "" for epoch in written if epoch not in kept]
        doomed += [path for path in paths if path not in referenced]
    return doomed


def unreferenced_checkpoints(study_uri: str, rows: Iterable[TrialRecord]) -> list[str]:
    """Checkpoint folders (relative to the study) of ended trials that no record names: written, never scored.

    A trial of population-based training has several folders of epochs: one more after each exploitation.
    """
    ended = {row.number: row for row in rows if row.state in END_STATES}
    named = {scored.checkpoint for row in ended.values() for scored in row.epochs.values()}
    study_uri = study_uri.rstrip("/")
    filesystem, path = resolve_uri(f"{study_uri}/checkpoints")
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    found = ((TRIAL_FOLDER.search(info.path), info) for info in listing if info.type == fs.FileType.Directory)
    folders = sorted(f"checkpoints/{match[0]}" for match, _ in found if match and int(match[1]) in ended)

    def unnamed(trial: str) -> list[str]:
        paths = [f"{trial}/{uri.rsplit('/', 1)[1]}" for uri in list_epoch_checkpoints(f"{study_uri}/{trial}").values()]
        return [each for each in paths if each not in named]

    with ThreadPoolExecutor(16) as pool:  # a listing a folder: an object store takes its time over each
        return [each for paths in pool.map(unnamed, folders) for each in paths]


def _rank(row: TrialRecord, score: float | None) -> float:
    """Lower is better, whatever the study's mode; no score is worst."""
    return math.inf if score is None else (-score if row.mode == "max" else score)


def _best_epochs(row: TrialRecord) -> list[int]:
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


def _read(uri: str, names: Sequence[str] = (WEIGHTS_FILE, TRAINING_STATE_FILE, CONFIG_FILE)) -> dict[str, bytes]:
    """The contents of these files of a checkpoint, checked against its manifest."""
    filesystem, path = resolve_uri(uri)
    manifest = _manifest(filesystem, path, uri)
    contents: dict[str, bytes] = {}
    for name in names:
        try:
            contents[name] = read_bytes(filesystem, f"{path}/{name}")
        except FileNotFoundError:
            raise CorruptCheckpointError(f"{uri}: {name} is missing") from None
        wanted = manifest.get(name, {})
        if len(contents[name]) != wanted.get("bytes"):
            raise CorruptCheckpointError(
                f"{uri}: {name} has {len(contents[name])} bytes instead of {wanted.get('bytes')}"
            )
        if hashlib.sha256(contents[name]).hexdigest() != wanted.get("sha256"):
            raise CorruptCheckpointError(f"{uri}: {name} differs from its SHA-256")
    return contents


def _manifest(filesystem: fs.FileSystem, path: str, uri: str) -> dict[str, Any]:
    try:
        manifest = json.loads(read_bytes(filesystem, f"{path}/{MANIFEST_FILE}"))
    except FileNotFoundError:
        raise CorruptCheckpointError(
            f"{uri}: no checkpoint here, or one that was not finished ({MANIFEST_FILE} is missing)"
        ) from None
    except ValueError:
        raise CorruptCheckpointError(f"{uri}: {MANIFEST_FILE} is not whole") from None
    if not isinstance(manifest, dict):
        raise CorruptCheckpointError(f"{uri}: {MANIFEST_FILE} is not whole")
    return manifest
