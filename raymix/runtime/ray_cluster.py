"""Joining a Ray cluster or starting one on this machine, handling signals, and shutting it down.

Everything raymix sets in Ray's environment is set here, before Ray is imported, each with its reason.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from raymix.config import ConfigError, UnavailableServiceError
from raymix.runtime import ray_head
from raymix.runtime.cluster_capacity import NodeResources
from raymix.runtime.startup_progress import StartupPhase

RAY_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # raymix shows its own progress
    "RAY_AIR_NEW_OUTPUT": "0",  # likewise
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the event log is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # raymix saves by itself, and leaves with an honest exit code
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own snapshots are never read
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean the same in every process
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

CHATTY = (  # what these say of their inner workings is no news to a person who runs a search
    "ray.data",
    "ray.tune",  # its tracebacks of trials whose node went among it: the trials go on
    "ray._private.authentication",
    "ray._private.authentication.authentication_token_setup",
)

STOPS = (signal.SIGINT, signal.SIGTERM)

GRACE = 17.0  # seconds from a signal to the end of the process

UNHEARD = 4.0  # seconds after which a signal that no handler could take (the main thread is in compiled code) ends the process

CONNECT_S = 120.0  # for the driver to connect to the head that it has just started

JOIN_S = 60.0  # for it to connect to a cluster whose address answers

UNEXPECTED, BAD_INPUT = 1, 2  # exit codes, as in `raymix.config.errors`

ANSWER_S = 10.0  # for the address to answer

_arrived: list[int] = []  # the signal that came inside `handle_interrupts`

_head: ray_head.RayHeadNode | None = None  # of the cluster that this process started


class InterruptedBySignal(BaseException):
    """SIGINT or SIGTERM came; `code` is the exit code (130 or 143), `signalled` whether this process got the signal."""

    def __init__(self, number: int, signalled: bool = False) -> None:
        super().__init__(signal.Signals(number).name)
        self.code, self.signalled = 128 + number, signalled


def start_or_join_ray(cluster: Any) -> None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it), else start Ray on this machine.

    Ends in bounded time whatever Ray does, and can be interrupted at every moment.

    Raises:
        ConfigError: no cluster answers at RAY_ADDRESS, or Ray's temporary folder cannot be used.
        Unavailable: Ray cannot be started here; one line with the reason and the remedy.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        _join(address)
    else:
        _start_here(cluster)
    quiet_ray_logs()


def quiet_ray_logs() -> None:
    """Ray's libraries speak up only when the command itself fails."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _join(address: str) -> None:
    token = "RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH must be those of the cluster"
    refusal = f"RAY_ADDRESS={address}: no Ray cluster answers there, or not to this token ({token})"
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.scheme in ("", "ray") and place.port:  # Ray itself would try for minutes
            socket.create_connection((place.hostname or "", place.port), ANSWER_S).close()
        with StartupPhase(f"connecting to the Ray cluster at {address}"):
            _connect(None, JOIN_S, BAD_INPUT, refusal)
    except (OSError, ValueError) as error:  # ValueError: an http:// address, which is the dashboard's
        raise ConfigError(refusal) from error
    except RuntimeError as error:  # another version of Ray or Python, a missing token
        raise ConfigError(f"RAY_ADDRESS={address}: {' '.join(str(error).split())[:300]}") from error


def _start_here(cluster: Any) -> None:
    global _head
    with StartupPhase("starting Ray") as phase:
        folder = ray_head.ray_temporary_folder(phase.say)
        size = int(cluster.object_store_gib * 2**30)
        ray_head.check_object_store(size, phase.say)
        from raymix.runtime import ray_internals

        quiet_ray_logs()
        ray_internals.enable_token_authentication()  # the head inherits the mode
        options = {
            "address": "local",
            "num_cpus": cluster.cpus or None,
            "object_store_memory": size or None,
            "include_dashboard": cluster.dashboard,
            "logging_level": logging.WARNING,
            "log_to_driver": False,
            "_temp_dir": folder,
        }
        _head = ray_head.start_head(options, phase.say)
        refusal = f"Ray was started, but the driver cannot connect to it; logs in {folder}; try again"
        try:
            _connect(_head.address, CONNECT_S, UNEXPECTED, refusal)
        except BaseException as error:
            stop_ray()
            if isinstance(error, Exception):
                raise UnavailableServiceError(f"{refusal} ({' '.join(str(error).split())[:300]})") from error
            raise


