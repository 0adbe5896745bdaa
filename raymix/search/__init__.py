"""The hyper-parameter search: search spaces, samplers, schedulers, and the runner of a study.

`space` and `space_file` define and parse search spaces, `samplers` and `optuna_searcher` propose points, `schedulers`
(ASHA, median stopping, PBT) stop trials, `trainable` is a trial for Ray Tune, `scoring_actor` scores its checkpoints,
`callbacks` record and print, `planning`, `preflight` and `dry_run` work before Ray starts, `runner` runs a study from
start to end.

The state of a study is in `raymix.tracking`, training itself in `raymix.training`.
"""
