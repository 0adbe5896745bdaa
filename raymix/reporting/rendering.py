"""The renderer: an EvaluationReport as Markdown, as CSV, and as text for a terminal.

`render_markdown` and `render_csv` take any report; the `_..._page` function of its kind defines content and order;
`raymix.reporting.report_tables` writes tables, numbers, intervals and marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from raymix.metrics.protocols import PROTOCOLS, EvaluationProtocol, describe_protocol, headline_metric
from raymix.reporting import paper_tables
from raymix.reporting.report import (
    HEADLINE_METRICS,
    SYSTEM_KIND,
    EvaluationReport,
    SystemReport,
    describe_preprocessing,
)
from raymix.reporting.report_tables import (
    ReportTable,
    comma_separated,
    grid,
    legend_of,
    metric_heading,
    metric_order,
    number_text,
)

TOLERANCE = 1e-6  # of a validation score computed again

SHOWN_BASELINE = "centre box 0.7"  # has a column of its own: it covers half of the pixels, as a cut at the median does

NUMBER_FIELDS = (  # of a CSV file of numbers
    "layout",
    "protocol",
    "system",
    "null",
    "metric",
    "value",
    "low",
    "high",
    "scenes",
    "videos",
    "scenes_hash",
    "preprocessing",
    "listed",
    "over_listed",
)

_OVERVIEW = (  # what a terminal has space for: layout, metric, heading
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


Record = Mapping[str, Any]  # of SystemReport.scores

Named = tuple[SystemReport, Record]


def render_markdown(report: EvaluationReport) -> str:
    """Returns the report as Markdown that is also readable on a terminal."""
    lines = [f"# {report.title}", *(line for each in report.warnings for line in ("", f"**{each}**"))]
    return "\n".join([*lines, *_PAGES[report.kind](report)]).rstrip() + "\n"


def render_terminal(report: EvaluationReport) -> list[str]:
    """Returns the lines for a terminal: of a study an overview that fits 100 columns, of others the Markdown."""
    if report.kind != "study":
        return [render_markdown(report)]
    overview = [line for group in _scene_groups(report) for line in ("", *_overview(report, group))]
    again = [line for each in report.checkpoints for line in reproduction(each, report.split)]
    return [*overview, *again, *(line for each in report.warnings for line in ("", each)), ""]


def render_csv(report: EvaluationReport) -> str:
    """Returns every number of the report with all that it is of, a line each."""
    return comma_separated(NUMBER_FIELDS, _numbers(report))


def _numbers(report: EvaluationReport) -> Iterator[dict[str, Any]]:
    for index, protocol in _groups(report):
        scenes = report.scene_sets[index]
        for system, record in _scored(report, index, protocol):
            for metric, number in record["metrics"].items():
                yield {
                    "layout": record["layout"],
                    "protocol": protocol,
                    "system": system.system,
                    "null": system.role != SYSTEM_KIND,
                    "metric": metric,
                    **{name: number[name] for name in ("value", "low", "high", "scenes")},
                    **{name: record[name] for name in ("videos", "scenes_hash", "preprocessing")},
                    "listed": scenes.get("listed"),
                    "over_listed": number.get("over_listed"),
                }


# ---- what is in a report


def _groups(report: EvaluationReport) -> list[tuple[int, str]]:
    """Index of the set of scenes and protocol, each pair once, in the order of the sets."""
    found = dict.fromkeys((each["scene_set"], each["protocol"]) for system in report.systems for each in system.scores)
    return sorted(found, key=lambda pair: pair[0])


def _scored(report: EvaluationReport, index: int, protocol: str = "") -> list[Named]:
    """Systems with their record on one set of scenes, under one protocol ('': the only one)."""
    return [
        (system, each)
        for system in report.systems
        for each in system.scores
        if each["scene_set"] == index and protocol in ("", each["protocol"])
    ]


def _scene_groups(report: EvaluationReport) -> list[list[int]]:
    """Indices of the sets of scenes by `group`: those that the same checkpoints were scored on."""
    found: dict[int, list[int]] = {}
    for index, each in enumerate(report.scene_sets):
        found.setdefault(each.get("scenes_group", 0), []).append(index)
    return list(found.values())


def _label(system: SystemReport) -> str:
    return system.system if system.role == SYSTEM_KIND else f"null: {system.system}"


def _by_role(systems: Sequence[Named]) -> list[Named]:
    return sorted(systems, key=lambda pair: pair[0].role != SYSTEM_KIND)


# ---- one set of scenes under one protocol: systems by metrics


def scores_table(systems: Sequence[Named], coverage: str = "") -> ReportTable:
    """Returns the table of systems by metrics with intervals and marks.

    Args:
        systems: with their records, of one set of scenes and one protocol.
        coverage: how many scenes of a list these are.

    Raises ValueError where they were not scored on the same number of scenes.
    """
    (leader, first), counts = systems[0], dict[str, int]()
    for system, record in systems:
        own = {name: each["scenes"] for name, each in record["metrics"].items()}
        fixed = {name: n for name, n in own.items() if not _depends_on_predictions(record["protocol"], name)}
        if record["scenes"] != first["scenes"] or any(counts.get(name, n) != n for name, n in fixed.items()):
            theirs, ours = own, {name: each["scenes"] for name, each in first["metrics"].items()}
            raise ValueError(
                f"table: {leader.system} was scored on {first['scenes']} scenes {ours}, {system.system} on "
                f"{record['scenes']} {theirs}; one table needs the same scenes"
            )
        counts |= {name: max(n, counts.get(name, 0)) for name, n in own.items()}
    metrics = sorted(counts, key=metric_order)  # starred by the best pairing, else by class names: not all have both
    heads = [name if counts[name] == first["scenes"] else f"{name} (n={counts[name]})" for name in metrics]
    rows = []
    for system, record in _by_role(systems):
        numbers = [record["metrics"].get(name) for name in metrics]
        fewer = [
            f" (n={n['scenes']})" if n and n["scenes"] < counts[m] else ""
            for n, m in zip(numbers, metrics, strict=True)
        ]
        rows.append([_label(system), *(number_text(n) + less for n, less in zip(numbers, fewer, strict=True))])
    facts = f"protocol {first['protocol']}, layout {first['layout']}, scenes {first['scenes_hash']}"
    facts += f"{describe_preprocessing(first['preprocessing'])}: {first['scenes']} scenes of {first['videos']} videos"
    facts += f"{coverage and f' ({coverage})'}, 95 % intervals by bootstrap over videos"
    facts += f" ({first['resamples']} resamples, seed {first['seed']})"
    marks = legend_of(cell for row in rows for cell in row)
    return ReportTable(["system", *heads], rows, [facts], ["", *marks] if marks else [])


def _depends_on_predictions(protocol: str, metric: str) -> bool:
    """Whether predictions decide which scenes a number is of: some published code leaves scenes without maps out."""
    known = PROTOCOLS.get(protocol)
    return metric.startswith("nsa") or (known is not None and known.missing == "drop")


def _over_listed(
    systems: Sequence[Named], scenes: Mapping[str, Any], metrics: Mapping[str, str], name: str
) -> list[str]:
    """A line with one number of each system over all scenes of a list, a missing one as zero; none without such numbers.

    `metrics` by system, `name` is what they are called.
    """
    numbers = [
        (system, record["metrics"][metrics[system.system]]) for system, record in systems if metrics.get(system.system)
    ]
    over = [f"{system.system} {each['over_listed']:.3f}" for system, each in numbers if "over_listed" in each]
    if not over:
        return []
    count = max(each["scenes"] for _, each in numbers) + scenes["without_clips"]
    known = "" if count == scenes["listed"] else f" less {scenes['listed'] - count} that do not count"
    return [f"{name} over all {scenes['listed']} listed scenes{known}, a missing one as zero: {', '.join(over)}"]


def over_listed_lines(systems: Sequence[Named], scenes: Mapping[str, Any]) -> list[str]:
    """Returns a line with the first mean of each system over all scenes of a list, a missing one as zero; [] without any.

    Args:
        systems: with their records on these scenes.
        scenes: an entry of `scene_sets`.
    """
    own = [(system, record) for system, record in systems if system.role == SYSTEM_KIND]
    means = [name for _, record in own for name, each in record["metrics"].items() if "over_listed" in each]
    first = min(means, key=metric_order, default="")
    return _over_listed(own, scenes, {system.system: first for system, _ in own}, first)


# ---- pages of the kinds of reports


def _study_page(report: EvaluationReport) -> list[str]:
    """The checkpoints of a study: a table for each layout, and recorded scores next to those computed again."""
    lines = [""]
    for each in report.checkpoints:
        params = ", ".join(f"{name}={value}" for name, value in each["parameters"].items())
        lines.append(f"- {each['name']} (rank {each['rank']}): {params or each['uri']}")
    for group in _scene_groups(report):
        for index in group:
            if systems := _scored(report, index):
                lines += ["", f"## {report.scene_sets[index]['layout']}", "", *scores_table(systems).markdown()]
        notes = dict.fromkeys(note for index in group for note in report.scene_sets[index]["notes"])
        lines += ["", *(f"- {note}" for note in notes)]
    for each in report.checkpoints:
        if again := reproduction(each, report.split):
            lines += ["", "```", *again, "```"]
    return lines


def _scenes_page(report: EvaluationReport) -> list[str]:
    """Systems on one set of scenes that was named."""
    ((index, protocol),) = _groups(report)
    systems, scenes = _scored(report, index, protocol), report.scene_sets[index]
    over = over_listed_lines(systems, scenes)
    table = scores_table(systems, scenes.get("coverage", ""))
    return ["", *table.markdown(), "", *(f"- {note}" for note in [*report.notes, *over])]


def _protocols_page(report: EvaluationReport) -> list[str]:
    """The same predictions under several protocols: a row for each, with the number that it is quoted by."""
    lines = []
    for index, scenes in enumerate(report.scene_sets):
        table = _protocols_table(report, index)
        coverage = scenes.get("coverage", "")
        about = f"## {scenes['layout']}: {scenes['scenes']} scenes of {scenes['videos']} videos{coverage and f' ({coverage})'}"
        about += f", scenes {scenes['scenes_hash']}{describe_preprocessing(scenes['preprocessing'])}"
        notes = [
            "95 % intervals by bootstrap over videos; * the best pairing of maps with sources was taken; † a null system "
            "lies inside the interval, ‡ above it",
            *scenes["notes"],
            *_first_over_listed(report, index),
        ]
        if left_out := scenes.get("left_out"):
            notes.append(f"not for such scenes: {', '.join(left_out)}")
        lines += ["", about, "", *grid([table.columns, *table.rows]), "", *(f"- {note}" for note in notes)]
    return lines


def _protocols_table(report: EvaluationReport, index: int) -> ReportTable:
    sources = report.scene_sets[index]["sounding"]
    protocols = [protocol for number, protocol in _groups(report) if number == index]
    own = [system.system for system, _ in _scored(report, index, protocols[0]) if system.role == SYSTEM_KIND]
    rows = []
    for name in protocols:
        how, metric, systems = PROTOCOLS[name], headline_metric(PROTOCOLS[name], sources), _scored(report, index, name)
        cells = []
        for _, record in (each for each in systems if each[0].role == SYSTEM_KIND):
            column = _quoted_column(record, metric, how)
            cells.append(number_text(record["metrics"].get(column), star="*" if column.endswith("*") else ""))
        baselines = {
            system.system: record["metrics"][column]["value"]
            for system, record in systems
            if system.role != SYSTEM_KIND and (column := _quoted_column(record, metric, how))
        }
        best = max(baselines, key=lambda each: baselines[each], default="")
        ends = [f"{baselines[SHOWN_BASELINE]:.3f}", f"{baselines[best]:.3f} ({best})"] if baselines else ["", ""]
        rows.append([name, metric_heading(metric), describe_protocol(how, sources), *cells, *ends])
    return ReportTable(["protocol", "number", "what counts", *own, f"null: {SHOWN_BASELINE}", "best null"], rows)


def _quoted_column(record: Record, metric: str, protocol: EvaluationProtocol) -> str:
    """The column of a row: the starred one where the protocol is quoted by it, or has no other; '' without either."""
    order = (f"{metric}*", metric) if protocol.match == "oracle" else (metric, f"{metric}*")
    return next((name for name in order if name in record["metrics"]), "")


def _first_over_listed(report: EvaluationReport, index: int) -> list[str]:
    """The line of the first protocol that is quoted by a mean, where scenes of a list are missing."""
    scenes = report.scene_sets[index]
    for name in (protocol for number, protocol in _groups(report) if number == index):
        how, metric = PROTOCOLS[name], headline_metric(PROTOCOLS[name], scenes["sounding"])
        own = [each for each in _scored(report, index, name) if each[0].role == SYSTEM_KIND]
        columns = {system.system: _quoted_column(record, metric, how) for system, record in own}
        if found := _over_listed(own, scenes, columns, f"{name}, {metric_heading(metric)}"):
            return found
    return []


def _comparison_page(report: EvaluationReport) -> list[str]:
    """Several tuned systems: one table of them, of their controls, and of the baselines."""
    columns, costs = report.details["columns"], ("trials", "epochs", "worker-hours")
    heads = [each["heading"] for each in columns]

    def texts(cells: Mapping[str, Any]) -> list[str]:
        return [number_text(cells.get(head), empty="-") for head in heads]

    rows = []
    for line in report.details["systems"]:
        cost = line["spent"]
        ended = "/".join(str(cost[state]) for state in ("completed", "pruned", "failed"))
        spent = [ended, str(cost["epochs"]), f"{cost['worker_hours']:.2f}"]
        rows.append([line["system"], "yes" if line["labels"] else "no", *texts(line["scores"]), *spent])
    blank = [""] * len(costs)
    for line in report.details["systems"]:
        if line["untrained"]:
            rows.append([f"null: {line['system']}, untrained", "", *texts(line["untrained"]), *blank])
    for line in report.details["baselines"]:
        rows.append([f"null: {line['system']}", "", *texts(line["scores"]), *blank])
    table = ReportTable(["system", "labels", *heads, *costs], rows)
    return ["", *(f"- {each}" for each in _comparison_facts(report)), *table.markdown(), ""]


def _comparison_facts(report: EvaluationReport) -> list[str]:
    """What a reader must know of the numbers, a line each."""
    scenes, settings = report.scene_sets[0], report.settings
    seeds = sorted({each["seed"] for each in report.checkpoints})
    bootstrap = "95 % by bootstrap over videos"
    if len(seeds) == 1:
        how = f"seed {seeds[0]}; intervals are {bootstrap}"
    else:
        how = f"means of seeds {', '.join(map(str, seeds))}, in brackets the lowest and the highest seed"
        how += f" (baselines, and rows of one seed: {bootstrap})"
    budget = ", ".join(f"{key} {value}" for key, value in settings["budget"].items())
    budget += f", scheduler {_usual(settings['scheduler'])}"
    of = f"{scenes['scenes']} {scenes['layout']} scenes {scenes['scenes_hash']}{describe_preprocessing(scenes['preprocessing'])}"
    lines = [
        f"{report.split} split, protocol {', '.join(report.protocols)}, {of}; "
        f"blind maps reach a sounding accuracy of {report.details['chance']:.3f}",
        f"best checkpoint of each study by {_usual(settings['metric'])}; {how}",
        f"budget of each study: {budget}; trials are completed/pruned/failed, summed over seeds like all costs",
        f"searched by all alike: {', '.join(settings['space']) or 'nothing'}; labels: whether training reads class names",
    ]
    return [*lines, *report.notes]


def _usual(values: Mapping[str, str]) -> str:
    """What holds for most systems, and for which it is something else."""
    usual = max(values.values(), key=list(values.values()).count)
    others = [f"{system}: {value}" for system, value in values.items() if value != usual]
    return f"{usual} ({', '.join(others)})" if others else usual


def _paired_page(report: EvaluationReport) -> list[str]:
    """Two systems on the same scenes, and their paired difference."""
    lines, clear = [], False
    for index, protocol in _groups(report):
        (first, ours), (second, theirs), (_, gap) = _scored(report, index, protocol)
        scenes = report.scene_sets[index]
        coverage = scenes.get("coverage", "")
        facts = f"protocol {protocol}, layout {gap['layout']}, scenes {gap['scenes_hash']}: {gap['scenes']} scenes of "
        facts += (
            f"{gap['videos']} videos{coverage and f' ({coverage})'}, paired differences, 95 % intervals by bootstrap "
        )
        facts += f"over videos ({gap['resamples']} resamples, seed {gap['seed']})"
        rows = []
        for metric, each in gap["metrics"].items():
            apart = each["low"] is not None and (each["low"] > 0 or each["high"] < 0)
            clear |= apart
            span = "-" if each["low"] is None else f"[{each['low']:+.3f}, {each['high']:+.3f}]{' *' if apart else ''}"
            means = [f"{side['metrics'][metric]['value']:.3f}" for side in (ours, theirs)]
            rows.append([metric, *means, f"{each['value']:+.3f}", span, str(each["scenes"])])
        heads = ["metric", first.system, second.system, "difference", "95 % interval", "scenes"]
        lines += ["", *ReportTable(heads, rows, [facts]).markdown()]
        lines += [line for note in scenes["notes"] for line in ("", note)]
    return [*lines, "", "* the interval does not hold 0"] if clear else lines


def _paper_page(report: EvaluationReport) -> list[str]:
    """The paper's tables with measured numbers below the published ones."""
    return [
        line
        for each in report.details["tables"]
        for line in ("", *paper_tables.paper_table(report.details, each["table"]).splitlines())
    ]


