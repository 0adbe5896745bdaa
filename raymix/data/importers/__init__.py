"""One importer per dataset: which media and labels it consists of, and how one source becomes clips.

An importer is a module with `list_sources`, `import_clips` and `OPTIONAL_SETTINGS` (`base.DatasetImporter`), found by
`registry.load_importer(dataset.name)`. `base` has the contract, splits and published lists, `media_index` finds the media
of an id, `video_folder` the videos of a folder, `duplicates` files with the same content, `pickled_masks` and
`face_detection` read and make regions, `demo_root` checks the folder of the demo. Decoding is in `raymix.data.extraction`, writing in
`raymix.data.preparation`.
"""
