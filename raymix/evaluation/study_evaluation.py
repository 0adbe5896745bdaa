"""The final evaluation of a study's best checkpoints with baselines and controls: tables, charts and pictures.

After Tables 1 and 2 of the paper, with the controls of `raymix.evaluation.baselines` and the baselines of
`raymix.metrics.baseline_heatmaps`.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from raymix.cli.setting_conflicts import SCENE_SETTINGS
from raymix.config import ConfigError, EvaluateConfig, config_hash, config_to_plain
from raymix.config.errors import range_violation, value_error_as_config_error
from raymix.data import prepared
from raymix.data.audio import DECIBELS_PER_UNIT, log_mel_spectrogram
from raymix.data.batches import HeatMaps
from raymix.data.layouts import LABEL_FREE, SCORED_LAYOUTS, metric_prefix
from raymix.data.scenes import few_videos_warning
from raymix.evaluation import per_scene_scores, predictions
from raymix.evaluation.baselines import (
    mean_training_heatmaps,
    predict_with_controls,
    score_with_baselines,
    shuffled_audio,
    shuffled_row_name,
    training_scenes_of_run,
    untrained_method,
)
from raymix.evaluation.candidates import CheckpointSource, choose_checkpoints
from raymix.evaluation.score_reports import checkpoint_record, merged, scene_set, system_reports
from raymix.evaluation.validation import (
    CandidateCheckpoint,
    EvaluationScenes,
    chance_accuracy,
    predict_top_k_heatmaps,
    score_method,
)
from raymix.metrics.functional import chance_sounding_accuracy, minmax_normalize, peak_panels, success_rate
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import EvaluationProtocol, get_protocol
from raymix.metrics.scoring import SystemScores
from raymix.reporting import figures
from raymix.reporting.figures import PANEL_NAMES, scenes_as_pictures
from raymix.reporting.rendering import TOLERANCE, quoted_metric, render_markdown, render_terminal
from raymix.reporting.report import HEADLINE_METRICS, EvaluationReport, SystemReport
from raymix.reporting.results_folder import PER_SCENE_FILE, TABLE_FILE, ResultsFolder, clear_results, write_results
from raymix.reporting.score_charts import draw_score_chart
from raymix.runtime.storage import assert_writable
from raymix.tracking import significance
from raymix.tracking.event_log import EventLog
from raymix.tracking.significance import (
    SceneVideos,
    ScoredOutcomes,
    SignificanceFinding,
    search_advice,
    study_significance,
)
from raymix.tracking.study import StudyState


@dataclass(frozen=True)
class EvaluatedCheckpoints:
    """All rows on the same scenes, by layout; `maps` are the best candidate's, for pictures."""

    candidates: list[CandidateCheckpoint]  # best first
    evaluation_scenes: EvaluationScenes
    rows: dict[str, list[SystemScores]]
    maps: dict[str, np.ndarray]
    notes: list[str]
    controls: list[str] = field(default_factory=list)  # names of the rows of control runs
    predicted: dict[str, dict[str, HeatMaps]] = field(
        default_factory=dict
    )  # by layout and name: all that candidates say

    def flat(self, candidate: CandidateCheckpoint) -> dict[str, float]:
        """Means of one candidate under the names that the search uses; some start with `single/` or `solo2x2/`."""
        shuffled = next((row for row in self.rows["grid2x2"] if row.system == shuffled_row_name(candidate)), None)
        found = {"sounding_accuracy_shuffled": shuffled.summary["sounding_accuracy"].value} if shuffled else {}
        for layout, rows in self.rows.items():
            for row in rows:
                if row.system == candidate.name:
                    found |= {metric_prefix(layout) + name: each.value for name, each in row.summary.items()}
        return {f"{self.evaluation_scenes.split}/{name}": value for name, value in sorted(found.items())}


