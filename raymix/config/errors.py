"""Errors that a user can mend, and exit codes of the commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class ConfigError(ValueError):
    """What a person gave cannot be used; the message is one line: what, where, the rule, the nearest valid name."""


class UnavailableServiceError(RuntimeError):
    """Something that the work needs cannot be started or reached; the message is one line with the remedy (exit code 1)."""


EXIT_DONE, EXIT_UNEXPECTED_ERROR, EXIT_BAD_INPUT, EXIT_NOTHING_USABLE = 0, 1, 2, 3


class NoUsableResult(Exception):
    """The work ended without anything usable (exit code 3)."""


@contextlib.contextmanager
def value_error_as_config_error() -> Iterator[None]:
    """Inside, a ValueError is the person's to mend: it becomes ConfigError (exit code 2, one line)."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise ConfigError(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
