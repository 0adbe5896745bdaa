"""What a study is before Ray starts: read from its event_log, which an earlier version may have written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from raymix.config import SearchConfig, TrainingConfig, TuneConfig, config_from_plain, config_to_plain
from raymix.search import planning, study_plan
from raymix.search.planning import clamp_grace_period
from raymix.search.space_file import parse_search_space
from raymix.tracking.event_log import EventLog

EARLIER = (
    Path(__file__).resolve().parents[2] / "conformance/version_0_1/ledger.jsonl"
)  # one trial ended, one was under way, of 3


def earlier(home: Path) -> tuple[TuneConfig, Any]:
    """The configuration and space of the study in EARLIER, whose event_log lies under `home`."""
    folder = home / "studies/earlier/ledger"
    folder.mkdir(parents=True)
    shutil.copy(EARLIER, folder / "records.jsonl")
    config = EventLog(str(folder.parent)).read().config
    run: TuneConfig = config_from_plain(config, TuneConfig)
    run.home = str(home)
    return run, parse_search_space(run.search_spaces, config)


def test_the_ledger_of_an_earlier_version_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash of the space was taken over Optuna's own text, which an upgrade of Optuna may change."""
    monkeypatch.setattr(optuna.distributions.BaseDistribution, "__repr__", lambda self: "another version")
    run, space = earlier(tmp_path)
    plan = planning.plan_study(run, space, space.hash)
    assert plan.study.pending_trials == [1, 2] and plan.planned == 3 and study_plan.has_pending_trials(plan)
    assert plan.study.trials[1].params["optimizer.learning_rate"] == 0.002


def test_an_exhausted_space_has_no_trials_to_run(tmp_path: Path) -> None:
    """Known before Ray starts: nothing is extended, unless points may repeat; a study that has ended exactly counts too."""
    run, _ = earlier(tmp_path)
    run.search_spaces = {"space": {"mixture.k": {"categorical": [2, 4]}}}
    run.study.name, run.study.n_trials = "small", 4
    space = parse_search_space(run.search_spaces, config_to_plain(run))
    plan = planning.plan_study(run, space, space.hash)
    assert study_plan.has_pending_trials(plan) and study_plan.unreachable_trials(plan) == 2
    study = planning.record_study_start(plan)
    for number in range(2):
        plan.event_log.append("trial_started", {"trial": number, "params": {"mixture.k": 2 + 2 * number}})
        plan.event_log.append("trial_ended", {"trial": number, "state": "completed"})
    plan.event_log.append("exhausted", {"trials": 2, "points": 2})
    assert not study_plan.has_pending_trials(planning.reload_plan(plan)) and study.planned == 4
    run.study.extend = 3
    assert not study_plan.has_pending_trials(planning.reload_plan(plan)) and planning.reload_plan(plan).planned == 2
    run.search.repeats = True
    more = planning.reload_plan(plan)
    assert study_plan.has_pending_trials(more) and more.planned == 7
    assert planning.record_study_start(more).pending_trials == [2, 3, 4, 5, 6]

    run.study.name, run.study.n_trials, run.study.extend, run.search.repeats = "exact", 2, 0, False
    plan = planning.plan_study(run, space, space.hash)
    planning.record_study_start(plan)
    for number in range(2):
        plan.event_log.append("trial_started", {"trial": number, "params": {"mixture.k": 2 + 2 * number}})
        plan.event_log.append("trial_ended", {"trial": number, "state": "completed"})
    run.study.extend = 3
    assert not study_plan.has_pending_trials(planning.reload_plan(plan))


@pytest.mark.parametrize(
    ("scheduler", "effect"), [("asha", "stopped"), ("median", "stopped"), ("pbt", "takes over"), ("fifo", "")]
)
def test_a_grace_period_longer_than_the_trials(scheduler: str, effect: str) -> None:
    config = TuneConfig(training=TrainingConfig(epochs=2), search=SearchConfig(scheduler=scheduler, grace_period=4))
    notes = clamp_grace_period(config)
    assert config.search.grace_period == (2 if effect else 4) and len(notes) == bool(effect)
    assert all(
        note.startswith("search.grace_period=4: more than training.epochs=2; 2 is used") and effect in note
        for note in notes
    )
    assert clamp_grace_period(config) == [], "said once"
