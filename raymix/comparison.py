"""Systems beside systems that listen to nothing, on the same scenes: the null systems and the table of all.

A centre box that hears nothing beats published numbers of the tables of the paper's kind (Tables 1 and 2); so every
table of raymix carries such rows. Null systems that need a model (untrained network, shuffled audio, silent audio) are
scored by whoever holds the model and handed in by name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from raymix.protocol import PROTOCOLS, Protocol
from raymix.scoring import Classes, Interval, Maps, Summary, Table, score_all, summarise
from raymix.truth import Truth

STEP = 0.02  # of the sides of a box of the truth's area
BOX_SIDES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of centre boxes, as shares of the sides of the canvas

MARKS = {
    "†": "† the best baseline or control is inside this interval (or there is no interval: all scenes are of one video)",
    "‡": "‡ the best baseline or control is above this interval",
}
_COLUMNS = ("sounding_accuracy", "ciou", "iou", "ap", "cap", "piap", "auc")  # others stand behind them


@dataclass(frozen=True)
class Row:
    """One system of a table; `null` if it cannot have listened."""

    system: str
    summary: Summary
    null: bool = False
    table: Table | None = field(default=None, compare=False, repr=False)  # the scores of each scene


def nulls(truth: Truth, mean_map_HW: np.ndarray | None = None, panel_boxes: bool = False) -> dict[str, Maps]:
    """Maps of systems without ears, by name: the same map for each source, so that none is missing.

    Full frame and centre boxes are predictions (bool, on the canvas); the radial prior falls linearly from the centre
    to the corners; `mean_map_HW` is the mean of the maps of a model on training clips; `oracle area` is told how large
    each source is, and draws a box of that size in the middle (steps of 2 % of the sides). Where some panels are silent,
    `random panels` picks as many different ones as sound, by the scene's id. With `panel_boxes` there are also systems
    that know the layout: a centre box in each sounding panel (in a grid: in panels picked at random).
    """
    truth = truth.drawn()
    (y, x), (n, s) = truth.canvas, truth.panels_NS.shape
    across = np.abs((np.arange(x) + 0.5) / x * 2 - 1)
    down = np.abs((np.arange(y) + 0.5) / y * 2 - 1)[:, None]
    found: dict[str, np.ndarray] = {"full frame": np.ones((y, x), bool)}
    found |= {f"centre box {side:g}": (across < side) & (down < side) for side in BOX_SIDES}
    found["radial prior"] = (1.0 - np.hypot(down, across) / math.sqrt(2.0)).astype(np.float32)
    if mean_map_HW is not None:
        found["mean training map"] = np.asarray(mean_map_HW)
    # views without memory of their own: thousands of scenes share one map
    maps: dict[str, Maps] = {name: np.broadcast_to(one, (n, s, *one.shape)) for name, one in found.items()}
    if truth.masks_NSYX is not None:
        maps["oracle area"] = _of_area(truth, across, down)
    picked_NS = _random_panels(truth)
    if s < len(truth.rects_P4):
        maps["random panels"] = _in_panels(truth, picked_NS, 1.0)
    if panel_boxes:
        maps |= {f"panel box {side:g}": _in_panels(truth, picked_NS, side) for side in BOX_SIDES}
    return maps


def _of_area(truth: Truth, across_X: np.ndarray, down_Y1: np.ndarray) -> list[np.ndarray]:
    """A box in the middle of the canvas for each source, as large as the source: side and canvas have one shape."""
    assert truth.masks_NSYX is not None
    share_NS = truth.masks_NSYX.mean(axis=(2, 3))
    step_NS = np.clip(np.ceil(np.sqrt(share_NS) / STEP), 1, 1 / STEP).astype(int)
    boxes = {step: (across_X < step * STEP) & (down_Y1 < step * STEP) for step in set(step_NS.flat)}
    scenes = {row: np.stack([boxes[step] for step in row]) for row in {tuple(each) for each in step_NS.tolist()}}
    return [scenes[tuple(row)] for row in step_NS.tolist()]


def _random_panels(truth: Truth) -> np.ndarray:
    """As many different panels as sound, picked by the id of the scene alone: the same in any order of the scenes."""
    panels, s = len(truth.rects_P4), truth.panels_NS.shape[1]
    if s > panels:  # several sources in one panel
        return truth.panels_NS
    seeds = [int.from_bytes(blake2b(scene.encode(), digest_size=8).digest(), "little") for scene in truth.ids]
    picked = [np.random.default_rng(seed).permutation(panels)[:s] for seed in seeds]
    return np.array(picked, np.int64).reshape(len(truth), s)


def _in_panels(truth: Truth, panels_NS: np.ndarray, side: float) -> list[np.ndarray | None]:
    """One centre box in each of the named panels, its sides this share of the panel's."""
    (y, x), boxes_P = truth.canvas, []
    for x0, y0, x1, y1 in truth.rects_P4:
        across = np.abs((np.arange(x) + 0.5 - x0) / (x1 - x0) * 2 - 1)
        down = np.abs((np.arange(y) + 0.5 - y0) / (y1 - y0) * 2 - 1)[:, None]
        boxes_P.append((across < side) & (down < side))
    distinct = {
        row: np.stack([boxes_P[panel] for panel in row]) for row in {tuple(each) for each in panels_NS.tolist()}
    }
    return [distinct[tuple(row)] for row in panels_NS.tolist()]


