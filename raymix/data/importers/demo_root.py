"""The folder that `dataset=demo` writes its videos to: permission check and marker file."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic

SIDECAR, RECIPE = "regions.json", "demo.json"

CLASSES = ("bell", "drum", "flute", "strings")


def _recipe(settings: DatasetConfig) -> dict[str, object]:
    return {name: getattr(settings, name) for name in ("seed", "videos", "video_seconds", "duets", "size")}


def check_demo_root(settings: DatasetConfig) -> None:
    """Check that the demo may write to `settings.root`: a folder that is new, empty, or holds the demo's videos already.

    Nothing is written. Raises ValueError for a folder with other files in it, and for a demo of other settings.
    """
    if not settings.root:
        raise ValueError("dataset.root is empty: name the folder that the demo writes its videos to")
    filesystem, root = resolve_uri(settings.root)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if json.loads(read_bytes(filesystem, f"{root}/{RECIPE}")) != _recipe(settings):
            raise ValueError(f"{settings.root}: holds demo videos of other settings; name another dataset.root")
        return
    if filesystem.get_file_info(root).type == fs.FileType.File:
        raise ValueError(f"dataset.root={settings.root}: is a file; dataset=demo writes its own videos to a folder")
    if foreign := next(_foreign(filesystem, root), None):
        raise ValueError(
            f"dataset.root={settings.root}: holds {foreign}, and dataset=demo writes its own videos only to an empty "
            "folder; did you mean dataset=folder?"
        )


def _foreign(filesystem: fs.FileSystem, root: str) -> Iterator[str]:
    """Names of files and folders in `root` that the demo has not written; hidden ones do not count."""
    entries = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
    for entry in sorted(entries, key=lambda entry: entry.base_name):
        name = entry.base_name
        if name == SIDECAR or name.startswith("."):
            continue
        if entry.type != fs.FileType.Directory or not set(name.split("+")) <= set(CLASSES):
            yield name
            continue
        videos = filesystem.get_file_info(fs.FileSelector(entry.path))
        own = re.compile(rf"{re.escape(name)}-\d{{4,}}\.mp4(\.\S+\.tmp)?")
        yield from (f"{name}/{each.base_name}" for each in videos if not own.fullmatch(each.base_name))


def claim_demo_root(settings: DatasetConfig) -> None:
    """Mark the root as the demo's before the first video is written to it; ValueError where it must not be written."""
    check_demo_root(settings)
    filesystem, root = resolve_uri(settings.root)
    try:
        write_atomic(filesystem, f"{root}/{RECIPE}", json.dumps(_recipe(settings)).encode())
    except OSError as error:
        raise ValueError(f"dataset.root='{settings.root}' cannot be written ({error.strerror or error})") from error
