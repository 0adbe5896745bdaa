"""An evaluation in three forms: `scores.json` with every number, `table.md` with intervals, and lines for a terminal.

Every number comes with its protocol, its scenes, and the baselines and controls on the same scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymix import comparison, results
from raymix.baselines import shuffled_row_name
from raymix.contenders import CandidateCheckpoint
from raymix.scoring import SystemScores
from raymix.significance import Finding
from raymix.study import Study
from raymix.verdict import HEADLINES, Verdict, chance, headline_metric

TOLERANCE = 1e-6  # of a validation score computed again
_SHORT = (  # what a terminal has room for: layout, metric, heading
    ("grid2x2", "sounding_accuracy", "sound."),  # sounding accuracy
    ("solo2x2", "sounding_accuracy", "sound."),
    ("hconcat", "ciou@0.3", "CIoU@.3"),
    ("hconcat", "auc", "AUC"),
    ("hconcat", "cap", "CAP"),
    ("hconcat", "piap", "PIAP"),
    ("single", "iou@0.5", "IoU@.5"),
    ("single", "ap", "AP"),
    ("single", "auc", "AUC"),
)


def document(
    split: str,
    study: Study,
    study_uri: str,
    verdicts: Sequence[Verdict],
    datasets: Mapping[str, Mapping[str, Any]],
    recomputed: Mapping[str, Mapping[str, float]],
    finding: Finding | None,
) -> dict[str, Any]:
    """The content of scores.json; `datasets` by their folder, `recomputed` search scores by checkpoint.

    `finding` says whether any checkpoint is above chance.
    """
    checkpoints = [
        _checkpoint(each, number, reached, recomputed.get(each.uri))
        for number, reached in enumerate(verdicts)
        for each in reached.contenders
    ]
    return {
        **results.stamp(),
        "split": split,
        "study": study.name or None,
        "study_uri": study_uri or None,
        "objective": study.objective or None,
        "protocol": verdicts[0].contenders[0].run.evaluation.protocol,
        "above_chance": finding.record() if finding else None,
        "checkpoints": sorted(checkpoints, key=lambda each: each["rank"]),
        "benches": [_bench(reached, datasets) for reached in verdicts],
        "systems": [line for number, reached in enumerate(verdicts) for line in _systems(reached, number)],
    }


def _checkpoint(
    contender: CandidateCheckpoint, bench: int, reached: Verdict, again: Mapping[str, float] | None
) -> dict[str, Any]:
    found = {
        "name": contender.name,
        "rank": contender.rank,
        "trial": contender.trial,
        "epoch": contender.epoch,
        "uri": contender.uri,
        "parameters": contender.params,
        "bench": bench,
        "scores": reached.flat(contender),
        "chance": chance(contender, reached.bench.truth["grid2x2"]),
        "recorded": contender.recorded,
    }
    if again is not None:
        gap = _gap(contender.recorded, again)
        found |= {"recomputed": dict(again), "reproduced": None if gap is None else gap <= TOLERANCE}
    return found


def _gap(recorded: Mapping[str, float | None], again: Mapping[str, float]) -> float | None:
    """The largest difference of numbers that both have; None without any."""
    gaps = [abs(value - again[name]) for name, value in recorded.items() if value is not None and name in again]
    return max(gaps, default=None)


def _bench(reached: Verdict, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the scenes were made of: enough to make them again."""
    run, bench = reached.contenders[0].run, reached.bench
    described = datasets[run.dataset.prepared]
    part = described["splits"][bench.split]
    layouts = {layout: truth.facts() for layout, truth in bench.truth.items()}
    return {
        "dataset": described.get("dataset"),
        "prepared": run.dataset.prepared,
        "preprocessing": described.get("preprocessing"),
        "clips": part["clips"],
        "videos": part["videos"],
        "image_size": run.encoder.image_size,
        "seconds": run.mixture.seconds,
        "rule": run.mixture.rule,
        "level": run.mixture.level,
        "seed": run.evaluation.seed,
        "layouts": layouts,
        "notes": reached.notes,
    }


def _systems(reached: Verdict, bench: int) -> list[dict[str, Any]]:
    """Every row with its intervals, checkpoints first."""
    uris = {each.name: each.uri for each in reached.contenders}
    found: dict[str, dict[str, Any]] = {}
    for layout, rows in reached.rows.items():
        for row in rows:
            line = {"system": row.system, "null": row.null, "checkpoint": uris.get(row.system), "bench": bench}
            found.setdefault(row.system, {**line, "layouts": {}})["layouts"][layout] = row.summary.record()
    return sorted(found.values(), key=lambda line: line["null"])


def markdown(verdicts: Sequence[Verdict], scores: Mapping[str, Any]) -> str:
    """The content of table.md."""
    of = f"study {scores['study']}" if scores["study"] else scores["checkpoints"][0]["uri"]
    lines = [f"# {of}, {scores['split']} split", ""]
    if scores["above_chance"] and (sentence := scores["above_chance"]["sentence"]):
        lines += [f"**{sentence}**", ""]
    for each in scores["checkpoints"]:
        params = ", ".join(f"{name}={value}" for name, value in each["parameters"].items())
        lines.append(f"- {each['name']} (rank {each['rank']}): {params or each['uri']}")
    for reached in verdicts:
        for layout, rows in reached.rows.items():
            lines += ["", f"## {layout}", "", comparison.table(rows)]
        lines += ["", *(f"- {note}" for note in reached.notes)]
    for each in scores["checkpoints"]:
        if table := reproduction(each, scores["split"]):
            lines += ["", "```", *table, "```"]
    return "\n".join(lines).rstrip() + "\n"


