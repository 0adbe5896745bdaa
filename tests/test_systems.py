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
from test_fit import loader, small
from torch import Tensor

from raymix import clip_files, config, methods
from raymix.config import BadInput, MixAndLocalizeConfig, Run
from raymix.evaluator import Bench, judge, same_peak
from raymix.fit import adam, fit, resume, training_state
from raymix.methods import METHODS, Examples, Needs, from_run, needs
from raymix.methods.nodes import Nodes
from raymix.mixture import Mixture
from raymix.preflight import clips as look_at_clips
from raymix.stream import Loader, Shelf, Source, read


def of(name: str, demo: Path, **settings: Any) -> Run:
    run = small(demo, **settings)
    run.method = {"name": name}
    return run


def train(run: Run, method: Any, optimizer: Any, first: int = 1) -> Iterator[float]:
    """The loss of each epoch, with what a method does between them: after a yield the epoch is as a checkpoint has it."""
    own = loader(run)
    after = lambda number: method.after_epoch(number, run.fit.epochs, lambda: own.examples(run))  # noqa: E731
    for epoch in fit(method, optimizer, lambda n: own.epoch(run, n, needs(run)), run.fit, first=first, after=after):
        yield epoch.train["loss"]


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_equals_an_unbroken_one(name: str, demo: Path) -> None:
    resumed_at_every_epoch(of(name, demo, epochs=2))


def resumed_at_every_epoch(run: Run) -> tuple[list[float], Any]:
    """Losses and the method of an unbroken run, which another process would have reached from each of its epochs."""
    torch.manual_seed(0)
    method = from_run(run)
    optimizer = adam(method, run.optimizer)
    whole, kept = [], []
    for number, loss in enumerate(train(run, method, optimizer), 1):
        whole.append(loss)
        kept.append(deepcopy((method.state_dict(), training_state(optimizer, number))))
    for cut, (weights, state) in enumerate(kept[:-1], 1):
        torch.manual_seed(99)
        other = from_run(run)
        other.load_state_dict(weights)
        restored = adam(other, run.optimizer)
        again = list(train(run, other, restored, first=resume(restored, state)))
        assert again == pytest.approx(whole[cut:], rel=1e-6), f"resumed after epoch {cut}"
        ended, expected = other.state_dict(), method.state_dict()
        assert all(torch.allclose(ended[n], value, atol=1e-6) for n, value in expected.items()), f"after epoch {cut}"
    return whole, method


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
    found = judge(from_run(run), Bench.open(run, "val", 8), run)
    assert all(0 <= value <= 1 for value in found.values())
    one = from_run(run).localise(Bench.open(run, "val", 8).scenes["grid2x2"]).maps_NMHW.shape[1] == 1
    assert ("val/solo2x2/sounding_accuracy" in found) == one
    assert ("val/same_peak" in found) == (not one)


def test_nodes_that_have_collapsed_are_seen() -> None:
    apart = np.zeros((4, 2, 3, 3))
    apart[:, 0, 0, 0] = apart[:, 1, 2, 2] = 1
    half = apart.copy()
    half[:2, 1] = half[:2, 0]
    assert (same_peak(apart), same_peak(half), same_peak(apart[:, [0, 0]])) == (0, 0.5, 1)


class Dummy(Nodes):
    """One more system, which also asks for labels, and looks at the clips between epochs."""

    needs: ClassVar[Needs] = Needs(labels=True)
    seen: ClassVar[list[tuple[int, int, int]]] = []

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        map_BKCHW, (nodes_BKC,) = self.see(mixture.frames_BK3YX), self.hear(mixture.mixture_BTF)
        loss = 1 - self.phi(map_BKCHW, nodes_BKC).mean()
        return loss, self.signs(loss, map_BKCHW, nodes_BKC)

    def after_epoch(self, epoch: int, epochs: int, examples: Callable[[], Iterator[Examples]]) -> None:
        self.seen.append((epoch, epochs, sum(len(part.labels) for part in examples())))


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.METHOD_CONFIGS, "dummy", MixAndLocalizeConfig)  # its settings
    monkeypatch.setitem(methods.METHODS, "dummy", Dummy)  # its one line