def find_checkpoints_above_chance(verdicts: Sequence[EvaluatedCheckpoints]) -> SignificanceFinding | None:
    """Test whether any candidate is above chance and above its control, by the scenes of each; None without a control.

    The scenes are those in which two of four panels sound; of a method with one map, which cannot name two, one of four.
    """
    systems, first = [], verdicts[0].candidates[0]
    for reached in verdicts:
        units: dict[str, SceneVideos] = {}
        for each in reached.candidates:
            layout = "solo2x2" if metric_prefix("solo2x2") in each.run.study.metric else "grid2x2"
            truth, found = (
                reached.evaluation_scenes.truth[layout],
                {row.system: row.table for row in reached.rows.get(layout, [])},
            )
            own, control = found.get(each.name), found.get(shuffled_row_name(each))
            if own is None or control is None:
                continue
            if layout not in units:
                units[layout] = SceneVideos.of(truth.sounding_videos(), reached.evaluation_scenes.shuffled[layout])
            metric = f"{reached.evaluation_scenes.split}/{metric_prefix(layout)}sounding_accuracy"
            real_1N, shuffled_1N = (table.values["sounding_accuracy"][None] > 0 for table in (own, control))
            epochs = [each.epoch or 0]
            systems.append(
                ScoredOutcomes(each.name, metric, units[layout], chance_accuracy(truth), epochs, real_1N, shuffled_1N)
            )
    return significance.find_above_chance(
        systems, verdicts[0].evaluation_scenes.split, search_advice(config_to_plain(first.run))
    )


def scorable_layouts(evaluation_scenes: EvaluationScenes) -> list[str]:
    """The layouts that can be scored: LABEL_FREE ones always, the others where the split has regions."""
    return [name for name in SCORED_LAYOUTS if name in LABEL_FREE or evaluation_scenes.truth[name].has_truth_N.any()]


def chance_level(candidate: CandidateCheckpoint, truth: SceneGroundTruth) -> float:
    """Sounding accuracy of maps that peak blindly: in different panels, or in any, whichever is right more often."""
    panels, sounding = len(truth.rects_P4), truth.panels_NS.shape[1]
    maps = candidate.run.mixture.k if sounding > 1 else 1  # of one source all maps are made one
    return max(chance_sounding_accuracy(panels, sounding, maps, distinct) for distinct in (True, False))


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes with this many threads, since sums in another order may differ in their last digit."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def evaluate_checkpoints(
    candidates: list[CandidateCheckpoint],
    evaluation_scenes: EvaluationScenes,
    device: str,
    echo: Callable[[str], Any],
    store: bool = False,
) -> EvaluatedCheckpoints:
    """Score all candidates, all on the same scenes, and all baselines; `store` keeps what the candidates predict."""
    best, split = candidates[0], evaluation_scenes.split
    notes: list[str] = []
    rows: dict[str, list[SystemScores]] = {}
    kept: dict[str, np.ndarray] = {}
    predicted: dict[str, dict[str, HeatMaps]] = {}
    controls: dict[str, None] = {}
    means = mean_training_heatmaps(best, training_scenes_of_run(best.run), device, notes)
    untrained, scored = untrained_method(best.run), scorable_layouts(evaluation_scenes)
    for layout in SCORED_LAYOUTS:
        truth = counted_metrics(layout, evaluation_scenes.truth[layout])
        if layout not in scored:
            notes.append(f"{layout}: the {split} split has no regions for these scenes, box metrics are left out")
            continue
        several = f"{len(candidates)} checkpoint{'s' if len(candidates) > 1 else ''}"
        echo(f"  {layout}: {len(truth)} scenes, {several}, baselines and controls ...")
        seed, mean_HW, how = best.run.evaluation.seed, means.get(layout), get_protocol(best.run.evaluation.protocol)
        scenes, label_free = evaluation_scenes.scenes[layout], layout in LABEL_FREE
        shuffled_N = (
            torch.from_numpy(evaluation_scenes.shuffled[layout])
            if label_free
            else shuffled_audio(scenes, seed, notes, f"{layout}: ")
        )
        shuffled = candidates if label_free else [best]
        systems = predict_with_controls(candidates, scenes, device, shuffled_N, shuffled, untrained)
        rows[layout] = score_with_baselines(systems, truth, [how], mean_HW, seed)[how.id]
        controls |= dict.fromkeys(systems.controls)
        kept[layout] = systems.maps[best.name].top_k_maps(truth.panels_NS.shape[1]).numpy()
        if store:
            predicted[layout] = {each.name: systems.maps[each.name] for each in candidates}
    if "hconcat" not in kept:  # pictures show it all the same
        kept["hconcat"] = predict_top_k_heatmaps(best.method.to(device), evaluation_scenes.scenes["hconcat"], device)
    return EvaluatedCheckpoints(candidates, evaluation_scenes, rows, kept, notes, list(controls), predicted)