_PAGES: dict[str, Callable[[EvaluationReport], list[str]]] = {
    "study": _study_page,
    "scenes": _scenes_page,
    "protocols": _protocols_page,
    "comparison": _comparison_page,
    "paired": _paired_page,
    "paper": _paper_page,
}


# ---- a study on a terminal


def _overview(report: EvaluationReport, group: Sequence[int]) -> list[str]:
    """A table of means that fits a terminal, then the first number of each layout with its control and best baseline."""
    sets = {report.scene_sets[index]["layout"]: dict(_by_name(report, index)) for index in group}
    sets = {layout: systems for layout, systems in sets.items() if systems}
    there = [
        each for each in _OVERVIEW if any(each[1] in record["metrics"] for _, record in sets.get(each[0], {}).values())
    ]
    systems = {system.system: system for named in sets.values() for system, _ in named.values()}
    names = {name: _label(each) for name, each in systems.items()}
    wide = max(map(len, names.values()))
    heads = "system".ljust(wide) + "".join("  " + head.rjust(max(len(head), 5)) for _, _, head in there)
    lines = [_group_heads(there, wide), heads]
    for name in sorted(names, key=lambda each: systems[each].role != SYSTEM_KIND):
        line = names[name].ljust(wide)
        for layout, metric, head in there:
            number = _number(sets, layout, name, metric)
            line += "  " + ("-" if number is None else f"{number['value']:.3f}").rjust(max(len(head), 5))
        lines.append(line)
    own = [
        each
        for each in report.checkpoints
        if each["scenes_group"] == report.scene_sets[group[0]].get("scenes_group", 0)
    ]
    quoted = [line for each in own for line in _quoted(sets, each, own)]
    notes = dict.fromkeys(note for index in group for note in report.scene_sets[index]["notes"])
    return [*lines, "", *quoted, *legend_of(quoted), *(f"note: {note}" for note in notes)]


