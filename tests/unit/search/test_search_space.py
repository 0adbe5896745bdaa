"""Search spaces: every misspelling is refused in one line, every point drawn keeps conditions and rules."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from raymix.config import ConfigError
from raymix.search.space import canonical_distribution
from raymix.search.space_file import parse_search_space

# Of SPACE and ODD, as earlier versions wrote them into ledgers, over what Optuna 5.0 printed.
HASHES = ("29fb34d4d58b", "5db4fb3f7a9f")
CONFIG: dict[str, Any] = {
    "method": {
        "name": "cycle",
        "temperature": 0.07,
        "embedding_size": 128,
        "pool": "max",
        "pool_beta": 10.0,
        "weights": None,
    },
    "mixture": {"k": 2, "flip": True, "crop": 0.8},
    "training": {"batch_size": 48},
    "optimizer": {"learning_rate": 1e-4},
    "cluster": {"workers": 1},
}
SPACE: dict[str, Any] = {
    "space": {
        "method.temperature": {"float": [0.02, 0.3], "log": True},
        "method.pool_beta": {"float": [1, 20], "condition": "method.pool == 'lse'"},
        "method.embedding_size": {"categorical": [64, 128, 256]},
        "method.pool": {"categorical": ["max", "lse"]},
        "mixture.k": {"int": [2, 4]},
        "mixture.crop": {"float": [0.2, 1.0], "step": 0.2},
    },
    "constraints": ["method.embedding_size * mixture.k <= 512", "training.batch_size % mixture.k == 0"],
    "fixed": {"training.batch_size": 36},
    "initial_points": [
        {
            "method.temperature": 0.07,
            "method.embedding_size": 128,
            "method.pool": "max",
            "mixture.k": 2,
            "mixture.crop": 0.8,
        },
        {"method.pool": "lse", "mixture.k": 3},
    ],
}
ROOT = Path(__file__).resolve().parents[3]


def changed(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SPACE), **sections}


def searching(**entries: Any) -> dict[str, Any]:
    """A space of some entries only; `__` stands for the dot."""
    return {"space": {name.replace("__", "."): entry for name, entry in entries.items()}}


def test_reads_a_whole_space() -> None:
    space = parse_search_space(SPACE, CONFIG)
    assert space.names.index("method.pool") < space.names.index("method.pool_beta")
    assert set(space.names) == set(SPACE["space"])
    assert repr(space.distributions["method.temperature"]) == repr(
        optuna.distributions.FloatDistribution(0.02, 0.3, log=True)
    )
    assert repr(space.distributions["mixture.crop"]) == repr(optuna.distributions.FloatDistribution(0.2, 1.0, step=0.2))
    assert space.fixed == {"training.batch_size": 36}
    assert space.initial_points[1] == {"method.pool": "lse", "mixture.k": 3}
    assert space.bounds()["mixture.k"] == [2, 4] and space.bounds()["method.pool"] == ["max", "lse"]


def test_random_points_obey() -> None:
    space, rng = parse_search_space(SPACE, CONFIG), np.random.default_rng(0)
    points = [space.sample(rng) for _ in range(500)]
    for point in points:
        assert ("method.pool_beta" in point) == (point["method.pool"] == "lse")
        assert 0.02 <= point["method.temperature"] <= 0.3 and point["mixture.k"] in (2, 3, 4)
        assert min(abs(point["mixture.crop"] - c) for c in (0.2, 0.4, 0.6, 0.8, 1.0)) < 1e-9
        broken = [rule for rule in SPACE["constraints"] if not eval_rule(rule, point)]
        assert space.check(point) == broken
    assert {point["mixture.k"] for point in points} == {2, 3, 4}
    share = sum(bool(space.check(point)) for point in points) / 500
    assert share == pytest.approx(2 / 9, abs=0.06)  # 256 x 3 and 256 x 4 of nine
    assert space.rejected_share(500) == pytest.approx(2 / 9, abs=0.06)
    logs = np.log([point["method.temperature"] for point in points])
    assert np.mean(logs) == pytest.approx((np.log(0.02) + np.log(0.3)) / 2, abs=0.15)


def eval_rule(rule: str, point: dict[str, Any]) -> bool:
    size, k = point["method.embedding_size"], point["mixture.k"]
    return size * k <= 512 if "embedding_size" in rule else 36 % k == 0


def test_rules_see_fixed_over_config_and_searched_over_fixed() -> None:
    space = parse_search_space(
        changed(constraints=["training.batch_size == 36", "mixture.k < 3"], initial_points=[]), CONFIG
    )
    assert space.check({"mixture.k": 2}) == []
    assert space.check({"mixture.k": 3}) == ["mixture.k < 3"]
    other = copy.deepcopy(CONFIG)
    other["mixture"]["k"] = 4
    assert space.check({}, other) == ["mixture.k < 3"]


def test_suggest_is_define_by_run() -> None:
    space = parse_search_space(SPACE, CONFIG)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        params = space.suggest(trial)
        assert params == trial.params and ("method.pool_beta" in params) == (params["method.pool"] == "lse")


def test_the_hash_names_what_is_searched() -> None:
    base = parse_search_space(SPACE, CONFIG).hash
    reordered = {"space": dict(reversed(SPACE["space"].items())), **{k: SPACE[k] for k in ("fixed", "constraints")}}
    assert parse_search_space(reordered, CONFIG).hash == base, "order and the points tried first do not matter"
    for other in (changed(constraints=SPACE["constraints"][:1]), changed(fixed={"training.batch_size": 72})):
        assert parse_search_space(other, CONFIG).hash != base
    wider = copy.deepcopy(SPACE)
    wider["space"]["mixture.k"]["int"] = [2, 5]
    assert parse_search_space(wider, CONFIG).hash != base


ODD = searching(mixture__flip={"categorical": [False, True]}, method__weights={"categorical": [None, "a'b", "Bü"]})


def test_the_hash_is_of_our_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what earlier ledgers hold, and stays so when an upgrade of Optuna prints distributions otherwise."""
    assert (parse_search_space(SPACE, CONFIG).hash, parse_search_space(ODD, CONFIG).hash) == HASHES
    for each in (
        *parse_search_space(SPACE, CONFIG).distributions.values(),
        *parse_search_space(ODD, CONFIG).distributions.values(),
    ):
        assert canonical_distribution(each) == repr(each), "as Optuna 5.0 prints it"
    monkeypatch.setattr(optuna.distributions.BaseDistribution, "__repr__", lambda self: "another version")
    assert (parse_search_space(SPACE, CONFIG).hash, parse_search_space(ODD, CONFIG).hash) == HASHES


