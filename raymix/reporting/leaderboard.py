"""The leaderboard of studies: rows, best checkpoint, text and JSON output."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from raymix.config import ConfigError, did_you_mean, did_you_mean_setting, flatten_config
from raymix.reporting import text_tables
from raymix.runtime.expressions import SettingExpression
from raymix.runtime.storage import resolve_uri
from raymix.tracking import significance
from raymix.tracking.event_log import EventLog
from raymix.tracking.study import StudyState, TrialRecord

FIXED_COLUMNS = ["rank", "trial", "state", "score", "shuffled", "epochs"]

SHORT_NAMES = {"rank": "#", "shuffled": "shuf", "epochs": "ep"}  # on a terminal

SHORT_STATES = {"completed": "done"}

MAX_FAILURE_REASONS = 5  # lines about failed trials below the table


@dataclass(frozen=True)
class LeaderboardQuery:
    """What the command line asks for."""

    top: int | None = None
    where: str | None = None
    metric: str | None = None  # default: the study's objective
    mode: str | None = None


def list_studies(root: str) -> list[str]:
    """The names of the studies under `<root>/studies`, those with a event log."""
    filesystem, path = resolve_uri(root)
    listing = filesystem.get_file_info(fs.FileSelector(f"{path}/studies", allow_not_found=True))
    names = [os.path.basename(info.path) for info in listing if info.type == fs.FileType.Directory]
    ledgers = filesystem.get_file_info([f"{path}/studies/{name}/ledger" for name in names])
    return sorted(n for n, ledger in zip(names, ledgers, strict=True) if ledger.type == fs.FileType.Directory)


def open_study(root: str, name: str) -> tuple[str, StudyState]:
    """(folder, study). Raises ConfigError where there is none, with the nearest name."""
    folder = f"{root.rstrip('/')}/studies/{name}"
    study = EventLog(folder).read() if name and "/" not in name else StudyState()
    if not study.exists:
        there = list_studies(root)
        hint = did_you_mean(name, there) if there else " (there are none yet)"
        raise ConfigError(f"{name}: no such study under {root}/studies{hint}")
    return folder, study


def leaderboard_rows(study: StudyState, folder: str, query: LeaderboardQuery) -> list[dict[str, Any]]:
    """The leaderboard's rows, best first, then trials without a score; one dict per trial, ready for JSON.

    Raises ConfigError for a metric or a name in `where` that the study does not have.
    """
    metric = query.metric or study.objective
    _check_metric(study, metric)
    mode = query.mode or study.mode
    ranked = study.ranked(metric, mode)
    listed = {row.number for row in ranked}
    order = [*ranked, *(row for row in study.trials.values() if row.number not in listed)]
    ranks = {row.number: rank for rank, row in enumerate(ranked, 1)}
    table = [_line(row, ranks.get(row.number), metric, mode, folder) for row in order]
    if query.where is not None:
        table = _where(table, study, query.where)
    return table[: query.top]


def _check_metric(study: StudyState, metric: str) -> None:
    known = {name for row in study.trials.values() for epoch in row.epochs.values() for name in epoch.metrics}
    if metric != study.objective and metric not in known:
        raise ConfigError(f"--metric {metric}: no such metric in {study.name}{did_you_mean(metric, sorted(known))}")


def _line(row: TrialRecord, rank: int | None, metric: str, mode: str, folder: str) -> dict[str, Any]:
    best = row.best(metric, mode)
    scored = row.epochs[best[0]] if best else None
    return {
        "rank": rank,
        "trial": row.number,
        "state": row.state,
        "score": best[1] if best else None,
        "shuffled": scored.metrics.get(f"{metric}_shuffled") if scored else None,
        "epochs": row.last_epoch,
        "best_epoch": best[0] if best else None,
        "params": row.params_at(best[0] if best else None),
        "reason": row.reason,
        "checkpoint": _absolute(folder, scored.checkpoint) if scored and scored.checkpoint else None,
        "metrics": scored.metrics if scored else {},
    }


def _absolute(folder: str, path: str) -> str:
    return f"{folder}/{path}" if "://" in folder else os.path.join(os.path.abspath(os.path.expanduser(folder)), path)


def _searched(table: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for line in table for name in line["params"]))


def _where(table: list[dict[str, Any]], study: StudyState, text: str) -> list[dict[str, Any]]:
    expression = SettingExpression(text)
    base = flatten_config(study.config)
    own = [*FIXED_COLUMNS, "best_epoch", "reason"]
    known = sorted({*own, *base, *_searched(table)})
    for name in sorted(expression.names):
        if name not in known:
            raise ConfigError(f"--where: {study.name} has no {name}{did_you_mean_setting(name, known)}")
    missing = dict.fromkeys(known)  # a setting that was not searched in a trial, and is not in the config, is None
    return [
        line
        for line in table
        if expression({**missing, **base, **line["params"], **{name: line[name] for name in own}})
    ]


def find_best_checkpoint(root: str, names: list[str], query: LeaderboardQuery) -> str | None:
    """The checkpoint of the best trial over the studies, as an absolute path or URI; None if there is none."""
    found: list[tuple[float, str]] = []
    opened = [open_study(root, name) for name in names]
    objectives = sorted({query.metric or study.objective for _, study in opened})
    if len(objectives) > 1:
        raise ConfigError(f"--best-checkpoint: these studies rank by {' and '.join(objectives)}; name one, or --metric")
    for folder, study in opened:
        sign = -1.0 if (query.mode or study.mode) == "max" else 1.0
        lines = leaderboard_rows(study, folder, query)
        found += [(sign * line["score"], line["checkpoint"]) for line in lines if line["rank"] and line["checkpoint"]]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cells(table: list[dict[str, Any]], folder: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells in full; empty columns (reason, shuffled) are left out, checkpoints are relative to the study."""
    stem = _absolute(folder, "")
    searched = _searched(table)
    lines = []
    for line in table:
        ends = [line["reason"], (line["checkpoint"] or "").removeprefix(stem)]
        lines.append([*(line[name] for name in FIXED_COLUMNS), *(line["params"].get(name) for name in searched), *ends])
    header = [*FIXED_COLUMNS, *searched, "reason", "checkpoint"]
    used = [i for i in range(len(header)) if any(line[i] not in (None, "") for line in lines)]
    return [header[i] for i in used], [[_text(line[i]) for i in used] for line in lines]


