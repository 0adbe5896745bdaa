"""A study from start to end: what is owed is read from the ledger, slots are filled with trials, what happens is recorded.

The same call resumes: Optuna's study, the scheduler's memory and the trials' positions are rebuilt from the ledger each
time, and nothing that Ray Tune pickles is ever read back.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from raymix import session
from raymix.config import BadInput, Run, to_plain
from raymix.ledger import Ledger
from raymix.storage import assert_writable, resolve
from raymix.study import Study

LOST_SLOTS = 20  # that a trial survives
PACKAGES = ("raymix", "ray", "torch", "torchvision", "torchaudio", "optuna", "numpy", "pyarrow")


@dataclass
class Plan:
    """A study about to run: its config, space, folder, ledger, and what the ledger says."""

    run: Run
    space: Any  # SearchSpace, or None for a single run
    uri: str
    ledger: Ledger
    study: Study
    planned: int
    uncut: str = ""  # hash of the space before the clips cut something from it
    config: Any = None  # the settings before the space and the clips changed some; of a search alone
    notes: list[str] = field(default_factory=list)  # sentences for the person, about space and clips


def versions() -> dict[str, str]:
    """Installed versions of what decides a number."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def place(run: Run) -> str:
    """The study's folder: <home>/studies/<name>."""
    if not run.study.name or "/" in run.study.name or run.study.name.startswith("."):
        raise BadInput(f"study.name={run.study.name!r}: must be a plain name without slashes")
    return f"{run.home.rstrip('/')}/studies/{run.study.name}"


def plan(run: Run, space: Any, space_hash: str | None, uncut: str = "") -> Plan:
    """Read what there is of this study and refuse what does not fit it, before anything is started or written.

    `uncut` is the hash of the space before the clips cut something from it. Without a `space_hash` they are not there yet:
    then only the uncut space is compared with the study's, as far as that has written it down.
    """
    uri = place(run)
    assert_writable(uri)
    ledger = Ledger(uri)
    study = ledger.read()
    if (was := study.config.get("recipe")) and was != run.recipe:
        raise BadInput(
            f"recipe={run.recipe}: the study {study.name} was started with recipe={was}; add recipe={was} to go on with it, "
            "or choose another study.name"
        )
    before, now = (study.uncut_hash or uncut, uncut) if space_hash is None else (study.space_hash, space_hash)
    if study.exists and before != now:
        raise BadInput(
            f"study.name={run.study.name}: a study of this name searches another space; choose another study.name"
        )
    if study.exists:
        same(study, to_plain(run), searched=set(space.names) if space is not None and space_hash is None else set())
    # Of an exhausted space no further trial can be made, unless points may be trained again.
    planned = study.expected if study.exhausted and not repeats(run) else total(study, run)
    return Plan(run, space, uri, ledger, study, planned, uncut)


def again(before: Plan) -> Plan:
    """The same plan by what the ledger says now."""
    return plan(before.run, before.space, before.space.hash if before.space else "")


def lacks(plan: Plan) -> bool:
    """Whether there are trials to run."""
    if not plan.study.exists or plan.study.owed:
        return True
    return plan.planned - plan.study.expected > unreachable(plan)


def unreachable(plan: Plan) -> int:
    """How many of the planned trials cannot exist, since a small space has too few points that no trial has had."""
    if plan.space is None or repeats(plan.run) or plan.space.points is None:
        return 0
    rows = plan.study.trials.values()
    tried = {plan.space.key_of(row.params) for row in rows}
    new = sum(plan.space.key_of(point) not in tried for point in plan.space.points)
    return max(0, plan.planned - len(plan.study.trials) - new)


def repeats(run: Run) -> bool:
    """Whether the trials of a run's search may have the same point."""
    settings = getattr(run, "search", None)
    if settings is None:
        return False
    from raymix.sampler import may_repeat

    return may_repeat(settings)


def total(study: Study, run: Run) -> int:
    """How many trials the study shall have: never fewer than planned before, and `study.extend` more.

    The command that extended it, run again before the end, only resumes.
    """
    more = run.study.extend
    before = max(study.planned, run.study.trials)
    resumes = bool(study.owed and study.extensions and study.extensions[-1].get("by") == more)
    return before if resumes else before + more