def test_pickles() -> None:
    space = parse_search_space(SPACE, CONFIG)
    again = pickle.loads(pickle.dumps(space))
    assert again.hash == space.hash and again.sample(np.random.default_rng(1)) == space.sample(np.random.default_rng(1))


def test_grid() -> None:
    space = parse_search_space(
        {
            **searching(
                method__pool={"categorical": ["max", "lse"]},
                mixture__k={"int": [2, 4]},
                method__pool_beta={"float": [5, 10], "step": 5, "condition": "method.pool == 'lse'"},
            ),
            "constraints": ["mixture.k != 3"],
        },
        CONFIG,
    )
    points = space.grid()
    assert len(points) == 2 * (1 + 2) and len({json.dumps(p) for p in points}) == 6
    with pytest.raises(ConfigError, match="needs a step"):
        parse_search_space(SPACE, CONFIG).grid()
    huge = {f"mixture__{n}": {"int": [1, 2000]} for n in ("k",)} | {"training__batch_size": {"int": [1, 2000]}}
    with pytest.raises(ConfigError, match="more than"):
        parse_search_space(searching(**huge), CONFIG).grid()


def test_perturb_moves_floats_only_and_stays_inside() -> None:
    space, rng = parse_search_space(SPACE, CONFIG), np.random.default_rng(0)
    point = {
        "method.temperature": 0.29,
        "method.embedding_size": 128,
        "method.pool": "lse",
        "method.pool_beta": 5.0,
        "mixture.k": 2,
        "mixture.crop": 0.8,
    }
    seen = [space.perturb(point, rng) for _ in range(100)]
    assert {p["method.temperature"] for p in seen} >= {0.3, 0.29 * 0.8}
    assert all(p.keys() == point.keys() for p in seen)
    assert all(p[n] == point[n] for p in seen for n in ("method.embedding_size", "method.pool", "mixture.k"))
    assert all(1 <= p["method.pool_beta"] <= 20 and 0.2 <= p["mixture.crop"] <= 1.0 for p in seen)