def counted_metrics(layout: str, truth: SceneGroundTruth) -> SceneGroundTruth:
    """The ground truth without regions for LABEL_FREE layouts, of which only the sounding accuracy is reported."""
    if layout not in LABEL_FREE:
        return truth
    return replace(truth, masks_NSYX=None, has_truth_N=np.zeros(len(truth), bool))


def scene_pictures(evaluated: EvaluatedCheckpoints, count: int, study: str = "", warning: str = "") -> dict[str, bytes]:
    """PNG files by name, one scene each: of two layouts in turn random scenes, then the worst and the best.

    The layouts are those in which several panels sound, of methods with one map those in which one does.
    """
    best, files = evaluated.candidates[0], {}
    one = metric_prefix("solo2x2") in best.run.study.metric
    for layout, share in zip(
        ("solo2x2", "single") if one else ("grid2x2", "hconcat"), ((count + 1) // 2, count // 2), strict=True
    ):
        truth = evaluated.evaluation_scenes.truth[layout]
        chosen = pick_scenes(evaluated, layout, share)
        for name, (scene, why) in chosen.items():
            (picture,) = scenes_as_pictures(
                evaluated.evaluation_scenes.scenes[layout],
                truth,
                evaluated.maps[layout],
                np.array([scene]),
                _protocol(best),
            )
            names = [_called(truth, scene, source) for source in range(truth.panels_NS.shape[1])]
            if layout in LABEL_FREE:  # scored by peaks, not by regions
                peaks, panels = _peak_panels(picture, truth), truth.panels_NS[scene].tolist()
                drawn = dict(zip(reversed(peaks), reversed(picture.drawn), strict=True))
                picture = replace(picture, map_S=tuple(max(drawn.get(panel, -1), -1) for panel in panels), iou_S=())
            sheet = _sheet(evaluated, layout, scene, picture, why, names)
            named_sources = zip(names, picture.sources, strict=True)
            captions = tuple(
                f"source {n}{f' ({name})' if name else ''}, {at}" for n, (name, at) in enumerate(named_sources, 1)
            )
            picture = replace(picture, sources=captions)
            sheet = replace(sheet, heading=study_title(evaluated, study), warning=warning)
            files[f"{layout}-{name}.png"] = figures.figure_to_png(figures.draw_scene(picture, sheet))
    return files


def _protocol(candidate: CandidateCheckpoint) -> EvaluationProtocol:
    return get_protocol(candidate.run.evaluation.protocol)


def _scores(evaluated: EvaluatedCheckpoints, layout: str) -> tuple[str, np.ndarray] | None:
    """What scenes of a layout are ranked by for pictures, and its value of each scene of the best candidate; None without."""
    name = evaluated.candidates[0].name
    table = next((row.table for row in evaluated.rows.get(layout, []) if row.system == name), None)
    for metric in ("sounding_accuracy",) if layout in LABEL_FREE else ("ciou", "ciou*", "iou", "iou*"):
        if table is not None and metric in table.values and not np.isnan(table.values[metric]).all():
            return metric, table.values[metric]
    return None


def pick_scenes(evaluated: EvaluatedCheckpoints, layout: str, count: int) -> dict[str, tuple[int, str]]:
    """Which scenes to draw, by the name of their picture, each with the reason: random ones, the worst and the best.

    The random ones are drawn with the evaluation's seed, from the scenes with regions where there are any.
    """
    truth, found = evaluated.evaluation_scenes.truth[layout], _scores(evaluated, layout)
    n = len(truth)
    order = np.random.default_rng(evaluated.candidates[0].run.evaluation.seed).permutation(n)
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
    evaluated: EvaluatedCheckpoints,
    layout: str,
    scene: int,
    picture: figures.ScenePicture,
    why: str,
    names: Sequence[str],
) -> figures.SceneCaptions:
    """Captions, sound and outcome of one scene of the best candidate."""
    best, truth, scenes = (
        evaluated.candidates[0],
        evaluated.evaluation_scenes.truth[layout],
        evaluated.evaluation_scenes.scenes[layout],
    )
    protocol, found = _protocol(best), _scores(evaluated, layout)
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
            success = bool(success_rate(found[1][scene : scene + 1], at, protocol.success_strict)[0])
        each = "mean IoU of the sources" if layout == "hconcat" else "IoU"
        outcome = f"{each} {found[1][scene]:.2f}, the threshold is {at:g}"
    cut = protocol.threshold if protocol.binarise in ("absolute", "fraction_of_max") else None
    mel_TF = log_mel_spectrogram(scenes.mixture_NTF[scene : scene + 1].cpu())[0].numpy() * DECIBELS_PER_UNIT
    sounds = " + ".join(f"source {place + 1}{f' ({name})' if name else ''}" for place, name in enumerate(names))
    return figures.SceneCaptions(
        heading="",
        lines=(f"{where}, {evaluated.evaluation_scenes.split} split, {layout}, {why}",),
        outcome=outcome,
        success=success,
        captions=_captions(picture, truth, layout, scene, names),
        mel_TF=mel_TF,
        seconds=best.run.mixture.seconds,
        sound=f"log-mel spectrogram of the input audio: {sounds}",
        threshold=None if layout in LABEL_FREE or protocol.normalise != "minmax_map" else cut,
    )


