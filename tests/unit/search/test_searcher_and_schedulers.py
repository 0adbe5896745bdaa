"""The search tells the truth: to Optuna, after a restart, and to the schedulers. Under real Ray Tune, with fake trials."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raymix.config import ConfigError, SearchConfig
from raymix.search.optuna_searcher import JOURNAL_FILE, StudyOptunaSearch, open_journal
from raymix.search.samplers import SAMPLERS, ConstrainedSampler
from raymix.search.schedulers import ResumableASHAScheduler, ResumableMedianStopping, ResumablePBT, build_scheduler
from raymix.search.space_file import parse_search_space
from raymix.tracking.event_log import EventLog
from raymix.tracking.study import END_STATES, StudyState, replay_events

METRIC, EPOCHS = "val/sounding_accuracy", 4
CONFIG = {
    "method": {"temperature": 0.07, "size": 64, "pool": "max", "beta": 1.0},
    "mixture": {"k": 2},
    "training": {"batch_size": 48},
}
SPACE = {
    "space": {
        "method.temperature": {"float": [0.02, 0.3], "log": True},
        "mixture.k": {"int": [2, 4]},
        "method.size": {"categorical": [64, 128, 256]},
        "method.pool": {"categorical": ["max", "lse"]},
        "method.beta": {"float": [1.0, 20.0], "condition": "method.pool == 'lse'"},
    },
    "constraints": ["method.size * mixture.k <= 384"],
    "initial_points": [
        {"method.temperature": 0.07, "mixture.k": 2, "method.size": 128, "method.pool": "max"},
        {"mixture.k": 3},
    ],
}


@pytest.fixture(scope="module")
def space() -> Any:
    return parse_search_space(SPACE, CONFIG)


def started(event_log: EventLog, planned: int, space: Any, seed: int = 0, mode: str = "max") -> StudyState:
    fields = {
        "name": "fake",
        "objective": METRIC,
        "mode": mode,
        "planned": planned,
        "space_hash": space.hash,
        "seed": seed,
    }
    event_log.append("study", {**fields, "config": CONFIG})
    return event_log.read()


def score(params: dict[str, Any], epoch: int) -> float:
    """Higher near temperature .07; falls after epoch 3, so that best and last differ."""
    return 1.0 - abs(math.log(params["method.temperature"] / 0.07)) / 3 - 0.3 / epoch - 0.2 * (epoch > 3)


def result(params: dict[str, Any], epoch: int) -> dict[str, Any]:
    done = {"done": True, "ended": "completed"} if epoch >= EPOCHS else {}
    return {METRIC: score(params, epoch), "epoch": epoch, **done}


def run_alone(
    searcher: StudyOptunaSearch, event_log: EventLog | None, trials: int, name: str = "t"
) -> list[dict[str, Any]]:
    """A sequential Tune in four lines: what it would tell the searcher and the event log."""
    dealt = []
    for i in range(trials):
        config = searcher.suggest(f"{name}{i}")
        if config == Searcher.FINISHED:
            break
        dealt.append(config)
        write(event_log, "trial_started", trial=config["trial"], params=config["params"])
        for epoch in range(1, EPOCHS + 1):
            last = result(config["params"], epoch)
            write(event_log, "epoch_scored", trial=config["trial"], epoch=epoch, metrics={METRIC: last[METRIC]})
            if epoch < EPOCHS:
                searcher.on_trial_result(f"{name}{i}", last)
        write(event_log, "trial_ended", trial=config["trial"], state="completed")
        searcher.on_trial_complete(f"{name}{i}", last)
    return dealt


def write(event_log: EventLog | None, kind: str, **record: Any) -> None:
    if event_log is not None:
        event_log.append(kind, record)


def test_states_values_and_reasons(tmp_path: Path, space: Any) -> None:
    study = started(EventLog(str(tmp_path)), 6, space)
    searcher = StudyOptunaSearch(space, study, SearchConfig(), EPOCHS, open_journal(str(tmp_path)))
    params = [searcher.suggest(str(i)) for i in range(6)]
    assert [p["trial"] for p in params] == list(range(6)) and {p["attempt"] for p in params} == {1}
    assert params[0]["params"] == SPACE["initial_points"][0] and params[1]["params"]["mixture.k"] == 3
    for i, epochs in enumerate([4, 2, 1, 0, 0, 3]):
        for epoch in range(1, epochs):
            searcher.on_trial_result(str(i), {METRIC: [0.2, 0.8, 0.5, 0.4][epoch - 1], "epoch": epoch})
    searcher.on_trial_complete("0", {METRIC: 0.4, "epoch": 4, "ended": "completed", "done": True})
    searcher.on_trial_complete("1", {METRIC: 0.8, "epoch": 2, "done": True})  # stopped: Tune kept the last result back
    searcher.on_trial_complete("2", {METRIC: -math.inf, "epoch": 1, "ended": "failed", "failed": "NaN in the loss"})
    searcher.on_trial_complete("3", None, error=True)
    searcher.on_trial_complete("4", {})
    searcher.on_trial_complete("5", {METRIC: 0.5, "epoch": 3})
    searcher.on_trial_complete("5", {METRIC: 0.9, "epoch": 4, "ended": "completed"})  # told twice: the first counts
    assert searcher.suggest("more") == Searcher.FINISHED

    stored = optuna.load_study(study_name="fake", storage=reopened(tmp_path)).trials
    assert [t.state.name for t in stored] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "FAIL", "PRUNED"]
    assert stored[0].value == 0.8, "the best epoch, not the last"
    assert stored[0].intermediate_values == {1: 0.2, 2: 0.8, 3: 0.5, 4: 0.4}
    assert stored[1].intermediate_values == {1: 0.2, 2: 0.8}
    assert stored[2].intermediate_values == {}, "the worst score of a failure is no score"
    reasons = [t.user_attrs.get("reason") for t in stored]
    assert reasons == [None, None, "NaN in the loss", "its process was lost", "ended without a score", None]


def reopened(folder: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE)))


def test_full_length_without_a_word_is_complete(space: Any) -> None:
    searcher = StudyOptunaSearch(space, StudyState(name="s", objective=METRIC, planned=1), SearchConfig(), EPOCHS)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {METRIC: 0.5, "epoch": EPOCHS})
    assert searcher.study.trials[0].state == TrialState.COMPLETE


def known() -> StudyState:
    """Trials 0 completed, 1 pruned, 2 failed, 3 unfinished with two epochs, 4 never recorded, 5 started, of 8 planned."""
    base = {"method.temperature": 0.1, "mixture.k": 2, "method.size": 64, "method.pool": "max"}
    records: list[dict[str, Any]] = [
        {"kind": "study", "name": "fake", "objective": METRIC, "mode": "max", "planned": 8, "space_hash": "", "seed": 3}
    ]
    for number, epochs in {0: 4, 1: 2, 2: 1, 3: 2, 5: 0}.items():
        params = {**base, "method.temperature": 0.05 + 0.01 * number}
        records.append({"kind": "trial_started", "trial": number, "params": params})
        for epoch in range(1, epochs + 1):
            records.append(
                {"kind": "epoch_scored", "trial": number, "epoch": epoch, "metrics": {METRIC: number + epoch / 10}}
            )
    for number, state in {0: "completed", 1: "pruned", 2: "failed"}.items():
        records.append(
            {"kind": "trial_ended", "trial": number, "state": state, "reason": "out of memory" * (number == 2)}
        )
    return replay_events({"id": str(i), "at": 1.7e9 + i, **record} for i, record in enumerate(records))


def test_rebuilt_from_the_ledger_number_by_number(tmp_path: Path, space: Any) -> None:
    (tmp_path / JOURNAL_FILE).write_text("left by a killed driver")
    os.symlink("nowhere", tmp_path / f"{JOURNAL_FILE}.lock")
    searcher = StudyOptunaSearch(space, known(), SearchConfig(), EPOCHS, open_journal(str(tmp_path)))
    trials = searcher.study.trials
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "FAIL", "WAITING", "WAITING", "WAITING"]
    assert trials[0].value == 0.4 and trials[1].intermediate_values == {1: 1.1, 2: 1.2}
    assert trials[2].user_attrs["reason"] == "out of memory"
    assert trials[0].params["method.temperature"] == 0.05
    assert trials[0].datetime_start < trials[0].datetime_complete

    dealt = [searcher.suggest(str(i)) for i in range(5)]
    assert [d["trial"] for d in dealt] == [3, 4, 5, 6, 7]
    assert [d["attempt"] for d in dealt] == [2, 1, 2, 1, 1]
    assert dealt[0]["params"] == known().trials[3].params and dealt[2]["params"] == known().trials[5].params
    assert searcher.suggest("x") == Searcher.FINISHED
    searcher.on_trial_result("0", {METRIC: 3.3, "epoch": 3})
    searcher.on_trial_complete("0", {METRIC: 3.1, "epoch": 4, "ended": "completed"})
    assert searcher.study.trials[3].intermediate_values == {1: 3.1, 2: 3.2, 3: 3.3, 4: 3.1}
    assert searcher.study.trials[3].value == 3.3
    searcher.close()
    assert {t.state.name for t in searcher.study.trials} == {"COMPLETE", "PRUNED", "FAIL", "WAITING"}
    assert [t.number for t in searcher.study.trials if t.state == TrialState.WAITING] == [4, 5, 6, 7]


def test_close_keeps_the_parameters_of_interrupted_trials(tmp_path: Path, space: Any) -> None:
    searcher = StudyOptunaSearch(space, known(), SearchConfig(), EPOCHS, open_journal(str(tmp_path)))
    dealt = [searcher.suggest(str(i)) for i in range(4)]
    searcher.close()
    stored = optuna.load_study(study_name="fake", storage=reopened(tmp_path))
    assert stored.trials[6].state == TrialState.WAITING and stored.trials[6].params == dealt[3]["params"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_rules_cost_no_number_and_restarts_change_no_draw(tmp_path: Path, space: Any, sampler: str) -> None:
    """Trials in one go, and in sittings of three: the same numbers and (but for CMA-ES) the same parameters."""
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    settings, n = SearchConfig(sampler=sampler, n_startup_trials=5), 8 if sampler == "gp" else 14
    event_log = EventLog(str(tmp_path / "whole"))
    whole = run_alone(StudyOptunaSearch(space, started(event_log, n, space), settings, EPOCHS), None, 99)
    assert [d["trial"] for d in whole] == list(range(n))
    assert all(space.check(d["params"]) == [] for d in whole)
    pieces: list[dict[str, Any]] = []
    event_log = EventLog(str(tmp_path / "pieces"))
    started(event_log, n, space)
    for i in range(5):
        pieces += run_alone(StudyOptunaSearch(space, event_log.read(), settings, EPOCHS), event_log, 3, f"s{i}-")
    assert [d["trial"] for d in pieces] == list(range(n))
    assert len({json.dumps(d["params"]) for d in pieces}) == n
    if sampler != "cmaes":  # whose covariance starts anew
        assert [d["params"] for d in pieces] == [d["params"] for d in whole]


def test_seeds_matter(space: Any) -> None:
    def drawn(seed: int) -> list[dict[str, Any]]:
        return run_alone(
            StudyOptunaSearch(space, StudyState("s", METRIC, planned=5, seed=seed), SearchConfig(), EPOCHS), None, 5
        )

    assert drawn(1) == drawn(1) and drawn(1)[2:] != drawn(2)[2:]


def test_the_sampler_learns_from_the_ledger(tmp_path: Path, space: Any) -> None:
    """After a restart TPE proposes near the best, as it could not if it knew nothing."""
    event_log = EventLog(str(tmp_path))
    started(event_log, 30, space)
    run_alone(StudyOptunaSearch(space, event_log.read(), SearchConfig(sampler="random"), EPOCHS), event_log, 30)
    event_log.append("extended", {"planned": 40})

    def spread(study: StudyState) -> float:
        dealt = [StudyOptunaSearch(space, study, SearchConfig(), EPOCHS).suggest("a") for study.seed in range(10)]
        return float(np.mean([abs(math.log(d["params"]["method.temperature"] / 0.07)) for d in dealt]))

    rows = event_log.read().trials.values()
    random = np.mean([abs(math.log(row.params["method.temperature"] / 0.07)) for row in rows if row.number > 1])
    assert spread(event_log.read()) < 0.5 * random


def test_a_rule_that_refuses_nearly_everything(space: Any) -> None:
    narrow = parse_search_space(
        {"space": {"training.batch_size": {"int": [1, 4000]}}, "constraints": ["training.batch_size % 100 == 0"]},
        CONFIG,
    )
    searcher = StudyOptunaSearch(narrow, StudyState("s", METRIC, planned=20), SearchConfig(n_startup_trials=3), EPOCHS)
    dealt = run_alone_batches(searcher)
    assert len(dealt) == 20 and all(batch % 100 == 0 for batch in dealt)
    assert searcher.sampler.rejected["training.batch_size % 100 == 0"] > 20


def run_alone_batches(searcher: StudyOptunaSearch) -> list[int]:
    found = []
    for i in range(20):
        found.append(searcher.suggest(str(i))["params"]["training.batch_size"])
        searcher.on_trial_complete(str(i), {METRIC: float(found[-1]), "epoch": EPOCHS})
    return found


def test_grid_visits_each_point_once_over_restarts(tmp_path: Path) -> None:
    rules = {
        "constraints": ["mixture.k != 3 or method.pool == 'max'"],
        "initial_points": [{"mixture.k": 2, "method.pool": "max"}],
    }
    small = parse_search_space(
        {"space": {"mixture.k": {"int": [2, 4]}, "method.pool": {"categorical": ["max", "lse"]}}, **rules}, CONFIG
    )
    event_log = EventLog(str(tmp_path))
    started(event_log, 99, small)
    dealt = []
    for i in range(4):
        searcher = StudyOptunaSearch(small, event_log.read(), SearchConfig(sampler="grid"), EPOCHS)
        for j in range(2):
            config = searcher.suggest(f"{i}{j}")
            if config == Searcher.FINISHED:
                continue
            dealt.append(config)
            event_log.append("trial_started", {"trial": config["trial"], "params": config["params"]})
            event_log.append("trial_ended", {"trial": config["trial"], "state": "pruned"})
            searcher.on_trial_complete(f"{i}{j}", {METRIC: 0.5, "epoch": 1})
    assert [d["trial"] for d in dealt] == list(range(5)) and dealt[0]["params"] == rules["initial_points"][0]
    assert len({json.dumps(d["params"], sort_keys=True) for d in dealt}) == 5


FEW = {  # 5 points: beta is searched with lse alone, and one pair is not allowed
    "space": {
        "mixture.k": {"int": [2, 3]},
        "method.pool": {"categorical": ["max", "lse"]},
        "method.beta": {"float": [1.0, 2.0], "step": 1.0, "condition": "method.pool == 'lse'"},
    },
    "constraints": ["mixture.k != 3 or method.pool == 'max' or method.beta > 1"],
}


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "grid"])
def test_no_point_is_trained_twice_and_a_small_space_ends(tmp_path: Path, sampler: str) -> None:
    """Over restarts too; what is left of the planned trials is no longer owed, and a resumed search deals nothing."""
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    small, event_log = parse_search_space(FEW, CONFIG), EventLog(str(tmp_path))
    started(event_log, 9, small)
    dealt, ended = [], []

    def exhausted(trials: int, points: int, unreachable: list[int]) -> None:
        ended.append((trials, points, unreachable))
        event_log.append("exhausted", {"trials": trials, "points": points})

    for i in range(4):
        settings = SearchConfig(sampler=sampler, n_startup_trials=2)
        searcher = StudyOptunaSearch(small, event_log.read(), settings, EPOCHS, on_exhausted=exhausted)
        dealt += run_alone_few(searcher, event_log, f"{i}-")
    assert [d["trial"] for d in dealt] == list(range(5)) and ended == [(5, 5, [])]
    assert len({small.key_of(d["params"]) for d in dealt}) == 5
    study = event_log.read()
    assert study.finished and study.expected == 5 and "5 points, 5 trials instead of 9" in study.exhaustion


def run_alone_few(searcher: StudyOptunaSearch, event_log: EventLog, name: str) -> list[dict[str, Any]]:
    """Two trials of one sitting, both under way before the first has ended."""
    dealt = [config for i in range(2) if isinstance(config := searcher.suggest(f"{name}{i}"), dict)]
    for i, config in enumerate(dealt):
        event_log.append("trial_started", {"trial": config["trial"], "params": config["params"]})
        event_log.append("trial_ended", {"trial": config["trial"], "state": ["pruned", "failed"][i]})
        searcher.on_trial_complete(f"{name}{i}", {METRIC: 0.5, "epoch": 1})
    return dealt


def test_points_tried_first_are_not_trained_twice_either(space: Any) -> None:
    """Of a whole point given twice the second is drawn instead, and of one with a gap only the gap, where it can be."""
    point = {"mixture.k": 2, "method.pool": "max"}
    small = parse_search_space(
        {**FEW, "initial_points": [point, point, {"mixture.k": 2}, {"mixture.k": 2}, {"mixture.k": 2}]}, CONFIG
    )
    searcher = StudyOptunaSearch(small, StudyState("s", METRIC, planned=9), SearchConfig(), EPOCHS)
    dealt = [config["params"] for i in range(9) if isinstance(config := searcher.suggest(str(i)), dict)]
    assert dealt[0] == point and len({small.key_of(each) for each in dealt}) == len(dealt) == 5
    endless = {**SPACE, "initial_points": [SPACE["initial_points"][0]] * 2}
    searcher = StudyOptunaSearch(
        parse_search_space(endless, CONFIG), StudyState("s", METRIC, planned=2), SearchConfig(), EPOCHS
    )
    first, second = (searcher.suggest(name)["params"] for name in "ab")
    assert first == SPACE["initial_points"][0] and second != first


def test_repeats_have_seeds_of_their_own(tmp_path: Path) -> None:
    """With search.repeats, and in a population; a repeated trial that is taken up again keeps its seed."""
    one = parse_search_space({"space": {"mixture.k": {"int": [2, 2]}}}, CONFIG)
    for settings in (
        SearchConfig(repeats=True),
        SearchConfig(repeats=True, sampler="grid"),
        SearchConfig(scheduler="pbt"),
    ):
        searcher = StudyOptunaSearch(one, StudyState("s", METRIC, planned=3), settings, EPOCHS, seed=7)
        seeds = [searcher.suggest(str(i))["params"] for i in range(3)]
        assert seeds == [{"mixture.k": 2}, {"mixture.k": 2, "training.seed": 8}, {"mixture.k": 2, "training.seed": 9}]
    event_log = EventLog(str(tmp_path))
    started(event_log, 3, one)
    event_log.append("trial_started", {"trial": 0, "params": seeds[0]})
    event_log.append("trial_started", {"trial": 1, "params": seeds[2]})
    searcher = StudyOptunaSearch(one, event_log.read(), SearchConfig(repeats=True), EPOCHS, seed=7)
    assert [searcher.suggest(str(i))["params"] for i in range(2)] == [seeds[0], seeds[2]]


def test_a_number_that_no_point_is_left_for(tmp_path: Path) -> None:
    """A driver was killed before it recorded trial 0; by now the space has no point for it, but trial 1 goes on."""
    one, event_log = parse_search_space({"space": {"mixture.k": {"int": [2, 2]}}}, CONFIG), EventLog(str(tmp_path))
    started(event_log, 4, one)
    event_log.append("trial_started", {"trial": 1, "params": {"mixture.k": 2}})
    ended: list[Any] = []
    searcher = StudyOptunaSearch(
        one, event_log.read(), SearchConfig(), EPOCHS, on_exhausted=lambda *what: ended.append(what)
    )
    assert searcher.suggest("a")["trial"] == 1 and searcher.suggest("b") == Searcher.FINISHED
    assert ended == [(2, 1, [0])]


def test_bad_names_and_missing_packages(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean tpe"):
        ConstrainedSampler(space, "tpee", 0, 10)
    with pytest.raises(ConfigError, match="did you mean asha"):
        build_scheduler(SearchConfig(scheduler="ashaa"), StudyState(objective=METRIC), EPOCHS, space)
    with pytest.raises(ConfigError, match="needs a step"):
        StudyOptunaSearch(space, StudyState("s", METRIC, planned=1), SearchConfig(sampler="grid"), EPOCHS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        ConstrainedSampler(space, "cmaes", 0, 10)
    assert set(SAMPLERS) == {"tpe", "random", "gp", "cmaes", "grid"}


def rungs(asha: ResumableASHAScheduler) -> dict[float, dict[str, float]]:
    """The private state that raymix relies on; if this breaks, ray has changed and `Asha` must be looked at."""
    return {milestone: dict(recorded) for milestone, recorded in asha._brackets[0]._rungs}


def fake_trial(number: int, tune_id: str) -> Any:
    return SimpleNamespace(trial_id=tune_id, config={"trial": number})


@pytest.mark.parametrize("mode", ["max", "min"])
def test_asha_remembers_after_a_restart(space: Any, mode: str) -> None:
    study = known()
    study.mode, sign = mode, 1 if mode == "max" else -1
    asha = build_scheduler(SearchConfig(grace_period=1, reduction_factor=2), study, EPOCHS, space)
    assert isinstance(asha, ResumableASHAScheduler)
    expected = {
        1: {"ledger-0": 0.1, "ledger-1": 1.1, "ledger-2": 2.1, "ledger-3": 3.1},
        2: {"ledger-0": 0.2, "ledger-1": 1.2, "ledger-3": 3.2},
        4: {"ledger-0": 0.4},
    }
    signed = {m: {k: sign * v for k, v in recorded.items()} for m, recorded in expected.items()}
    assert rungs(asha) == {m: pytest.approx(recorded) for m, recorded in signed.items()}

    asha.on_trial_add(None, fake_trial(3, "abc"))  # goes on under Tune's new id, and is not counted twice
    assert rungs(asha)[1]["abc"] == pytest.approx(sign * 3.1) and "ledger-3" not in rungs(asha)[2]
    before = rungs(asha)
    assert asha.on_trial_result(None, fake_trial(3, "abc"), {"epoch": 3, METRIC: 3.3}) == TrialScheduler.CONTINUE
    assert rungs(asha) == before

    asha.on_trial_add(None, fake_trial(6, "new"))
    poor = {"epoch": 1, METRIC: sign * -9.0}
    assert asha.on_trial_result(None, fake_trial(6, "new"), poor) == TrialScheduler.STOP


@pytest.mark.parametrize("name", ["asha", "median"])
def test_failures_teach_schedulers_nothing(space: Any, name: str) -> None:
    made = build_scheduler(SearchConfig(scheduler=name, grace_period=1, reduction_factor=2), known(), EPOCHS, space)
    trial = fake_trial(6, "new") if name == "asha" else tune.experiment.Trial("x", stub=True, config={"trial": 6})
    made.on_trial_add(None, trial)
    before = rungs(made) if isinstance(made, ResumableASHAScheduler) else {k: list(v) for k, v in made._results.items()}
    failed = {"epoch": 1, METRIC: -math.inf, "failed": "NaN", "ended": "failed", "done": True}
    assert made.on_trial_result(None, trial, failed) == TrialScheduler.STOP
    made.on_trial_complete(None, trial, failed)
    assert (rungs(made) if isinstance(made, ResumableASHAScheduler) else dict(made._results)) == before


def test_median_remembers_and_never_pauses(space: Any) -> None:
    study = known()
    for row in study.trials.values():  # three long trials to compare with
        row.epochs = study.trials[0].epochs if row.number in (0, 1, 2) else row.epochs
    median = build_scheduler(SearchConfig(scheduler="median", grace_period=1), study, EPOCHS, space)
    assert isinstance(median, ResumableMedianStopping)
    controller = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])
    trial = tune.experiment.Trial("x", stub=True, config={"trial": 3})
    median.on_trial_add(controller, trial)
    assert [r["epoch"] for r in median._results[trial]] == [1, 2], "an unfinished trial takes its results along"
    poor = tune.experiment.Trial("x", stub=True, config={"trial": 6})
    median.on_trial_add(controller, poor)
    assert median.on_trial_result(controller, poor, {"epoch": 1, METRIC: -5.0}) == TrialScheduler.STOP
    alone = ResumableMedianStopping(StudyState("s", METRIC, planned=1), 1)
    alone.on_trial_add(controller, poor)
    assert alone.on_trial_result(controller, poor, {"epoch": 2, METRIC: -5.0}) == TrialScheduler.CONTINUE


class Fake(tune.Trainable):
    """A trial without a slot: scores by formula, goes on from the ledger's last epoch, fails where told."""

    def setup(self, config: dict[str, Any]) -> None:
        self.epoch = config.get("reached", {}).get(str(config["trial"]), 0)
        self.origin, self.lineage = "", 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self.config["pause"])
        self.epoch += 1
        number = self.config["trial"]
        if number in self.config["failing"] and self.epoch == 2:
            failed = {"failed": "NaN in the loss", "ended": "failed", "done": True}
            return {METRIC: -math.inf, "epoch": 2, **failed}
        origin, self.origin = self.origin, ""
        self.checkpoint = f"checkpoints/trial-{number:04d}.{self.lineage}/epoch-{self.epoch:04d}"
        more = {"parent": self.config.get("parent"), "checkpoint": self.checkpoint, "origin": origin}
        return {**result(self.config["params"], self.epoch), **more}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "epoch").write_text(f"{self.epoch} {self.checkpoint}")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        epoch, self.origin = Path(checkpoint_dir, "epoch").read_text().split()
        self.epoch, self.lineage = int(epoch), self.lineage + 1


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test file


