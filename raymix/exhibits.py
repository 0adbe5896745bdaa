"""The paper's tables and figures, filled with what a comparison's (or a study's) best checkpoints do on the test split.

`tables=[1,2,3]` are Markdown, CSV and JSON, measured numbers below the published ones; `figures=[3,...,9]` are PNG and PDF.
Of a dataset that the paper does not have, the columns and scenes are of the paper's kind, without published numbers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyarrow import fs

from raymix import comparison, figures, gallery, paths, results, tables
from raymix.config import BadInput, Dataset, Evaluate
from raymix.contenders import Source, choose
from raymix.door import Nothing
from raymix.engine import writable
from raymix.evaluator import Bench, predict
from raymix.methods import Maps
from raymix.methods.cycle import Cycle
from raymix.protocol import RAYMIX_1
from raymix.protocol import protocol as named
from raymix.published import TABLES
from raymix.results import Report
from raymix.scene import Scenes
from raymix.scoring import score, summarise
from raymix.staging import staged
from raymix.storage import get, resolve
from raymix.tables import Measured
from raymix.truth import Truth
from raymix.verdict import Contender, pictured

Echo = Callable[[str], Any]
ABLATIONS = ("corre", "isi", "permute", "cycle")
ROWS, FAILURES = 4, 2  # scenes of a figure; of figure 4 so many are its worst ones
FIGURES = {  # layout, whether it is of the ablations, the first of its scenes
    3: ("hconcat", False, 0), 4: ("grid2x2", False, 0), 5: ("grid2x2", True, 0), 6: ("hconcat", True, 0),
    7: ("grid2x2", False, ROWS), 8: ("single", False, 0), 9: ("hconcat", False, ROWS),
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """One system: its best checkpoint, and the study that it comes from."""

    system: str
    study: str
    contender: Contender


@dataclass(frozen=True)
class Hall:
    """All systems on the scenes of one split, each layout composed once, each system run once on it."""

    shown: list[Shown]
    split: str
    device: str
    scenes: dict[str, Scenes | None]
    said: dict[tuple[str, str], Maps]

    def of(self, layout: str, subset: str = "") -> Scenes | None:
        """The scenes of a layout, of a subset of the dataset; None where the split has none, or it is not prepared."""
        run = self.shown[0].contender.run
        prepared = _prepared(run.dataset, subset)
        key = f"{layout} {prepared}"
        if key not in self.scenes:
            few = run.evaluation.final_scenes
            stage = staged(Evaluate(split=self.split, layout=layout, scenes=few, prepared=prepared), run)
            self.scenes[key] = None
            if prepared == run.dataset.prepared or _is_prepared(prepared):
                clips = stage.clips()
                with contextlib.suppress(ValueError):  # too few videos, or no clip in which so many things sound
                    self.scenes[key] = stage.compose(clips)
        return self.scenes[key]

    def maps(self, shown: Shown, scenes: Scenes) -> Maps:
        key = (shown.study, scenes.hash)
        if key not in self.said:
            self.said[key] = predict(shown.contender.method.to(self.device), scenes, self.device)
        return self.said[key]


def _prepared(dataset: Dataset, subset: str) -> str:
    """Where the clips of a subset are: those of the run, or beside them in a folder whose name ends with the other's."""
    own = dataset.subset
    same = not own or not subset or own == subset
    return dataset.prepared if same else f"{dataset.prepared.rstrip('/').removesuffix(own)}{subset}"


def _is_prepared(folder: str) -> bool:
    filesystem, path = resolve(folder)
    return filesystem.get_file_info(f"{path}/dataset.json").type == fs.FileType.File


