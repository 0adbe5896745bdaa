"""The main job as a person runs it, and killed as clusters kill it: every planned trial ends exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from raymix.tracking import checkpoint
from raymix.tracking.event_log import EventLog
from tests.conftest import SMALL
from tests.support import version_0_1_study as earlier_study

pytestmark = pytest.mark.ray

TRIALS, EPOCHS = 5, 4


class Driver:
    """One `python -m raymix.tune` in a process of its own, with a Ray of its own."""

    def __init__(self, home: Path, out: Path, *words: str) -> None:
        self.token = str(out)  # in the environment of every process of this run, so that only they are ever killed
        self.log = open(out, "w")  # noqa: SIM115
        command = [sys.executable, "-m", "raymix.tune", *SMALL, f"home={home}", "study.name=killed", "study.final=0"]
        command += [
            f"study.n_trials={TRIALS}",
            f"training.epochs={EPOCHS}",
            "search.grace_period=2",
            "cluster.cpus=3",
            *words,
        ]
        environment = {**os.environ, "RAYMIX_TEST": self.token, "RAYMIX_RAY_TMP": "/tmp/rxt"}
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        self.out = out

    def kill(self, title: str, number: int = signal.SIGKILL) -> bool:
        """Send a signal to the processes of this run whose title begins so; whether there was one."""
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._mine(pid, title)]
        for pid in found:
            os.kill(pid, number)
        return bool(found)

    def _mine(self, pid: int, title: str) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
            return command.startswith(title) and self.token in Path(f"/proc/{pid}/environ").read_text(errors="replace")
        except OSError:
            return False

    def wait(self, seconds: float = 300) -> int:
        code = self.process.wait(seconds)
        self.log.close()
        return code

    def text(self) -> str:
        return self.out.read_text()


def until(what: Callable[[], bool], driver: Driver, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert driver.process.poll() is None, f"the driver ended early:\n{driver.text()[-3000:]}"
        assert time.monotonic() < end, f"waited {seconds} s:\n{driver.text()[-3000:]}"
        time.sleep(0.05)


def scored(home: Path, name: str = "killed") -> int:
    records = EventLog(str(home / "studies" / name)).records()
    return sum(record["kind"] == "epoch_scored" for record in records)


def check(home: Path, planned: int, name: str = "killed") -> None:
    """Every planned trial ended once, no epoch stands twice, Optuna agrees with the event log, no checkpoint dangles."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder = home / "studies" / name
    event_log = EventLog(str(folder))
    records, study = event_log.records(), event_log.read()
    ends = Counter(record["trial"] for record in records if record["kind"] == "trial_ended")
    assert ends == dict.fromkeys(range(planned), 1)
    epochs = Counter((record["trial"], record["epoch"]) for record in records if record["kind"] == "epoch_scored")
    assert set(epochs.values()) == {1}
    for row in study.trials.values():
        assert sorted(row.epochs) == list(range(1, row.last_epoch + 1))
        assert row.best_checkpoint and (folder / row.best_checkpoint / "manifest.json").exists()
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    trials = storage.get_all_trials(storage.get_study_id_from_name(name))
    names = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert [trial.state.name for trial in trials] == [names[study.trials[n].state] for n in range(planned)]
    assert [trial.intermediate_values for trial in trials] == [study.trials[n].scores for n in range(planned)]