class Killed(BaseException):
    pass


class Writer(tune.Callback):
    """The driver's pen; `dies_at` counts records, and the driver dies after that one, before Optuna hears of it."""

    def __init__(self, event_log: EventLog, dies_at: int | None = None) -> None:
        self.event_log, self.left = event_log, dies_at
        self.parents: list[tuple[int, int]] = []
        self.population: Any = None
        self.kept: set[str] = set()  # what the scheduler referenced after the event before
        self.origins: list[tuple[str, bool]] = []  # checkpoints that were taken over, and whether they had been kept

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _write(self, kind: str, **record: Any) -> None:
        self.event_log.append(kind, record)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._write("trial_started", trial=trial.config["trial"], params=trial.config["params"])
        if trial.config.get("parent"):
            self.parents.append((trial.config["trial"], trial.config["parent"]["trial"]))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "failed" not in result:
            number, epoch = trial.config["trial"], result["epoch"]
            self._write("epoch_scored", trial=number, epoch=epoch, metrics={METRIC: result[METRIC]})
            if result["origin"]:
                self.origins.append((result["origin"], result["origin"] in self.kept))
        if self.population is not None:
            self.kept = set(self.population.referenced())

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        last = trial.last_result
        ended = {"state": last.get("ended", "pruned"), "reason": last.get("failed", "")}
        self._write("trial_ended", trial=trial.config["trial"], **ended)


