"""Classification of errors: those of a trial end it, transient ones of the system are retried."""

from __future__ import annotations

from ray.exceptions import RayError, RayTaskError


def is_transient_error(error: BaseException | None) -> bool:
    """Whether another attempt may succeed: a process or node was lost, or the storage did not answer.

    An exception that remote code raised (RayTaskError) counts as what it was there.
    """
    if isinstance(error, RayTaskError):
        return is_transient_error(error.cause)
    return isinstance(error, RayError | OSError)


def error_summary(error: BaseException) -> str:
    """The type of an error and the first line of its message; of one from remote code, as it was raised there."""
    own = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    lines = str(own).strip().splitlines()
    return f"{type(own).__name__}: {lines[0]}" if lines else type(own).__name__
