"""Timed updates and scenes: of every method, and near what training takes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from raymix.cli import commands
from raymix.config import TrainConfig
from raymix.data import prepared
from raymix.data.loader import CachedClips, ClipSource, MixtureLoader
from raymix.methods import METHODS, data_requirements, method_from_config
from raymix.search import dry_run
from raymix.search.step_cost import measure_step_cost
from raymix.training.loop import build_optimizer, train_epochs


def small(method: str, *words: str) -> TrainConfig:
    given = ["dataset=folder", "dataset.root=/videos", "dataset.frames=3", f"method={method}", "recipe=small", *words]
    config: TrainConfig = commands.compose_config("train", given, None, "/nowhere")
    return config


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_timed(method: str) -> None:
    run = small(method, "encoder.width=4", "encoder.image_size=64", "training.batch_size=8")
    before = torch.get_rng_state()
    found = measure_step_cost(run)
    assert found.update_s > 0 and found.mix_s > 0 and found.scene_s > 0 and found.device == "cpu"
    assert torch.equal(before, torch.get_rng_state())  # the draws of what follows are as without it
    assert found.one_map == (run.study.metric.startswith("val/solo2x2/") or method == "dsol")  # which begins with one
    model = method_from_config(run)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert weights < found.checkpoint_bytes <= 3 * weights


@pytest.mark.slow
def test_the_estimate_is_near_what_training_takes(demo: Path) -> None:
    """Within a factor of 2 of an epoch of real clips, best of three: this machine has other work."""
    run = small("cycle", f"dataset.prepared={demo}/clips/demo", "dataset.clip_seconds=2")
    clips = prepared.read_clips(run.dataset.prepared, "train", run.encoder.image_size, truth=False, labels=False)
    loader = MixtureLoader(ClipSource((), len(clips), 0, ""), None, 0, 1, CachedClips([clips]))
    run.training.min_updates, run.training.epochs = 8, 1
    mixtures, model, ratios = list(loader.epoch(run, 1, data_requirements(run))), method_from_config(run), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            begun = time.perf_counter()
            list(train_epochs(model, build_optimizer(model, run.optimizer), lambda number: mixtures, run.training))
            seconds = time.perf_counter() - begun
            ratios.append(len(mixtures) * measure_step_cost(run).update_s / seconds)
    finally:
        torch.set_num_threads(threads)
    assert any(0.5 < ratio < 2 for ratio in ratios), ratios


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.123, "0.12 s"), (45.2, "45 s"), (600.0, "10 min"), (3 * 3600.0, "3.0 h")]
)
def test_spans_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert dry_run._span(seconds) == text


def test_on_a_joined_cluster_nothing_is_timed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "raymix.search.step_cost", None)
    plan = type("Plan", (), {"run": small("cycle"), "planned": 8, "study": type("Study", (), {"trials": {}})})
    monkeypatch.setattr(dry_run, "_training_clips", lambda run: 0)
    assert list(dry_run.cost_lines(plan, 1)) == ["time: not measured: the machines of the cluster train, not this one"]  # type: ignore[arg-type]
