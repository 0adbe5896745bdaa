"""Command `python -m raymix.compare`: several systems, one budget, one dataset, and one table of the test split.

Each (system, seed) is an ordinary study of `raymix.tune`, one after another, so the same command resumes; what all systems
share (data, sizes, trials, epochs, batch, ranges of learning rate and weight decay) is the same for all.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run_named_command("compare")

import functools
import time
from collections.abc import Mapping
from typing import Any

import torch

from raymix.cli import commands, recipes
from raymix.cli.commands import run_command
from raymix.config import (
    CompareConfig,
    ConfigError,
    EvaluateConfig,
    TuneConfig,
    config_to_plain,
    did_you_mean,
    flatten_config,
)
from raymix.config.errors import EXIT_DONE, NoUsableResult, value_error_as_config_error
from raymix.data.importers.video_folder import list_videos
from raymix.data.preparation.pipeline import find_prepared
from raymix.evaluation import system_comparison
from raymix.evaluation.candidates import CheckpointSource, choose_checkpoints
from raymix.evaluation.system_comparison import NUMBERS_FILE, TABLE_FILE, ComparisonEntry, MetricRows
from raymix.evaluation.validation import CandidateCheckpoint, EvaluationScenes
from raymix.methods import METHODS
from raymix.reporting.rendering import render_markdown
from raymix.reporting.results_folder import write_results
from raymix.runtime import ray_cluster
from raymix.runtime.storage import assert_writable
from raymix.search import dry_run, planning, preflight, runner, space_file, study_plan
from raymix.search.space_file import parse_search_space, shared_search_space
from raymix.search.study_plan import StudyPlan
from raymix.tracking.event_log import EventLog

SystemSeed = tuple[str, int]  # a system and a seed

OWN_SETTINGS = (
    "systems",
    "seeds",
    "space",
    "study.name",
)  # settings of this command that mean something else to raymix.tune, or nothing


def list_system_seeds(config: CompareConfig) -> list[SystemSeed]:
    """Every (system, seed) in the order in which they run, a whole round of systems for each seed."""
    if not config.systems or not config.seeds:
        empty = "seeds" if config.systems else "systems"
        known = f"; name some of {', '.join(sorted(METHODS))}" if empty == "systems" else ""
        raise ConfigError(f"{empty}=[]: nothing to compare{known}")
    for name in config.systems:
        if name not in METHODS:
            raise ConfigError(f"systems: {name}: no such system{did_you_mean(name, list(METHODS))}")
    for word, values in (("systems", config.systems), ("seeds", list(map(str, config.seeds)))):
        if twice := [value for value in values if values.count(value) > 1]:
            raise ConfigError(f"{word}: {twice[0]} stands there twice")
    if negative := [seed for seed in config.seeds if seed < 0]:
        raise ConfigError(f"seeds: {negative[0]}: must be at least 0")
    name = config.study.name
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"study.name={name!r}: must be a plain name without slashes")
    return [(system, seed) for seed in config.seeds for system in config.systems]


def compose_study_config(config: CompareConfig, system: str, seed: int) -> TuneConfig:
    """The settings of `raymix.tune` for this study."""
    words, config_dir = commands.command_line_settings()
    given = [word for word in words if word.partition("=")[0] not in OWN_SETTINGS and not word.startswith("space.")]
    given += [f"method={system}", f"search_spaces={recipes.method_search_space(system, config_dir)}"]
    given += [*recipes.implied_settings(given, config_dir), f"study.seed={seed}", "study.final=0"]
    made: TuneConfig = commands.compose_config("tune", given, config_dir, config.home)
    made.study.name = f"{config.study.name}-{system}-{seed}"
    with value_error_as_config_error():
        plain = config_to_plain(made)
        parse_search_space(made.search_spaces, plain)  # refused as it stands in its file
        own = space_file.apply_recipe_ranges(made.search_spaces, made.ranges, flatten_config(plain))
        made.search_spaces = shared_search_space(own, config.space, flatten_config(plain))
    return made


def plan_comparison(config: CompareConfig) -> dict[SystemSeed, StudyPlan]:
    """Every study as it would run; ConfigError where one of them could not, before the first is started."""
    pairs = list_system_seeds(config)
    made = {pair: compose_study_config(config, *pair) for pair in pairs}
    plans = {pair: planning.plan_from_config(each) for pair, each in made.items()}
    for plan in plans.values():
        check_same_budget(plan, plans[pairs[0]])
    with value_error_as_config_error():
        assert_writable(comparison_uri(config))
        if find_prepared(data := plans[pairs[0]].run.dataset) is not None:
            for plan in plans.values():
                preflight.clip_warnings(plan.run)
        elif data.name != "demo":
            list_videos(data.root)
    return plans


def check_same_budget(plan: StudyPlan, first: StudyPlan) -> None:
    """BadInput where a study would be scored on other scenes than the first, or has had another budget than is asked for."""
    run: Any = plan.run
    name = run.study.name
    for setting, was in flatten_config(plan.study.config.get("search", {}), "search.").items():
        if (now := flatten_config(config_to_plain(run.search), "search.").get(setting)) != was:
            raise ConfigError(f"{setting}={now}: the study {name} was started with {was}; choose another study.name")
    if plan.planned > run.study.n_trials:
        raise ConfigError(
            f"study.n_trials={run.study.n_trials}: the study {name} has {plan.planned}; all must have as many"
        )
    if EvaluationScenes.key(run) != EvaluationScenes.key(first.run):
        raise ConfigError(
            f"{name} would be scored on other scenes than {first.run.study.name}: {EvaluationScenes.key(run)}"
        )


def comparison_uri(config: CompareConfig) -> str:
    return f"{config.home.rstrip('/')}/comparisons/{config.study.name}"


def run_compare(config: CompareConfig) -> int:
    """Everything between the config and the exit code."""
    plans = plan_comparison(config)
    if config.study.dry_run:
        return show_plans(plans)
    try:
        with ray_cluster.handle_interrupts(runner.interruption_message):
            if code := run_studies(plans):
                return code
            return finish_comparison(config, plans)
    except ray_cluster.InterruptedBySignal as stop:
        return ray_cluster.exit_after_interrupt(stop, runner.interruption_message(stop))


def show_plans(plans: Mapping[SystemSeed, StudyPlan]) -> int:
    for (system, seed), plan in plans.items():
        print(f"{system}, seed {seed}")
        with value_error_as_config_error():
            dry_run.print_dry_run(plan)
        print()
    return EXIT_DONE


def run_studies(plans: Mapping[SystemSeed, StudyPlan]) -> int:
    """Run what the studies owe, one study after another; the exit code of the one that was interrupted, else 0."""
    for place, ((system, seed), plan) in enumerate(plans.items(), 1):
        where = f"[{place}/{len(plans)}] {system}, seed {seed}"
        if not study_plan.has_pending_trials(plan):
            print(f"{where}: study {plan.run.study.name} has ended before", flush=True)
            continue
        print(f"{where}: study {plan.run.study.name}", flush=True)
        try:
            if code := runner.run_study(plan, time.time()):
                return code
        except NoUsableResult as nothing:  # the others go on; the table says so
            print(f"{where}: {nothing}", flush=True)
    return EXIT_DONE


def finish_comparison(config: CompareConfig, plans: Mapping[SystemSeed, StudyPlan]) -> int:
    """Score on test what was not scored yet, print the table, and write it."""
    first = next(iter(plans.values())).run
    try:
        evaluation_scenes = EvaluationScenes.open(first, "test", first.evaluation.final_scenes)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{first.dataset.prepared}, split test: no evaluation scenes: {reason}") from error
    entries = [comparison_entry(config, pair, plan, evaluation_scenes) for pair, plan in plans.items()]
    if not any(each.candidate for each in entries):
        raise NoUsableResult(
            f"{config.study.name}: no system has a usable trial; python -m raymix.leaderboard lists the studies"
        )
    report = system_comparison.comparison_report(
        config.study.name,
        entries,
        system_comparison.null_baselines(evaluation_scenes, first),
        evaluation_scenes,
        first,
        comparison_settings(config, plans),
    )
    text = render_markdown(report)
    with value_error_as_config_error():
        written = write_results(comparison_uri(config), report, {TABLE_FILE: text.encode()}, document=NUMBERS_FILE)
    print(f"\n{text}\nwritten:")
    for path in (*written.files[1:], written.files[0]):
        print(f"  {path}")
    return EXIT_DONE


def comparison_settings(config: CompareConfig, plans: Mapping[SystemSeed, StudyPlan]) -> dict[str, Any]:
    """What the table says of the budget that all studies had, and of what each system was searched by."""
    runs: dict[str, Any] = {system: plan.run for (system, _), plan in plans.items()}
    run = next(iter(runs.values()))
    budget = {
        "trials": run.study.n_trials,
        "epochs": run.training.epochs,
        "batch": run.training.batch_size,
        "sampler": run.search.sampler,
    }
    own = {
        "metric": {system: each.study.metric for system, each in runs.items()},
        "scheduler": {system: each.search.scheduler for system, each in runs.items()},
        "mixture": {system: config_to_plain(each.mixture) for system, each in runs.items()},
    }
    return {
        "dataset": run.dataset.name,
        "space": config.space,
        "budget": budget,
        "encoder": config_to_plain(run.encoder),
        **own,
    }


def comparison_entry(
    config: CompareConfig, pair: SystemSeed, plan: StudyPlan, evaluation_scenes: EvaluationScenes
) -> ComparisonEntry:
    """The best whole checkpoint of a study with its test scores, taken from its event log where they stand already."""
    study = plan.event_log.read()
    source = CheckpointSource(plan.uri, study, True)
    try:
        with value_error_as_config_error():
            (best,) = choose_checkpoints(EvaluateConfig(home=config.home, study=plan.uri), source, print)
    except NoUsableResult:
        return ComparisonEntry(*pair, plan.uri, study, None, {})
    rows = stored_test_scores(study, best, plan.uri, evaluation_scenes)
    if rows is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        print(f"scoring {pair[0]}, seed {pair[1]}: {best.name}, epoch {best.epoch}, on the test split", flush=True)
        rows = system_comparison.measure_checkpoint(best, evaluation_scenes, device)
        store_test_scores(config, plan.uri, best, evaluation_scenes, rows)
    return ComparisonEntry(*pair, plan.uri, study, best, rows)


def _scenes(evaluation_scenes: EvaluationScenes) -> list[dict[str, str]]:
    return [{layout: truth.scenes_hash for layout, truth in evaluation_scenes.truth.items()}]


def stored_test_scores(
    study: Any, best: CandidateCheckpoint, uri: str, evaluation_scenes: EvaluationScenes
) -> MetricRows | None:
    """What an earlier run of the command found for this checkpoint on these scenes."""
    for record in reversed(study.evaluations):
        same = (
            record.get("scenes") == _scenes(evaluation_scenes)
            and record.get("protocol") == best.run.evaluation.protocol
        )
        paths = [f"{uri}/{each['checkpoint']}" for each in record.get("checkpoints", [])]
        if same and paths == [best.uri] and record.get("rows"):
            rows: MetricRows = record["rows"]
            return rows
    return None


def store_test_scores(
    config: CompareConfig, uri: str, best: CandidateCheckpoint, evaluation_scenes: EvaluationScenes, rows: MetricRows
) -> None:
    """The test scores go into the study's event log, as those of `raymix.evaluate` do."""
    scored = {
        "checkpoint": best.uri.removeprefix(f"{uri}/"),
        "rank": best.rank,
        "trial": best.trial,
        "epoch": best.epoch,
        "scores": system_comparison.checkpoint_scores(rows, evaluation_scenes.split),
    }
    what = {
        "split": evaluation_scenes.split,
        "output": comparison_uri(config),
        "protocol": best.run.evaluation.protocol,
    }
    EventLog(uri).append(
        "evaluated", {**what, "scenes": _scenes(evaluation_scenes), "checkpoints": [scored], "rows": rows}
    )


def main() -> None:
    run_command(run_compare, "compare", functools.partial(recipes.complete_command_line, "compare"))
