"""The paper's tables and figures for trained systems; each scene set is composed once and each system runs on it once.

Of a dataset that the paper does not have, the scenes are of the paper's kind.

`tables=[1,2,3]` are Markdown, CSV and JSON, measured numbers below the published ones; `figures=[3,...,9]` are PNG and PDF.
Comparisons of several datasets fill the parts of one table. Of a dataset that the paper does not have, the columns and scenes
are of the paper's kind, without published numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from pyarrow import fs

from raymix.config import ConfigError, EvaluateConfig, TrainConfig
from raymix.config.errors import NoUsableResult
from raymix.data import prepared
from raymix.data.batches import HeatMaps, SceneBatch
from raymix.evaluation.baselines import Control, mean_training_heatmap, predict_control, shuffled_audio
from raymix.evaluation.candidates import CheckpointSource, choose_checkpoints
from raymix.evaluation.scene_spec import SceneSpec, scene_spec_from_settings
from raymix.evaluation.validation import CandidateCheckpoint, EvaluationScenes
from raymix.methods.mix_and_localize import MixAndLocalize
from raymix.metrics.baseline_heatmaps import baseline_heatmaps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import EvaluationProtocol, get_protocol
from raymix.metrics.scoring import score_maps, summarize_scores
from raymix.reporting import figures, paper_figures, paper_tables
from raymix.reporting.figures import scenes_as_pictures
from raymix.reporting.paper_tables import PAPER_TABLES, MeasuredScores, PaperTable, PaperTablePart
from raymix.reporting.report import (
    SYSTEM_KIND,
    EvaluationReport,
    SystemReport,
    compared_checkpoints,
    describe_preprocessing,
)
from raymix.reporting.report_tables import comma_separated
from raymix.reporting.results_folder import ResultsFolder, write_results
from raymix.runtime.storage import assert_writable, read_bytes, resolve_uri, split_uri


@dataclass(frozen=True)
class SystemEntry:
    """One system: its best checkpoint, and the study that it comes from."""

    system: str
    study: str
    candidate: CandidateCheckpoint


@dataclass(frozen=True)
class SceneSet:
    """A set of scenes with its ground truth; `other_N` is the scene whose audio each one gets in the control."""

    stage: SceneSpec
    scenes: SceneBatch
    truth: SceneGroundTruth
    other_N: torch.Tensor | None
    notes: list[str]


@dataclass(frozen=True)
class SystemPredictions:
    """All systems on the scenes of one dataset's split."""

    entries: list[SystemEntry]
    split: str
    device: str
    scene_sets: dict[tuple[str, str, bool], SceneSet | str] = field(default_factory=dict)
    heatmaps: dict[tuple[str, str, Control], HeatMaps] = field(default_factory=dict)
    means: dict[tuple[str, str], np.ndarray | None] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        return self.entries[0].candidate.run.dataset.name

    @property
    def seed(self) -> int:
        return self.entries[0].candidate.run.evaluation.seed

    def of(self, layout: str, subset: str = "", fewer: bool = False) -> SceneSet | str:
        """The scenes of a layout, of a subset of the dataset; where there are none, the reason.

        With `fewer` natural scenes are also clips in which fewer things sound. ValueError where the run's own clips
        cannot be read.
        """
        run = self.entries[0].candidate.run
        prepared = _prepared(run, subset)
        if not prepared:
            how = f"python -m raymix.prepare dataset={run.dataset.name} dataset.subset={subset}"
            return f"no clips of dataset.subset={subset} are prepared beside {run.dataset.prepared}: {how}"
        key = (layout, prepared, fewer)
        if key not in self.scene_sets:
            few = run.evaluation.final_scenes
            stage = scene_spec_from_settings(
                EvaluateConfig(split=self.split, layout=layout, scenes=few, prepared=prepared), run
            )
            self.scene_sets[key] = _make_scene_set(stage, fewer)
        return self.scene_sets[key]

    def maps(self, shown: SystemEntry, scene_set: SceneSet, control: Control = Control.NONE) -> HeatMaps:
        """The predictions of a system on scenes, or those of one of its control runs; each is made once."""
        key = (shown.candidate.uri, scene_set.scenes.hash, control)
        if key not in self.heatmaps:
            self.heatmaps[key] = predict_control(
                shown.candidate, control, scene_set.scenes, self.device, scene_set.other_N
            )
        return self.heatmaps[key]

    def mean(self, shown: SystemEntry, scene_set: SceneSet) -> np.ndarray | None:
        """The mean map of a system on training scenes of this kind, (H, W); None (and a note) where there are none."""
        key = (shown.candidate.uri, scene_set.scenes.hash)
        if key not in self.means:
            self.means[key] = mean_training_heatmap(shown.candidate, scene_set.stage, self.device, scene_set.notes)
        return self.means[key]


