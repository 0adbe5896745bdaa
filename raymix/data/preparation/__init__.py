"""Many media files to a prepared dataset: a folder of Parquet shards with a manifest and a dataset card.

`pipeline` runs the work units on Ray or in processes and resumes, `writer` spools and shuffles clips into shards,
`split_leaks` keeps one video out of two splits, `output_folder` decides which files may be overwritten, `dataset_card`
writes README.md, `scene_lists` fixed evaluation scenes. Which media there are is decided in `raymix.data.importers`,
decoding is in `raymix.data.extraction`, reading of the result in `raymix.data.prepared`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymix.data.preparation.pipeline import PrepareReport, find_prepared, prepare_dataset

__all__ = ["PrepareReport", "find_prepared", "prepare_dataset"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from raymix.data.preparation import pipeline

            return getattr(pipeline, name)
        raise AttributeError(f"module 'raymix.data.preparation' has no attribute '{name}'")
