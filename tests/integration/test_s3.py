"""On an S3 server with bad days: nothing is lost, nothing counts twice, nothing half-written is taken for whole."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from raymix import leaderboard
from raymix.cli import commands
from raymix.config import DatasetConfig, EvaluateConfig
from raymix.data import prepared
from raymix.data.extraction import clips
from raymix.data.importers import demo, folder
from raymix.data.media import ManifestRow
from raymix.data.preparation.pipeline import prepare_dataset
from raymix.runtime import storage
from raymix.runtime.storage import atomic_output_file, read_bytes, resolve_uri, write_atomic
from raymix.tracking import checkpoint
from raymix.tracking.checkpoint import CorruptCheckpointError
from raymix.tracking.event_log import EventLog
from tests.conftest import SMALL
from tests.support.s3_server import Store

EPOCHS, TRIALS = 2, 3


@pytest.fixture
def rough(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A server that fails every fifth request; down for 3 s when told."""
    running = Store(fail=0.2, seed=3, down=3.0, bucket="rough")
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    resolve_uri("s3://rough?allow_bucket_creation=true")[0].create_dir("rough")
    yield running
    running.close()


def test_where_it_is_comes_from_the_environment_or_the_uri(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, path = resolve_uri(f"{s3}/a b+c%20d/")
    assert path == f"{s3.removeprefix('s3://')}/a b+c%20d"
    write_atomic(filesystem, path, b"one")
    assert resolve_uri(f"{s3}/other")[0] is filesystem  # one for each bucket
    copy = pickle.loads(pickle.dumps(filesystem))
    assert type(copy) is storage.RetryingS3FileSystem and read_bytes(copy, path) == b"one"

    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for query in (f"endpoint_override={host}&scheme=http", f"scheme=http&region=us-east-1&endpoint_override={host}"):
        home = f"{s3}?{query}"
        assert read_bytes(*resolve_uri(f"{home}/a b+c%20d")) == b"one"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}")
    assert read_bytes(*resolve_uri(f"{s3}/a b+c%20d")) == b"one"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    found: Any = resolve_uri(s3)[0]
    assert found is not filesystem and found.region == "eu-west-1"


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "s3://bucket?nope=1", "gopher://x"])
def test_no_place(uri: str) -> None:
    with pytest.raises(ValueError, match=uri.split("?")[0]) as caught:
        resolve_uri(uri)
    assert "\n" not in str(caught.value)


def test_google_is_patient_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, path = resolve_uri("gs://anonymous@bucket/x")
    assert path == "bucket/x" and filesystem.__reduce__()[1][0]["retry_time_limit"].total_seconds() == 120


def test_ledger_under_faults(rough: Store) -> None:
    writers = [EventLog("s3://rough/study") for _ in range(4)]

    def append(number: int) -> None:
        for epoch in range(1, 16):
            record = {
                "trial": number,
                "epoch": epoch,
                "metrics": {},
                "checkpoint": None,
                "training": {},
                "seconds": 1.0,
            }
            writers[number].append("epoch_scored", record)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    reader = EventLog("s3://rough/study")
    wanted = {(trial, epoch) for trial in range(4) for epoch in range(1, 16)}
    for _ in range(2):
        seen = [(record["trial"], record["epoch"]) for record in reader.records()]
        assert len(seen) == len(wanted) and set(seen) == wanted
        assert [epoch for trial, epoch in seen if trial == 2] == list(range(1, 16))
        reader.compact()
        reader = EventLog("s3://rough/study")
    assert sum(rough.counts()[fault] for fault in ("500", "503", "unheard", "unanswered", "cut")) > 20


WEIGHTS = {"a.weight": torch.arange(3_000_000, dtype=torch.float32)}


