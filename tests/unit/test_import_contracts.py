"""Which module may import which: the contracts of import-linter in pyproject.toml, and what an import loads."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import raymix

ROOT = Path(__file__).resolve().parents[2]


def test_contracts_hold() -> None:
    """In a process of its own, since import-linter configures logging and disables all loggers that exist."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports('pyproject.toml', cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in done.stdout


@pytest.mark.slow
def test_library_packages_import_neither_ray_nor_hydra() -> None:
    program = (
        "import sys, raymix.data, raymix.methods, raymix.metrics, raymix.reporting, raymix.training.loop; "
        "print(sorted({'ray', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_the_public_interface_is_imported_when_it_is_used() -> None:
    program = "import sys, raymix; print(sorted({'ray', 'torch', 'hydra', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
    assert all(getattr(raymix, name) is not None for name in raymix.__all__)
    with pytest.raises(AttributeError, match="no attribute 'localise'"):
        raymix.localise  # noqa: B018
