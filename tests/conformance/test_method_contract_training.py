"""Every system on real clips, through the loader and the loop; and one more system: its file, its line, its YAML."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from raymix import config, methods
from raymix.config import ConfigError, MixAndLocalizeConfig, TrainConfig
from raymix.data import prepared
from raymix.data.batches import ClipBatch, DataRequirements, MixtureBatch
from raymix.data.loader import CachedClips, ClipSource, MixtureLoader, read_decoded_clips
from raymix.evaluation.validation import EvaluationScenes, score_method, shared_peak_share
from raymix.methods import METHODS, data_requirements, method_from_config
from raymix.methods.base import MixtureMethod
from raymix.search.preflight import clip_warnings
from raymix.training.loop import build_optimizer, capture_training_state, load_training_state, train_epochs
from tests.unit.training.test_loop import loader, small


def of(name: str, demo: Path, **settings: Any) -> TrainConfig:
    run = small(demo, **settings)
    run.method = {"name": name}
    return run


def train(run: TrainConfig, method: Any, optimizer: Any, first: int = 1) -> Iterator[float]:
    """The loss of each epoch, with what a method does between them: after a yield the epoch is as a checkpoint has it."""
    own = loader(run)
    after = lambda number: method.on_epoch_end(number, run.training.epochs, lambda: own.clip_batches(run))  # noqa: E731
    for epoch in train_epochs(
        method, optimizer, lambda n: own.epoch(run, n, data_requirements(run)), run.training, first=first, after=after
    ):
        yield epoch.train["loss"]


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_equals_an_unbroken_one(name: str, demo: Path) -> None:
    resumed_at_every_epoch(of(name, demo, epochs=2))


def resumed_at_every_epoch(run: TrainConfig) -> tuple[list[float], Any]:
    """Losses and the method of an unbroken run, which another process would have reached from each of its epochs."""
    torch.manual_seed(0)
    method = method_from_config(run)
    optimizer = build_optimizer(method, run.optimizer)
    whole, kept = [], []
    for number, loss in enumerate(train(run, method, optimizer), 1):
        whole.append(loss)
        kept.append(deepcopy((method.state_dict(), capture_training_state(optimizer, number))))
    for cut, (weights, state) in enumerate(kept[:-1], 1):
        torch.manual_seed(99)
        other = method_from_config(run)
        other.load_state_dict(weights)
        restored = build_optimizer(other, run.optimizer)
        again = list(train(run, other, restored, first=load_training_state(restored, state)))
        assert again == pytest.approx(whole[cut:], rel=1e-6), f"resumed after epoch {cut}"
        ended, expected = other.state_dict(), method.state_dict()
        assert all(torch.allclose(ended[n], value, atol=1e-6) for n, value in expected.items()), f"after epoch {cut}"
    return whole, method


@pytest.mark.slow
def test_dsol_is_resumed_in_and_between_its_stages(demo: Path) -> None:
    """Clusters after epoch 2, found anew after 3, where stage 2 begins; the map masks after 4."""
    run = of("dsol", demo, epochs=5)
    run.method |= {"first_stage": 0.5, "clusters": 4, "initial_epochs": 2}
    whole, method = resumed_at_every_epoch(run)
    assert method.since == 3 and method.masked and len(set(whole)) == 5


def test_fnac_is_resumed_in_and_after_its_warm_up(demo: Path) -> None:
    run = of("fnac", demo, epochs=4)
    run.method |= {"warm_up_epochs": 2}
    whole, method = resumed_at_every_epoch(run)
    assert method.epochs_done == 4 and whole[2] > whole[1] + 1  # where the terms begin to count


@pytest.mark.parametrize("name", METHODS)
def test_every_system_is_judged(name: str, demo: Path) -> None:
    run = of(name, demo)
    found = score_method(method_from_config(run), EvaluationScenes.open(run, "val", 8), run)
    assert all(0 <= value <= 1 for value in found.values())
    one = (
        method_from_config(run)
        .predict_heatmaps(EvaluationScenes.open(run, "val", 8).scenes["grid2x2"])
        .maps_NMHW.shape[1]
        == 1
    )
    assert ("val/solo2x2/sounding_accuracy" in found) == one
    assert ("val/same_peak" in found) == (not one)


def test_nodes_that_have_collapsed_are_seen() -> None:
    apart = np.zeros((4, 2, 3, 3))
    apart[:, 0, 0, 0] = apart[:, 1, 2, 2] = 1
    half = apart.copy()
    half[:2, 1] = half[:2, 0]
    assert (shared_peak_share(apart), shared_peak_share(half), shared_peak_share(apart[:, [0, 0]])) == (0, 0.5, 1)


class Dummy(MixtureMethod):
    """One more system, which also asks for labels, and looks at the clips between epochs."""

    requirements: ClassVar[DataRequirements] = DataRequirements(labels=True)
    seen: ClassVar[list[tuple[int, int, int]]] = []

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        map_BKCHW, (nodes_BKC,) = self.encode_images(mixture.frames_BK3YX), self.encode_audio(mixture.mixture_BTF)
        loss = 1 - self.similarity(map_BKCHW, nodes_BKC).mean()
        return loss, self.diagnostics(loss, map_BKCHW, nodes_BKC)

    def on_epoch_end(self, epoch: int, epochs: int, examples: Callable[[], Iterator[ClipBatch]]) -> None:
        self.seen.append((epoch, epochs, sum(len(part.labels) for part in examples())))


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.METHOD_CONFIGS, "dummy", MixAndLocalizeConfig)  # its settings
    monkeypatch.setitem(methods.METHODS, "dummy", Dummy)  # its one line


def test_one_more_system_is_a_file_and_a_line(dummy: None, demo: Path) -> None:
    run = of("dummy", demo)
    method, own = method_from_config(run), loader(run)
    Dummy.seen.clear()
    optimizer = build_optimizer(method, run.optimizer)
    after = lambda number: method.on_epoch_end(number, run.training.epochs, lambda: own.clip_batches(run))  # noqa: E731
    assert (
        len(
            list(
                train_epochs(
                    method, optimizer, lambda n: own.epoch(run, n, data_requirements(run)), run.training, after=after
                )
            )
        )
        == 2
    )
    count = len(prepared.read_video_ids(run.dataset.prepared, "train"))
    assert Dummy.seen == [(1, 2, count), (2, 2, count)]


def test_its_yaml_makes_it_a_choice_of_every_door(dummy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raymix import compare
    from raymix.cli import recipes
    from raymix.cli.commands import compose_config
    from raymix.config import CompareConfig, TuneConfig, config_to_plain
    from raymix.search.space_file import parse_search_space

    (tmp_path / "method").mkdir()
    (tmp_path / "method/dummy.yaml").write_text("name: dummy\ntemperature: 0.3\n")
    made: TuneConfig = compose_config("tune", ["method=dummy"], str(tmp_path), str(tmp_path / "home"))
    assert method_from_config(replace(made, encoder=replace(made.encoder, width=4))).config.temperature == 0.3
    assert made.study.name == "demo-dummy"
    words = recipes.implied_settings(["method=dummy"], str(tmp_path))
    assert words == ["search_spaces=optimizer"]  # without a space of its own it searches what all have
    monkeypatch.setattr(sys, "argv", ["compare.py", "--config-dir", str(tmp_path)])
    asked: CompareConfig = compose_config("compare", ["systems=[dummy]"], str(tmp_path), str(tmp_path / "home"))
    beside = compare.compose_study_config(asked, "dummy", 0)
    assert beside.method["name"] == "dummy"
    assert parse_search_space(beside.search_spaces, config_to_plain(beside)).names == [
        "optimizer.learning_rate",
        "optimizer.weight_decay",
    ]
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/dummy.yaml").write_text("space: {method.temperature: {float: [0.1, 0.3]}}")
    assert recipes.implied_settings(["method=dummy"], str(tmp_path)) == ["search_spaces=dummy"]


def test_labels_are_read_for_those_alone_who_declare_them(dummy: None, demo: Path, ray_session: None) -> None:
    for name in METHODS:
        there = "label" in read_decoded_clips(of(name, demo), data_requirements(of(name, demo))).take(1)[0]
        assert there == METHODS[name].requirements.labels, name
    assert read_decoded_clips(of("dummy", demo), data_requirements(of("dummy", demo))).take(1)[0]["label"]


@pytest.mark.parametrize("world", [1, 2])
def test_examples_are_all_clips_once_whoever_reads_them(dummy: None, demo: Path, world: int) -> None:
    run = of("dummy", demo)
    clips = prepared.read_clips(run.dataset.prepared, "train", 64, truth=False)
    cache = CachedClips([clips])
    parts = [
        part
        for rank in range(world)
        for part in MixtureLoader(ClipSource((), len(clips), 0, ""), None, rank, world, cache).clip_batches(run)
    ]
    place = torch.cat([part.global_index_N for part in parts])
    assert sorted(place.tolist()) == list(range(len(clips)))
    labels = [label for part in parts for label in part.labels]
    assert [labels[at] for at in place.argsort()] == cache.take(np.arange(len(clips))).label.tolist()
    assert all(part.frames_N3YX.shape[1:] == (3, 64, 64) and part.sounds_NTF.shape[1:] == (193, 81) for part in parts)
    assert all(float(part.frames_N3YX.min()) >= 0 and float(part.frames_N3YX.max()) <= 1 for part in parts)


@pytest.mark.parametrize("shift", ["video", "group"])
def test_a_second_view_of_another_clip_of_the_video(shift: str, demo: Path) -> None:
    run, plain = small(demo), small(demo)
    run.mixture.second_view = shift
    for one, other in zip(
        loader(run).epoch(run, 1, data_requirements(run)),
        loader(plain).epoch(plain, 1, data_requirements(plain)),
        strict=True,
    ):
        assert torch.equal(one.mixture_BTF, other.mixture_BTF) and torch.equal(one.frames_BK3YX, other.frames_BK3YX)
        assert not torch.equal(one.shifted_BTF, other.shifted_BTF)
    halves = [next(iter(loader(run, rank, 2).epoch(run, 1, data_requirements(run)))).shifted_BTF for rank in range(2)]
    assert torch.equal(torch.cat(halves), next(iter(loader(run).epoch(run, 1, data_requirements(run)))).shifted_BTF)


def test_too_few_frames_are_refused_before_anything_starts(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["isi"], "requirements", DataRequirements(frames=4))
    with pytest.raises(ConfigError, match=r"method=isi: needs 4 frames of each clip, .* has 3; prepare it with"):
        clip_warnings(of("isi", demo))