def sit(
    folder: Path, space: Any, settings: SearchConfig, dies_at: int | None = None, at_once: int = 1
) -> tuple[Any, Writer]:
    """One sitting of a driver: everything is rebuilt from the event log."""
    event_log = EventLog(str(folder))
    study = event_log.read()
    searcher = StudyOptunaSearch(space, study, settings, EPOCHS, open_journal(str(folder)))
    writer, chosen = Writer(event_log, dies_at), build_scheduler(settings, study, EPOCHS, space)
    writer.population = chosen if isinstance(chosen, ResumablePBT) else None
    reached = {str(n): row.last_epoch for n, row in study.trials.items()}
    tuner = tune.Tuner(
        tune.with_resources(Fake, {"CPU": 1}),
        param_space={"failing": [2], "reached": reached, "pause": 0.3 if at_once > 2 else 0.0},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=chosen,
            num_samples=len(study.pending_trials),
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"sitting-{dies_at}", storage_path=str(folder / "tune"), verbose=0, callbacks=[writer]
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tuner.fit()
        except Killed:
            return None, writer
    return searcher, writer


def truth(searcher: Any, event_log: EventLog) -> None:
    """Optuna and the event log say the same of every trial."""
    rows, trials = event_log.read().trials, searcher.study.trials
    names = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert [t.number for t in trials] == list(rows)
    assert [t.state.name for t in trials] == [names[row.state] for row in rows.values()]
    assert [t.intermediate_values for t in trials] == [row.scores for row in rows.values()]
    assert [t.params for t in trials] == [row.params for row in rows.values()]
    for t, row in zip(trials, rows.values(), strict=True):
        assert list(row.scores) == list(range(1, row.last_epoch + 1))
        if row.state == "completed":
            assert t.value == row.score and row.last_epoch == EPOCHS
        assert (t.user_attrs.get("reason") or "") == row.reason


def test_killed_resumed_and_extended_under_tune(ray_session: None, tmp_path: Path, space: Any) -> None:
    settings = SearchConfig(grace_period=1, reduction_factor=2, n_startup_trials=4)
    event_log = EventLog(str(tmp_path))
    started(event_log, 7, space)
    deaths = [4, 3, 2, 1, 6]  # records after which a driver dies: a start, a score or an end
    for dies_at in deaths:
        assert sit(tmp_path, space, settings, dies_at=dies_at)[0] is None
    assert 0 < len(event_log.read().pending_trials) < 7
    seen = {n: dict(row.params) for n, row in event_log.read().trials.items()}
    searcher, _ = sit(tmp_path, space, settings)
    truth(searcher, event_log)
    study = event_log.read()
    assert study.finished and list(study.trials) == list(range(7))
    assert all(study.trials[n].params == params for n, params in seen.items())
    states = [row.state for row in study.trials.values()]
    assert (
        states[2] == "failed" and study.trials[2].reason == "NaN in the loss" and {"completed", "pruned"} <= set(states)
    )
    starts = [r["trial"] for r in event_log.records() if r["kind"] == "trial_started"]
    assert set(starts) == set(range(7))
    assert len(starts) - 7 <= len(deaths), "at most the one trial under way is taken up again after each death"
    ends = [r["trial"] for r in event_log.records() if r["kind"] == "trial_ended"]
    assert sorted(ends) == list(range(7)), "each planned trial ended exactly once"
    scored = [(r["trial"], r["epoch"]) for r in event_log.records() if r["kind"] == "epoch_scored"]
    assert len(scored) == len(set(scored))

    event_log.append("extended", {"planned": 9})
    searcher, _ = sit(tmp_path, space, settings, at_once=2)
    truth(searcher, event_log)
    assert list(event_log.read().trials) == list(range(9)) and set(event_log.read().trials[8].state.split()) <= set(
        END_STATES
    )
    assert optuna.load_study(study_name="fake", storage=reopened(tmp_path)).trials[0].state == TrialState.COMPLETE
    state_files = list((tmp_path / "tune").rglob("searcher-state-*"))
    assert all("event log" in file.read_text() for file in state_files), "no pickle of the search is left behind"


def test_a_population_hands_over_weights_not_numbers(ray_session: None, tmp_path: Path, space: Any) -> None:
    event_log = EventLog(str(tmp_path))
    started(event_log, 4, space)
    searcher, writer = sit(tmp_path, space, SearchConfig(scheduler="pbt", grace_period=1), at_once=4)
    assert isinstance(build_scheduler(SearchConfig(scheduler="pbt"), event_log.read(), EPOCHS, space), ResumablePBT)
    rows = event_log.read().trials
    assert list(rows) == [0, 1, 2, 3] and rows[2].state == "failed"
    assert [t.state.name for t in searcher.study.trials].count("RUNNING") == 0
    assert writer.parents and all(child != parent for child, parent in writer.parents)
    assert writer.origins and all(kept for _, kept in writer.origins), "what is taken over must not be deleted before"
    assert writer.population.referenced() == set(), "nothing is held for trials that have ended"