def _peak_panels(picture: figures.ScenePicture, truth: SceneGroundTruth) -> list[int]:
    """The panel of the peak of each drawn map, -1 where it has none."""
    maps_NMHW = picture.maps_MHW[None]
    if len(picture.drawn) > len(picture.maps_MHW):
        maps_NMHW = np.concatenate([minmax_normalize(maps_NMHW).mean(axis=1, keepdims=True), maps_NMHW], axis=1)
    found: list[int] = peak_panels(maps_NMHW, truth.rects_P4, truth.canvas)[0].tolist()
    return found


def _called(truth: SceneGroundTruth, scene: int, source: int) -> str:
    """The class of a source, '' where it is unknown."""
    return truth.labels[scene][source] if truth.labels is not None else ""


def _captions(
    picture: figures.ScenePicture, truth: SceneGroundTruth, layout: str, scene: int, names: Sequence[str]
) -> tuple[str, ...]:
    """For each drawn map the sound that it belongs to: by the panel of its peak, or by the source whose region it fits."""
    panels, places = truth.panels_NS[scene].tolist(), PANEL_NAMES.get(truth.layout, ())
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


def study_title(evaluated: EvaluatedCheckpoints, study: str) -> str:
    """Study, method and dataset, for the title of a picture."""
    run = evaluated.candidates[0].run
    of = f"study {study}, " if study else ""
    return f"{of}method {run.method['name']}, dataset {run.dataset.name}"


def score_charts(evaluated: EvaluatedCheckpoints, study: str = "", warning: str = "") -> dict[str, bytes]:
    """PNG files by name, one a layout: checkpoints, controls and baselines by the layout's first number."""
    files, best = {}, evaluated.candidates[0]
    for layout, rows in evaluated.rows.items():
        metric_title = HEADLINE_METRICS[layout][1]
        metric = quoted_metric(layout, ({"metrics": row.summary} for row in rows))
        if metric is None:
            continue
        rows = [row for row in rows if metric in row.summary]
        facts = rows[0].summary
        figure = draw_score_chart(
            {row.system: row.summary[metric] for row in rows},
            [row.system for row in rows if row.null],
            controls=[shuffled_row_name(each) for each in evaluated.candidates],
            metric=metric_title,
            heading=study_title(evaluated, study),
            below=f"{evaluated.evaluation_scenes.split} split, {layout}: {facts.scenes} scenes of {facts.videos} videos",
            warning=warning,
            chance=chance_level(best, evaluated.evaluation_scenes.truth[layout]) if layout in LABEL_FREE else None,
        )
        files[f"{layout}-{HEADLINE_METRICS[layout][0].partition('@')[0].replace('_', '-')}.png"] = (
            figures.figure_to_png(figure)
        )
    return files


