"""A Ray that cannot start, in real processes: one line and an exit code in bounded time, and nothing left running."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raymix.config import ConfigError
from raymix.runtime import ray_cluster, ray_head, ray_internals
from tests.conftest import SMALL

ROOT = Path(__file__).resolve().parents[2]
Begin = Callable[..., subprocess.Popen[str]]
START = """
import sys
from raymix.cli import commands
from raymix.runtime import ray_cluster
from raymix.config.errors import ConfigError, UnavailableServiceError
from raymix.config.schema import ClusterConfig
try:
    with ray_cluster.handle_interrupts(lambda stop: f"{stop}: ended"):
        ray_cluster.start_or_join_ray(ClusterConfig(cpus=1, object_store_gib=0.1, dashboard=False))
        print("connected", flush=True)
        ray_cluster.stop_ray()
except ray_cluster.InterruptedBySignal as stop:
    print(f"raymix: {stop}", file=sys.stderr)
    sys.exit(stop.code)
except (ConfigError, UnavailableServiceError) as error:
    print(f"raymix: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, ConfigError) else 1)
"""


@pytest.fixture
def folder() -> Iterator[str]:
    """A short folder for Ray's sessions; fails the test where a process of it is left."""
    path = tempfile.mkdtemp(prefix="rx", dir="/tmp")
    yield path
    end = time.monotonic() + 15
    while (left := processes(path)) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)
    assert not left


def processes(folder: str, program: str = "") -> list[int]:
    """Running processes whose command line names this folder (Ray's all do), and whose program ends so."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0].endswith(program) and any(folder in word for word in words):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def raylets(folder: str, action: Callable[[int], None]) -> Iterator[None]:
    """Meanwhile, every raylet of this folder gets `action` as soon as it is there."""
    over, seen = threading.Event(), set[int]()

    def watch() -> None:
        while not over.wait(0.02):
            for pid in set(processes(folder, "/raylet")) - seen:
                seen.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    action(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def environment(folder: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "PYTHONPATH": str(ROOT), "RAYMIX_RAY_TMP": folder, **more}


@pytest.fixture
def begin(folder: str) -> Iterator[Begin]:
    """Starts a process with Ray's sessions in `folder`: START, or another command."""
    begun: list[subprocess.Popen[str]] = []

    def start(*command: str, cwd: Path = ROOT, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *(command or ("-c", START))],
            env=environment(folder, **more),
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.ray
def test_a_raylet_that_dies_is_tried_again_and_then_one_line(folder: str, begin: Begin) -> None:
    with raylets(folder, kill):
        process = begin()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert len(err.splitlines()) == 1 and "Traceback" not in out + err
    assert re.match(
        r"raymix: Ray did not start within \d+ s: raylet ended with SIGKILL.*; logs in .*RAYMIX_RAY_START_S=", err
    )
    assert out.count("trying again") == 2 and "connected" not in out


@pytest.mark.ray
def test_one_raylet_that_dies_costs_one_try(folder: str, begin: Begin) -> None:
    once = iter([kill])
    with raylets(folder, lambda pid: next(once, lambda pid: None)(pid)):
        process = begin()
        out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert out.count("trying again (2 of 3)") == 1 and out.splitlines()[-1] == "connected"


@pytest.mark.ray
def test_a_raylet_that_hangs_ends_at_the_deadline_with_one_line(folder: str, begin: Begin) -> None:
    began = time.monotonic()
    with raylets(folder, freeze):
        process = begin(RAYMIX_RAY_START_S="25")
        out, err = process.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert process.returncode == 1 and len(err.splitlines()) == 1, err
    assert "no answer for 25 s" in err and "RAYMIX_RAY_START_S=50" in err
    assert "starting Ray: 10 s" in out  # a sign of life meanwhile


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_search_while_ray_hangs(
    folder: str, begin: Begin, demo: Path, number: signal.Signals, tmp_path: Path
) -> None:
    """The whole command: 143 or 130 within seconds, with the line that resumes."""
    shutil.copytree(demo / "clips", tmp_path / "clips")
    words = [*SMALL, f"home={tmp_path}", f"dataset.root={demo}/videos/demo", "study.n_trials=1", "study.final=0"]
    frozen = threading.Event()
    with raylets(folder, lambda pid: (freeze(pid), frozen.set())[0]):
        process = begin("-m", "raymix.tune", *words, cwd=tmp_path)
        assert frozen.wait(180)
        time.sleep(2)
        sent = time.monotonic()
        process.send_signal(number)
        process.wait(60)
        ended = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert ended - sent < 8
    assert process.returncode == 128 + number, err
    said = [line for line in err.splitlines() if line.startswith("raymix:")]
    assert len(said) == 1 and said[0].startswith(
        f"raymix: {number.name}: everything scored so far is kept; go on with:"
    )
    assert "Traceback" not in err


