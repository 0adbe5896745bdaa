"""The start commands of cluster/on_prem.yaml, really run: a head and a worker on this machine, and jobs for them.

Changed are only what two nodes on one machine must not share (ports), and sizes. `ray stop` is left out, since it would
end every Ray of this user, and the autoscaler's config, since it would go and start workers over ssh.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.cluster_file_rules import load, options, starts

PATIENCE = 180.0  # seconds, for what takes some 20 on two slow cores


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nodes:
    """A head and its workers as on_prem.yaml starts them, in a home folder of their own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rxc-", dir="/tmp"))  # short: Ray's sockets live below it
        self.token = self.write_token(self.folder / ".raymix/auth_token", "3" * 64)
        self.gcs, self.dashboard = free_port(), free_port()
        activate = self.folder / "raymix-env/bin/activate"
        activate.parent.mkdir(parents=True)
        activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept["OMP_NUM_THREADS"] = "1"  # as the launcher does
        self.environment = {
            **kept,
            "HOME": str(self.folder),
            "RAY_HEAD_IP": "127.0.0.1",
            "RAYMIX_TEST": str(self.folder),
        }

    def write_token(self, path: Path, text: str) -> Path:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    def command(self, role: str) -> str:
        [command] = starts(load("on_prem.yaml"), role)
        given = options(command)
        if role == "head":
            command = command.replace(f"--autoscaling-config={given['--autoscaling-config']}", "")
            command = command.replace("--port=6379", f"--port={self.gcs} --temp-dir={self.folder}/ray")
            command = command.replace("--dashboard-port=8265", f"--dashboard-port={self.dashboard}")
            command += f" --ray-client-server-port={free_port()}"
        else:
            command = command.replace("$RAY_HEAD_IP:6379", f"$RAY_HEAD_IP:{self.gcs}")
        command = command.replace("--object-manager-port=8076", f"--object-manager-port={free_port()}")
        command += f" --dashboard-agent-listen-port={free_port()} --metrics-export-port={free_port()}"
        command += " --node-ip-address=127.0.0.1 --min-worker-port=0 --max-worker-port=0"
        return f"{command} --num-cpus=4 --object-store-memory=100000000"

    def start(self, role: str) -> None:
        log = self.folder / f"{role}.log"
        with open(log, "w") as out:
            run = ["bash", "-c", self.command(role)]
            done = subprocess.run(
                run,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
                timeout=PATIENCE,
            )
        assert done.returncode == 0, log.read_text()[-3000:]

    def client(self, code: str, **variables: str) -> subprocess.Popen[str]:
        run = [sys.executable, "-c", code, f"127.0.0.1:{self.gcs}"]
        return subprocess.Popen(
            run,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**self.environment, **variables},
        )

    def job(self, *words: str, fails: bool = False, **variables: str) -> str:
        """`ray job ...` as the head comment of the file has it; what it said."""
        command = f". ~/raymix-env/bin/activate && ray job {words[0]} --address http://127.0.0.1:{self.dashboard} "
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        environment = {**self.environment, **own, **variables}
        done = subprocess.run(
            ["bash", "-c", command + shlex.join(words[1:])],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment,
            timeout=2 * PATIENCE,
        )
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def asked(self, token: str | None) -> int:
        """The HTTP status that the dashboard's jobs answer with."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.dashboard}/api/jobs/")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                assert time.monotonic() < end, "the dashboard does not answer"
                time.sleep(0.5)

    def end(self) -> None:
        """End what was started here, by process id, and nothing else: all of it has this folder in its environment."""
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
            left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._ours(pid)]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if not left:
                break
            time.sleep(2)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ours(self, pid: int) -> bool:
        try:
            return f"RAYMIX_TEST={self.folder}" in Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
        except OSError:
            return False
