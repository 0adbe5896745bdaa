"""Expressions over dotted names: what they mean, and what they refuse."""

from __future__ import annotations

import pickle

import pytest

from raymix.runtime.expressions import SettingExpression

VALUES = {
    "mixture.k": 3,
    "method.temperature": 0.07,
    "method.pool": "lse",
    "flip": True,
    "score": None,
    "training.batch_size": 96,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mixture.k == 3 and method.temperature < 0.1", True),
        ("mixture.k==2 and method.temperature<0.1", False),
        ("method.pool == 'lse'", True),
        ("method.pool in ['max', 'mean']", False),
        ("method.pool not in ('max',)", True),
        ("1 < mixture.k <= 3", True),
        ("1 < mixture.k < 3", False),
        ("training.batch_size % mixture.k == 0", True),
        ("training.batch_size // 10 * 2 - 1 + mixture.k / 3", 18.0),
        ("-mixture.k + +1", -2),
        ("not flip or mixture.k > 2", True),
        ("score > 0.5", False),
        ("score < 0.5", False),
        ("not score > 0.5", True),
        ("score == None", True),
        ("score * 2 == None", True),
        ("flip == True", True),
    ],
)
def test_means_what_python_means(text: str, expected: object) -> None:
    assert SettingExpression(text)(VALUES) == expected


def test_names_are_dotted() -> None:
    assert SettingExpression("a.b.c * d + 1 > e.f").names == {"a.b.c", "d", "e.f"}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "a.b()",
        "a[0]",
        "lambda: 1",
        "2 ** 9999999",
        "(x := 1)",
        "[i for i in a]",
        "{1: 2}",
        "f'{a}'",
        "a if b else c",
        "1 + ",
        "a = 1",
        "",
        "   ",
        "b'x'",
        "1j",
        "a @ b",
        "a is b",
        "...",
        "x" * 2000,
        "(" * 500 + ")" * 500,
    ],
)
def test_refuses_everything_else_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as refusal:
        SettingExpression(text)
    assert "\n" not in str(refusal.value).replace(text, "")


@pytest.mark.parametrize("text", ["method.pool < 3", "1 / (mixture.k - 3) > 0", "method.pool * 3 == 0", "nobody == 1"])
def test_values_that_do_not_fit_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\""):
        SettingExpression(text)(VALUES)


def test_no_short_cut_around_unknown_parts() -> None:
    assert SettingExpression("True or nobody").names == {"nobody"}
    assert SettingExpression("True or nobody")({}) is True


def test_pickles() -> None:
    assert pickle.loads(pickle.dumps(SettingExpression("mixture.k > 2")))(VALUES) is True
