"""Signals become exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from raymix.runtime.ray_cluster import InterruptedBySignal, handle_interrupts, raise_if_interrupted


def test_a_signal_becomes_an_exit_code_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedBySignal) as stopped, handle_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_is_swallowed_is_heard_at_the_next_check() -> None:
    """Python ignores what is raised in the callback of a weak reference; Ray and torch are full of them."""

    class Thing:
        pass

    def gone(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    thing, heard = Thing(), False
    with pytest.raises(InterruptedBySignal) as stopped, handle_interrupts():
        reference = weakref.ref(thing, gone)
        del thing
        heard = reference() is None  # the work goes on
        raise_if_interrupted()
    assert heard and stopped.value.code == 130
    raise_if_interrupted()  # outside, a signal that came inside is over


@pytest.mark.parametrize("after", [0.2, 0.8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_command_is_loaded_ends_it_without_a_traceback(
    after: float, number: signal.Signals, tmp_path: Path
) -> None:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "raymix.tune", f"home={tmp_path}", "study.dry_run=true"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(after)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-number, 128 + number)
    assert "Traceback" not in err and len(err.splitlines()) <= 1, err
