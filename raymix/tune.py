"""The door `python -m raymix.tune`: videos in, a search over a Ray cluster, a trusted best checkpoint out.

Also: ray job submit --working-dir . -- python -m raymix.tune ...    The same command again resumes.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run("tune")

import functools
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import Any

from raymix import cli, clip_files, data_limits, door, engine, forecast, lock, preflight, recipe, session
from raymix.config import BadInput, Evaluate, Run, Tune, flatten, from_plain, override, to_plain
from raymix.door import DONE, enter, refusing
from raymix.prepare import present
from raymix.rules import check, problems

POINTS, REJECTED = 1024, 0.1  # random points of a space, and the share of them that its rules may refuse without a word


def load_space(config: Tune) -> tuple[Any, list[str]]:
    """The search space over this config, tried at both ends of every range so that bad values are refused now.

    Ranges are the recipe's where the space leaves that to it; what the command line gives is not searched. Returns also
    a sentence for everything that a person would not expect.
    """
    from raymix import ranges, sampler, search_space

    plain = to_plain(config)
    search_space.load(config.search_spaces, plain)  # refused as it stands in its file
    mapping = ranges.of_recipe(config.search_spaces, config.ranges, flatten(plain))
    given = recipe.settings_of(door.words()[0])
    known = [*mapping["space"], *(mapping.get("fixed") or {})]
    if decided := [name for name in known if name in given]:
        mapping = ranges.without(mapping, decided, flatten(plain))
        if not mapping["space"]:
            raise BadInput(
                "search space: the command line gives every parameter of it; python -m raymix.train trains one"
            )
    space = search_space.load(mapping, plain)
    sampler.build(config.search.sampler, config.study.seed, config.search.startup)
    if config.search.sampler == "grid":
        space.grid()
    base = override(plain, space.fixed)
    for sentence in problems(from_plain(base, Tune)):
        if not ("divisible" in sentence and {"mixture.k", "fit.batch"} & set(space.names)):
            raise BadInput(f"search space, fixed: {sentence}")
    for name, values in space.ends().items():
        for value in values:
            found = [p for p in problems(from_plain(override(base, {name: value}))) if p.startswith(f"{name}=")]
            # A rule between two searched settings says nothing about either's range; `require` says which pairs are drawn.
            crossing = name in ("mixture.k", "fit.batch") and found and "divisible" in found[0]
            crossing = crossing or any(f"{other}=" in found[0] for other in space.names if found and other != name)
            if found and not crossing:
                raise BadInput(f"search space: {found[0]}")
    words = ", ".join(f"{name}={given[name]}" for name in decided)
    return space, [f"search space: {words} from the command line, not searched"] if decided else []


def task(config: Tune) -> int:
    """Everything between the config and the exit code."""
    began = time.time()
    plan = planned(config)
    if config.study.plan:
        with refusing():
            return forecast.show(plan)
    return run(plan, began)


def planned(config: Tune) -> engine.Plan:
    """The study of this config, about to run; BadInput for what can be known before anything starts.

    What the clips cannot carry is cut from the space where they are prepared; else `ready` does it when they are.
    """
    check(config)
    with refusing():
        space, notes = load_space(config)
        fixed: Tune = _fixed(config, space)
        notes += clamp_grace(fixed)
        preflight.settings(fixed)
        there, uncut = present(fixed.dataset) is not None, space.hash
        if there:
            space, fixed, cut = _fitted(fixed, space)
            notes += [*cut, *preflight.clips(fixed)]
        notes += data_limits.doubts(space, flatten(to_plain(fixed)), POINTS, REJECTED)
        plan = engine.plan(fixed, space, space.hash if there else None, uncut)
    plan.config, plan.notes = config, [*recipe.said, *notes]
    return plan


def _fitted(config: Tune, space: Any) -> tuple[Any, Tune, list[str]]:
    """The space and the settings that trials start from, by what the prepared clips can carry, and what was cut."""
    videos = clip_files.videos(config.dataset.prepared, "train")
    space, base, cut = data_limits.fitted(space, config, videos)
    fitted: Tune = from_plain(override(to_plain(config), {**space.fixed, **base}), Tune)
    return space, fitted, cut


def ready(plan: engine.Plan) -> engine.Plan:
    """The plan over clips that are there now, and the newest ledger: another driver may just have ended the study."""
    if plan.config is not None:
        return planned(plan.config)
    with refusing():
        notes = [*recipe.said, *preflight.clips(plan.run)]
    return replace(engine.again(plan), notes=notes)


def clamp_grace(config: Tune) -> list[str]:
    """Set `search.grace` to the number of epochs where it is larger; what that means for the scheduler, in one line."""
    grace, epochs = config.search.grace, config.fit.epochs
    effects = {
        "asha": "no trial is stopped early",
        "median": "no trial is stopped early",
        "pbt": "no trial takes over another's weights",
    }
    if grace <= epochs or config.search.scheduler not in effects:
        return []
    config.search.grace = epochs
    effect = effects[config.search.scheduler]
    return [f"search.grace={grace}: more than fit.epochs={epochs}; {epochs} is used, and {effect}"]


def _fixed(config: Tune, space: Any) -> Tune:
    settled: Tune = from_plain(override(to_plain(config), space.fixed), Tune)
    return settled


def run(plan: engine.Plan, began: float, live: bool | None = None) -> int:
    """Prepare, search, tell, evaluate; shared by `raymix.train`. Interrupted, it names the command that resumes."""
    lost = threading.Event()
    try:
        with session.interruptible(interrupted):
            if not engine.lacks(plan):
                prepare(plan.run)
                return finish(plan, {})
            cut = functools.partial(cut_off, lost)
            with lock.held(plan.uri, plan.run.study.name, cut, functools.partial(print, flush=True)):
                join(plan.run)
                prepare(plan.run)
                plan = ready(plan)
                overheads = {}
                if engine.lacks(plan):
                    for line in forecast.said(plan):
                        print(line, flush=True)
                    overheads = search(plan, began, live, lost)
            return finish(plan, overheads)
    except session.Interrupted as stop:
        return session.leave(stop, interrupted(stop))


def interrupted(stop: session.Interrupted) -> str:
    """What is said of an interrupted study: the signal, and the command that resumes it."""
    return f"{stop}: everything scored so far is kept; go on with: {command()}"


def join(run: Run) -> None:
    """On a cluster of others' making: whether there is room, and storage that all nodes see, is known before any work."""
    if session.machine(run.cluster) is None:
        session.start(run.cluster)
        from raymix import nodes

        nodes.fits(run.cluster, streaming=False)
        nodes.shared(nodes.paths(run))


