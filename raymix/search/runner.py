"""Running a study: pending trials are read from the event log and run in slots, and every event is recorded.

The same call resumes: Optuna's study, the scheduler's memory and the progress of the trials are rebuilt from the event log each
time, and nothing that Ray Tune pickles is ever read back.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import sys
import threading
import time
from typing import Any

from raymix import cli
from raymix.config import EvaluateConfig, TrainConfig, config_to_plain, errors
from raymix.config.errors import EXIT_DONE, value_error_as_config_error
from raymix.runtime import lease, ray_cluster
from raymix.runtime.storage import resolve_uri
from raymix.search import dry_run, preflight, study_plan
from raymix.search.planning import record_study_start, refresh_plan
from raymix.search.study_plan import StudyPlan
from raymix.tracking.study import StudyState

MAX_LOST_SLOTS = 20  # that a trial survives


def run_trials(plan: StudyPlan, began: float, live: bool | None, lost: threading.Event) -> dict[str, Any]:
    """Run every trial that is still to be run; Ray is already running. Returns the overheads of this driver run.

    Once `lost` is set another driver may have the study: nothing is written to it any more.
    """
    from raymix.search.callbacks import ProgressReporter, StudyCallback
    from raymix.search.time_left import expected_survival

    run, study = plan.run, record_study_start(plan)
    if not study.pending_trials:
        return {}
    settings = getattr(run, "search", None)
    expected = (
        expected_survival(settings.scheduler, run.training.epochs, settings.grace_period, settings.reduction_factor)
        if settings
        else None
    )
    reporter = ProgressReporter(study, run.training.epochs, live, expected)
    callback = StudyCallback(plan.event_log, plan.uri, study, run.training.num_checkpoints_to_keep, reporter, began)
    stopped, found = "", {}
    try:
        _fill_slots(plan, study, reporter, callback)
    except BaseException as error:
        stopped = type(error).__name__
        raise
    finally:
        reporter.close()
        if not lost.is_set():
            found = callback.close(stopped)
            finalize_study(plan)
    return found


def _fill_slots(plan: StudyPlan, study: StudyState, reporter: Any, callback: Any) -> None:
    import ray

    from raymix.data.loader import report_bad_rows
    from raymix.runtime import cluster_changes, cluster_nodes
    from raymix.search.callbacks import WORKERS_PHASE

    run, c = plan.run, plan.run.cluster
    reporter.phase("reading clips")
    shared, slots, warmed = create_study_context(plan, study, reporter)

    with cluster_changes.watch_node_changes(c, not shared.source.parts, reporter.say):
        reporter.phase("starting the evaluator")
        with report_bad_rows():
            ray.get(warmed)
        reporter.phase(WORKERS_PHASE)
        cluster_nodes.check_shared_paths(cluster_nodes.local_path_settings(run))  # once more: by now nodes have come
        build_tuner(plan, study, shared, callback, slots).fit()


def finalize_study(plan: StudyPlan) -> None:
    """After the last trial or an interruption: delete unreferenced checkpoints and write Optuna's journal anew from the
    event log, so that no trial is left RUNNING in it."""
    from raymix.search.optuna_searcher import StudyOptunaSearch, open_journal
    from raymix.tracking import checkpoint

    plan.event_log.compact()
    study = plan.event_log.read()
    for path in checkpoint.unreferenced_checkpoints(plan.uri, study.trials.values()):
        checkpoint.delete_checkpoint(f"{plan.uri}/{path}")
    if plan.space is not None:
        run: Any = plan.run
        StudyOptunaSearch(plan.space, study, run.search, run.training.epochs, open_journal(plan.uri))


def create_study_context(plan: StudyPlan, study: StudyState, reporter: Any) -> tuple[Any, int, Any]:
    """Return what all trials share (scoring actor, clips, coordinator), the number of slots, and a reference to wait for."""
    from raymix.data.loader import open_clip_source
    from raymix.methods import data_requirements
    from raymix.runtime import cluster_nodes
    from raymix.search.scoring_actor import ScoringActor
    from raymix.search.trainable import StudyContext
    from raymix.training.coordinator import TrialCoordinator

    ray_cluster.quiet_ray_logs()  # once more: the import of ray.data sets its own level
    run, plain = plan.run, {k: v for k, v in config_to_plain(plan.run).items() if k in TrainConfig.__dataclass_fields__}
    c = run.cluster
    source = open_clip_source(run, data_requirements(run))
    capacity = cluster_nodes.check_cluster_capacity(c, streaming=not source.parts)
    reporter.say(f"data: {source.description}")
    reporter.say(f"slots: {capacity.description}")
    options = {
        "num_cpus": c.evaluator_cpus,
        "num_gpus": c.evaluator_gpus,
        "scheduling_strategy": cluster_nodes.scoring_actor_scheduling(capacity),
    }
    evaluator = ScoringActor.options(**options).remote(threads=max(1, int(c.evaluator_cpus)))  # type: ignore[attr-defined]
    warmed = evaluator.warm.remote(plain)
    coordinator = TrialCoordinator.options(scheduling_strategy=cluster_nodes.driver_node_scheduling()).remote()  # type: ignore[attr-defined]
    restore_trial_progress(study, plan.uri, coordinator)
    return StudyContext(plain, plan.uri, coordinator, evaluator, source), capacity.slots, warmed


def restore_trial_progress(study: StudyState, uri: str, coordinator: Any) -> None:
    """Pass the progress of each unfinished trial to the coordinator."""
    import ray

    from raymix.training.coordinator import TrialProgress

    for number in study.pending_trials:
        row = study.trials.get(number)
        if row and row.epochs:
            path = row.epochs[row.last_epoch].checkpoint or ""
            folder = path.split("/")[-2] if path.count("/") else ""
            score = row.scores.get(row.last_epoch, 0.0)
            lineage = int(folder.rsplit(".", 1)[1]) if "." in folder else 0
            ray.get(
                coordinator.set_progress.remote(number, TrialProgress(row.last_epoch, f"{uri}/{path}", lineage, score))
            )


def build_tuner(plan: StudyPlan, study: StudyState, shared: Any, callback: Any, slots: int) -> Any:
    """A Ray Tune `Tuner` with as many concurrent trials as slots, each in an actor that waits for its slot."""
    from ray import tune

    from raymix.runtime import cluster_nodes
    from raymix.search.trainable import StandingTrainable

    run = plan.run
    filesystem, path = resolve_uri(f"{plan.uri}/slots")
    many: dict[str, Any] = {}
    if plan.space is not None:
        from raymix.search.optuna_searcher import StudyOptunaSearch, open_journal
        from raymix.search.schedulers import build_scheduler

        settings, epochs = run.search, run.training.epochs  # type: ignore[attr-defined]
        searcher = StudyOptunaSearch(
            plan.space,
            study,
            settings,
            epochs,
            open_journal(plan.uri),
            seed=run.training.seed,
            on_exhausted=callback.exhausted,
        )
        chosen = build_scheduler(settings, study, epochs, plan.space)
        callback.referenced = getattr(chosen, "referenced", frozenset)
        many = {"search_alg": searcher, "scheduler": chosen}
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(StandingTrainable, shared=shared), cluster_nodes.trial_actor_resources(run.cluster)
        ),
        param_space=None if plan.space else {"trial": 0, "params": {}},
        tune_config=tune.TuneConfig(
            num_samples=len(study.pending_trials),
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_name_creator=str,
            trial_dirname_creator=lambda trial: trial.trial_id,
            **many,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{int(time.time())}",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=MAX_LOST_SLOTS),
        ),
    )


def run_study(plan: study_plan.StudyPlan, began: float, live: bool | None = None) -> int:
    """Prepare the data, search, print the leaderboard, evaluate; used by `raymix.train` too. Returns the exit code."""
    lost = threading.Event()
    try:
        with ray_cluster.handle_interrupts(interruption_message):
            if not study_plan.has_pending_trials(plan):
                prepare_clips(plan.run)
                return finish_study(plan, {})
            cut = functools.partial(abandon_study, lost)
            with lease.study_lease(plan.uri, plan.run.study.name, cut, functools.partial(print, flush=True)):
                join_cluster(plan.run)
                prepare_clips(plan.run)
                plan = refresh_plan(plan)
                overheads = {}
                if study_plan.has_pending_trials(plan):
                    for line in dry_run.start_notes(plan):
                        print(line, flush=True)
                    overheads = search_on_cluster(plan, began, live, lost)
            return finish_study(plan, overheads)
    except ray_cluster.InterruptedBySignal as stop:
        return ray_cluster.exit_after_interrupt(stop, interruption_message(stop))


def interruption_message(stop: ray_cluster.InterruptedBySignal) -> str:
    """The message after an interruption: the signal, and the command that resumes it."""
    return f"{stop}: everything scored so far is kept; go on with: {command_line()}"


def join_cluster(run: TrainConfig) -> None:
    """On a cluster that raymix did not start: check capacity and shared storage before any work."""
    if ray_cluster.local_machine_resources(run.cluster) is None:
        ray_cluster.start_or_join_ray(run.cluster)
        from raymix.runtime import cluster_nodes

        cluster_nodes.check_cluster_capacity(run.cluster, streaming=False)
        cluster_nodes.check_shared_paths(cluster_nodes.local_path_settings(run))


def search_on_cluster(
    plan: study_plan.StudyPlan, began: float, live: bool | None, lost: threading.Event
) -> dict[str, Any]:
    ray_cluster.start_or_join_ray(plan.run.cluster)
    try:
        return run_trials(plan, began, live, lost)
    finally:
        ray_cluster.stop_ray()


def abandon_study(lost: threading.Event, why: str) -> None:
    """Another driver may have the study by now: this one stops as after SIGTERM, and writes nothing more."""
    lost.set()
    print(f"raymix: {why}; this driver ends; go on with: {command_line()}", file=sys.stderr, flush=True)
    waits = signal.getsignal(signal.SIGTERM)
    # To the main thread: sent to the process it may be this very thread that gets it, while the main one sleeps on.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def insist() -> None:
        if signal.getsignal(signal.SIGTERM) is waits:  # not handled: blocked in a storage request without an answer
            os._exit(128 + signal.SIGTERM)

    deadline = threading.Timer(ray_cluster.GRACE, insist)
    deadline.daemon = True
    deadline.start()


def prepare_clips(run: TrainConfig) -> None:
    from raymix.data.preparation.pipeline import prepare_dataset

    with value_error_as_config_error():
        prepare_dataset(run.dataset, workers=ray_cluster.local_cpu_count(run.cluster))


def command_line() -> str:
    """The command line that was given, as a person would type it."""
    line = shlex.join([*cli.program_words(), *sys.argv[1:]])
    settings = "--runtime-env cluster/runtime_env.yaml"
    return f"ray job submit {settings} --working-dir . -- {line}" if lease.submission_id() else line


def finish_study(plan: study_plan.StudyPlan, overheads: dict[str, Any]) -> int:
    """The leaderboard, the overheads, the last word on the test split, and the names of what was written."""
    from raymix.reporting import leaderboard

    study, name = plan.event_log.read(), plan.run.study.name
    leaderboard.print_leaderboard(study, plan.uri, top=10)
    if overheads:
        print(format_overheads(overheads))
    if plan.planned > study.expected or (study.exhausted and plan.run.study.extend):
        asked = (
            f"study.extend={plan.run.study.extend}"
            if plan.run.study.extend
            else f"study.n_trials={plan.run.study.n_trials}"
        )
        print(f"{asked}: adds no trial, since the search space has no further point")
    if study.pending_trials:
        print(f"{len(study.pending_trials)} trials are still pending; go on with: {command_line()}")
    if not study.ranked():
        raise errors.NoUsableResult(f"{name}: no trial gave a score; python -m raymix.leaderboard {name} says why")
    print(f"study: {plan.uri} (ledger/, checkpoints/{'' if '://' in plan.uri else ', tensorboard/'})")
    if refusal := preflight.untestable_reason(plan.run) if plan.run.study.final else "":
        print(refusal)
    elif plan.run.study.final:
        from raymix.evaluation.study_evaluation import final_evaluation

        wanted = EvaluateConfig(
            home=plan.run.home, study=plan.uri, top=plan.run.study.final, pictures=plan.run.evaluation.pictures
        )
        final_evaluation(wanted, print)
    print(f"more: python -m raymix.leaderboard {name}   python -m raymix.evaluate study={name} top=3")
    return EXIT_DONE


def format_overheads(overheads: dict[str, Any]) -> str:
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
