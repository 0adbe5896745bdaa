"""Several tuned systems in one table: their best checkpoints on the scenes of the test split, what each cost, and nulls.

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

from raymix import comparison, results
from raymix.baseline_heatmaps import baseline_heatmaps
from raymix.baselines import Control, predict_control, untrained_method
from raymix.config import Run
from raymix.contenders import CandidateCheckpoint
from raymix.evaluator import Bench
from raymix.layout import LABEL_FREE
from raymix.methods import METHODS
from raymix.protocol import protocol as named
from raymix.scoring import Maps, score, summarise
from raymix.study import ENDS, Study
from raymix.truth import Truth
from raymix.verdict import chance, layouts, prefix, what_counts

Rows = dict[str, dict[str, Any]]  # kind of row (TRAINED and so on) -> layout -> the record of its summary
TRAINED, SHUFFLED, UNTRAINED, UNTRAINED_SHUFFLED = "trained", "shuffled", "untrained", "untrained_shuffled"
COLUMNS = (  # layout, metric, whether on shuffled audio, heading
    ("grid2x2", "sounding_accuracy", False, "grid2x2: sounding accuracy"),
    ("grid2x2", "sounding_accuracy", True, "grid2x2, shuffled audio"),
    ("solo2x2", "sounding_accuracy", False, "solo2x2: sounding accuracy"),
    ("solo2x2", "sounding_accuracy", True, "solo2x2, shuffled audio"),
    ("hconcat", "ciou@0.3", False, "hconcat: CIoU@0.3"),
    ("single", "ap", False, "single: AP"),
    ("single", "iou@0.5", False, "single: IoU@0.5"),
)
COSTS = ("trials", "epochs", "worker-hours")


@dataclass(frozen=True)
class Entry:
    """One study of the comparison; without a usable trial `contender` is None and `rows` are empty."""

    system: str
    seed: int
    uri: str
    study: Study
    contender: CandidateCheckpoint | None
    rows: Rows


def measure(contender: CandidateCheckpoint, bench: Bench, device: str) -> Rows:
    """A checkpoint and its untrained network on every layout with ground truth; on LABEL_FREE ones also with shuffled audio."""
    found: Rows = {}
    untrained = replace(contender, method=untrained_method(contender.run))
    for kind, shuffled, candidate in ((TRAINED, SHUFFLED, contender), (UNTRAINED, UNTRAINED_SHUFFLED, untrained)):
        found[kind] = {layout: _scored(candidate, Control.NONE, bench, layout, device) for layout in layouts(bench)}
        found[shuffled] = {
            layout: _scored(candidate, Control.SHUFFLED_AUDIO, bench, layout, device) for layout in LABEL_FREE
        }
    return found


def _scored(candidate: CandidateCheckpoint, control: Control, bench: Bench, layout: str, device: str) -> dict[str, Any]:
    shuffled_N = torch.from_numpy(bench.shuffled[layout]) if layout in LABEL_FREE else None
    maps = predict_control(candidate, control, bench.scenes[layout], device, shuffled_N)
    truth = what_counts(layout, bench.truth[layout])
    return _record(maps.heard(truth.panels_NS.shape[1]).numpy(), truth, candidate.run)


def _record(maps: Maps, truth: Truth, run: Run) -> dict[str, Any]:
    table = score(maps, truth, named(run.evaluation.protocol))
    return summarise(table, run.evaluation.seed).record()


def nulls(bench: Bench, run: Run) -> Rows:
    """The systems without a model, by name, on the same scenes."""
    found: Rows = {}
    for layout in layouts(bench):
        truth = what_counts(layout, bench.truth[layout])
        for name, maps in baseline_heatmaps(truth).items():
            found.setdefault(name, {})[layout] = _record(maps, truth, run)
    return found


def scores(rows: Rows, split: str) -> dict[str, float]:
    """The checkpoint's own numbers under the names that `raymix.evaluate` gives them."""
    found = {"sounding_accuracy_shuffled": rows[SHUFFLED]["grid2x2"]["metrics"]["sounding_accuracy"]["value"]}
    for layout, record in rows[TRAINED].items():
        found |= {prefix(layout) + name: each["value"] for name, each in record["metrics"].items()}
    return {f"{split}/{name}": value for name, value in sorted(found.items())}


def spent(study: Study) -> dict[str, Any]:
    """What a study cost: trials by how they ended, epochs, and hours of workers at work on epochs that were scored."""
    epochs = [epoch for row in study.trials.values() for epoch in row.epochs.values()]
    states = [row.state for row in study.trials.values()]
    seconds = sum((epoch.seconds or 0.0) * int(epoch.training.get("workers") or 1) for epoch in epochs)
    ended = {state: states.count(state) for state in ENDS}
    return {**ended, "owed": len(study.owed), "epochs": len(epochs), "worker_hours": seconds / 3600}


