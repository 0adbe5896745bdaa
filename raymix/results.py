"""The folder of an evaluation: its files, `scores.json` last, so that where it is, all is."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from raymix import __version__
from raymix.storage import get, put, resolve

SCORES, TABLE, PER_SCENE = "scores.json", "table.md", "per_scene.parquet"


@dataclass(frozen=True)
class Report:
    """What was found and written: the folder, its files (whole paths), and what is in scores.json."""

    folder: str
    files: list[str]
    scores: dict[str, Any]

    def tell(self, echo: Callable[[str], Any]) -> None:
        """A line for each file."""
        for file in self.files:
            echo(f"written: {file}")


def stamp() -> dict[str, Any]:
    """What every document of scores begins with: its format, who wrote it, and when."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"format": 1, "raymix": __version__, "written": now}


def clear(folder: str) -> None:
    """Take away what an earlier evaluation left in this folder, its scores.json first."""
    filesystem, path = resolve(folder)
    for name in (SCORES, *_old(filesystem, f"{path}/{SCORES}")):
        if filesystem.get_file_info(f"{path}/{name}").type == fs.FileType.File:
            filesystem.delete_file(f"{path}/{name}")


def write(folder: str, files: Mapping[str, bytes], scores: dict[str, Any], there: tuple[str, ...] = ()) -> Report:
    """Files of one evaluation, in place of those of an earlier one; `there` are names of files that are there already."""
    filesystem, path = resolve(folder)
    if not there:
        clear(folder)
    scores["files"] = [*files, *there]
    last = json.dumps(scores, indent=1, allow_nan=False, ensure_ascii=False).encode()
    for name, data in {**files, SCORES: last}.items():
        put(filesystem, f"{path}/{name}", data)
    return Report(folder, [f"{folder.rstrip('/')}/{name}" for name in (SCORES, *files, *there)], scores)


def _old(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The files that an earlier scores.json names, in its own folder only."""
    try:
        names = json.loads(get(filesystem, path))["files"]
        return [str(name) for name in names if "/" not in str(name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