def search(plan: engine.Plan, began: float, live: bool | None, lost: threading.Event) -> dict[str, Any]:
    session.start(plan.run.cluster)
    try:
        return engine.search(plan, began, live, lost)
    finally:
        session.stop()


def cut_off(lost: threading.Event, why: str) -> None:
    """Another driver may have the study by now: this one ends as if it were told to, and writes nothing more."""
    lost.set()
    print(f"raymix: {why}; this driver ends; go on with: {command()}", file=sys.stderr, flush=True)
    waits = signal.getsignal(signal.SIGTERM)
    # To the main thread: sent to the process it may be this very thread that gets it, while the main one sleeps on.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def insist() -> None:
        if signal.getsignal(signal.SIGTERM) is waits:  # not heard, deep in a request that the storage does not answer
            os._exit(128 + signal.SIGTERM)

    deadline = threading.Timer(session.GRACE, insist)
    deadline.daemon = True
    deadline.start()


def prepare(run: Run) -> None:
    from raymix.prepare import prepare as make

    with refusing():
        make(run.dataset, workers=session.cores(run.cluster))


def command() -> str:
    """The command line that was given, as a person would type it."""
    line = shlex.join([*cli.program(), *sys.argv[1:]])
    settings = "--runtime-env cluster/runtime_env.yaml"
    return f"ray job submit {settings} --working-dir . -- {line}" if lock.job() else line


def finish(plan: engine.Plan, overheads: dict[str, Any]) -> int:
    """The leaderboard, the overheads, the last word on the test split, and the names of what was written."""
    from raymix import leaderboard

    study, name = plan.ledger.read(), plan.run.study.name
    leaderboard.show(study, plan.uri, top=10)
    if overheads:
        print(told(overheads))
    if plan.planned > study.expected or (study.exhausted and plan.run.study.extend):
        asked = (
            f"study.extend={plan.run.study.extend}"
            if plan.run.study.extend
            else f"study.trials={plan.run.study.trials}"
        )
        print(f"{asked}: adds no trial, since the search space has no further point")
    if study.owed:
        print(f"{len(study.owed)} trials are still owed; go on with: {command()}")
    if not study.ranked():
        raise door.Nothing(f"{name}: no trial gave a score; python -m raymix.leaderboard {name} says why")
    print(f"study: {plan.uri} (ledger/, checkpoints/{'' if '://' in plan.uri else ', tensorboard/'})")
    if refusal := preflight.untestable(plan.run) if plan.run.study.final else "":
        print(refusal)
    elif plan.run.study.final:
        from raymix.evaluate import evaluate

        wanted = Evaluate(
            home=plan.run.home, study=plan.uri, top=plan.run.study.final, pictures=plan.run.evaluation.pictures
        )
        evaluate(wanted)
    print(f"more: python -m raymix.leaderboard {name}   python -m raymix.evaluate study={name} top=3")
    return DONE


def told(overheads: dict[str, Any]) -> str:
    """The overheads in one line; what could not be measured is left out."""
    parts = [f"{overheads['seconds']:.0f} s in all"]
    if overheads.get("seconds_to_first_epoch") is not None:
        parts.append(f"first epoch after {overheads['seconds_to_first_epoch']:.0f} s")
    if overheads.get("median_gap_seconds") is not None:
        parts.append(
            f"median {overheads['median_gap_seconds']:.2f} s from one trial to the next ({overheads['gaps']} times)"
        )
    shares = [
        ("step_share", "in training steps"),
        ("data_share", "waiting for data"),
        ("evaluator_share", "evaluator busy"),
    ]
    parts += [f"{overheads[key]:.0%} {words}" for key, words in shares if overheads.get(key) is not None]
    return "time: " + ", ".join(parts)


def main() -> None:
    enter(task, "tune", functools.partial(recipe.complete, "tune"))
