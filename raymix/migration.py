"""Reading what version 0.1 wrote: names that have changed since, in ledgers, in configs of checkpoints and in JSON documents.

Pure functions of plain values (what `json.loads` gives), applied where a file is read; old names are in this module alone.
"""

from __future__ import annotations

import re
from typing import Any

OLD_LAYOUTS = {
    "quad": "grid2x2",
    "solo": "solo2x2",
    "pair": "hconcat",
}  # today's ids of layouts by those of version 0.1
_SOLO_METRIC = re.compile(r"^(val|test)/solo/(?=sounding_accuracy)")  # the one metric whose prefix was an old id

_OLD_IN_JSON = re.compile(rf'/solo/|"(?:{"|".join(OLD_LAYOUTS)})":'.encode())


def has_old_layouts(line: bytes) -> bool:
    """Returns whether a line of compact JSON may hold what `rename_layouts` changes: cheaper than renaming, most have none."""
    return _OLD_IN_JSON.search(line) is not None


def rename_layouts(value: Any) -> Any:
    """Returns plain values with today's ids of layouts in place of those of version 0.1.

    Keys that are an old id and metrics that begin with one (`val/solo/sounding_accuracy`, as keys or values) are renamed;
    everything else stays, so values that have today's ids come back equal.

    Args:
        value: a ledger record, the config of a checkpoint, or the content of scores.json or comparison.json.
    """
    if isinstance(value, dict):
        return {OLD_LAYOUTS.get(key, rename_layouts(key)): rename_layouts(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rename_layouts(each) for each in value]
    return _SOLO_METRIC.sub(r"\1/solo2x2/", value) if isinstance(value, str) else value
