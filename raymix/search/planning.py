"""Planning of a study before Ray starts: its config, search space, folder and pending trials, and checks for resuming."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from raymix.cli import commands, recipes
from raymix.config import (
    ConfigError,
    TrainConfig,
    TuneConfig,
    config_from_plain,
    config_to_plain,
    flatten_config,
    override_config,
)
from raymix.config.errors import value_error_as_config_error
from raymix.config.validation import config_problems, validate_config
from raymix.data import prepared
from raymix.data.preparation.pipeline import find_prepared
from raymix.runtime.storage import assert_writable
from raymix.search import data_limits, preflight
from raymix.search.study_plan import StudyPlan, allows_repeated_points
from raymix.tracking.event_log import EventLog
from raymix.tracking.study import StudyState

RECORDED_PACKAGES = ("raymix", "ray", "torch", "torchvision", "torchaudio", "optuna", "numpy", "pyarrow")


def installed_versions() -> dict[str, str]:
    """Installed versions of what decides a number."""
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def study_uri(run: TrainConfig) -> str:
    """The study's folder: <home>/studies/<name>."""
    if not run.study.name or "/" in run.study.name or run.study.name.startswith("."):
        raise ConfigError(f"study.name={run.study.name!r}: must be a plain name without slashes")
    return f"{run.home.rstrip('/')}/studies/{run.study.name}"


def plan_study(run: TrainConfig, space: Any, space_hash: str | None, uncut: str = "") -> StudyPlan:
    """Read what there is of this study and refuse what does not fit it, before anything is started or written.

    `uncut` is the hash of the space before the clips cut something from it. Without a `space_hash` they are not there yet:
    then only the uncut space is compared with the study's, as far as that has written it down.
    """
    uri = study_uri(run)
    assert_writable(uri)
    event_log = EventLog(uri)
    study = event_log.read()
    if (was := study.config.get("recipe")) and was != run.recipe:
        raise ConfigError(
            f"recipe={run.recipe}: the study {study.name} was started with recipe={was}; add recipe={was} to go on with it, "
            "or choose another study.name"
        )
    before, now = (study.uncut_hash or uncut, uncut) if space_hash is None else (study.space_hash, space_hash)
    if study.exists and before != now:
        raise ConfigError(
            f"study.name={run.study.name}: a study of this name searches another space; choose another study.name"
        )
    if study.exists:
        check_resume_compatible(
            study,
            config_to_plain(run),
            searched=set(space.names) if space is not None and space_hash is None else set(),
        )
    # Of an exhausted space no further trial can be made, unless points may be trained again.
    planned = study.expected if study.exhausted and not allows_repeated_points(run) else total_trials(study, run)
    return StudyPlan(run, space, uri, event_log, study, planned, uncut)


def reload_plan(before: StudyPlan) -> StudyPlan:
    """The same plan with the current state of the event log."""
    return plan_study(before.run, before.space, before.space.hash if before.space else "")


def total_trials(study: StudyState, run: TrainConfig) -> int:
    """How many trials the study shall have: never fewer than planned before, and `study.extend` more.

    The command that extended it, run again before the end, only resumes.
    """
    more = run.study.extend
    before = max(study.planned, run.study.n_trials)
    resumes = bool(study.pending_trials and study.extensions and study.extensions[-1].get("by") == more)
    return before if resumes else before + more


def check_resume_compatible(study: StudyState, plain: dict[str, Any], searched: Collection[str] = ()) -> None:
    """BadInput where a resumed study would be scored or trained otherwise than it began; `searched` names may differ."""
    from raymix.config import flatten_config

    free: tuple[str, ...] = (
        "study.",
        "cluster.",
        "home",
        "data.",
        "search.",
        "evaluation.pictures",
        "evaluation.final",
        "training.num_checkpoints_to_keep",
    )
    free = (*free, "search_spaces", "ranges")
    before, now = flatten_config(study.config), flatten_config(plain)
    differ = [n for n in before if n in now and before[n] != now[n] and not n.startswith(free) and n not in searched]
    settled = {"study.metric": study.objective, "study.mode": study.mode}
    differ = [n for n, was in settled.items() if now[n] != was] + differ
    if differ:
        name = differ[0]
        was = settled.get(name, before.get(name))
        raise ConfigError(
            f"{name}: the study {study.name} was started with {was}"
            f"{f' (and {len(differ) - 1} more settings differ)' if len(differ) > 1 else ''}; choose another study.name"
            f"{_older(before, differ)}"
        )


def _older(before: dict[str, Any], differ: list[str]) -> str:
    """A hint for a study that was started before recipes were written down, at sizes that another recipe may have."""
    sized = any(name.startswith("encoder.") for name in differ)
    return ", or add the recipe that it had (recipe=paper, recipe=demo)" if sized and not before.get("recipe") else ""


def record_study_start(plan: StudyPlan) -> StudyState:
    """Write down that the study starts, or that it grows."""
    run, event_log = plan.run, plan.event_log
    if not plan.study.exists:
        record = {
            "name": run.study.name,
            "objective": run.study.metric,
            "mode": run.study.mode,
            "planned": plan.planned,
            "space_hash": plan.space.hash if plan.space else "",
            "uncut_hash": plan.uncut,
            "seed": run.study.seed,
            "config": config_to_plain(run),
            "versions": installed_versions(),
            "searched": plan.space.names if plan.space else [],
            "by": run.study.extend,
        }
        event_log.append("study", record)
    elif plan.planned > plan.study.expected:
        event_log.append("extended", {"planned": plan.planned, "by": run.study.extend})
    event_log.compact()
    return event_log.read()