def _connect(address: str | None, seconds: float, code: int, refusal: str) -> None:
    """`ray.init` with the signal handlers as they were; ends the process with one line where it takes too long."""
    import ray

    ours, stopped = {each: signal.getsignal(each) for each in STOPS}, 0
    limit = threading.Timer(seconds, _leave, (code, f"{refusal} (no answer for {seconds:.0f} s)"))
    limit.daemon = True
    limit.start()
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except SystemExit as found:  # from the handler of SIGTERM that ray.init puts in place
        if found.code not in STOPS:
            raise
        stopped = int(found.code)
    finally:
        limit.cancel()
        for each, handler in ours.items():
            if handler is not None:  # ray.init puts its own in their place, which ends the process with code 1
                signal.signal(each, handler)
    if stopped:
        signal.raise_signal(stopped)  # to the handler that was there before


def exit_after_interrupt(stop: InterruptedBySignal, line: str) -> int:
    """The exit code of an interrupted process, whose work has ended, after a line on standard error.

    Where this process got a signal it ends here: at its own end the interpreter would wait for processes of
    `multiprocessing` that are still starting, and free torch and Ray module by module, more than ten seconds on a busy
    machine.
    """
    with contextlib.suppress(OSError):  # a reader who has gone
        sys.stdout.flush()
    if stop.signalled:
        _leave(stop.code, line)
    print(f"raymix: {line}", file=sys.stderr, flush=True)
    return stop.code


def _leave(code: int, line: str) -> NoReturn:
    """End this process at once, from any thread."""
    if line:
        with contextlib.suppress(OSError):
            os.write(2, f"raymix: {line}\n".encode())
    if _head is not None:
        _head.kill()
    os._exit(code)


def stop_ray() -> None:
    """Disconnect from Ray, and end the cluster if it was started here; at once where a signal ends this process."""
    global _head
    import ray

    head, _head = _head, None
    if _arrived and head is not None:  # an orderly end takes Ray more than ten seconds on a busy machine
        head.kill()
        return
    try:
        ray.shutdown()
    finally:
        if head is not None:
            head.stop()


@contextlib.contextmanager
def handle_interrupts(message: Callable[[InterruptedBySignal], str] | None = None) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the work with Interrupted; a second signal ends the process at once.

    The handler's exception may surface as another one (Ray's compiled code turns it into SystemError), or be swallowed
    where it arises (Python ignores what a weak reference's callback raises): whatever comes out after a signal counts as
    Interrupted, `raise_if_interrupted` raises it again, and what has not left after GRACE seconds is ended. Python runs a handler between
    two instructions of the main thread only: while that thread waits in compiled code, a thread that reads the wake-up pipe
    ends the process after UNHEARD seconds.

    Args:
        message: the line for standard error when the process is ended that way.
    """
    _arrived.clear()
    heard, left = threading.Event(), threading.Event()

    def arrive(number: int, frame: FrameType | None) -> None:
        for each in STOPS:
            signal.signal(each, signal.SIG_DFL)
        _arrived.append(number)
        heard.set()
        raise InterruptedBySignal(number)

    def listen() -> None:
        while (byte := os.read(reads, 1)) and byte[0] not in STOPS:
            pass
        if byte:
            number = byte[0]
            if not heard.wait(UNHEARD) and not left.is_set():
                _leave(128 + number, message(InterruptedBySignal(number)) if message else "")
            if not left.wait(GRACE):
                _leave(128 + number, "")
        os.close(reads)

    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    threading.Thread(target=listen, daemon=True).start()
    woken = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    before = {each: signal.signal(each, arrive) for each in STOPS}
    try:
        yield
    except BaseException:
        if _arrived:
            raise InterruptedBySignal(_arrived[0], signalled=True) from None
        raise
    finally:
        left.set()
        signal.set_wakeup_fd(woken)
        os.close(writes)
        _arrived.clear()
        for each, handler in before.items():
            signal.signal(each, handler)


def _forget_wakeup() -> None:
    """In a forked child: a signal that it gets must not be taken for one of its parent, whose pipe it shares."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_wakeup)


def raise_if_interrupted() -> None:
    """Raise Interrupted where a signal came that was not heard; for loops, once a turn."""
    if _arrived:
        raise InterruptedBySignal(_arrived[0])


def local_machine_resources(cluster: Any) -> list[NodeResources] | None:
    """The one node of a cluster that raymix starts here; None where one is joined, which can tell by itself."""
    ray = sys.modules.get("ray")
    if os.environ.get("RAY_ADDRESS") or (ray is not None and ray.is_initialized()):
        return None
    gpus = 0
    if cluster.gpus_per_worker or cluster.evaluator_gpus:
        import torch

        gpus = torch.cuda.device_count()
    return [{"CPU": cluster.cpus or os.cpu_count() or 1, "GPU": gpus}]


def local_cpu_count(cluster: Any) -> int:
    """CPUs of this machine for work without Ray; 1 where a cluster is joined."""
    nodes = local_machine_resources(cluster)
    return 1 if nodes is None else max(1, int(nodes[0]["CPU"]))