def _make_scene_set(stage: SceneSpec, fewer: bool) -> SceneSet | str:
    """The scenes of a stage, or why there are none; its clips have to be there."""
    clips = stage.clips()
    try:
        scenes = stage.compose(clips, fewer)
    except ValueError as error:  # too few videos, or no clip in which so many things sound
        return " ".join(str(error).split())
    if stage.layout == "natural" and scenes.panels_NS.shape[1] < stage.num_sources:
        return f"none of {len(scenes)} scenes has {stage.num_sources} sources"
    notes: list[str] = []
    return SceneSet(stage, scenes, SceneGroundTruth.of(scenes), shuffled_audio(scenes, stage.seed, notes), notes)


def _prepared(run: TrainConfig, subset: str) -> str:
    """The folder of a subset's clips: that of the run, or one beside it or in the run's home that was prepared as such.

    The folders' own records say what is in them. Of several the one whose other settings are most like the run's; ''
    where there is none.
    """
    dataset = run.dataset
    if not dataset.subset or not subset or dataset.subset == subset:
        return dataset.prepared
    own, found = asdict(dataset), list[tuple[int, str]]()
    for above in dict.fromkeys((split_uri(dataset.prepared.rstrip("/"))[0], f"{run.home.rstrip('/')}/clips")):
        filesystem, path = resolve_uri(above)
        for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)):
            place = f"{above.rstrip('/')}/{info.base_name}"
            settings = _settings(place) if info.type == fs.FileType.Directory else {}
            if (settings.get("name"), settings.get("subset")) == (dataset.name, subset):
                found.append((sum(own.get(name) != value for name, value in settings.items()), place))
    return min(found, default=(0, ""))[1]


def _settings(directory: str) -> dict[str, Any]:
    """The settings that a dataset was prepared with; none where the folder is no dataset of this raymix."""
    try:
        return dict(prepared.read_dataset_json(directory).get("settings", {}))
    except ValueError:
        return {}


@dataclass(frozen=True)
class ScoredMaps:
    """What of a system's maps is held against the sources of scenes, and under which protocol."""

    maps_NMHW: np.ndarray
    protocol: EvaluationProtocol
    classes: list[str] | None  # of the maps, where they are held against the sources of these names
    alone: bool  # one map serves every source
    starred: bool  # the best pairing of maps with sources is taken


def maps_to_score(heatmaps: HeatMaps, truth: SceneGroundTruth, protocol: str) -> ScoredMaps:
    """One map serves every source; maps with names go by them; of anonymous ones the best pairing is taken (4.4)."""
    sources, alone = truth.panels_NS.shape[1], heatmaps.maps_NMHW.shape[1] == 1
    by_name = sources > 1 and not alone and heatmaps.classes is not None and any(map(any, truth.labels or ()))
    if by_name:
        return ScoredMaps(
            heatmaps.maps_NMHW.numpy(), get_protocol(f"{protocol}-named"), heatmaps.classes, alone=False, starred=False
        )
    maps_NMHW = heatmaps.top_k_maps(sources).numpy()
    if alone:
        maps_NMHW = np.repeat(maps_NMHW, sources, axis=1)
    return ScoredMaps(
        maps_NMHW, get_protocol(protocol), None, alone, starred=not alone and heatmaps.loudness_NM is None
    )


OWN_METHOD = "cycle"  # the paper's own method

ABLATIONS = ("corre", "isi", "permute", OWN_METHOD)

ROWS_PER_FIGURE = 4  # scenes of a figure, besides the worst ones of some

