"""An S3 server with bad days: moto behind a layer that fails a seeded share of requests and can go down for a while.

python tests/support/s3_server_process.py --fail 0.02 --seed 1 --down 20        prints its port, then serves until it is ended

SIGUSR1: connections are refused for `--down` seconds; what was stored stays. A failed request is one of: 500, 503, the
connection closed before the request was handled, closed after it (the hard case: it counts, and nobody hears of it), or
closed in the middle of the answer.
SIGUSR2: a line of counts on standard output.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

FAULTS = ("500", "503", "unheard", "unanswered", "cut")


class Faults:
    """A WSGI layer: some requests fail, by a seeded draw."""

    def __init__(self, application: Callable[..., Iterable[bytes]], share: float, seed: int) -> None:
        self.application, self.share, self.counts = application, share, Counter[str]()
        self.down = False  # connections that were kept alive end too
        self._random, self._lock = random.Random(seed), threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.counts["requests"] += 1
            fault = self._random.choice(FAULTS) if self._random.random() < self.share else ""
            fault = "unheard" if self.down else fault
            self.counts[fault or "served"] += 1
        if fault in ("500", "503"):
            length = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"].read(length)  # an answer before the body is read would be another fault
            return _answer(start_response, fault)
        if fault == "unheard":
            return _hang_up(environ)
        body = list(self.application(environ, start_response))
        if fault == "cut":
            return _halved(environ, b"".join(body))
        return _hang_up(environ) if fault else body


def _answer(start_response: Callable[..., Any], fault: str) -> Iterable[bytes]:
    name, words = {"500": ("InternalError", "Internal Server Error"), "503": ("SlowDown", "Slow Down")}[fault]
    start_response(f"{fault} {words}", [("Content-Type", "application/xml")])
    return [f"<Error><Code>{name}</Code><Message>a bad day</Message></Error>".encode()]


def _hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def _halved(environ: dict[str, Any], body: bytes) -> Iterable[bytes]:
    yield body[: len(body) // 2]
    _hang_up(environ)


class Quiet(WSGIRequestHandler):
    """No line a request."""

    protocol_version = "HTTP/1.1"  # connections are kept, as real servers do

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Server:
    """Listens, stops listening, listens again at the same port."""

    def __init__(self, share: float, seed: int, port: int) -> None:
        self.faults = Faults(DomainDispatcherApplication(create_backend_app), share, seed)
        self.port = port
        self._up()

    def _up(self) -> None:
        self._server = make_server("127.0.0.1", self.port, self.faults, threaded=True, request_handler=Quiet)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self, seconds: float) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.faults.down = True
        time.sleep(seconds)
        self.faults.down = False
        self._up()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fail", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--down", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    wanted = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    server = Server(given.fail, given.seed, given.port)
    print(server.port, flush=True)
    while True:
        if signal.sigwait(wanted) == signal.SIGUSR1:
            server.down(given.down)
        else:
            print(json.dumps(server.faults.counts), flush=True)


if __name__ == "__main__":
    main()
