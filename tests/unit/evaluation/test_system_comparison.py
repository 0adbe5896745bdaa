"""Several systems, one budget, one table: what each study is told, what is refused, and what is scored and written once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raymix import compare
from raymix.config import config_from_plain, config_to_plain, override_config
from raymix.config.errors import NoUsableResult
from raymix.evaluation import system_comparison
from raymix.methods import METHODS, method_from_config
from raymix.runtime import ray_cluster
from raymix.search import planning, runner, study_plan
from raymix.search.space_file import shared_search_space
from raymix.tracking import checkpoint
from raymix.tracking.event_log import EventLog
from tests.conftest import SMALL
from tests.support.reports import by_layout, metrics_of, plain

NAME = "side"
BUDGET = ("study.n_trials=2", "training.epochs=2", "search.grace_period=1", f"study.name={NAME}")
WORDS = ("systems=[cycle]", "seeds=[0,3]", *BUDGET, *(word for word in SMALL if not word.startswith("method.")))


def call(*words: str, home: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare.py", *words, f"home={home}"])
        with pytest.raises(SystemExit) as stop:
            compare.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def study_of(plan: study_plan.StudyPlan, score: float = 0.5) -> int:
    """Instead of a search: a study whose trials hold untrained networks, the second one the better."""
    assert plan.space is not None
    planning.record_study_start(plan)
    for number, params in enumerate([plan.space.initial_points[0], plan.space.initial_points[0]]):
        run = config_from_plain(override_config(config_to_plain(plan.run), params))
        torch.manual_seed(number + 10 * plan.run.study.seed)
        path = checkpoint.checkpoint_path(number, 2)
        checkpoint.save_checkpoint(
            f"{plan.uri}/{path}", method_from_config(run).state_dict(), {"step": 1}, config_to_plain(run)
        )
        plan.event_log.append("trial_started", {"trial": number, "params": params})
        for epoch in (1, 2) if number else (2,):
            scored = {"metrics": {"val/sounding_accuracy": score + number}, "checkpoint": path, "seconds": 900.0}
            plan.event_log.append(
                "epoch_scored", {"trial": number, "epoch": epoch, **scored, "training": {"workers": 2}}
            )
        plan.event_log.append("trial_ended", {"trial": number, "state": "completed" if number else "pruned"})
    return 0


@pytest.fixture
def home(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of one's own with the demo's clips, and a Ray that must not be started."""
    for part in ("clips", "videos"):
        os.symlink(demo / part, tmp_path / part)

    def started(*_: Any) -> None:
        raise AssertionError("Ray would have been started")

    monkeypatch.setattr(ray_cluster, "start_or_join_ray", started)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if "ray" in sys.modules:
        monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    yield tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[study_plan.StudyPlan]:
    """The studies that would have been searched, in order; each is made small instead."""
    plans: list[study_plan.StudyPlan] = []
    monkeypatch.setattr(runner, "run_study", lambda plan, began: plans.append(plan) or study_of(plan))
    return plans


def test_only_its_own_knobs_are_a_systems_own() -> None:
    own = {
        "space": {
            "method.a": {"float": [0.0, 1.0]},
            "optimizer.learning_rate": {"float": [1e-6, 1e-5]},
            "training.batch_size": {"categorical": [4, 8]},
        },
        "constraints": ["training.batch_size % mixture.k == 0"],
        "fixed": {"mixture.k": 1, "training.epochs": 99, "optimizer.weight_decay": 0.1},
        "initial_points": [
            {"method.a": 0.5, "optimizer.learning_rate": 1e-6, "training.batch_size": 4},
            {"method.a": 0.5, "optimizer.learning_rate": 1e-5},
            {"method.a": 0.7},
        ],
    }
    space = {
        "optimizer.learning_rate": {"float": [1e-4, 1e-3]},
        "optimizer.weight_decay": {"categorical": [0.0, 5e-4]},
    }
    settings = {"optimizer.learning_rate": 1e-4, "optimizer.weight_decay": 0.3, "training.batch_size": 8}
    found = shared_search_space(own, space, settings)
    assert found["space"] == {"method.a": own["space"]["method.a"], **space}
    assert found["fixed"] == {"mixture.k": 1} and found["constraints"] == own["constraints"]
    begin = {"optimizer.learning_rate": 1e-4}  # weight decay is not in the range: drawn for all
    assert found["initial_points"] == [{"method.a": 0.5, **begin}, {"method.a": 0.7, **begin}]
    bare = shared_search_space({"space": {"method.b": {"int": [1, 2]}}}, space, settings)
    assert bare["initial_points"] == [begin]  # a system without published settings begins no worse


