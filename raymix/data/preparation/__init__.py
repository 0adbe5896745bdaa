"""Many media files to a prepared dataset: a folder of Parquet shards with a manifest and a dataset card.

`pipeline` runs the work units on Ray or in processes and resumes, `writer` spools and shuffles clips into shards,
`duplicates` and `split_leaks` keep one video out of two splits, `output_folder` decides which files may be overwritten,
`dataset_card` writes README.md and dataset.json, `scene_lists` fixed evaluation scenes. Reading is in
`raymix.data.prepared`.
"""