TRIED_POINTS, MAX_REJECTED_SHARE = (
    1024,
    0.1,
)  # random points of a space, and the share of them that its rules may refuse without a word


def load_search_space(config: TuneConfig) -> tuple[Any, list[str]]:
    """The search space over this config, tried at both ends of every range so that bad values are refused now.

    Ranges are the recipe's where the space leaves that to it; what the command line gives is not searched. Returns also
    a sentence for everything that a person would not expect.
    """
    from raymix.search import samplers, space_file

    plain = config_to_plain(config)
    space_file.parse_search_space(config.search_spaces, plain)  # errors refer to the file as written
    mapping = space_file.apply_recipe_ranges(config.search_spaces, config.ranges, flatten_config(plain))
    given = recipes.parse_settings(commands.command_line_settings()[0])
    known = [*mapping["space"], *(mapping.get("fixed") or {})]
    if decided := [name for name in known if name in given]:
        mapping = space_file.remove_fixed_parameters(mapping, decided, flatten_config(plain))
        if not mapping["space"]:
            raise ConfigError(
                "search space: the command line gives every parameter of it; python -m raymix.train trains one"
            )
    space = space_file.parse_search_space(mapping, plain)
    samplers.build_sampler(config.search.sampler, config.study.seed, config.search.n_startup_trials)
    if config.search.sampler == "grid":
        space.grid()
    base = override_config(plain, space.fixed)
    for sentence in config_problems(config_from_plain(base, TuneConfig)):
        if not ("divisible" in sentence and {"mixture.k", "training.batch_size"} & set(space.names)):
            raise ConfigError(f"search space, fixed: {sentence}")
    for name, values in space.bounds().items():
        for value in values:
            found = [
                p
                for p in config_problems(config_from_plain(override_config(base, {name: value})))
                if p.startswith(f"{name}=")
            ]
            # A rule between two searched settings does not limit either's range: the space's `constraints` choose the pairs.
            crossing = name in ("mixture.k", "training.batch_size") and found and "divisible" in found[0]
            crossing = crossing or any(f"{other}=" in found[0] for other in space.names if found and other != name)
            if found and not crossing:
                raise ConfigError(f"search space: {found[0]}")
    words = ", ".join(f"{name}={given[name]}" for name in decided)
    return space, [f"search space: {words} from the command line, not searched"] if decided else []


def plan_from_config(config: TuneConfig) -> StudyPlan:
    """The study of this config, about to run; ConfigError for what can be known before anything starts.

    What the clips cannot carry is cut from the space where they are prepared; else `refresh_plan` does it when they are.
    """
    validate_config(config)
    with value_error_as_config_error():
        space, notes = load_search_space(config)
        fixed: TuneConfig = _fixed(config, space)
        notes += clamp_grace_period(fixed)
        preflight.check_run_settings(fixed)
        there, uncut = find_prepared(fixed.dataset) is not None, space.hash
        if there:
            space, fixed, cut = _fitted(fixed, space)
            notes += [*cut, *preflight.clip_warnings(fixed)]
        notes += data_limits.space_warnings(
            space, flatten_config(config_to_plain(fixed)), TRIED_POINTS, MAX_REJECTED_SHARE
        )
        plan = plan_study(fixed, space, space.hash if there else None, uncut)
    plan.config, plan.notes = config, [*recipes.recipe_notes, *notes]
    return plan


def _fitted(config: TuneConfig, space: Any) -> tuple[Any, TuneConfig, list[str]]:
    """The space and the settings that trials start from, by what the prepared clips can carry, and what was cut."""
    videos = prepared.read_video_ids(config.dataset.prepared, "train")
    space, base, cut = data_limits.fit_space_to_data(space, config, videos)
    fitted: TuneConfig = config_from_plain(
        override_config(config_to_plain(config), {**space.fixed, **base}), TuneConfig
    )
    return space, fitted, cut


def refresh_plan(plan: StudyPlan) -> StudyPlan:
    """The plan over clips that are there now, and the newest event log: another driver may just have ended the study."""
    if plan.config is not None:
        return plan_from_config(plan.config)
    with value_error_as_config_error():
        notes = [*recipes.recipe_notes, *preflight.clip_warnings(plan.run)]
    return replace(reload_plan(plan), notes=notes)


def clamp_grace_period(config: TuneConfig) -> list[str]:
    """Set `search.grace_period` to the number of epochs where it is larger; what that means for the scheduler, in one line."""
    grace, epochs = config.search.grace_period, config.training.epochs
    effects = {
        "asha": "no trial is stopped early",
        "median": "no trial is stopped early",
        "pbt": "no trial takes over another's weights",
    }
    if grace <= epochs or config.search.scheduler not in effects:
        return []
    config.search.grace_period = epochs
    effect = effects[config.search.scheduler]
    return [f"search.grace_period={grace}: more than training.epochs={epochs}; {epochs} is used, and {effect}"]


def _fixed(config: TuneConfig, space: Any) -> TuneConfig:
    settled: TuneConfig = config_from_plain(override_config(config_to_plain(config), space.fixed), TuneConfig)
    return settled
