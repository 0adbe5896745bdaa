"""The three compiled libraries that must fit each other: torch, torchvision and torchaudio.

A version of one that was built for another version of torch fails while it is imported, with an error of the dynamic linker
or of torch's operator registry. Here such an error becomes one line that names the versions and the remedy.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import traceback
from collections.abc import Iterator

TRIO = ("torch", "torchvision", "torchaudio")

REMEDY = "pip install -c constraints.txt ."


class BrokenInstallError(ImportError):
    """A compiled library cannot be imported; the message is one line with the versions and the remedy."""


@contextlib.contextmanager
def report_broken_import(library: str) -> Iterator[None]:
    """Inside, an error while `library` is imported becomes BrokenInstallError, in the driver as in every worker."""
    try:
        yield
    except BrokenInstallError:
        raise
    except Exception as error:
        raise BrokenInstallError(_sentence(library, error)) from error


def broken_library_message(error: BaseException) -> str:
    """One line where `error` was raised while one of the three libraries was imported; '' for any other error."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, BrokenInstallError):
            return str(link)
        if library := _imported(link):
            return _sentence(library, link)
        link = getattr(link, "cause", None) or link.__cause__  # `cause`: of Ray's errors
    return ""


def _imported(error: BaseException) -> str:
    """The library whose import raised this error; ''."""
    if isinstance(error, ModuleNotFoundError) and error.name in TRIO:
        return str(error.name)
    if isinstance(error, OSError | ImportError | RuntimeError | AttributeError):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            module = str(frame.f_globals.get("__name__"))
            if module in TRIO and frame.f_code.co_name == "<module>":  # not one of its modules, imported later
                return module
    return ""


def _sentence(library: str, error: BaseException) -> str:
    version = _version(library)
    if version is None:
        return f"{library} is not installed: {REMEDY}"
    others = [f"{name} {of}" for name in TRIO[:1] if name != library and (of := _version(name))]
    reason = " ".join(str(error).split()) or type(error).__name__
    if others:
        return f"{library} {version} does not load with {' and '.join(others)}: {REMEDY}"
    return f"{library} {version} does not load ({reason[:200]}): {REMEDY}"


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
