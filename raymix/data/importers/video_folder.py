"""Video files below a folder: listing them, and class names from the folders that hold them."""

from __future__ import annotations

from collections.abc import Iterable

from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.media import VIDEO_SUFFIXES, normalize_path
from raymix.runtime.storage import list_files, resolve_uri


def describe_class_folders(settings: DatasetConfig, files: Iterable[str]) -> str:
    """How to use the folders that videos lie in as classes, in one line; '' where they are used, or are none.

    Args:
        settings: those of the dataset.
        files: paths below the root.
    """
    folders = {path.rpartition("/")[0] for path in map(normalize_path, files)}
    if settings.classes == "parent" or len(folders) < 2 or "" in folders:
        return ""
    names = sorted({folder.rpartition("/")[2] for folder in folders})
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    more = "dataset.classes=parent dataset.overwrite=true"
    return f"all videos lie in folders ({shown}); to use the folders' names as classes, prepare again with {more}"


def list_videos(root: str) -> dict[str, int]:
    """Path below the root (with '/') and size in bytes of every video file; hidden ones are passed over."""
    filesystem, path = resolve_uri(root) if root else (None, "")
    if filesystem is None or filesystem.get_file_info(path).type != fs.FileType.Directory:
        raise ValueError(f"dataset.root='{root}': no such folder; name the folder of your videos")
    sizes = list_files(filesystem, path)
    return {name: sizes[name] for name in sorted(sizes) if is_video(name)}


def is_video(name: str) -> bool:
    """Whether a path below the root ends as videos do, and is not hidden."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not any(part.startswith(".") for part in name.split("/"))


def labels_from_folder(settings: DatasetConfig, path: str) -> tuple[str, ...]:
    """Class names from the parent folder: none at the root, two for 'a+b'."""
    parts = path.split("/")
    return tuple(parts[-2].split("+")) if settings.classes == "parent" and len(parts) > 1 else ()