def test_one_more_system_is_a_file_and_a_line(dummy: None, demo: Path) -> None:
    run = of("dummy", demo)
    method, own = from_run(run), loader(run)
    Dummy.seen.clear()
    optimizer = adam(method, run.optimizer)
    after = lambda number: method.after_epoch(number, run.fit.epochs, lambda: own.examples(run))  # noqa: E731
    assert len(list(fit(method, optimizer, lambda n: own.epoch(run, n, needs(run)), run.fit, after=after))) == 2
    count = len(clip_files.videos(run.dataset.prepared, "train"))
    assert Dummy.seen == [(1, 2, count), (2, 2, count)]


def test_its_yaml_makes_it_a_choice_of_every_door(dummy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raymix import compare, recipe
    from raymix.config import Compare, Tune, to_plain
    from raymix.door import composed
    from raymix.search_space import load

    (tmp_path / "method").mkdir()
    (tmp_path / "method/dummy.yaml").write_text("name: dummy\ntemperature: 0.3\n")
    made: Tune = composed("tune", ["method=dummy"], str(tmp_path), str(tmp_path / "home"))
    assert from_run(replace(made, encoder=replace(made.encoder, width=4))).config.temperature == 0.3
    assert made.study.name == "demo-dummy"
    words = recipe.following(["method=dummy"], str(tmp_path))
    assert words == ["search_spaces=optimizer"]  # without a space of its own it searches what all have
    monkeypatch.setattr(sys, "argv", ["compare.py", "--config-dir", str(tmp_path)])
    asked: Compare = composed("compare", ["systems=[dummy]"], str(tmp_path), str(tmp_path / "home"))
    beside = compare.composed(asked, "dummy", 0)
    assert beside.method["name"] == "dummy"
    assert load(beside.search_spaces, to_plain(beside)).names == ["optimizer.learning_rate", "optimizer.weight_decay"]
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces/dummy.yaml").write_text("space: {method.temperature: {float: [0.1, 0.3]}}")
    assert recipe.following(["method=dummy"], str(tmp_path)) == ["search_spaces=dummy"]


def test_labels_are_read_for_those_alone_who_declare_them(dummy: None, demo: Path, ray_session: None) -> None:
    for name in METHODS:
        there = "label" in read(of(name, demo), needs(of(name, demo))).take(1)[0]
        assert there == METHODS[name].needs.labels, name
    assert read(of("dummy", demo), needs(of("dummy", demo))).take(1)[0]["label"]


@pytest.mark.parametrize("world", [1, 2])
def test_examples_are_all_clips_once_whoever_reads_them(dummy: None, demo: Path, world: int) -> None:
    run = of("dummy", demo)
    clips = clip_files.read(run.dataset.prepared, "train", 64, truth=False)
    shelf = Shelf([clips])
    parts = [
        part
        for rank in range(world)
        for part in Loader(Source((), len(clips), 0, ""), None, rank, world, shelf).examples(run)
    ]
    place = torch.cat([part.place_N for part in parts])
    assert sorted(place.tolist()) == list(range(len(clips)))
    labels = [label for part in parts for label in part.labels]
    assert [labels[at] for at in place.argsort()] == shelf.take(np.arange(len(clips))).label.tolist()
    assert all(part.frames_N3YX.shape[1:] == (3, 64, 64) and part.sounds_NTF.shape[1:] == (193, 81) for part in parts)
    assert all(float(part.frames_N3YX.min()) >= 0 and float(part.frames_N3YX.max()) <= 1 for part in parts)


@pytest.mark.parametrize("shift", ["video", "group"])
def test_a_second_view_of_another_clip_of_the_video(shift: str, demo: Path) -> None:
    run, plain = small(demo), small(demo)
    run.mixture.shift = shift
    for one, other in zip(
        loader(run).epoch(run, 1, needs(run)), loader(plain).epoch(plain, 1, needs(plain)), strict=True
    ):
        assert torch.equal(one.mixture_BTF, other.mixture_BTF) and torch.equal(one.frames_BK3YX, other.frames_BK3YX)
        assert not torch.equal(one.shifted_BTF, other.shifted_BTF)
    halves = [next(iter(loader(run, rank, 2).epoch(run, 1, needs(run)))).shifted_BTF for rank in range(2)]
    assert torch.equal(torch.cat(halves), next(iter(loader(run).epoch(run, 1, needs(run)))).shifted_BTF)


def test_too_few_frames_are_refused_before_anything_starts(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["isi"], "needs", Needs(frames=4))
    with pytest.raises(BadInput, match=r"method=isi: needs 4 frames of each clip, .* has 3; prepare it with"):
        look_at_clips(of("isi", demo))
