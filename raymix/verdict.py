"""Checkpoints beside systems that cannot have listened, on the scenes of one split: the rows of the final tables.

After Tables 1 and 2 of the paper, with the null systems that they lack: those of `raymix.comparison`, and four made
with the best checkpoint: an untrained network of its shape, itself on shuffled and on silent audio, and its mean map.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from raymix import chart, clip_files, comparison, figures
from raymix.comparison import Named, Row
from raymix.config import Run
from raymix.evaluator import LABEL_FREE, LAYOUTS, Bench, localise, predict
from raymix.methods import Maps, Method, from_run
from raymix.metrics import sounding_chance, unit_range
from raymix.protocol import Protocol
from raymix.protocol import protocol as named
from raymix.scene import Scenes, compose, derangement
from raymix.scoring import score
from raymix.truth import Truth

SAID = {"quad": "2x2", "solo": "solo", "pair": "side by side", "single": "single"}
TRAINING_CLIPS = 128  # that the mean training map is made of
_CORNERS = ("top left", "top right", "bottom left", "bottom right")
_PANELS = {"grid2x2": _CORNERS, "solo2x2": _CORNERS, "hconcat": ("left", "right")}  # by layout of scenes


@dataclass(frozen=True)
class Contender:
    """A whole checkpoint and where it comes from; what is unknown of one outside a study is None."""

    name: str
    uri: str
    method: Method
    run: Run
    rank: int  # by the study's objective, 1 is the best
    trial: int | None
    epoch: int | None
    params: dict[str, Any]
    recorded: dict[str, float | None]  # what the search wrote down of this epoch


@dataclass(frozen=True)
class Verdict:
    """All rows on one bench, by layout; `maps` are the best contender's, for pictures."""

    contenders: list[Contender]  # best first
    bench: Bench
    rows: dict[str, list[Row]]
    maps: dict[str, np.ndarray]
    notes: list[str]
    predicted: dict[str, dict[str, Maps]] = field(default_factory=dict)  # by layout and name: all that contenders say

    def flat(self, contender: Contender) -> dict[str, float]:
        """Means of one contender under the names that the search uses; some start with `single/` or `solo/`."""
        shuffled = next((row for row in self.rows["quad"] if row.system == twin(contender)), None)
        found = {"sounding_accuracy_shuffled": shuffled.summary["sounding_accuracy"].value} if shuffled else {}
        for layout, rows in self.rows.items():
            for row in rows:
                if row.system == contender.name:
                    found |= {prefix(layout) + name: each.value for name, each in row.summary.items()}
        return {f"{self.bench.split}/{name}": value for name, value in sorted(found.items())}


def prefix(layout: str) -> str:
    """What stands before the names of a layout's metrics: those of `solo` and `single` have twins elsewhere."""
    return f"{layout}/" if layout in ("single", "solo") else ""


def aims(contender: Contender) -> dict[str, tuple[str, str]]:
    """The numbers that a system of its kind is told by, {layout: (metric, what it is called)}: one map cannot name two."""
    if prefix("solo") in contender.run.study.metric:
        return {"solo": ("sounding_accuracy", "sounding accuracy"), "single": ("iou@0.5", "IoU@0.5")}
    return {"quad": ("sounding_accuracy", "sounding accuracy"), "pair": ("ciou@0.3", "CIoU@0.3")}


def layouts(bench: Bench) -> list[str]:
    """The layouts that can be scored: 2x2 always, the others where the split has regions."""
    return [name for name in SAID if name in LABEL_FREE or bench.truth[name].has_truth_N.any()]


