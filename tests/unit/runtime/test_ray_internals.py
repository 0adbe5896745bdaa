"""An upgrade of Ray is noticed here: the private interfaces of `raymix.runtime.ray_internals` are those of Ray 2.60."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import ray
from ray._private import services
from ray._private.state import state

from raymix.runtime import ray_internals

PACKAGE = Path(ray_internals.__file__).resolve().parents[1]


def test_the_version_that_was_read() -> None:
    assert ray.__version__.startswith("2.60.")


def test_functions_that_are_replaced() -> None:
    assert list(inspect.signature(services.get_node).parameters)[:2] == ["gcs_address", "node_id"]
    for name in ("gcs_server", "raylet"):
        assert callable(getattr(services, f"start_{name}"))
    assert callable(state.get_cluster_config) and callable(ray_internals.enable_token_authentication)


def test_private_interfaces_are_imported_in_one_module() -> None:
    private = re.compile(r"^\s*(?:from|import) ray(?:\.\w+)*\._(?:private|internal)", re.M)
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if private.search(path.read_text())}
    assert found == {"runtime/ray_internals.py"}
