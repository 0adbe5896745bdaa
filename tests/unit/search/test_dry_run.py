"""study.dry_run=true: everything said, nothing started, nothing left behind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from raymix import train, tune
from raymix.runtime import ray_cluster
from tests.conftest import SMALL

HERE = Path(__file__).resolve().parents[3]


def door(monkeypatch: pytest.MonkeyPatch, module: str, *words: str) -> int | str | None:
    def never(*arguments: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray_cluster, "start_or_join_ray", never)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if "ray" in sys.modules:  # another test module may have left it running
        monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    monkeypatch.setattr(sys, "argv", [f"{module}.py", *words])
    with pytest.raises(SystemExit) as stop:
        {"tune": tune, "train": train}[module].main()
    return stop.value.code


def test_a_plan_is_printed_and_nothing_starts(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demo / "clips", tmp_path / "clips")
    monkeypatch.chdir(HERE)
    root = f"dataset.root={demo}/videos/demo"
    words = (
        *SMALL,
        f"home={tmp_path}",
        root,
        "study.dry_run=true",
        "cluster.cpus=3",
        "training.epochs=20",
        "study.n_trials=8",
    )
    assert door(monkeypatch, "tune", *words) == 0
    out = capsys.readouterr().out
    for line in (
        f"study: {tmp_path}/studies/demo-cycle: new, 8 trials",
        "storage: a test object was written there and taken away again",
        "batches of 6 an epoch",
        "space: method.temperature       0.05 to 0.3, log",
        "space: requires training.batch_size % mixture.k == 0",
        "space: the rules reject 0% of 2048 random points",
        "search space: method.embedding_size=8 from the command line, not searched",
        "time: an update of 6 clips takes ",
        "disk: clips ",
        "checkpoints about 10 x ",
        "8 trials of at most 20 epochs: about 68 epochs (160 if none were stopped)",
        "slots: 2 slots = CPU: (3 - 1 for the evaluator) / (1 x 1) on this machine",
        "nothing was started",
    ):
        assert line in out, out
    assert not (tmp_path / "studies").exists()


def test_a_plan_says_what_a_small_space_and_few_epochs_mean(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/few.yaml").write_text("space:\n  mixture.k: {categorical: [1, 2, 3]}\n")
    monkeypatch.chdir(demo)
    words = (
        *SMALL,
        f"home={demo}",
        f"--config-dir={tmp_path}",
        "search_spaces=few",
        "study.dry_run=true",
        "cluster.cpus=3",
    )
    assert door(monkeypatch, "tune", *words, "study.name=never", "training.epochs=2", "study.n_trials=8") == 0
    out = capsys.readouterr().out
    for line in (
        "space: 3 points in all, of which none is trained twice: the study ends after 3 trials instead of 8",
        "3 trials of at most 2 epochs: 6 epochs",
        "search.grace_period=4: more than training.epochs=2; 2 is used, and no trial is stopped early",
    ):
        assert line in out, out
    assert not (demo / "studies/never").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("training.batch_size=240",), "training.batch_size=240: more than the"),
        (("dataset.frame_size=99",), "was prepared with other settings"),
        (("cluster.workers=9", "training.batch_size=18"), "the cluster is too small"),
    ],
)
def test_a_plan_that_could_not_run_is_refused_as_the_study_would_be(
    demo: Path, words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    assert door(monkeypatch, "tune", *SMALL, f"home={demo}", "study.dry_run=true", "study.name=never", *words) == 2
    assert says in capsys.readouterr().err
    assert not (demo / "studies/never").exists()


def test_clips_that_are_not_there_yet_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert door(monkeypatch, "train", f"home={tmp_path}", "study.dry_run=true") == 0
    out = capsys.readouterr().out
    assert "an update of 18 clips takes" in out and "is known when the clips are prepared" in out
    assert f"clips: none yet in {tmp_path}/clips/demo; the study begins by preparing {tmp_path}/videos/demo" in out
    assert "search: one run of 20 epochs" in out
    assert not list(tmp_path.iterdir())