def test_checkpoints_under_faults_and_truncated(rough: Store) -> None:
    uri = f"s3://rough/study/{checkpoint.checkpoint_path(1)}"
    for epoch in (1, 2):
        checkpoint.save_checkpoint(
            f"{uri}/epoch-{epoch:04d}", WEIGHTS, {"epoch": epoch}, {"training": {"batch_size": 8}}
        )
    found = checkpoint.latest_valid_checkpoint(uri)
    assert found is not None and found.training == {"epoch": 2}
    assert torch.equal(found.weights["a.weight"], WEIGHTS["a.weight"])
    filesystem, path = resolve_uri(f"{uri}/epoch-0002/{checkpoint.WEIGHTS_FILE}")
    whole = read_bytes(filesystem, path)
    write_atomic(filesystem, path, whole[: len(whole) // 2])
    with pytest.raises(CorruptCheckpointError, match="bytes instead of"):
        checkpoint.verify_checkpoint(f"{uri}/epoch-0002")
    found = checkpoint.latest_valid_checkpoint(uri)
    assert found is not None and found.training == {"epoch": 1}
    checkpoint.delete_checkpoint(f"{uri}/epoch-0002")
    assert list(checkpoint.list_epoch_checkpoints(uri)) == [1]


def test_small_objects_beside_long_answers(rough: Store) -> None:
    """An error's text is longer than these objects are: pyarrow alone gives up on that."""
    filesystem, _ = resolve_uri("s3://rough/x")
    write_atomic(filesystem, "rough/x", b"1")
    assert all(read_bytes(filesystem, "rough/x") == b"1" for _ in range(80))
    with storage.RetryingReader(filesystem, "rough/x") as file:
        assert all((file.seek(0), file.read(1)) == (0, b"1") for _ in range(40))
    with pytest.raises(FileNotFoundError):
        read_bytes(filesystem, "rough/none")


def test_down_for_a_while(rough: Store) -> None:
    filesystem, _ = resolve_uri("s3://rough/x")
    rough.go_down()
    time.sleep(0.3)
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: write_atomic(filesystem, f"rough/down/{number}", b"whole"), range(16)))
    assert time.monotonic() - began > 2
    assert len(filesystem.get_file_info(fs.FileSelector("rough/down"))) == 16


def test_down_for_good_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(storage.resolve_uri, "__defaults__", (3,))
    uri = "s3://bucket?endpoint_override=127.0.0.1:1&scheme=http"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert leaderboard.main(["mine", "--root", uri]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(commands, "config_from_command_line", lambda name: EvaluateConfig(home=uri, study="mine"))

    def task(settings: Any) -> int:
        EventLog(f"{settings.home}/studies/mine").read()
        return 0

    assert commands._outcome(task, "evaluate") == 1
    err = capsys.readouterr().err
    assert err.startswith("raymix: ") and err.count("\n") == 1 and "connect" in err


class Alarm(BaseException):
    pass


def test_an_interrupted_write_is_whole_or_nothing(s3: str) -> None:
    """pyarrow alone would complete the upload of what had been written until then."""
    filesystem, path = resolve_uri(s3)
    data = os.urandom(6 << 20)

    def alarm(number: int, frame: FrameType | None) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, alarm)
    came = 0
    try:
        for number in range(24):
            signal.setitimer(signal.ITIMER_REAL, 0.0005 * (number + 1))
            try:
                write_atomic(filesystem, f"{path}/{number}", data)
            except Alarm:
                came += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert came > 5
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    assert {info.size for info in listing} <= {len(data)}