def same(study: Study, plain: dict[str, Any], searched: Collection[str] = ()) -> None:
    """BadInput where a resumed study would be scored or trained otherwise than it began; `searched` names may differ."""
    from raymix.config import flatten

    free: tuple[str, ...] = (
        "study.",
        "cluster.",
        "home",
        "data.",
        "search.",
        "evaluation.pictures",
        "evaluation.final",
        "fit.keep",
    )
    free = (*free, "search_spaces", "ranges")
    before, now = flatten(study.config), flatten(plain)
    differ = [n for n in before if n in now and before[n] != now[n] and not n.startswith(free) and n not in searched]
    settled = {"study.metric": study.objective, "study.mode": study.mode}
    differ = [n for n, was in settled.items() if now[n] != was] + differ
    if differ:
        name = differ[0]
        was = settled.get(name, before.get(name))
        raise BadInput(
            f"{name}: the study {study.name} was started with {was}"
            f"{f' (and {len(differ) - 1} more settings differ)' if len(differ) > 1 else ''}; choose another study.name"
            f"{_older(before, differ)}"
        )


def _older(before: dict[str, Any], differ: list[str]) -> str:
    """A hint for a study that was started before recipes were written down, at sizes that another recipe may have."""
    sized = any(name.startswith("encoder.") for name in differ)
    return ", or add the recipe that it had (recipe=paper, recipe=demo)" if sized and not before.get("recipe") else ""


def begin(plan: Plan) -> Study:
    """Write down that the study starts, or that it grows."""
    run, ledger = plan.run, plan.ledger
    if not plan.study.exists:
        record = {
            "name": run.study.name, "objective": run.study.metric, "mode": run.study.mode, "planned": plan.planned,
            "space_hash": plan.space.hash if plan.space else "", "uncut_hash": plan.uncut, "seed": run.study.seed,
            "config": to_plain(run),
            "versions": versions(), "searched": plan.space.names if plan.space else [], "by": run.study.extend,
        }  # fmt: skip
        ledger.append("study", record)
    elif plan.planned > plan.study.expected:
        ledger.append("extended", {"planned": plan.planned, "by": run.study.extend})
    ledger.compact()
    return ledger.read()


def search(plan: Plan, began: float, live: bool | None, lost: threading.Event) -> dict[str, Any]:
    """Run every trial that the study owes; Ray runs already. Returns the overheads of this sitting.

    Once `lost` is set another driver may have the study: nothing is written to it any more.
    """
    from raymix.record import Recorder
    from raymix.remaining import survival
    from raymix.watch import Watch

    run, study = plan.run, begin(plan)
    if not study.owed:
        return {}
    settings = getattr(run, "search", None)
    expected = survival(settings.scheduler, run.fit.epochs, settings.grace, settings.reduction) if settings else None
    watch = Watch(study, run.fit.epochs, live, expected)
    recorder = Recorder(plan.ledger, plan.uri, study, run.fit.keep, watch, began)
    stopped, found = "", {}
    try:
        _fill_slots(plan, study, watch, recorder)
    except BaseException as error:
        stopped = type(error).__name__
        raise
    finally:
        watch.close()
        if not lost.is_set():
            found = recorder.close(stopped)
            settle(plan)
    return found


def _fill_slots(plan: Plan, study: Study, watch: Any, recorder: Any) -> None:
    import ray

    from raymix import census, nodes
    from raymix.slot import reserve
    from raymix.stream import refusing_rows
    from raymix.watch import WORKERS

    run, c = plan.run, plan.run.cluster
    watch.phase("reading clips")
    shared, slots, warmed = gather(plan, study, watch)

    def renew() -> None:
        if c.elastic:
            reserve(run.study.name, shared.evaluator, c.evaluator_cpus, c.evaluator_gpus)

    with census.watching(c, not shared.source.parts, watch.say, renew):
        watch.phase("starting the evaluator")
        with refusing_rows():
            ray.get(warmed)
        watch.phase(WORKERS)
        nodes.shared(nodes.paths(run))  # once more: by now nodes have come
        renew()
        tuner(plan, study, shared, recorder, slots).fit()


