"""Real processes in a gloo group: a test names a function, every rank runs it, and its answers come back.

`python tests/support/torch_ranks.py MODULE FUNCTION RANK WORLD MEETING-PLACE [WORD ...]` is one of those processes.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def on_ranks(work: Callable[..., Any], worlds: Sequence[int], folder: Path, *words: str) -> list[list[Any]]:
    """`work(rank, world, *words)` on every rank of a group of each size in `worlds`, all at once: [group][rank]."""

    def start(rank: int, world: int) -> subprocess.Popen[str]:
        meet = folder / f"{work.__name__}-{world}"
        command = [
            sys.executable,
            "-m",
            "tests.support.torch_ranks",
            work.__module__,
            work.__name__,
            str(rank),
            str(world),
            str(meet),
            *words,
        ]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )

    every = [(rank, world) for world in worlds for rank in range(world)]
    running = [start(*each) for each in every]
    try:
        out = [each.communicate(timeout=300)[0] for each in running]
    finally:
        for each in running:
            each.kill()  # of those that wait for one that died
    assert not any(each.returncode for each in running), "a rank failed: its words are above"
    answers = [json.loads(text.splitlines()[-1]) for text in out]
    return [[answer for answer, at in zip(answers, every, strict=True) if at[1] == world] for world in worlds]


def main(module: str, function: str, rank: int, world: int, meet: str, words: Sequence[str]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the machine calls itself, and whether that resolves
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    answer = getattr(importlib.import_module(module), function)(rank, world, *words)
    if world > 1:
        dist.destroy_process_group()
    print(json.dumps(answer), flush=True)
    # torch 2.11 leaves a thread of gloo's behind now and then, and C++ ends a process that goes with one ("terminate called
    # without an active exception", one rank in five here): the answer is out, so it goes without looking back.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6:])
