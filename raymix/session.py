"""Joining a Ray cluster or starting one here, and leaving it with an honest exit code.

Everything raymix sets in Ray's environment is set here, before Ray is imported, each with its reason.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from raymix.config import BadInput
from raymix.room import Node

SETTINGS = {
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # its footer-reading actors cost 18-30 s per execution (ray 2.60)
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # raymix shows its own progress
    "RAY_AIR_NEW_OUTPUT": "0",  # likewise
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
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
GRACE = 17.0  # seconds from a signal to the end of the process
_arrived: list[int] = []  # the signal that came inside `interruptible`


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; `code` is the exit code (130 or 143)."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def start(cluster: Any) -> None:
    """Join the cluster that RAY_ADDRESS names (a submitted job has it), else start Ray on this machine."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    hush()
    if ray.is_initialized():
        return
    ours = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        _join_or_start(cluster)
    finally:
        for each, handler in ours.items():
            if callable(handler):  # ray.init puts its own in their place, which ends the process with code 1
                signal.signal(each, handler)


def hush() -> None:
    """Ray's libraries speak up only when the command itself fails."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _join_or_start(cluster: Any) -> None:
    import ray

    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError) as error:  # ValueError: an http:// address, which is the dashboard's
            token = "RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH must be those of the cluster"
            raise BadInput(
                f"RAY_ADDRESS={address}: no Ray cluster answers there, or not to this token ({token})"
            ) from error
        return
    ray.init(
        address="local",
        num_cpus=cluster.cpus or None,
        object_store_memory=int(cluster.object_store_gib * 2**30) or None,
        include_dashboard=cluster.dashboard,
        logging_level=logging.WARNING,
        log_to_driver=False,
        _temp_dir=os.environ.get("RAYMIX_RAY_TMP") or os.path.join(tempfile.gettempdir(), "ray"),
    )


def stop() -> None:
    import ray

    ray.shutdown()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the work with Interrupted; a second signal ends the process at once.

    The handler's exception may surface as another one (Ray's compiled code turns it into SystemError), or be swallowed
    where it arises (Python ignores what a weak reference's callback raises): whatever comes out after a signal counts as
    Interrupted, `check` raises it again, and what has not left after GRACE seconds is ended.
    """
    _arrived.clear()

    def arrive(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        _arrived.append(number)
        deadline.start()
        raise Interrupted(number)

    deadline = threading.Timer(GRACE, lambda: os._exit(128 + _arrived[0]))
    deadline.daemon = True
    before = {each: signal.signal(each, arrive) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException:
        if _arrived:
            raise Interrupted(_arrived[0]) from None
        raise
    finally:
        deadline.cancel()
        _arrived.clear()
        for each, handler in before.items():
            signal.signal(each, handler)


def check() -> None:
    """Raise Interrupted where a signal came that was not heard; for loops, once a turn."""
    if _arrived:
        raise Interrupted(_arrived[0])


def machine(cluster: Any) -> list[Node] | None:
    """The one node of a cluster that raymix starts here; None where one is joined, which can tell by itself."""
    ray = sys.modules.get("ray")
    if os.environ.get("RAY_ADDRESS") or (ray is not None and ray.is_initialized()):
        return None
    gpus = 0
    if cluster.gpus_per_worker or cluster.evaluator_gpus:
        import torch

        gpus = torch.cuda.device_count()
    return [{"CPU": cluster.cpus or os.cpu_count() or 1, "GPU": gpus}]


def cores(cluster: Any) -> int:
    """CPUs of this machine for work without Ray; 1 where a cluster is joined."""
    nodes = machine(cluster)
    return 1 if nodes is None else max(1, int(nodes[0]["CPU"]))
