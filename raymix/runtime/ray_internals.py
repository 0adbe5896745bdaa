"""Private interfaces of Ray 2.60 that raymix uses, all of them here; tests/unit/runtime/test_ray_internals.py notices a change."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection
from typing import Any

from ray._private import services
from ray._private.authentication import authentication_token_setup
from ray._private.state import state


def enable_token_authentication() -> None:
    """What `ray.init` does for a cluster that it starts itself; processes that are started later inherit the mode."""
    authentication_token_setup.enable_token_auth_by_default()


def autoscaler_config() -> Any:
    """The autoscaler's own description of its node groups, which Ray Train reads too; None where nothing scales."""
    return state.get_cluster_config()


def wait_for_registration(seconds: float) -> None:
    """Make `ray.init` wait this long for the raylet to register.

    Ray 2.60 calls `services.get_node` until it answers, for 30 s (a constant in `Node.__init__`); that function is
    replaced by one that waits itself.
    """
    ask = services.get_node

    def get_node(gcs_address: str, node_id: str) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                return ask(gcs_address, node_id)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.3)

    services.get_node = get_node


def record_started_processes(names: Collection[str]) -> dict[str, subprocess.Popen[bytes]]:
    """The processes of these names (`gcs_server`, `raylet`), each as soon as `ray.init` has started it."""
    started: dict[str, subprocess.Popen[bytes]] = {}

    def recorded(name: str, start: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **settings: Any) -> Any:
            info = start(*arguments, **settings)
            started[name] = info.process
            return info

        return wrapper

    for name in names:
        setattr(services, f"start_{name}", recorded(name, getattr(services, f"start_{name}")))
    return started
