"""One importer per dataset: which media and labels it consists of, and how one source becomes clips.

An importer is a module with `list_sources`, `import_clips` and `OPTIONAL_SETTINGS` (`base.DatasetImporter`), found by
`registry.load_importer(dataset.name)`. `base` has the contract, splits and published lists, `media_index` finds the media
of an id, `video_folder` the videos of a folder, `duplicates` files with the same content, `pickled_masks` and
`face_detection` read and make regions, `demo_root` checks the folder of the demo. Decoding is in `raymix.data.extraction`, writing in
`raymix.data.preparation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymix.data.importers import demo, flickr_soundnet, folder, music, vggsound_instruments, vggss, voxceleb2
    from raymix.data.importers.base import DatasetImporter
    from raymix.data.importers.registry import load_importer

    # For mypy: these modules have what the contract demands, though they are imported by name at run time.
    IMPORTERS: tuple[DatasetImporter, ...] = (
        demo,
        flickr_soundnet,
        folder,
        music,
        vggsound_instruments,
        vggss,
        voxceleb2,
    )

__all__ = ["DatasetImporter", "load_importer"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from raymix.data.importers import registry

            return getattr(registry, name)
        raise AttributeError(f"module 'raymix.data.importers' has no attribute '{name}'")