def untrained(run: Run) -> Method:
    """The network of a run as it starts, the same for the same evaluation seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.evaluation.seed)
        return from_run(run, pretrained=False)


def twin(contender: Contender) -> str:
    """What the row of this contender with shuffled audio is called."""
    return f"{contender.name}, shuffled audio"


def chance(contender: Contender, truth: Truth) -> float:
    """Sounding accuracy of maps that peak blindly: in different panels, or in any, whichever is right more often."""
    panels, sounding = len(truth.rects_P4), truth.panels_NS.shape[1]
    maps = contender.run.mixture.k if sounding > 1 else 1  # of one source all maps are made one
    return max(sounding_chance(panels, sounding, maps, distinct) for distinct in (True, False))


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes with this many threads, since sums in another order may differ in their last digit."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def reach(
    contenders: list[Contender], bench: Bench, device: str, echo: Callable[[str], Any], store: bool = False
) -> Verdict:
    """Score all contenders, which share this bench, and all null systems; `store` keeps what the contenders predict."""
    best, split = contenders[0], bench.split
    notes: list[str] = []
    rows: dict[str, list[Row]] = {}
    kept: dict[str, np.ndarray] = {}
    predicted: dict[str, dict[str, Maps]] = {}
    means = _mean_training_maps(best, device, notes)
    fresh, scored = untrained(best.run).to(device), layouts(bench)
    for layout in SAID:
        truth = what_counts(layout, bench.truth[layout])
        if layout not in scored:
            notes.append(f"{SAID[layout]}: the {split} split has no regions for these scenes, box metrics are left out")
            continue
        echo(f"  {SAID[layout]}: {len(truth)} scenes, {len(contenders)} checkpoint(s) and the null systems ...")
        seed, mean_HW, how = best.run.evaluation.seed, means.get(layout), named(best.run.evaluation.protocol)
        other = _strangers(bench, layout, seed, notes)
        twins = contenders if layout in LABEL_FREE else [best]
        said, null = heard_and_deaf(contenders, fresh, bench.scenes[layout], twins, other, device)
        rows[layout] = beside_nulls(said, null, truth, [how], mean_HW, seed)[how.id]
        kept[layout] = said[best.name].heard(truth.panels_NS.shape[1]).numpy()
        if store:
            predicted[layout] = {each.name: said[each.name] for each in contenders}
    if "pair" not in kept:  # pictures show it all the same
        kept["pair"] = localise(best.method.to(device), bench.scenes["pair"], device)
    return Verdict(contenders, bench, rows, kept, notes, predicted)


def what_counts(layout: str, truth: Truth) -> Truth:
    """2x2 scenes are there to tell who listens; box metrics are those of the other layouts."""
    if layout not in LABEL_FREE:
        return truth
    return replace(truth, masks_NSYX=None, has_truth_N=np.zeros(len(truth), bool))


def _strangers(bench: Bench, layout: str, seed: int, notes: list[str]) -> torch.Tensor | None:
    """Which scene each scene hears instead; None where the split is too small for that."""
    try:
        index_N = bench.shuffled[layout] if layout in LABEL_FREE else derangement(bench.scenes[layout], seed)
        return torch.from_numpy(index_N)
    except ValueError as error:
        notes.append(f"{SAID[layout]}: no shuffled audio: {error}")
        return None


def heard_and_deaf(
    contenders: list[Contender],
    fresh: Method,
    scenes: Scenes,
    twins: list[Contender],
    other: torch.Tensor | None,
    device: str,
) -> tuple[dict[str, Maps], list[str]]:
    """What everything with a model predicts, by the name of its row, and which of these are null systems.

    `other` says which scene each scene hears instead in the rows of `twins`.
    """
    best = contenders[0]
    maps = {each.name: predict(each.method.to(device), scenes, device) for each in contenders}
    deaf = {twin(each): predict(each.method, scenes.with_audio(other), device) for each in twins if other is not None}
    deaf[f"{best.name}, silent audio"] = predict(best.method, scenes.silent(), device)
    deaf["untrained network"] = predict(fresh, scenes, device)
    return maps | deaf, list(deaf)


def held(maps: Maps, truth: Truth) -> tuple[np.ndarray, Named | None]:
    """The maps to hold against sources of unknown class, and all of them where they and the sources have class names."""
    named = maps.classes is not None and any(map(any, truth.labels or ()))
    heard_NMHW = maps.heard(truth.panels_NS.shape[1]).numpy()
    return heard_NMHW, Named(maps.maps_NMHW.numpy(), maps.classes or []) if named else None


def beside_nulls(
    said: dict[str, Maps],
    null: list[str],
    truth: Truth,
    protocols: Sequence[Protocol],
    mean_HW: np.ndarray | None,
    seed: int,
) -> dict[str, list[Row]]:
    """All rows by protocol: what `heard_and_deaf` gave, then the null systems without a model."""
    both = {name: held(each, truth) for name, each in said.items()}
    maps = {name: heard_NMHW for name, (heard_NMHW, _) in both.items()}
    named = {name: all_of for name, (_, all_of) in both.items() if all_of}
    return comparison.under(maps, truth, protocols, null=null, named=named, mean_map_HW=mean_HW, seed=seed)


def mean_map(method: Method, scenes: Scenes, device: str) -> np.ndarray:
    """The mean of a method's normalised maps over scenes, (H, W): where it looks, whatever it hears."""
    maps_NMHW = unit_range(localise(method.to(device), scenes, device))
    return maps_NMHW.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)


