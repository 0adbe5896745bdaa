"""The event_log: nothing written is lost, nothing torn is believed, nothing twice counts twice."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs

from raymix.tracking.event_log import EVENT_LOG_FILE, MIN_LOOSE_OBJECTS, EventLog
from raymix.tracking.study import StudyState, replay_events
from tests.support.counting_filesystem import Handler

METRIC = "val/sounding_accuracy"
STUDY = {"name": "s", "objective": METRIC, "mode": "max", "planned": 3, "space_hash": "abc", "seed": 1}


def scored(trial: int, epoch: int, score: float, **more: Any) -> dict[str, Any]:
    metrics = {METRIC: score, f"{METRIC}_shuffled": score / 4}
    checkpoint = f"checkpoints/trial-{trial:04d}/epoch-{epoch:04d}"
    return {"trial": trial, "epoch": epoch, "metrics": metrics, "checkpoint": checkpoint, "seconds": 1.5, **more}


def fill(event_log: EventLog) -> None:
    event_log.append("study", {**STUDY, "config": {"training": {"batch_size": 8}}, "versions": {"ray": "2.60.0"}})
    event_log.append("trial_started", {"trial": 0, "params": {"mixture.k": 2}})
    for epoch, score in enumerate([0.2, 0.7, 0.5], 1):
        event_log.append("epoch_scored", scored(0, epoch, score))
    event_log.append("trial_ended", {"trial": 0, "state": "completed"})
    event_log.append("trial_started", {"trial": 1, "params": {"mixture.k": 3}})
    event_log.append("epoch_scored", scored(1, 1, 0.1))
    event_log.append("trial_ended", {"trial": 1, "state": "failed", "reason": "NaN in the loss"})
    event_log.append("trial_started", {"trial": 2, "params": {"mixture.k": 4}})


def check(study: StudyState) -> None:
    assert (study.name, study.objective, study.mode, study.planned, study.space_hash) == ("s", METRIC, "max", 3, "abc")
    assert [row.state for row in study.trials.values()] == ["completed", "failed", "running"]
    first = study.trials[0]
    assert first.scores == {1: 0.2, 2: 0.7, 3: 0.5}
    assert (first.best_epoch, first.score, first.shuffled, first.last_epoch) == (2, 0.7, 0.175, 3)
    assert first.best_checkpoint == "checkpoints/trial-0000/epoch-0002"
    assert study.trials[1].reason == "NaN in the loss"
    assert study.trials[2].params == {"mixture.k": 4} and study.trials[2].score is None
    assert study.pending_trials == [2] and not study.finished
    assert [row.number for row in study.ranked()] == [0]


@pytest.fixture(params=["local", "objects"])
def event_log(request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    if request.param == "local":
        return EventLog(f"file://{tmp_path}/study")
    return EventLog("study", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))


def again(event_log: EventLog) -> EventLog:
    """Another process's view of the same event_log."""
    return EventLog(event_log.folder.removesuffix("/ledger"), None if event_log._local else event_log._fs)


def test_folds_to_rows(event_log: EventLog) -> None:
    assert not event_log.read().exists
    fill(event_log)
    check(event_log.read())
    check(again(event_log).read())


def test_reads_on_from_where_it_was(event_log: EventLog) -> None:
    reader = again(event_log)
    assert not reader.read().exists
    fill(event_log)
    check(reader.read())
    event_log.append("epoch_scored", scored(2, 1, 0.9))
    assert reader.read().trials[2].score == 0.9


def test_duplicates_change_nothing(event_log: EventLog) -> None:
    fill(event_log)
    event_log.append("epoch_scored", scored(0, 2, 0.99))
    event_log.append("trial_ended", {"trial": 0, "state": "pruned", "reason": "late"})
    event_log.append("study", {**STUDY, "planned": 99})
    check(event_log.read())
    records = event_log.records()
    check(replay_events(records + records))
    assert replay_events(records + records).trials[0].attempts == 1


def test_compacting_keeps_every_record(event_log: EventLog) -> None:
    fill(event_log)
    reader = again(event_log)
    check(reader.read())
    before = event_log.records()
    event_log.compact()
    assert again(event_log).records() == before
    event_log.append("extended", {"planned": 7})
    event_log.compact()
    event_log.compact()
    assert reader.read().planned == again(event_log).read().planned == 7
    if not event_log._local:
        assert len(event_log._fs.get_file_info(fs.FileSelector(event_log.folder))) == 1


def counted(
    folder: Path, before: Callable[[str, str], None] = lambda operation, path: None
) -> tuple[EventLog, Handler]:
    """A event_log in an object store, and what counts its requests."""
    handler = Handler(before)
    return EventLog(str(folder), fs.PyFileSystem(handler)), handler


