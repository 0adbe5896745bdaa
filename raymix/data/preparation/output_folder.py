"""The folder that clips go to: whether it is raymix's to write in, and which files in it are raymix's to take away.

A folder with `dataset.json` or `.parts` in it is a dataset, whole or under way; an empty one becomes one. Any other folder
is somebody's own, and nothing in it is touched.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.preparation import dataset_card, split_leaks
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic

DATASET_JSON = "dataset.json"


PARTS_FOLDER = ".parts"  # the folder of everything that is no finished shard

OWNER_MARK = f"{PARTS_FOLDER}/raymix"  # an empty file: from here on the folder is known to be a dataset under way

SHOWN = 3


def check_output_folder(settings: DatasetConfig) -> None:
    """ValueError in one line where `dataset.prepared` is not a folder that raymix may write in; touches nothing."""
    filesystem, path = resolve_uri(settings.prepared)
    where = f"dataset.prepared={settings.prepared}"
    if filesystem.get_file_info(path).type == fs.FileType.File:
        raise ValueError(f"{where}: is a file; name a folder of its own for the clips")
    if settings.root:
        _apart(settings, where)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    there = {info.base_name for info in infos}
    if PARTS_FOLDER in there:
        return
    if DATASET_JSON in there:
        if "manifest.parquet" not in there and not _described(filesystem, f"{path}/{DATASET_JSON}"):
            raise ValueError(
                f"{where}: the {DATASET_JSON} in it is not raymix's; name a folder of its own for the clips"
            )
        return
    if foreign := sorted(name for name in there if not name.startswith(".") and name != split_leaks.LEAKS_FILE):
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise ValueError(
            f"{where}: holds {', '.join(foreign[:SHOWN])}{more}, and no {DATASET_JSON} of raymix; name an empty folder, or one "
            "that is not there yet"
        )


def claim_output_folder(filesystem: fs.FileSystem, path: str) -> None:
    """Make the folder a dataset under way, and then no whole one any more."""
    write_atomic(filesystem, f"{path}/{OWNER_MARK}", b"")
    if filesystem.get_file_info(f"{path}/{DATASET_JSON}").type != fs.FileType.NotFound:
        filesystem.delete_file(f"{path}/{DATASET_JSON}")


def delete_scene_lists(filesystem: fs.FileSystem, path: str) -> None:
    """Take away the lists of scenes, whose clips are no more: the files that `scenes.json` names, and it; nothing else."""
    try:
        listed = json.loads(read_bytes(filesystem, f"{path}/{dataset_card.SCENES_FILE}"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return  # what no document names is not known to be raymix's
    if not isinstance(listed, list) or not all(map(_own, listed)):
        return
    folder, _, document = f"{path}/{dataset_card.SCENES_FILE}".rpartition("/")
    for name in [f"{entry['id']}{ending}" for entry in listed for ending in (".parquet", "-missing.csv")] + [document]:
        if filesystem.get_file_info(f"{folder}/{name}").type == fs.FileType.File:
            filesystem.delete_file(f"{folder}/{name}")
    there = filesystem.get_file_info(folder).type == fs.FileType.Directory
    if there and not filesystem.get_file_info(fs.FileSelector(folder)):
        filesystem.delete_dir(folder)


def _own(entry: Any) -> bool:
    """Whether it is an entry of raymix's scenes.json: a list that lies beside it under its own name."""
    name = entry.get("id") if isinstance(entry, dict) else None
    plain = isinstance(name, str) and re.fullmatch(r"[^/\\\0]+", name)
    return bool(plain) and entry.get("file") == f"{name}.parquet" and "hash" in entry


def _described(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether a dataset.json is one of raymix's, of whatever version."""
    try:
        return {"schema_version", "splits"} <= set(json.loads(read_bytes(filesystem, path)))
    except (ValueError, TypeError):
        return False


def _apart(settings: DatasetConfig, where: str) -> None:
    """ValueError where the clips would lie among the videos: in their folder itself, or around it.

    A folder of its own below the root is none of the videos', and does no harm.
    """
    (one, prepared), (other, root) = resolve_uri(settings.prepared), resolve_uri(settings.root)
    if type(one) is not type(other):
        return
    if isinstance(one, fs.LocalFileSystem):
        prepared, root = os.path.realpath(prepared), os.path.realpath(root)
    elif not one.equals(other):
        return
    if prepared == root or PurePosixPath(prepared) in PurePosixPath(root).parents:
        lies = "is dataset.root" if prepared == root else f"has dataset.root={settings.root} in it"
        raise ValueError(f"{where}: {lies}; name a folder for the clips alone")