@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_what_fails_in_the_making_is_gone(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    uri = str(tmp_path) if place == "local" else request.getfixturevalue("s3")
    filesystem, path = resolve_uri(f"{uri}/table.parquet")
    parts = []
    with pytest.raises(RuntimeError), atomic_output_file(filesystem, path) as part:
        parts.append(part)
        Path(part).write_bytes(b"half")
        raise RuntimeError
    assert filesystem.get_file_info(path).type == fs.FileType.NotFound and not os.path.exists(parts[0])
    with atomic_output_file(filesystem, path) as part:
        parts.append(part)
        Path(part).write_bytes(b"whole")
    assert read_bytes(filesystem, path) == b"whole" and not os.path.exists(parts[1])


def test_the_demo_there_is_the_demo_here(s3: str, tmp_path: Path) -> None:
    """Videos are written and read (with seeking) on S3, and the same clips come out; a second time nothing is done."""
    made = {}
    for home in (str(tmp_path), s3):
        settings = DatasetConfig(
            name="demo",
            root=f"{home}/videos",
            prepared=f"{home}/clips",
            frame_size=32,
            clip_seconds=2.0,
            stride_seconds=2.0,
            val=0.25,
            test=0.25,
            classes="parent",
            videos=8,
            video_seconds=4.0,
            duets=0.0,
        )
        assert prepare_dataset(settings, echo=lambda line: None).fresh
        assert not prepare_dataset(settings, echo=lambda line: None).fresh
        filesystem, root = resolve_uri(settings.prepared)
        names = [Path(path).name for path in prepared.list_shards(settings.prepared, "train")]
        made[home] = [pq.read_table(f"{root}/{name}", filesystem=filesystem) for name in names]
    assert made[s3] == made[str(tmp_path)] and made[s3]
    there = DatasetConfig(name="folder", root=f"{s3}/videos", classes="parent", clip_seconds=2.0, stride_seconds=2.0)
    (first, *_) = folder.list_sources(there)
    assert len(list(clips.extract_clips(there, first, ManifestRow(first.path, first.split)))) == 2
    with pytest.raises(ValueError, match="other settings"):
        demo.list_sources(DatasetConfig(name="demo", root=f"{s3}/videos", videos=9))


def door_of(name: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"raymix.{name}", *words]
    environment = {**os.environ, "RAYMIX_RAY_TMP": "/tmp/rxs"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def through(name: str, *words: str) -> str:
    """The output of a door that ends well."""
    process = door_of(name, *words)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out[-3000:]
    assert "Traceback" not in out, out
    return out


@pytest.mark.ray
def test_the_whole_way(store: Store, s3: str) -> None:
    """2 % of all requests fail all along, and in the middle of the search nobody answers for 20 s."""
    home = f"home={s3}"
    through("prepare", home, *(word for word in SMALL if word.startswith("dataset.")))
    words = (
        f"study.n_trials={TRIALS}",
        f"training.epochs={EPOCHS}",
        "search.grace_period=1",
        "cluster.cpus=3",
        "study.final=0",
    )
    search = door_of("tune", *SMALL, home, "study.name=mine", *words)
    said: list[str] = []
    listening = threading.Thread(target=lambda: said.extend(search.stdout or ()))
    listening.start()
    event_log = EventLog(f"{s3}/studies/mine")
    while not any(record["kind"] == "epoch_scored" for record in event_log.records()):
        assert search.poll() is None, "".join(said)[-3000:]
        time.sleep(0.5)
    down = time.monotonic()
    store.go_down()
    assert search.wait(400) == 0, "".join(said)[-3000:]
    listening.join()
    assert time.monotonic() - down > 20
    out = "".join(said)
    assert "Traceback" not in out and "passed over" not in out, out

    records, study = event_log.records(), event_log.read()
    assert Counter(r["trial"] for r in records if r["kind"] == "trial_ended") == dict.fromkeys(range(TRIALS), 1)
    epochs = Counter((r["trial"], r["epoch"]) for r in records if r["kind"] == "epoch_scored")
    assert set(epochs.values()) == {1}
    assert all(row.state in ("completed", "pruned") for row in study.trials.values())
    best = [row.best_checkpoint for row in study.trials.values() if row.best_checkpoint]
    assert len(best) == TRIALS
    for path in best:
        checkpoint.verify_checkpoint(f"{s3}/studies/mine/{path}")
    filesystem, folder = resolve_uri(f"{s3}/studies/mine")
    assert not [
        info
        for info in filesystem.get_file_info(fs.FileSelector(f"{folder}/driver", allow_not_found=True))
        if info.is_file and info.base_name.endswith(".json")
    ]

    told = through("leaderboard", "mine", "--root", s3, "--best-checkpoint").strip()
    assert told == f"{s3}/studies/mine/{study.ranked()[0].best_checkpoint}"
    out = through("evaluate", home, "study=mine", "pictures=1")
    assert f"{s3}/studies/mine/evaluation/test/scores.json" in out
    assert EventLog(f"{s3}/studies/mine").read().evaluations
    assert sum(store.counts()[fault] for fault in ("500", "503", "unanswered", "cut")) > 0
