"""What a study would do, on what, and for how many epochs: said before anything is started (`study.plan=true`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from raymix import preflight, session, upload
from raymix.config import Run
from raymix.datasets import folder
from raymix.engine import Plan, repeats, unreachable
from raymix.prepare import present
from raymix.remaining import survival
from raymix.room import room
from raymix.study import ENDS, Study

POINTS = 2048  # random ones, to find the share that the rules reject


def lines(plan: Plan) -> Iterator[str]:
    """The plan line by line; BadInput, as the study itself would end, where it could not run."""
    run, space, study = plan.run, plan.space, plan.study
    owed = [n for n in range(plan.planned) if n not in study.trials or study.trials[n].state not in ENDS]
    ended = f"{plan.planned - len(owed)} of {plan.planned} trials have ended, {len(owed)} are owed"
    yield f"study: {plan.uri}: {ended if study.exists else f'new, {plan.planned} trials'}"
    yield "storage: a test object was written there and taken away again"
    yield f"clips: {_clips(run)}"
    if space is not None:
        yield from _space(space)
        if study.exhausted and not repeats(run):
            yield f"space: {study.exhaustion}"
        elif missing := unreachable(plan):
            owed = owed[: len(owed) - missing]
            yield (
                f"space: {len(space.points)} points in all, of which none is trained twice: the study ends after "
                f"{plan.planned - missing} trials instead of {plan.planned} (search.repeats=true trains points again, "
                "with other seeds)"
            )
    yield f"search: {_search(run, study, len(owed))}"
    for note in plan.notes:
        yield f"search: {note}"
    yield f"slots: {_slots(run)}"
    if Path("raymix").is_dir() and Path("pyproject.toml").is_file():  # a checkout: what a job would take along
        yield f"upload: {upload.said(upload.of('.'))}"
    yield "nothing was started; the same command without study.plan=true starts it"


def _clips(run: Run) -> str:
    found = present(run.dataset)
    if found is None:
        where = f"the study begins by preparing {run.dataset.root}"
        if run.dataset.name == "folder":
            where += f" ({len(folder.listing(run.dataset.root))} videos)"
        return f"none yet in {run.dataset.prepared}; {where}"
    preflight.clips(run)
    counts = [f"{part['clips']} {split} from {part['videos']} videos" for split, part in found["splits"].items()]
    batches = found["splits"]["train"]["clips"] // run.fit.batch
    return f"{', '.join(counts)} in {run.dataset.prepared}; {batches} batches of {run.fit.batch} an epoch"


def _space(space: Any) -> Iterator[str]:
    width = max(map(len, space.names))
    for name in space.names:
        condition = f", when {space.conditions[name].text}" if name in space.conditions else ""
        yield f"space: {name:{width}}  {_range(space.distributions[name])}{condition}"
    for rule in space.rules:
        yield f"space: requires {rule.text}"
    if space.rules:
        share = space.rejected_share(POINTS)
        yield f"space: the rules reject {share:.0%} of {POINTS} random points, which are drawn anew"
    if space.first:
        yield f"space: {len(space.first)} point{'s' if len(space.first) > 1 else ''} of your own tried first"


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    d: Any = distribution
    how = (", log" if d.log else "") + (f", steps of {d.step:g}" if d.step and d.step != 1 else "")
    return f"{d.low:g} to {d.high:g}{how}"


def _search(run: Run, study: Study, n: int) -> str:
    search, epochs = getattr(run, "search", None), run.fit.epochs
    if search is None:
        return f"one run of {epochs} epochs"
    most, about = n * epochs, n * sum(survival(search.scheduler, epochs, search.grace, search.reduction))
    text = f"{search.sampler} proposes, {search.scheduler} stops; {n} trials of at most {epochs} epochs: "
    text += f"about {about:.0f} epochs ({most} if none were stopped)" if about < most else f"{most} epochs"
    seconds = [e.seconds for row in study.trials.values() for e in row.epochs.values() if e.seconds]
    if seconds:
        text += f"; one took {median(seconds):.1f} s so far, {about * median(seconds) / 3600:.1f} h over all slots"
    return text


def _slots(run: Run) -> str:
    streaming = run.data.cache == "off"
    has = session.machine(run.cluster)
    if has is None:
        session.start(run.cluster)
        try:
            from raymix import nodes

            found = nodes.fits(run.cluster, streaming)
            nodes.shared(nodes.paths(run))
        finally:
            session.stop()
    else:
        found = room(run.cluster, has, streaming)
    where = f"the cluster at {os.environ['RAY_ADDRESS']}" if os.environ.get("RAY_ADDRESS") else "this machine"
    stream = "clips are streamed every epoch, row groups in a new order, shuffled in windows of several"
    kept = {"auto": "clips are shared in the object store if they fit", "on": "clips are shared", "off": stream}
    return f"{found.said} on {where}; {kept[run.data.cache]}"


def show(plan: Plan) -> int:
    """Print the plan of a study."""
    for line in lines(plan):
        print(line, flush=True)
    return 0
