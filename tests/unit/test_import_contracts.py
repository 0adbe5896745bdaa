"""Which module may import which: the contracts of import-linter in pyproject.toml, and what an import loads."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]


def test_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    found = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    printed = capsys.readouterr().out
    assert found == 0, printed
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in printed


@pytest.mark.slow
def test_library_packages_import_neither_ray_nor_hydra() -> None:
    program = (
        "import sys, raymix.data, raymix.methods, raymix.metrics, raymix.reporting, raymix.training.loop; "
        "print(sorted({'ray', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
