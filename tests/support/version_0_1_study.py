"""A study whose search version 0.1 began and whose driver was killed: `conformance/version_0_1/killed_study.tar.xz`."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).resolve().parents[1] / "conformance" / "version_0_1" / "killed_study.tar.xz"
NAME = "version_0_1"  # of the study: trial 0 completed, trial 1 after 1 of 2 epochs, trial 2 not begun
WORDS = (  # of its command line, beyond conftest.SMALL
    f"study.name={NAME}",
    "study.final=0",
    "study.n_trials=3",
    "training.epochs=2",
    "search.grace_period=1",
    "cluster.cpus=3",
    "encoder.blocks=1",
    "encoder.stages=3",
    "cluster.slots=1",
)


def unpack(home: Path, data: Path) -> Path:
    """The folder of the study below `home`, as if its clips had been prepared below the folder `data`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home / "studies", filter="data")
    study = home / "studies" / NAME
    for path in [*study.rglob("*.json"), *study.rglob("*.jsonl")]:
        path.write_text(path.read_text().replace("/data", str(data)))
    for path in study.rglob("manifest.json"):
        config = path.with_name("config.json").read_bytes()
        known = {"bytes": len(config), "sha256": hashlib.sha256(config).hexdigest()}
        path.write_text(json.dumps({**json.loads(path.read_text()), "config.json": known}))
    return study
