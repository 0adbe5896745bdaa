"""Checkpoints, baselines and controls on the scenes of one split: the rows of the final tables, charts and pictures.

After Tables 1 and 2 of the paper, with the controls of `raymix.baselines` and the baselines of `raymix.baseline_heatmaps`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from raymix import chart, figures, significance
from raymix.baselines import (
    mean_training_heatmaps,
    predict_with_controls,
    score_with_baselines,
    shuffled_audio,
    shuffled_row_name,
    training_scenes_of_run,
    untrained_method,
)
from raymix.config import to_plain
from raymix.contenders import CandidateCheckpoint
from raymix.evaluator import Bench, blind_chance, localise
from raymix.layout import LABEL_FREE, SCORED_LAYOUTS, metric_prefix
from raymix.methods import Maps
from raymix.metrics import peak_panels, sounding_chance, unit_range
from raymix.metrics import success as metric_success
from raymix.protocol import Protocol
from raymix.protocol import protocol as named
from raymix.rendering import quoted_metric
from raymix.report import HEADLINE_METRICS
from raymix.scene import Scenes
from raymix.scoring import SystemScores, score
from raymix.significance import Finding, Outcomes, SceneUnits, advice
from raymix.spectrogram import DECIBELS_PER_UNIT, log_mel
from raymix.truth import Truth

_CORNERS = ("top left", "top right", "bottom left", "bottom right")
_PANELS = {"grid2x2": _CORNERS, "solo2x2": _CORNERS, "hconcat": ("left", "right")}  # by layout of scenes


@dataclass(frozen=True)
class Verdict:
    """All rows on one bench, by layout; `maps` are the best contender's, for pictures."""

    contenders: list[CandidateCheckpoint]  # best first
    bench: Bench
    rows: dict[str, list[SystemScores]]
    maps: dict[str, np.ndarray]
    notes: list[str]
    controls: list[str] = field(default_factory=list)  # names of the rows of control runs
    predicted: dict[str, dict[str, Maps]] = field(default_factory=dict)  # by layout and name: all that contenders say

    def flat(self, contender: CandidateCheckpoint) -> dict[str, float]:
        """Means of one contender under the names that the search uses; some start with `single/` or `solo2x2/`."""
        shuffled = next((row for row in self.rows["grid2x2"] if row.system == shuffled_row_name(contender)), None)
        found = {"sounding_accuracy_shuffled": shuffled.summary["sounding_accuracy"].value} if shuffled else {}
        for layout, rows in self.rows.items():
            for row in rows:
                if row.system == contender.name:
                    found |= {metric_prefix(layout) + name: each.value for name, each in row.summary.items()}
        return {f"{self.bench.split}/{name}": value for name, value in sorted(found.items())}


def find_above_chance(verdicts: Sequence[Verdict]) -> Finding | None:
    """Test whether any contender is above chance and above its control, by the scenes of each; None without a control.

    The scenes are those in which two of four panels sound; of a method with one map, which cannot name two, one of four.
    """
    systems, first = [], verdicts[0].contenders[0]
    for reached in verdicts:
        units: dict[str, SceneUnits] = {}
        for each in reached.contenders:
            layout = "solo2x2" if metric_prefix("solo2x2") in each.run.study.metric else "grid2x2"
            truth, found = reached.bench.truth[layout], {row.system: row.table for row in reached.rows.get(layout, [])}
            own, control = found.get(each.name), found.get(shuffled_row_name(each))
            if own is None or control is None:
                continue
            if layout not in units:
                units[layout] = SceneUnits.of(truth.heard(), reached.bench.shuffled[layout])
            metric = f"{reached.bench.split}/{metric_prefix(layout)}sounding_accuracy"
            real_1N, shuffled_1N = (table.values["sounding_accuracy"][None] > 0 for table in (own, control))
            epochs = [each.epoch or 0]
            systems.append(
                Outcomes(each.name, metric, units[layout], blind_chance(truth), epochs, real_1N, shuffled_1N)
            )
    return significance.find_above_chance(systems, verdicts[0].bench.split, advice(to_plain(first.run)))