Echo = Callable[[str], Any]


def _candidates(settings: EvaluateConfig, echo: Echo) -> tuple[CheckpointSource, list[CandidateCheckpoint]]:
    """The checkpoints that are meant, and where they are from; what was scored on test before is metric."""
    source = CheckpointSource.find(settings)
    candidates = choose_checkpoints(settings, source, echo)
    if settings.split == "test":
        _before(source, candidates, echo)
    return source, candidates


def final_evaluation(settings: EvaluateConfig, echo: Echo = print) -> ResultsFolder:
    """Score checkpoints on a split, write the files, append the scores to the study's event log, and print them.

    Raises ConfigError for bad input, NoUsableResult where the study has no scored checkpoint.
    """
    _check(settings)
    with value_error_as_config_error():
        source, candidates = _candidates(settings, echo)
        folder = settings.output or _folder(settings, source, candidates[0])
        groups: dict[str, list[CandidateCheckpoint]] = {}
        for each in candidates:
            key = repr((EvaluationScenes.key(each.run), each.run.evaluation.protocol, _count(settings, each)))
            groups.setdefault(key, []).append(each)
        assert_writable(folder)  # known before an hour of scoring, not after
        facts = {
            each.run.dataset.prepared: prepared.read_dataset_json(each.run.dataset.prepared) for each in candidates
        }
    verdicts: list[EvaluatedCheckpoints] = []
    recomputed: dict[str, dict[str, float]] = {}
    for group in groups.values():
        reached, again = _reach(settings, group, echo)
        verdicts.append(reached)
        recomputed |= again
    whole = (
        settings.split == "val" and source.named and not settings.checkpoint
    )  # chosen from all epochs by these scenes
    finding = study_significance(source.study) if whole else find_checkpoints_above_chance(verdicts)
    made = study_report(EvaluatedStudy(settings.split, source.study, source.uri, verdicts, facts, recomputed, finding))
    count = candidates[0].run.evaluation.pictures if settings.pictures is None else settings.pictures
    lines = [row for each in verdicts for rows in each.rows.values() for row in rows]
    files = {TABLE_FILE: render_markdown(made).encode(), PER_SCENE_FILE: per_scene_scores.encode_scene_scores(lines)}
    warning = finding.headline if finding else ""
    files |= score_charts(verdicts[0], source.study.name, warning)
    files |= scene_pictures(verdicts[0], count, source.study.name, warning)
    with value_error_as_config_error():
        report = write_results(folder, made, files, _stored(folder, verdicts))
    if source.named and settings.split == "test":
        _remember(source, report)
    _print(made, report.files, echo)
    return report


def _check(settings: EvaluateConfig) -> None:
    for name in SCENE_SETTINGS:
        if (value := getattr(settings, name)) not in (None, ""):
            raise ConfigError(
                f"{name}={value}: goes with layout= or pair_list=; else a study's scenes are those of its config"
            )
    for name, low, high in (("scenes", 8, None), ("pictures", 0, 64)):
        value = getattr(settings, name)
        if value is not None and (broken := range_violation(name, value, {"low": low, "high": high})):
            raise ConfigError(broken)
    _something(settings)


def _something(settings: EvaluateConfig) -> None:
    if not settings.study and not settings.checkpoint:
        raise ConfigError(
            "nothing to score: give study=NAME (python -m raymix.leaderboard lists them) or checkpoint=URI"
        )


def _count(settings: EvaluateConfig, of: CandidateCheckpoint) -> int:
    planned = of.run.evaluation.scenes if settings.split == "val" else of.run.evaluation.final_scenes
    return settings.scenes or planned


def _folder(settings: EvaluateConfig, source: CheckpointSource, first: CandidateCheckpoint) -> str:
    """Where the files go: the study's folder, or for a lone checkpoint one of its own."""
    if source.named and not settings.checkpoint:
        return f"{source.uri}/evaluation/{settings.split}"
    leaf = first.name.replace(" ", "-") + (f"-epoch-{first.epoch}" if first.epoch is not None else "")
    if source.named:
        return f"{source.uri}/evaluation/{settings.split}-{leaf}"
    return f"{settings.home.rstrip('/')}/evaluations/{leaf}-{config_hash({'uri': first.uri})[:6]}/{settings.split}"


