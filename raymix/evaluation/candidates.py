"""Which checkpoints an evaluation scores: a study's best ones, or a lone one, with what the study's event log has about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from raymix.config import ConfigError, EvaluateConfig, TrainConfig, config_from_plain, did_you_mean
from raymix.config.errors import NoUsableResult
from raymix.evaluation.validation import CandidateCheckpoint
from raymix.methods import method_from_config
from raymix.methods.base import Method
from raymix.runtime.storage import resolve_uri
from raymix.tracking import checkpoint
from raymix.tracking.checkpoint import CorruptCheckpointError
from raymix.tracking.event_log import EventLog
from raymix.tracking.study import StudyState

Echo = Callable[[str], Any]

_PLACE = re.compile(r"(?P<study>.+)/checkpoints/trial-(?P<trial>\d+)[^/]*/epoch-(?P<epoch>\d+)/?$")


def load_method(uri: str) -> tuple[Method, TrainConfig]:
    """A trained method and its run from a checkpoint, which carries all it needs."""
    whole = checkpoint.load_checkpoint_weights(uri)
    run: TrainConfig = config_from_plain(whole.config)
    method = method_from_config(run, pretrained=False)
    method.load_state_dict(whole.weights)
    return method, run


@dataclass(frozen=True)
class CheckpointSource:
    """The study that is scored, or that a lone checkpoint came from; without either, `study` is empty."""

    uri: str
    study: StudyState
    named: bool  # by the person: its event log may be written to

    @staticmethod
    def find(settings: EvaluateConfig) -> CheckpointSource:
        if settings.study:
            name, home = settings.study, settings.home.rstrip("/")
            whole = "://" in name or name.startswith(("/", "~"))
            uri = name.rstrip("/") if whole else f"{home}/studies/{name}"
            study = EventLog(uri).read()
            if not study.exists:
                there = [] if whole else _studies(home)
                hint = (
                    did_you_mean(name, there)
                    if there
                    else ""
                    if whole
                    else f" (there is none yet under {home}/studies)"
                )
                raise ConfigError(f"study={name}: no such study at {uri}{hint}")
            return CheckpointSource(uri, study, True)
        place = _PLACE.match(settings.checkpoint or "")
        uri = place["study"] if place else ""
        return CheckpointSource(uri, EventLog(uri).read() if uri else StudyState(), False)


def _studies(home: str) -> list[str]:
    filesystem, path = resolve_uri(f"{home}/studies")
    listing = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in listing if info.type == fs.FileType.Directory]


def choose_checkpoints(settings: EvaluateConfig, source: CheckpointSource, echo: Echo) -> list[CandidateCheckpoint]:
    """The checkpoints to score, best first; of a study, torn ones give way to the next best trial's."""
    if settings.checkpoint:
        uri = settings.checkpoint.rstrip("/")
        if source.named and "://" not in uri and not uri.startswith(("/", "~")):
            uri = f"{source.uri}/{uri}"
        return [_candidate(uri, source, 1)]
    name, ranked = source.study.name, source.study.ranked()
    with_checkpoint = [row for row in ranked if row.best_checkpoint]
    if not with_checkpoint:
        raise NoUsableResult(
            f"study {name}: no trial has a scored checkpoint; python -m raymix.leaderboard {name} says why"
        )
    found: list[CandidateCheckpoint] = []
    torn: list[str] = []
    for row in with_checkpoint:
        if len(found) < settings.top:
            try:
                found.append(_candidate(f"{source.uri}/{row.best_checkpoint}", source, ranked.index(row) + 1))
            except CorruptCheckpointError as error:
                torn.append(str(error))
                echo(f"trial {row.number} (rank {ranked.index(row) + 1}) is passed over: {error}")
    if not found:
        more = f" (and {len(torn) - 1} more)" if len(torn) > 1 else ""
        raise ConfigError(f"study {name}: no whole checkpoint: {torn[0]}{more}")
    if len(found) < settings.top:
        echo(f"top={settings.top}: the study has {len(found)} usable checkpoint{'s' if len(found) > 1 else ''}")
    return found


def _candidate(uri: str, source: CheckpointSource, rank: int) -> CandidateCheckpoint:
    """A checkpoint with its record in the event log; raises CorruptCheckpointError where it is not complete."""
    method, run = load_method(uri)
    place = _PLACE.match(uri)
    if place is None:
        return CandidateCheckpoint(uri.rsplit("/", 1)[-1], uri, method, run, rank, None, None, {}, {})
    trial, epoch = int(place["trial"]), int(place["epoch"])
    row = source.study.trials.get(trial)
    scored = row.epochs.get(epoch) if row else None
    # population-based training starts folders anew: recorded numbers are this checkpoint's only if the record names it
    recorded = scored.metrics if scored and scored.checkpoint and uri.endswith(scored.checkpoint) else {}
    return CandidateCheckpoint(
        f"trial {trial}", uri, method, run, rank, trial, epoch, row.params_at(epoch) if row else {}, dict(recorded)
    )
