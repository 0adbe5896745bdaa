"""`study.dry_run=true`: what a study would do and cost, from timed training steps and scored scenes."""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterator
from statistics import median
from typing import Any

from pyarrow import fs

from raymix.config import TrainConfig
from raymix.data.importers import video_folder
from raymix.data.mixing import passes_per_epoch
from raymix.data.preparation.pipeline import find_prepared
from raymix.runtime import ray_cluster
from raymix.runtime.cluster_capacity import slot_capacity
from raymix.runtime.storage import resolve_uri
from raymix.search.data_limits import describe_distribution
from raymix.search.study_plan import StudyPlan, allows_repeated_points, unreachable_trials
from raymix.search.time_left import expected_survival
from raymix.tracking.study import END_STATES, StudyState

SAMPLED_POINTS = 2048  # random ones, to find the share that the rules reject


def dry_run_lines(plan: StudyPlan) -> Iterator[str]:
    """The plan line by line; ConfigError, as the study itself would end, where it could not run."""
    run, space, study = plan.run, plan.space, plan.study
    pending = [n for n in range(plan.planned) if n not in study.trials or study.trials[n].state not in END_STATES]
    ended = f"{plan.planned - len(pending)} of {plan.planned} trials have ended, {len(pending)} are owed"
    yield f"study: {plan.uri}: {ended if study.exists else f'new, {plan.planned} trials'}"
    yield "storage: a test object was written there and taken away again"
    yield f"clips: {_clip_lines(run)}"
    if space is not None:
        yield from _space(space)
        if study.exhausted and not allows_repeated_points(run):
            yield f"space: {study.exhaustion}"
        elif missing := unreachable_trials(plan):
            pending = pending[: len(pending) - missing]
            yield (
                f"space: {len(space.points)} points in all, of which none is trained twice: the study ends after "
                f"{plan.planned - missing} trials instead of {plan.planned} (search.repeats=true trains points again, "
                "with other seeds)"
            )
    yield from plan.notes
    yield f"search: {_search(run, study, len(pending))}"
    found, slots = _slots(run)
    yield f"slots: {slots}"
    yield from cost_lines(plan, found)
    yield "nothing was started; the same command without study.dry_run=true starts it"


def _clip_lines(run: TrainConfig) -> str:
    found = find_prepared(run.dataset)
    if found is None:
        where = f"the study begins by preparing {run.dataset.root}"
        if run.dataset.name == "folder":
            where += f" ({len(video_folder.list_videos(run.dataset.root))} videos)"
        return f"none yet in {run.dataset.prepared}; {where}"
    counts = [f"{part['clips']} {split} from {part['videos']} videos" for split, part in found["splits"].items()]
    batches = found["splits"]["train"]["clips"] // run.training.batch_size
    return f"{', '.join(counts)} in {run.dataset.prepared}; {batches} batches of {run.training.batch_size} an epoch"


def _space(space: Any) -> Iterator[str]:
    width = max(map(len, space.names))
    for name in space.names:
        condition = f", when {space.conditions[name].text}" if name in space.conditions else ""
        yield f"space: {name:{width}}  {describe_distribution(space.distributions[name])}{condition}"
    for rule in space.constraints:
        yield f"space: requires {rule.text}"
    if space.constraints:
        share = space.rejected_share(SAMPLED_POINTS)
        yield f"space: the rules reject {share:.0%} of {SAMPLED_POINTS} random points, which are drawn anew"
    if space.initial_points:
        yield f"space: {len(space.initial_points)} point{'s' if len(space.initial_points) > 1 else ''} of your own tried first"


def _search(run: TrainConfig, study: StudyState, n: int) -> str:
    search, epochs = getattr(run, "search", None), run.training.epochs
    if search is None:
        return f"one run of {epochs} epochs"
    most, about = (
        n * epochs,
        n * sum(expected_survival(search.scheduler, epochs, search.grace_period, search.reduction_factor)),
    )
    text = f"{search.sampler} proposes, {search.scheduler} stops; {n} trials of at most {epochs} epochs: "
    text += f"about {about:.0f} epochs ({most} if none were stopped)" if about < most else f"{most} epochs"
    seconds = [e.seconds for row in study.trials.values() for e in row.epochs.values() if e.seconds]
    if seconds:
        text += f"; one took {median(seconds):.1f} s so far, {about * median(seconds) / 3600:.1f} h over all slots"
    return text