def layouts(bench: Bench) -> list[str]:
    """The layouts that can be scored: LABEL_FREE ones always, the others where the split has regions."""
    return [name for name in SCORED_LAYOUTS if name in LABEL_FREE or bench.truth[name].has_truth_N.any()]


def chance(contender: CandidateCheckpoint, truth: Truth) -> float:
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
    contenders: list[CandidateCheckpoint], bench: Bench, device: str, echo: Callable[[str], Any], store: bool = False
) -> Verdict:
    """Score all contenders, which share this bench, and all null systems; `store` keeps what the contenders predict."""
    best, split = contenders[0], bench.split
    notes: list[str] = []
    rows: dict[str, list[SystemScores]] = {}
    kept: dict[str, np.ndarray] = {}
    predicted: dict[str, dict[str, Maps]] = {}
    controls: dict[str, None] = {}
    means = mean_training_heatmaps(best, training_scenes_of_run(best.run), device, notes)
    untrained, scored = untrained_method(best.run), layouts(bench)
    for layout in SCORED_LAYOUTS:
        truth = what_counts(layout, bench.truth[layout])
        if layout not in scored:
            notes.append(f"{layout}: the {split} split has no regions for these scenes, box metrics are left out")
            continue
        several = f"{len(contenders)} checkpoint{'s' if len(contenders) > 1 else ''}"
        echo(f"  {layout}: {len(truth)} scenes, {several}, baselines and controls ...")
        seed, mean_HW, how = best.run.evaluation.seed, means.get(layout), named(best.run.evaluation.protocol)
        scenes, label_free = bench.scenes[layout], layout in LABEL_FREE
        shuffled_N = (
            torch.from_numpy(bench.shuffled[layout])
            if label_free
            else shuffled_audio(scenes, seed, notes, f"{layout}: ")
        )
        shuffled = contenders if label_free else [best]
        systems = predict_with_controls(contenders, scenes, device, shuffled_N, shuffled, untrained)
        rows[layout] = score_with_baselines(systems, truth, [how], mean_HW, seed)[how.id]
        controls |= dict.fromkeys(systems.controls)
        kept[layout] = systems.maps[best.name].heard(truth.panels_NS.shape[1]).numpy()
        if store:
            predicted[layout] = {each.name: systems.maps[each.name] for each in contenders}
    if "hconcat" not in kept:  # pictures show it all the same
        kept["hconcat"] = localise(best.method.to(device), bench.scenes["hconcat"], device)
    return Verdict(contenders, bench, rows, kept, notes, list(controls), predicted)


def what_counts(layout: str, truth: Truth) -> Truth:
    """The ground truth without regions for LABEL_FREE layouts, of which only the sounding accuracy is reported."""
    if layout not in LABEL_FREE:
        return truth
    return replace(truth, masks_NSYX=None, has_truth_N=np.zeros(len(truth), bool))


