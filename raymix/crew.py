"""A crew of processes on this machine, each at one task at a time; one that dies is replaced, and its task begun again.

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
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
DEATHS = 10  # of processes at one task: then it is the machine
PATIENCE_S = 5.0  # for a process to leave in good order


@dataclass
class _Member(Generic[T]):
    process: BaseProcess
    line: Connection
    task: T | None = None
    deaths: int = 0  # before this one, at the same task


def over(queue: deque[T], work: Callable[[T], R], count: int, modules: tuple[str, ...] = ()) -> Iterator[R]:
    """The results of all tasks in the order in which they end; whoever gets one may add to the queue.

    `modules` are imported once for all processes, where the system can fork.
    Raises what `work` raises, RuntimeError for a task at which processes die again and again. However it is left, no
    process stays; they also end when this one is killed.
    """
    context, crew = _context(modules), list[_Member[T]]()
    fallen: deque[tuple[T, int]] = deque()  # tasks whose process died, and how often
    try:
        while True:
            while (fallen or queue) and (free := _free(context, crew, work, count)) is not None:
                free.task, free.deaths = fallen.popleft() if fallen else (queue.popleft(), 0)
                try:
                    free.line.send(free.task)
                except OSError:  # it was killed while it had nothing to do
                    _bury(crew, free, fallen)
            busy = {member.line: member for member in crew if member.task is not None}
            if not busy:
                return
            for line in wait(list(busy)):
                member = busy[line]  # type: ignore[index]
                try:
                    good, found = member.line.recv()
                except (EOFError, OSError):
                    _bury(crew, member, fallen)
                    continue
                member.task = None
                if not good:
                    raise found
                yield found
    finally:
        _dismiss(crew)


def _context(modules: tuple[str, ...]) -> ForkServerContext | SpawnContext:
    """Processes that begin without this one's threads and locks: forked from a clean one, or made anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def _free(
    context: ForkServerContext | SpawnContext, crew: list[_Member[T]], work: Callable[[T], R], count: int
) -> _Member[T] | None:
    """A member without a task; a new one as long as there are fewer than `count`."""
    for member in crew:
        if member.task is None:
            return member
    if len(crew) >= count:
        return None
    ours, theirs = context.Pipe()
    process: BaseProcess = context.Process(target=_serve, args=(theirs, work), daemon=True)
    process.start()
    theirs.close()  # or its end would not be noticed here
    crew.append(_Member(process, ours))
    return crew[-1]


def _bury(crew: list[_Member[T]], member: _Member[T], fallen: deque[tuple[T, int]]) -> None:
    member.process.join(PATIENCE_S)
    crew.remove(member)
    assert member.task is not None
    if member.deaths + 1 >= DEATHS:
        raise RuntimeError(f"{DEATHS} processes ended at one task, the last with code {member.process.exitcode}")
    fallen.append((member.task, member.deaths + 1))


def _dismiss(crew: list[_Member[T]]) -> None:
    for member in crew:
        member.process.terminate()
        member.line.close()
    until = time.monotonic() + PATIENCE_S
    for member in crew:
        member.process.join(max(0.0, until - time.monotonic()))
        if member.process.is_alive():
            member.process.kill()
            member.process.join()


def _serve(line: Connection, work: Callable[[Any], Any]) -> None:
    """What a process of the crew does; it leaves in good order when told to, or when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, sent to all: the parent answers it
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_orphaned, daemon=True).start()
    while True:
        try:
            task = line.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, work(task)
        except Exception as error:
            answer = False, error
        line.send(answer)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _orphaned() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # not os._exit at once: being told to leave is no crash of the file at hand
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os._exit(1)
