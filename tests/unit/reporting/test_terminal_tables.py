"""The leaderboard and the live table on terminals: one line a trial, never longer than the terminal is wide."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from raymix.reporting import text_tables
from raymix.search.callbacks import MAX_SHOWN_TRIALS, ProgressReporter
from raymix.tracking.event_log import EventLog
from raymix.tracking.study import EpochRecord, StudyState, TrialRecord

ROOT = Path(__file__).resolve().parents[3]
METRIC = "val/sounding_accuracy"
SEARCHED = {
    "optimizer.learning_rate": lambda n: 10 ** (-5 + n % 7 / 2),
    "optimizer.weight_decay": lambda n: 10 ** (-6 + n % 5 / 3),
    "method.temperature": lambda n: 0.03 + 0.0123 * (n % 9),
    "method.embedding_size": lambda n: 64 << n % 4,
    "method.pool_sharpness": lambda n: 1.5 + n / 7,
    "mixture.k": lambda n: 2 + n % 3,
    "encoder.width": lambda n: [0.5, 1.0][n % 2],
    "encoder.name": lambda n: ["resnet18", "resnet50_with_a_long_name"][n % 2],
    "training.batch_size": lambda n: 48 << n % 3,
    "training.gradient_clip": lambda n: 0.1 + 0.3333 * n,
}
LONG = "the loss became NaN in step 12 of epoch 3, which happens with large learning rates and low precision; " * 3
NUMBERS = (0, 1, 7, 12, 999, 1000, 4321)


def write(root: Path, name: str = "mine") -> None:
    """A study of 10 searched settings with completed, pruned, failed and running trials, a NaN, 4-digit numbers."""
    ledger = EventLog(str(root / "studies" / name))
    ledger.append(
        "study",
        {"name": name, "objective": METRIC, "mode": "max", "planned": 5000, "space_hash": "x", "seed": 0, "config": {}},
    )
    for place, number in enumerate(NUMBERS):
        ledger.append("trial_started", {"trial": number, "params": {k: f(number) for k, f in SEARCHED.items()}})
        for epoch in range(1, 4 + place):
            score = None if number == 7 else 0.123456 + place / 100
            metrics = {METRIC: score, f"{METRIC}_shuffled": 0.0987654}
            path = f"checkpoints/trial-{number:04d}/epoch-{epoch:04d}"
            ledger.append("epoch_scored", {"trial": number, "epoch": epoch, "metrics": metrics, "checkpoint": path})
        state = ["completed", "pruned", "failed", "completed", "failed", "pruned", ""][place]
        if state:
            ledger.append("trial_ended", {"trial": number, "state": state, "reason": LONG if state == "failed" else ""})


def on_terminal(width: int, *arguments: str) -> list[str]:
    """The lines that `python -m raymix.leaderboard` writes to a real terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "raymix.leaderboard", *arguments], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    text = b""
    try:
        while more := os.read(ours, 1 << 16):
            text += more
    except OSError:  # the other end was closed
        pass
    os.close(ours)
    assert process.wait(60) == 0, text
    return text.decode().replace("\r\n", "\n").splitlines()


def trials_in(lines: list[str]) -> list[str]:
    """The trial numbers of the lines of the table."""
    start = next(i for i, line in enumerate(lines) if line.split()[:3] == ["#", "trial", "state"])
    end = start + 1 + len(NUMBERS)
    found = [line.split() for line in lines[start + 1 : end]]
    return [words[1] if words[0].isdigit() and words[1].isdigit() else words[0] for words in found]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_one_line_a_trial_as_wide_as_the_terminal(width: int, tmp_path: Path) -> None:
    write(tmp_path)
    lines = on_terminal(width, "mine", "--root", str(tmp_path))
    assert max(map(len, lines)) <= width
    assert sorted(trials_in(lines), key=int) == [str(number) for number in NUMBERS]
    text = "\n".join(lines)
    assert "lr = optimizer.learning_rate" in " ".join(text.split()) or "optimizer.learning_rate" in text
    failed = [line for line in lines if line.startswith("failed:")]
    assert (
        len(failed) == 1 and failed[0].startswith("failed: trials 7, 999: the loss became NaN") and failed[0][-1] == "…"
    )
    every = " ".join(text.split())
    for name in SEARCHED:  # a column of its own, in the legend, or named as left out
        assert name in every or f" {name.rsplit('.', 1)[-1]} " in every, name
    assert ("not shown:" in text) == (width < 100)


