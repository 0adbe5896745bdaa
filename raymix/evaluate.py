"""The door `python -m raymix.evaluate`: the last word on a study's best checkpoints, beside systems that hear nothing.

Writes pictures, `table.md` and, last, `scores.json`. On the validation split it goes the way of the search's evaluator
and shows its numbers beside the recorded ones. Starts no Ray: one process and torch are enough.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyarrow import fs

from raymix import clip, verdict
from raymix.checkpoint import Torn
from raymix.config import BadInput, Evaluate, nearest, signature
from raymix.door import Nothing, enter, refusing
from raymix.engine import writable
from raymix.evaluator import Bench, judge, load
from raymix.ledger import Ledger
from raymix.rules import broken_rule, check
from raymix.scoreboard import document, headlines, markdown, reproduction
from raymix.session import Interrupted, interruptible
from raymix.storage import get, put, resolve
from raymix.study import Study
from raymix.verdict import Contender, Verdict

Echo = Callable[[str], Any]
SCORES, TABLE = "scores.json", "table.md"
_PLACE = re.compile(r"(?P<study>.+)/checkpoints/trial-(?P<trial>\d+)[^/]*/epoch-(?P<epoch>\d+)/?$")


@dataclass(frozen=True)
class Report:
    """What was found and written: the folder, its files (whole paths), and what is in scores.json."""

    folder: str
    files: list[str]
    scores: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """The study that is scored, or that a lone checkpoint came from; without either, `study` is empty."""

    uri: str
    study: Study
    named: bool  # by the person: its ledger may be written to

    @staticmethod
    def find(settings: Evaluate) -> Source:
        if settings.study:
            name, home = settings.study, settings.home.rstrip("/")
            whole = "://" in name or name.startswith(("/", "~"))
            uri = name.rstrip("/") if whole else f"{home}/studies/{name}"
            study = Ledger(uri).read()
            if not study.exists:
                there = [] if whole else _studies(home)
                hint = nearest(name, there) if there else "" if whole else f" (there is none yet under {home}/studies)"
                raise BadInput(f"study={name}: no such study at {uri}{hint}")
            return Source(uri, study, True)
        place = _PLACE.match(settings.checkpoint or "")
        uri = place["study"] if place else ""
        return Source(uri, Ledger(uri).read() if uri else Study(), False)


def _studies(home: str) -> list[str]:
    filesystem, path = resolve(f"{home}/studies")
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in listing if info.type == fs.FileType.Directory]


def choose(settings: Evaluate, source: Source, echo: Echo) -> list[Contender]:
    """The checkpoints to score, best first; of a study, torn ones give way to the next best trial's."""
    if settings.checkpoint:
        uri = settings.checkpoint.rstrip("/")
        if source.named and "://" not in uri and not uri.startswith(("/", "~")):
            uri = f"{source.uri}/{uri}"
        return [_contender(uri, source, 1)]
    name, ranked = source.study.name, source.study.ranked()
    with_checkpoint = [row for row in ranked if row.best_checkpoint]
    if not with_checkpoint:
        raise Nothing(f"study {name}: no trial has a scored checkpoint; python -m raymix.leaderboard {name} says why")
    found: list[Contender] = []
    torn: list[str] = []
    for row in with_checkpoint:
        if len(found) < settings.top:
            try:
                found.append(_contender(f"{source.uri}/{row.best_checkpoint}", source, ranked.index(row) + 1))
            except Torn as error:
                torn.append(str(error))
                echo(f"trial {row.number} (rank {ranked.index(row) + 1}) is passed over: {error}")
    if not found:
        more = f" (and {len(torn) - 1} more)" if len(torn) > 1 else ""
        raise BadInput(f"study {name}: no whole checkpoint: {torn[0]}{more}")
    if len(found) < settings.top:
        echo(f"top={settings.top}: the study has {len(found)} usable checkpoint{'s' if len(found) > 1 else ''}")
    return found