def print_leaderboard(study: StudyState, folder: str, top: int | None = None, wide: bool = False) -> None:
    """Print a study's leaderboard: fitted to the terminal, or in full where the output is none, or with `wide`."""
    _show(study, leaderboard_rows(study, folder, LeaderboardQuery(top)), folder, wide)


def _show(study: StudyState, table: list[dict[str, Any]], folder: str, wide: bool) -> None:
    if sys.stdout.isatty() and table and not wide:
        _print_fitted(_title(study), table)
    else:
        _print(_title(study), *_cells(table, folder))
    for sentence in study_remarks(study):
        for line in (
            text_tables.wrap_text(sentence, shutil.get_terminal_size().columns) if sys.stdout.isatty() else [sentence]
        ):
            print(line)


def _print_fitted(title: str, table: list[dict[str, Any]]) -> None:
    """One line per trial, cut to the width of the terminal; reasons of failed trials are listed below."""
    width, searched = shutil.get_terminal_size().columns, _searched(table)
    fixed = [name for name in FIXED_COLUMNS if any(line[name] is not None for line in table)]
    cells = [
        [SHORT_STATES.get(str(line[name]), text_tables.format_number(line[name])) for name in fixed]
        + [text_tables.format_number(line["params"].get(name)) for name in searched]
        for line in table
    ]
    header = [*(SHORT_NAMES.get(name, name) for name in fixed), *searched]
    fitted = text_tables.fit_table(header, cells, width, len(fixed), more="; --wide shows all")
    for line in [*text_tables.wrap_text(title, width), *fitted.lines, *fitted.notes, *_failures(table, width)]:
        print(line)


