"""One importer per dataset: which media and labels it consists of, and how one source becomes clips.

An importer is a module with `list_sources`, `import_clips` and `OPTIONAL_SETTINGS` (`base.DatasetImporter`); `DATASETS`
maps `dataset.name` to it. `base` has sources, manifest rows and splits, `media_index` finds the media of an id,
`pickled_masks` and `face_detection` read and make regions. Decoding is in `raymix.data.extraction`, writing in
`raymix.data.preparation`.
"""
