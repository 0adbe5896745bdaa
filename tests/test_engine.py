"""What a study is before Ray starts: read from its ledger, which an earlier version may have written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from raymix import engine
from raymix.config import Tune, from_plain
from raymix.ledger import Ledger
from raymix.search_space import load

EARLIER = Path(__file__).with_name("ledgers") / "version-0.1.jsonl"  # one trial ended, one was under way, of 3


def earlier(home: Path) -> tuple[Tune, Any]:
    """The configuration and space of the study in EARLIER, whose ledger lies under `home`."""
    folder = home / "studies/earlier/ledger"
    folder.mkdir(parents=True)
    shutil.copy(EARLIER, folder / "records.jsonl")
    config = Ledger(str(folder.parent)).read().config
    run: Tune = from_plain(config, Tune)
    run.home = str(home)
    return run, load(run.search_spaces, config)


def test_the_ledger_of_an_earlier_version_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash of the space was taken over Optuna's own text, which an upgrade of Optuna may change."""
    monkeypatch.setattr(optuna.distributions.BaseDistribution, "__repr__", lambda self: "another version")
    run, space = earlier(tmp_path)
    plan = engine.plan(run, space, space.hash)
    assert plan.study.owed == [1, 2] and plan.planned == 3 and engine.lacks(plan)
    assert plan.study.trials[1].params["optimizer.learning_rate"] == 0.002
