"""The training loop in a plain process, and on two ranks: the same losses for the same global batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymix import clip
from raymix.config import Fit, Run
from raymix.fit import Clock, TrialFailed, adam, fit, resume, training_state
from raymix.methods import from_run
from raymix.stream import Loader, Shelf, Source


def small(home: Path, **fit_settings: Any) -> Run:
    run = Run()
    run.dataset.prepared = str(home / "clips/demo")
    run.encoder.width, run.encoder.image_size = 4, 64
    run.method = {"name": "cycle", "embedding_size": 8, "temperature": 0.07, "pool": "max"}
    run.optimizer.learning_rate = 1e-3
    run.fit = Fit(**{"batch": 8, "epochs": 2, **fit_settings})
    return run


def loader(run: Run, rank: int = 0, world: int = 1) -> Loader:
    clips = clip.read(run.dataset.prepared, "train", run.encoder.image_size, truth=False, labels=False)
    return Loader(Source((), len(clips), 0, ""), None, rank, world, Shelf([clips]))


def losses(run: Run, **more: Any) -> list[float]:
    torch.manual_seed(0)
    method, own = from_run(run), loader(run)
    return [
        e.train["loss"] for e in fit(method, adam(method, run.optimizer), lambda n: own.epoch(run, n), run.fit, **more)
    ]


def test_the_same_seed_gives_the_same_losses(demo: Path) -> None:
    first, again = losses(small(demo)), losses(small(demo))
    assert first == again
    assert losses(small(demo, seed=1)) != first


def test_a_resumed_run_equals_an_unbroken_one(demo: Path) -> None:
    run = small(demo, epochs=3)
    whole = losses(run)
    torch.manual_seed(0)
    method, own = from_run(run), loader(run)
    optimizer = adam(method, run.optimizer)
    next(iter(fit(method, optimizer, lambda n: own.epoch(run, n), run.fit)))
    weights = {k: v.clone() for k, v in method.state_dict().items()}
    state = json.loads(json.dumps({"epoch": 1})) | training_state(optimizer, 1)
    torch.manual_seed(99)
    other = from_run(run)
    other.load_state_dict(weights)
    restored = adam(other, run.optimizer)
    first = resume(restored, state)
    assert first == 2
    rest = [e.train["loss"] for e in fit(other, restored, lambda n: own.epoch(run, n), run.fit, first=first)]
    assert rest == pytest.approx(whole[1:], abs=1e-7)


def test_a_loss_that_is_not_finite_ends_the_trial_with_its_reason(demo: Path) -> None:
    run = small(demo)
    run.optimizer.learning_rate = 1e30
    with pytest.raises(TrialFailed, match="not finite"):
        losses(run)


def test_stop_ends_within_a_few_steps_and_its_time_is_counted(demo: Path) -> None:
    run, clock = small(demo, batch=2, epochs=50), Clock()
    assert losses(run, stop=lambda: True, clock=clock) == []
    assert clock.steps > 0


def test_bf16_stays_finite_and_near(demo: Path) -> None:
    full, half = small(demo, epochs=1), small(demo, epochs=1, precision="bf16")
    full.optimizer.learning_rate = half.optimizer.learning_rate = (
        1e-6  # the two loops must not wander apart by training
    )
    assert losses(half) == pytest.approx(losses(full), rel=0.05)


def test_workers_share_the_global_batch(demo: Path) -> None:
    """Groups are drawn for the whole batch: two ranks together hold what one rank holds, in the same groups."""
    run = small(demo)
    whole = next(loader(run).epoch(run, 1))
    halves = [next(loader(run, rank, 2).epoch(run, 1)) for rank in (0, 1)]
    together = torch.cat([half.mixture_BTF for half in halves])
    assert torch.equal(together, whole.mixture_BTF)
    assert torch.equal(torch.cat([half.frames_BK3YX for half in halves]), whole.frames_BK3YX)


RANK = """
import json, sys
import torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_fit import loader, small
from raymix.fit import adam, fit
from raymix.methods import from_run
rank, world = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
run = small(Path({home!r}), frozen_batch_norm=True)
torch.manual_seed(0)
method = from_run(run)
optimizer = adam(method, run.optimizer)
wrapped = method
if world > 1:
    dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=world)
    wrapped = torch.nn.parallel.DistributedDataParallel(method)
seen = []
class Watched(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, mixture):
        loss, diagnostics = self.inner(mixture)
        seen.append(float(loss.detach()))
        return loss, diagnostics
own = loader(run, rank, world)
for epoch in fit(Watched(wrapped), optimizer, lambda n: own.epoch(run, n), run.fit):
    if len(seen) >= 5:
        break
print(json.dumps(seen[:5]))
"""


def test_one_and_two_ddp_workers_give_the_same_losses(demo: Path, tmp_path: Path) -> None:
    """Same global batch, BatchNorm in evaluation mode: the first five losses agree to 1e-5."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(tests=str(Path(__file__).parent), home=str(demo)))

    def launch(rank: int, world: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(rank), str(world), str(tmp_path / "meet")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    ranks = [launch(0, 1), launch(0, 2), launch(1, 2)]
    out = [json.loads(each.communicate(timeout=300)[0].splitlines()[-1]) for each in ranks]
    assert [each.returncode for each in ranks] == [0, 0, 0]
    assert len(out[0]) == 5
    both = np.mean([out[1], out[2]], axis=0)
    np.testing.assert_allclose(both, out[0], atol=1e-5)