PAPER_FIGURES = {  # layout, whether it is of the ablations, the first of its scenes, how many are the worst ones
    3: ("hconcat", False, 0, 1),
    4: ("grid2x2", False, 0, 2),
    5: ("grid2x2", True, 0, 0),
    6: ("hconcat", True, 0, 0),
    7: ("grid2x2", False, ROWS_PER_FIGURE, 0),
    8: ("single", False, 0, 0),
    9: ("hconcat", False, ROWS_PER_FIGURE, 0),
}

FIGURE_PROTOCOLS = ("mixloc-multi", "mixloc-single")  # of several sources, of one: those of the tables


def draw_paper_figure(number: int, predictions: SystemPredictions) -> tuple[Any, dict[str, Any]] | str:
    """A figure and its description, or the reason why there is none."""
    layout, ablations, first, failures = PAPER_FIGURES[number]
    once = {each.system: each for each in reversed(predictions.entries)}  # of several seeds the first
    shown = [
        once[s]
        for s in dict.fromkeys(e.system for e in predictions.entries)
        if s == OWN_METHOD or (s in ABLATIONS) == ablations
    ]
    if not shown:
        return f"none of these systems ({', '.join(once)})"
    if isinstance(scene_set := predictions.of(layout), str):
        return scene_set
    heading = f"Figure {number}: {predictions.dataset}, {predictions.split} split, {layout}"
    about = {
        "figure": number,
        "dataset": predictions.dataset,
        **scene_set.truth.facts(),
        "systems": [each.study for each in shown],
    }
    if number == 6:
        return _paths(shown, scene_set, f"{heading}, {_scenes(scene_set)}", predictions.device, about)
    own = {
        each.system: maps_to_score(
            predictions.maps(each, scene_set), scene_set.truth, FIGURE_PROTOCOLS[layout == "single"]
        )
        for each in shown
    }
    judge = OWN_METHOD if OWN_METHOD in own else shown[-1].system
    index = _index(scene_set.truth, own[judge], first, failures)
    if not len(index):
        return f"the {predictions.split} split has too few {layout} scenes"
    columns = {system: _pictures(scene_set, each, index) for system, each in own.items()}
    rows = [{system: column[place] for system, column in columns.items()} for place in range(len(index))]
    ids = {each.protocol.id: None for each in own.values()}
    heading += f", {' and '.join(ids)} (by class names)" if len(ids) > 1 else f", {next(iter(ids))}"
    heading += f", {_scenes(scene_set)}"
    if failures:
        heading += f"; the last {'is' if failures == 1 else f'{failures} are'} the worst of {judge}"
    return paper_figures.draw_system_rows(rows, heading), about | {
        "protocols": list(ids),
        "drawn": [scene_set.truth.ids[at] for at in index],
    }


def _scenes(scene_set: SceneSet) -> str:
    return f"scenes {scene_set.truth.scenes_hash}{describe_preprocessing(scene_set.truth.preprocessing)}"


def _pictures(scene_set: SceneSet, own: ScoredMaps, index: np.ndarray) -> list[figures.ScenePicture]:
    """The maps that were held against the sources: of one map that one, of maps with names those of the sources' names."""
    found = scenes_as_pictures(scene_set.scenes, scene_set.truth, own.maps_NMHW, index, own.protocol, own.classes)
    if own.alone:
        return [
            replace(each, maps_MHW=each.maps_MHW[:1], map_S=tuple(min(which, 0) for which in each.map_S))
            for each in found
        ]
    if own.classes is None or scene_set.truth.labels is None:
        return found
    return [_of_names(each, own.classes, scene_set.truth.labels[at]) for each, at in zip(found, index, strict=True)]


def _of_names(picture: figures.ScenePicture, classes: Sequence[str], names: Sequence[str]) -> figures.ScenePicture:
    """The same scene with a map for each source, that of its name; a blank one where there is none."""
    places = [classes.index(name) if name in classes else -1 for name in names]
    blank_HW = np.zeros_like(picture.maps_MHW[0])
    maps_SHW = np.stack([blank_HW if place < 0 else picture.maps_MHW[place] for place in places])
    map_S = tuple(-1 if which < 0 else source for source, which in enumerate(picture.map_S))
    return replace(picture, maps_MHW=maps_SHW, map_S=map_S)


