"""What a study is before Ray starts: read from its ledger, which an earlier version may have written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from raymix import engine
from raymix.config import Fit, Search, Tune, from_plain, to_plain
from raymix.ledger import Ledger
from raymix.search_space import load
from raymix.tune import clamp_grace

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


def test_an_exhausted_space_has_no_trials_to_run(tmp_path: Path) -> None:
    """Known before Ray starts: nothing is extended, unless points may repeat; a study that has ended exactly counts too."""
    run, _ = earlier(tmp_path)
    run.search_spaces = {"space": {"mixture.k": {"categorical": [2, 4]}}}
    run.study.name, run.study.trials = "small", 4
    space = load(run.search_spaces, to_plain(run))
    plan = engine.plan(run, space, space.hash)
    assert engine.lacks(plan) and engine.unreachable(plan) == 2
    study = engine.begin(plan)
    for number in range(2):
        plan.ledger.append("trial_started", {"trial": number, "params": {"mixture.k": 2 + 2 * number}})
        plan.ledger.append("trial_ended", {"trial": number, "state": "completed"})
    plan.ledger.append("exhausted", {"trials": 2, "points": 2})
    assert not engine.lacks(engine.again(plan)) and study.planned == 4
    run.study.extend = 3
    assert not engine.lacks(engine.again(plan)) and engine.again(plan).planned == 2
    run.search.repeats = True
    more = engine.again(plan)
    assert engine.lacks(more) and more.planned == 7
    assert engine.begin(more).owed == [2, 3, 4, 5, 6]

    run.study.name, run.study.trials, run.study.extend, run.search.repeats = "exact", 2, 0, False
    plan = engine.plan(run, space, space.hash)
    engine.begin(plan)
    for number in range(2):
        plan.ledger.append("trial_started", {"trial": number, "params": {"mixture.k": 2 + 2 * number}})
        plan.ledger.append("trial_ended", {"trial": number, "state": "completed"})
    run.study.extend = 3
    assert not engine.lacks(engine.again(plan))


@pytest.mark.parametrize(
    ("scheduler", "effect"), [("asha", "stopped"), ("median", "stopped"), ("pbt", "takes over"), ("fifo", "")]
)
def test_a_grace_period_longer_than_the_trials(scheduler: str, effect: str) -> None:
    config = Tune(fit=Fit(epochs=2), search=Search(scheduler=scheduler, grace=4))
    notes = clamp_grace(config)
    assert config.search.grace == (2 if effect else 4) and len(notes) == bool(effect)
    assert all(
        note.startswith("search.grace=4: more than fit.epochs=2; 2 is used") and effect in note for note in notes
    )
    assert clamp_grace(config) == [], "said once"
