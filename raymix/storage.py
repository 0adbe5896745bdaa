"""Where things are stored: one function from a path or URI to a pyarrow filesystem and the path on it."""

from __future__ import annotations

import os

import pyarrow as pa
from pyarrow import fs


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem and the path on it of a URI; a plain path is local and made absolute.

    Raises ValueError on a place that pyarrow does not know.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ValueError(f"{uri}: not a place that can be reached ({str(error).splitlines()[0]})") from None
    return filesystem, path.rstrip("/")
