"""The state of a study replayed from its records: trials, scores and best checkpoints. Pure functions, no files.

Folding is idempotent: of two records about one (trial, epoch), or about one trial's end, the first counts, so
whatever is written twice around a crash is read once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

EVENT_FIELDS: dict[str, tuple[str, ...]] = {  # each kind of record and the fields that it must bring
    "study": ("name", "objective", "mode", "planned", "space_hash", "seed"),
    "extended": ("planned",),  # the new total
    "exhausted": ("trials", "points"),  # the space has no further point: so many trials in all, of so many points
    "trial_started": ("trial", "params"),
    "scenes": ("scenes_hash", "metric", "chance", "videos", "shuffled"),  # what outcomes on these scenes share
    "epoch_scored": ("trial", "epoch", "metrics"),
    "trial_perturbed": ("trial", "parent", "epoch", "params"),
    "trial_ended": ("trial", "state"),
    "overheads": (),
    "evaluated": (),
}

END_STATES = ("completed", "pruned", "failed")

SHUFFLED_SUFFIX = "_shuffled"  # `val/sounding_accuracy_shuffled` is what `val/sounding_accuracy` is on shuffled audio


@dataclass(frozen=True)
class EpochRecord:
    """One scored epoch; `checkpoint` is a path relative to the study's folder, `seconds` are wall time."""

    metrics: dict[str, float | None]
    training: dict[str, Any]
    checkpoint: str | None
    seconds: float | None
    at: float  # Unix time of the record
    outcomes: dict[str, str] | None = (
        None  # which scenes succeeded: scenes_hash, real, shuffled (`significance.pack_outcomes`)
    )


@dataclass
class TrialRecord:
    """What is known of one trial; `score` is the best of its epochs by the study's objective and mode, not the last."""

    number: int
    objective: str
    mode: str
    params: dict[str, Any] = field(default_factory=dict)  # in force at the last scored epoch
    initial: dict[str, Any] = field(default_factory=dict)  # in force at the first
    state: str = "running"  # until a trial_ended record: running; then one of ENDS
    reason: str = ""
    attempts: int = 0  # trial_started records, one per process that took the trial up
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    perturbed: list[dict[str, Any]] = field(default_factory=list)  # population-based training: parent, epoch, params

    def params_at(self, epoch: int | None) -> dict[str, Any]:
        """The parameters in force in an epoch (None: in the last), which population-based training changes on the way."""
        if epoch is None:
            return self.params
        changes = [each for each in self.perturbed if each["epoch"] <= epoch]
        found: dict[str, Any] = max(changes, key=lambda each: each["epoch"])["params"] if changes else self.initial
        return found or self.params

    @property
    def scores(self) -> dict[int, float]:
        """{epoch: objective} of the epochs with a finite one, in order."""
        return self.values(self.objective)

    def values(self, metric: str) -> dict[int, float]:
        found = ((epoch, self.epochs[epoch].metrics.get(metric)) for epoch in sorted(self.epochs))
        return {epoch: float(value) for epoch, value in found if value is not None}

    def best(self, metric: str | None = None, mode: str | None = None) -> tuple[int, float] | None:
        """(epoch, value) of the best epoch by a metric (default: the objective); the earliest of equals."""
        values = self.values(metric or self.objective)
        if not values:
            return None
        sign = 1 if (mode or self.mode) == "max" else -1
        epoch = max(values, key=lambda e: (sign * values[e], -e))
        return epoch, values[epoch]

    @property
    def best_epoch(self) -> int | None:
        best = self.best()
        return best[0] if best else None

    @property
    def score(self) -> float | None:
        best = self.best()
        return best[1] if best else None

    @property
    def shuffled(self) -> float | None:
        """The objective on shuffled audio, at the best epoch."""
        best = self.best_epoch
        return None if best is None else self.epochs[best].metrics.get(self.objective + SHUFFLED_SUFFIX)

    @property
    def best_checkpoint(self) -> str | None:
        best = self.best_epoch
        return None if best is None else self.epochs[best].checkpoint

    @property
    def last_epoch(self) -> int:
        return max(self.epochs, default=0)


