"""Errors that a user can correct, the sentences that describe them, and exit codes of the commands."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SIMILAR = 0.75  # smallest ratio of two names of which one is taken for the other, mistyped


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


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """` (did you mean X?)` for a typing mistake; else ` (one of: ...)` where `names` are few; else ''."""
    plain = {simplified_name(each): each for each in reversed(names)}
    wanted = simplified_name(name)
    close = difflib.get_close_matches(wanted, list(plain), n=1, cutoff=SIMILAR)
    swapped = [each for each in plain if len(each) > 2 and sorted(each) == sorted(wanted)]  # of the same letters
    begun = [each for each in plain if min(len(wanted), len(each)) >= 3 and each[: len(wanted)] == wanted[: len(each)]]
    if close or swapped or len(begun) == 1:
        return f" (did you mean {plain[(close or swapped or begun)[0]]}?)"
    return f" (one of: {', '.join(sorted(names))})" if 0 < len(names) <= 12 else ""


def simplified_name(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def range_violation(name: str, value: Any, rule: Mapping[str, Any]) -> str | None:
    """The sentence that refuses `value`, or None."""
    if rule.get("choices") and value not in rule["choices"]:
        choices = list(rule["choices"])
        near = did_you_mean(str(value), choices)
        return f"{name}={value}: must be one of {', '.join(choices)}{near if 'did you' in near else ''}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name}={value!r}: must be a number" if {"low", "above"} & set(rule) else None
    low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
    if value != value:
        return f"{name}={value}: must be a number"
    if rule.get("whole") and not isinstance(value, int):
        return f"{name}={value}: must be a whole number"
    if above is not None and not value > above:
        return f"{name}={value}: must be greater than {above:g}"
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
        return f"{name}={value}: must be {span}"
    return None
