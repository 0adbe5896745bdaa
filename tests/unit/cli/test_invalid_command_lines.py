"""Broken command lines: each is refused in one clear line with exit code 2; nothing starts and nothing is written."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raymix.cli import recipes
from raymix.config import DatasetConfig
from raymix.data import records
from raymix.data.preparation import pipeline, writer
from raymix.methods import METHODS
from raymix.runtime import lease, ray_cluster
from raymix.search import planning, runner, study_plan
from tests.support.invalid_command_lines import CASES, HOME, OWN, SMALL, SPACES

ROOT = Path(__file__).resolve().parents[3]


class Started(BaseException):
    """Ray would have been started."""


def started(*arguments: Any, **settings: Any) -> None:
    raise Started


def prepared(folder: Path, val: int = 6) -> None:
    """A dataset of 20 training clips and some for validation, written without any video."""
    folder.mkdir(parents=True)
    facts = pipeline.describe_provenance(DatasetConfig(prepared=str(folder)))
    splits = {}
    for split, count in (("train", 20), ("val", val), ("test", 6)):
        wave, frame = np.zeros(16000, np.float32), np.zeros((16, 16, 3), np.uint8)
        made = [
            records.ClipRecord(
                f"{split}{n}", "folder", split, f"{split}{n}.mp4", f"{n}", 0.0, 1.0, (), [frame], [0.0], wave
            )
            for n in range(count)
        ]
        table = pa.Table.from_pylist(
            [writer.encode_clip(each) for each in made], schema=records.clip_schema(facts["preprocessing"])
        )
        pq.write_table(table, folder / f"{split}-0.parquet")
        splits[split] = {"files": [f"{split}-0.parquet"], "clips": count, "videos": count}
    found = {"schema_version": records.SCHEMA_VERSION, "splits": splits, "statuses": {"ok": 32}, "classes": [], **facts}
    (folder / "dataset.json").write_text(json.dumps(found))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "torn": lambda f: (f / "train-0.parquet").write_bytes((f / "train-0.parquet").read_bytes()[:999]),
    "foreign": lambda f: pq.write_table(pa.table({"text": ["a", "b"]}), f / "train-0.parquet"),
    "gone": lambda f: (f / "val-0.parquet").unlink(),
    "bare": lambda f: (f / "dataset.json").unlink(),
    "older": lambda f: (f / "dataset.json").write_text(
        (f / "dataset.json").read_text().replace(f'"schema_version": {records.SCHEMA_VERSION}', '"schema_version": 1')
    ),
    "newer": lambda f: (f / "dataset.json").write_text('{"schema_version": 99, "splits": {}}'),
    "garbled": lambda f: (f / "dataset.json").write_text("{"),
    "lacking": lambda f: (f / "dataset.json").write_text(
        f'{{"schema_version": {records.SCHEMA_VERSION}, "splits": {{}}}}'
    ),
}


def call(door: str, words: tuple[str, ...], home: Path) -> int | str | None:
    """Go through a door as the command line does; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{door}.py", *(word.replace(HOME, str(home)) for word in words)])
        module = importlib.import_module(f"raymix.{door}")
        try:
            code: int | str | None = module.main()
        except SystemExit as stop:
            code = stop.code
    return code


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Studies, clips good and bad, and search spaces of a person's own; no case may change it."""
    there = tmp_path_factory.mktemp("home")
    (there / "own/search_spaces").mkdir(parents=True)
    for name, text in SPACES.items():
        (there / f"own/search_spaces/{name}.yaml").write_text(text)
    (there / "own/space").mkdir()
    (there / "own/space/misspelt.yaml").write_text("mixture.corp: {float: [0.3, 1.0]}")
    (there / "file").write_text("not a folder")
    prepared(there / "clips/whole")
    prepared(there / "clips/few", val=2)
    prepared(there / "clips/four", val=4)
    for name, damage in DAMAGE.items():
        folder = there / "clips" / name
        shutil.copytree(there / "clips/whole", folder)
        damage(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYMIX_HOME", str(there))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr("raymix.tune.run_study", lambda plan, began: planning.record_study_start(plan) and 0)
        assert call("tune", ("study.name=taken",), there) == 0
    gc.freeze()  # what torch and Ray hold need not be looked through again and again
    yield there
    gc.unfreeze()


@pytest.fixture
def quiet(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which Ray does not run and must not be started."""
    monkeypatch.setenv("RAYMIX_HOME", str(home))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_cluster, "start_or_join_ray", started)
    if "ray" in sys.modules:  # another test module may have left it running
        monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    return home


def everything(*roots: Path) -> dict[str, tuple[int, int]]:
    """Each file and folder below with its size and time of change."""
    found = [path for root in roots for path in (root, *root.rglob("*"))]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()} | {
        str(path): (0, 0) for path in found if path.is_dir()
    }


@pytest.mark.parametrize(("door", "words", "says"), CASES, ids=[" ".join((door, *words)) for door, words, _ in CASES])
def test_one_clear_line(
    door: str, words: tuple[str, ...], says: str, quiet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(quiet, tmp_path)
    code = call(door, words, quiet)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert err.startswith("raymix: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert says.replace(HOME, str(quiet)) in err
    assert len(err) < 400 + 2 * len(str(quiet)) and "Traceback" not in err and "full_key" not in err
    assert out == ""
    assert everything(quiet, tmp_path) == before


def test_there_are_enough_of_them() -> None:
    assert len({(door, words) for door, words, _ in CASES}) == len(CASES) >= 34


def test_cmaes_without_its_package(
    quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "cmaes" else whole(name, *more)
    )
    assert call("tune", ("search.sampler=cmaes",), quiet) == 2
    assert capsys.readouterr().err.startswith("raymix: search.sampler=cmaes: needs the package cmaes")


def test_what_is_whole_gets_as_far_as_ray(quiet: Path) -> None:
    words = (*SMALL, *OWN, f"dataset.prepared={quiet}/clips/whole", "search_spaces=good", "study.name=new")
    with pytest.raises(Started):
        call("tune", words, quiet)
    with pytest.raises(Started):
        call("train", (*SMALL, f"dataset.prepared={quiet}/clips/whole"), quiet)
    assert not (quiet / "studies/new").exists()


def new_study(quiet: Path, name: str) -> tuple[str, ...]:
    return (*SMALL, *OWN, f"dataset.prepared={quiet}/clips/whole", "search_spaces=good", f"study.name={name}")


def test_a_driven_study_is_refused_before_ray_starts(quiet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lease.study_lease(f"{quiet}/studies/driven", "driven", pytest.fail):
        assert call("tune", new_study(quiet, "driven"), quiet) == 2
    out, err = capsys.readouterr()
    assert err.startswith("raymix: study driven is driven by ") and err.count("\n") == 1 and out == ""
    assert not (quiet / "studies/driven").exists()


def test_what_another_driver_ended_meanwhile_is_not_run_again(
    quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans: list[study_plan.StudyPlan] = []
    plan = planning.plan_study
    monkeypatch.setattr(planning, "plan_study", lambda *given: plans.append(plan(*given)) or plans[-1])

    @contextlib.contextmanager
    def held(*given: Any) -> Iterator[None]:
        """Meanwhile another driver ends the study."""
        for number in range(planning.record_study_start(plans[0]).planned):
            plans[0].event_log.append("trial_ended", {"trial": number, "state": "failed"})
        yield

    monkeypatch.setattr(lease, "study_lease", held)
    assert call("tune", new_study(quiet, "ended"), quiet) == 3
    assert "no trial gave a score" in capsys.readouterr().err
    shutil.rmtree(quiet / "studies/ended")


def test_a_driver_that_was_cut_off_ends_with_everything_kept(
    quiet: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own, which a signal ends at once (`ray_cluster.exit_after_interrupt`)."""
    folder = quiet / "studies/cut"

    def search(*given: Any) -> None:
        (claim,) = (folder / "driver").iterdir()
        claim.unlink()
        time.sleep(20)

    monkeypatch.setattr("raymix.search.runner.search_on_cluster", search)
    monkeypatch.setattr(lease, "study_lease", functools.partial(lease.study_lease, beat=0.2, silent=5.0))
    words = new_study(quiet, "cut")
    if (child := os.fork()) == 0:
        try:
            call("tune", words, quiet)
        finally:
            os._exit(1)  # otherwise pytest goes on in this process too
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    err = capfd.readouterr().err
    assert "study cut: its claim was taken away; this driver ends; go on with: python -m raymix.tune" in err
    assert "SIGTERM: everything scored so far is kept" in err


def test_a_space_of_ones_own_is_searched(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[study_plan.StudyPlan] = []
    monkeypatch.setattr("raymix.tune.run_study", lambda plan, began: plans.append(plan))
    assert call("tune", (*OWN, "search_spaces=good", "study.name=new"), quiet) == 0
    assert plans[0].space.names == ["method.temperature", "mixture.k"]
    assert plans[0].run.optimizer.weight_decay == 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_searched_without_another_word(method: str, quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[study_plan.StudyPlan] = []
    monkeypatch.setattr("raymix.tune.run_study", lambda plan, began: plans.append(plan))
    assert call("tune", (f"method={method}",), quiet) == 0
    own = "demo" if method == "cycle" else method
    assert plans[0].space.names == _names(own) and plans[0].run.method["name"] == method
    assert plans[0].run.search.scheduler == ("fifo" if method == "dsol" else "asha")
    assert call("tune", (f"method={method}", "search_spaces=optimizer", "search=median"), quiet) == 0
    assert plans[1].space.names == _names("optimizer") and plans[1].run.search.scheduler == "median"


def test_what_the_clips_cannot_carry_is_cut_before_ray_starts(
    quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 training clips: of the batches of recipe=small one is left, and the same command finds its study again."""
    plans: list[study_plan.StudyPlan] = []
    monkeypatch.setattr("raymix.tune.run_study", lambda plan, began: plans.append(plan))
    monkeypatch.setattr(recipes, "recipe_notes", [])
    words = ("dataset=folder", f"dataset.prepared={quiet}/clips/whole", "study.name=cut")
    assert call("tune", words, quiet) == 0
    plan = plans[0]
    assert (
        plan.run.recipe == "small"
        and plan.run.training.batch_size == 12
        and "training.batch_size" not in plan.space.names
    )
    assert plan.notes[0].startswith("recipe=small: ")
    assert "cut from the search space: training.batch_size 24, 48 (more than the 20 training clips)" in plan.notes
    assert any("validation scenes are made of 6 videos" in note for note in plan.notes)
    assert any("test scenes are made of 6 videos" in note for note in plan.notes)
    planning.record_study_start(plan)
    assert call("tune", words, quiet) == 0 and plans[1].study.exists and plans[1].space.hash == plan.space.hash
    assert call("tune", (*words, "recipe=paper", "training.batch_size=20"), quiet) == 2
    assert "the study cut was started with recipe=small; add recipe=small to go on with it" in capsys.readouterr().err
    shutil.rmtree(quiet / "studies/cut")


def test_what_was_cut_is_in_the_plan(quiet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("dataset=folder", f"dataset.prepared={quiet}/clips/whole", "study.name=cut", "study.dry_run=true")
    assert call("tune", (*words, "mixture.k=2"), quiet) == 0
    out = capsys.readouterr().out
    assert "cut from the search space: training.batch_size 24, 48 (more than the 20 training clips)" in out
    assert "search space: mixture.k=2 from the command line, not searched" in out


def _names(space: str) -> list[str]:
    return list(yaml.safe_load((ROOT / f"search_spaces/{space}.yaml").read_text())["space"])


@pytest.mark.parametrize("door", ["tune", "train", "prepare", "evaluate", "compare"])
def test_help_teaches(door: str, quiet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(quiet, tmp_path)
    assert call(door, ("--help",), quiet) == 0
    out = capsys.readouterr().out
    assert out.count(f"python -m raymix.{door}") >= 2 and "Exit codes: 0 done" in out
    assert call(door, ("--cfg", "job"), quiet) == 0
    out, err = capsys.readouterr()
    assert "home:" in out and err == ""
    assert everything(quiet, tmp_path) == before


def test_the_leaderboard_teaches_too(quiet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("leaderboard", ("--help",), quiet) == 0
    assert "python -m raymix.leaderboard mine --top 10" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("door", "words", "says"),
    [
        ("tune", ("training.epohcs=3",), "did you mean training.epochs?"),
        ("train", ("--epochs", "3"), "settings are written name=value"),
        ("prepare", ("dataset=folder", "dataset.root=/nowhere"), "no such folder"),
        ("leaderboard", ("takken",), "no such study"),
    ],
)
def test_in_a_process_of_its_own(door: str, words: tuple[str, ...], says: str, home: Path, tmp_path: Path) -> None:
    before = everything(home, tmp_path)
    environment = {k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR", "RAY_ADDRESS")}
    environment |= {"RAYMIX_HOME": str(home), "PYTHONPATH": str(Path(runner.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", f"raymix.{door}", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and (not done.stdout or done.stdout.startswith(f"raymix {door}: "))
    assert done.stdout.count("\n") <= 1  # the line that is on the screen while libraries are loaded
    assert done.stderr.startswith("raymix: ") and says in done.stderr
    assert everything(home, tmp_path) == before
