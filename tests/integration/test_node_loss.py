"""Nodes lost without grace in the middle of trials: of a worker, of a trial's own process, of the evaluator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raymix.tracking.event_log import EventLog
from tests.support.fake_cluster import EPOCHS, TRIALS, VICTIMS

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def seen(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One search on three nodes and a head, in a process of its own: a cluster and this session's Ray cannot share one."""
    home = tmp_path_factory.mktemp("nodes")
    shutil.copytree(demo / "clips", home / "clips")
    described = home / "clips/demo/dataset.json"
    described.write_text(described.read_text().replace(str(demo), str(home)))
    shutil.copytree(demo / "videos", home / "videos")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/fake_cluster.py"), str(home)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:] + (home / "nodes.log").read_text()[-3000:]
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    found["log"] = (home / "nodes.log").read_text()
    found["records"] = EventLog(str(home / "studies/nodes")).records()
    print(json.dumps({"losses": found["losses"], "seconds_to_free": found["seconds_to_free"]}))
    yield found


def test_the_search_finishes_with_nothing_lost_or_doubled(seen: dict[str, Any]) -> None:
    assert seen["code"] == 0, seen["log"][-3000:]
    assert [loss["victim"] for loss in seen["losses"]] == list(VICTIMS)
    ends = Counter(r["trial"] for r in seen["records"] if r["kind"] == "trial_ended" and r["state"] == "completed")
    assert ends == dict.fromkeys(range(TRIALS), 1)
    epochs = Counter((r["trial"], r["epoch"]) for r in seen["records"] if r["kind"] == "epoch_scored")
    assert epochs == {(trial, epoch): 1 for trial in range(TRIALS) for epoch in range(1, EPOCHS + 1)}


def test_every_epoch_was_trained_on_two_nodes(seen: dict[str, Any]) -> None:
    training = [r["training"] for r in seen["records"] if r["kind"] == "epoch_scored"]
    assert {(each["workers"], each["nodes"]) for each in training} == {(2, 2)}


def test_a_lost_group_goes_on_from_the_newest_checkpoint(seen: dict[str, Any]) -> None:
    """A group trains on for a moment before it feels the loss: what it still finished counts, and nothing is trained again."""
    scored = [r for r in seen["records"] if r["kind"] == "epoch_scored"]
    again = [r for r in scored if r["training"]["first"] > 1]
    assert again, "no trial was ever taken up again: nothing was lost in the middle of one"
    for record in again:
        trial, first, starts = (record["trial"], record["training"]["first"], record["training"]["starts"])
        before = [r["epoch"] for r in scored if r["trial"] == trial and r["training"]["starts"] < starts]
        assert first == max(before) + 1, (record, seen["losses"])
        kept = [loss["kept"][str(trial)] for loss in seen["losses"] if str(trial) in loss["kept"]]
        assert any(first > newest for newest in kept), (record, seen["losses"])


def test_every_cpu_is_free_within_a_minute(seen: dict[str, Any]) -> None:
    assert seen["free"], seen["seconds_to_free"]


def test_a_person_is_told(seen: dict[str, Any]) -> None:
    assert "is gone; what ran there, if anything, starts again elsewhere" in seen["log"]
    assert "capacity now: 1 slot = CPU: (4 - 1 for the evaluator) / (2 x 1)" in seen["log"]
    own = [line for line in seen["log"].splitlines() if "Traceback" in line]
    assert not own, seen["log"]
