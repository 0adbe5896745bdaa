"""Raw maps and the truth of their scenes -> numbers under named protocols, with intervals.

Serves Section 4.2-4.5 of the paper (AP, AUC, IoU@t, CIoU@t, CAP of Eq. 5, PIAP), what later code bases report under such
names, and sounding accuracy, the label-free measure of the search. Knows maps and truth, never a model.
"""

from raymix.scoring.chunks import metrics, score, score_all
from raymix.scoring.intake import Classes, Maps
from raymix.scoring.pooled import Pool, pool_of
from raymix.scoring.sounding import sounding_accuracy
from raymix.scoring.summary import Interval, Summary, SystemScores, Table, baseline_mark, resampled_pool, summarise

__all__ = [
    "Classes",
    "Interval",
    "Maps",
    "Pool",
    "Summary",
    "SystemScores",
    "Table",
    "baseline_mark",
    "metrics",
    "pool_of",
    "resampled_pool",
    "score",
    "score_all",
    "sounding_accuracy",
    "summarise",
]
