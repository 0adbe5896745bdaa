"""Signals become exit codes."""

from __future__ import annotations

import os
import signal
import weakref

import pytest

from raymix.session import Interrupted, check, interruptible


def test_a_signal_becomes_an_exit_code_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped, interruptible():
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
    with pytest.raises(Interrupted) as stopped, interruptible():
        reference = weakref.ref(thing, gone)
        del thing
        heard = reference() is None  # the work goes on
        check()
    assert heard and stopped.value.code == 130
    check()  # outside, a signal that came inside is over
