"""The command `python -m raymix.evaluate`: a study's best checkpoints, baselines and controls on the test split.

Writes pictures, `table.md`, the scores of each scene and, last, `scores.json`. On the validation split it scores as the
search does and compares its numbers with the recorded ones. One process and torch are enough; Ray is not started.
The same command scores anybody's predictions (`submission`), compares two results (`paired`) and writes scenes as files
(`scene_files`).
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run("evaluate")

import datetime
import sys
from collections.abc import Callable
from typing import Any

import torch

from raymix import (
    benchmark,
    clip_files,
    exhibits,
    paired,
    per_scene,
    preflight,
    readings,
    scene_files,
    submission,
    verdict,
)
from raymix.asking import OF_SCENES, refuse_unread
from raymix.config import BadInput, Evaluate, from_plain, signature
from raymix.contenders import CandidateCheckpoint, Source, choose
from raymix.door import enter, refusing
from raymix.evaluator import Bench, judge
from raymix.ledger import Ledger
from raymix.rendering import render_markdown, render_terminal
from raymix.report import EvaluationReport
from raymix.results import PER_SCENE, TABLE, ResultsFolder, clear_results, write_results
from raymix.rules import broken_rule, check
from raymix.session import Interrupted, interruptible
from raymix.significance import of_study
from raymix.staging import staged
from raymix.storage import assert_writable
from raymix.study_report import EvaluatedStudy, study_report
from raymix.verdict import Verdict

Echo = Callable[[str], Any]


def evaluate(settings: Evaluate, echo: Echo = print) -> ResultsFolder:
    """What the settings ask for: checkpoints scored, or predictions, two results compared, or scenes written out."""
    check(settings)
    asked = [name for name in ("predictions", "export", "compare") if getattr(settings, name)]
    asked += [name for name in ("tables", "figures") if getattr(settings, name)][:1]
    if len(asked) > 1:
        raise BadInput(f"{asked[0]}= and {asked[1]}=: one at a time")
    refuse_unread(settings)
    if settings.protocols:
        return under_protocols(settings, asked, echo)
    if not asked:
        return on_named_scenes(settings, echo) if settings.layout or settings.pair_list else last_word(settings, echo)
    with refusing():
        if asked[0] in ("tables", "figures"):
            return exhibits.evaluate(settings, echo)
        source = Source.find(settings) if settings.study else None
        run = from_plain(source.study.config) if source else None
        if asked == ["predictions"]:
            return submission.evaluate(settings, run, echo)
        if asked == ["compare"]:
            return paired.compare(settings, run, echo)
        stage = staged(settings, run)
        assert_writable(settings.export)
        return scene_files.write(stage, settings.export, echo)


def _candidates(settings: Evaluate, echo: Echo) -> tuple[Source, list[CandidateCheckpoint]]:
    """The checkpoints that are meant, and where they are from; what was scored on test before is said."""
    source = Source.find(settings)
    contenders = choose(settings, source, echo)
    if settings.split == "test":
        _before(source, contenders, echo)
    return source, contenders


def on_named_scenes(settings: Evaluate, echo: Echo = print) -> ResultsFolder:
    """Score checkpoints on the scenes of `layout=` or `pair_list=`."""
    _something(settings)
    with refusing():
        source, contenders = _candidates(settings, echo)
        report = benchmark.evaluate(settings, source, contenders, echo)
    if source.named and settings.split == "test":
        _remember(source, report)
    return report


def under_protocols(settings: Evaluate, asked: list[str], echo: Echo = print) -> ResultsFolder:
    """Score predictions, or checkpoints, under every protocol of `protocols=`."""
    listed = f"protocols={','.join(settings.protocols)}"
    if others := [name for name in asked if name != "predictions"]:
        raise BadInput(f"{listed}: goes with predictions=FILE, or with study= or checkpoint=, not with {others[0]}=")
    with refusing():
        readings.chosen(settings.protocols)
        if asked:
            of = Source.find(settings) if settings.study else None
            return readings.of_file(settings, from_plain(of.study.config) if of else None, echo)
        _something(settings)
        source, contenders = _candidates(settings, echo)
        report = readings.of_checkpoints(settings, source, contenders, echo)
    if source.named and settings.split == "test":
        _remember(source, report)
    return report


def last_word(settings: Evaluate, echo: Echo = print) -> ResultsFolder:
    """Score checkpoints on a split, write the files, add the scores to the study's ledger, and tell.

    Raises BadInput for what a person can mend, Nothing where the study has no scored checkpoint.
    """
    _check(settings)
    with refusing():
        source, contenders = _candidates(settings, echo)
        folder = settings.output or _folder(settings, source, contenders[0])
        groups: dict[str, list[CandidateCheckpoint]] = {}
        for each in contenders:
            key = repr((Bench.key(each.run), each.run.evaluation.protocol, _count(settings, each)))
            groups.setdefault(key, []).append(each)
        assert_writable(folder)  # known before an hour of scoring, not after
        facts = {each.run.dataset.prepared: clip_files.describe(each.run.dataset.prepared) for each in contenders}
    verdicts: list[Verdict] = []
    recomputed: dict[str, dict[str, float]] = {}
    for group in groups.values():
        reached, again = _reach(settings, group, echo)
        verdicts.append(reached)
        recomputed |= again
    whole = (
        settings.split == "val" and source.named and not settings.checkpoint
    )  # chosen from all epochs by these scenes
    finding = of_study(source.study) if whole else verdict.find_above_chance(verdicts)
    made = study_report(EvaluatedStudy(settings.split, source.study, source.uri, verdicts, facts, recomputed, finding))
    count = contenders[0].run.evaluation.pictures if settings.pictures is None else settings.pictures
    lines = [row for each in verdicts for rows in each.rows.values() for row in rows]
    files = {TABLE: render_markdown(made).encode(), PER_SCENE: per_scene.encode(lines)}
    warning = finding.headline if finding else ""
    files |= verdict.charts(verdicts[0], source.study.name, warning)
    files |= verdict.pictures(verdicts[0], count, source.study.name, warning)
    with refusing():
        report = write_results(folder, made, files, _stored(folder, verdicts))
    if source.named and settings.split == "test":
        _remember(source, report)
    _print(made, report.files, echo)
    return report


def _check(settings: Evaluate) -> None:
    for name in OF_SCENES:
        if (value := getattr(settings, name)) not in (None, ""):
            raise BadInput(
                f"{name}={value}: goes with layout= or pair_list=; else a study's scenes are those of its config"
            )
    for name, low, high in (("scenes", 8, None), ("pictures", 0, 64)):
        value = getattr(settings, name)
        if value is not None and (broken := broken_rule(name, value, {"low": low, "high": high})):
            raise BadInput(broken)
    _something(settings)


def _something(settings: Evaluate) -> None:
    if not settings.study and not settings.checkpoint:
        raise BadInput("nothing to score: give study=NAME (python -m raymix.leaderboard lists them) or checkpoint=URI")


def _count(settings: Evaluate, of: CandidateCheckpoint) -> int:
    planned = of.run.evaluation.scenes if settings.split == "val" else of.run.evaluation.final_scenes
    return settings.scenes or planned


def _folder(settings: Evaluate, source: Source, first: CandidateCheckpoint) -> str:
    """Where the files go: the study's folder, or for a lone checkpoint one of its own."""
    if source.named and not settings.checkpoint:
        return f"{source.uri}/evaluation/{settings.split}"
    leaf = first.name.replace(" ", "-") + (f"-epoch-{first.epoch}" if first.epoch is not None else "")
    if source.named:
        return f"{source.uri}/evaluation/{settings.split}-{leaf}"
    return f"{settings.home.rstrip('/')}/evaluations/{leaf}-{signature({'uri': first.uri})[:6]}/{settings.split}"