def test_killed_at_every_level(demo: Path, tmp_path: Path) -> None:
    first = Driver(demo, tmp_path / "first.log")
    until(lambda: scored(demo) >= 3, first)
    os.kill(first.process.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    before = scored(demo)

    second = Driver(demo, tmp_path / "second.log")
    until(lambda: scored(demo) >= before + 2, second)
    assert second.kill("ray::RayTrainWorker")
    seen = scored(demo)
    until(lambda: scored(demo) >= seen + 3, second)
    assert second.kill("ray::ScoringActor")
    assert second.wait() == 0, second.text()[-3000:]
    check(demo, TRIALS)


def test_a_study_that_was_killed_under_version_0_1_is_resumed(demo: Path, tmp_path: Path) -> None:
    """Trial 0 stays as it ended, trial 1 goes on after its first epoch, trial 2 begins."""
    folder = earlier_study.unpack(demo, demo)
    before = EventLog(str(folder)).read()
    assert [before.trials[n].state for n in (0, 1)] == ["completed", "running"] and before.pending_trials == [1, 2]
    driver = Driver(demo, tmp_path / "resumed.log", *earlier_study.WORDS)
    assert driver.wait() == 0, driver.text()[-3000:]
    check(demo, 3, earlier_study.NAME)
    after = EventLog(str(folder)).read()
    assert after.finished and after.trials[0] == before.trials[0]
    assert after.trials[1].epochs[1] == before.trials[1].epochs[1] and after.trials[1].last_epoch == 2
    assert "Traceback" not in driver.text()


def test_interrupted_resumed_and_extended(demo: Path, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130 within 20 s; two trials more, with a SIGTERM between, are exactly two."""
    words = ("study.name=stopped", "study.n_trials=3", "encoder.width=32")  # wide: not over before it is stopped
    first = Driver(demo, tmp_path / "first.log", *words)
    until(lambda: scored(demo, "stopped") >= 2, first)
    asked = time.monotonic()
    os.kill(first.process.pid, signal.SIGINT)
    assert first.wait() == 130, first.text()[-3000:]
    assert time.monotonic() - asked < 20
    assert "go on with: python -m raymix.tune" in first.text()

    second = Driver(demo, tmp_path / "second.log", *words, "study.extend=2")
    seen = scored(demo, "stopped")
    until(lambda: scored(demo, "stopped") > seen, second)
    os.kill(second.process.pid, signal.SIGTERM)
    assert second.wait(20) == 143, second.text()[-3000:]
    third = Driver(demo, tmp_path / "third.log", *words, "study.extend=2")
    assert third.wait() == 0, third.text()[-3000:]
    check(demo, 5, "stopped")
    assert "Traceback" not in second.text() + third.text()


def test_killed_between_the_stages(demo: Path, tmp_path: Path) -> None:
    """DSOL, when the first stage is over: the same command trains the second, and has the last word on the test split."""
    words = (
        "study.name=staged",
        "study.n_trials=1",
        "study.final=1",
        "method=dsol",
        "search_spaces=dsol",
        "search=fifo",
    )
    # In the space's first trial three quarters of the epochs are of the first stage.
    words += ("training.epochs=12", "encoder.width=16", "evaluation.pictures=0")
    study = demo / "studies/staged"
    trial, report = study / "checkpoints/trial-0000", study / "evaluation/test/scores.json"
    first = Driver(demo, tmp_path / "first.log", *words)
    until((trial / "epoch-0009/manifest.json").exists, first)
    first.kill("ray::RayTrainWorker")
    os.kill(first.process.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    killed = time.time()
    assert not (trial / "epoch-0012").exists() and not report.exists()

    second = Driver(demo, tmp_path / "second.log", *words)
    assert second.wait() == 0, second.text()[-3000:]
    check(demo, 1, "staged")
    records = EventLog(str(study)).records()
    training = [record["training"] for record in records if record["kind"] == "epoch_scored"]
    assert ["distribution" in each["train"] for each in training] == 9 * [False] + 3 * [True]
    assert training[8]["began"] < killed < training[11]["began"]
    assert json.loads(report.read_text())["checkpoints"] and "Traceback" not in second.text()


def test_a_space_with_fewer_points_than_trials(demo: Path, tmp_path: Path) -> None:
    """Each point is trained once, and the study is complete; resumed or extended it does nothing, and says why."""
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/few.yaml").write_text("space:\n  mixture.k: {categorical: [1, 2]}\n")
    words = ("study.name=few", "study.n_trials=5", f"--config-dir={tmp_path}", "search_spaces=few", "training.epochs=1")
    line = "the search space has no further point: 2 points, 2 trials instead of 5; search.repeats=true"
    first = Driver(demo, tmp_path / "first.log", *words)
    assert first.wait() == 0, first.text()[-3000:]
    check(demo, 2, "few")
    study = EventLog(str(demo / "studies/few")).read()
    assert study.finished and {row.params["mixture.k"] for row in study.trials.values()} == {1, 2}
    assert "search.grace_period=2: more than training.epochs=1; 1 is used" in first.text()
    assert line in first.text() and "still pending" not in first.text()
    records = len(EventLog(str(demo / "studies/few")).records())
    again = Driver(demo, tmp_path / "again.log", *words, "study.extend=4")
    assert again.wait() == 0, again.text()[-3000:]
    assert (
        line in again.text() and "study.extend=4: adds no trial, since the search space has no further" in again.text()
    )
    assert len(EventLog(str(demo / "studies/few")).records()) == records


POPULATION = """
space:
  optimizer.learning_rate: {float: [1.0e-5, 1.0e-2], log: true}
  optimizer.weight_decay: {float: [1.0e-6, 1.0e-2], log: true}
"""


def test_a_population_trains_with_the_values_that_its_ledger_names(demo: Path, tmp_path: Path) -> None:
    """Every epoch's checkpoint: config, optimizer and event_log agree, and no folder of epochs keeps what none of them names."""
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/rates.yaml").write_text(POPULATION)
    words = (
        "study.name=population",
        "study.n_trials=3",  # the third runs beside one of the first two, whichever of these begins late
        f"--config-dir={tmp_path}",
        "search_spaces=rates",
        "search=pbt",
    )
    words += ("search.grace_period=1", "training.epochs=12", "training.num_checkpoints_to_keep=12")
    driver = Driver(demo, tmp_path / "population.log", *words)
    assert driver.wait() == 0, driver.text()[-3000:]
    folder = demo / "studies/population"
    study = EventLog(str(folder)).read()
    changes = [change for row in study.trials.values() for change in row.perturbed]
    assert changes, driver.text()[-3000:]
    for row in study.trials.values():
        for epoch, scored in row.epochs.items():
            whole, params = checkpoint.load_checkpoint(f"{folder}/{scored.checkpoint}"), row.params_at(epoch)
            [group] = whole.training["optimizer"]["param_groups"]
            for name, in_force in (("learning_rate", group["lr"]), ("weight_decay", group["weight_decay"])):
                assert whole.config["optimizer"][name] == params[f"optimizer.{name}"] == in_force, (row.number, epoch)
    there = {str(path.parent.relative_to(folder)) for path in folder.glob("checkpoints/*/*/manifest.json")}
    assert there == {scored.checkpoint for row in study.trials.values() for scored in row.epochs.values()}
    assert any(".1/" in path for path in there)


SPACE = """
space:
  method.temperature: {float: [1.0e-44, 1.0], log: true}
  mixture.k: {int: [2, 4]}
initial_points:
  - {method.temperature: 1.0e-44, mixture.k: 2}
  - {method.temperature: 0.1, mixture.k: 4}
  - {method.temperature: 0.1, mixture.k: 2}
"""


def test_a_trial_that_fails_ends_alone_on_two_ddp_workers(demo: Path, tmp_path: Path) -> None:
    """Not a number: FAIL with the reason, and the next trials of the slot are whole; groups that no batch holds are cut."""
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/odd.yaml").write_text(SPACE)
    words = (
        "study.name=odd",
        "study.n_trials=3",
        f"--config-dir={tmp_path}",
        "search_spaces=odd",
        "training.batch_size=12",
    )
    driver = Driver(
        demo, tmp_path / "odd.log", *words, "cluster.workers=2", "training.batch_size=12", "training.epochs=2"
    )
    assert driver.wait() == 0, driver.text()[-3000:]
    study = EventLog(str(demo / "studies/odd")).read()
    states = [study.trials[n].state for n in range(3)]
    assert states == ["failed", "completed", "completed"], driver.text()[-3000:]
    assert "not finite" in study.trials[0].reason
    assert study.trials[1].params["mixture.k"] == 3
    assert "cut from the search space: mixture.k 4 (training.batch_size=12 holds no whole groups)" in driver.text()
    assert "Traceback" not in driver.text()


def test_the_leaderboard_and_validation_scores_of_what_remains(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After all that: the best checkpoint is whole, and scoring it again gives the recorded score to 1e-6."""
    from raymix import leaderboard
    from raymix.config import EvaluateConfig
    from raymix.evaluation.dispatch import run_evaluation

    root = str(demo)
    assert leaderboard.main(["killed", "--root", root, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert leaderboard.main(["killed", "--root", root, "--best-checkpoint"]) == 0
    best = capsys.readouterr().out.strip()
    assert Path(best, "model.safetensors").exists()
    report = run_evaluation(EvaluateConfig(home=root, study="killed", split="val", pictures=0), echo=lambda line: None)
    (checkpoint,) = report.scores["checkpoints"]
    study = EventLog(str(demo / "studies/killed")).read()
    winner = study.ranked()[0]
    again = _numbers(checkpoint)["scores.val/sounding_accuracy"]
    assert again == pytest.approx(winner.score, abs=1e-6)


def _numbers(nested: dict[str, object], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update(_numbers(value, f"{prefix}{key}."))
        elif isinstance(value, float):
            flat[prefix + key] = value
    return flat
