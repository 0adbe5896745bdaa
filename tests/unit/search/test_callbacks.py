"""Where the time of a search went, and the lines a person reads while it runs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from raymix.search.callbacks import OverheadClocks, ProgressReporter, format_params
from raymix.tracking.study import EpochRecord, StudyState, TrialRecord


def result(trial: int, began: float, ended: float, steps: float, slot: str = "a") -> dict[str, Any]:
    clock = {"steps": steps, "waits": 0.5, "now": ended}
    return {
        "slot": slot,
        "trial": trial,
        "score_seconds": 1.0,
        "training": {"began": began, "ended": ended, "clock": clock},
    }


def test_overheads_from_the_slots_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    clocks = OverheadClocks(began=900.0)
    clocks.epoch(result(0, 960.0, 970.0, steps=10.0))
    clocks.epoch(result(0, 970.0, 980.0, steps=19.0))
    now[0] = 981.0
    clocks.ended()
    clocks.epoch(result(1, 981.4, 990.0, steps=27.0))
    found = clocks.overheads()
    assert found["seconds_to_first_epoch"] == pytest.approx(70.0)
    assert found["median_gap_seconds"] == pytest.approx(0.4)
    assert found["step_share"] == pytest.approx(17.0 / 20.0)  # since the first epoch's end
    assert found["evaluator_share"] == pytest.approx(3.0 / 20.0)


def test_nothing_measured_is_none_and_not_zero() -> None:
    found = OverheadClocks(began=time.time()).overheads()
    assert found["median_gap_seconds"] is None and found["step_share"] is None


def test_plain_lines_name_trial_epoch_score_and_twin(capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyState(planned=2, objective="val/x")
    watch = ProgressReporter(study, epochs=5, live=False)
    row = TrialRecord(0, "val/x", "max", params={"method.temperature": 0.0712345})
    watch.started(0, row.params)
    row.epochs[1] = EpochRecord({"val/x": 0.5, "val/x_shuffled": 0.25}, {}, "c", 1.0, 0.0)
    watch.scored(row)
    row.state, row.reason = "pruned", "stopped at epoch 1"
    watch.ended(row)
    watch.close()
    lines = capsys.readouterr().out.splitlines()
    lines[1], left = lines[1].split(", about ")  # what is left depends on the clock
    assert left.endswith(" s left")
    assert lines == [
        "trial 0: temperature=0.0712",
        "trial 0: epoch 1/5 val/x 0.500 (shuffled 0.250); 0/2 trials, best 0.500",
        "trial 0: pruned (stopped at epoch 1), best 0.500",
    ]


def test_the_live_table_shows_running_trials_first() -> None:
    watch = ProgressReporter(StudyState(planned=2, objective="val/x"), epochs=5, live=False)
    done = TrialRecord(1, "val/x", "max", state="completed")
    watch.ended(done)
    watch.started(0, {"mixture.k": 2})
    lines = watch._table().plain.splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["0", "run"], ["1", "done"]]
    assert format_params({"a.b": 2, "c": 0.5}) == "b=2 c=0.5"
