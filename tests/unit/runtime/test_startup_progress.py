"""The parts of a start are named, with a sign of life at least every EVERY seconds."""

from __future__ import annotations

import re
import time

import pytest

from raymix.runtime import startup_progress
from raymix.runtime.startup_progress import StartupPhase
from raymix.search.callbacks import WORKERS_PHASE, ProgressReporter
from raymix.tracking.study import EpochRecord, StudyState, TrialRecord


def test_a_log_gets_a_line_at_once_and_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_progress, "EVERY", 0.2)
    with StartupPhase("starting Ray", live=False) as running:
        time.sleep(0.5)
        running.say("again")
    before = capsys.readouterr().out.splitlines()
    assert before == ["starting Ray ...", "starting Ray: 0 s", "starting Ray: 0 s", "again"]
    time.sleep(0.5)
    assert capsys.readouterr().out == ""  # it is over


def test_no_more_than_fifteen_seconds_without_a_line() -> None:
    assert startup_progress.EVERY <= 15


def test_a_terminal_gets_a_status_line_that_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any output for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with StartupPhase("starting Ray") as running:
        running.say("a line [not markup]")
        time.sleep(1.2)
    out = capsys.readouterr().out
    assert "a line [not markup]" in out and "starting Ray: 1 s" in out
    assert "\x1b[2K" in out.rsplit("starting Ray", 1)[1]  # its line is erased at the end


def row() -> TrialRecord:
    return TrialRecord(0, "x", "max", epochs={1: EpochRecord({"x": 0.5}, {}, None, 1.0, 0.0)})


def test_the_phases_of_a_search_follow_each_other_until_the_first_epoch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_progress, "EVERY", 0.1)
    watch = ProgressReporter(StudyState(planned=2, objective="x"), epochs=5, live=False)
    watch.phase("reading clips")
    watch.phase(WORKERS_PHASE)
    watch.started(0, {})
    time.sleep(0.15)
    watch.started(1, {})  # the first epoch is still to come
    watch.scored(row())
    lines = capsys.readouterr().out.splitlines()
    named = [line for line in lines if not line.startswith("trial")]
    assert named[:3] == ["reading clips ...", "starting workers ...", "first epoch ..."]
    assert set(named[3:]) == {"first epoch: 0 s"}
    time.sleep(0.25)
    assert capsys.readouterr().out == ""


def test_the_live_table_shows_the_phase() -> None:
    watch = ProgressReporter(StudyState(name="mine", planned=2, objective="x"), epochs=5, live=False)
    watch.phase("starting the evaluator")
    assert re.search(r"^starting the evaluator: 0 s$", watch._table().plain, re.MULTILINE)
    watch.scored(row())
    assert "evaluator" not in watch._table().plain