def _mean_training_maps(best: Contender, device: str, notes: list[str]) -> dict[str, np.ndarray]:
    """The mean map of training scenes, (H, W) by layout."""
    run, found = best.run, {}
    m, seed = run.mixture, run.evaluation.seed
    try:
        clips = clip_files.read(
            run.dataset.prepared, "train", run.encoder.image_size, truth=False, limit=TRAINING_CLIPS
        )
        for layout, called in LAYOUTS.items():
            count = TRAINING_CLIPS // len(_PANELS.get(called, ("all",)))  # so that each layout shows as many clips
            scenes = compose(
                clips, layout=called, count=count, seed=seed, seconds=m.seconds, rule=m.rule, level=m.level
            )
            found[layout] = mean_map(best.method, scenes, device)
    except (ValueError, OSError) as error:
        notes.append(f"no mean training map: {' '.join(str(error).split())}")
    return found


def pictures(verdict: Verdict, count: int) -> dict[str, bytes]:
    """PNG files by name, one scene each, 2x2 and side by side in turn: the first scenes, none picked by its score."""
    best, files = verdict.contenders[0], {}
    where = best.name if best.epoch is None else f"{best.name}, epoch {best.epoch}"
    for layout, share in (("quad", (count + 1) // 2), ("pair", count // 2)):
        truth, scenes = verdict.bench.truth[layout], verdict.bench.scenes[layout]
        index = np.argsort(~truth.has_truth_N, kind="stable")[:share]  # scenes with truth first, in their order
        how = named(best.run.evaluation.protocol)
        for place, picture in enumerate(pictured(scenes, truth, verdict.maps[layout], index, how)):
            heading = f"{where}: {verdict.bench.split} split, {SAID[layout]}"
            name = f"{SAID[layout].replace(' ', '-')}-{place + 1:02d}.png"
            files[name] = figures.png(figures.scenes([picture], heading))
    return files


def pictured(
    scenes: Scenes,
    truth: Truth,
    maps_NMHW: np.ndarray,
    index: np.ndarray,
    how: Protocol,
    classes: list[str] | None = None,
) -> list[figures.Picture]:
    """The scenes of these indices as pictures, each map named by the source that it fits; `classes` name the maps."""
    drawn = []
    places = _PANELS.get(truth.layout, ())
    chosen = truth.take(index)
    table = score(maps_NMHW[index], chosen, how, classes) if len(index) else None
    for place, scene in enumerate(index):
        known = bool(truth.has_truth_N[scene]) and truth.masks_NSYX is not None
        told = known and table is not None and not np.isnan(table.iou_NS[place]).all()
        panels = [int(panel) for panel in truth.panels_NS[scene]]
        drawn.append(
            figures.Picture(
                title=truth.ids[scene],
                frame_YX3=scenes.frames_N3YX[scene].permute(1, 2, 0).cpu().numpy(),
                maps_MHW=maps_NMHW[scene],
                masks_SYX=truth.masks_NSYX[scene] if known and truth.masks_NSYX is not None else None,
                sources=tuple(places[panel] if places else f"source {panel + 1}" for panel in panels),
                map_S=tuple(table.map_NS[place].tolist()) if told and table else (),
                iou_S=tuple(table.iou_NS[place].tolist()) if told and table else (),
                panels=tuple(tuple(map(float, rect)) for rect in truth.rects_P4),  # type: ignore[misc]
                sounding=tuple(panels),
                halves_SYX=truth.halves_NSYX[scene] if known and truth.halves_NSYX is not None else None,
            )
        )
    return drawn


def charts(verdict: Verdict) -> dict[str, bytes]:
    """PNG files by name: the checkpoints beside the null systems, by each layout's first number."""
    files, best = {}, verdict.contenders[0]
    for layout, (metric, said) in aims(best).items():
        rows = [row for row in verdict.rows.get(layout, []) if metric in row.summary]
        if rows:
            figure = chart.comparison(
                {row.system: row.summary[metric] for row in rows},
                [row.system for row in rows if row.null],
                metric=said,
                heading=f"{verdict.bench.split} split, {SAID[layout]}, {rows[0].summary.scenes} scenes",
                chance=chance(best, verdict.bench.truth[layout]) if layout in LABEL_FREE else None,
            )
            files[f"{metric.partition('@')[0].replace('_', '-')}.png"] = figures.png(figure)
    return files
