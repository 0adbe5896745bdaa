"""The importers, one a file; DATASETS is their table of contents (`dataset.name` chooses the row)."""

from __future__ import annotations

from raymix.datasets import demo, folder, music
from raymix.datasets.source import Importer

DATASETS: dict[str, Importer] = {"demo": demo, "folder": folder, "music": music}
OPTIONAL = {name for each in DATASETS.values() for name in each.OWN} | {
    "annotations", "subset", "frames_per_second", "faces", "face_shape",
}  # fmt: skip