def settle(plan: Plan) -> None:
    """After the last trial, or an interruption: checkpoints that nothing refers to go, and Optuna's journal says what
    the ledger says, so that no trial is left RUNNING in it."""
    from raymix import checkpoint
    from raymix.rebuild import journal
    from raymix.suggest import OptunaSuggest

    plan.ledger.compact()
    study = plan.ledger.read()
    for path in checkpoint.orphans(plan.uri, study.trials.values()):
        checkpoint.delete(f"{plan.uri}/{path}")
    if plan.space is not None:
        run: Any = plan.run
        OptunaSuggest(plan.space, study, run.search, run.fit.epochs, journal(plan.uri))


def gather(plan: Plan, study: Study, watch: Any) -> tuple[Any, int, Any]:
    """What all trials share (evaluator, decoded clips, mailbox), the number of slots, and the evaluator's first answer."""
    from raymix import nodes
    from raymix.mailbox import Mailbox
    from raymix.methods import needs
    from raymix.scoring_actor import ScoringActor
    from raymix.stream import open_source
    from raymix.trial import Shared

    session.hush()  # once more: the import of ray.data sets its own level
    run, plain = plan.run, {k: v for k, v in to_plain(plan.run).items() if k in Run.__dataclass_fields__}
    c = run.cluster
    source = open_source(run, needs(run))
    room = nodes.fits(c, streaming=not source.parts)
    watch.say(f"data: {source.how}")
    watch.say(f"slots: {room.said}")
    options = {"num_cpus": c.evaluator_cpus, "num_gpus": c.evaluator_gpus, "scheduling_strategy": nodes.beside(room)}
    evaluator = ScoringActor.options(**options).remote(threads=max(1, int(c.evaluator_cpus)))  # type: ignore[attr-defined]
    warmed = evaluator.warm.remote(plain)
    mailbox = Mailbox.options(scheduling_strategy=nodes.here()).remote()  # type: ignore[attr-defined]
    positions(study, plan.uri, mailbox)
    return Shared(plain, plan.uri, mailbox, evaluator, source), room.slots, warmed


def positions(study: Study, uri: str, mailbox: Any) -> None:
    """Tell the mailbox how far each unfinished trial was scored."""
    import ray

    from raymix.mailbox import Position

    for number in study.owed:
        row = study.trials.get(number)
        if row and row.epochs:
            path = row.epochs[row.last_epoch].checkpoint or ""
            folder = path.split("/")[-2] if path.count("/") else ""
            score = row.scores.get(row.last_epoch, 0.0)
            lineage = int(folder.rsplit(".", 1)[1]) if "." in folder else 0
            ray.get(mailbox.place.remote(number, Position(row.last_epoch, f"{uri}/{path}", lineage, score)))


def tuner(plan: Plan, study: Study, shared: Any, recorder: Any, slots: int) -> Any:
    """Ray Tune over slots: as many trials in flight as there are slots, each in an actor that waits for its slot."""
    from ray import tune

    from raymix import nodes
    from raymix.trial import Trial

    run = plan.run
    filesystem, path = resolve(f"{plan.uri}/slots")
    many: dict[str, Any] = {}
    if plan.space is not None:
        from raymix.rebuild import journal
        from raymix.suggest import OptunaSuggest, scheduler

        settings, epochs = run.search, run.fit.epochs  # type: ignore[attr-defined]
        searcher = OptunaSuggest(
            plan.space, study, settings, epochs, journal(plan.uri), seed=run.fit.seed, on_exhausted=recorder.exhausted
        )
        chosen = scheduler(settings, study, epochs, plan.space)
        recorder.referenced = getattr(chosen, "referenced", frozenset)
        many = {"search_alg": searcher, "scheduler": chosen}
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(Trial, shared=shared), nodes.waiting(run.cluster)),
        param_space=None if plan.space else {"trial": 0, "params": {}},
        tune_config=tune.TuneConfig(
            num_samples=len(study.owed), max_concurrent_trials=slots, reuse_actors=True,
            trial_name_creator=str, trial_dirname_creator=lambda trial: trial.trial_id, **many,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{int(time.time())}", storage_path=path, storage_filesystem=filesystem, verbose=0,
            callbacks=[recorder], failure_config=tune.FailureConfig(max_failures=LOST_SLOTS),
        ),
    )  # fmt: skip