@dataclass
class StudyState:
    """A study as its records tell it."""

    name: str = ""
    objective: str = ""
    mode: str = "max"
    planned: int = 0
    space_hash: str = ""
    uncut_hash: str = ""  # of the space before the clips cut something from it; "" in older ledgers
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    overheads: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    extensions: list[dict[str, Any]] = field(default_factory=list)
    scenes: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # the validation scenes of `outcomes`, by their hash
    exhausted: dict[str, Any] | None = None  # the record of it, until the study is extended
    exists: bool = False  # a "study" record was found
    unreadable: int = 0  # lines or objects that hold no whole record, for instance one torn by a crash

    @property
    def expected(self) -> int:
        """How many trials the study will have: those planned, or fewer where the search space has no further point."""
        return int(self.exhausted["trials"]) if self.exhausted else self.planned

    @property
    def exhaustion(self) -> str:
        """One line where the search space has fewer points than the study has planned trials, else ''."""
        if not self.exhausted:
            return ""
        return (
            f"the search space has no further point: {self.exhausted['points']} points, {self.expected} trials instead of "
            f"{self.planned}; search.repeats=true trains points again, with other seeds"
        )

    @property
    def pending_trials(self) -> list[int]:
        """The expected trial numbers that have not ended: unfinished ones and those never started."""
        return [n for n in range(self.expected) if n not in self.trials or self.trials[n].state not in END_STATES]

    @property
    def finished(self) -> bool:
        return self.exists and not self.pending_trials

    def ranked(self, metric: str | None = None, mode: str | None = None) -> list[TrialRecord]:
        """Trials with a score, best first, the lower number first among equals; failed ones are not ranked."""
        sign = -1 if (mode or self.mode) == "max" else 1
        scored = ((row, row.best(metric, mode)) for row in self.trials.values() if row.state != "failed")
        order = sorted((sign * best[1], row.number) for row, best in scored if best is not None)
        return [self.trials[number] for _, number in order]


def replay_events(records: Iterable[dict[str, Any]]) -> StudyState:
    """Records -> Study; the order of records of different trials does not matter, repeating one changes nothing."""
    records = list(records)
    study = StudyState()
    for record in records:  # trials score by the study's objective, so its own record is applied first, wherever it is
        if record["kind"] == "study":
            apply_event(study, record)
    seen: set[str] = set()
    for record in records:
        if record["id"] not in seen and record["kind"] != "study":
            seen.add(record["id"])
            apply_event(study, record)
    study.trials = dict(sorted(study.trials.items()))
    return study


def apply_event(study: StudyState, record: dict[str, Any]) -> None:
    """Takes one more record into a study that has its "study" record."""
    kind = record["kind"]
    if kind == "study":
        if not study.exists:
            study.exists = True
            study.name, study.objective, study.mode = record["name"], record["objective"], record["mode"]
            study.planned, study.space_hash, study.seed = record["planned"], record["space_hash"], record["seed"]
            study.uncut_hash = record.get("uncut_hash", "")
            study.config, study.versions = record.get("config", {}), record.get("versions", {})
            if record.get("by"):  # it began with study.extend
                study.extensions.append(record)
    elif kind == "extended":
        study.planned = max(study.planned, record["planned"])
        study.exhausted = None
        study.extensions.append(record)
    elif kind == "scenes":
        study.scenes.setdefault(record["scenes_hash"], record)
    elif kind == "exhausted":
        study.exhausted = record
    elif kind == "overheads":
        study.overheads.append(record)
    elif kind == "evaluated":
        study.evaluations.append(record)
    elif "trial" in record:
        number = int(record["trial"])
        _fold_trial(study.trials.setdefault(number, TrialRecord(number, study.objective, study.mode)), record)


def _fold_trial(row: TrialRecord, record: dict[str, Any]) -> None:
    kind = record["kind"]
    if kind == "trial_started":
        row.initial = row.initial or record["params"]
        row.params = row.params or record["params"]
        row.attempts += 1
        row.started = record["at"] if row.started is None else row.started
    elif kind == "epoch_scored":
        epoch = int(record["epoch"])
        if epoch not in row.epochs:
            training, checkpoint, seconds = record.get("training", {}), record.get("checkpoint"), record.get("seconds")
            outcomes = record.get("outcomes")
            row.epochs[epoch] = EpochRecord(record["metrics"], training, checkpoint, seconds, record["at"], outcomes)
    elif kind == "trial_perturbed":
        row.perturbed.append({"parent": record["parent"], "epoch": record["epoch"], "params": record["params"]})
        row.params = record["params"]
    elif kind == "trial_ended" and row.state not in END_STATES:
        row.state, row.reason, row.ended = record["state"], record.get("reason") or "", record["at"]
