"""Several processes prepare one dataset: one works, the others name it, wait, and use its result."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymix.config import DatasetConfig
from raymix.data import records
from raymix.data.importers import folder
from raymix.data.preparation import pipeline, split_leaks
from raymix.runtime import lease
from tests.support.make_videos import film

ROOT = Path(records.__file__).resolve().parents[2]
SLOW = """
import os, sys, time
from raymix.config.schema import DatasetConfig
from raymix.data.importers import folder
from raymix.data.preparation.pipeline import prepare_dataset
honest = folder.import_clips
def clips(s, source, e):
    with open(sys.argv[1], "a") as log:
        log.write(source.path + " ")
    while not os.path.exists(sys.argv[2] + source.path):
        time.sleep(0.05)
    return honest(s, source, e)
folder.import_clips = clips
print("fresh", prepare_dataset(DatasetConfig(**eval(sys.argv[3])), lambda line: print(line, flush=True)).fresh)
"""


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetConfig:
    """Four videos to prepare, in this process, with short waits."""
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)
    monkeypatch.setattr(pipeline, "RETRY_S", 0.1)
    for number in range(4):
        film(tmp_path / "in" / f"{number}.mp4", 1.0 + number / 10)
    return DatasetConfig(
        name="folder",
        root=str(tmp_path / "in"),
        prepared=str(tmp_path / "out"),
        clip_seconds=1.0,
        stride_seconds=1.0,
        frame_size=32,
        val=0.0,
        test=0.0,
    )


def begin(chosen: DatasetConfig, log: Path) -> subprocess.Popen[str]:
    """Starts a process that reads a video only when there is a file `go-VIDEO` beside `log`, and logs which it reads."""
    words = [sys.executable, "-c", SLOW, str(log), f"{log.parent}/go-", repr(dataclasses.asdict(chosen))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def until(what: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_the_second_process_waits_and_uses_the_result_of_the_first(chosen: DatasetConfig, tmp_path: Path) -> None:
    first = begin(chosen, tmp_path / "log")
    until((tmp_path / "log").exists)
    second = begin(chosen, tmp_path / "log")
    assert second.stdout is not None
    said = second.stdout.readline()
    for number in range(4):
        (tmp_path / f"go-{number}.mp4").touch()
    (out, err), (more, none) = first.communicate(timeout=200), second.communicate(timeout=200)
    assert (first.returncode, second.returncode, err, none) == (0, 0, "", "")
    assert out.endswith("fresh True\n") and more == "fresh False\n"
    assert said.startswith(f"prepare: dataset {chosen.prepared} is being prepared by ")
    assert f", process {first.pid}," in said and said.endswith(": waiting for it\n")
    assert sorted((tmp_path / "log").read_text().split()) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_killed_process_is_replaced_by_the_waiting_one(chosen: DatasetConfig, tmp_path: Path) -> None:
    first = begin(chosen, tmp_path / "log")
    until((tmp_path / "log").exists)
    lines: list[str] = []
    found: list[Any] = []
    waits = threading.Thread(target=lambda: found.append(pipeline.prepare_dataset(chosen, lines.append)))
    waits.start()
    until(lambda: lines)
    first.kill()
    first.communicate()
    waits.join(120)
    assert found[0].fresh and "4 files" in lines[1] and f"process {first.pid}," in lines[0]
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.fixture
def other(chosen: DatasetConfig) -> Iterator[threading.Event]:
    """Another process holds the lease of the dataset until the event is set."""
    ends, holds = threading.Event(), threading.Event()

    def hold() -> None:
        with lease.study_lease(f"{chosen.prepared}/{pipeline.LOCK_NAME}", chosen.prepared, lambda line: None):
            holds.set()
            ends.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(60)
    yield ends
    ends.set()
    thread.join()


@pytest.mark.parametrize("size", [32, 16])
def test_a_dataset_overwritten_meanwhile_is_not_prepared_again(
    chosen: DatasetConfig, size: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Unless its settings differ from the requested ones."""
    aside = dataclasses.replace(chosen, prepared=str(tmp_path / "aside"))
    pipeline.prepare_dataset(aside, lambda line: None)
    other = request.getfixturevalue("other")
    lines: list[str] = []
    found: list[Any] = []
    again = dataclasses.replace(chosen, overwrite=True, frame_size=size)
    waits = threading.Thread(target=lambda: found.append(pipeline.prepare_dataset(again, lines.append)))
    waits.start()
    until(lambda: lines)
    for made in (tmp_path / "aside").iterdir():
        os.replace(made, tmp_path / "out" / made.name)
    other.set()
    waits.join(120)
    assert found[0].fresh == (size == 16) and found[0].clips["train"] == 4


def test_a_dataset_of_other_settings_prepared_meanwhile_is_refused(
    chosen: DatasetConfig, tmp_path: Path, other: threading.Event
) -> None:
    aside = dataclasses.replace(chosen, prepared=str(tmp_path / "aside"), frame_size=16)
    pipeline.prepare_dataset(aside, lambda line: None)

    def made(line: str) -> None:
        for each in (tmp_path / "aside").iterdir():
            os.replace(each, tmp_path / "out" / each.name)
        other.set()

    with pytest.raises(ValueError, match="was prepared with other settings"):
        pipeline.prepare_dataset(chosen, made)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), [(folder, "import_clips"), (split_leaks, "find_media_leaks")])
def test_losing_the_lease_ends_in_one_line(
    module: Any, name: str, chosen: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While sources are imported, and before dataset.json is written."""
    held, honest = lease.study_lease, getattr(module, name)
    monkeypatch.setattr(lease, "study_lease", lambda *given, **more: held(*given, **more, beat=0.1))

    def slow(*given: Any) -> Any:
        for claim in (tmp_path / "out/.lock/driver").glob("*.json"):
            claim.unlink()
        time.sleep(1.0)
        return honest(*given)

    monkeypatch.setattr(module, name, slow)
    with pytest.raises(
        lease.StudyLockedError,
        match="its claim was taken away; finished work is kept; run the same command again to continue",
    ):
        pipeline.prepare_dataset(chosen, lambda line: None)
    assert not (tmp_path / "out" / "dataset.json").exists()
    monkeypatch.undo()
    assert pipeline.prepare_dataset(chosen, lambda line: None).fresh
