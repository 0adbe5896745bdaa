"""`map_in_processes`: each task is done once, a crash affects only its own task, no process outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from raymix.data.preparation import pipeline

ROOT = Path(pipeline.__file__).resolve().parents[3]


def square(task: int) -> int:
    if task < 0:
        raise OSError(28, f"no room for {task}")
    return task * task


class CrashesAtThree:
    """Task that crashes its process at task 3, a given number of times."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times = folder, times

    def __call__(self, task: int) -> int:
        (self.folder / f"{task}-{len(list(self.folder.glob(f'{task}-*')))}").touch()
        if task == 3 and len(list(self.folder.glob("3-*"))) <= self.times:
            os._exit(7)
        return task


def test_all_tasks_are_done_also_those_added_meanwhile() -> None:
    queue, found = deque(range(6)), []
    for result in pipeline.map_in_processes(queue, square, 2):
        found.append(result)
        if result == 16:
            queue.append(10)
    assert sorted(found) == [0, 1, 4, 9, 16, 25, 100]


def test_an_error_of_a_task_is_raised() -> None:
    with pytest.raises(OSError, match="no room for -1") as caught:
        list(pipeline.map_in_processes(deque([1, -1, 2]), square, 2))
    assert caught.value.errno == 28


def test_a_crashed_task_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(pipeline.map_in_processes(deque(range(6)), CrashesAtThree(tmp_path, 2), 2)) == [0, 1, 2, 3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "1-0", "2-0", "3-0", "3-1", "3-2", "4-0", "5-0"]
    monkeypatch.setattr(pipeline, "MAX_CRASHES_PER_TASK", 2)
    with pytest.raises(RuntimeError, match="2 processes ended at one task, the last with code 7"):
        list(pipeline.map_in_processes(deque([3]), CrashesAtThree(tmp_path, 99), 1))


def who(task: int) -> tuple[int, int]:
    time.sleep({0: 0.1, 1: 2.0}.get(task, 0.0))
    return task, os.getpid()


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_waits_is_replaced() -> None:
    queue, found = deque([0, 1]), []
    for task, pid in pipeline.map_in_processes(queue, who, 2):
        found.append(task)
        if task == 0:  # the other one is still busy, this one has nothing to do
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)
            queue += [2, 3]
    assert sorted(found) == [0, 1, 2, 3]


@pytest.mark.slow
def test_processes_that_are_killed_while_none_has_a_task_are_replaced() -> None:
    queue, found, killed = deque([0, 1]), [], set()
    for task, pid in pipeline.map_in_processes(queue, who, 2):
        found.append(task)
        if task == 1:  # the last: none is busy
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                killed.add(child.pid)
            time.sleep(0.5)
            queue += [2, 3]
        elif task > 1:
            assert pid not in killed
    assert sorted(found) == [0, 1, 2, 3] and killed


LEADER = """
import sys, time
from collections import deque
from pathlib import Path
from raymix.data.preparation import pipeline

def wait(task):
    Path(sys.argv[1], f"began-{task}").touch()
    try:
        time.sleep(600)
    finally:
        Path(sys.argv[1], f"left-{task}").touch()

if __name__ == "__main__":
    list(pipeline.map_in_processes(deque(range(2)), wait, 2))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(tmp_path: Path, number: int) -> None:
    (tmp_path / "leader.py").write_text(LEADER)
    leader = subprocess.Popen(
        [sys.executable, tmp_path / "leader.py", tmp_path],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("began-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    leader.send_signal(number)
    leader.wait(30)
    while len(list(tmp_path.glob("left-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(list(tmp_path.glob("left-*"))) == 2  # in good order: what they had begun is no crash