def _contender(uri: str, source: Source, rank: int) -> Contender:
    """A checkpoint with what the ledger knows of it; raises Torn where it is not whole."""
    method, run = load(uri)
    place = _PLACE.match(uri)
    if place is None:
        return Contender(uri.rsplit("/", 1)[-1], uri, method, run, rank, None, None, {}, {})
    trial, epoch = int(place["trial"]), int(place["epoch"])
    row = source.study.trials.get(trial)
    scored = row.epochs.get(epoch) if row else None
    # population-based training starts folders anew: recorded numbers are this checkpoint's only if the record names it
    recorded = scored.metrics if scored and scored.checkpoint and uri.endswith(scored.checkpoint) else {}
    return Contender(f"trial {trial}", uri, method, run, rank, trial, epoch, row.params if row else {}, dict(recorded))


def evaluate(settings: Evaluate, echo: Echo = print) -> Report:
    """Score checkpoints on a split, write the files, add the scores to the study's ledger, and tell.

    Raises BadInput for what a person can mend, Nothing where the study has no scored checkpoint.
    """
    _check(settings)
    with refusing():
        source = Source.find(settings)
        contenders = choose(settings, source, echo)
        folder = settings.output or _folder(settings, source, contenders[0])
        if settings.split == "test":
            _before(source, contenders, echo)
        groups: dict[str, list[Contender]] = {}
        for each in contenders:
            key = repr((Bench.key(each.run), each.run.evaluation.protocol, _count(settings, each)))
            groups.setdefault(key, []).append(each)
        writable(folder)  # known before an hour of scoring, not after
        facts = {each.run.dataset.prepared: clip.describe(each.run.dataset.prepared) for each in contenders}
    verdicts: list[Verdict] = []
    recomputed: dict[str, dict[str, float]] = {}
    for group in groups.values():
        reached, again = _reach(settings, group, echo)
        verdicts.append(reached)
        recomputed |= again
    scores = document(settings.split, source.study, source.uri, verdicts, facts, recomputed)
    count = contenders[0].run.evaluation.pictures if settings.pictures is None else settings.pictures
    files = verdict.charts(verdicts[0]) | verdict.pictures(verdicts[0], count)
    with refusing():
        written = _write(folder, files, scores, verdicts)
    if source.named and settings.split == "test":
        _remember(source, folder, scores)
    _tell(verdicts, scores, written, echo)
    return Report(folder, written, scores)


def _check(settings: Evaluate) -> None:
    check(settings)
    for name, low, high in (("scenes", 8, None), ("pictures", 0, 64)):
        value = getattr(settings, name)
        if value is not None and (broken := broken_rule(name, value, {"low": low, "high": high})):
            raise BadInput(broken)
    if not settings.study and not settings.checkpoint:
        raise BadInput("nothing to score: give study=NAME (python -m raymix.leaderboard lists them) or checkpoint=URI")


def _count(settings: Evaluate, of: Contender) -> int:
    planned = of.run.evaluation.scenes if settings.split == "val" else of.run.evaluation.final_scenes
    return settings.scenes or planned


def _folder(settings: Evaluate, source: Source, first: Contender) -> str:
    """Where the files go: the study's folder, or for a lone checkpoint one of its own."""
    if source.named and not settings.checkpoint:
        return f"{source.uri}/evaluation/{settings.split}"
    leaf = first.name.replace(" ", "-") + (f"-epoch-{first.epoch}" if first.epoch is not None else "")
    if source.named:
        return f"{source.uri}/evaluation/{settings.split}-{leaf}"
    return f"{settings.home.rstrip('/')}/evaluations/{leaf}-{signature({'uri': first.uri})[:6]}/{settings.split}"


def _before(source: Source, contenders: list[Contender], echo: Echo) -> None:
    """The test split is there to be opened once: say so if it was."""
    uris = {each.uri for each in contenders}
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


