"""What a study is going to run: the plan, and which of its trials are still to be run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from raymix.config import TrainConfig
from raymix.tracking.event_log import EventLog
from raymix.tracking.study import StudyState


@dataclass
class StudyPlan:
    """A study about to run: its config, search space, folder, event log, and the state replayed from that log."""

    run: TrainConfig
    space: Any  # SearchSpace, or None for a single run
    uri: str
    event_log: EventLog
    study: StudyState
    planned: int
    uncut: str = ""  # hash of the space before the clips cut something from it
    config: Any = None  # the settings before the space and the clips changed some; of a search alone
    notes: list[str] = field(default_factory=list)  # sentences for the person, about space and clips


def has_pending_trials(plan: StudyPlan) -> bool:
    """Whether there are trials to run."""
    if not plan.study.exists or plan.study.pending_trials:
        return True
    return plan.planned - plan.study.expected > unreachable_trials(plan)


def unreachable_trials(plan: StudyPlan) -> int:
    """How many of the planned trials cannot exist, since a small space has too few points that no trial has had."""
    if plan.space is None or allows_repeated_points(plan.run) or plan.space.points is None:
        return 0
    rows = plan.study.trials.values()
    tried = {plan.space.key_of(row.params) for row in rows}
    new = sum(plan.space.key_of(point) not in tried for point in plan.space.points)
    return max(0, plan.planned - len(plan.study.trials) - new)


def allows_repeated_points(run: TrainConfig) -> bool:
    """Whether the trials of a run's search may have the same point."""
    settings = getattr(run, "search", None)
    if settings is None:
        return False
    from raymix.search.samplers import allows_duplicates

    return allows_duplicates(settings)
