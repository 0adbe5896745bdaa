"""What `ray job submit --working-dir .` would send: known before it is sent, and named where it is too much.

Ray's job server takes 100 MiB at most. Its own walk decides what counts, so `.gitignore` and `.rayignore` mean here what
they mean there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from raymix.config import BadInput

LARGE, TOO_LARGE = 10 * 10**6, 100 << 20  # bytes: worth a warning; refused by the server
SHOWN = 5  # of the largest files


@dataclass(frozen=True)
class Upload:
    """The files of a working directory that would be sent, by path, with their sizes in bytes."""

    files: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(self.files.values())

    @property
    def largest(self) -> str:
        order = sorted(self.files, key=lambda name: -self.files[name])[:SHOWN]
        return ", ".join(f"{name} ({self.files[name] / 1e6:.1f} MB)" for name in order)


def of(directory: str | Path) -> Upload:
    """What a job's working directory consists of, after the ignore files in it."""
    from ray._private.runtime_env.packaging import _dir_travel  # ray 2.60; tests/test_upload.py notices a change

    root, files = Path(directory).absolute(), dict[str, int]()

    def take(path: Path) -> None:
        if path.is_file():
            files[path.relative_to(root).as_posix()] = path.stat().st_size

    _dir_travel(root, [], take, include_gitignore=True, logger=logging.getLogger(__name__))
    return Upload(files)


def said(upload: Upload) -> str:
    """One line about it; BadInput, with the largest files, where the job server would refuse it."""
    count = len(upload.files)
    size = f"{upload.nbytes / 1e6:.1f} MB in {count} file{'s' if count != 1 else ''}"
    if upload.nbytes > TOO_LARGE:
        raise BadInput(
            f"the working directory has {size}, ray job submit --working-dir takes 104.9 MB (100 MiB); list in .rayignore "
            f"what a job does not need; the largest: {upload.largest}"
        )
    warned = f", much for a job; .rayignore can leave out, for instance, {upload.largest}"
    return f"ray job submit --working-dir . sends {size}" + (warned if upload.nbytes > LARGE else "")