T = {"float": [0.02, 0.3]}


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({}, "no parameter"),
        ({"spaces": {}}, "did you mean space?"),
        (searching(method__temprature=T), "did you mean method.temperature?"),
        (searching(temperature=T), "did you mean method.temperature?"),
        (searching(method=T), "a group of settings"),
        (searching(cluster__workers={"int": [1, 2]}), "cannot differ between trials"),
        (searching(method__temperature={"flaot": [0.1, 0.3]}), "did you mean float?"),
        (searching(method__temperature={"log": True}), "one of float, int, categorical"),
        (searching(method__temperature={**T, "int": [1, 2]}), "not 2"),
        (searching(method__temperature={**T, "lgo": True}), "did you mean log?"),
        (searching(method__pool={"categorical": ["max"], "log": True}), "log is no option of categorical"),
        (searching(mixture__k={"int": [2, 3], "when": "true"}), "when is no option of int; it is called condition now"),
        ({**searching(method__temperature=T), "require": []}, "require is no section; it is called constraints now"),
        ({**searching(method__temperature=T), "first": []}, "first is no section; it is called initial_points now"),
        (searching(method__temperature=[0.1, 0.3]), "must be a mapping"),
        (searching(method__temperature={"float": 0.1}), "must be a list"),
        (searching(method__temperature={"float": [0.1]}), "needs [low, high]"),
        (searching(method__temperature={"float": [0.3, 0.1]}), "low 0.3 is above high 0.1"),
        (searching(method__temperature={"float": [0, 0.1], "log": True}), "above 0"),
        (searching(method__temperature={"float": [-1, 0.1], "log": True}), "above 0"),
        (searching(method__temperature={"float": [0.1, 0.3], "step": 0}), "step must be above 0"),
        (searching(method__temperature={"float": [0.1, 0.3], "step": -1}), "step must be above 0"),
        (searching(method__temperature={"float": [0.1, 0.3], "step": 0.1, "log": True}), "exclude each other"),
        (searching(method__temperature={"float": ["1e-5", 0.1]}), "write 1.0e-05"),
        (searching(method__temperature={"float": [0.1, float("inf")]}), "not a number"),
        (searching(method__temperature={"float": [0.1, 0.3], "log": "yes"}), "true or false"),
        (searching(mixture__k={"int": [1.5, 3]}), "not a whole number"),
        (searching(mixture__k={"float": [1, 3]}), "a whole number (2)"),
        (searching(method__pool={"float": [1, 3]}), "is text ('max')"),
        (searching(mixture__flip={"int": [0, 1]}), "true or false (True)"),
        (searching(method__pool={"categorical": []}), "at least one choice"),
        (searching(method__pool={"categorical": ["max", 3]}), "choice 3 does not fit"),
        (searching(method__pool={"categorical": ["max", "max"]}), "repeats a choice"),
        (searching(mixture__k={"categorical": [2, True]}), "choice True does not fit"),
        (searching(mixture__k={"categorical": [[2], 3]}), "does not fit"),
        (searching(method__temperature={**T, "condition": "method.pol == 'lse'"}), "did you mean method.pool?"),
        (searching(method__temperature={**T, "condition": "method.temperature > 1"}), "wait for each other"),
        (
            searching(
                method__temperature={**T, "condition": "mixture.k > 2"},
                mixture__k={"int": [2, 3], "condition": "method.temperature > 0.1"},
            ),
            "wait for each other",
        ),
        (searching(method__temperature={**T, "condition": "import os"}), "not an expression"),
        (searching(method__temperature={**T, "condition": "method.pool < 3"}), "method.pool < 3"),
        ({**searching(method__temperature=T), "constraints": "mixture.k > 1"}, "constraints: must be a list"),
        ({**searching(method__temperature=T), "constraints": ["mixture.kk > 1"]}, "did you mean mixture.k?"),
        ({**searching(method__temperature=T), "constraints": ["__import__('os')"]}, "not allowed"),
        ({**searching(method__temperature=T), "constraints": [3]}, "must be text"),
        ({**searching(method__temperature=T), "constraints": ["method.temperature > 1"]}, "none of 512 random points"),
        ({**searching(method__temperature=T), "fixed": {"training.batch_siz": 3}}, "did you mean training.batch_size?"),
        ({**searching(method__temperature=T), "fixed": {"training.batch_size": 3.5}}, "does not fit"),
        ({**searching(method__temperature=T), "fixed": {"method.temperature": 0.1}}, "searched as well"),
        (
            {**searching(method__temperature=T), "initial_points": {"method.temperature": 0.1}},
            "initial_points: must be a list",
        ),
        (
            {**searching(method__temperature=T), "initial_points": [{"method.temperature": 0.4}]},
            "0.4 is not in [0.02, 0.3]",
        ),
        ({**searching(method__temperature=T), "initial_points": [{"mixture.k": 2}]}, "is not searched"),
        (changed(initial_points=[{"method.pool": "mean"}]), "not one of"),
        (changed(initial_points=[{"mixture.k": 2.5}]), "not a whole number"),
        (changed(initial_points=[{"mixture.crop": 0.5}]), "in steps of 0.2"),
        (changed(initial_points=[{"method.pool": "max", "method.pool_beta": 3.0}]), "has no use here"),
        (
            changed(initial_points=[{**SPACE["initial_points"][0], "method.embedding_size": 256, "mixture.k": 4}]),
            "breaks the rule",
        ),
    ],
)
def test_refuses_in_one_line(mapping: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refusal:
        parse_search_space(mapping, CONFIG)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 250


def test_a_range_that_misses_its_last_step_is_cut_without_a_warning() -> None:
    space = parse_search_space(searching(mixture__crop={"float": [0.1, 1.0], "step": 0.4}), CONFIG)
    assert space.bounds() == {"mixture.crop": [0.1, pytest.approx(0.9)]}


def test_the_shipped_spaces_open_with_their_command() -> None:
    for file in (ROOT / "search_spaces").glob("*.yaml"):
        assert file.read_text().startswith("# python -m raymix.tune"), file.name
        assert yaml.safe_load(file.read_text()).get("recipe_ranges", False) == (file.stem != "demo"), file.name


def test_ranges_of_a_recipe_are_left_to_spaces_that_say_so() -> None:
    with pytest.raises(ValueError, match="recipe_ranges must be true or false, not 'yes'"):
        parse_search_space({**searching(method__temperature=T), "recipe_ranges": "yes"}, CONFIG)