def _before(source: Source, contenders: list[CandidateCheckpoint], echo: Echo) -> None:
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


def _reach(
    settings: Evaluate, group: list[CandidateCheckpoint], echo: Echo
) -> tuple[Verdict, dict[str, dict[str, float]]]:
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
    grid = bench.scenes["grid2x2"]
    if note := preflight.few(len({video for videos in grid.videos for video in videos}), len(grid), split):
        echo(note)
    echo(f"scoring {', '.join(each.name for each in group)} on the {split} split ({run.evaluation.protocol}):")
    with verdict.threads(max(1, int(run.cluster.evaluator_cpus)) if split == "val" else None):
        if split == "val":
            again = {each.uri: judge(each.method.to(device), bench, each.run, device) for each in group}
        return verdict.reach(group, bench, device, echo, settings.store), again


def _stored(folder: str, verdicts: list[Verdict]) -> tuple[str, ...]:
    """Write what the contenders predict, a file for each set of scenes; the files' names."""
    written: list[str] = []
    for number, reached in enumerate(verdicts, 1):
        for layout, systems in reached.predicted.items():
            truth = reached.bench.truth[layout]
            if not written:
                clear_results(folder)
            name = f"predictions-{truth.layout}{'' if number == 1 else f'-{number}'}.parquet"
            benchmark.write_maps(f"{folder.rstrip('/')}/{name}", truth, systems)
            written.append(name)
    return tuple(written)


def _remember(source: Source, report: ResultsFolder) -> None:
    """Appends the test scores to the study's ledger; checkpoints as paths relative to the study."""
    known = ("rank", "trial", "epoch", "scores")
    checkpoints = [
        {"checkpoint": each["uri"].removeprefix(f"{source.uri}/"), **{name: each[name] for name in known}}
        for each in report.scores["checkpoints"]
    ]
    scenes: dict[int, dict[str, str]] = {}  # hashes by layout, of the sets that were scored together
    for index, each in enumerate(report.scores["scene_sets"]):
        scenes.setdefault(each.get("bench", index), {})[each["layout"]] = each["scenes_hash"]
    protocol = ", ".join(report.scores["protocols"])
    record = {"split": "test", "output": report.folder, "protocol": protocol, "scenes": list(scenes.values())}
    record["above_chance"] = report.scores["details"].get("above_chance")
    Ledger(source.uri).append("evaluated", {**record, "checkpoints": checkpoints})


def _print(report: EvaluationReport, written: list[str], echo: Echo) -> None:
    for line in render_terminal(report):
        echo(line)
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