@pytest.mark.slow
def test_every_system_can_be_compared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its files, and all of them get the same budget, scenes and common ranges."""
    plans: list[study_plan.StudyPlan] = []
    monkeypatch.setattr(compare, "show_plans", lambda found: plans.extend(found.values()) or 0)
    words = [word for word in WORDS if not word.startswith(("systems=", "seeds="))]
    assert call(*words, f"systems=[{','.join(METHODS)}]", "study.dry_run=true", home=home) == 0
    assert [plan.run.method["name"] for plan in plans] == list(METHODS)
    common = ("optimizer.learning_rate", "optimizer.weight_decay")
    for plan in plans:
        assert all(name.startswith("method.") or name in common for name in plan.space.names)
        for name in common:
            assert repr(plan.space.distributions[name]) == repr(plans[0].space.distributions[name])
        for part in ("training", "encoder", "dataset", "evaluation", "optimizer"):
            assert config_to_plain(plan.run)[part] == config_to_plain(plans[0].run)[part]
        stops = METHODS[plan.run.method["name"]].supports_early_stopping
        assert plan.run.search.scheduler == ("asha" if stops else "fifo")
    assert call(*words, f"systems=[{','.join(METHODS)}]", "study.dry_run=true", "search=asha", home=home) == 0
    assert {plan.run.search.scheduler for plan in plans[len(METHODS) :]} == {"asha"}  # what is said holds for all
    assert not (home / "studies").exists() and not (home / "comparisons").exists()


def test_a_common_space_of_ones_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "own/space").mkdir(parents=True)
    (home / "own/space/mine.yaml").write_text("mixture.crop: {float: [0.3, 1.0]}")
    plans: list[study_plan.StudyPlan] = []
    monkeypatch.setattr(compare, "show_plans", lambda found: plans.extend(found.values()) or 0)
    words = ("study.dry_run=true", f"--config-dir={home}/own", "space=mine")
    assert call(*WORDS, *words, home=home) == 0
    for plan in plans:
        assert [name for name in plan.space.names if not name.startswith("method.")] == ["mixture.crop"]
        assert plan.space.initial_points[0]["mixture.crop"] == plan.run.mixture.crop


def test_one_table_of_the_test_split(
    home: Path, ran: list[study_plan.StudyPlan], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*WORDS, home=home) == 0
    out = capsys.readouterr().out
    assert [plan.run.study.name for plan in ran] == ["side-cycle-0", "side-cycle-3"]
    assert [(plan.run.study.seed, plan.run.training.seed, plan.run.study.final) for plan in ran] == [
        (0, 0, 0),
        (3, 3, 0),
    ]
    folder = home / "comparisons" / NAME
    found, table = json.loads((folder / "comparison.json").read_text()), (folder / "comparison.md").read_text()
    assert table in out and f"  {folder}/comparison.md\n  {folder}/comparison.json\n" in out
    (line,) = found["details"]["systems"]
    assert (line["system"], line["labels"], line["scored_seeds"]) == ("cycle", False, [0, 3])
    assert line["spent"] == {
        "completed": 2,
        "pruned": 2,
        "failed": 0,
        "owed": 0,
        "epochs": 6,
        "worker_hours": pytest.approx(3.0),
    }
    heads = [head for *_, head in system_comparison.TABLE_COLUMNS]
    assert list(line["scores"]) == list(line["untrained"]) == heads
    columns = [each["heading"] for each in found["details"]["columns"]]
    assert columns == heads and [each["seed"] for each in found["checkpoints"]] == [0, 3]
    systems = {each["system"]: by_layout(each) for each in found["systems"]}
    both = [
        {
            "trained": systems[f"cycle, seed {seed}"],
            "shuffled": systems[f"cycle, seed {seed}, shuffled audio"],
            "untrained": systems[f"cycle, seed {seed}, untrained network"],
            "untrained_shuffled": systems[f"cycle, seed {seed}, untrained network, shuffled audio"],
        }
        for seed in (0, 3)
    ]
    for head, (layout, metric, deaf, _) in zip(heads, system_comparison.TABLE_COLUMNS, strict=True):
        kind = "shuffled" if deaf else "trained"
        values = [rows[kind][layout]["metrics"][metric]["value"] for rows in both]
        assert line["scores"][head] == {
            "value": pytest.approx(sum(values) / 2),
            "low": min(values),
            "high": max(values),
        }
    assert len({rows[kind]["grid2x2"]["scenes_hash"] for rows in both for kind in rows}) == 1
    described = json.loads((home / "clips/demo/dataset.json").read_text())["preprocessing"]
    assert {record["preprocessing"] for rows in both for kind in rows.values() for record in kind.values()} == {
        described
    }
    assert (
        found["preprocessing"] == described == found["scene_sets"][2]["preprocessing"]
        and f" of clips {described}; blind" in table
    )
    assert {each["trial"] for each in found["checkpoints"]} == {1}  # the best one
    rows = [text for text in table.splitlines() if text.startswith("| ")]
    assert len({len(text) for text in rows}) == 1 and rows[1].startswith("| cycle ")
    assert "| 2/2/0 " in rows[1] and rows[2].startswith("| null: cycle, untrained ")
    names = [text.split("|")[1].strip() for text in rows[3:]]
    assert {"null: full frame", "null: centre box 0.5", "null: radial prior", "null: random panels"} <= set(names)
    assert len(names) == len(set(names))

    monkeypatch.setattr(runner, "run_study", pytest.fail)  # the same command again: nothing is searched or scored twice
    monkeypatch.setattr(system_comparison, "measure_checkpoint", pytest.fail)
    assert call(*WORDS, home=home) == 0
    again = json.loads((folder / "comparison.json").read_text())
    assert {**again, "written": ""} == {**found, "written": ""}


def test_scores_are_those_of_evaluate(home: Path, ran: list[study_plan.StudyPlan]) -> None:
    from raymix.config import EvaluateConfig
    from raymix.evaluation.dispatch import run_evaluation

    assert call(*WORDS, "seeds=[0]", home=home) == 0
    found = json.loads((home / f"comparisons/{NAME}/comparison.json").read_text())
    uri = ran[0].uri
    (noted,) = EventLog(uri).read().evaluations[0]["checkpoints"]
    lines: list[str] = []
    report = run_evaluation(EvaluateConfig(home=str(home), study=uri, pictures=0), lines.append)
    assert any("opened for these checkpoints before" in text for text in lines)
    (expected,) = report.scores["checkpoints"]
    assert noted["scores"] == pytest.approx(expected["scores"], abs=1e-9)
    for layout in ("grid2x2", "solo2x2", "hconcat", "single"):
        mine, other = metrics_of(found, layout), metrics_of(report.scores, layout)
        for system, name in {
            "trial 1": "cycle, seed 0",
            "untrained network": "cycle, seed 0, untrained network",
        }.items():
            assert plain(mine[name]) == plain(other[system]), (system, layout)
        baselines = [each["system"] for each in found["systems"] if each["role"] == "baseline"]
        assert len(baselines) == 10
        for name in baselines:
            assert mine.get(name) == other.get(name)
    scores = found["details"]["systems"][0]["scores"]["grid2x2: sounding accuracy"]
    assert scores["low"] < scores["value"] < scores["high"]  # one seed: by bootstrap


def test_an_interruption_leaves_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans: list[study_plan.StudyPlan] = []
    monkeypatch.setattr(runner, "run_study", lambda plan, began: plans.append(plan) or 143)
    assert call(*WORDS, home=home) == 143
    assert len(plans) == 1 and not (home / "comparisons").exists()

    def interrupted(*_: Any) -> None:
        raise ray_cluster.InterruptedBySignal(2)

    monkeypatch.setattr(runner, "run_study", lambda plan, began: study_of(plan))
    monkeypatch.setattr(system_comparison, "measure_checkpoint", interrupted)
    assert call(*WORDS, home=home) == 130
    assert "go on with: python -m raymix.compare 'systems=[cycle]' 'seeds=[0,3]'" in capsys.readouterr().err
    assert not (home / "comparisons").exists()


def test_what_gave_nothing_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(plan: study_plan.StudyPlan, began: float) -> int:
        if plan.run.study.seed == 0:
            code = study_of(plan)
            plan.event_log.append("exhausted", {"trials": 2, "points": 2})
            return code
        for number in range(planning.record_study_start(plan).planned):
            plan.event_log.append("trial_ended", {"trial": number, "state": "failed", "reason": "not finite"})
        raise NoUsableResult("no trial gave a score")

    monkeypatch.setattr(runner, "run_study", half)
    assert call(*WORDS, home=home) == 0
    table = (home / f"comparisons/{NAME}/comparison.md").read_text()
    assert "- cycle, seed 3: no trial gave a usable checkpoint" in table and "| 1/1/2 " in table
    assert "- cycle, seed 0: the search space has no further point: 2 points, 2 trials" in table
    assert call(*WORDS, "seeds=[3]", home=home) == 3


@pytest.mark.slow
def test_studies_of_other_settings_are_refused(
    home: Path, ran: list[study_plan.StudyPlan], capsys: pytest.CaptureFixture[str]
) -> None:
    for plan in _planned(home):
        study_of(plan)
    for word, says in {
        "training.epochs=3": "training.epochs: the study side-cycle-3 was started with 2",
        "search=fifo": "search.scheduler=fifo: the study side-cycle-3 was started with asha",
        "study.n_trials=1": "study.n_trials=1: the study side-cycle-3 has 2; all must have as many",
        "space={optimizer.weight_decay:{categorical:[0.0]}}": "study of this name searches another space",
    }.items():
        assert call(*WORDS, word, "seeds=[1,3]", home=home) == 2  # seed 1 is new, and not begun either
        out, err = capsys.readouterr()
        assert says in err and err.count("\n") == 1 and out == ""
    assert not ran and not (home / "studies/side-cycle-1").exists()


def _planned(home: Path) -> list[study_plan.StudyPlan]:
    found: list[study_plan.StudyPlan] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "show_plans", lambda plans: found.extend(plans.values()) or 0)
        assert call(*WORDS, "study.dry_run=true", home=home) == 0
    return found
