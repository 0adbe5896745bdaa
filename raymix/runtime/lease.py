"""One driver per study: a claim with a heartbeat, on a local disk, NFS, or an object store without conditional writes.

A driver writes its own claim, `<study>/driver/<id>.json`, and only THEN looks for others: of two that start at the same
moment at least one sees the other, so two never both hold. The holder writes its claim again every BEAT seconds. A claim
is dead when its process on this machine is gone, or when it was silent for SILENT seconds by the storage's own clock
(against the time of one's own claim, written just before, so that clocks of hosts need not agree; on NFS the writing
also makes the client look at the folder anew). A holder that cannot write its claim for two thirds of that must expect that
another one has taken over, and is notified.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from pyarrow import fs

from raymix.config import ConfigError
from raymix.runtime.storage import read_bytes, resolve_uri, write_atomic

BEAT, SILENT = 5.0, 60.0  # seconds

TRIES = 3  # when two that ask meet

SAY = 15.0  # seconds between two lines about waiting

JOIN = 3.0  # seconds

ATTEMPTS = 5  # of a beat's requests: the next beat is the better repetition


class StudyLockedError(ConfigError):
    """Another driver holds the study. `reason` names it, without the advice."""

    def __init__(self, reason: str, advice: str = "wait, or stop it") -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


@dataclass(frozen=True)
class LeaseRecord:
    """Who drives, or asks to."""

    id: str  # sorts by time
    user: str
    host: str
    pid: int
    machine: str  # process ids are comparable inside of it
    started: str  # of the process, as the kernel counts
    job: str
    since: float
    command: str
    held: float = 0.0  # since when it holds; 0: it asks
    beat: int = 0

    @staticmethod
    def own() -> LeaseRecord:
        pid = os.getpid()
        return LeaseRecord(
            id=f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}",
            user=_user(),
            host=socket.gethostname(),
            pid=pid,
            machine=_machine(),
            started=_started(pid),
            job=submission_id(),
            since=time.time(),
            command=" ".join(sys.argv)[:1000],
        )

    def gone(self) -> bool:
        """Whether its process, known to have run on this machine, runs no more."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        found = _started(self.pid)
        return bool(found) and found != self.started  # '': of another user, and hidden

    def describe(self) -> str:
        job = f", job {self.job}" if self.job else ""
        since = time.strftime("%H:%M", time.localtime(self.since))
        return f"{self.user}@{self.host}, process {self.pid}{job}, since {since}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers run as users without a name
        return str(os.getuid())