def evaluate(settings: Evaluate, echo: Echo = print) -> Report:
    """Make the tables and figures that are asked for; BadInput before anything is written."""
    for word, wanted, known in (("tables", settings.tables, TABLES), ("figures", settings.figures, FIGURES)):
        if odd := [number for number in wanted if number not in known]:
            raise BadInput(f"{word}=[{odd[0]}]: must be of {', '.join(map(str, known))}")
    shown, folder = gathered(settings, echo)
    writable(folder)
    hall = Hall(shown, settings.split, "cuda" if torch.cuda.is_available() else "cpu", {}, {})
    files: dict[str, bytes] = {}
    records: list[dict[str, Any]] = []
    for number in dict.fromkeys(settings.tables):
        made, found = table(number, hall)
        echo(made)
        if not any(each["kind"] == "measured" for each in found):
            echo(f"table {number}: has no row for these systems, or no such scenes, in the {settings.split} split")
        files |= {f"table-{number}.md": made.encode(), f"table-{number}.csv": tables.comma_separated(found).encode()}
        records += found
    for number in dict.fromkeys(settings.figures):
        if (figure := drawn(number, hall)) is None:
            echo(f"figure {number}: none of these systems, or no such scenes, in the {settings.split} split")
            continue
        files |= {f"figure-{number}.png": figures.png(figure), f"figure-{number}.pdf": figures.pdf(figure)}
    facts = {
        **results.stamp(),
        "split": settings.split,
        "systems": [_record(each) for each in shown],
        "numbers": records,
    }
    report = results.write(folder, files, facts)
    echo("written:\n" + "\n".join(f"  {file}" for file in report.files))
    return report


def _record(shown: Shown) -> dict[str, Any]:
    best = shown.contender
    return {"system": shown.system, "study": shown.study, "checkpoint": best.uri, "parameters": best.params}


def gathered(settings: Evaluate, echo: Echo) -> tuple[list[Shown], str]:
    """The systems of `comparison=` or `study=`, and the folder for what is made of them."""
    home = settings.home.rstrip("/")
    if bool(settings.comparison) == bool(settings.study):
        raise BadInput("tables= and figures= need comparison=NAME (of raymix.compare), or study=NAME")
    if settings.study:
        source = Source.find(settings)
        found = [Shown(str(e.run.method["name"]), source.study.name, e) for e in choose(settings, source, echo)[:1]]
        return found, settings.output or f"{source.uri}/evaluation/paper"
    place = f"{home}/comparisons/{settings.comparison}"
    filesystem, path = resolve(place)
    try:
        studies = json.loads(get(filesystem, f"{path}/comparison.json"))["studies"]
    except (OSError, ValueError, KeyError):
        raise BadInput(f"comparison={settings.comparison}: no comparison.json in {place}") from None
    shown = []
    for each in studies:
        if each["checkpoint"]:
            one = Evaluate(home=settings.home, checkpoint=each["checkpoint"])
            (contender,) = choose(one, Source.find(one), echo)
            shown.append(Shown(each["system"], each["study"], contender))
    if not shown:
        raise Nothing(f"comparison={settings.comparison}: no system has a usable checkpoint")
    keys = {repr(Bench.key(each.contender.run)) for each in shown}
    if len(keys) > 1:
        raise BadInput(
            f"comparison={settings.comparison}: its studies are of different scenes: {'; '.join(sorted(keys))}"
        )
    return shown, settings.output or f"{place}/paper"


def table(number: int, hall: Hall) -> tuple[str, list[dict[str, Any]]]:
    """A table as Markdown, and its records."""
    run, paper = hall.shown[0].contender.run, TABLES[number]
    rows = [system for _, system, _ in paper.rows]
    measured: list[Measured] = []
    for part in tables.parts(paper, run.dataset.name):
        if (scenes := hall.of(part.layout, part.subset)) is None:
            continue
        truth = Truth.of(scenes)
        for shown in (each for each in hall.shown if each.system in rows):
            said = hall.maps(shown, scenes)
            measured.append(_measured(shown, said, truth, part.protocol, run.dataset.name, run.evaluation.seed))
        for name, maps in comparison.nulls(truth).items():
            summary = summarise(score(maps, truth, named(part.protocol)), run.evaluation.seed)
            measured.append(Measured(name, run.dataset.name, summary, null=True, starred=False))
    found = tables.records(paper, run.dataset.name, measured)
    return tables.markdown(paper, run.dataset.name, found), found


def _measured(shown: Shown, said: Maps, truth: Truth, protocol: str, dataset: str, seed: int) -> Measured:
    """One map serves every source; maps with names go by them; of anonymous ones the best pairing is taken (starred)."""
    sources, alone = truth.panels_NS.shape[1], said.maps_NMHW.shape[1] == 1
    by_name = sources > 1 and not alone and said.classes is not None and truth.labels is not None
    classes = said.classes if by_name else None
    maps_NMHW = (said.maps_NMHW if by_name else said.heard(sources)).numpy()
    if alone:
        maps_NMHW = np.repeat(maps_NMHW, sources, axis=1)
    how = named(f"{protocol}-named" if by_name else protocol)
    summary = summarise(score(maps_NMHW, truth, how, classes), seed)
    return Measured(shown.system, dataset, summary, shown.study, starred=not alone and said.loudness_NM is None)