def test_a_query_opens_a_few_objects_however_many_events_there_are(tmp_path: Path) -> None:
    """Written by one driver, one event at a time, as a study does; nobody calls `compact`."""
    writer, written = counted(tmp_path)
    writer.append("study", STUDY)
    for number in range(600):
        writer.append("epoch_scored", scored(number % 20, number // 20 + 1, 0.5))
        if number in (3, 99, 402, 599):
            reader, handler = counted(tmp_path)
            assert len(reader.records()) == number + 2
            assert sum(handler.opened.values()) <= MIN_LOOSE_OBJECTS + 5
    assert sum(written.bytes_read.values()) < 12 * sum(path.stat().st_size for path in (tmp_path / "ledger").iterdir())
    writer.compact()
    reader, handler = counted(tmp_path)
    assert len(reader.records()) == 601 and sum(handler.opened.values()) == 1
    assert [record["id"] for record in reader.records()] == [record["id"] for record in writer.records()]


def test_what_earlier_commands_left_is_compacted_too(tmp_path: Path) -> None:
    """Each command that scores a study appends one record by a writer of its own."""
    for number in range(40):
        counted(tmp_path)[0].append("evaluated", {"number": number})
    reader, handler = counted(tmp_path)
    assert [each["number"] for each in reader.read().evaluations] == list(range(40))
    assert sum(handler.opened.values()) <= MIN_LOOSE_OBJECTS + 3


def test_a_search_compacts_at_its_start_and_at_its_end(tmp_path: Path) -> None:
    from raymix.config import TrainConfig
    from raymix.search.planning import record_study_start
    from raymix.search.runner import finalize_study
    from raymix.search.study_plan import StudyPlan

    run = TrainConfig()
    run.study.name = "s"
    for stage in (record_study_start, finalize_study):
        for number in range(3):  # fewer than are compacted on the way
            counted(tmp_path)[0].append("evaluated", {"number": number})
        event_log, _ = counted(tmp_path)
        stage(StudyPlan(run, None, str(tmp_path), event_log, event_log.read(), 1))
        assert len(list((tmp_path / "ledger").iterdir())) == 1
    assert len(counted(tmp_path)[0].records()) == 3 + 1 + 3


def _compact_until(folder: str, step: int) -> None:
    """Compacts, and is killed before its operation number `step`."""
    done = 0

    def before(operation: str, path: str) -> None:
        nonlocal done
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    counted(Path(folder), before)[0].compact()


def test_a_kill_between_any_two_steps_of_compacting_loses_and_doubles_nothing(tmp_path: Path) -> None:
    context, killed, deletes = multiprocessing.get_context("fork"), 0, 0
    for step in range(40):
        folder = tmp_path / str(step)
        event_log, _ = counted(folder)
        fill_objects(event_log, 7)
        before = event_log.records()
        process = context.Process(target=_compact_until, args=(str(folder), step))
        process.start()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        left = list((folder / "ledger").iterdir())
        deletes += any(path.name.endswith("-all.json") for path in left) and len(left) > 1
        for reader in (event_log, counted(folder)[0]):
            assert reader.records() == before
        counted(folder)[0].append("extended", {"planned": 8})
        counted(folder)[0].compact()
        reader, handler = counted(folder)
        assert len(reader.records()) == len(before) + 1 and sum(handler.opened.values()) == 1
        if process.exitcode == 0:
            break
    assert process.exitcode == 0 and killed == 1 + 7 + 1 + 7 and deletes == 7  # list, reads, the write, deletes


def fill_objects(event_log: EventLog, count: int) -> None:
    """So many records, each in an object of its own."""
    event_log.append("study", STUDY)
    for epoch in range(1, count):
        event_log.append("epoch_scored", scored(0, epoch, 0.5))


def test_a_reader_at_work_while_objects_are_compacted_misses_nothing(tmp_path: Path) -> None:
    """Before each of a reader's requests another process compacts, and appends a record."""
    writer, _ = counted(tmp_path)
    fill_objects(writer, 7)
    rounds = 0

    def interfere(operation: str, path: str) -> None:
        nonlocal rounds
        if rounds < 12:
            rounds += 1
            other, _ = counted(tmp_path)
            other.append("extended", {"planned": 10 + rounds})
            other.compact()

    reader, _ = counted(tmp_path, interfere)
    first = reader.records()
    assert rounds == 12 and len({record["id"] for record in first}) == len(first) >= 7 + 1
    assert {record["kind"] for record in first} == {"study", "epoch_scored", "extended"}
    assert reader.read().planned == 22 and len(reader.records()) == 7 + 12


def test_two_that_compact_at_once_lose_nothing(tmp_path: Path) -> None:
    for step in range(18):
        folder = tmp_path / str(step)
        writer, _ = counted(folder)
        fill_objects(writer, 7)
        done = 0

        def between(operation: str, path: str, step: int = step, folder: Path = folder) -> None:
            nonlocal done
            done += 1
            if done == step + 1:
                counted(folder)[0].append("extended", {"planned": 9})
                counted(folder)[0].compact()

        counted(folder, between)[0].compact()
        assert len(counted(folder)[0].records()) == len(writer.records()) == 7 + (done > step)


def test_records_keep_the_order_of_their_times_whatever_object_they_are_in(tmp_path: Path) -> None:
    """A record that was compacted late stands after newer ones by the name of its object."""
    writer, _ = counted(tmp_path)
    fill_objects(writer, 6)
    before, paths = writer.records(), sorted((tmp_path / "ledger").iterdir())
    late = paths[1].read_bytes() + b"\n" + paths[5].read_bytes()
    (tmp_path / "ledger" / f"{int(paths[5].name[:20]) + 1}-abc-all.json").write_bytes(late)
    paths[1].unlink()
    paths[5].unlink()
    assert counted(tmp_path)[0].records() == before


def test_what_this_raymix_cannot_read_is_left_alone(tmp_path: Path) -> None:
    event_log, _ = counted(tmp_path)
    fill_objects(event_log, 5)
    newer = {f"{9:020d}-cafe.json": b'{"kind": "invented later", "id": "x"}', f"{8:020d}-cafe.json": b'{"kind": "stu'}
    for name, content in {**newer, "note.txt": b"by hand"}.items():
        (tmp_path / "ledger" / name).write_bytes(content)
    counted(tmp_path)[0].compact()
    left = {path.name: path.read_bytes() for path in (tmp_path / "ledger").iterdir()}
    assert newer.items() <= left.items() and left["note.txt"] == b"by hand" and len(left) == 4
    assert len(counted(tmp_path)[0].records()) == 5


def test_a_place_where_nothing_can_be_deleted_still_takes_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(operation: str, path: str) -> None:
        if operation == "delete":
            raise PermissionError("AccessDenied")

    writer, _ = counted(tmp_path, refuse)
    fill_objects(writer, 30)
    assert len(counted(tmp_path)[0].records()) == 30
    assert len(list((tmp_path / "ledger").iterdir())) == 31 and "cannot be compacted (AccessDenied)" in caplog.text


def test_extending_and_owing(event_log: EventLog) -> None:
    fill(event_log)
    event_log.append("trial_ended", {"trial": 2, "state": "pruned"})
    assert event_log.read().finished
    event_log.append("extended", {"planned": 5})
    assert event_log.read().pending_trials == [3, 4]


def test_an_exhausted_space_owes_no_more_trials(event_log: EventLog) -> None:
    fill(event_log)
    event_log.append("extended", {"planned": 9})
    event_log.append("exhausted", {"trials": 4, "points": 4})
    assert event_log.read().pending_trials == [2, 3] and event_log.read().planned == 9
    for number in (2, 3):
        event_log.append("trial_ended", {"trial": number, "state": "pruned"})
    study = event_log.read()
    assert study.finished and study.expected == 4 and "4 trials instead of 9" in study.exhaustion
    event_log.append("extended", {"planned": 10})  # with search.repeats=true
    assert event_log.read().pending_trials == [4, 5, 6, 7, 8, 9] and not event_log.read().exhaustion


def test_parameters_of_an_epoch(event_log: EventLog) -> None:
    """Population-based training changes them on the way: a score belongs to those that were in force."""
    fill(event_log)
    event_log.append("trial_started", {"trial": 3, "params": {"a": 1}})
    for epoch in (2, 4):
        event_log.append("trial_perturbed", {"trial": 3, "parent": 0, "epoch": epoch, "params": {"a": 10 * epoch}})
    row = event_log.read().trials[3]
    assert [row.params_at(epoch)["a"] for epoch in (1, 2, 3, 4, 5)] == [1, 20, 20, 40, 40] and row.params == {"a": 40}


def test_attempts_and_perturbations(event_log: EventLog) -> None:
    fill(event_log)
    event_log.append("trial_started", {"trial": 2, "params": {"mixture.k": 4}})
    event_log.append("trial_perturbed", {"trial": 2, "parent": 0, "epoch": 3, "params": {"mixture.k": 2}})
    row = event_log.read().trials[2]
    assert row.attempts == 2 and row.params == {"mixture.k": 2}
    assert row.perturbed == [{"parent": 0, "epoch": 3, "params": {"mixture.k": 2}}]


def test_numbers_that_are_none(event_log: EventLog) -> None:
    fill(event_log)
    metrics = {METRIC: math.nan, "loss": np.float32(0.5), "n": np.int64(3), "far": math.inf}
    event_log.append("epoch_scored", {"trial": 2, "epoch": 1, "metrics": metrics})
    row = again(event_log).read().trials[2]
    assert row.epochs[1].metrics == {METRIC: None, "loss": 0.5, "n": 3, "far": None}
    assert row.scores == {} and row.best() is None and row.best("loss", "min") == (1, 0.5)


def test_refuses_what_could_not_be_read(event_log: EventLog) -> None:
    for kind, record in [
        ("epoch_scord", {}),
        ("trial_ended", {"trial": 1}),
        ("trial_ended", {"trial": 1, "state": "stopped"}),
        ("epoch_scored", {"trial": 1, "epoch": 1}),
    ]:
        with pytest.raises(ValueError):
            event_log.append(kind, record)
    assert event_log.records() == []


def test_min_mode_and_ties() -> None:
    records = [{"kind": "study", "id": "a", "at": 0, **STUDY, "objective": "loss", "mode": "min"}]
    for number, losses in enumerate([[3.0, 2.0], [2.0, 1.0], [1.0, 1.0]]):
        for epoch, loss in enumerate(losses, 1):
            record = {"trial": number, "epoch": epoch, "metrics": {"loss": loss}}
            records.append({"kind": "epoch_scored", "id": f"{number}{epoch}", "at": 0, **record})
    study = replay_events(records)
    assert [row.number for row in study.ranked()] == [1, 2, 0]
    assert study.trials[2].best_epoch == 1


def test_unreachable_places_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="nowhere://x"):
        EventLog("nowhere://x/y")


def test_torn_at_every_byte(tmp_path: Path) -> None:
    """Cut the file anywhere: the whole records before the cut are read, and the next append is whole."""
    event_log = EventLog(str(tmp_path / "whole"))
    fill(event_log)
    data = Path(event_log.folder, EVENT_LOG_FILE).read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(0, len(data), 7):
        study = tmp_path / str(cut)
        (study / "ledger").mkdir(parents=True)
        (study / "ledger" / EVENT_LOG_FILE).write_bytes(data[:cut])
        torn = EventLog(str(study))
        assert len(torn.records()) == sum(end < cut for end in ends)
        torn.append("extended", {"planned": 11})
        found = EventLog(str(study)).read()
        # a cut just before a newline leaves a whole record, which the repair brings back
        assert len(EventLog(str(study)).records()) in {len(torn.records()), sum(end <= cut for end in ends) + 1}
        assert found.planned == 11 and found.unreadable <= 1
        assert torn.read() == found


def _write(folder: str, writer: int) -> None:
    event_log = EventLog(folder)
    for epoch in range(1, 51):
        event_log.append("epoch_scored", scored(writer, epoch, 0.5, training={"pad": "x" * 500}))


def test_four_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path), n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    study = EventLog(str(tmp_path)).read()
    assert study.unreadable == 0
    assert {n: len(row.epochs) for n, row in study.trials.items()} == dict.fromkeys(range(4), 50)


