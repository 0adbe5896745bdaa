"""An S3 server for tests, run beside them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path


class Store:
    """The S3 server of `s3server.py` in a process of its own, and the environment in which others find it."""

    def __init__(self, fail: float = 0.0, seed: int = 0, down: float = 20.0, bucket: str = "store") -> None:
        command = [
            sys.executable,
            str(Path(__file__).with_name("s3_server_process.py")),
            "--fail",
            str(fail),
            "--seed",
            str(seed),
            "--down",
            str(down),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._out.readline().strip()}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.uri = f"s3://{bucket}"

    def go_down(self) -> None:
        """Refuse connections for a while, from now on."""
        self._process.send_signal(signal.SIGUSR1)

    def counts(self) -> dict[str, int]:
        """Requests so far by what became of them."""
        self._process.send_signal(signal.SIGUSR2)
        counts: dict[str, int] = json.loads(self._out.readline())
        return counts

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._out.close()