@dataclass(frozen=True)
class Named:
    """All maps of a system whose maps have class names, and these names."""

    maps: Maps
    classes: Classes


def scored(heard: Maps, truth: Truth, protocols: Sequence[Protocol], named: Named | None = None) -> dict[str, Table]:
    """A table for each protocol, by its id: of `named`, where there is one, if a protocol goes by class names, else of
    the maps to hold against sources of unknown class."""
    by_name = [each for each in protocols if named and each.match == "labels"]
    others = [each for each in protocols if each not in by_name]
    found = score_all(heard, truth, others) if others else {}
    return found | (score_all(named.maps, truth, by_name, named.classes) if named and by_name else {})


def scored_nulls(
    truth: Truth,
    protocols: Sequence[Protocol],
    kinds: Collection[bool] = (False,),
    mean_map_HW: np.ndarray | None = None,
    panel_boxes: bool = False,
) -> dict[str, dict[str, Table]]:
    """The tables of the null systems, by name and protocol; `kinds` are those of the systems that stand beside them.

    Beside systems whose maps have class names (True) each map of a null has the name of the source it is for; beside
    anonymous ones (False) it has none; beside both a null has the columns of both.
    """
    found = {}
    for name, maps in nulls(truth, mean_map_HW, panel_boxes).items():
        named = Named(maps, truth.labels) if True in kinds and truth.labels is not None else None
        own = scored(maps, truth, protocols, named)
        if named and False in kinds:
            plain = scored(maps, truth, [each for each in protocols if each.match == "labels"])
            own |= {key: _both(own[key], table) for key, table in plain.items()}
        found[name] = own
    return found


def _both(first: Table, second: Table) -> Table:
    """One table with the columns of two of the same scenes."""
    return replace(first, values=first.values | second.values, weights=first.weights | second.weights)


def under(
    maps: Mapping[str, Maps],
    truth: Truth,
    protocols: Sequence[Protocol],
    *,
    null: Collection[str] = (),
    named: Mapping[str, Named] | None = None,
    mean_map_HW: np.ndarray | None = None,
    panel_boxes: bool = False,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, list[Row]]:
    """All rows by protocol: the given systems (those of `null` are null systems), then the nulls that need no model.

    `named` are those systems among the given whose maps have class names. ValueError where `null` names none given.
    """
    unknown = [name for name in null if name not in maps]
    if unknown:
        raise ValueError(f"null={unknown[0]!r} names no system that was given: {', '.join(maps)}")
    named = named or {}
    tables = {name: scored(each, truth, protocols, named.get(name)) for name, each in maps.items()}
    kinds = {name in named for name in maps} or {False}
    tables |= scored_nulls(truth, protocols, kinds, mean_map_HW, panel_boxes)
    deaf = {name: name in null or name not in maps for name in tables}
    return {
        how.id: [
            Row(name, summarise(own[how.id], seed, resamples), deaf[name], own[how.id]) for name, own in tables.items()
        ]
        for how in protocols
    }


