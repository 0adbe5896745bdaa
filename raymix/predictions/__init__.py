"""Predictions as a file: anybody's raw maps (or boxes) of scenes, so that any protocol can be recomputed without the model.

Parquet, one row for one system on one scene; of the columns only `scene_id`, and `maps` or `boxes`, must be there:

    scene_id                     string, as in the scenes (`python -m raymix.evaluate export=DIR` writes them out)
    system                       string; absent: the name of the file
    maps                         list of half floats: M maps of H rows of W values, raw: not normalised, not upsampled.
                                 As booleans they are masks: taken as they are, so they have the size of the canvas.
                                 null: no prediction; such a row, and one that is not there, counts as a miss
    count, height, width         int: M, H, W; the same H, W in all rows of a system
    boxes                        instead of maps: list of [left, top, right, bottom], shares of the canvas in [0, 1]; a
                                 box is a map, 1 inside and 0 outside
    map_class                    list of M strings: the class of each map, as the scenes call it, in all rows of a system;
                                 null: anonymous. Protocols that go by class names hold a source against the map of its
                                 class; without names they take the best pairing, and star what comes of it
    presence                     list of M floats: how much of each map's class is heard; where it is given and there are
                                 more maps than sources, as many as there are sources are scored, the loudest
    canvas_height, canvas_width  int, pixels of the canvas that the maps are of; refused where the scenes have another

In the file's metadata `raymix.scenes_hash` may say which scenes these are. NPZ holds the same as arrays, the first axis
being scenes: `scene_id` (N,), `maps` (N, M, H, W) or `boxes` (N, M, 4), and, if you like, `missing` (N,) bool, `system`
(one string or N), `map_class` (N, M) or (M,), `presence` (N, M), `canvas` (2,) and `scenes_hash`.
"""

from raymix.predictions.checked import Prediction, Predictions, check
from raymix.predictions.files import Writer, writing

__all__ = ["Prediction", "Predictions", "Writer", "check", "writing"]