def _index(truth: SceneGroundTruth, judge: ScoredMaps, first: int, worst: int) -> np.ndarray:
    """The scenes to draw: in their order, those with truth first; last the `worst` ones by IoU of one system."""
    order = np.argsort(~truth.has_truth_N, kind="stable")
    chosen = order[first : first + ROWS_PER_FIGURE]
    if not worst:
        return chosen
    iou_N = mean_source_iou(score_maps(judge.maps_NMHW, truth, judge.protocol, judge.classes).iou_NS)
    rest = [scene for scene in np.argsort(iou_N, kind="stable") if scene not in chosen]
    return np.concatenate([chosen, rest[:worst]]).astype(np.int64)


def mean_source_iou(iou_NS: np.ndarray) -> np.ndarray:
    """The mean over the sources of a scene whose truth is known (not NaN); infinite without any, for it is no failure."""
    known_NS = ~np.isnan(iou_NS)
    total_N, known_N = np.where(known_NS, iou_NS, 0.0).sum(axis=1), known_NS.sum(axis=1)
    return np.where(known_N > 0, total_N / np.maximum(known_N, 1), np.inf)


def _paths(
    shown: list[SystemEntry], scene_set: SceneSet, heading: str, device: str, about: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | str:
    """Walks between the nodes of a mixture and its panels, of the model of the paper with as many nodes."""
    ours = [each for each in shown if isinstance(each.candidate.method, MixAndLocalize)]
    if not ours:
        return "the paths are those of cycle, which is not here"
    method, panels = ours[0].candidate.method, len(scene_set.scenes.rects_P4)
    if not isinstance(method, MixAndLocalize) or method.k != panels:
        return f"{ours[0].study} has {method.k} nodes, these scenes have {panels} panels"
    few = next(scene_set.scenes.batches(ROWS_PER_FIGURE)).to(device)
    rects = few.rects_P4.tolist()
    frames_BK3YX = torch.stack([few.frames_N3YX[..., y0:y1, x0:x1] for x0, y0, x1, y1 in rects], dim=1)
    steps = method.to(device).transitions(frames_BK3YX.float() / 255, few.mixture_NTF)
    out_BIJ, home_BJI = (each.cpu().numpy() for each in steps)
    seen = frames_BK3YX.permute(0, 1, 3, 4, 2).cpu().numpy()
    walks = [paper_figures.RandomWalkGraph(few.ids[n], seen[n], out_BIJ[n], home_BJI[n]) for n in range(len(few))]
    return paper_figures.draw_random_walks(walks, heading), about | {
        "systems": [ours[0].study],
        "protocols": [],
        "drawn": few.ids,
    }


Echo = Callable[[str], Any]


def make_paper_exhibits(settings: EvaluateConfig, echo: Echo = print) -> ResultsFolder:
    """Make the tables and figures that are asked for; ConfigError before anything is written."""
    for word, wanted, known in (
        ("tables", settings.tables, PAPER_TABLES),
        ("figures", settings.figures, PAPER_FIGURES),
    ):
        if odd := [number for number in wanted if number not in known]:
            raise ConfigError(f"{word}=[{odd[0]}]: must be of {', '.join(map(str, known))}")
    datasets, folder = collect_systems(settings, echo)
    assert_writable(folder)
    files: dict[str, bytes] = {}
    details: dict[str, list[dict[str, Any]]] = {"tables": [], "numbers": [], "figures": []}
    for number in dict.fromkeys(settings.tables):
        found, about = fill_paper_table(number, datasets)
        details["tables"].append(about)
        details["numbers"] += found
        text = paper_tables.paper_table(details, number)
        echo(text)
        if not any(each["kind"] == paper_tables.MEASURED_KIND for each in found):
            echo(f"table {number}: has no row for these systems, or no such scenes, in the {settings.split} split")
        files |= {
            f"table-{number}.md": text.encode(),
            f"table-{number}.csv": comma_separated(paper_tables.RECORD_FIELDS, found).encode(),
        }
    for number in dict.fromkeys(settings.figures):
        for predictions in datasets:
            name = f"figure-{number}" + (f"-{predictions.dataset}" if len(datasets) > 1 else "")
            if isinstance(made := draw_paper_figure(number, predictions), str):
                echo(f"{name.replace('-', ' ', 1)}: {made}")
                continue
            plate, of = made
            files |= {f"{name}.png": figures.figure_to_png(plate), f"{name}.pdf": figures.figure_to_pdf(plate)}
            details["figures"].append(of)
    shown = [each for predictions in datasets for each in predictions.entries]
    report = EvaluationReport(
        kind="paper",
        title="tables and figures of the paper",
        split=settings.split,
        protocols=list(
            dict.fromkeys(
                each["protocol"] for each in details["numbers"] if each["kind"] != paper_tables.PUBLISHED_KIND
            )
        ),
        source={"comparison": settings.comparison or None, "study": settings.study or None},
        systems=[SystemReport(each.system, SYSTEM_KIND, [], each.candidate.uri) for each in shown],
        checkpoints=[_record(each) for each in shown],
        details=details,
    )
    written = write_results(folder, report, files)
    echo("written:\n" + "\n".join(f"  {file}" for file in written.files))
    return written


def _record(shown: SystemEntry) -> dict[str, Any]:
    best = shown.candidate
    about = {"system": shown.system, "study": shown.study, "dataset": best.run.dataset.name}
    return about | {"uri": best.uri, "parameters": best.params}


def collect_systems(settings: EvaluateConfig, echo: Echo) -> tuple[list[SystemPredictions], str]:
    """The systems of `comparison=` or `study=` in a predictions for each dataset, and the folder for what is made of them."""
    home = settings.home.rstrip("/")
    if bool(settings.comparison) == bool(settings.study):
        raise ConfigError("tables= and figures= need comparison=NAME (of raymix.compare), or study=NAME")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.study:
        source = CheckpointSource.find(settings)
        found = [
            SystemEntry(str(e.run.method["name"]), source.study.name, e)
            for e in choose_checkpoints(settings, source, echo)[:1]
        ]
        return [SystemPredictions(found, settings.split, device)], settings.output or f"{source.uri}/evaluation/paper"
    listed = settings.comparison.strip().removeprefix("[").removesuffix("]")
    names = list(dict.fromkeys(each.strip() for each in listed.split(",") if each.strip()))
    datasets: dict[str, tuple[str, SystemPredictions]] = {}  # by dataset, with the first comparison that is of it
    for name in names:
        shown = _of_comparison(settings, name, echo)
        first, predictions = datasets.setdefault(
            shown[0].candidate.run.dataset.name, (name, SystemPredictions([], settings.split, device))
        )
        keys = [repr(EvaluationScenes.key(each.candidate.run)) for each in (*predictions.entries[:1], shown[0])]
        if len(set(keys)) > 1:
            raise ConfigError(
                f"comparison={settings.comparison}: {first} and {name} are of one dataset, on different scenes: "
                f"{'; '.join(sorted(keys))}"
            )
        known = {each.candidate.uri for each in predictions.entries}
        predictions.entries.extend(each for each in shown if each.candidate.uri not in known)
    short = "-and-".join(name.rstrip("/").rpartition("/")[2] for name in names)
    where = f"{_place(settings, names[0])}/paper" if len(names) == 1 else f"{home}/evaluations/paper-{short}"
    return [predictions for _, predictions in datasets.values()], settings.output or where


def _place(settings: EvaluateConfig, comparison: str) -> str:
    """The folder of a comparison that is given by its name, its path or its URI."""
    if "://" in comparison or comparison.startswith(("/", "~")):
        return os.path.expanduser(comparison).rstrip("/")
    return f"{settings.home.rstrip('/')}/comparisons/{comparison}"


def _of_comparison(settings: EvaluateConfig, name: str, echo: Echo) -> list[SystemEntry]:
    """The systems of one comparison that have a checkpoint, all on the same scenes; ConfigError or Nothing where not."""
    place = _place(settings, name)
    filesystem, path = resolve_uri(place)
    try:
        studies = compared_checkpoints(json.loads(read_bytes(filesystem, f"{path}/comparison.json")))
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"comparison={name}: no comparison.json in {place}") from None
    shown = []
    for each in studies:
        if each["uri"]:
            one = EvaluateConfig(home=settings.home, checkpoint=each["uri"])
            (candidate,) = choose_checkpoints(one, CheckpointSource.find(one), echo)
            shown.append(SystemEntry(each["system"], each["study"], candidate))
    if not shown:
        raise NoUsableResult(f"comparison={name}: no system has a usable checkpoint")
    keys = {repr((each.candidate.run.dataset.name, *EvaluationScenes.key(each.candidate.run))) for each in shown}
    if len(keys) > 1:
        raise ConfigError(f"comparison={name}: its studies are of different scenes: {'; '.join(sorted(keys))}")
    return shown