def pictures(verdict: Verdict, count: int, study: str = "", warning: str = "") -> dict[str, bytes]:
    """PNG files by name, one scene each: of two layouts in turn random scenes, then the worst and the best.

    The layouts are those in which several panels sound, of methods with one map those in which one does.
    """
    best, files = verdict.contenders[0], {}
    one = metric_prefix("solo2x2") in best.run.study.metric
    for layout, share in zip(
        ("solo2x2", "single") if one else ("grid2x2", "hconcat"), ((count + 1) // 2, count // 2), strict=True
    ):
        truth = verdict.bench.truth[layout]
        chosen = pick_scenes(verdict, layout, share)
        for name, (scene, why) in chosen.items():
            (picture,) = pictured(
                verdict.bench.scenes[layout], truth, verdict.maps[layout], np.array([scene]), _protocol(best)
            )
            names = [_called(truth, scene, source) for source in range(truth.panels_NS.shape[1])]
            if layout in LABEL_FREE:  # told by peaks, not by regions
                peaks, panels = _peak_panels(picture, truth), truth.panels_NS[scene].tolist()
                drawn = dict(zip(reversed(peaks), reversed(picture.drawn), strict=True))
                picture = replace(picture, map_S=tuple(max(drawn.get(panel, -1), -1) for panel in panels), iou_S=())
            sheet = _sheet(verdict, layout, scene, picture, why, names)
            named_sources = zip(names, picture.sources, strict=True)
            told = tuple(
                f"source {n}{f' ({name})' if name else ''}, {at}" for n, (name, at) in enumerate(named_sources, 1)
            )
            picture = replace(picture, sources=told)
            sheet = replace(sheet, heading=about(verdict, study), warning=warning)
            files[f"{layout}-{name}.png"] = figures.png(figures.scene(picture, sheet))
    return files


def _protocol(contender: CandidateCheckpoint) -> Protocol:
    return named(contender.run.evaluation.protocol)


def _scores(verdict: Verdict, layout: str) -> tuple[str, np.ndarray] | None:
    """What scenes of a layout are ranked by for pictures, and its value of each scene of the best contender; None without."""
    name = verdict.contenders[0].name
    table = next((row.table for row in verdict.rows.get(layout, []) if row.system == name), None)
    for metric in ("sounding_accuracy",) if layout in LABEL_FREE else ("ciou", "ciou*", "iou", "iou*"):
        if table is not None and metric in table.values and not np.isnan(table.values[metric]).all():
            return metric, table.values[metric]
    return None


def pick_scenes(verdict: Verdict, layout: str, count: int) -> dict[str, tuple[int, str]]:
    """Which scenes to draw, by the name of their picture, each with the reason: random ones, the worst and the best.

    The random ones are drawn with the evaluation's seed, from the scenes with regions where there are any.
    """
    truth, found = verdict.bench.truth[layout], _scores(verdict, layout)
    n = len(truth)
    order = np.random.default_rng(verdict.contenders[0].run.evaluation.seed).permutation(n)
    known = order[truth.has_truth_N[order]] if truth.has_truth_N.any() else order
    extremes = [] if found is None else ["worst", "best"][: max(0, count - 1)]
    chosen = {
        f"random-{place}": (int(scene), f"random scene {place}")
        for place, scene in enumerate(known[: count - len(extremes)], 1)
    }
    for name in extremes:
        assert found is not None
        metric, value_N = found[0], found[1][known]
        wanted = np.nanmin(value_N) if name == "worst" else np.nanmax(value_N)
        equal = known[value_N == wanted]
        called = metric.replace("_", " ").replace("ciou", "CIoU").replace("iou", "IoU")
        of = f"{name} of {len(known)} scenes by {called}"
        chosen[name] = (int(equal[0]), of if len(equal) == 1 else f"{of} (one of {len(equal)} that are equal)")
    return chosen


def _sheet(
    verdict: Verdict, layout: str, scene: int, picture: figures.Picture, why: str, names: Sequence[str]
) -> figures.Sheet:
    """Captions, sound and outcome of one scene of the best contender."""
    best, truth, scenes = verdict.contenders[0], verdict.bench.truth[layout], verdict.bench.scenes[layout]
    protocol, found = _protocol(best), _scores(verdict, layout)
    where = best.name if best.epoch is None else f"{best.name}, epoch {best.epoch}"
    outcome, success = "", None
    if found is not None and layout in LABEL_FREE:
        success = bool(found[1][scene])
        outcome = (
            "the maps peak in exactly the sounding panels"
            if success
            else "the peaks are not exactly in the sounding panels"
        )
    elif found is not None and not np.isnan(found[1][scene]):
        at = float(HEADLINE_METRICS[layout][0].partition("@")[2])
        if protocol.unit == "scene" and protocol.reports == "rate":
            success = bool(metric_success(found[1][scene : scene + 1], at, protocol.success_strict)[0])
        each = "mean IoU of the sources" if layout == "hconcat" else "IoU"
        outcome = f"{each} {found[1][scene]:.2f}, the threshold is {at:g}"
    cut = protocol.threshold if protocol.binarise in ("absolute", "fraction_of_max") else None
    mel_TF = log_mel(scenes.mixture_NTF[scene : scene + 1].cpu())[0].numpy() * DECIBELS_PER_UNIT
    sounds = " + ".join(f"source {place + 1}{f' ({name})' if name else ''}" for place, name in enumerate(names))
    return figures.Sheet(
        heading="",
        lines=(f"{where}, {verdict.bench.split} split, {layout}, {why}",),
        outcome=outcome,
        success=success,
        captions=_captions(picture, truth, layout, scene, names),
        mel_TF=mel_TF,
        seconds=best.run.mixture.seconds,
        sound=f"log-mel spectrogram of the input audio: {sounds}",
        threshold=None if layout in LABEL_FREE or protocol.normalise != "minmax_map" else cut,
    )


def _peak_panels(picture: figures.Picture, truth: Truth) -> list[int]:
    """The panel of the peak of each drawn map, -1 where it has none."""
    maps_NMHW = picture.maps_MHW[None]
    if len(picture.drawn) > len(picture.maps_MHW):
        maps_NMHW = np.concatenate([unit_range(maps_NMHW).mean(axis=1, keepdims=True), maps_NMHW], axis=1)
    found: list[int] = peak_panels(maps_NMHW, truth.rects_P4, truth.canvas)[0].tolist()
    return found


def _called(truth: Truth, scene: int, source: int) -> str:
    """The class of a source, '' where it is unknown."""
    return truth.labels[scene][source] if truth.labels is not None else ""


def _captions(picture: figures.Picture, truth: Truth, layout: str, scene: int, names: Sequence[str]) -> tuple[str, ...]:
    """For each drawn map the sound that it belongs to: by the panel of its peak, or by the source whose region it fits."""
    panels, places = truth.panels_NS[scene].tolist(), _PANELS.get(truth.layout, ())
    peak_M = _peak_panels(picture, truth)
    captions = []
    for place, which in enumerate(picture.drawn):
        name = "mean of the maps" if which < 0 else f"map {which + 1}"
        sources = [
            source for source, chosen in enumerate(picture.map_S) if chosen == which or (which < 0 and chosen >= 0)
        ]
        if layout in LABEL_FREE:
            panel = peak_M[place]
            if panel < 0:
                captions.append(f"{name}: no peak in one panel")
                continue
            at = places[panel] if places else f"panel {panel + 1}"
            sounds = panel in panels
            whose = f"sounds: source {panels.index(panel) + 1}" if sounds else "silent"
            captions.append(f"{name}: peak {at} ({whose}) {chr(0x2713) if sounds else chr(0x2717)}")
        elif sources and not (which >= 0 and len(panels) == 1 and len(picture.maps_MHW) > 1):
            fits = [
                f"source {s + 1}{f' ({names[s]})' if names[s] else ''}, IoU {picture.iou_S[s]:.2f}" for s in sources
            ]
            captions.append(f"{name}: {' and '.join(fits)}")
        else:
            captions.append(name if len(panels) == 1 else f"{name}: belongs to no source")
    return tuple(captions)


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


def about(verdict: Verdict, study: str) -> str:
    """Study, method and dataset, for the title of a picture."""
    run = verdict.contenders[0].run
    of = f"study {study}, " if study else ""
    return f"{of}method {run.method['name']}, dataset {run.dataset.name}"


def charts(verdict: Verdict, study: str = "", warning: str = "") -> dict[str, bytes]:
    """PNG files by name, one a layout: checkpoints, controls and baselines by the layout's first number."""
    files, best = {}, verdict.contenders[0]
    for layout, rows in verdict.rows.items():
        said = HEADLINE_METRICS[layout][1]
        metric = quoted_metric(layout, ({"metrics": row.summary} for row in rows))
        if metric is None:
            continue
        rows = [row for row in rows if metric in row.summary]
        facts = rows[0].summary
        figure = chart.comparison(
            {row.system: row.summary[metric] for row in rows},
            [row.system for row in rows if row.null],
            controls=[shuffled_row_name(each) for each in verdict.contenders],
            metric=said,
            heading=about(verdict, study),
            below=f"{verdict.bench.split} split, {layout}: {facts.scenes} scenes of {facts.videos} videos",
            warning=warning,
            chance=chance(best, verdict.bench.truth[layout]) if layout in LABEL_FREE else None,
        )
        files[f"{layout}-{HEADLINE_METRICS[layout][0].partition('@')[0].replace('_', '-')}.png"] = figures.png(figure)
    return files