def headlines(reached: Verdict) -> list[str]:
    """A table of means that fits a terminal, then the first number of each layout with its interval and best baseline."""
    there = [(layout, metric, head) for layout, metric, head in _SHORT if _has(reached, layout, metric)]
    order = [row.system for row in reached.rows["grid2x2"]]
    order += [row.system for rows in reached.rows.values() for row in rows if row.system not in order]
    nulls = {row.system for rows in reached.rows.values() for row in rows if row.null}
    names = {each: f"null: {each}" if each in nulls else each for each in dict.fromkeys(order)}
    wide = max(map(len, names.values()))
    heads = "system".ljust(wide) + "".join("  " + head.rjust(max(len(head), 5)) for _, _, head in there)
    lines = [_spaced(there, wide), heads]
    for system in sorted(names, key=lambda each: each in nulls):
        line = names[system].ljust(wide)
        for layout, metric, head in there:
            value = _value(reached, layout, metric, system)
            line += "  " + ("-" if value is None else f"{value:.3f}").rjust(max(len(head), 5))
        lines.append(line)
    quoted = [line for each in reached.contenders for line in _quoted(reached, each)]
    lines += ["", *quoted, *comparison.warnings("\n".join(quoted))]
    return lines + [f"note: {note}" for note in reached.notes]


def _spaced(there: Sequence[tuple[str, str, str]], wide: int) -> str:
    """The heading above the headings: each layout's name over its first column."""
    line, at, seen = "", wide, ""
    for layout, _, head in there:
        if layout != seen:
            line = line.ljust(at + 2) + layout
        at, seen = at + 2 + max(len(head), 5), layout
    return line


def _row(reached: Verdict, layout: str, system: str) -> SystemScores | None:
    return next((row for row in reached.rows.get(layout, []) if row.system == system), None)


def _has(reached: Verdict, layout: str, metric: str) -> bool:
    return any(metric in row.summary for row in reached.rows.get(layout, []))


def _value(reached: Verdict, layout: str, metric: str, system: str) -> float | None:
    row = _row(reached, layout, system)
    return row.summary[metric].value if row and metric in row.summary else None


def _quoted(reached: Verdict, contender: CandidateCheckpoint) -> list[str]:
    """A line for each layout: its first number, marked where a baseline or control reaches it, and these two."""
    cells = []
    for layout, rows in reached.rows.items():
        metric, row = headline_metric(layout, rows), _row(reached, layout, contender.name)
        if metric is None or row is None or metric not in row.summary:
            continue
        controls = {shuffled_row_name(each) for each in reached.contenders}
        control = _value(reached, layout, metric, shuffled_row_name(contender))
        made = {each.system: each.summary[metric].value for each in rows if each.null and metric in each.summary}
        best = max(made.keys() - controls, key=lambda name: (made[name], name), default=None)
        number = comparison.cell(row, metric, rows)
        heard = "-" if control is None else f"{control:.3f}"
        baseline = "-" if best is None else f"{made[best]:.3f} ({best})"
        cells.append((layout, f"{HEADLINES[layout][1]}{'*' * metric.endswith('*')}", number, heard, baseline))
    wide = [max((len(line[place]) for line in cells), default=0) for place in range(3)]
    lines = [f"  {'  '.join(each.ljust(w) for each, w in zip(line, wide, strict=False))}" for line in cells]
    of = f"{contender.name}{f', epoch {contender.epoch}' if contender.epoch is not None else ''}:"
    lines = [of, *lines]
    left = max(map(len, lines))
    beside = [("shuffled audio", "best baseline"), *(line[3:] for line in cells)]
    return [f"{line.ljust(left)}  {heard:14}  {best}" for line, (heard, best) in zip(lines, beside, strict=True)]


def reproduction(checkpoint: Mapping[str, Any], split: str) -> list[str]:
    """Recorded numbers of the search beside the same computed again; nothing where there are none to compare."""
    again, recorded = checkpoint.get("recomputed"), checkpoint["recorded"]
    if split != "val" or again is None:
        return []
    where = checkpoint["name"] + ("" if checkpoint["epoch"] is None else f", epoch {checkpoint['epoch']}")
    if checkpoint["reproduced"] is None:
        return [f"{where}: no recorded score to compare with"]
    names = [name for name in again if recorded.get(name) is not None]
    wide = max(map(len, [where, *names])) + 2
    lines = [f"{where.ljust(wide + 2)}recorded  recomputed  difference"]
    lines += [
        f"  {name.ljust(wide)}{recorded[name]:8.6f}  {again[name]:10.6f}  {again[name] - recorded[name]:10.1e}"
        for name in names
    ]
    return [*lines, f"  {'the same' if checkpoint['reproduced'] else 'NOT the same'} to {TOLERANCE:g}"]
