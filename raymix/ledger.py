"""The single truth about a study: append-only records, on local disk or object storage, readable without Ray or torch.

Layout: `<study>/ledger/`. On a local disk one JSON-lines file: each line is written whole, under a lock, and fsynced.
On an object store one small object per record, whose names sort in order. Optuna's study and ASHA's rungs are rebuilt
from here (`raymix.suggest`), never the other way round; `raymix.study` says what the records mean.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyarrow import fs

from raymix.storage import get, put, resolve
from raymix.study import ENDS, KINDS, Study, fold

FILE = "records.jsonl"


class Ledger:
    """The records of the study in folder `uri`: a path or any pyarrow.fs URI (or a path on `filesystem`)."""

    def __init__(self, uri: str, filesystem: fs.FileSystem | None = None) -> None:
        self._fs, path = resolve(uri) if filesystem is None else (filesystem, uri.rstrip("/"))
        self.folder = f"{path}/ledger"
        self._local = isinstance(self._fs, fs.LocalFileSystem)
        self._writer, self._stamp = uuid.uuid4().hex[:8], 0
        self._records: dict[str, dict[str, Any]] = {}  # by id; grows as `records` reads on
        self._offset, self._seen, self._unreadable = 0, set[str](), 0

    def append(self, kind: str, record: dict[str, Any]) -> dict[str, Any]:
        """Writes one record for good and gives it back as `records` would, once it is stored.

        Numbers that are not finite become null.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind}: not a kind of record; one of {', '.join(KINDS)}")
        if lacking := [name for name in KINDS[kind] if name not in record]:
            raise ValueError(f"{kind}: a record needs {', '.join(lacking)}")
        if kind == "trial_ended" and record["state"] not in ENDS:
            raise ValueError(f"trial_ended: state {record['state']!r} must be one of {', '.join(ENDS)}")
        whole = {"kind": kind, "id": uuid.uuid4().hex[:16], "at": time.time(), **record}
        line = json.dumps(_finite(whole), allow_nan=False, separators=(",", ":"), default=_plain).encode()
        if self._local:
            _append_line(self.folder, line)
            return json.loads(line)
        self._stamp = max(time.time_ns(), self._stamp + 1)  # strictly growing, so names keep this writer's order
        put(self._fs, f"{self.folder}/{self._stamp:020d}-{self._writer}.json", line)
        return json.loads(line)

    def records(self) -> list[dict[str, Any]]:
        """All records in order; a second call reads only what was added."""
        if self._local:
            self._read_file()
        else:
            self._read_objects()
        return list(self._records.values())

    def read(self) -> Study:
        """The study as of now."""
        study = fold(self.records())
        study.unreadable = self._unreadable
        return study

    def compact(self) -> None:
        """On an object store: many small objects into one. Safe at any instant: a record read twice counts once."""
        if self._local:
            return
        self._read_objects()
        if len(self._seen) < 2:
            return
        merged = f"{max(self._seen).rsplit('/', 1)[-1][:20]}-{self._writer}-all.json"  # sorts before what comes next
        lines = [json.dumps(record, separators=(",", ":")).encode() for record in self._records.values()]
        put(self._fs, f"{self.folder}/{merged}", b"\n".join(lines))
        for path in self._seen - {f"{self.folder}/{merged}"}:
            self._fs.delete_file(path)
        self._seen = {f"{self.folder}/{merged}"}

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            try:
                record = json.loads(line)
                if all(name in record for name in KINDS[record["kind"]]):
                    self._records.setdefault(record["id"], record)
            except (ValueError, TypeError, KeyError):
                self._unreadable += bool(line.strip())

    def _read_file(self) -> None:
        try:
            with open(f"{self.folder}/{FILE}", "rb") as stream:
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            return
        whole = new.rfind(b"\n") + 1  # what follows was torn, or is being written
        self._offset += whole
        self._take(new[:whole].split(b"\n"))

    def _read_objects(self) -> None:
        for _ in range(3):  # `compact` of another process may take an object away between the listing and the reading
            listing = self._fs.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
            names = sorted(info.path for info in listing if info.is_file and info.path not in self._seen)
            with ThreadPoolExecutor(16) as pool:
                contents = list(pool.map(self._content, names))
            for name, content in zip(names, contents, strict=True):
                if content is not None:
                    self._take(content.split(b"\n"))
                    self._seen.add(name)
            if None not in contents:
                return

    def _content(self, path: str) -> bytes | None:
        try:
            return get(self._fs, path)
        except FileNotFoundError:
            return None


def _append_line(folder: str, line: bytes) -> None:
    """One whole line at the end of the file; a torn line left by a killed writer is closed first."""
    os.makedirs(folder, exist_ok=True)
    handle = os.open(f"{folder}/{FILE}", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # goes with the process, so a killed writer locks nobody out
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        if os.write(handle, data) != len(data):
            raise OSError(f"{folder}/{FILE}: the disk took only part of a record")
        os.fsync(handle)
    finally:
        os.close(handle)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    """Numpy scalars and one-element tensors as Python numbers."""
    return _finite(value.item()) if hasattr(value, "item") else str(value)