def test_a_wide_terminal_shows_names_and_all_columns(tmp_path: Path) -> None:
    write(tmp_path)
    lines = on_terminal(200, "mine", "--root", str(tmp_path))
    header = next(line for line in lines if line.startswith(" # ") or line.split()[:2] == ["#", "trial"])
    assert header.split()[6:] == [name.rsplit(".", 1)[-1] for name in SEARCHED]
    assert "not shown" not in "\n".join(lines)


def test_wide_is_what_a_pipe_gets(tmp_path: Path) -> None:
    write(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "raymix.leaderboard", "mine", "--root", str(tmp_path)]
    piped = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert on_terminal(80, "mine", "--root", str(tmp_path), "--wide") == piped.splitlines()
    assert "checkpoints/trial-0012/epoch-0001" in piped and LONG.strip()[:200] in piped
    assert piped.splitlines()[1].split()[:6] == ["rank", "trial", "state", "score", "shuffled", "epochs"]


def test_the_list_of_studies_fits(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "a-study-with-a-name-that-is-far-too-long-for-a-terminal-of-eighty-columns-by-itself")
    lines = on_terminal(80, "--root", str(tmp_path))
    assert max(map(len, lines)) <= 80 and any(line.startswith("mine ") for line in lines)
    assert sum(METRIC in line for line in lines) == 2


def rows() -> dict[int, TrialRecord]:
    found = {}
    for place, number in enumerate([*NUMBERS, *range(2000, 2010)]):
        params = {name: value(number) for name, value in SEARCHED.items()}
        row = TrialRecord(number, METRIC, "max", params=params)
        for epoch in range(1, 3 + place):
            row.epochs[epoch] = EpochRecord(
                {METRIC: None if place == 3 else 0.3, f"{METRIC}_shuffled": 0.1}, {}, None, 1.0, 0.0
            )
        row.state = ["completed", "pruned", "failed", "running"][place % 4]
        row.reason = LONG if row.state == "failed" else ""
        found[number] = row
    return found


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_live_table_fits_and_names_study_objective_and_time(width: int) -> None:
    study = StudyState(
        name="a-name-of-a-study-that-is-not-short", objective=METRIC, planned=5000, trials=rows(), exists=True
    )
    watch = ProgressReporter(study, epochs=100, live=False)
    watch.console.width = width
    watch.began -= 754
    lines = watch._table().plain.splitlines()
    assert max(map(len, lines)) <= width
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["trial", "state"])
    shown = [line.split()[0] for line in lines[start + 1 : start + 1 + MAX_SHOWN_TRIALS]]
    assert len(set(shown)) == MAX_SHOWN_TRIALS and all(number.isdigit() for number in shown)
    title = " ".join(lines[:start])
    assert study.name in title and METRIC in title and "13 min so far" in title


def test_json_is_not_shortened(tmp_path: Path) -> None:
    write(tmp_path)
    trials = json.loads("\n".join(on_terminal(80, "mine", "--json", "--root", str(tmp_path))))[0]["trials"]
    failed = next(line for line in trials if line["trial"] == 7)
    assert failed["reason"] == LONG and set(failed["params"]) == set(SEARCHED)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (3, "3"),
        (True, "True"),
        (0.25, "0.25"),
        (0.0712345, "0.0712"),
        (0.000123456, "1.23e-4"),
        (1e-5, "1e-5"),
        (123456.0, "1.23e5"),
        (math.nan, "nan"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        ("a, b", "a, b"),
        ("x" * 40, "x" * 15 + "…"),
        (1e10, "1e10"),
        (2.0, "2"),
        (0.00123, "1.23e-3"),
    ],
)
def test_numbers_in_few_characters(value: object, text: str) -> None:
    shown = text_tables.format_number(value)
    if text == "1.23e-3":
        assert shown in ("0.00123", "1.23e-3")
    else:
        assert shown == text


def test_short_names_are_told_apart() -> None:
    names = ["rank", "optimizer.width", "encoder.width", "method.k", "mixture.audio.k", "deep"]
    assert text_tables.shorten_names(names, 1) == [
        "rank",
        "optimizer.width",
        "encoder.width",
        "method.k",
        "audio.k",
        "deep",
    ]


def test_abbreviations_differ() -> None:
    names = ["#", *(f"group.very_long_name_{letter}" for letter in "abcdefghij"), "group.vlna"]
    fitted = text_tables.fit_table(names, [["1", *["0.5"] * 11]], 60, 1)
    header = fitted.lines[0].split()
    assert len(set(header)) == len(header) and max(map(len, fitted.lines)) <= 60
