"""Storage: a path or URI to a filesystem with retries, and atomic reads and writes on it.

Endpoint, region and credentials of an object store come from where its own tools take them (environment, profile,
instance role), or from the query of the URI (`s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from raymix.config import ConfigError

# The n-th repetition waits 25 ms x 2^n: a store that is down for a minute is waited for, after 102 s it is an error.
# Measured with pyarrow 26: refused and broken connections, 500 and 503 are all repeated. Its other strategy has a quota
# of repetitions that a few dozen threads use up in an outage.
ATTEMPTS = 12

GCS_SECONDS = 120

T = TypeVar("T")

_OBJECTS = re.compile(
    r"(?P<root>(?P<scheme>s3|gs|gcs)://(?:[^/?@]*@)?(?P<bucket>[^/?]+))(?P<path>/[^?]*)?(?P<rest>\?.*)?$"
)

_QUERY = re.compile(r"\?(?P<query>(?:://|[^/])*)(?P<path>/.*)?$")  # a path may be joined to a URI that has a query


def resolve_uri(uri: str, attempts: int = ATTEMPTS) -> tuple[fs.FileSystem, str]:
    """The filesystem and the path on it of a URI; a plain path is local and made absolute.

    The filesystem repeats requests that fail by no fault of theirs, and travels to other processes. Raises ValueError on
    a place that pyarrow does not know.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        if objects := _OBJECTS.match(uri):
            rest = _QUERY.match(objects["rest"] or "?")
            query, more = (rest["query"], rest["path"]) if rest else ("", "")
            path = f"{objects['bucket']}{objects['path'] or ''}{more or ''}"
            return _bucket(objects["root"], query, attempts, _surroundings()), path.rstrip("/")
        if uri.startswith(("s3://", "gs://", "gcs://")):
            raise ValueError(f"{uri}: names no bucket")
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ValueError(f"{uri}: not a place that can be reached ({str(error).splitlines()[0]})") from None
    return filesystem, path.rstrip("/")


def read_bytes(filesystem: fs.FileSystem, path: str) -> bytes:
    """The whole content of a file; FileNotFoundError where there is none."""

    def content() -> bytes:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    return with_retries(content)


def list_files(filesystem: fs.FileSystem, path: str) -> dict[str, int]:
    """Path from a folder on and size in bytes of every file below it; ValueError where a name is none that can be stored."""
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            files = _on_disk(path, frozenset())
            return {file[len(path) :].lstrip("/"): size for file, size in files if size is not None}
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        return {info.path[len(path) :].lstrip("/"): info.size for info in infos if info.type == fs.FileType.File}
    except UnicodeDecodeError as error:
        folder, _, name = error.object.decode(errors="backslashreplace").rpartition("/")
        raise ValueError(f"{folder}: the name '{name}' in it is not UTF-8; rename it, or move it elsewhere") from error


def list_broken_links(filesystem: fs.FileSystem, path: str) -> list[str]:
    """Paths from a folder on of the links below it that lead to no file or folder; object stores have none."""
    if not isinstance(filesystem, fs.LocalFileSystem):
        return []
    return [file[len(path) :].lstrip("/") for file, size in _on_disk(path, frozenset()) if size is None]


def _on_disk(folder: str, above: frozenset[str]) -> Iterator[tuple[str, int | None]]:
    """Path and size of every file below, None for the size of a link to nothing.

    Links are followed, but not back into a folder that one is in.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            os.fsencode(entry.path).decode()  # UnicodeDecodeError where nothing could store it
            try:
                if entry.is_dir():
                    yield from _on_disk(entry.path, above | {real})
                elif entry.is_file():
                    yield entry.path, entry.stat().st_size
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    yield entry.path, None
            except OSError as error:  # it went away meanwhile, or is a link to itself
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                if entry.is_symlink():
                    yield entry.path, None


def split_uri(uri: str) -> tuple[str, str]:
    """The folder and the name of a file; where a URI has a query, it stays with the folder."""
    objects = _OBJECTS.match(uri)
    rest = _QUERY.match(objects["rest"] or "") if objects else None
    query = rest[0] if rest and not rest["path"] else ""  # else a path was joined to it, and ends the URI
    folder, _, name = uri.removesuffix(query).rpartition("/")
    return folder + query, name


def with_retries(read: Callable[[], T]) -> T:
    """What `read` gives, repeated where pyarrow does not do it by itself.

    The answer of a failing S3 server may be longer than what was asked for (a small object, a few bytes of a large one):
    pyarrow 26 does not know it, calls that an internal failure and gives up. And what is deleted between its two
    requests of one reading is no FileNotFoundError to it.
    """
    for attempt in range(ATTEMPTS):
        try:
            return read()
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            if "NO_SUCH_KEY" in str(error) or "RESOURCE_NOT_FOUND" in str(error):
                raise FileNotFoundError(str(error)) from None
            if "INTERNAL_FAILURE during GetObject" not in str(error) or attempt == ATTEMPTS - 1:
                raise
        time.sleep(0.025 * 2**attempt)
    raise AssertionError


def unreachable_storage_message(error: OSError) -> str:
    """The message of an object-store error as one line; '' for any other error."""
    message = " ".join(str(error).split())
    return message if "AWS Error" in message or "google::cloud" in message else ""


def disk_full_message(error: OSError) -> str:
    """A one-line message for a full disk, quota or file-size limit; '' for any other error."""
    message = " ".join(str(error).split())
    return f"no room left to write: {message}" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""


class RetryingReader:
    """A file that can be read and sought in, for who takes Python's files; patient."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._file = filesystem.open_input_file(path)

    def __enter__(self) -> RetryingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int = -1) -> bytes:
        at = self._file.tell()

        def part() -> bytes:
            self._file.seek(at)
            return bytes(self._file.read(None if count < 0 else count))

        return with_retries(part)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


