"""Evaluation of checkpoints and predictions files, with baselines, controls and paired comparisons.

`validation` scores one checkpoint, `study_evaluation` a study's best ones on the test split, `benchmark` predictions
files on named scenes, `baselines` has audio-blind maps and the shuffled, silent and untrained controls,
`protocol_reports` the same maps under many protocols, `paired` differences of two results, `system_comparison` and
`paper` tables and figures of several systems.

Metrics are in `raymix.metrics`, rendering in `raymix.reporting`. See raymix/evaluation/README.md.
"""
