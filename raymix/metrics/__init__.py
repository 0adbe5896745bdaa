"""Scores of heat maps against ground truth under named protocols, with bootstrap intervals.

`functional` has IoU, cIoU success rate, AUC and pixel-wise AP, `protocols` the evaluation protocols
by id, `heatmaps` upsampling, normalization and thresholds, `scene_scores` the scores of single scenes (IoU, AP, CAP of
Eq. 5, PIAP, sounding accuracy), `pooled_scores` scores of a whole set, `scoring` tables of them, `bootstrap` intervals.

Takes maps and ground truth, never a model or a file. See raymix/metrics/README.md.
"""

from raymix.metrics.pooled_scores import PooledScores, make_pool
from raymix.metrics.scene_scores import ClassNames, MapInput, sounding_accuracy
from raymix.metrics.scoring import (
    ScoreInterval,
    ScoreSummary,
    ScoreTable,
    SystemScores,
    baseline_mark,
    metric_columns,
    resample_pooled_scores,
    score_maps,
    score_maps_under_protocols,
    summarize_scores,
)

__all__ = [
    "ClassNames",
    "MapInput",
    "PooledScores",
    "ScoreInterval",
    "ScoreSummary",
    "ScoreTable",
    "SystemScores",
    "baseline_mark",
    "make_pool",
    "metric_columns",
    "resample_pooled_scores",
    "score_maps",
    "score_maps_under_protocols",
    "sounding_accuracy",
    "summarize_scores",
]
