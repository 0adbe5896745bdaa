"""The folder that a dataset is prepared in: whether raymix may write there, and which of its files raymix may delete.

A folder with `dataset.json` or `.parts` is a dataset, complete or in preparation; an empty folder becomes one. Nothing is
written to or deleted from any other folder.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.prepared import DATASET_FILE, LEAKS_FILE, MANIFEST_FILE, SCENES_FILE
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic

PARTS_FOLDER = ".parts"  # the folder of everything that is no finished shard

OWNER_MARK = f"{PARTS_FOLDER}/raymix"  # an empty file that marks the folder as a dataset in preparation

MAX_NAMES_SHOWN = 3  # in a message


def check_output_folder(settings: DatasetConfig) -> None:
    """Check that raymix may write to the folder `dataset.prepared`; nothing is changed.

    Raises:
        ValueError: it is a file, holds files of others, or the videos lie in it; one line.
    """
    filesystem, path = resolve_uri(settings.prepared)
    where = f"dataset.prepared={settings.prepared}"
    if filesystem.get_file_info(path).type == fs.FileType.File:
        raise ValueError(f"{where}: is a file; name a folder of its own for the clips")
    if settings.root:
        _check_apart_from_videos(settings, where)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = {info.base_name for info in infos}
    if PARTS_FOLDER in names:
        return
    if DATASET_FILE in names:
        if MANIFEST_FILE not in names and not _is_dataset_json(filesystem, f"{path}/{DATASET_FILE}"):
            raise ValueError(
                f"{where}: the {DATASET_FILE} in it is not raymix's; name a folder of its own for the clips"
            )
        return
    if foreign := sorted(name for name in names if not name.startswith(".") and name != LEAKS_FILE):
        more = f" and {len(foreign) - MAX_NAMES_SHOWN} more" if len(foreign) > MAX_NAMES_SHOWN else ""
        raise ValueError(
            f"{where}: holds {', '.join(foreign[:MAX_NAMES_SHOWN])}{more}, and no {DATASET_FILE} of raymix; name an empty "
            "folder, or one that is not there yet"
        )


def claim_output_folder(filesystem: fs.FileSystem, path: str) -> None:
    """Mark the folder as a dataset in preparation, then delete the `dataset.json` of an earlier one."""
    write_atomic(filesystem, f"{path}/{OWNER_MARK}", b"")
    if filesystem.get_file_info(f"{path}/{DATASET_FILE}").type != fs.FileType.NotFound:
        filesystem.delete_file(f"{path}/{DATASET_FILE}")


def delete_scene_lists(filesystem: fs.FileSystem, path: str) -> None:
    """Delete the scene lists of replaced clips: the files that `scenes.json` names and that document, nothing else."""
    try:
        entries = json.loads(read_bytes(filesystem, f"{path}/{SCENES_FILE}"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return
    if not isinstance(entries, list) or not all(map(_is_scene_list_entry, entries)):
        return
    folder, _, document = f"{path}/{SCENES_FILE}".rpartition("/")
    files = [f"{entry['id']}{suffix}" for entry in entries for suffix in (".parquet", "-missing.csv")]
    for name in [*files, document]:
        if filesystem.get_file_info(f"{folder}/{name}").type == fs.FileType.File:
            filesystem.delete_file(f"{folder}/{name}")
    exists = filesystem.get_file_info(folder).type == fs.FileType.Directory
    if exists and not filesystem.get_file_info(fs.FileSelector(folder)):
        filesystem.delete_dir(folder)


def _is_scene_list_entry(entry: Any) -> bool:
    """Whether it is an entry of raymix's scenes.json, whose file lies in the same folder under the list's own id."""
    name = entry.get("id") if isinstance(entry, dict) else None
    is_file_name = isinstance(name, str) and re.fullmatch(r"[^/\\\0]+", name)
    return bool(is_file_name) and entry.get("file") == f"{name}.parquet" and "hash" in entry


def _is_dataset_json(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether a file is a dataset.json of raymix, of any version."""
    try:
        return {"schema_version", "splits"} <= set(json.loads(read_bytes(filesystem, path)))
    except (ValueError, TypeError):
        return False


def _check_apart_from_videos(settings: DatasetConfig, where: str) -> None:
    """ValueError where `dataset.prepared` is the folder of the videos, or contains it. It may lie below that folder."""
    (filesystem, prepared), (other, root) = resolve_uri(settings.prepared), resolve_uri(settings.root)
    if type(filesystem) is not type(other):
        return
    if isinstance(filesystem, fs.LocalFileSystem):
        prepared, root = os.path.realpath(prepared), os.path.realpath(root)
    elif not filesystem.equals(other):
        return
    if prepared == root or PurePosixPath(prepared) in PurePosixPath(root).parents:
        relation = "is dataset.root" if prepared == root else f"has dataset.root={settings.root} in it"
        raise ValueError(f"{where}: {relation}; name a folder for the clips alone")
