"""Ray Tune searcher over Optuna: the Optuna study is restored from the event log at every start.

What Ray's own OptunaSearch hides: a trial that a scheduler stopped is PRUNED with all its intermediate values, one that met
NaN or ran out of memory is FAIL with its reason, none stays RUNNING. A finished trial's value is the best of its epochs, as
in the leaderboard. Steps are our own `epoch`, since Tune's `training_iteration` starts anew after every restart.

Both carry metric and mode themselves: `tune.TuneConfig` must leave the two unset.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from pyarrow import fs
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from raymix.config import SearchConfig
from raymix.runtime.storage import resolve_uri
from raymix.search.samplers import ConstrainedSampler, allows_duplicates
from raymix.search.schedulers import _best
from raymix.search.space import SearchSpace
from raymix.tracking.study import END_STATES, StudyState, TrialRecord

JOURNAL_FILE = "optuna.journal"

OPTUNA_STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def open_journal(study_uri: str) -> BaseStorage:
    """An empty Optuna storage: a journal file inside a local study (for Optuna's dashboard), else memory.

    A journal that is there already is deleted: the event log is authoritative, and a killed driver may have left the journal locked.
    """
    filesystem, folder = resolve_uri(study_uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        return InMemoryStorage()
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        if name.startswith(JOURNAL_FILE):
            os.remove(os.path.join(folder, name))
    return JournalStorage(JournalFileBackend(os.path.join(folder, JOURNAL_FILE)))


def restore_optuna_study(target: optuna.Study, known: StudyState, space: SearchSpace) -> None:
    """Fills an empty Optuna study so that trial numbers, values, states and reasons are the event log's.

    Numbers that the event log does not know, or not as ended, wait in the queue with what is known of their parameters.
    """
    last = max([*known.trials, min(len(space.initial_points), known.expected) - 1], default=-1)
    for number in range(last + 1):
        row = known.trials.get(number, TrialRecord(number, known.objective, known.mode))
        point = row.params or (space.initial_points[number] if number < len(space.initial_points) else {})
        target.add_trial(_ended(row, space) if row.state in END_STATES else _waiting(row, point))


def _waiting(row: TrialRecord, point: dict[str, Any]) -> FrozenTrial:
    queued = {"fixed_params": point} if point else {}
    return create_trial(state=TrialState.WAITING, system_attrs=queued, intermediate_values=row.scores)


def _ended(row: TrialRecord, space: SearchSpace) -> FrozenTrial:
    state, scores = OPTUNA_STATES[row.state], row.scores
    reason = row.reason
    if state == TrialState.COMPLETE and not scores:
        state, reason = TrialState.FAIL, "ended without a score"
    values = {TrialState.COMPLETE: row.score, TrialState.PRUNED: scores[max(scores)] if scores else None}
    given = row.params_at(row.best_epoch)
    params = {name: value for name, value in given.items() if name in space.distributions}
    trial = create_trial(
        state=state,
        value=values.get(state),
        params=params,
        distributions={name: space.distributions[name] for name in params},
        intermediate_values=scores,
        user_attrs={"reason": reason} if reason else {},
    )
    if row.started and row.ended:
        trial.datetime_start, trial.datetime_complete = map(datetime.fromtimestamp, (row.started, row.ended))
    return trial


SEED_KEY = "training.seed"  # of a repeated point, its own

NO_POINT_LEFT = "the search space has no further point"


class StudyOptunaSearch(OptunaSearch):
    """Deals trial numbers and parameters: `{"trial": 3, "attempt": 1, "params": {dotted name: value}}`.

    Unfinished trials of the event log's `study` come first, under their old numbers and parameters (then `attempt` is above
    1), then the points tried first, then the sampler's. It ends after `study.planned` trials, or when the space has no
    point left that no trial has had; then `on_exhausted` is called once, with the number of trials and of points, and the
    numbers below it that no trial can have.

    With `search.repeats`, and under pbt, points may repeat; the nth repeat of a point trains with `training.seed` = `seed` + n,
    which is among its parameters.

    A result must bring `epoch` and the objective. The last one of a trial has `"ended": "completed"`, or `"ended":
    "failed"` with the reason in `"failed"`; one without `ended` short of `epochs` was stopped by the scheduler.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: StudyState,
        settings: SearchConfig,
        epochs: int,
        storage: BaseStorage | None = None,
        *,
        seed: int = 0,
        on_exhausted: Callable[[int, int, list[int]], object] = lambda trials, points, numbers: None,
    ) -> None:
        storage = storage or InMemoryStorage()
        self.space, self.known, self.epochs = space, study, epochs
        self.seed, self._on_exhausted, self._exhausted = seed, on_exhausted, False
        self._unreachable: list[int] = []  # numbers of queued trials that no point is left for
        self.repeats = allows_duplicates(settings)
        self.sampler = ConstrainedSampler(space, settings.sampler, study.seed, settings.n_startup_trials, self.repeats)
        self._grid = space.grid() if settings.sampler == "grid" else None
        if self._grid:
            np.random.default_rng(study.seed).shuffle(self._grid)
        self._scores: dict[str, dict[int, float]] = {}  # by Tune's trial id
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # no line per trial beside the live table
        super().__init__(
            space=space.suggest,
            metric=study.objective,
            mode=study.mode,
            sampler=self.sampler,
            study_name=study.name,
            storage=storage,
        )
        restore_optuna_study(self.study, study, space)

    @property
    def study(self) -> optuna.Study:
        assert self._ot_study is not None
        return self._ot_study

    def suggest(self, trial_id: str) -> Any:
        if not self._prepare_next():
            return Searcher.FINISHED
        trial = self._ot_trials[trial_id] = self.study.ask()
        point, number = self.space.suggest(trial), trial.number
        row = self.known.trials.get(number)
        self._scores[trial_id] = dict(row.scores) if row else {}
        params = {**(row.params if row and row.params else self._seed_of(point, number)), **point}
        return {"trial": number, "attempt": (row.attempts if row else 0) + 1, "params": params}

    def _prepare_next(self) -> bool:
        """Whether there is another trial to ask Optuna for; its queue then begins with one that can have a point."""
        while True:
            trials = self.study.get_trials(deepcopy=False)
            waiting = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
            if waiting is None:
                if len(trials) >= self.known.expected:
                    return False
                if self._grid is not None and self._queue_grid():
                    continue
                if self._grid is None and self._has_point(len(trials), {}):
                    return True
                self._end_of_space()
                return False
            fixed = waiting.system_attrs.get("fixed_params", {})
            if self._was_started(waiting.number) or self._has_point(waiting.number, fixed):
                return True
            if fixed:  # a point tried first, which another trial has had: one is drawn instead
                self.study._storage.set_trial_system_attr(waiting._trial_id, "fixed_params", {})
            else:
                self.study._storage.set_trial_user_attr(waiting._trial_id, "reason", NO_POINT_LEFT)
                self.study._storage.set_trial_state_values(waiting._trial_id, TrialState.FAIL)
                self._unreachable.append(waiting.number)

    def _was_started(self, number: int) -> bool:
        return number in self.known.trials and bool(self.known.trials[number].params)

    def _has_point(self, number: int, fixed: dict[str, Any]) -> bool:
        return self.repeats or self.sampler.random_point(self.study, number, fixed) is not None

    def _end_of_space(self) -> None:
        if not self._exhausted:
            self._exhausted = True
            points = self.sampler.points(self.study, -1)
            self._on_exhausted(len(self.study.get_trials(deepcopy=False)), len(set(points.values())), self._unreachable)

    def _seed_of(self, point: dict[str, Any], number: int) -> dict[str, int]:
        """Another seed for a point that trials of lower numbers have had, unless the space searches seeds itself."""
        points, own = self.sampler.points(self.study, number), self.space.key_of(point)
        before = sum(other < number and key == own for other, key in points.items())
        return {SEED_KEY: self.seed + before} if before and SEED_KEY not in self.space.names else {}

    def _queue_grid(self) -> bool:
        """Queues the next grid point: one that no trial has had, or, with repeats, of those that the fewest have had."""
        assert self._grid is not None
        times: Counter[str | None] = Counter(self.sampler.points(self.study, -1).values())
        point = min(self._grid, key=lambda point: times[self.space.key_of(point)], default=None)
        if point is None or (times[self.space.key_of(point)] and not self.repeats):
            return False
        self.study.enqueue_trial(point)
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        epoch, value = int(result["epoch"]), result.get(self.metric)
        scores = self._scores[trial_id]
        if "failed" in result or value is None or not math.isfinite(value) or epoch in scores:
            return
        scores[epoch] = float(value)
        self._ot_trials[trial_id].report(float(value), epoch)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        if result and not error:
            self.on_trial_result(trial_id, result)  # Tune keeps the last result of a stopped trial from on_trial_result
        trial, scores = self._ot_trials[trial_id], self._scores[trial_id]
        ended, reason = self._end(result or {}, error, scores)
        if ended == "failed":
            trial.set_user_attr("reason", reason)
        value = _best(scores, self.known.mode) if ended == "completed" else None
        self.study.tell(trial, value, OPTUNA_STATES[ended])

    def _end(self, result: dict[str, Any], error: bool, scores: dict[int, float]) -> tuple[str, str]:
        """How a trial ended, and why if it failed."""
        if error:
            return "failed", "its process was lost"
        if result.get("ended") == "failed" or "failed" in result:
            return "failed", str(result.get("failed") or "unknown")
        if not scores:
            return "failed", "ended without a score"
        whole = result.get("ended") == "completed" or max(scores) >= self.epochs
        return ("completed" if whole else "pruned"), ""

    def close(self) -> None:
        """Puts trials that were interrupted back into the queue, so that none is left RUNNING in the journal."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def save(self, checkpoint_path: str) -> None:
        """Tune would pickle the searcher here; the event log is what a restart reads."""
        with open(checkpoint_path, "w") as note:
            note.write("raymix rebuilds the search from the study's event log\n")

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("the search is rebuilt from the study's event log; run the same command again")
