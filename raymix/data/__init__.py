"""From media files to batches: importers, extraction, preparation as Parquet, mixing, evaluation scenes and loading.

`records` is the schema of a prepared clip, `prepared` reads a prepared dataset, `audio` holds STFT and log-mel,
`batches` the batches that methods take, `mixing` makes training mixtures, `layouts`, `scenes` and `pair_lists`
evaluation scenes, `loader` streams clips through Ray (the only module here that imports Ray at its top). `importers`,
`extraction` and `preparation` turn media files into Parquet. Models are in `raymix.methods`, scores in
`raymix.metrics`. See raymix/data/README.md.
"""