def _before(source: CheckpointSource, candidates: list[CandidateCheckpoint], echo: Echo) -> None:
    """The test split is there to be opened once: say so if it was."""
    uris = {each.uri for each in candidates}
    earlier = [
        record
        for record in source.study.evaluations
        if record.get("split") == "test"
        and uris & {f"{source.uri}/{each['checkpoint']}" for each in record.get("checkpoints", [])}
    ]
    if earlier:
        when = datetime.datetime.fromtimestamp(earlier[-1]["at"]).strftime("%Y-%m-%d %H:%M")
        times = f"{len(earlier)} time{'s' if len(earlier) > 1 else ''}"
        echo(f"note: the test split was opened for these checkpoints before ({times}, last on {when}); scoring again")


def _reach(
    settings: EvaluateConfig, group: list[CandidateCheckpoint], echo: Echo
) -> tuple[EvaluatedCheckpoints, dict[str, dict[str, float]]]:
    """The evaluated on candidates of the same scenes, and on validation the search's own numbers computed again, by URI."""
    run, split = group[0].run, settings.split
    try:
        evaluation_scenes = EvaluationScenes.open(run, split, _count(settings, group[0]))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{run.dataset.prepared}, split {split}: no evaluation scenes: {reason}") from error
    # validation repeats what the search's evaluator did, on the kind of device and with the threads that it had
    on_gpu = torch.cuda.is_available() and (split == "test" or run.cluster.evaluator_gpus > 0)
    device = "cuda" if on_gpu else "cpu"
    again: dict[str, dict[str, float]] = {}
    grid = evaluation_scenes.scenes["grid2x2"]
    if note := few_videos_warning(len({video for videos in grid.videos for video in videos}), len(grid), split):
        echo(note)
    echo(f"scoring {', '.join(each.name for each in group)} on the {split} split ({run.evaluation.protocol}):")
    with torch_threads(max(1, int(run.cluster.evaluator_cpus)) if split == "val" else None):
        if split == "val":
            again = {
                each.uri: score_method(each.method.to(device), evaluation_scenes, each.run, device) for each in group
            }
        return evaluate_checkpoints(group, evaluation_scenes, device, echo, settings.store), again


def _stored(folder: str, verdicts: list[EvaluatedCheckpoints]) -> tuple[str, ...]:
    """Write what the candidates predict, a file for each set of scenes; the files' names."""
    written: list[str] = []
    for number, reached in enumerate(verdicts, 1):
        for layout, systems in reached.predicted.items():
            truth = reached.evaluation_scenes.truth[layout]
            if not written:
                clear_results(folder)
            name = f"predictions-{truth.layout}{'' if number == 1 else f'-{number}'}.parquet"
            predictions.write_predictions(f"{folder.rstrip('/')}/{name}", truth, systems)
            written.append(name)
    return tuple(written)


def _remember(source: CheckpointSource, report: ResultsFolder) -> None:
    """Appends the test scores to the study's event log; checkpoints as paths relative to the study."""
    known = ("rank", "trial", "epoch", "scores")
    checkpoints = [
        {"checkpoint": each["uri"].removeprefix(f"{source.uri}/"), **{name: each[name] for name in known}}
        for each in report.scores["checkpoints"]
    ]
    scenes: dict[int, dict[str, str]] = {}  # hashes by layout, of the sets that were scored together
    for index, each in enumerate(report.scores["scene_sets"]):
        scenes.setdefault(each.get("scenes_group", index), {})[each["layout"]] = each["scenes_hash"]
    protocol = ", ".join(report.scores["protocols"])
    record = {"split": "test", "output": report.folder, "protocol": protocol, "scenes": list(scenes.values())}
    record["above_chance"] = report.scores["details"].get("above_chance")
    EventLog(source.uri).append("evaluated", {**record, "checkpoints": checkpoints})


def _print(report: EvaluationReport, written: list[str], echo: Echo) -> None:
    for line in render_terminal(report):
        echo(line)
    echo("written:")
    for file in written:
        echo(f"  {file}")