def fill_paper_table(number: int, datasets: list[SystemPredictions]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the numbers of a table of the paper, the reasons for blank columns, and notes."""
    paper, measured, notes = PAPER_TABLES[number], list[MeasuredScores](), list[str]()
    absent: dict[tuple[str, str], str] = {}
    for predictions in datasets:
        for part in paper_tables.table_parts(paper, predictions.dataset):
            scene_set = predictions.of(part.layout, part.subset, part.fewer)
            if isinstance(scene_set, str):
                absent[part.dataset, part.layout] = scene_set
            elif not scene_set.truth.has_truth_N.any():
                absent[part.dataset, part.layout] = f"the {predictions.split} split has no regions for these scenes"
            else:
                measured += paper_table_rows(paper, part, predictions, scene_set)
                notes += [f"{part.head}: {note}" for note in scene_set.notes]
    for part in paper.parts:
        if part.dataset not in {predictions.dataset for predictions in datasets}:
            absent[part.dataset, part.layout] = f"no system here was trained on {part.dataset}"
    blank = [{"dataset": dataset, "layout": layout, "reason": why} for (dataset, layout), why in absent.items()]
    return paper_tables.whole_table_records(paper, measured), {"table": number, "absent": blank, "notes": notes}


def paper_table_rows(
    paper: PaperTable, part: PaperTablePart, predictions: SystemPredictions, scene_set: SceneSet
) -> list[MeasuredScores]:
    """Scores of the systems of a table on the scenes of a part, with their controls and the baselines.

    Each system has a control with shuffled audio; the paper's own method (else the first) also those with silent audio,
    without training, and with its mean training map.
    """
    called = {system: row for row, system, _ in paper.rows}
    shown = [each for each in predictions.entries if each.system in called]
    lines = [(each, Control.NONE, each.system) for each in shown]
    if scene_set.other_N is not None:
        shuffled = Control.SHUFFLED_AUDIO
        lines += [(each, shuffled, f"{called[each.system]}, {shuffled}") for each in shown]
    best = next((each for each in shown if each.system == OWN_METHOD), next(iter(shown), None))
    if best:
        silent, untrained = Control.SILENT_AUDIO, Control.UNTRAINED_NETWORK
        lines += [(best, silent, f"{called[best.system]}, {silent}"), (best, untrained, untrained.value)]
    lone = count_single_source_scenes(scene_set)
    found = []
    for each, control, name in lines:
        own = maps_to_score(predictions.maps(each, scene_set, control), scene_set.truth, part.protocol)
        summary = summarize_scores(
            score_maps(own.maps_NMHW, scene_set.truth, own.protocol, own.classes), predictions.seed
        )
        found.append(
            MeasuredScores(
                name, predictions.dataset, summary, each.study, control is not Control.NONE, own.starred, lone
            )
        )
    mean_HW = predictions.mean(best, scene_set) if best else None
    for name, maps in baseline_heatmaps(scene_set.truth, mean_HW).items():
        summary = summarize_scores(score_maps(maps, scene_set.truth, get_protocol(part.protocol)), predictions.seed)
        study = best.study if best and name == "mean training map" else ""
        found.append(
            MeasuredScores(name, predictions.dataset, summary, study, null=True, starred=False, one_source=lone)
        )
    return found


def count_single_source_scenes(scene_set: SceneSet) -> int:
    """How many scenes of several sources have but one."""
    masks_NSYX = scene_set.truth.masks_NSYX
    if masks_NSYX is None or masks_NSYX.shape[1] < 2:
        return 0
    return int((masks_NSYX.any(axis=(2, 3)).sum(axis=1) == 1).sum())
