"""The door `python -m raymix.compare`: several systems, one budget, one dataset, and one table of the test split.

Each (system, seed) is an ordinary study of `raymix.tune`, one after another, so the same command resumes; what all systems
share (data, sizes, trials, epochs, batch, ranges of learning rate and weight decay) is the same for all.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run("compare")

import functools
import time
from collections.abc import Mapping
from typing import Any

import torch

from raymix import door, engine, forecast, preflight, ranges, ranking, recipe, session, tune
from raymix.common_space import shared
from raymix.config import BadInput, Compare, Evaluate, Tune, flatten, nearest, to_plain
from raymix.contenders import CandidateCheckpoint, Source, choose
from raymix.datasets.folder import listing
from raymix.door import DONE, Nothing, enter, refusing
from raymix.engine import Plan
from raymix.evaluator import Bench
from raymix.ledger import Ledger
from raymix.methods import METHODS
from raymix.prepare import present
from raymix.ranking import Entry, Rows
from raymix.rendering import render_markdown
from raymix.results import write_results
from raymix.search_space import load
from raymix.storage import assert_writable

Pair = tuple[str, int]  # a system and a seed
OWN = (
    "systems",
    "seeds",
    "space",
    "study.name",
)  # words of this door that mean something else to raymix.tune, or nothing
TABLE, NUMBERS = "comparison.md", "comparison.json"


def check(config: Compare) -> list[Pair]:
    """Every (system, seed) in the order in which they run, a whole round of systems for each seed."""
    if not config.systems or not config.seeds:
        empty = "seeds" if config.systems else "systems"
        known = f"; name some of {', '.join(sorted(METHODS))}" if empty == "systems" else ""
        raise BadInput(f"{empty}=[]: nothing to compare{known}")
    for name in config.systems:
        if name not in METHODS:
            raise BadInput(f"systems: {name}: no such system{nearest(name, list(METHODS))}")
    for word, values in (("systems", config.systems), ("seeds", list(map(str, config.seeds)))):
        if twice := [value for value in values if values.count(value) > 1]:
            raise BadInput(f"{word}: {twice[0]} stands there twice")
    if negative := [seed for seed in config.seeds if seed < 0]:
        raise BadInput(f"seeds: {negative[0]}: must be at least 0")
    name = config.study.name
    if not name or "/" in name or name.startswith("."):
        raise BadInput(f"study.name={name!r}: must be a plain name without slashes")
    return [(system, seed) for seed in config.seeds for system in config.systems]


def composed(config: Compare, system: str, seed: int) -> Tune:
    """What `raymix.tune` would be told for this study."""
    words, config_dir = door.words()
    given = [word for word in words if word.partition("=")[0] not in OWN and not word.startswith("space.")]
    given += [f"method={system}", f"search_spaces={recipe.own_space(system, config_dir)}"]
    given += [*recipe.following(given, config_dir), f"study.seed={seed}", "study.final=0"]
    made: Tune = door.composed("tune", given, config_dir, config.home)
    made.study.name = f"{config.study.name}-{system}-{seed}"
    with refusing():
        plain = to_plain(made)
        load(made.search_spaces, plain)  # refused as it stands in its file
        own = ranges.of_recipe(made.search_spaces, made.ranges, flatten(plain))
        made.search_spaces = shared(own, config.space, flatten(plain))
    return made


def planned(config: Compare) -> dict[Pair, Plan]:
    """Every study as it would run; BadInput where one of them could not, before the first is started."""
    pairs = check(config)
    made = {pair: composed(config, *pair) for pair in pairs}
    plans = {pair: tune.planned(each) for pair, each in made.items()}
    for plan in plans.values():
        same(plan, plans[pairs[0]])
    with refusing():
        assert_writable(folder(config))
        if present(data := plans[pairs[0]].run.dataset) is not None:
            for plan in plans.values():
                preflight.clips(plan.run)
        elif data.name != "demo":
            listing(data.root)
    return plans


def same(plan: Plan, first: Plan) -> None:
    """BadInput where a study would be scored on other scenes than the first, or has had another budget than is asked for."""
    run: Any = plan.run
    name = run.study.name
    for setting, was in flatten(plan.study.config.get("search", {}), "search.").items():
        if (now := flatten(to_plain(run.search), "search.").get(setting)) != was:
            raise BadInput(f"{setting}={now}: the study {name} was started with {was}; choose another study.name")
    if plan.planned > run.study.trials:
        raise BadInput(f"study.trials={run.study.trials}: the study {name} has {plan.planned}; all must have as many")
    if Bench.key(run) != Bench.key(first.run):
        raise BadInput(f"{name} would be scored on other scenes than {first.run.study.name}: {Bench.key(run)}")


def folder(config: Compare) -> str:
    return f"{config.home.rstrip('/')}/comparisons/{config.study.name}"


def task(config: Compare) -> int:
    """Everything between the config and the exit code."""
    plans = planned(config)
    if config.study.plan:
        return show(plans)
    try:
        with session.interruptible(tune.interrupted):
            if code := search(plans):
                return code
            return finish(config, plans)
    except session.Interrupted as stop:
        return session.leave(stop, tune.interrupted(stop))


def show(plans: Mapping[Pair, Plan]) -> int:
    for (system, seed), plan in plans.items():
        print(f"{system}, seed {seed}")
        with refusing():
            forecast.show(plan)
        print()
    return DONE


def search(plans: Mapping[Pair, Plan]) -> int:
    """Run what the studies owe, one study after another; the exit code of the one that was interrupted, else 0."""
    for place, ((system, seed), plan) in enumerate(plans.items(), 1):
        where = f"[{place}/{len(plans)}] {system}, seed {seed}"
        if not engine.lacks(plan):
            print(f"{where}: study {plan.run.study.name} has ended before", flush=True)
            continue
        print(f"{where}: study {plan.run.study.name}", flush=True)
        try:
            if code := tune.run(plan, time.time()):
                return code
        except Nothing as nothing:  # the others go on; the table says so
            print(f"{where}: {nothing}", flush=True)
    return DONE


def finish(config: Compare, plans: Mapping[Pair, Plan]) -> int:
    """Score on test what was not scored yet, print the table, and write it."""
    first = next(iter(plans.values())).run
    try:
        bench = Bench.open(first, "test", first.evaluation.final_scenes)
    except (ValueError, OSError) as error:
        told = " ".join(str(error).split())
        raise BadInput(f"{first.dataset.prepared}, split test: no evaluation scenes: {told}") from error
    entries = [entry(config, pair, plan, bench) for pair, plan in plans.items()]
    if not any(each.contender for each in entries):
        raise Nothing(
            f"{config.study.name}: no system has a usable trial; python -m raymix.leaderboard lists the studies"
        )
    report = ranking.comparison_report(
        config.study.name, entries, ranking.null_baselines(bench, first), bench, first, settings(config, plans)
    )
    text = render_markdown(report)
    with refusing():
        written = write_results(folder(config), report, {TABLE: text.encode()}, document=NUMBERS)
    print(f"\n{text}\nwritten:")
    for path in (*written.files[1:], written.files[0]):
        print(f"  {path}")
    return DONE


def settings(config: Compare, plans: Mapping[Pair, Plan]) -> dict[str, Any]:
    """What the table says of the budget that all studies had, and of what each system was searched by."""
    runs: dict[str, Any] = {system: plan.run for (system, _), plan in plans.items()}
    run = next(iter(runs.values()))
    budget = {
        "trials": run.study.trials, "epochs": run.fit.epochs, "batch": run.fit.batch, "sampler": run.search.sampler,
    }  # fmt: skip
    own = {
        "metric": {system: each.study.metric for system, each in runs.items()},
        "scheduler": {system: each.search.scheduler for system, each in runs.items()},
        "mixture": {system: to_plain(each.mixture) for system, each in runs.items()},
    }
    return {
        "dataset": run.dataset.name,
        "space": config.space,
        "budget": budget,
        "encoder": to_plain(run.encoder),
        **own,
    }


def entry(config: Compare, pair: Pair, plan: Plan, bench: Bench) -> Entry:
    """The best whole checkpoint of a study with its test scores, taken from its ledger where they stand already."""
    study = plan.ledger.read()
    source = Source(plan.uri, study, True)
    try:
        with refusing():
            (best,) = choose(Evaluate(home=config.home, study=plan.uri), source, print)
    except Nothing:
        return Entry(*pair, plan.uri, study, None, {})
    rows = known(study, best, plan.uri, bench)
    if rows is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        print(f"scoring {pair[0]}, seed {pair[1]}: {best.name}, epoch {best.epoch}, on the test split", flush=True)
        rows = ranking.measure(best, bench, device)
        remember(config, plan.uri, best, bench, rows)
    return Entry(*pair, plan.uri, study, best, rows)


def _scenes(bench: Bench) -> list[dict[str, str]]:
    return [{layout: truth.scenes_hash for layout, truth in bench.truth.items()}]


def known(study: Any, best: CandidateCheckpoint, uri: str, bench: Bench) -> Rows | None:
    """What an earlier sitting found for this checkpoint on these scenes."""
    for record in reversed(study.evaluations):
        same = record.get("scenes") == _scenes(bench) and record.get("protocol") == best.run.evaluation.protocol
        paths = [f"{uri}/{each['checkpoint']}" for each in record.get("checkpoints", [])]
        if same and paths == [best.uri] and record.get("rows"):
            rows: Rows = record["rows"]
            return rows
    return None


def remember(config: Compare, uri: str, best: CandidateCheckpoint, bench: Bench, rows: Rows) -> None:
    """The test scores go into the study's ledger, as those of `raymix.evaluate` do."""
    scored = {
        "checkpoint": best.uri.removeprefix(f"{uri}/"), "rank": best.rank, "trial": best.trial, "epoch": best.epoch,
        "scores": ranking.scores(rows, bench.split),
    }  # fmt: skip
    what = {"split": bench.split, "output": folder(config), "protocol": best.run.evaluation.protocol}
    Ledger(uri).append("evaluated", {**what, "scenes": _scenes(bench), "checkpoints": [scored], "rows": rows})


def main() -> None:
    enter(task, "compare", functools.partial(recipe.complete, "compare"))