def write_atomic(filesystem: fs.FileSystem, path: str, data: bytes | pa.Buffer, durable: bool = True) -> None:
    """Puts a file in its place, whole or not at all, whatever interrupts; replaces what was there.

    Not `durable`: a loss of power may take it away again, which saves the wait for the disk.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        with _beside(path, durable) as part, open(part, "wb") as file:
            file.write(data)
    elif threading.current_thread() is threading.main_thread():
        # pyarrow completes an upload when a stream is left, even by an exception; a signal's comes in the main thread only
        with ThreadPoolExecutor(1) as aside:
            aside.submit(_upload, filesystem, path, data).result()
    else:
        _upload(filesystem, path, data)


def assert_writable(uri: str) -> None:
    """Check that files can be written to the folder `uri`, which need not exist, and leave it as it was.

    A small file is written and deleted, with the folders that were made for it.

    Raises:
        ConfigError: The folder cannot be written.
    """
    made: list[str] = []
    try:
        filesystem, path = resolve_uri(uri)
        if isinstance(filesystem, fs.LocalFileSystem):
            made = [p for p in (path, *map(str, PurePath(path).parents)) if not os.path.lexists(p)]
        probe = f"{path}/.write-test-{uuid.uuid4().hex[:8]}"
        write_atomic(filesystem, probe, b"raymix")
        filesystem.delete_file(probe)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{uri}: cannot be written ({' '.join(str(error).split())})") from None
    finally:
        with contextlib.suppress(OSError):  # not empty: another process uses it
            for folder in made:
                os.rmdir(folder)


@contextlib.contextmanager
def atomic_output_file(filesystem: fs.FileSystem, path: str) -> Iterator[str]:
    """A file on this machine to be filled: it takes its place at `path` if the block ends well, and is gone otherwise."""
    if isinstance(filesystem, fs.LocalFileSystem):
        with _beside(path) as part:
            yield part
    else:
        with tempfile.TemporaryDirectory(prefix="raymix-") as aside:
            part = os.path.join(aside, path.rpartition("/")[2])
            yield part
            with pa.memory_map(part) as mapped:
                write_atomic(filesystem, path, mapped.read_buffer())


@contextlib.contextmanager
def _beside(path: str, durable: bool = True) -> Iterator[str]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        yield part
        if durable:
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
        raise


def _upload(filesystem: fs.FileSystem, path: str, data: bytes | pa.Buffer, again: bool = True) -> None:
    try:
        stream = filesystem.open_output_stream(path)
        stream.write(data)
        stream.close()
    except OSError as error:
        if not again:
            raise
        if isinstance(error, FileNotFoundError):  # a filesystem that needs folders
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        elif "NO_SUCH_UPLOAD" not in str(error):  # else it was completed, and the answer lost on its way
            raise
        _upload(filesystem, path, data, again=False)


def _surroundings() -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(("AWS_", "GOOGLE_"))))


@functools.lru_cache(32)  # making one asks for credentials and regions
def _bucket(root: str, query: str, attempts: int, surroundings: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    if not root.startswith("s3:"):
        patient = query if "retry_limit_seconds" in query else f"{query}&retry_limit_seconds={GCS_SECONDS}".lstrip("&")
        return fs.FileSystem.from_uri(f"{root}?{patient}")[0]
    # S3FileSystem() itself ignores AWS_ENDPOINT_URL and asks for no bucket's region; `from_uri` does both
    found, _ = fs.FileSystem.from_uri(f"{root}?{query}" if query else root)
    return RetryingS3FileSystem(
        {**found.__reduce__()[1][0], "region": found.region, "allow_delayed_open": True}, attempts
    )


class RetryingS3FileSystem(fs.S3FileSystem):
    """pyarrow's S3 that stays patient when it is pickled; small objects go in one request."""

    def __init__(self, options: dict[str, Any], attempts: int) -> None:
        super().__init__(**options, retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=attempts))
        self._given = (options, attempts)

    def __reduce__(self) -> tuple[Any, ...]:
        return RetryingS3FileSystem, self._given