def table(rows: Sequence[Row], metrics: Sequence[str] | None = None, listed: str = "") -> str:
    """Markdown, also readable as it stands: systems by metrics with intervals, one part for each set of scenes.

    Marks cells of systems that a null system reaches: † a null lies inside the interval, ‡ a null lies above it.
    With `metrics` only these columns, where a part has them; without, all. `listed` says how many scenes of a list these
    are. ValueError where rows of one part were not scored on the same number of scenes, or where no part has a named metric.
    """
    parts: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row.summary.protocol, row.summary.layout, row.summary.scenes_hash), []).append(row)
    for name in metrics or ():
        if not any(name in row.summary for row in rows):
            known = sorted({each for row in rows for each in row.summary})
            raise ValueError(f"metric {name!r} is in none of these tables, they have {', '.join(known)}")
    text = "\n\n".join(_part(part, metrics, listed) for part in parts.values())
    notes = warnings(text)
    return "\n".join([text, *(("",) if notes else ()), *notes])


def warnings(text: str) -> list[str]:
    """What the marks mean that are in this text."""
    return [note for sign, note in MARKS.items() if sign in text]


def _part(rows: Sequence[Row], chosen: Sequence[str] | None, listed: str) -> str:
    first, counts = rows[0].summary, dict[str, int]()
    for row in rows:
        own = row.summary.counts.items()
        alike = all(counts.get(name, count) == count for name, count in own if not _open(row.summary.protocol, name))
        if not alike or row.summary.scenes != first.scenes:
            raise ValueError(
                f"table: {rows[0].system} was scored on {first.scenes} scenes {first.counts}, {row.system} on "
                f"{row.summary.scenes} {row.summary.counts}; one table needs the same scenes"
            )
        counts |= {name: max(row.summary.counts[name], counts.get(name, 0)) for name in row.summary}
    order = sorted(counts, key=place)  # without a star by class names, with one by the best pairing: not all have both
    metrics = order if chosen is None else [name for name in chosen if name in counts]
    heads = [name if counts[name] == first.scenes else f"{name} (n={counts[name]})" for name in metrics]
    cells = [["system", *heads]]
    for row in sorted(rows, key=lambda row: row.null):
        name = f"null: {row.system}" if row.null else row.system
        fewer = [f" (n={n})" if (n := row.summary.counts.get(each)) and n < counts[each] else "" for each in metrics]
        cells.append([name, *(cell(row, each, rows) + n for each, n in zip(metrics, fewer, strict=True))])
    facts = (
        f"protocol {first.protocol}, layout {first.layout}, scenes {first.scenes_hash}{of_clips(first.preprocessing)}"
    )
    of = f"{first.scenes} scenes of {first.videos} videos{listed and f' ({listed})'}, 95 % intervals by bootstrap over videos"
    return "\n".join([f"{facts}: {of} ({first.resamples} resamples, seed {first.seed})", "", *grid(cells)])


def of_clips(preprocessing: str) -> str:
    """Which clips the scenes are made of, to stand behind the hash of the scenes; nothing where it is unknown."""
    return preprocessing and f" of clips {preprocessing}"


def _open(protocol: str, metric: str) -> bool:
    """Whether the prediction decides which scenes a number is of: some published code leaves scenes without maps out."""
    known = PROTOCOLS.get(protocol)
    return metric.startswith("nsa") or (known is not None and known.missing == "drop")


def place(metric: str) -> tuple[int, str]:
    """Where a metric stands in a table."""
    kind = metric.rstrip("*").partition("@")[0]
    return (_COLUMNS.index(kind) if kind in _COLUMNS else len(_COLUMNS)), metric


def grid(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, aligned; the first row of cells is its head."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def cell(row: Row, metric: str, rows: Sequence[Row]) -> str:
    """A number with its interval, marked where the best null among `rows` reaches it; empty where there is none."""
    return _cell(row.summary[metric]) + _mark(row, metric, rows) if metric in row.summary else ""


def _cell(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _mark(row: Row, metric: str, rows: Sequence[Row]) -> str:
    nulls_too = (other.summary for other in rows if other.null)
    best = max((summary[metric].value for summary in nulls_too if metric in summary), default=-math.inf)
    return "" if row.null else mark(row.summary[metric], best)


def mark(interval: Interval, best: float) -> str:
    """† or ‡ where the best null system (-inf: there is none) is not below this interval of a system."""
    if best == -math.inf or best < interval.low:
        return ""
    return " ‡" if best > interval.high else " †"
