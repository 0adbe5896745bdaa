"""Several tuned systems in one table: their best checkpoints on the test split, what each cost, controls and baselines.

After Tables 1 and 2 of the paper, all rows from one budget, one set of scenes and one protocol. Each system has its control
with shuffled audio and its untrained network; below all are the baselines without a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from raymix.config import TrainConfig
from raymix.data.layouts import LABEL_FREE, metric_prefix
from raymix.evaluation.baselines import Control, predict_control, untrained_method
from raymix.evaluation.score_reports import scene_set
from raymix.evaluation.study_evaluation import chance_level, counted_metrics, scorable_layouts
from raymix.evaluation.validation import CandidateCheckpoint, EvaluationScenes
from raymix.methods import METHODS
from raymix.metrics.baseline_heatmaps import baseline_heatmaps
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.protocols import get_protocol
from raymix.metrics.scene_scores import MapInput
from raymix.metrics.scoring import score_maps, summarize_scores
from raymix.reporting.report import BASELINE_KIND, CONTROL_KIND, SYSTEM_KIND, EvaluationReport, SystemReport
from raymix.tracking.study import END_STATES, StudyState

MetricRows = dict[str, dict[str, Any]]  # kind of row (TRAINED and so on) -> layout -> the record of its summary

TRAINED, SHUFFLED, UNTRAINED, UNTRAINED_SHUFFLED = "trained", "shuffled", "untrained", "untrained_shuffled"

TABLE_COLUMNS = (  # layout, metric, whether on shuffled audio, heading
    ("grid2x2", "sounding_accuracy", False, "grid2x2: sounding accuracy"),
    ("grid2x2", "sounding_accuracy", True, "grid2x2, shuffled audio"),
    ("solo2x2", "sounding_accuracy", False, "solo2x2: sounding accuracy"),
    ("solo2x2", "sounding_accuracy", True, "solo2x2, shuffled audio"),
    ("hconcat", "ciou@0.3", False, "hconcat: CIoU@0.3"),
    ("single", "ap", False, "single: AP"),
    ("single", "iou@0.5", False, "single: IoU@0.5"),
)


@dataclass(frozen=True)
class ComparisonEntry:
    """One study of the comparison; without a usable trial `candidate` is None and `rows` are empty."""

    system: str
    seed: int
    uri: str
    study: StudyState
    candidate: CandidateCheckpoint | None
    rows: MetricRows


def measure_checkpoint(candidate: CandidateCheckpoint, evaluation_scenes: EvaluationScenes, device: str) -> MetricRows:
    """Scores a checkpoint and its untrained network on every layout; LABEL_FREE ones with shuffled audio as well."""
    found: MetricRows = {}
    untrained = replace(candidate, method=untrained_method(candidate.run))
    for kind, shuffled, each in ((TRAINED, SHUFFLED, candidate), (UNTRAINED, UNTRAINED_SHUFFLED, untrained)):
        found[kind] = {
            layout: _scored(each, Control.NONE, evaluation_scenes, layout, device)
            for layout in scorable_layouts(evaluation_scenes)
        }
        found[shuffled] = {
            layout: _scored(each, Control.SHUFFLED_AUDIO, evaluation_scenes, layout, device) for layout in LABEL_FREE
        }
    return found


def _scored(
    candidate: CandidateCheckpoint, control: Control, evaluation_scenes: EvaluationScenes, layout: str, device: str
) -> dict[str, Any]:
    shuffled_N = torch.from_numpy(evaluation_scenes.shuffled[layout]) if layout in LABEL_FREE else None
    maps = predict_control(candidate, control, evaluation_scenes.scenes[layout], device, shuffled_N)
    truth = counted_metrics(layout, evaluation_scenes.truth[layout])
    return _record(maps.top_k_maps(truth.panels_NS.shape[1]).numpy(), truth, candidate.run)


def _record(maps: MapInput, truth: SceneGroundTruth, run: TrainConfig) -> dict[str, Any]:
    table = score_maps(maps, truth, get_protocol(run.evaluation.protocol))
    return summarize_scores(table, run.evaluation.seed).record()


def null_baselines(evaluation_scenes: EvaluationScenes, run: TrainConfig) -> MetricRows:
    """Scores the baselines without a model on the same scenes, by name."""
    found: MetricRows = {}
    for layout in scorable_layouts(evaluation_scenes):
        truth = counted_metrics(layout, evaluation_scenes.truth[layout])
        for name, maps in baseline_heatmaps(truth).items():
            found.setdefault(name, {})[layout] = _record(maps, truth, run)
    return found


def checkpoint_scores(rows: MetricRows, split: str) -> dict[str, float]:
    """Returns the means of the checkpoint by the names that `raymix.evaluate` gives them."""
    found = {"sounding_accuracy_shuffled": rows[SHUFFLED]["grid2x2"]["metrics"]["sounding_accuracy"]["value"]}
    for layout, record in rows[TRAINED].items():
        found |= {metric_prefix(layout) + name: each["value"] for name, each in record["metrics"].items()}
    return {f"{split}/{name}": value for name, value in sorted(found.items())}


def compute_budget(study: StudyState) -> dict[str, Any]:
    """Returns what a study cost: trials by how they ended, epochs, and worker hours of the epochs that were scored."""
    epochs = [epoch for row in study.trials.values() for epoch in row.epochs.values()]
    states = [row.state for row in study.trials.values()]
    seconds = sum((epoch.seconds or 0.0) * int(epoch.training.get("workers") or 1) for epoch in epochs)
    ended = {state: states.count(state) for state in END_STATES}
    return {**ended, "owed": len(study.pending_trials), "epochs": len(epochs), "worker_hours": seconds / 3600}


def comparison_report(
    name: str,
    entries: Sequence[ComparisonEntry],
    null: MetricRows,
    evaluation_scenes: EvaluationScenes,
    run: TrainConfig,
    settings: Mapping[str, Any],
) -> EvaluationReport:
    """Returns the report of a comparison.

    Args:
        entries: one for each study.
        null: of `null_baselines`.
        run: of any of the studies, for what all share.
        settings: what all studies share: data set, search space, budget, and what each was searched by.
    """
    best = next(each.candidate for each in entries if each.candidate)
    index = {layout: number for number, layout in enumerate(evaluation_scenes.truth)}
    described = next(iter(evaluation_scenes.truth.values())).preprocessing
    scenes = {"prepared": run.dataset.prepared, "seed": run.evaluation.seed, "image_size": run.encoder.image_size}
    return EvaluationReport(
        kind="comparison",
        title=f"{name}: systems tuned with one budget",
        split=evaluation_scenes.split,
        protocols=[run.evaluation.protocol],
        dataset=run.dataset.name,
        preprocessing=described,
        source={"comparison": name},
        settings=dict(settings),
        scene_sets=[scene_set(truth, scenes) for truth in evaluation_scenes.truth.values()],
        systems=[each for entry in entries for each in _system_reports(entry, index)]
        + [SystemReport(name, BASELINE_KIND, _score_records(layouts, index)) for name, layouts in null.items()],
        checkpoints=[_study(each) for each in entries],
        details={
            "chance": chance_level(best, evaluation_scenes.truth["grid2x2"]),
            "columns": [
                {"layout": layout, "metric": metric, "shuffled_audio": shuffled_audio, "heading": head}
                for layout, metric, shuffled_audio, head in TABLE_COLUMNS
            ],
            "systems": _systems(entries),
            "baselines": [
                {"system": name, "scores": _cells([{name: record}], name, "")} for name, record in null.items()
            ],
        },
        notes=_notes(entries),
    )


def _system_reports(entry: ComparisonEntry, index: Mapping[str, int]) -> list[SystemReport]:
    """The best checkpoint of a study and its controls."""
    name, untrained = f"{entry.system}, seed {entry.seed}", Control.UNTRAINED_NETWORK
    names = {
        TRAINED: (name, SYSTEM_KIND),
        SHUFFLED: (f"{name}, {Control.SHUFFLED_AUDIO}", CONTROL_KIND),
        UNTRAINED: (f"{name}, {untrained}", CONTROL_KIND),
        UNTRAINED_SHUFFLED: (f"{name}, {untrained}, {Control.SHUFFLED_AUDIO}", CONTROL_KIND),
    }
    uri = entry.candidate.uri if entry.candidate else None
    return [
        SystemReport(*names[kind], _score_records(layouts, index), uri)
        for kind, layouts in entry.rows.items()
        if kind in names
    ]


def _score_records(by_layout: Mapping[str, Mapping[str, Any]], index: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"scene_set": index[layout], **record} for layout, record in by_layout.items()]


def _study(entry: ComparisonEntry) -> dict[str, Any]:
    """A study of the comparison, and its best checkpoint if it has one."""
    best, study = entry.candidate, entry.study
    found = {"system": entry.system, "seed": entry.seed, "study": study.name, "study_uri": entry.uri}
    known = {"name": study.name, "uri": best.uri if best else None, "parameters": best.params if best else None}
    known |= {key: getattr(best, key, None) for key in ("trial", "epoch", "recorded")}
    return {**found, **known, "spent": compute_budget(study), "exhaustion": study.exhaustion}


def _notes(entries: Sequence[ComparisonEntry]) -> list[str]:
    """What must be known of single studies, a line each."""
    notes = []
    for each in entries:
        who, pending = f"{each.system}, seed {each.seed}", len(each.study.pending_trials)
        if not each.rows:
            notes.append(f"{who}: no trial gave a usable checkpoint (python -m raymix.leaderboard {each.study.name})")
        elif pending:
            notes.append(f"{who}: {pending} trials are still pending")
        if each.study.exhaustion:
            notes.append(f"{who}: {each.study.exhaustion}")
    return notes


def _systems(entries: Sequence[ComparisonEntry]) -> list[dict[str, Any]]:
    """Returns a row for each system over its seeds, best first: by `grid2x2` scenes, then by `solo2x2` ones."""
    lines = []
    for system in dict.fromkeys(each.system for each in entries):
        own = [each for each in entries if each.system == system]
        scored = [each.rows for each in own if each.rows]
        costs = [compute_budget(each.study) for each in own]
        lines.append(
            {
                "system": system,
                "labels": METHODS[system].requirements.labels,
                "seeds": [each.seed for each in own],
                "scored_seeds": [each.seed for each in own if each.rows],
                "scores": _cells(scored, TRAINED, SHUFFLED),
                "untrained": _cells(scored, UNTRAINED, UNTRAINED_SHUFFLED),
                "spent": {key: sum(each[key] for each in costs) for key in costs[0]},
            }
        )
    return sorted(lines, key=lambda line: [-_score(line, layout) for layout in LABEL_FREE])


def _score(line: Mapping[str, Any], layout: str) -> float:
    """Sounding accuracy of a line on a layout, -inf where it has none."""
    heads = [
        head
        for at, metric, shuffled_audio, head in TABLE_COLUMNS
        if at == layout and metric == "sounding_accuracy" and not shuffled_audio
    ]
    return float((line["scores"].get(heads[0]) or {"value": -math.inf})["value"])


def _cells(rows: Sequence[MetricRows], kind: str, shuffled: str) -> dict[str, Any]:
    """{heading: value, low, high} of one line: of one seed with its bootstrap, of several their mean and extremes."""
    found: dict[str, Any] = {}
    for layout, metric, shuffled_audio, head in TABLE_COLUMNS:
        records = [each.get(shuffled if shuffled_audio else kind, {}).get(layout, {"metrics": {}}) for each in rows]
        each_seed = [record["metrics"][metric] for record in records if metric in record["metrics"]]
        values = [one["value"] for one in each_seed]
        if len(values) == 1:
            found[head] = {key: each_seed[0][key] for key in ("value", "low", "high")}
        elif values:
            found[head] = {"value": float(np.mean(values)), "low": min(values), "high": max(values)}
    return found


TABLE_FILE, NUMBERS_FILE = "comparison.md", "comparison.json"
