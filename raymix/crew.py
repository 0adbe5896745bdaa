"""Tasks in several processes of this machine; one whose process ends is begun again in another.

For work that Ray would only delay: its first task here starts after two seconds, Ray's after ten and more.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

T = TypeVar("T")
R = TypeVar("R")
DEATHS = 10  # of processes at one task: then it is the machine
STOP_SECONDS = 5.0  # for a process to end after SIGTERM


def over(queue: deque[T], work: Callable[[T], R], count: int, modules: tuple[str, ...] = ()) -> Iterator[R]:
    """The results of all tasks in the order in which they end; whoever gets one may add to the queue.

    Args:
        queue: The tasks.
        work: What is done with each, in `count` processes.
        modules: Imported once for all processes, where the system can fork.

    Raises:
        RuntimeError: Processes ended again and again at one task. Besides, whatever `work` raises.
    """
    context = _context(modules)
    pool = ProcessPool(count, initializer=_end_with_parent, context=context)
    running: dict[Future[R], tuple[T, int]] = {}  # task, and how many processes ended at it
    begun_again: deque[tuple[T, int]] = deque()
    try:
        while queue or running or begun_again:
            if not pool.active:  # all processes ended while none had a task
                pool.stop()
                pool.join()
                pool = ProcessPool(count, initializer=_end_with_parent, context=context)
            while (queue or begun_again) and len(running) <= count:  # one more than processes: none waits for this one
                task, deaths = begun_again.popleft() if begun_again else (queue.popleft(), 0)
                running[pool.schedule(work, args=(task,))] = task, deaths
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, deaths = running.pop(future)
                error = future.exception()
                if isinstance(error, ProcessExpired | BrokenProcessPool):
                    if deaths + 1 >= DEATHS:
                        code = getattr(error, "exitcode", "unknown")
                        raise RuntimeError(f"{DEATHS} processes ended at one task, the last with code {code}") from None
                    begun_again.append((task, deaths + 1))
                else:
                    yield future.result()
    finally:
        pool.stop()
        pool.join()


def _context(modules: tuple[str, ...]) -> ForkServerContext | SpawnContext:
    """Processes that begin without this one's threads and locks: forked from a clean one, or made anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def _end_with_parent() -> None:
    """In a process of the pool: SIGTERM ends it in good order, and so does the end of its parent."""
    signal.signal(signal.SIGTERM, _exit)  # pebble's own handler would skip the `finally` of the task
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)