def document(
    name: str, entries: Sequence[Entry], null: Rows, bench: Bench, run: Run, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of comparison.json; `run` is any of the studies' own, for what all share."""
    best = next(each.contender for each in entries if each.contender)
    return {
        **results.stamp(),
        "comparison": name,
        "split": bench.split,
        "protocol": run.evaluation.protocol,
        "prepared": run.dataset.prepared,
        "layouts": {layout: truth.facts() for layout, truth in bench.truth.items()},
        "chance": chance(best, bench.truth["grid2x2"]),
        "settings": dict(settings),
        "systems": _systems(entries),
        "studies": [_study(each) for each in entries],
        "nulls": null,
    }


def _study(entry: Entry) -> dict[str, Any]:
    best = entry.contender
    known = {"system": entry.system, "seed": entry.seed, "study": entry.study.name, "study_uri": entry.uri}
    of = {key: getattr(best, key, None) for key in ("trial", "epoch", "params", "recorded")}
    found = {"rows": entry.rows, "spent": spent(entry.study), "exhaustion": entry.study.exhaustion}
    return {**known, "checkpoint": best.uri if best else None, **of, **found}


def _systems(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One line for each system over its seeds, best first: by `grid2x2` scenes, then (of one map) by `solo2x2` ones."""
    lines = []
    for system in dict.fromkeys(each.system for each in entries):
        own = [each for each in entries if each.system == system]
        scored = [each.rows for each in own if each.rows]
        costs = [spent(each.study) for each in own]
        lines.append(
            {
                "system": system,
                "labels": METHODS[system].needs.labels,
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
    heads = [head for at, metric, deaf, head in COLUMNS if at == layout and metric == "sounding_accuracy" and not deaf]
    return float((line["scores"].get(heads[0]) or {"value": -math.inf})["value"])


def _cells(rows: Sequence[Rows], kind: str, shuffled: str) -> dict[str, Any]:
    """{heading: value, low, high} of one line: of one seed with its bootstrap, of several their mean and extremes."""
    found: dict[str, Any] = {}
    for layout, metric, deaf, head in COLUMNS:
        records = [each.get(shuffled if deaf else kind, {}).get(layout, {"metrics": {}}) for each in rows]
        each_seed = [record["metrics"][metric] for record in records if metric in record["metrics"]]
        values = [one["value"] for one in each_seed]
        if len(values) == 1:
            found[head] = {key: each_seed[0][key] for key in ("value", "low", "high")}
        elif values:
            found[head] = {"value": float(np.mean(values)), "low": min(values), "high": max(values)}
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The content of comparison.md: one table, also readable as it stands."""
    heads = [head for *_, head in COLUMNS]
    cells = [["system", "labels", *heads, *COSTS]]
    for line in found["systems"]:
        cost = line["spent"]
        ended = "/".join(str(cost[state]) for state in ENDS)
        costs = [ended, str(cost["epochs"]), f"{cost['worker_hours']:.2f}"]
        cells.append([line["system"], "yes" if line["labels"] else "no", *_texts(line["scores"], heads), *costs])
    blank = [""] * len(COSTS)
    for line in found["systems"]:
        if line["untrained"]:
            cells.append([f"null: {line['system']}, untrained", "", *_texts(line["untrained"], heads), *blank])
    for name, record in found["nulls"].items():
        cells.append([f"null: {name}", "", *_texts(_cells([{name: record}], name, ""), heads), *blank])
    title = f"# {found['comparison']}: systems tuned with one budget"
    return "\n".join([title, "", *_facts(found), "", *comparison.grid(cells), ""])


def _texts(cells: Mapping[str, Any], heads: Sequence[str]) -> list[str]:
    return [_text(cells[head]) if head in cells else "-" for head in heads]


def _text(cell: Mapping[str, Any]) -> str:
    span = "" if cell["low"] is None else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    return f"{cell['value']:.3f}{span}"


def _by_system(values: Mapping[str, str]) -> str:
    """What holds for most systems, and for which it is something else."""
    usual = max(values.values(), key=list(values.values()).count)
    others = [f"{system}: {value}" for system, value in values.items() if value != usual]
    return f"{usual} ({', '.join(others)})" if others else usual


def _facts(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the numbers, a line each."""
    grid, settings = found["layouts"]["grid2x2"], found["settings"]
    seeds = sorted({line["seed"] for line in found["studies"]})
    bootstrap = "95 % by bootstrap over videos"
    if len(seeds) == 1:
        how = f"seed {seeds[0]}; intervals are {bootstrap}"
    else:
        named_seeds = ", ".join(map(str, seeds))
        how = f"means of seeds {named_seeds}, in brackets the lowest and the highest seed"
        how += f" (nulls, and rows of one seed: {bootstrap})"
    budget = ", ".join(f"{key} {value}" for key, value in settings["budget"].items())
    budget += f", scheduler {_by_system(settings['scheduler'])}"
    lines = [
        f"- {found['split']} split, protocol {found['protocol']}, {grid['scenes']} grid2x2 scenes {grid['scenes_hash']}"
        f"{comparison.of_clips(grid['preprocessing'])}; "
        f"blind maps reach a sounding accuracy of {found['chance']:.3f}",
        f"- best checkpoint of each study by {_by_system(settings['metric'])}; {how}",
        f"- budget of each study: {budget}; trials are completed/pruned/failed, summed over seeds like all costs",
        f"- searched by all alike: {', '.join(settings['space']) or 'nothing'}; labels: whether training reads class names",
    ]
    for line in found["studies"]:
        who = f"{line['system']}, seed {line['seed']}"
        if not line["rows"]:
            lines.append(f"- {who}: no trial gave a usable checkpoint (python -m raymix.leaderboard {line['study']})")
        elif line["spent"]["owed"]:
            lines.append(f"- {who}: {line['spent']['owed']} trials are still owed")
        if line.get("exhaustion"):  # which no earlier version wrote
            lines.append(f"- {who}: {line['exhaustion']}")
    return lines