def test_a_killed_writer_locks_nobody_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_write, args=(str(tmp_path), 0))
    writer.start()
    while not os.path.exists(tmp_path / "ledger" / EVENT_LOG_FILE):
        time.sleep(0.001)
    time.sleep(random.random() * 0.05)
    writer.kill()
    writer.join()
    EventLog(str(tmp_path)).append("extended", {"planned": 4})
    assert EventLog(str(tmp_path)).read().planned == 4


@pytest.mark.slow
def test_a_thousand_trials_read_within_a_second(tmp_path: Path) -> None:
    lines = [{"kind": "study", "id": "s", "at": 0.0, **STUDY, "planned": 1000}]
    for trial in range(1000):
        params = {"method.temperature": 0.07, "mixture.k": 2, "optimizer.learning_rate": 1e-4}
        lines.append({"kind": "trial_started", "id": f"{trial}", "at": 0.0, "trial": trial, "params": params})
        for epoch in range(1, 31):
            record = scored(trial, epoch, (trial * 7 + epoch) % 100 / 100, training={"train/loss": 0.3})
            lines.append({"kind": "epoch_scored", "id": f"{trial}.{epoch}", "at": 0.0, **record})
        lines.append({"kind": "trial_ended", "id": f"{trial}e", "at": 0.0, "trial": trial, "state": "completed"})
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / EVENT_LOG_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = math.inf
    for _ in range(3):  # the machine is shared: the best of three
        started = time.process_time()
        study = EventLog(str(tmp_path)).read()
        ranked = study.ranked()
        best = min(best, time.process_time() - started)
    assert len(study.trials) == 1000 and study.finished and ranked[0].score == 0.99
    assert best < 1.0, f"{best:.2f} s"
