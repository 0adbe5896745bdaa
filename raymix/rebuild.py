"""An Optuna study rebuilt from the ledger: the same numbers, parameters, values, states and reasons."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from pyarrow import fs

from raymix.space import SearchSpace
from raymix.storage import resolve
from raymix.study import ENDS, Study, TrialRow

JOURNAL = "optuna.journal"
STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def journal(study_uri: str) -> BaseStorage:
    """An empty Optuna storage: a journal file inside a local study (for Optuna's dashboard), else memory.

    A journal that is there already is deleted: the ledger knows better, and a killed driver may have left it locked.
    """
    filesystem, folder = resolve(study_uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        return InMemoryStorage()
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        if name.startswith(JOURNAL):
            os.remove(os.path.join(folder, name))
    return JournalStorage(JournalFileBackend(os.path.join(folder, JOURNAL)))


def rebuild(target: optuna.Study, known: Study, space: SearchSpace) -> None:
    """Fills an empty Optuna study so that trial numbers, values, states and reasons are the ledger's.

    Numbers that the ledger does not know, or not as ended, wait in the queue with what is known of their parameters.
    """
    last = max([*known.trials, min(len(space.first), known.expected) - 1], default=-1)
    for number in range(last + 1):
        row = known.trials.get(number, TrialRow(number, known.objective, known.mode))
        point = row.params or (space.first[number] if number < len(space.first) else {})
        target.add_trial(_ended(row, space) if row.state in ENDS else _waiting(row, point))


def _waiting(row: TrialRow, point: dict[str, Any]) -> FrozenTrial:
    queued = {"fixed_params": point} if point else {}
    return create_trial(state=TrialState.WAITING, system_attrs=queued, intermediate_values=row.scores)


def _ended(row: TrialRow, space: SearchSpace) -> FrozenTrial:
    state, scores = STATES[row.state], row.scores
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
