"""Signals become exit codes."""

from __future__ import annotations

import os
import signal

import pytest

from raymix.session import Interrupted, interruptible


def test_a_signal_becomes_an_exit_code_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped, interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
