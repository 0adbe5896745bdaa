"""The event log of a study: append-only records on local disk or object storage, readable without Ray and torch.

Layout: `<study>/ledger/`. On a local disk one JSON-lines file: each line is written whole, under a lock, and fsynced.
On an object store one small object per record, `<time>-<writer>.json`, and compacted objects of many records,
`<time>-<id>-all.json`. Optuna's study and ASHA's rungs are rebuilt from here (`raymix.search.optuna_searcher`), never the other way round;
`raymix.tracking.study` interprets the records.

Compaction never loses a record, even if others read, write or compact, and wherever it is killed: an object is deleted only
after another one with all of its lines is stored, and a record that is in two objects counts once, by its id. A reader that
finds an object deleted lists again. Names are compared too: a compacted object sorts after all that it replaces, so a listing
that comes in pages cannot miss both.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyarrow import fs

from raymix.config.migration import current_names, has_old_names
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic
from raymix.tracking.study import END_STATES, EVENT_FIELDS, StudyState, replay_events

EVENT_LOG_FILE = "records.jsonl"

COMPACTED_SUFFIX = "-all.json"

EVENT_OBJECT_NAME = re.compile(r"/\d{20}-[^/]+\.json$")  # of an object; other files in the folder are not touched

MIN_LOOSE_OBJECTS = 8  # objects of one record: an `append` that finds as many compacts them

GROWTH = (
    4  # a compacted object is rewritten once what came after it has a quarter of its bytes: few objects, few rewrites
)

RETRIES = 50  # of a reading, each time since objects were compacted meanwhile

_log = logging.getLogger(__name__)


class EventLog:
    """The records of the study in folder `uri`: a path or any pyarrow.fs URI (or a path on `filesystem`)."""

    def __init__(self, uri: str, filesystem: fs.FileSystem | None = None) -> None:
        self._fs, path = resolve_uri(uri) if filesystem is None else (filesystem, uri.rstrip("/"))
        self.folder = f"{path}/ledger"
        self._local = isinstance(self._fs, fs.LocalFileSystem)
        self._writer, self._stamp = uuid.uuid4().hex[:8], 0
        self._records: dict[str, dict[str, Any]] = {}  # by id; grows as `records` reads on
        self._offset, self._unreadable = 0, 0
        self._seen: set[str] = set()  # objects that were read
        self._appended, self._compacts = 0, True

    def append(self, kind: str, record: dict[str, Any]) -> dict[str, Any]:
        """Writes one record for good and gives it back as `records` would, once it is stored.

        Numbers that are not finite become null. On an object store every few records are compacted.
        """
        if kind not in EVENT_FIELDS:
            raise ValueError(f"{kind}: not a kind of record; one of {', '.join(EVENT_FIELDS)}")
        if lacking := [name for name in EVENT_FIELDS[kind] if name not in record]:
            raise ValueError(f"{kind}: a record needs {', '.join(lacking)}")
        if kind == "trial_ended" and record["state"] not in END_STATES:
            raise ValueError(f"trial_ended: state {record['state']!r} must be one of {', '.join(END_STATES)}")
        self._stamp = max(
            time.time_ns(), self._stamp + 1
        )  # strictly growing, so names and times keep this writer's order
        whole = {"kind": kind, "id": uuid.uuid4().hex[:16], "at": self._stamp / 1e9, **record}
        line = json.dumps(_finite(whole), allow_nan=False, separators=(",", ":"), default=_plain).encode()
        if self._local:
            _append_line(self.folder, line)
            return json.loads(line)
        write_atomic(self._fs, f"{self.folder}/{self._stamp:020d}-{self._writer}.json", line)
        if self._appended % MIN_LOOSE_OBJECTS == 0:  # the first one too: what earlier writers left
            self._compact(MIN_LOOSE_OBJECTS)
        self._appended += 1
        return json.loads(line)

    def records(self) -> list[dict[str, Any]]:
        """All records in order; a second call reads only what was added."""
        if self._local:
            self._read_file()
        else:
            self._read_objects()  # two that compact at once may put a later record into an earlier object
            self._records = dict(sorted(self._records.items(), key=lambda item: item[1].get("at", 0.0)))
        return list(self._records.values())

    def read(self) -> StudyState:
        """The study as of now."""
        study = replay_events(self.records())
        study.unreadable = self._unreadable
        return study

    def compact(self) -> None:
        """On an object store: all objects into one. Safe at any instant; an error is logged, since no record is lost by it."""
        self._compact(None)

    def _compact(self, loose: int | None) -> None:
        """Compact into one object (None), or the newest objects into one if there are so many of one record each."""
        if self._local or not self._compacts:
            return
        try:
            found = self._contents(_to_compact(self._sizes(), loose))
            found = {path: content for path, content in found.items() if _whole(content)}
            if len(found) > 1:
                stamp = int(max(path.rpartition("/")[2][:20] for path in found)) + 1
                lines = dict.fromkeys(line for path in sorted(found) for line in found[path].split(b"\n"))
                write_atomic(
                    self._fs, f"{self.folder}/{stamp:020d}-{uuid.uuid4().hex}{COMPACTED_SUFFIX}", b"\n".join(lines)
                )
                with ThreadPoolExecutor(16) as pool:
                    list(pool.map(self._delete, found))
        except OSError as error:
            self._compacts = False  # where nothing can be deleted the folder would only grow
            _log.warning("%s: cannot be compacted (%s)", self.folder, " ".join(str(error).split()))

    def _delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another one compacts too
            self._fs.delete_file(path)

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if (record := _record(line)) is not None:
                self._records.setdefault(record["id"], record)
            else:
                self._unreadable += bool(line.strip())

    def _read_file(self) -> None:
        try:
            with open(f"{self.folder}/{EVENT_LOG_FILE}", "rb") as stream:
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            return
        whole = new.rfind(b"\n") + 1  # what follows was torn, or is being written
        self._offset += whole
        self._take(new[:whole].split(b"\n"))

    def _read_objects(self) -> None:
        for _ in range(RETRIES):
            names = [path for path in self._sizes() if path not in self._seen]
            contents = self._contents(names)
            for name, content in contents.items():
                self._take(content.split(b"\n"))
                self._seen.add(name)
            if len(contents) == len(names):
                return
        raise OSError(f"{self.folder}: its objects change faster than they can be read")

    def _sizes(self) -> dict[str, int]:
        """The objects of the event log in the order of their names, and how many bytes each has."""
        listing = self._fs.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        return {info.path: info.size for info in sorted(listing, key=lambda info: info.path) if info.is_file}

    def _contents(self, paths: Sequence[str]) -> dict[str, bytes]:
        """What is in these objects; one that was deleted since, after it was compacted, is left out."""
        with ThreadPoolExecutor(16) as pool:
            found = zip(paths, pool.map(self._content, paths), strict=True)
            return {path: content for path, content in found if content is not None}

    def _content(self, path: str) -> bytes | None:
        try:
            return read_bytes(self._fs, path)
        except FileNotFoundError:
            return None


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line under today's names, None for a kind of record that this version does not have."""
    try:
        record: dict[str, Any] = json.loads(line)
        if not isinstance(record["id"], str) or not all(name in record for name in EVENT_FIELDS[record["kind"]]):
            return None
        return current_names(record) if has_old_names(line) else record
    except (ValueError, TypeError, KeyError):
        return None