@pytest.mark.ray
def test_a_driver_that_is_killed_takes_its_head_along(folder: str, begin: Begin) -> None:
    process = begin()
    end = time.monotonic() + 120
    while not processes(folder, "/raylet") and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.communicate()  # the fixture looks for what is left


@pytest.mark.slow
def test_a_signal_that_compiled_code_keeps_from_python_ends_the_process(begin: Begin) -> None:
    """A mutex that is locked twice waits for ever, a signal does not end the wait, and no Python handler can run."""
    program = """
import ctypes
from raymix.runtime import ray_cluster
with ray_cluster.handle_interrupts(lambda stop: f"{stop}: ended"):
    c, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # zeros: an initialized mutex
    print("waiting", flush=True)
    c.pthread_mutex_lock(mutex)
    c.pthread_mutex_lock(mutex)
"""
    process = begin("-c", program)
    assert process.stdout and process.stdout.readline() == "waiting\n"
    time.sleep(0.5)
    sent = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < ray_cluster.UNHEARD + 2
    assert (process.returncode, err) == (143, "raymix: SIGTERM: ended\n")


@pytest.mark.ray
def test_an_address_where_nothing_answers_is_one_line_soon(folder: str, begin: Begin) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    began = time.monotonic()
    process = begin(RAY_ADDRESS=f"127.0.0.1:{port}")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and len(err.splitlines()) == 1, err
    assert err.startswith(f"raymix: RAY_ADDRESS=127.0.0.1:{port}: no Ray cluster answers there")
    assert time.monotonic() - began < 40


@pytest.mark.ray
def test_an_address_where_something_else_answers_is_one_line(folder: str, begin: Begin) -> None:
    """A server that accepts connections and says nothing."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        process = begin(RAY_ADDRESS=f"127.0.0.1:{port}")
        _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "Traceback" not in err, err
    assert f"RAY_ADDRESS=127.0.0.1:{port}: no Ray cluster answers there" in err


# -- checks before anything starts


def lines(call: Callable[[Callable[[str], None]], object]) -> list[str]:
    said: list[str] = []
    call(said.append)
    return said


def test_a_long_temporary_folder_is_replaced_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAYMIX_RAY_TMP", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    said: list[str] = []
    assert ray_head.ray_temporary_folder(said.append) == "/tmp/ray"
    assert len(said) == 1 and "too long for Ray's sockets" in said[0]


def test_the_longest_folder_that_is_allowed_and_the_shortest_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real sockets: the longest allowed path takes Ray's longest socket name, one byte more does not."""
    most = ray_head.SOCKET_LIMIT - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
    base = tempfile.mkdtemp(prefix="rx", dir="/tmp")
    fits, over = [f"{base}/{'x' * (n - len(base) - 1)}" for n in (most, most + 1)]
    try:
        monkeypatch.setenv("RAYMIX_RAY_TMP", fits)
        assert ray_head.ray_temporary_folder(print) == fits
        for path, works in ((fits, True), (over, False)):
            place = Path(path) / "session_2026-01-01_00-00-00_000000_4194304/sockets"
            place.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as one:
                if works:
                    one.bind(str(place / "plasma_store"))
                else:
                    with pytest.raises(OSError, match="too long"):
                        one.bind(str(place / "plasma_store"))
        monkeypatch.setenv("RAYMIX_RAY_TMP", over)
        with pytest.raises(ConfigError, match=f"{most + 1} bytes.*at most {most}"):
            ray_head.ray_temporary_folder(print)
    finally:
        shutil.rmtree(base)


