"""From media files to batches: importers, extraction, preparation as Parquet, mixing, evaluation scenes and loading.

`media` describes media files, `records` is the schema of prepared clips, `prepared` reads them, `audio` has STFT and
log-mel, `batches` the batches that methods take, `mixing` makes training mixtures, `layouts`, `scenes` and `pair_lists`
evaluation scenes, `loader` streams clips through Ray (the only module here that imports Ray at its top). `importers`,
`extraction` and `preparation` turn media files into Parquet.

Models are in `raymix.methods`, scores in `raymix.metrics`. See raymix/data/README.md.

The names in `__all__` are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymix.data.batches import ClipBatch, DataRequirements, HeatMaps, MixtureBatch, SceneBatch
    from raymix.data.layouts import LAYOUTS
    from raymix.data.media import ManifestRow, MediaSource
    from raymix.data.pair_lists import PairList, make_pair_list, read_pair_list, write_pair_list
    from raymix.data.prepared import PreparedDataset, read_clip_metadata, read_clips, read_prepared_dataset
    from raymix.data.records import ClipMetadata, ClipRecord, ClipTable
    from raymix.data.scenes import (
        compose_ground_truth,
        compose_listed_ground_truth,
        compose_listed_scenes,
        compose_scenes,
    )

__all__ = [
    "LAYOUTS",
    "ClipBatch",
    "ClipMetadata",
    "ClipRecord",
    "ClipTable",
    "DataRequirements",
    "HeatMaps",
    "ManifestRow",
    "MediaSource",
    "MixtureBatch",
    "PairList",
    "PreparedDataset",
    "SceneBatch",
    "compose_ground_truth",
    "compose_listed_ground_truth",
    "compose_listed_scenes",
    "compose_scenes",
    "make_pair_list",
    "read_clip_metadata",
    "read_clips",
    "read_pair_list",
    "read_prepared_dataset",
    "write_pair_list",
]

_MODULES = ("batches", "layouts", "media", "pair_lists", "prepared", "records", "scenes")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            for module in _MODULES:
                found = importlib.import_module(f"raymix.data.{module}")
                if name in vars(found):
                    return vars(found)[name]
        raise AttributeError(f"module 'raymix.data' has no attribute '{name}'")
