"""Pair lists: which clips make which scene, fixed in a file, so that everybody scores on the same scenes.

The paper's random pairs (Section 4.2) were never released; the list in common use is AVGN's for VGGSound-Duet. A list is
Parquet or CSV, one row for each panel of a scene, the rows of a scene together:

    scene_id   string, the name of the scene
    layout     one of `raymix.layout.LAYOUTS`, the same in the whole file
    place      panel, from 0, row after row
    clip_id    a clip of a prepared dataset; or, where it is empty or absent:
    video      a video of it, and
    time_s     a time in that video in seconds, which picks the clip; may be empty where the video has one clip only
    sounding   whether the panel is heard: true or false (or 1, 0); absent: all are
    gain       factor on its sound after it was brought to a level; absent: 1
    heard      layout single: another clip_id, whose sound is heard instead, so that nothing in the frame sounds (the
               negatives of SLAVC's extended sets); empty or absent: its own
    label      class name, for the reader; nothing is done with it

A list that `raymix.prepare pair_lists=` made of a given one also says what that one was and how many of its scenes are missing:
Parquet in its metadata (`raymix.origin`), CSV in the columns `of_id`, `of_hash`, `of_scenes` and `of_missing`.

The name of the file is the list's id; its hash is of the content alone, in whatever order the scenes stand.
"""

from raymix.pair_list.files import read, write
from raymix.pair_list.listing import Origin, PairList, Panel, make

__all__ = ["Origin", "PairList", "Panel", "make", "read", "write"]
