"""The folder of an evaluation: its files, `scores.json` last, so that where it is, all is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from raymix.reporting.report import EvaluationReport
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic

SCORES_FILE, TABLE_FILE, PER_SCENE_FILE = "scores.json", "table.md", "per_scene.parquet"


@dataclass(frozen=True)
class ResultsFolder:
    """What was written: the folder, its files (whole paths), and the content of its scores.json."""

    folder: str
    files: list[str]
    scores: dict[str, Any]

    def print_files(self, echo: Callable[[str], Any]) -> None:
        """Prints a line for each file."""
        for file in self.files:
            echo(f"written: {file}")


def clear_results(folder: str, document: str = SCORES_FILE) -> None:
    """Deletes what an earlier evaluation left in this folder, its document first."""
    filesystem, path = resolve_uri(folder)
    for name in (document, *_files_of(filesystem, f"{path}/{document}")):
        if filesystem.get_file_info(f"{path}/{name}").type == fs.FileType.File:
            filesystem.delete_file(f"{path}/{name}")


def write_results(
    folder: str,
    report: EvaluationReport,
    files: Mapping[str, bytes],
    there: tuple[str, ...] = (),
    document: str = SCORES_FILE,
) -> ResultsFolder:
    """Writes files of one evaluation in place of those of an earlier one, and last the report as JSON.

    Args:
        report: its `files` are set to the names of all others.
        there: names of files that were written before, after `clear_results`.
        document: name of the JSON file.
    """
    filesystem, path = resolve_uri(folder)
    if not there:
        clear_results(folder, document)
    report.files = [*files, *there]
    plain = report.to_json()
    last = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False).encode()
    for name, data in {**files, document: last}.items():
        write_atomic(filesystem, f"{path}/{name}", data)
    return ResultsFolder(folder, [f"{folder.rstrip('/')}/{name}" for name in (document, *files, *there)], plain)


def _files_of(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The files that an earlier document names, in its own folder only."""
    try:
        names = json.loads(read_bytes(filesystem, path))["files"]
        return [str(name) for name in names if "/" not in str(name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