def cost_lines(plan: StudyPlan, slots: int) -> Iterator[str]:
    """Two lines about the time that is pending, by updates and scenes that are timed now, and about the disk."""
    run, clips = plan.run, _training_clips(plan.run)
    pending = [
        n for n in range(plan.planned) if n not in plan.study.trials or plan.study.trials[n].state not in END_STATES
    ]
    if ray_cluster.local_machine_resources(run.cluster) is None:
        yield "time: not measured: the machines of the cluster train, not this one"
        return
    from raymix.search.step_cost import measure_step_cost

    begun = clock.perf_counter()
    try:
        one = measure_step_cost(run)
    except (RuntimeError, ValueError) as error:
        yield f"time: not measured ({' '.join(str(error).split())})"
        return
    what = f"an update of {run.training.batch_size} clips takes {_span(one.update_s)} here"
    if not clips:
        yield f"time: {what}; how many an epoch has is known when the clips are prepared"
    else:
        updates = max(1, clips // run.training.batch_size) * passes_per_epoch(run.training, clips)
        train_s, score_s = updates * one.update_s, _scenes(run, one.one_map) * one.scene_s
        epoch_s = _epoch(run, train_s, updates * one.mix_s, score_s, slots)
        about, most = _epochs(run, len(pending))
        text = f"time: {what}, an epoch of {updates} {_span(train_s)}, its scores {_span(score_s)}"
        text += f"; about {about:.0f} epochs: {_span(about * epoch_s)}"
        text += f" ({_span(most * epoch_s)} if none were stopped)" if about < most else ""
        yield f"{text}, and the start of Ray; timed in {clock.perf_counter() - begun:.1f} s"
    kept = min(run.training.num_checkpoints_to_keep, run.training.epochs) * len(pending) + slots
    stored = _stored(run)
    there = f"clips {_size(stored)}, " if stored else ""
    yield f"disk: {there}checkpoints about {kept} x {_size(one.checkpoint_bytes)} = {_size(kept * one.checkpoint_bytes)}"


def start_notes(plan: StudyPlan) -> Iterator[str]:
    """What a person should know at the start of a search: oddities of space and clips, time and disk."""
    yield from plan.notes
    has = ray_cluster.local_machine_resources(plan.run.cluster)
    yield from cost_lines(plan, 1 if has is None else slot_capacity(plan.run.cluster, has, streaming=False).slots)


def _training_clips(run: TrainConfig) -> int:
    """Training clips that are prepared; 0 where none are."""
    found = find_prepared(run.dataset)
    return int(found["splits"]["train"]["clips"]) if found else 0


def _epochs(run: TrainConfig, trials: int) -> tuple[float, int]:
    """Epochs of so many trials, as the scheduler stops them on average, and at most."""
    search: Any = getattr(run, "search", None)
    most = trials * run.training.epochs
    if search is None:
        return most, most
    return trials * sum(
        expected_survival(search.scheduler, run.training.epochs, search.grace_period, search.reduction_factor)
    ), most


def _scenes(run: TrainConfig, one_map: bool) -> int:
    """Scenes of LABEL_FREE layouts that a checkpoint is scored on, each with its own audio and with another's: `grid2x2`, and
    where one map cannot name two panels also `solo2x2`."""
    kinds = 2 if one_map or run.study.metric.startswith("val/solo2x2/") else 1
    return 2 * kinds * run.evaluation.scenes


def _epoch(run: TrainConfig, train_s: float, mix_s: float, score_s: float, slots: int) -> float:
    """Seconds of an epoch over all slots: training, mixing and scoring go on at once, as far as there are cores for them."""
    nodes: Any = ray_cluster.local_machine_resources(run.cluster)
    cores = sum(node["CPU"] for node in nodes)
    on_cpus = (
        (0.0 if run.cluster.gpus_per_worker else train_s) + mix_s + (0.0 if run.cluster.evaluator_gpus else score_s)
    )
    return max(train_s / slots, mix_s / slots, score_s, on_cpus / cores)


def _span(seconds: float) -> str:
    """`0.12 s`, `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    """`2.4 MiB`, `120 MiB`, `3.1 GiB`."""
    if count < 2**30:
        return f"{count / 2**20:.{0 if count >= 10 * 2**20 else 1}f} MiB"
    return f"{count / 2**30:.1f} GiB"


def _stored(run: TrainConfig) -> int:
    """Bytes of the prepared files."""
    filesystem, path = resolve_uri(run.dataset.prepared)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return sum(info.size for info in infos if info.type == fs.FileType.File)


def _slots(run: TrainConfig) -> tuple[int, str]:
    streaming = run.data.cache == "off"
    has = ray_cluster.local_machine_resources(run.cluster)
    if has is None:
        ray_cluster.start_or_join_ray(run.cluster)
        try:
            from raymix.runtime import cluster_nodes

            found = cluster_nodes.check_cluster_capacity(run.cluster, streaming)
            cluster_nodes.check_shared_paths(cluster_nodes.local_path_settings(run))
        finally:
            ray_cluster.stop_ray()
    else:
        found = slot_capacity(run.cluster, has, streaming)
    where = f"the cluster at {os.environ['RAY_ADDRESS']}" if os.environ.get("RAY_ADDRESS") else "this machine"
    stream = "clips are streamed every epoch, row groups in a new order, shuffled in windows of several"
    kept = {"auto": "clips are shared in the object store if they fit", "on": "clips are shared", "off": stream}
    return found.slots, f"{found.description} on {where}; {kept[run.data.cache]}"


def print_dry_run(plan: StudyPlan) -> int:
    """Print the plan of a study."""
    for line in dry_run_lines(plan):
        print(line, flush=True)
    return 0
