"""A pyarrow filesystem over a folder on disk that counts what is opened, read and written, and can end the process."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow import fs


class _CountedFile(io.FileIO):
    """A file whose reads are added to a counter."""

    def __init__(self, path: str, counted: Callable[[int], None]) -> None:
        super().__init__(path, "rb")
        self._counted = counted

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        self._counted(len(data or b""))
        return data or b""

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        self._counted(count)
        return count


class Handler(fs.FileSystemHandler):
    """Local files as an object store: no folders to make, whole writes, and counts.

    Args:
        before: called with (operation, path) before each operation on a file or folder.

    Attributes:
        opened: how often each path was opened for reading.
        bytes_read: bytes read from each path.
    """

    def __init__(self, before: Callable[[str, str], None] = lambda operation, path: None) -> None:
        self.before = before
        self.opened, self.bytes_read = Counter[str](), Counter[str]()
        self._local = fs.LocalFileSystem()

    def get_type_name(self) -> str:
        return "counting"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self._local.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self.before("list", selector.base_dir)
        return self._local.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._local.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.before("delete", path)
        self._local.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._local.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self.before("delete", path)
        self._local.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._local.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._local.copy_file(src, dest)

    def _open(self, path: str) -> pa.PythonFile:
        self.before("read", path)
        self.opened[path] += 1

        def counted(count: int) -> None:
            self.bytes_read[path] += count

        return pa.PythonFile(_CountedFile(path, counted), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return self._open(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        return self._open(path)

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        self.before("write", path)
        self._local.create_dir(path.rpartition("/")[0], recursive=True)
        return pa.PythonFile(_WholeFile(path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        raise NotImplementedError


class _WholeFile(io.BytesIO):
    """What is written takes its place when the file is closed, as an object does."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            with open(self._path, "wb") as file:
                file.write(self.getvalue())
        super().close()
