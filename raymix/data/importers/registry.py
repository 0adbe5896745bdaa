"""The importers, one a file; DATASETS is their table of contents (`dataset.name` chooses the row)."""

from __future__ import annotations

from raymix.data.importers import demo, flickr_soundnet, folder, music, vggsound_instruments, vggss, voxceleb2
from raymix.data.importers.base import DatasetImporter

DATASETS: dict[str, DatasetImporter] = {
    "demo": demo,
    "folder": folder,
    "music": music,
    "vggsound_instruments": vggsound_instruments,
    "vggss": vggss,
    "voxceleb2": voxceleb2,
    "flickr_soundnet": flickr_soundnet,
}

OPTIONAL_SETTINGS = {name for each in DATASETS.values() for name in each.OPTIONAL_SETTINGS}
