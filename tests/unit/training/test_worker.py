"""Whose fault an error is: the trial's own, or that of another rank which is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raymix.training.worker import is_lost_peer_error

RANK = """
import os, sys, time
import torch, torch.distributed as dist
from raymix.training.worker import is_lost_peer_error
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
for step in range(100):
    if rank == 1 and step == 3:
        os._exit(9)  # as a node that is taken away
    try:
        model(torch.randn(2, 4)).sum().backward()
    except RuntimeError as error:
        print("lost" if is_lost_peer_error(error) else f"own: {error}", flush=True)
        os._exit(0)
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_rank_that_is_gone_is_seen_as_such(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [each.communicate(timeout=120)[0].strip() for each in ranks]
    assert said[0] == "lost" and ranks[1].returncode == 9


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x4)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        ValueError("mixture.k=3: this model has 2 nodes"),
    ],
)
def test_a_trials_own_errors_are_its_own(error: Exception) -> None:
    assert not is_lost_peer_error(error)
