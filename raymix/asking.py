"""What is asked of `raymix.evaluate`, before anything is opened: lists as people write them, and words that others exclude.

One door serves Tables 1 to 3 of the paper, strangers' predictions and comparisons; a word that one of them would pass over
in silence is refused.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from raymix.config import BadInput, Evaluate

OF_SCENES = ("prepared", "sources", "seed", "image_size", "seconds", "rule", "level", "protocol")
_OF_CHECKPOINTS = ("checkpoint", "store", "top", "pictures")
_OF_EXHIBITS = (*_OF_CHECKPOINTS, *OF_SCENES, "layout", "pair_list", "scenes")
UNREAD = {  # what is not read beside a word, and so is refused
    "predictions": _OF_CHECKPOINTS,
    "compare": _OF_CHECKPOINTS,
    "export": (*_OF_CHECKPOINTS, "protocol", "output"),
    "tables": _OF_EXHIBITS,
    "figures": _OF_EXHIBITS,
    "protocols": ("store", "pictures", "protocol"),
    "layout": ("pictures",),
    "pair_list": ("pictures",),
}
_LISTS = ("compare", "protocols", "tables", "figures", "comparison")
_FILES = ("predictions", "export", "pair_list", "output")


def refuse_unread(settings: Evaluate) -> None:
    """BadInput for a setting that would be passed over in silence beside another one."""
    plain, of_exhibits = Evaluate(), bool(settings.tables or settings.figures)
    if settings.comparison and not of_exhibits:
        raise BadInput(f"comparison={settings.comparison}: goes with tables= or figures=")
    if settings.spread != plain.spread and not settings.predictions:
        raise BadInput(f"spread={settings.spread}: goes with predictions=")
    for word, names in UNREAD.items():
        for name in names if getattr(settings, word) else ():
            if (value := getattr(settings, name)) != getattr(plain, name):
                raise BadInput(f"{name}={value}: does not go with {word}=")


def as_lists() -> None:
    """`compare=A,B` as a list, with whatever stands in A and B, which Hydra would take for something of its own.

    So also `protocols=all`, `tables=1` and `figures=3,4`; `comparison=A,B` and names of files as the words that they are.
    """
    for place, word in enumerate(sys.argv):
        name, equals, value = word.partition("=")
        quoted = any(mark in value for mark in "'\"$")
        if name in _LISTS and equals and not quoted:
            listed = value[1:-1] if value.startswith("[") and value.endswith("]") else value
            several: list[Any] = [each.strip() for each in listed.split(",") if each.strip()]
            if name in ("tables", "figures") and all(each.isdecimal() for each in several):
                several = [int(each) for each in several]
            worded: Any = ",".join(several) if name == "comparison" else several
            sys.argv[place] = f"{name}={json.dumps(worded, ensure_ascii=False)}"
        elif name in _FILES and value not in ("", "null") and not quoted:
            sys.argv[place] = f"{name}={json.dumps(value, ensure_ascii=False)}"