def _whole(content: bytes) -> bool:
    """Whether an object holds records only; one that does not stays as it is, for a raymix that can read it."""
    return all(_record(line) is not None for line in content.split(b"\n"))


def _to_compact(sizes: Mapping[str, int], loose: int | None) -> list[str]:
    """The objects to put into one, given how many bytes each has; [] where it is not worth it.

    With `loose` those of one record, if there are so many, and the compacted ones that are not much larger than what is put
    together: of n records there are then about log(n) objects, and each was rewritten about log(n) times.
    """
    own = {path: size for path, size in sizes.items() if EVENT_OBJECT_NAME.search(path)}
    if loose is None:
        return list(own)
    chosen = [path for path in own if not path.endswith(COMPACTED_SUFFIX)]
    if len(chosen) < loose:
        return []
    total = sum(own[path] for path in chosen)
    for path in sorted(own.keys() - set(chosen), key=own.__getitem__):
        if own[path] > GROWTH * total:
            break
        chosen.append(path)
        total += own[path]
    return chosen


def _append_line(folder: str, line: bytes) -> None:
    """One whole line at the end of the file; a torn line left by a killed writer is closed first."""
    os.makedirs(folder, exist_ok=True)
    handle = os.open(f"{folder}/{EVENT_LOG_FILE}", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # goes with the process, so a killed writer leaves no lock behind
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        if os.write(handle, data) != len(data):
            raise OSError(f"{folder}/{EVENT_LOG_FILE}: the disk took only part of a record")
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
