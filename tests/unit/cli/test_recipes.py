"""Recipes: which one a command line has, what it brings to each method, and the search space that goes with it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from raymix.cli import commands, recipes
from raymix.config import ConfigError, TuneConfig, config_from_plain, config_to_plain, flatten_config, override_config
from raymix.config.validation import config_problems
from raymix.methods import METHODS
from raymix.search import data_limits, planning

FOLDER = ("dataset=folder", "dataset.root=/videos", "dataset.frames=3")


def searched(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[TuneConfig, Any, list[str]]:
    """The settings, the search space and the notes of a command line of raymix.tune."""
    monkeypatch.setattr(sys, "argv", ["tune.py", *words])
    recipes.complete_command_line("tune")
    config = commands.compose_config("tune", sys.argv[1:], None, "/nowhere")
    return config, *planning.load_search_space(config)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "demo"),
        (("method=ots",), "demo"),
        (("dataset=folder",), "small"),
        (("dataset=music", "cluster=laptop"), "small"),
        (("dataset=music", "cluster=one_gpu"), "paper"),
        (("dataset=vggss", "cluster=multi_node"), "paper"),
        (("dataset=folder", "cluster.gpus_per_worker=1"), "paper"),
        (("dataset=folder", "cluster=one_gpu", "cluster.gpus_per_worker=0"), "small"),
        (("dataset=folder", "cluster=mine"), "small"),  # Hydra refuses it later
        (("dataset=folder", "cluster.gpus_per_worker=many"), "small"),  # likewise
    ],
)
def test_the_recipe_follows_from_the_command_line(words: tuple[str, ...], name: str) -> None:
    assert recipes.default_recipe(words, None) == name


def test_a_chosen_recipe_is_in_the_line_that_resumes_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "recipe_notes", [])
    monkeypatch.setattr(sys, "argv", ["tune.py", "dataset=folder"])
    recipes.complete_command_line("train")
    assert recipes.recipe_notes[0].startswith("recipe=small: ") and "recipe=paper" in recipes.recipe_notes[0]
    assert sys.argv == ["tune.py", "dataset=folder", "recipe=small"]
    recipes.complete_command_line("train")  # as it is where the person has named one
    assert sys.argv == ["tune.py", "dataset=folder", "recipe=small"]


def test_methods_that_are_not_stopped_early_are_those_whose_class_says_so() -> None:
    assert {name for name, method in METHODS.items() if not method.supports_early_stopping} == set(
        recipes.WITHOUT_EARLY_STOPPING
    )


@pytest.mark.parametrize("sizes", ["demo", "small", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_every_space_has_the_recipes_own_values_and_wastes_few_points(
    method: str, sizes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, space, notes = searched(monkeypatch, *FOLDER, f"method={method}", f"recipe={sizes}")
    settings = flatten_config(config_to_plain(config))
    assert config.recipe == sizes and notes == []
    assert data_limits.space_warnings(space, settings, 1024, 0.1) == []
    assert set(space.names) - set(space.conditions) <= set(space.initial_points[0]) <= set(space.names)
    if sizes != "paper":  # there it is the published setting of the method
        assert space.initial_points == [{name: settings[name] for name in space.initial_points[0]}]
    rng = np.random.default_rng(0)
    for _ in range(20):  # points that can run
        point = space.sample(rng)
        if not space.check(point):
            assert (
                config_problems(config_from_plain(override_config(config_to_plain(config), point), TuneConfig)) == []
            ), point


def test_the_papers_first_trial_of_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    _, space, _ = searched(monkeypatch, "dataset=music", "recipe=paper")
    paper = {"method.temperature": 0.07, "optimizer.learning_rate": 1e-4, "training.batch_size": 128}  # section 4.1
    assert paper.items() <= space.initial_points[0].items()


def test_the_demo_has_its_own_space(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, _ = searched(monkeypatch)
    assert config.recipe == "demo" and config.method["node_norm"] == "batch"
    ends = {name: list(values) for name, values in space.bounds().items()}
    assert ends["optimizer.learning_rate"] == [5e-4, 3e-3] and "training.batch_size" not in ends


@pytest.mark.slow
def test_a_recipe_brings_the_settings_of_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    of: dict[tuple[str, str], TuneConfig] = {}
    for method in ("cycle", "fnac", "dmc"):
        for sizes in ("demo", "small", "paper"):
            words = (*FOLDER, f"method={method}", f"recipe={sizes}")
            of[method, sizes] = searched(monkeypatch, *words)[0]
    norms = [of["cycle", sizes].method["node_norm"] for sizes in ("demo", "small", "paper")]
    assert norms == ["batch", "batch", "none"]  # of the demo on other data too
    for sizes in ("demo", "small", "paper"):  # 100 was published with batches of 256, and goes with the batch
        fnac = of["fnac", sizes]
        published = 100 if sizes == "paper" else 100 * fnac.training.batch_size / 256
        assert fnac.method["term_weight"] == pytest.approx(published, rel=0.03)
    assert of["dmc", "demo"].method["visual_clusters"] == 5


def test_voxceleb2_keeps_its_learning_rate_in_the_papers_recipe_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {
        name: [searched(monkeypatch, f"dataset={name}", f"recipe={sizes}")[0].optimizer.learning_rate]
        for name in ("voxceleb2", "music")
        for sizes in ("paper",)
    }
    assert rates == {"voxceleb2": [1e-5], "music": [1e-4]}
    assert searched(monkeypatch, "dataset=voxceleb2", "recipe=small")[0].optimizer.learning_rate == 1e-3


def test_what_the_command_line_gives_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space, notes = searched(monkeypatch, *FOLDER, "training.batch_size=8", "mixture.k=2", "method.pool=max")
    assert config.training.batch_size == 8 and not {"training.batch_size", "mixture.k", "method.pool"} & set(
        space.names
    )
    assert notes == [
        "search space: method.pool=max, mixture.k=2, training.batch_size=8 from the command line, not searched"
    ]
    assert not {"training.batch_size", "method.pool_sharpness"} & set(space.initial_points[0])
    _, space, notes = searched(monkeypatch, "dataset=music", "recipe=paper", "method.pool=lse")
    assert "method.pool_sharpness" in space.names and "method.pool" not in space.initial_points[0]


def test_nothing_left_to_search_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("search_spaces=optimizer", "optimizer.learning_rate=1e-3", "optimizer.weight_decay=0")
    with pytest.raises(ConfigError, match=r"the command line gives every parameter of it; python -m raymix.train"):
        searched(monkeypatch, *words)


def test_a_space_without_the_persons_own_value_and_one_that_wastes_points_are_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, space, _ = searched(monkeypatch, "dataset=music", "recipe=paper", "search_spaces=demo")
    settings = flatten_config(config_to_plain(config))
    said = data_limits.space_warnings(space, settings, 1024, 0.1)
    assert said[0] == (
        "search space: optimizer.learning_rate is searched in 0.0005 to 0.003, log, without your setting 0.0001"
    )
    assert said[-1].startswith("search space: its rules reject 5") or said[-1].startswith(
        "search space: its rules reject 4"
    )