def _failures(table: list[dict[str, Any]], width: int) -> list[str]:
    """A line for each reason for which trials failed, the most frequent first, at most REASONS of them."""
    found: dict[str, list[str]] = {}
    for line in table:
        if line["state"] == "failed":
            found.setdefault(" ".join(str(line["reason"]).split()) or "no reason given", []).append(str(line["trial"]))
    order = sorted(found.items(), key=lambda pair: -len(pair[1]))
    lines = []
    for reason, trials in order[:MAX_FAILURE_REASONS]:
        some = ", ".join(trials[:5]) + (f" and {len(trials) - 5} more" if len(trials) > 5 else "")
        lines.append(
            text_tables.truncate_line(f"failed: trial{'s' if len(trials) > 1 else ''} {some}: {reason}", width)
        )
    if len(order) > MAX_FAILURE_REASONS:
        lines.append(
            text_tables.truncate_line(
                f"failed: {len(order) - MAX_FAILURE_REASONS} more reasons; --wide shows all", width
            )
        )
    return lines


def study_remarks(study: StudyState) -> list[str]:
    """Sentences below the table: whether anything was found, and whether the space has no further point."""
    return [*significance.significance_sentences(study), *filter(None, [study.exhaustion])]


def _print(title: str, header: list[str], lines: list[list[str]]) -> None:
    """Aligned columns in full, two spaces apart."""
    if not lines:
        print(f"{title}\nno trial to show")
        return
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    print(title)
    for line in [header, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _title(study: StudyState) -> str:
    states = [row.state for row in study.trials.values()]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("completed", "pruned", "failed", "running") if s in states)
    return f"{study.name}: {len(states)} of {study.expected} trials ({counts or 'none'}), by {study.objective} ({study.mode})"


def _list(root: str, as_json: bool) -> None:
    names = list_studies(root)
    found = [(name, EventLog(f"{root.rstrip('/')}/studies/{name}").read()) for name in names]
    if as_json:
        summary = [
            {
                "study": name,
                "trials": len(s.trials),
                "planned": s.planned,
                "exhausted": bool(s.exhausted),
                "objective": s.objective,
                "best": _top(s),
            }
            for name, s in found
        ]
        print(json.dumps(summary, indent=1))
    elif not found:
        print(f"no studies under {root}/studies yet; python -m raymix.tune makes one")
    else:
        lines = [[name, f"{len(s.trials)}/{s.expected}", s.objective, _text(_top(s))] for name, s in found]
        _print_studies(f"studies under {root}/studies", ["study", "trials", "objective", "best"], lines)


def _print_studies(title: str, header: list[str], lines: list[list[str]]) -> None:
    if not sys.stdout.isatty():
        _print(title, header, lines)
        return
    width = shutil.get_terminal_size().columns
    name_width = max(
        8, width - 2 * len(header) - sum(max(len(line[i]) for line in [header, *lines]) for i in range(1, 4))
    )
    fitted = text_tables.fit_table(
        header, [[text_tables.truncate_line(line[0], name_width), *line[1:]] for line in lines], width, len(header)
    )
    for text in [*text_tables.wrap_text(title, width), *fitted.lines]:
        print(text)


def _top(study: StudyState) -> float | None:
    ranked = study.ranked()
    return ranked[0].score if ranked else None


def _document(study: StudyState, table: list[dict[str, Any]]) -> dict[str, Any]:
    """What `--json` prints of one study."""
    finding = significance.study_significance(study)
    above = finding.record() if finding else None
    return {
        "study": study.name,
        "objective": study.objective,
        "planned": study.planned,
        "exhausted": bool(study.exhausted),
        "above_chance": above,
        "trials": table,
    }
