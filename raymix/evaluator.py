"""The evaluation actor: held-out scenes in memory, one model at a time, a checkpoint in, numbers out.

The search's objective needs no boxes: 2x2 scenes of four held-out videos, two of them heard, scored by sounding accuracy
and by the same with the audio shuffled. Where the data has regions, side-by-side scenes add the paper's metrics.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch

from raymix import checkpoint, clip_files
from raymix.config import Run, from_plain
from raymix.methods import Maps, Method, from_run
from raymix.protocol import protocol as named
from raymix.scene import Scenes, compose, derangement
from raymix.scoring import Table, score
from raymix.truth import Truth

BATCH = 16  # scenes in one forward pass
LAYOUTS = {"quad": "grid2x2", "solo": "solo2x2", "pair": "hconcat", "single": "single"}
LABEL_FREE = ("quad", "solo")  # scenes that tell who listens, which needs no region


@dataclass(frozen=True)
class Bench:
    """The scenes of one split as one run hears and sees them; two runs that agree on `key` share a bench."""

    split: str
    scenes: dict[str, Scenes]  # by the names of LAYOUTS
    truth: dict[str, Truth]
    shuffled: dict[str, np.ndarray]  # of LABEL_FREE: which scene each scene hears instead

    @staticmethod
    def key(run: Run) -> tuple[Any, ...]:
        m = run.mixture
        return run.dataset.prepared, run.encoder.image_size, m.seconds, m.rule, m.level, run.evaluation.seed

    @staticmethod
    def open(run: Run, split: str, count: int) -> Bench:
        """Compose `count` scenes of each layout (fewer where the split is too small for more)."""
        clips = clip_files.read(run.dataset.prepared, split, run.encoder.image_size, truth=True)
        m, seed = run.mixture, run.evaluation.seed
        scenes = {
            name: compose(clips, layout=layout, count=count, seed=seed, seconds=m.seconds, rule=m.rule, level=m.level)
            for name, layout in LAYOUTS.items()
        }
        truth = {name: Truth.of(each) for name, each in scenes.items()}
        return Bench(split, scenes, truth, {name: derangement(scenes[name], seed) for name in LABEL_FREE})


def localise(method: Method, scenes: Scenes, device: torch.device | str = "cpu") -> np.ndarray:
    """Raw maps (N, M, H, W) of a method on scenes, in batches, without gradients.

    Of a method with a map for each class, those of the loudest classes, as many as the scenes have sources.
    """
    return predict(method, scenes, device).heard(scenes.panels_NS.shape[1]).numpy()


def predict(method: Method, scenes: Scenes, device: torch.device | str = "cpu") -> Maps:
    """Everything that a method says of scenes, in batches, without gradients, on the CPU: all maps, classes, loudness."""
    method.eval()
    with torch.inference_mode():
        found = [method.localise(batch.to(device)) for batch in scenes.batches(BATCH)]
        loud = [each.loudness_NM.float().cpu() for each in found if each.loudness_NM is not None]
        maps_NMHW = torch.cat([each.maps_NMHW.float().cpu() for each in found])
    return Maps(maps_NMHW, found[0].classes, torch.cat(loud) if loud else None)


def same_peak(maps_NMHW: np.ndarray) -> float:
    """Share of scenes in which all maps have their peak in one cell: 1 where nodes have collapsed; NaN for one map."""
    if maps_NMHW.shape[1] < 2:
        return float("nan")
    peak_NM = maps_NMHW.reshape(*maps_NMHW.shape[:2], -1).argmax(axis=-1)
    return float((peak_NM == peak_NM[:, :1]).all(axis=1).mean())


def mean(table: Table) -> dict[str, float]:
    """The mean of each metric over the scenes that have truth for it."""
    return {name: table.mean(name) for name, values in table.values.items() if not np.isnan(values).all()}


def judge(method: Method, bench: Bench, run: Run, device: torch.device | str = "cpu") -> dict[str, float]:
    """What the search sees of a checkpoint: sounding accuracy and its shuffled twin, and pair metrics where truth is.

    The same where one panel sounds is for methods with one map, which cannot name two panels, and for who asks for it.
    """
    maps, found = _listening(method, bench, "quad", run, device)
    if maps.shape[1] > 1:
        found["same_peak"] = same_peak(maps)
    if maps.shape[1] == 1 or run.study.metric.startswith("val/solo/"):
        _, solo = _listening(method, bench, "solo", run, device)
        found |= {f"solo/{name}": value for name, value in solo.items()}
    if bench.truth["pair"].has_truth_N.any():
        maps = localise(method, bench.scenes["pair"], device)
        found |= mean(score(maps, bench.truth["pair"], named(run.evaluation.protocol)))
    return {f"{bench.split}/{name}": value for name, value in found.items()}


def _listening(
    method: Method, bench: Bench, layout: str, run: Run, device: torch.device | str
) -> tuple[np.ndarray, dict[str, float]]:
    """The maps of one of the LABEL_FREE layouts, and sounding accuracy with its own sound and with another's."""
    scenes, how = bench.scenes[layout], named(run.evaluation.protocol)
    truth = replace(bench.truth[layout], masks_NSYX=None)  # who listens needs no region, and no pixel sorted
    maps = localise(method, scenes, device)
    deaf = localise(method, scenes.with_audio(torch.from_numpy(bench.shuffled[layout])), device)
    heard, shuffled = (mean(score(each, truth, how))["sounding_accuracy"] for each in (maps, deaf))
    return maps, {"sounding_accuracy": heard, "sounding_accuracy_shuffled": shuffled}


def load(uri: str) -> tuple[Method, Run]:
    """A trained method and its run from a checkpoint, which carries all it needs."""
    whole = checkpoint.load(uri)
    run: Run = from_plain(whole.config)
    method = from_run(run, pretrained=False)
    method.load_state_dict(whole.weights)
    return method, run


@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"sign": 1})  # type: ignore[call-overload]
class Evaluator:
    """Scores checkpoints one after the other; it holds no state that a restart could lose, and repeats are harmless.

    However many wait for their scores, `ping` is answered at once, in a thread of its own.
    """

    def __init__(self, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        self._benches: dict[tuple[Any, ...], Bench] = {}

    @ray.method(concurrency_group="sign")
    def ping(self) -> str:
        """The id of the node that this is on."""
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def score(self, uri: str) -> dict[str, Any]:
        """{"metrics", "seconds", "pid"} of the checkpoint at `uri` on the validation scenes."""
        began = time.time()
        method, run = load(uri)
        key = Bench.key(run)
        if key not in self._benches:
            self._benches[key] = Bench.open(run, "val", run.evaluation.scenes)
        metrics = judge(method.to(self._device), self._benches[key], run, self._device)
        return {"metrics": metrics, "seconds": time.time() - began, "pid": os.getpid()}

    def warm(self, plain: dict[str, Any]) -> None:
        """Compose the scenes before the first checkpoint comes."""
        run: Run = from_plain(plain)
        self._benches[Bench.key(run)] = Bench.open(run, "val", run.evaluation.scenes)
