"""Real jobs on a real head, with token mode, as cluster/on_prem.yaml starts it: refused, run, stopped, resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymix.tracking.event_log import EventLog
from tests.conftest import SMALL
from tests.support.cluster_file_rules import CLUSTER, ROOT, load
from tests.support.job_cluster import PATIENCE, Nodes

pytestmark = pytest.mark.ray

CLIENT = """
import json, os, sys, ray
ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
nodes = sum(node["Alive"] for node in ray.nodes())
threads = ray.remote(num_cpus=2)(lambda: os.environ["OMP_NUM_THREADS"]).remote()
print(json.dumps([nodes, ray.cluster_resources()["CPU"], ray.get(threads)]))
"""
SAVES_SLOWLY = """
import os, signal, sys, time
def leave(*_):
    time.sleep(5)
    open("{folder}/saved", "w").write(os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"])
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
open("{folder}/began", "w").close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    try:
        made.start("head")
        yield made
    finally:
        made.end()


def test_a_stopped_job_has_time_to_save(nodes: Nodes) -> None:
    """runtime_env.yaml reaches the job and its supervisor: Ray's own 3 seconds from SIGTERM to SIGKILL would not do."""
    code = nodes.folder / "code"
    code.mkdir()
    (code / "slow.py").write_text(SAVES_SLOWLY.format(folder=nodes.folder))
    nodes.job(
        "submit",
        "--no-wait",
        "--submission-id",
        "mine",
        "--runtime-env",
        str(CLUSTER / "runtime_env.yaml"),
        "--working-dir",
        str(code),
        "--",
        "python",
        "slow.py",
    )
    end = time.monotonic() + PATIENCE
    while not (nodes.folder / "began").exists():
        assert time.monotonic() < end, nodes.job("logs", "mine")
        time.sleep(0.5)
    nodes.job("stop", "mine")
    assert (nodes.folder / "saved").read_text() == load("runtime_env.yaml")["env_vars"][
        "RAY_DATA_DISABLE_PROGRESS_BARS"
    ]
    assert "was stopped" in nodes.job("status", "mine")


def submit(nodes: Nodes, name: str, *words: str, fails: bool = False) -> str:
    """A job from this checkout, waited for; what it said."""
    return nodes.job(
        "submit",
        "--submission-id",
        name,
        "--runtime-env",
        str(CLUSTER / "runtime_env.yaml"),
        "--working-dir",
        str(ROOT),
        "--",
        "python",
        "-m",
        *words,
        fails=fails,
    )


@pytest.fixture(scope="module")
def home(demo: Path, nodes: Nodes) -> Path:
    """The small demo where the jobs' words have it, prepared."""
    home = nodes.folder / "home"
    shutil.copytree(demo, home, ignore=shutil.ignore_patterns("studies"))
    described = home / "clips/demo/dataset.json"
    described.write_text(described.read_text().replace(str(demo), str(home)))
    return home


def words(home: Path, study: str, *more: str) -> list[str]:
    shape = [word for word in SMALL if not word.startswith("cluster.")]
    return [*shape, f"home={home}", f"study.name={study}", "cluster.slots=1", *more]


def test_without_the_token_nothing_is_submitted(nodes: Nodes) -> None:
    said = nodes.job("submit", "--", "echo", "hi", fails=True, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="/nowhere")
    assert "Authentication" in said


def test_two_searches_their_table_a_leaderboard_and_a_last_word(nodes: Nodes, home: Path) -> None:
    """Two studies after one another in one job; a search alone is the job that is stopped and submitted again."""
    shape = words(home, "side", "study.n_trials=1", "training.epochs=2", "search.grace_period=1")
    line = ["systems=[cycle]", "seeds=[0,3]", *(word for word in shape if not word.startswith("method."))]
    said = submit(nodes, "compare-1", "raymix.compare", *line)
    assert "succeeded" in said and "side: systems tuned with one budget" in said
    (row,) = json.loads((home / "comparisons/side/comparison.json").read_text())["details"]["systems"]
    assert row["scored_seeds"] == [0, 3] and row["spent"]["failed"] == row["spent"]["owed"] == 0
    assert row["spent"]["completed"] + row["spent"]["pruned"] == 2 and row["spent"]["worker_hours"] > 0
    asked = [sys.executable, "-m", "raymix.leaderboard", "side-cycle-3", "--root", str(home), "--best-checkpoint"]
    best = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    assert Path(best, "manifest.json").exists() and best.startswith(str(home / "studies/side-cycle-3/checkpoints"))
    said = submit(nodes, "last-word", "raymix.evaluate", f"home={home}", "study=side-cycle-3", "pictures=0")
    assert "succeeded" in said and (home / "studies/side-cycle-3/evaluation/test/scores.json").exists()


def test_stopped_in_the_middle_and_submitted_again(nodes: Nodes, home: Path) -> None:
    """No trial is lost or doubled, and a stopped search is not SUCCEEDED."""
    line = words(
        home, "halved", "study.n_trials=3", "training.epochs=6", "study.final=0", "search=fifo", "encoder.width=40"
    )
    nodes.job(
        "submit",
        "--no-wait",
        "--submission-id",
        "half-1",
        "--runtime-env",
        str(CLUSTER / "runtime_env.yaml"),
        "--working-dir",
        str(ROOT),
        "--",
        "python",
        "-m",
        "raymix.tune",
        *line,
    )
    event_log, end = EventLog(str(home / "studies/halved")), time.monotonic() + PATIENCE
    while sum(record["kind"] == "epoch_scored" for record in event_log.records()) < 2:
        assert time.monotonic() < end, nodes.job("logs", "half-1")
        time.sleep(0.2)
    nodes.job("stop", "half-1")
    assert "was stopped" in nodes.job("status", "half-1")
    said = nodes.job("logs", "half-1")
    assert (
        "go on with: ray job submit --runtime-env cluster/runtime_env.yaml --working-dir . -- python -m raymix.tune"
        in said
    )
    pending = event_log.read().pending_trials
    assert pending, "it had ended before it was stopped"
    assert "succeeded" in submit(nodes, "half-2", "raymix.tune", *line)
    records = event_log.records()
    assert Counter(r["trial"] for r in records if r["kind"] == "trial_ended") == {0: 1, 1: 1, 2: 1}
    epochs = Counter((r["trial"], r["epoch"]) for r in records if r["kind"] == "epoch_scored")
    assert epochs == {(trial, epoch): 1 for trial in range(3) for epoch in range(1, 7)}


@pytest.mark.parametrize(
    ("study", "more", "says"),
    [
        ("large", ("cluster=multi_gpu", "training.batch_size=16", "search=fifo"), "exit code 2"),
        ("useless", ("study.n_trials=1", "training.epochs=2", "search_spaces=never", "search=fifo"), "exit code 3"),
    ],
)
def test_exit_codes_reach_the_job(nodes: Nodes, home: Path, study: str, more: tuple[str, ...], says: str) -> None:
    spaces = home / "own/search_spaces"
    spaces.mkdir(parents=True, exist_ok=True)
    (spaces / "never.yaml").write_text("space: {method.temperature: {categorical: [1.0e-44]}}")
    said = submit(nodes, study, "raymix.tune", f"--config-dir={home}/own", *words(home, study, *more), fails=True)
    assert says in said and "failed" in said and "Traceback" not in said


def test_only_those_with_the_token_join(nodes: Nodes) -> None:
    """Last, since two nodes on one machine share the folder of the jobs' working directories, and each tidies it up."""
    nodes.start("worker")
    other = nodes.write_token(nodes.folder / "other", "4" * 64)
    with_token = nodes.client(CLIENT, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(nodes.token))
    wrong = nodes.client(CLIENT, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(other))
    without = nodes.client(CLIENT, RAY_AUTH_MODE="disabled")
    out, errors = with_token.communicate(timeout=PATIENCE)
    assert with_token.returncode == 0, errors[-3000:]
    assert json.loads(out.splitlines()[-1]) == [2, 8.0, "2"]
    for client in (wrong, without):
        out, errors = client.communicate(timeout=PATIENCE)
        assert client.returncode != 0 and not out
        assert "auth" in errors.lower(), errors[-3000:]
    assert [nodes.asked(nodes.token.read_text()), nodes.asked("4" * 64), nodes.asked(None)] == [200, 403, 401]