def _reach(settings: Evaluate, group: list[Contender], echo: Echo) -> tuple[Verdict, dict[str, dict[str, float]]]:
    """The verdict on contenders of one bench, and on validation the search's own numbers computed again, by URI."""
    run, split = group[0].run, settings.split
    try:
        bench = Bench.open(run, split, _count(settings, group[0]))
    except (ValueError, OSError) as error:
        told = " ".join(str(error).split())
        raise BadInput(f"{run.dataset.prepared}, split {split}: no evaluation scenes: {told}") from error
    # validation repeats what the search's evaluator did, on the kind of device and with the threads that it had
    on_gpu = torch.cuda.is_available() and (split == "test" or run.cluster.evaluator_gpus > 0)
    device = "cuda" if on_gpu else "cpu"
    again: dict[str, dict[str, float]] = {}
    echo(f"scoring {', '.join(each.name for each in group)} on the {split} split ({run.evaluation.protocol}):")
    with verdict.threads(max(1, int(run.cluster.evaluator_cpus)) if split == "val" else None):
        if split == "val":
            again = {each.uri: judge(each.method.to(device), bench, each.run, device) for each in group}
        return verdict.reach(group, bench, device, echo), again


def _write(folder: str, pictures: Mapping[str, bytes], scores: dict[str, Any], verdicts: list[Verdict]) -> list[str]:
    """Files of one evaluation, scores.json last, so that where it is, all is; what an earlier one left goes first."""
    filesystem, path = resolve(folder)
    old = _old(filesystem, f"{path}/{SCORES}")
    for name in (SCORES, *old):
        if filesystem.get_file_info(f"{path}/{name}").type == fs.FileType.File:
            filesystem.delete_file(f"{path}/{name}")
    scores["files"] = [TABLE, *pictures]
    contents = {**pictures, TABLE: markdown(verdicts, scores).encode()}
    contents[SCORES] = json.dumps(scores, indent=1, allow_nan=False, ensure_ascii=False).encode()
    for name, data in contents.items():
        put(filesystem, f"{path}/{name}", data)
    return [f"{folder.rstrip('/')}/{name}" for name in (SCORES, TABLE, *pictures)]


def _old(filesystem: fs.FileSystem, path: str) -> list[str]:
    """The files that an earlier scores.json names, in its own folder only."""
    try:
        names = json.loads(get(filesystem, path))["files"]
        return [str(name) for name in names if "/" not in str(name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _remember(source: Source, folder: str, scores: dict[str, Any]) -> None:
    """The test scores go into the study's ledger; checkpoints as paths relative to the study."""
    known = ("rank", "trial", "epoch", "scores")
    checkpoints = [
        {"checkpoint": each["uri"].removeprefix(f"{source.uri}/"), **{name: each[name] for name in known}}
        for each in scores["checkpoints"]
    ]
    scenes = [{name: facts["scenes_hash"] for name, facts in bench["layouts"].items()} for bench in scores["benches"]]
    record = {"split": "test", "output": folder, "protocol": scores["protocol"], "scenes": scenes}
    Ledger(source.uri).append("evaluated", {**record, "checkpoints": checkpoints})


def _tell(verdicts: list[Verdict], scores: dict[str, Any], written: list[str], echo: Echo) -> None:
    for reached in verdicts:
        echo("")
        for line in headlines(reached):
            echo(line)
    for each in scores["checkpoints"]:
        for line in reproduction(each, scores["split"]):
            echo(line)
    echo("")
    echo("written:")
    for file in written:
        echo(f"  {file}")


def task(settings: Evaluate) -> int:
    """Everything between the config and the exit code."""
    try:
        with interruptible():
            evaluate(settings)
    except Interrupted as stop:
        print(f"raymix: {stop}: nothing half-written counts; the same command starts over", file=sys.stderr, flush=True)
        return stop.code
    return 0


def main() -> None:
    enter(task, "evaluate")


if __name__ == "__main__":
    main()