def test_a_folder_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIX_RAY_TMP", "/proc/rx")
    with pytest.raises(ConfigError, match=r"/proc/rx: Ray cannot write there .*RAYMIX_RAY_TMP=DIR"):
        ray_head.ray_temporary_folder(print)


def test_little_space_is_refused(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("RAYMIX_RAY_TMP", folder)
    monkeypatch.setattr(ray_head, "LEAST_FREE", 1 << 60)
    with pytest.raises(ConfigError, match="MiB free"):
        ray_head.ray_temporary_folder(print)


def test_an_object_store_larger_than_shared_memory_is_said() -> None:
    free = os.statvfs("/dev/shm")
    more = free.f_bavail * free.f_frsize + (1 << 30)
    assert not lines(lambda say: ray_head.check_object_store(1 << 20, say))
    assert not lines(lambda say: ray_head.check_object_store(0, say))
    assert "--shm-size" in lines(lambda say: ray_head.check_object_store(more, say))[0]


def test_a_bad_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("soon", "0", "-3", "nan", "inf"):
        monkeypatch.setenv("RAYMIX_RAY_START_S", value)
        with pytest.raises(ConfigError, match="number of seconds above 0"):
            ray_head.start_head({"_temp_dir": "/tmp"}, print)


def test_the_last_error_of_a_log() -> None:
    log = """[2026-11-30 22:00:00,123 I 12 12] (raylet) main.cc:1: Starting
[2026-11-30 22:00:01,456 C 12 12] (raylet) agent.cc:20:  Check failed: agent did not register
[2026-11-30 22:00:02,456 I 12 12] (raylet) main.cc:9: bye
"""
    assert ray_head.last_error_line(log) == "agent.cc:20:  Check failed: agent did not register"
    assert ray_head.last_error_line("one\n\ntwo\n") == "two" and ray_head.last_error_line("\n") == ""


def test_the_private_interfaces_of_ray_that_are_used() -> None:
    """Fails where an upgrade of Ray changes what `ray_head` and `session` rely on."""
    from ray._private import node, services
    from ray._private.authentication.authentication_token_setup import enable_token_auth_by_default

    assert list(inspect.signature(services.get_node).parameters) == ["gcs_address", "node_id"]
    source = inspect.getsource(node.Node.__init__)
    assert "ray._private.services.get_node(" in source and "except RuntimeError" in source
    assert "raylet_start_wait_time_s = 30" in source  # the limit that `wait_for_registration` extends
    assert 'f"session_{date_str}_{os.getpid()}"' in source  # the name of the log folder
    assert list(inspect.signature(enable_token_auth_by_default).parameters) == []
    everything = inspect.getsource(node)
    assert "RAY_gcs_server_port_wait_time_s" in everything and 'default_prefix="plasma_store"' in everything
    for name in ("gcs_server", "raylet"):
        assert f"ray._private.services.start_{name}(" in everything and hasattr(services, f"start_{name}")
    assert services.ProcessInfo._fields[0] == "process"
    raylet = Path(services.RAYLET_EXECUTABLE).read_bytes()
    for name in ("agent_register_timeout_ms", "raylet_start_wait_time_s"):
        assert f"RAY_{name}".encode() in raylet


def test_registration_may_take_longer_than_ray_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    asked: list[float] = []

    def not_yet(gcs_address: str, node_id: str) -> dict[str, int]:
        asked.append(time.monotonic())
        if len(asked) < 4:
            raise RuntimeError("not registered")
        return {"node_manager_port": 1}

    monkeypatch.setattr(services, "get_node", not_yet)
    ray_internals.wait_for_registration(30)
    assert services.get_node("here", "node") == {"node_manager_port": 1} and len(asked) == 4
    asked.clear()
    monkeypatch.setattr(services, "get_node", not_yet)
    ray_internals.wait_for_registration(0.2)
    with pytest.raises(RuntimeError):
        services.get_node("here", "node")


@pytest.mark.ray
def test_a_start_is_quiet_and_stops_whole(folder: str, begin: Begin) -> None:
    process = begin()
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "") and out.splitlines()[-1] == "connected"