def drawn(number: int, hall: Hall) -> Any:
    """A figure; None where no system of its kind is here, or the split has no such scenes."""
    layout, ablations, first = FIGURES[number]
    once = {each.system: each for each in reversed(hall.shown)}  # of several seeds the first
    shown = [
        once[s] for s in dict.fromkeys(e.system for e in hall.shown) if s == "cycle" or (s in ABLATIONS) == ablations
    ]
    if (scenes := hall.of(layout)) is None or not shown:
        return None
    truth, heading = Truth.of(scenes), f"Figure {number}: {hall.split} split, {layout}"
    if number == 6:
        return _paths(shown, scenes, heading, hall.device)
    index = _index(shown, hall, scenes, truth, first, FAILURES if number == 4 else 0)
    if not len(index):
        return None
    columns = {each.system: _pictures(each, hall, scenes, truth, index) for each in shown}
    rows: Sequence[Mapping[str, figures.Picture]] = [
        {name: column[place] for name, column in columns.items()} for place in range(len(index))
    ]
    if number == 4:
        heading += f"; the last {FAILURES} are the worst of {shown[-1].system}"
    return gallery.systems(rows, heading)


def _pictures(shown: Shown, hall: Hall, scenes: Scenes, truth: Truth, index: np.ndarray) -> list[figures.Picture]:
    maps_NMHW = hall.maps(shown, scenes).heard(truth.panels_NS.shape[1]).numpy()
    return pictured(scenes, truth, maps_NMHW, index, RAYMIX_1)


def _index(shown: list[Shown], hall: Hall, scenes: Scenes, truth: Truth, first: int, worst: int) -> np.ndarray:
    """The scenes to draw: in their order, those with truth first; the `worst` last ones by IoU of the last system."""
    order = np.argsort(~truth.has_truth_N, kind="stable")
    chosen = order[first : first + ROWS]
    if not worst:
        return chosen
    maps_NMHW = hall.maps(shown[-1], scenes).heard(truth.panels_NS.shape[1]).numpy()
    iou_N = mean_iou(score(maps_NMHW, truth, RAYMIX_1).iou_NS)
    rest = [scene for scene in np.argsort(iou_N, kind="stable") if scene not in chosen]
    return np.concatenate([chosen, rest[:worst]]).astype(np.int64)


def mean_iou(iou_NS: np.ndarray) -> np.ndarray:
    """The mean over the sources of a scene whose truth is known (not NaN); infinite without any, for it is no failure."""
    known_NS = ~np.isnan(iou_NS)
    total_N, known_N = np.where(known_NS, iou_NS, 0.0).sum(axis=1), known_NS.sum(axis=1)
    return np.where(known_N > 0, total_N / np.maximum(known_N, 1), np.inf)


def _paths(shown: list[Shown], scenes: Scenes, heading: str, device: str) -> Any:
    """Walks between the nodes of a mixture and its panels, of the model of the paper with as many nodes."""
    ours = [each.contender.method for each in shown if isinstance(each.contender.method, Cycle)]
    if not ours or ours[0].k != len(scenes.rects_P4):
        return None
    few = next(scenes.batches(ROWS)).to(device)
    rects = few.rects_P4.tolist()
    frames_BK3YX = torch.stack([few.frames_N3YX[..., y0:y1, x0:x1] for x0, y0, x1, y1 in rects], dim=1)
    steps = ours[0].to(device).transitions(frames_BK3YX.float() / 255, few.mixture_NTF)
    out_BIJ, home_BJI = (each.cpu().numpy() for each in steps)
    seen = frames_BK3YX.permute(0, 1, 3, 4, 2).cpu().numpy()
    walks = [paths.Walk(few.ids[n], seen[n], out_BIJ[n], home_BJI[n]) for n in range(len(few))]
    return paths.cycle_paths(walks, heading)
