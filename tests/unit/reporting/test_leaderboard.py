"""The leaderboard, as a person and as a program sees it: rows, exit codes, one line per refusal, no torch, no Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raymix import leaderboard
from raymix.tracking.event_log import EventLog

METRIC = "val/sounding_accuracy"
ROOT = Path(__file__).resolve().parents[3]


def make(root: Path, name: str, objective: str = METRIC, trials: int = 4) -> None:
    ledger = EventLog(str(root / "studies" / name))
    config = {"training": {"batch_size": 48}, "method": {"temperature": 0.07, "pool": "max"}, "mixture": {"k": 2}}
    fields = {"name": name, "objective": objective, "mode": "max", "planned": 6, "space_hash": "x", "seed": 0}
    ledger.append("study", {**fields, "config": config})
    for number in range(trials):
        params = {"mixture.k": 2 + number % 2, "method.temperature": 0.05 * (number + 1)}
        if number == 3:
            params["method.pool_sharpness"] = 5.0
        ledger.append("trial_started", {"trial": number, "params": params})
        for epoch in (1, 2):
            score = [0.4, 0.9, 0.6, 0.5][number] - 0.1 * (epoch - 1)
            metrics = {objective: score, f"{objective}_shuffled": 0.2, "val/loss": 1 - score}
            path = f"checkpoints/trial-{number:04d}/epoch-{epoch:04d}"
            ledger.append("epoch_scored", {"trial": number, "epoch": epoch, "metrics": metrics, "checkpoint": path})
        state = ["completed", "failed", "pruned", "completed"][number]
        ledger.append(
            "trial_ended", {"trial": number, "state": state, "reason": "NaN, so to say" if number == 1 else ""}
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path, "mine")
    return tmp_path


def ask(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = leaderboard.main([*arguments, "--root", str(root)])
    out, err = capsys.readouterr()
    return code, out, err


def trials(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    code, out, _ = ask(root, capsys, "mine", "--json", *arguments)
    assert code == 0
    return json.loads(out)[0]["trials"]


def test_best_first_and_failed_last(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = trials(root, capsys)
    assert [(line["rank"], line["trial"], line["state"]) for line in table] == [
        (1, 2, "pruned"),
        (2, 3, "completed"),
        (3, 0, "completed"),
        (None, 1, "failed"),
    ]
    assert table[0]["score"] == 0.6 and table[0]["shuffled"] == 0.2 and table[0]["epochs"] == 2
    assert table[0]["best_epoch"] == 1
    assert table[0]["params"] == {"mixture.k": 2, "method.temperature": pytest.approx(0.15)}
    assert table[3]["reason"] == "NaN, so to say"


def test_plain_table_has_a_column_per_searched_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(root, capsys, "mine")
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert lines[0] == f"mine: 4 of 6 trials (2 completed, 1 pruned, 1 failed), by {METRIC} (max)"
    assert lines[1].split() == [
        "rank",
        "trial",
        "state",
        "score",
        "shuffled",
        "epochs",
        "mixture.k",
        "method.temperature",
        "method.pool_sharpness",
        "reason",
        "checkpoint",
    ]
    assert lines[2].split() == ["1", "2", "pruned", "0.6", "0.2", "2", "2", "0.15", "checkpoints/trial-0002/epoch-0001"]
    assert "NaN, so to say" in lines[5] and len(lines) == 6


def test_top_counts_after_where(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line["trial"] for line in trials(root, capsys, "--top", "2")] == [2, 3]
    assert [line["trial"] for line in trials(root, capsys, "--where", "mixture.k==2", "--top", "1")] == [2]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("mixture.k==2 and method.temperature<0.1", [0]),
        ("state == 'failed'", [1]),
        ("score > 0.45", [2, 3, 1]),
        ("method.pool_sharpness > 1", [3]),
        ("training.batch_size == 48 and trial in [0, 3]", [3, 0]),
        ("rank <= 2", [2, 3]),
        ("training.batch_size != 48", []),
    ],
)
def test_where(root: Path, capsys: pytest.CaptureFixture[str], where: str, expected: list[int]) -> None:
    assert [line["trial"] for line in trials(root, capsys, "--where", where)] == expected


def test_nothing_to_show_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(root, capsys, "mine", "--where", "training.batch_size != 48")
    assert code == 0 and out.splitlines()[1] == "no trial to show"


def test_another_metric(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = trials(root, capsys, "--metric", "val/loss", "--mode", "min")
    assert [line["trial"] for line in table][:3] == [2, 3, 0] and table[0]["score"] == pytest.approx(0.4)


def test_best_checkpoint_is_one_absolute_path(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "other", trials=1)
    best = f"{root}/studies/mine/checkpoints/trial-0002/epoch-0001\n"
    assert ask(root, capsys, "mine", "--best-checkpoint") == (0, best, "")
    assert ask(root, capsys, "--best-checkpoint") == (0, best, "")
    code, out, _ = ask(root, capsys, "mine", "--best-checkpoint", "--where", "mixture.k == 3")
    assert (code, out) == (0, f"{root}/studies/mine/checkpoints/trial-0003/epoch-0001\n")


def test_no_checkpoint_is_exit_three(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "young", trials=0)
    for arguments in (["young"], ["mine", "--where", "trial > 7"]):
        code, out, err = ask(root, capsys, *arguments, "--best-checkpoint")
        assert (code, out, len(err.splitlines())) == (3, "", 1)


def test_lists_studies(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "other", trials=1)
    (root / "studies" / "not-one").mkdir()
    code, out, _ = ask(root, capsys)
    assert code == 0
    assert [line.split() for line in out.splitlines()[2:]] == [
        ["mine", "4/6", METRIC, "0.6"],
        ["other", "1/6", METRIC, "0.4"],
    ]
    code, out, _ = ask(root, capsys, "--json")
    assert [(s["study"], s["best"]) for s in json.loads(out)] == [("mine", 0.6), ("other", 0.4)]


def test_an_empty_home_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(tmp_path, capsys)
    assert code == 0 and "no studies" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mien"], "did you mean mine?"),
        (["../mine"], "no such study"),
        (["mine", "--metric", "val/sounding_acuracy"], f"did you mean {METRIC}?"),
        (["mine", "--where", "mixture.kk == 2"], "did you mean mixture.k?"),
        (["mine", "--where", "temperature < 1"], "did you mean method.temperature?"),
        (["mine", "--where", "mixture.k = 2"], "not an expression"),
        (["mine", "--where", "open('x')"], "not allowed"),
        (["mine", "--where", "state < 3"], "state < 3"),
        (["mine", "--top", "0"], "at least 1"),
        (["mine", "--root", "nowhere://x"], "nowhere://x"),
    ],
)
def test_bad_questions_get_one_line_and_exit_two(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    if "--root" not in arguments:
        arguments = [*arguments, "--root", str(root)]
    code = leaderboard.main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1


def test_studies_with_different_objectives_have_no_common_best(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "other", objective="val/ciou")
    code, _, err = ask(root, capsys, "--best-checkpoint")
    assert code == 2 and "val/ciou" in err


def test_needs_neither_torch_nor_ray(root: Path) -> None:
    program = (
        "import sys; from raymix import leaderboard; code = leaderboard.main(['mine', '--json']);"
        "found = {'torch', 'ray', 'hydra', 'optuna'} & set(sys.modules); assert not found, found; sys.exit(code)"
    )
    environment = {**os.environ, "RAYMIX_HOME": str(root), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["study"] == "mine"
