"""What the doors share: a path means the same whatever folder one stands in, and is the same however it is written."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from raymix import compare
from raymix.cli import commands
from raymix.data.preparation import pipeline
from raymix.data.preparation.pipeline import prepare_dataset
from tests.support.make_videos import film

WORDS = {
    "dataset.root": ".",
    "dataset.prepared": "./out/",
    "dataset.annotations": "lists",
    "dataset.splits": "../splits",
    "dataset.regions": "~/regions.json",
    "dataset.faces": "yunet.onnx",
}


def told(name: str, *words: str, code: int = 0) -> Any:
    """The config that a door hands on."""
    configs: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *words])
        assert commands._outcome(configs.append, name) == code
    return configs[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder one stands in."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYMIX_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "a" / "b")
    return tmp_path


@pytest.mark.parametrize("name", ["tune", "train", "compare", "prepare"])
def test_paths_of_the_dataset_are_absolute(name: str, here: Path) -> None:
    b = here / "a" / "b"
    found = {
        "root": b,
        "prepared": b / "out",
        "annotations": b / "lists",
        "splits": here / "a" / "splits",
        "regions": here / "regions.json",
        "faces": b / "yunet.onnx",
    }
    of = told(name, "dataset=folder", *(f"{word}={path}" for word, path in WORDS.items())).dataset
    assert {field: getattr(of, field) for field in found} == {field: str(path) for field, path in found.items()}
    of = told(name, "dataset=voxceleb2", "dataset.root=s3://b/x", "dataset.prepared=file:///x/").dataset
    assert (of.root, of.prepared, of.annotations, of.splits, of.faces) == ("s3://b/x", "file:///x/", "", None, "opencv")
    of = told(name, "dataset.root=mine").dataset  # what refers to it follows
    assert of.regions == f"{b}/mine/regions.json" and of.prepared == f"{here}/home/clips/demo"


def test_other_places_too(here: Path) -> None:
    assert told("evaluate", "prepared=clips").prepared == f"{here}/a/b/clips" and told("evaluate").prepared == ""
    assert told("train", "encoder.weights=~/r18.pth").encoder.weights == f"{here}/r18.pth"


def test_a_study_of_a_comparison_is_told_the_same(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["dataset=folder", *(f"{word}={path}" for word, path in WORDS.items())]
    config = told("compare", *words, "systems=[cycle]")
    monkeypatch.setattr(sys, "argv", ["compare.py", *words, "systems=[cycle]"])
    made = compare.compose_study_config(config, "cycle", 0)
    assert made.dataset == config.dataset == told("tune", *words).dataset
    assert made.dataset.root == str(here / "a" / "b")


def test_in_the_working_directory_of_a_job_a_relative_path_stays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another folder after each change of the code, and the study that goes on is the same."""
    for package in ("_ray_pkg_1", "_ray_pkg_2"):
        copy = here / "runtime_resources" / "working_dir_files" / package
        copy.mkdir(parents=True)
        monkeypatch.chdir(copy)
        of = told("tune", "dataset=folder", *(f"{word}={path}" for word, path in WORDS.items())).dataset
        assert (of.root, of.annotations, of.regions) == (".", "lists", f"{here}/regions.json")


def test_a_dataset_is_known_by_where_its_videos_are(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ray_runs", lambda: False)
    for folder in ("a", "other"):
        film(here / folder / "x.mp4", 4.0)
    words = ("dataset=folder", "dataset.val=0", "dataset.test=0", "dataset.frame_size=32")

    def made(root: str) -> bool:
        return prepare_dataset(told("prepare", *words, f"dataset.root={root}").dataset, lambda line: None).fresh

    monkeypatch.chdir(here / "a")
    assert made(".")
    assert not made(str(here / "a")) and not made("../a/") and not made("~/a")
    os.chdir(here / "other")
    with pytest.raises(ValueError, match=f"root {here}/a there, {here}/other asked"):
        made(".")