@dataclass(frozen=True)
class EvaluatedStudy:
    """What a report of a study is made of.

    Attributes:
        split: that was scored.
        study, uri: the study; both empty for a checkpoint outside one.
        verdicts: one for each group of checkpoints with the same scenes.
        datasets: description of each data set, by its folder.
        recomputed: validation scores computed again, by URI of a checkpoint.
        finding: whether any checkpoint is above chance; None where that was not tested.
    """

    split: str
    study: StudyState
    uri: str
    verdicts: Sequence[EvaluatedCheckpoints]
    datasets: Mapping[str, Mapping[str, Any]]
    recomputed: Mapping[str, Mapping[str, float]]
    finding: SignificanceFinding | None


def study_report(of: EvaluatedStudy) -> EvaluationReport:
    """Returns the report of a study's checkpoints with their controls and baselines."""
    sets: list[dict[str, Any]] = []
    systems: list[SystemReport] = []
    checkpoints: list[dict[str, Any]] = []
    for number, evaluated in enumerate(of.verdicts):
        uris = {each.name: each.uri for each in evaluated.candidates}
        own: list[SystemReport] = []
        for layout, truth in evaluated.evaluation_scenes.truth.items():
            if layout in evaluated.rows:
                rows = evaluated.rows[layout]
                own += system_reports(rows, len(sets), controls=evaluated.controls, checkpoints=uris)
            sets.append(
                {
                    **scene_set(truth, _settings(evaluated, of.datasets), notes=evaluated.notes),
                    "scenes_group": number,
                }
            )
        systems += merged(own)
        checkpoints += [
            {**_checkpoint(each, evaluated, of.recomputed.get(each.uri)), "scenes_group": number}
            for each in evaluated.candidates
        ]
    checkpoints.sort(key=lambda each: each["rank"])
    first = of.datasets[of.verdicts[0].candidates[0].run.dataset.prepared]
    title = f"study {of.study.name}" if of.study.name else checkpoints[0]["uri"]
    found = of.finding
    return EvaluationReport(
        kind="study",
        title=f"{title}, {of.split} split",
        split=of.split,
        protocols=[of.verdicts[0].candidates[0].run.evaluation.protocol],
        dataset=first.get("dataset"),
        preprocessing=first.get("preprocessing"),
        source={"study": of.study.name or None, "study_uri": of.uri or None, "objective": of.study.objective or None},
        scene_sets=sets,
        systems=systems,
        checkpoints=checkpoints,
        details={"above_chance": found.record() if found else None},
        warnings=[found.sentence] if found and found.sentence else [],
    )


def _checkpoint(
    of: CandidateCheckpoint, evaluated: EvaluatedCheckpoints, again: Mapping[str, float] | None
) -> dict[str, Any]:
    """A checkpoint and its means; `again` are its validation scores computed again."""
    found = checkpoint_record(of, evaluated.flat(of)) | {
        "shuffled_audio": shuffled_row_name(of),
        "chance": chance_level(of, evaluated.evaluation_scenes.truth["grid2x2"]),
        "recorded": of.recorded,
    }
    if again is not None:
        gap = _largest_difference(of.recorded, again)
        found |= {"recomputed": dict(again), "reproduced": None if gap is None else gap <= TOLERANCE}
    return found


def _largest_difference(recorded: Mapping[str, float | None], again: Mapping[str, float]) -> float | None:
    """The largest difference of numbers that both have; None without any."""
    gaps = [abs(value - again[name]) for name, value in recorded.items() if value is not None and name in again]
    return max(gaps, default=None)


def _settings(evaluated: EvaluatedCheckpoints, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the scenes of a evaluated were made of: enough to make them again."""
    run, split = evaluated.candidates[0].run, evaluated.evaluation_scenes.split
    described = datasets[run.dataset.prepared]
    part = described["splits"][split]
    return {
        "dataset": described.get("dataset"),
        "prepared": run.dataset.prepared,
        "clips": part["clips"],
        "videos": part["videos"],
        "image_size": run.encoder.image_size,
        "seconds": run.mixture.seconds,
        "rule": run.mixture.reduction,
        "level": run.mixture.loudness,
        "seed": run.evaluation.seed,
    }
