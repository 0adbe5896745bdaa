"""A Ray head node in a process of its own, so that a start which fails or hangs can be ended and tried again.

`ray.init` starts gcs_server, the raylet and their agents, and waits for them in compiled code, where Python runs no signal
handler and nothing can be cancelled; a GCS client whose server has gone ends its process. So the driver starts
`python -m raymix.runtime.ray_head`, which calls `ray.init`, and connects only to a node that is up. The head runs in a session
(process group) of its own: whatever was started for it is ended with it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from raymix.config import ConfigError, UnavailableServiceError

REGISTER_S = 120.0  # for the raylet to register with the GCS; Ray's own limit is 30 s

ATTEMPT_S = 240.0  # for one attempt to start the node

TOTAL_S = 600.0  # for all attempts

ATTEMPTS = 3

TOTAL_SETTING = "RAYMIX_RAY_START_S"  # environment variable that replaces TOTAL_S (and caps ATTEMPT_S)

TMP_SETTING = "RAYMIX_RAY_TMP"

STOP_S = 10.0  # for an orderly end of the head

SOCKET_LIMIT = 107 if sys.platform.startswith("linux") else 103  # bytes of a Unix socket's path

LEAST_FREE = 256 << 20  # bytes that the temporary folder needs for Ray's logs and sockets

LONGER_WAITS = {  # of Ray's processes for one another (ray 2.60); a busy machine exceeds the defaults of 15 to 60 s
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
}

ESSENTIAL = ("gcs_server", "raylet")  # processes without which a node cannot work


class RayHeadNode:
    """A running head node: its GCS address, and how to end it."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process, self.address = process, address

    def stop(self) -> None:
        """End the node in order, or after STOP_S by force; returns when its processes have been ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        end_process_group(self.process)

    def kill(self) -> None:
        """End every process of the node at once."""
        end_process_group(self.process)


def start_head(options: dict[str, Any], say: Callable[[str], None]) -> RayHeadNode:
    """Start a head node with these arguments of `ray.init`, trying again where an attempt fails or takes too long.

    Returns within TOTAL_S seconds (or the environment variable RAYMIX_RAY_START_S). May be interrupted by
    exceptions of signal handlers at any moment; nothing that was started is left then.

    Args:
        options: keyword arguments of `ray.init`, JSON-serializable, with `_temp_dir`.
        say: called with a line where an attempt has failed.

    Raises:
        Unavailable: one line with the reason, the log folder and the remedy.
        ConfigError: RAYMIX_RAY_START_S is not a positive number.
    """
    total = _total()
    began, reason = time.monotonic(), ""
    for attempt in range(1, ATTEMPTS + 1):
        left = began + total - time.monotonic()
        if left <= 0:
            break
        found = _attempt(options, min(left, ATTEMPT_S))
        if isinstance(found, RayHeadNode):
            return found
        reason = found
        if attempt < ATTEMPTS and time.monotonic() < began + total:
            say(f"Ray did not start ({reason}); trying again ({attempt + 1} of {ATTEMPTS})")
    raise UnavailableServiceError(
        f"Ray did not start within {time.monotonic() - began:.0f} s: {reason}; logs in {options['_temp_dir']}; "
        f"on a machine busy with other work wait for it, or allow more time: {TOTAL_SETTING}={2 * total:.0f}"
    )


def _total() -> float:
    given = os.environ.get(TOTAL_SETTING)
    try:
        total = float(given) if given else TOTAL_S
    except ValueError:
        total = 0.0
    if not 0 < total < float("inf"):
        raise ConfigError(f"{TOTAL_SETTING}={given}: must be a number of seconds above 0")
    return total


def _attempt(options: dict[str, Any], seconds: float) -> RayHeadNode | str:
    """A head node, or why there is none after at most `seconds`."""
    reads, writes = os.pipe()
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "raymix.runtime.ray_head", json.dumps(options), str(writes), str(seconds)]
        path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end signals the head that the driver has exited
            stdout=output,
            stderr=output,
            pass_fds=(writes,),
            start_new_session=True,
            env={**LONGER_WAITS, **os.environ, "PYTHONPATH": path},
        )
        os.close(writes)
        up = False
        try:
            found = _await_report(reads, seconds)
            if found and "address" in found:
                up = True
                return RayHeadNode(process, found["address"])
            if found:
                return str(found["error"])
            if process.poll() is None:
                return f"no answer for {seconds:.0f} s"
            output.seek(0)
            return last_error_line(output.read().decode(errors="replace")) or f"exit code {process.returncode}"
        finally:
            os.close(reads)
            if not up:
                end_process_group(process)


def _await_report(reads: int, seconds: float) -> dict[str, Any] | None:
    """What the head reports; None where it ended or the time is over."""
    end, text = time.monotonic() + seconds, b""
    while time.monotonic() < end:
        if select.select([reads], [], [], 0.2)[0]:
            more = os.read(reads, 1 << 16)
            text += more
            if not more or text.endswith(b"\n"):
                return json.loads(text) if text else None
    return None


def end_process_group(process: subprocess.Popen[bytes]) -> None:
    """End a head and every process of its group (it is the leader of a session that was made for it)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def last_error_line(log: str) -> str:
    """The last line of a log that names an error, without its prefix of time and place; else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if re.search(r" [EFC] \d+ \d+\]|Error|Check failed|[Ff]ailed|[Tt]imed out", line)]
    line = (named or lines or [""])[-1]
    return re.sub(r"^\[[^\]]*\]\s*(\(\w+\)\s*)?", "", line)[:300]


# -- checks before anything starts ------------------------------------------------------------------------------------


def ray_temporary_folder(say: Callable[[str], None]) -> str:
    """The folder for Ray's sessions: $RAYMIX_RAY_TMP, else `ray` in the temporary folder of the machine.

    Raises ConfigError where it cannot be used: its path is too long for Ray's sockets, it cannot be written, or is full. Where
    only $TMPDIR is too long, /tmp/ray is used, and `say` gets a line about it.
    """
    given = os.environ.get(TMP_SETTING)
    path = os.path.abspath(os.path.expanduser(given)) if given else os.path.join(tempfile.gettempdir(), "ray")
    most = SOCKET_LIMIT - len(_socket(""))
    if (size := len(os.fsencode(path))) > most:
        if given:
            raise ConfigError(
                f"{TMP_SETTING}={given}: {size} bytes; the paths of Ray's sockets below it may have {SOCKET_LIMIT}, so it "
                f"must have at most {most}: {TMP_SETTING}=/tmp/ray"
            )
        say(f"{path} is too long for Ray's sockets ({size} bytes, at most {most}): Ray uses /tmp/ray instead")
        path = "/tmp/ray"
    remedy = f"name another folder: {TMP_SETTING}=DIR (at most {most} bytes)"
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: Ray cannot write there ({error.strerror or error}); {remedy}") from None
    stat = os.statvfs(path)
    if (free := stat.f_bavail * stat.f_frsize) < LEAST_FREE:
        raise ConfigError(f"{path}: {free >> 20} MiB free, Ray needs {LEAST_FREE >> 20} MiB for its logs; {remedy}")
    return path


def _socket(folder: str) -> str:
    """The longest socket path that Ray makes below a folder for sessions (ray._private.node.Node)."""
    return f"{folder}/session_2026-01-01_00-00-00_000000_{'9' * 7}/sockets/plasma_store"


def check_object_store(size: int, say: Callable[[str], None], shared: str = "/dev/shm") -> None:
    """Say where Ray will keep an object store of `size` bytes (0: Ray's choice) if shared memory is too small for it."""
    if not size or not os.path.isdir(shared):
        return
    stat = os.statvfs(shared)
    if (free := stat.f_bavail * stat.f_frsize) < size:
        say(
            f"{shared} has {free / 2**30:.2g} GiB free, less than cluster.object_store_gib={size / 2**30:.2g}: Ray keeps "
            "objects on disk in /tmp, which is slower; in Docker: --shm-size"
        )


# -- the head's own process -------------------------------------------------------------------------------------------


class _Report:
    """The one message of the head to its driver; the first one counts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock, self._sent = descriptor, threading.Lock(), False

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            if not self._sent:
                self._sent = True
                os.write(self._descriptor, json.dumps(message).encode() + b"\n")
                os.close(self._descriptor)


def run_head_process() -> None:
    options, report = json.loads(sys.argv[1]), _Report(int(sys.argv[2]))
    seconds, stop = float(sys.argv[3]), threading.Event()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    import ray

    from raymix.runtime import ray_internals

    ray_internals.wait_for_registration(min(REGISTER_S, seconds))
    started = ray_internals.record_started_processes(ESSENTIAL)
    threading.Thread(target=_watch, args=(started, options["_temp_dir"], report, stop), daemon=True).start()
    try:
        ray.init(**options)
    except BaseException as error:
        report.send({"error": " ".join(str(error).split())[:300] or type(error).__name__})
        _end()
    for number in (signal.SIGTERM, signal.SIGINT):  # ray.init has set its own
        signal.signal(number, lambda *_: stop.set())
    address = ray.get_runtime_context().gcs_address
    report.send({"address": address})
    stop.wait()
    ray.shutdown()
    _end()


def _end() -> NoReturn:
    """End this process and every other one of its group."""
    os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _end_with_driver() -> None:
    """Waits for the end of standard input, which the driver keeps open while it runs."""
    while sys.stdin.buffer.read(1):
        pass
    _end()


def _watch(started: dict[str, subprocess.Popen[bytes]], folder: str, report: _Report, stop: threading.Event) -> None:
    """Report the end of gcs_server or the raylet, with the end of its log, and end what is left.

    `ray.init` itself may wait for a process that has gone.
    """
    while not stop.wait(0.3):
        for name, process in list(started.items()):
            if (code := process.poll()) is not None and not stop.is_set():
                how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
                report.send({"error": f"{name} ended with {how}{_log_of(folder, name)}"})
                _end()


def _log_of(folder: str, name: str) -> str:
    for ending in ("err", "out"):
        for path in glob.glob(f"{glob.escape(folder)}/session_*_{os.getpid()}/logs/{name}.{ending}"):
            with contextlib.suppress(OSError):
                if found := last_error_line(Path(path).read_text(errors="replace")[-20_000:]):
                    return f": {found}"
    return ""


if __name__ == "__main__":
    run_head_process()
