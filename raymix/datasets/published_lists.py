"""The lists that an importer reads (ids, boxes, splits), remembered: a dataset knows which ones, and what was in them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from pyarrow import fs

from raymix import storage

_read: ContextVar[dict[str, str] | None] = ContextVar("read", default=None)


def get(filesystem: fs.FileSystem, path: str) -> bytes:
    """The content of a list, as `storage.get`; it counts as read for who remembers."""
    content = storage.get(filesystem, path)
    known = _read.get()
    if known is not None:
        known[path] = _digest(content)
    return content


def text(uri: str) -> str:
    """The content of a list as text; ValueError in one line where it cannot be read as that."""
    filesystem, path = storage.resolve(uri)
    try:
        return get(filesystem, path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{uri}: cannot be read ({str(error).splitlines()[0]})") from error


@contextlib.contextmanager
def remembered() -> Iterator[dict[str, str]]:
    """Path and hash of each list that is read inside."""
    known: dict[str, str] = {}
    token = _read.set(known)
    try:
        yield known
    finally:
        _read.reset(token)


def changed(filesystem: fs.FileSystem, known: Mapping[str, str]) -> list[str]:
    """Which of these lists hold something else now; one that is not there any more does not count."""
    found = []
    for path, digest in known.items():
        if filesystem.get_file_info(path).is_file and _digest(storage.get(filesystem, path)) != digest:
            found.append(path)
    return found


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