def _machine() -> str:
    """The kernel's boot and its process namespace: containers may share a host's name, and not its process ids."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{socket.gethostname()} {file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks: a process id may be given again. '' where it cannot be known."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"ended ({state})" if state in "ZX" else rest[18]


def submission_id() -> str:
    """The submission id under `ray job submit`, '' elsewhere."""
    with contextlib.suppress(ValueError, AttributeError):
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        if found := config.get("metadata", {}).get("job_submission_id"):
            return str(found)
    return os.environ.get("RAY_JOB_SUBMISSION_ID") or os.environ.get("RAY_JOB_ID") or ""


@contextlib.contextmanager
def study_lease(
    uri: str,
    name: str,
    lost: Callable[[str], Any],
    echo: Callable[[str], Any] = print,
    beat: float = BEAT,
    silent: float = SILENT,
    words: tuple[str, str] = ("study", "driven"),
) -> Iterator[None]:
    """Inside, no other driver holds the study `name` at `uri`; Taken where another one does.

    What is held may be something else than a study, and something else be done with it: `words`.
    `lost` is called with a sentence, from a thread, when this driver was cut off for so long that it holds no more.
    """
    lock = _Lock(uri, f"{words[0]} {name}", words[1], echo, beat, silent)
    try:
        lock.take()
        lock.keep(lost)
        yield
    finally:
        lock.release()


class _Lock:
    """A claim and what is done with it."""

    def __init__(self, uri: str, name: str, doing: str, echo: Callable[[str], Any], beat: float, silent: float) -> None:
        self.name, self.doing, self.echo, self.beat, self.silent = name, doing, echo, beat, silent
        self.claim = LeaseRecord.own()
        self._patient, study = resolve_uri(uri)
        self._brisk, _ = resolve_uri(uri, ATTEMPTS)
        self.study, self.folder = study, f"{study}/driver"
        self._ended, self._last, self._said = threading.Event(), time.monotonic(), -SAY
        self._seen: dict[str, int] = {}  # the beat of each other claim when it was first seen
        self._lost: Callable[[str], Any] = echo
        self._threads: list[threading.Thread] = []

    def take(self) -> None:
        """Hold, or raise Taken. A claim that gives no sign is watched until it does, or was silent for long enough."""
        tries = 0
        while True:
            began = time.monotonic()
            others = self._others(self._patient)
            if not others:
                self._write(self._patient, held=time.time())
                if time.monotonic() - began < self.silent / 2:
                    return
                self.claim = replace(self.claim, held=0.0)  # stopped on the way: what was seen may be true no more
                continue
            first, age = min(others, key=lambda pair: (not pair[0].held, pair[0].id))
            if not self._lives(first):
                self._say(first, age)
            elif first.held:
                raise self._taken(first, age)
            elif first.id < self.claim.id:  # two ask: who asked first shall have it
                self._remove(self._patient, self.claim.id)
                tries += 1
                if tries > TRIES:
                    raise self._taken(first, age)
                self._ended.wait(random.uniform(0.5, 1) * tries * min(1.0, self.beat))
                continue
            self._ended.wait(min(1.0, self.beat / 4))

    def _lives(self, other: LeaseRecord) -> bool:
        """Whether another's claim gave a sign: its process runs on this machine, or a beat came since the first look."""
        return other.machine == _machine() or self._seen.setdefault(other.id, other.beat) != other.beat

    def _say(self, other: LeaseRecord, age: float) -> None:
        if age > 2 * self.beat and time.monotonic() - self._said > SAY:
            self._said = time.monotonic()
            left = max(0.0, self.silent - age)
            was = f"{self.name} was {self.doing} by {other.describe()}"
            self.echo(f"{was}: no sign for {age:.0f} s, waiting {left:.0f} s more")

    def _taken(self, by: LeaseRecord, age: float) -> StudyLockedError:
        does = f"is {self.doing} by" if by.held else "is about to be taken by"
        return StudyLockedError(f"{self.name} {does} {by.describe()}, last sign {max(0.0, age):.0f} s ago")

    def _write(self, filesystem: fs.FileSystem, **change: Any) -> None:
        self.claim = replace(self.claim, beat=self.claim.beat + 1, **change)
        data = json.dumps(asdict(self.claim)).encode()
        try:
            write_atomic(filesystem, self._path(self.claim.id), data)
        except FileNotFoundError:  # another driver's `release` took the empty folder away in this moment
            write_atomic(filesystem, self._path(self.claim.id), data)

    def _path(self, claim: str) -> str:
        return f"{self.folder}/{claim}.json"

    def _remove(self, filesystem: fs.FileSystem, claim: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(self._path(claim))

    def _others(self, filesystem: fs.FileSystem) -> list[tuple[LeaseRecord, float]]:
        """Write the own claim, then look: the other live claims with their ages in seconds; dead ones are deleted."""
        self._write(filesystem)
        times = self._times(filesystem)
        now, found = times.pop(self.claim.id, None), list[tuple[LeaseRecord, float]]()
        for each, at in times.items():
            try:
                claim = LeaseRecord(**json.loads(read_bytes(filesystem, self._path(each))))
            except FileNotFoundError:
                continue
            except (ValueError, TypeError):  # not ours to judge, but an obstacle until it is old
                claim = replace(self.claim, id=each, host="an unknown host", machine="", held=1.0, beat=0)
            age = now - at if now is not None else 0.0
            if claim.gone() or age > self.silent:
                self._remove(filesystem, each)
            else:
                found.append((claim, age))
        return found

    def _times(self, filesystem: fs.FileSystem) -> dict[str, float]:
        infos = filesystem.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        ours = [info for info in infos if info.is_file and info.base_name.endswith(".json")]
        return {info.base_name.removesuffix(".json"): info.mtime.timestamp() for info in ours}

    def keep(self, lost: Callable[[str], Any]) -> None:
        """Beat until `release`, or until the claim is lost."""
        self._last, self._lost = time.monotonic(), lost
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beats, self._watches)]
        for thread in self._threads:
            thread.start()

    def _beats(self) -> None:
        while not self._ended.wait(self.beat):
            try:
                if other := self._successor():
                    self._lose(other)
                    return
                self._write(self._brisk)
                self._last = time.monotonic()
            except OSError:
                continue  # the next beat tries again; `_watches` counts

    def _successor(self) -> str:
        """Who holds the study now, if it is not this driver. Looked up BEFORE a beat, which would hide a deleted claim."""
        times = self._times(self._brisk)
        if self.claim.id not in times:
            return "its claim was taken away"
        for each in times:
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                other = (
                    LeaseRecord(**json.loads(read_bytes(self._brisk, self._path(each))))
                    if each != self.claim.id
                    else self.claim
                )
                if (other.held, other.id) > (self.claim.held, self.claim.id):  # of two that hold the later one stays
                    return f"it is {self.doing} by {other.describe()}"
        return ""

    def _watches(self) -> None:
        while not self._ended.wait(min(1.0, self.silent / 10)):
            if (since := time.monotonic() - self._last) > self.silent * 2 / 3:  # before another may think so
                self._lose(f"its claim could not be renewed for {since:.0f} s")
                return

    def _lose(self, why: str) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._lost(f"{self.name}: {why}")

    def release(self) -> None:
        """Take the claim away, and the folder where nothing else is in it."""
        self._ended.set()
        for thread in self._threads:
            thread.join(JOIN)  # a beat under way would bring the claim back
        with contextlib.suppress(OSError):
            self._remove(self._brisk, self.claim.id)
            if isinstance(self._brisk, fs.LocalFileSystem):
                os.rmdir(self.folder)
                os.rmdir(self.study)
