"""Timed updates and scenes: of every method, and near what training takes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from raymix import clip_files, door, forecast
from raymix.config import Run
from raymix.fit import adam, fit
from raymix.methods import METHODS, from_run, needs
from raymix.stream import Loader, Shelf, Source
from raymix.timing import measure


def small(method: str, *words: str) -> Run:
    given = ["dataset=folder", "dataset.root=/videos", "dataset.frames=3", f"method={method}", "recipe=small", *words]
    config: Run = door.composed("train", given, None, "/nowhere")
    return config


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_timed(method: str) -> None:
    run = small(method, "encoder.width=4", "encoder.image_size=64", "fit.batch=8")
    before = torch.get_rng_state()
    found = measure(run)
    assert found.update_s > 0 and found.mix_s > 0 and found.scene_s > 0 and found.device == "cpu"
    assert torch.equal(before, torch.get_rng_state())  # the draws of what follows are as without it
    assert found.one_map == (run.study.metric.startswith("val/solo2x2/") or method == "dsol")  # which begins with one
    model = from_run(run)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert weights < found.checkpoint_bytes <= 3 * weights


def test_the_estimate_is_near_what_training_takes(demo: Path) -> None:
    """Within a factor of 2 of an epoch of real clips, best of three: this machine has other work."""
    run = small("cycle", f"dataset.prepared={demo}/clips/demo", "dataset.clip_seconds=2")
    clips = clip_files.read(run.dataset.prepared, "train", run.encoder.image_size, truth=False, labels=False)
    loader = Loader(Source((), len(clips), 0, ""), None, 0, 1, Shelf([clips]))
    run.fit.min_updates, run.fit.epochs = 8, 1
    mixtures, model, ratios = list(loader.epoch(run, 1, needs(run))), from_run(run), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            begun = time.perf_counter()
            list(fit(model, adam(model, run.optimizer), lambda number: mixtures, run.fit))
            seconds = time.perf_counter() - begun
            ratios.append(len(mixtures) * measure(run).update_s / seconds)
    finally:
        torch.set_num_threads(threads)
    assert any(0.5 < ratio < 2 for ratio in ratios), ratios


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.123, "0.12 s"), (45.2, "45 s"), (600.0, "10 min"), (3 * 3600.0, "3.0 h")]
)
def test_spans_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert forecast._span(seconds) == text


def test_on_a_joined_cluster_nothing_is_timed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "raymix.timing", None)
    plan = type("Plan", (), {"run": small("cycle"), "planned": 8, "study": type("Study", (), {"trials": {}})})
    monkeypatch.setattr(forecast, "_training_clips", lambda run: 0)
    assert list(forecast.costs(plan, 1)) == ["time: not measured: the machines of the cluster train, not this one"]  # type: ignore[arg-type]
