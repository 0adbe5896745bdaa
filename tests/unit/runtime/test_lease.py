"""One driver per study: two never both hold, the dead are followed at once or in time, the cut off are told."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from raymix.config import ConfigError
from raymix.runtime import lease
from raymix.runtime.lease import LeaseRecord, StudyLockedError, study_lease
from raymix.runtime.storage import resolve_uri, write_atomic

BEAT, SILENT = 0.3, 4.0  # an object store tells times in whole seconds
HOLD = 0.25


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "studies/mine") if request.param == "local" else str(request.getfixturevalue("s3"))


@contextlib.contextmanager
def holding(uri: str, **more: Any) -> Iterator[None]:
    """Hold the study with short times; unless the test listens itself, being cut off fails it."""
    lost: list[str] = []
    with study_lease(
        uri, "mine", **{"lost": lost.append, "echo": lambda line: None, "beat": BEAT, "silent": SILENT, **more}
    ):
        yield
    assert not lost


def claims(uri: str) -> list[str]:
    filesystem, path = resolve_uri(f"{uri}/driver")
    return [info.base_name for info in filesystem.get_file_info(lease.fs.FileSelector(path, allow_not_found=True))]


def foreign(uri: str, **change: Any) -> LeaseRecord:
    """Leave a claim of another host."""
    claim = replace(LeaseRecord.own(), **{"host": "elsewhere", "machine": "elsewhere", "held": time.time(), **change})
    write(uri, claim)
    return claim


def write(uri: str, claim: LeaseRecord) -> None:
    filesystem, path = resolve_uri(f"{uri}/driver/{claim.id}.json")
    write_atomic(filesystem, path, json.dumps(asdict(claim)).encode())


def contend(uri: str, number: int, apart: bool, rounds: int, start: Any, out: Any, environment: dict[str, str]) -> None:
    """One of two processes: in every round it wants the study, and tells when it had it."""
    os.environ.update(environment)
    if apart:
        vars(lease)["_machine"] = lambda: f"machine {number}"
    for turn in range(rounds):
        start.wait(60)
        time.sleep(random.choice([0.0, 0.0, 0.02, 0.1]))
        try:
            with holding(uri):
                began = time.monotonic()
                time.sleep(HOLD)
                out.put((turn, number, began, time.monotonic()))
        except StudyLockedError:
            out.put((turn, number, 0.0, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True], ids=["one host", "two hosts"])
def test_two_at_the_same_instant(uri: str, apart: bool) -> None:
    rounds, context = (10 if uri.startswith("s3") else 20), multiprocessing.get_context("spawn")
    start, out = context.Barrier(2), context.Queue()
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    both = [
        context.Process(target=contend, args=(uri, number, apart, rounds, start, out, environment)) for number in (0, 1)
    ]
    for process in both:
        process.start()
    told = [out.get(timeout=120) for _ in range(2 * rounds)]
    for process in both:
        process.join(20)
        assert process.exitcode == 0
    spans = sorted((began, ended) for _, _, began, ended in told if began)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert {turn for turn, _, began, _ in told if began} == set(range(rounds))
    assert claims(uri) == []


def test_held_and_given_back(uri: str) -> None:
    with holding(uri):
        assert len(claims(uri)) == 1
        with (
            pytest.raises(
                StudyLockedError, match=rf"study mine is driven by .+@.+, process {os.getpid()}, since \d\d:\d\d, last"
            ),
            holding(uri),
        ):
            pytest.fail("two drivers")
        assert len(claims(uri)) == 1
    assert issubclass(StudyLockedError, ConfigError) and claims(uri) == []
    with pytest.raises(KeyboardInterrupt), holding(uri):
        raise KeyboardInterrupt
    assert claims(uri) == []
    with holding(uri):
        pass
    assert "://" in uri or not Path(uri).exists()


DIES = """
import os, signal, sys
from raymix.runtime.lease import study_lease
with study_lease(sys.argv[1], "mine", print):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_process_of_this_machine_is_followed_at_once(uri: str) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, uri], timeout=60).returncode == -9
    assert len(claims(uri)) == 1
    began = time.monotonic()
    with holding(uri, beat=lease.BEAT, silent=lease.SILENT):  # with the times of real life
        assert time.monotonic() - began < 3 and len(claims(uri)) == 1


def test_a_process_id_given_again_is_another_process(uri: str) -> None:
    write(uri, replace(LeaseRecord.own(), started="1", held=1.0))
    with holding(uri):
        assert len(claims(uri)) == 1


def test_another_host_that_beats_is_not_disturbed(uri: str) -> None:
    claim, ended = foreign(uri, job="raysubmit_x", user="ann", pid=77), threading.Event()

    def beats() -> None:
        beat = 1
        while not ended.wait(1.0):
            beat += 1
            write(uri, replace(claim, beat=beat))

    thread = threading.Thread(target=beats)
    thread.start()
    began = time.monotonic()
    try:
        with (
            pytest.raises(StudyLockedError, match=r"driven by ann@elsewhere, process 77, job raysubmit_x, since"),
            holding(uri),
        ):
            pytest.fail("two drivers")
        assert time.monotonic() - began < 3
    finally:
        ended.set()
        thread.join()
    assert claims(uri) == [f"{claim.id}.json"]


@pytest.mark.slow
def test_another_host_that_is_silent_is_followed_in_time(uri: str) -> None:
    foreign(uri)
    said: list[str] = []
    began = time.monotonic()
    with holding(uri, echo=said.append):
        assert SILENT - 1.1 < time.monotonic() - began < SILENT + 3
        assert len(claims(uri)) == 1
    assert len(said) == 1 and "was driven by" in said[0] and "no sign for" in said[0]


def waiting(what: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_who_was_cut_off_is_told(uri: str) -> None:
    told: list[str] = []
    with holding(uri, lost=told.append):
        filesystem, path = resolve_uri(f"{uri}/driver/{claims(uri)[0]}")
        filesystem.delete_file(path)
        waiting(lambda: told)
        assert told == ["study mine: its claim was taken away"] and claims(uri) == []
    with holding(uri, lost=told.append):
        later = foreign(uri, held=time.time() + 5, user="ann")
        waiting(lambda: len(told) == 2)
        assert "it is driven by ann@elsewhere" in told[1]
    assert claims(uri) == [f"{later.id}.json"]


def test_one_that_asks_or_came_before_takes_nothing_away(uri: str) -> None:
    with holding(uri):
        foreign(uri, held=0.0)
        foreign(uri, held=1.0)
        time.sleep(4 * BEAT)


@pytest.mark.slow
def test_a_beat_that_fails_is_tried_again_and_counts_when_it_is_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    broken = threading.Event()

    def failing(*given: Any) -> None:
        if broken.is_set():
            raise OSError("a bad day")
        write_atomic(*given)

    monkeypatch.setattr(lease, "write_atomic", failing)
    with holding(str(tmp_path), lost=told.append, silent=2.0):
        broken.set()
        time.sleep(1.0)
        broken.clear()
        time.sleep(1.5)
        assert told == []
        broken.set()
        waiting(lambda: told)
        assert re.search("could not be renewed for [12] s", told[0])  # two thirds of 2 s: before another may follow


def test_the_job_that_a_cluster_knows_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "raysubmit_7"}}))
    assert LeaseRecord.own().job == "raysubmit_7"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "null")
    monkeypatch.setenv("RAY_JOB_ID", "02000000")
    assert LeaseRecord.own().job == "02000000"
