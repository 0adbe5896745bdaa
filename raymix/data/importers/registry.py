"""Importers by name: `dataset.name` is the name of a module of this package."""

from __future__ import annotations

import importlib
from typing import cast

from raymix.config import did_you_mean
from raymix.config.schema import DATASETS
from raymix.data.importers.base import DatasetImporter


def load_importer(name: str) -> DatasetImporter:
    """Import the module of a dataset's importer.

    Args:
        name: one of `raymix.config.schema.DATASETS`.

    Raises:
        ValueError: there is no such importer.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset.name='{name}': no such importer{did_you_mean(name, list(DATASETS))}")
    return cast(DatasetImporter, importlib.import_module(f"raymix.data.importers.{name}"))


def optional_settings() -> set[str]:
    """Return the dataset settings that some importers read and others ignore."""
    return {setting for name in DATASETS for setting in load_importer(name).OPTIONAL_SETTINGS}