def _by_name(report: EvaluationReport, index: int) -> Iterator[tuple[str, Named]]:
    for system, record in _scored(report, index):
        yield system.system, (system, record)


def _number(sets: Mapping[str, Mapping[str, Named]], layout: str, name: str, metric: str) -> dict[str, Any] | None:
    """A number of one system on one layout, None where it has none."""
    named = sets.get(layout, {}).get(name)
    found: dict[str, Any] | None = named[1]["metrics"].get(metric) if named else None
    return found


def _group_heads(there: Sequence[tuple[str, str, str]], wide: int) -> str:
    """The line above the headings: each layout over its first column."""
    line, at, seen = "", wide, ""
    for layout, _, head in there:
        if layout != seen:
            line = line.ljust(at + 2) + layout
        at, seen = at + 2 + max(len(head), 5), layout
    return line


def _quoted(
    sets: Mapping[str, Mapping[str, Named]], checkpoint: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A line for each layout: its first number with its mark, the control with shuffled audio, the best baseline."""
    name, cells = checkpoint["name"], []
    controls = {each["shuffled_audio"] for each in checkpoints}
    for layout, systems in sets.items():
        wanted, called = HEADLINE_METRICS[layout]
        metric = quoted_metric(layout, (record for _, record in systems.values()))
        number = _number(sets, layout, name, metric or wanted)
        if metric is None or number is None:
            continue
        control = _number(sets, layout, checkpoint["shuffled_audio"], metric)
        made = {
            system.system: record["metrics"][metric]["value"]
            for system, record in systems.values()
            if system.role != SYSTEM_KIND and system.system not in controls and metric in record["metrics"]
        }
        best = max(made, key=lambda each: (made[each], each), default=None)
        ends = (
            "-" if control is None else f"{control['value']:.3f}",
            "-" if best is None else f"{made[best]:.3f} ({best})",
        )
        cells.append((layout, f"{called}{'*' * metric.endswith('*')}", number_text(number), *ends))
    wide = [max((len(line[place]) for line in cells), default=0) for place in range(3)]
    lines = [f"  {'  '.join(each.ljust(w) for each, w in zip(line, wide, strict=False))}" for line in cells]
    epoch = "" if checkpoint["epoch"] is None else f", epoch {checkpoint['epoch']}"
    lines = [f"{name}{epoch}:", *lines]
    left = max(map(len, lines))
    beside = [("shuffled audio", "best baseline"), *(line[3:] for line in cells)]
    return [f"{line.ljust(left)}  {heard:14}  {best}" for line, (heard, best) in zip(lines, beside, strict=True)]


def quoted_metric(layout: str, records: Iterable[Record]) -> str | None:
    """Returns the metric of HEADLINE_METRICS as these records have it (starred: by the best pairing); None without any."""
    wanted, known = HEADLINE_METRICS[layout][0], {name for each in records for name in each["metrics"]}
    return next((each for each in (wanted, f"{wanted}*") if each in known), None)


def reproduction(checkpoint: Mapping[str, Any], split: str) -> list[str]:
    """Returns lines with recorded numbers of the search next to the same computed again; [] where there are none."""
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
