"""`prepare_dataset`: media files to a prepared dataset, on a Ray cluster, in processes of this machine or in this process.

Processes of this machine avoid the start of Ray: their first task begins after 2 s, Ray's after 10 s and more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import operator
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool
from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.config.errors import NoUsableResult
from raymix.data import media
from raymix.data.importers import base, demo_root, face_detection, video_folder
from raymix.data.importers.base import DatasetImporter
from raymix.data.importers.registry import load_importer, optional_settings
from raymix.data.media import MediaRootLostError, MediaSource
from raymix.data.preparation import output_folder, split_leaks, writer
from raymix.data.preparation.split_leaks import SplitLeak
from raymix.data.preparation.writer import PreparationJob, WorkUnit
from raymix.data.prepared import DATASET_FILE, check_dataset_keys, read_dataset_json
from raymix.data.records import SCHEMA_VERSION
from raymix.runtime import lease
from raymix.runtime.storage import assert_writable, disk_full_message, resolve_uri

T = TypeVar("T")

R = TypeVar("R")

Echo = Callable[[str], Any]

SourceProgress = Callable[[int, bool], None]  # called with clips of a source, and whether it was imported just now

FileProgress = Callable[[int, int, bool], None]  # called with files, clips, and whether they were imported just now

MAX_CRASHES_PER_TASK = 10  # of processes: after this many the machine is at fault, not the task

STOP_SECONDS = 5.0  # for a process to end after SIGTERM

PROGRESS_SECONDS = 2.0  # between two lines of progress

LOCK_NAME = ".lock"  # lease of the process that prepares, in the prepared folder

RETRY_S = 2.0  # between two attempts to get the lease

# Settings that do not change the rows of a source; lists and annotations are hashed by their content.
SETTINGS_NOT_HASHED = ("prepared", "overwrite", "root", "annotations")

# Modules whose import takes the first seconds of each process; pandas, since pyarrow imports it where it is installed.
PRELOADED_MODULES = ("torch", "pandas", "raymix.data.audio", "raymix.data.preparation.writer")


class NoUsableClips(NoUsableResult):
    """No file gave a clip."""


def map_in_processes(queue: deque[T], work: Callable[[T], R], count: int, modules: tuple[str, ...] = ()) -> Iterator[R]:
    """Yield the results of all tasks in the order in which they finish. The caller may add tasks meanwhile.

    A task whose process crashed is started again.

    Args:
        queue: the tasks.
        work: called with each task, in `count` processes.
        count: number of processes.
        modules: imported once for all processes, where the system can fork.

    Raises:
        RuntimeError: MAX_CRASHES_PER_TASK processes crashed with one task.
        Exception: whatever `work` raises.
    """
    context = _process_context(modules)
    pool = ProcessPool(count, initializer=_end_with_parent, context=context)
    running: dict[Future[R], tuple[T, int]] = {}  # task, and how many processes crashed with it
    restarted: deque[tuple[T, int]] = deque()
    try:
        while queue or running or restarted:
            if not pool.active:  # all processes ended while none had a task
                pool.stop()
                pool.join()
                pool = ProcessPool(count, initializer=_end_with_parent, context=context)
            # one task more than processes, so that none waits for this process
            while (queue or restarted) and len(running) <= count:
                task, crashes = restarted.popleft() if restarted else (queue.popleft(), 0)
                running[pool.schedule(work, args=(task,))] = task, crashes
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, crashes = running.pop(future)
                error = future.exception()
                if isinstance(error, ProcessExpired | BrokenProcessPool):
                    if crashes + 1 >= MAX_CRASHES_PER_TASK:
                        code = getattr(error, "exitcode", "unknown")
                        raise RuntimeError(
                            f"{MAX_CRASHES_PER_TASK} processes ended at one task, the last with code {code}"
                        ) from None
                    restarted.append((task, crashes + 1))
                else:
                    yield future.result()
    finally:
        pool.stop()
        pool.join()


def _process_context(modules: tuple[str, ...]) -> ForkServerContext | SpawnContext:
    """Processes without the threads and locks of this one: forked from a fork server, or spawned."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def _end_with_parent() -> None:
    """Initializer of a process: SIGTERM, and the end of its parent, end it with `finally` blocks run."""
    signal.signal(signal.SIGTERM, _exit)  # pebble's own handler would skip the `finally` blocks of the task
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


@dataclass(frozen=True)
class _SpoolTask:
    """Task of a process: import one source of a unit."""

    job: PreparationJob
    folder: str
    unit: str
    stem: str
    number: int
    source: MediaSource

    def __call__(self) -> tuple[str, dict[str, Any]]:
        return self.unit, writer.spool_source(self.job, self.source, self.folder, self.stem, self.number)


@dataclass(frozen=True)
class _AssembleTask:
    """Task of a process: write the shards of a unit whose sources are all imported."""

    job: PreparationJob
    folder: str
    unit: WorkUnit

    def __call__(self) -> tuple[None, dict[str, Any]]:
        return None, writer.assemble_shards(self.job, self.unit, self.folder)


def process_units_in_processes(
    job: PreparationJob, units: list[WorkUnit], workers: int, report: SourceProgress
) -> Iterator[dict[str, Any]]:
    """Write the shards of units in processes of this machine, a source a task.

    Sources that an earlier run imported are not imported again.

    Args:
        job: settings and importer.
        units: those without a record.
        workers: number of processes.
        report: called for each source.

    Yields:
        The records of the units, in the order in which they are finished.
    """
    left, queue = Counter[str](), deque[_SpoolTask | _AssembleTask]()
    with writer.spool_folder(job.settings) as folder:
        assemble_tasks = {unit.name: _AssembleTask(job, folder, unit) for unit in units}
        for unit in units:
            for number, source in enumerate(unit.sources):
                record = writer.refused_record(source) or writer.read_spool_record(
                    writer.spool_path(folder, unit.stem, number)
                )
                if record is None:
                    left[unit.name] += 1
                    queue.append(_SpoolTask(job, folder, unit.name, unit.stem, number, source))
                else:
                    report(record["entry"]["clips"], False)
            if not left[unit.name]:
                queue.append(assemble_tasks[unit.name])
        modules = (*PRELOADED_MODULES, job.import_clips.__module__)
        for name, record in map_in_processes(queue, operator.call, workers, modules):
            if name is None:
                yield record
                continue
            report(record["entry"]["clips"], True)
            left[name] -= 1
            if not left[name]:
                queue.appendleft(assemble_tasks[name])


def process_units(
    job: PreparationJob, units: list[WorkUnit], workers: int, report: FileProgress
) -> Iterator[dict[str, Any]]:
    """Write the shards of units: on the cluster where Ray runs, else in `workers` processes, or in this one if that is 1.

    Args:
        job: settings and importer.
        units: those without a record.
        workers: number of processes, where Ray does not run.
        report: called with files and clips as they are done.

    Yields:
        The records of the units, in the order in which they are finished.
    """
    if not units:
        return
    if workers > 1 and not _ray_runs() and sum(len(unit.sources) for unit in units) > 1:
        yield from process_units_in_processes(job, units, workers, lambda clips, is_new: report(1, clips, is_new))
        return
    for record in (_process_units_on_ray if _ray_runs() else _process_units_here)(job, units):
        yield record
        report(len(record["entries"]), record["clips"], True)


def _process_units_here(job: PreparationJob, units: list[WorkUnit]) -> Iterator[dict[str, Any]]:
    for unit in units:
        yield writer.write_unit_shards(job, unit)


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _process_units_on_ray(job: PreparationJob, units: list[WorkUnit]) -> Iterator[dict[str, Any]]:
    """Write the shards of units with Ray Data, a unit a task."""
    import ray

    def process(row: dict[str, Any]) -> dict[str, Any]:
        try:
            record = writer.write_unit_shards(job, pickle.loads(row["unit"]))
        except MediaRootLostError as error:  # returned, since Ray Data would keep only the text of an exception
            return {"record": "", "errno": -1, "message": str(error)}
        except OSError as error:
            if not disk_full_message(error):
                raise
            return {"record": "", "errno": error.errno, "message": str(error.strerror or error)}
        return {"record": json.dumps(record), "errno": 0, "message": ""}

    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        items = [{"unit": pickle.dumps(unit)} for unit in units]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        # Ray restarts a task whose process crashed without limit; the writer gives up a file after MAX_CRASHES
        for row in dataset.map(process, num_cpus=1).iter_rows():
            if row["errno"] < 0:
                raise MediaRootLostError(row["message"])
            if row["errno"]:
                raise OSError(row["errno"], row["message"])
            yield json.loads(row["record"])
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


class PreparationProgress:
    """Prints a line every two seconds: files done, clips so far, seconds left.

    Args:
        echo: prints a line.
        lost: filled with a message when another process has taken over the lease.
    """

    def __init__(self, echo: Echo, lost: list[str]) -> None:
        self.echo, self.lost = echo, lost
        self.total = self.files = self.clips = 0
        self.printed_at = time.monotonic()
        self.start: tuple[float, int] | None = None  # when the first files of this run were done, and how many then

    def begin(self, total: int, earlier: list[dict[str, Any]]) -> None:
        """Print the number of files; `earlier` are the records of units that an earlier run finished."""
        self.total, self.printed_at = total, time.monotonic()
        self.files = sum(len(record["entries"]) for record in earlier)
        self.clips = sum(record["clips"] for record in earlier)
        note = f", {self.files} of them done before" if earlier else ""
        self.echo(f"prepare: {total} files{note}")

    def check_lease(self) -> None:
        """Raise StudyLockedError where another process has taken over the lease."""
        if self.lost:
            raise lease.StudyLockedError(self.lost[0], "finished work is kept; run the same command again to continue")

    def add(self, files: int, clips: int, is_new: bool = True) -> None:
        """Count files; those of an earlier run (not `is_new`) do not count for the time left."""
        self.check_lease()
        self.files += files
        self.clips += clips
        if not is_new:
            return
        now = time.monotonic()
        if self.start is None:  # the time before includes the start of the processes
            self.start = now, self.files
        if now - self.printed_at >= PROGRESS_SECONDS or self.files == self.total:
            since, count = now - self.start[0], self.files - self.start[1]
            left = f", {since / count * (self.total - self.files):.0f} s left" if count else ""
            self.echo(f"prepare: {self.files}/{self.total} files, {self.clips} clips{left}")
            self.printed_at = now


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare_dataset` did or found."""

    prepared: str  # the folder
    fresh: bool  # False: the dataset was prepared already
    statuses: dict[str, int]  # files by status
    clips: dict[str, int]  # by split
    classes: list[str]
    seconds: float


def prepare_dataset(settings: DatasetConfig, echo: Echo = print, workers: int = 1) -> PrepareReport:
    """Prepare the media files of `settings.root` as the dataset `settings.prepared`, unless it is there already.

    Args:
        settings: the dataset.
        echo: prints a line of progress.
        workers: number of processes on this machine, where Ray does not run.

    Raises:
        ValueError: wrong settings, or a folder prepared with other settings.
        NoUsableClips: no file gave a clip.
    """
    importer = load_importer(settings.name)
    if not settings.prepared:
        raise ValueError("dataset.prepared is empty: name the folder that the clips go to")
    if settings.name == "demo":  # even if its clips are there: dataset.root may be a person's own videos
        demo_root.check_demo_root(settings)
    started, provenance = time.monotonic(), describe_provenance(settings)
    description, files = None if settings.overwrite else _read_existing(settings, provenance, echo), None
    if description is None:
        description, files = _prepare_with_lease(settings, importer, provenance, echo, workers)
    clips = {split: found["clips"] for split, found in description["splits"].items()}
    report = PrepareReport(
        prepared=settings.prepared,
        fresh=files is not None,
        statuses=description["statuses"],
        clips=clips,
        classes=description["classes"],
        seconds=time.monotonic() - started,
    )
    if report.fresh:
        print_report(report, importer.OPTIONAL_SETTINGS, echo)
        if settings.name == "folder" and (hint := video_folder.describe_class_folders(settings, files or ())):
            echo(f"prepare: {hint}")
    return report


def find_prepared(settings: DatasetConfig) -> dict[str, Any] | None:
    """Return the content of `dataset.json` where the dataset is prepared, None where it is not.

    Raises:
        ValueError: the folder holds a dataset of other settings.
    """
    return _read_existing(settings, describe_provenance(settings), lambda line: None)


def describe_provenance(settings: DatasetConfig) -> dict[str, Any]:
    """Return what `dataset.json` says about the origin of the rows: name, root, settings that matter, and their hash."""
    chosen = asdict(settings)
    of_others = optional_settings() - set(load_importer(settings.name).OPTIONAL_SETTINGS)
    for name in {*SETTINGS_NOT_HASHED, *of_others}:
        chosen.pop(name, None)
    for name in {"splits", "regions"} & set(chosen):
        is_given = settings.name != "demo" and chosen[name]
        chosen[name] = base.content_hash(chosen[name]) if is_given else None
    if "faces" in chosen and chosen["faces"] != face_detection.BUILT_IN_DETECTOR:
        chosen["faces"] = base.listing_hash(chosen["faces"])
    text = json.dumps([SCHEMA_VERSION, chosen], sort_keys=True)
    preprocessing = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {"preprocessing": preprocessing, "dataset": settings.name, "root": settings.root, "settings": chosen}


def _read_existing(settings: DatasetConfig, provenance: dict[str, Any], echo: Echo) -> dict[str, Any] | None:
    """The content of dataset.json where this dataset is prepared, None where none is; ValueError where it is another."""
    filesystem, path = resolve_uri(settings.prepared)
    if filesystem.get_file_info(f"{path}/{DATASET_FILE}").type == fs.FileType.NotFound:
        return None
    description = read_dataset_json(settings.prepared)
    check_dataset_keys(settings.prepared, description)
    before, now = ({**each.get("settings", {}), "root": each["root"]} for each in (description, provenance))
    if settings.name == "demo" or not settings.root:
        before["root"] = now["root"]
    differing = [f"{name} {before.get(name)} there, {now[name]} asked" for name in now if before.get(name) != now[name]]
    if differing:
        advice = "name another dataset.prepared, or dataset.overwrite=true"
        raise ValueError(f"{settings.prepared} was prepared with other settings ({'; '.join(differing[:4])}): {advice}")
    list_hashes, lists_root = description.get("lists"), settings.annotations or settings.root
    if list_hashes and lists_root and (changed := base.changed_lists(resolve_uri(lists_root)[0], list_hashes)):
        raise ValueError(
            f"{settings.prepared}: {changed[0]} has changed since; dataset.overwrite=true prepares them again"
        )
    if settings.name == "folder" and settings.root:
        _report_changed_videos(settings, description, echo)
    return description


def _report_changed_videos(settings: DatasetConfig, description: dict[str, Any], echo: Echo) -> None:
    """Print a line where the number of videos has changed since; the prepared clips are used as they are."""
    try:
        now = len(video_folder.list_videos(settings.root))
    except ValueError:
        return  # the videos may be deleted: only the clips are needed
    before = sum(description["statuses"].values()) - description["statuses"].get("missing", 0)
    if now != before:
        echo(
            f"prepare: {now} videos in {settings.root}, {before} were prepared; dataset.overwrite=true prepares them again"
        )


def _prepare_with_lease(
    settings: DatasetConfig, importer: DatasetImporter, provenance: dict[str, Any], echo: Echo, workers: int
) -> tuple[dict[str, Any], list[str] | None]:
    """Prepare the dataset under a lease; while another process holds it, wait, then use what that one prepared.

    Returns the content of dataset.json, and the files that gave clips, or None where another process prepared them.
    """
    inputs = _list_sources(settings, importer)
    lease_uri, lost, waited = f"{settings.prepared.rstrip('/')}/{LOCK_NAME}", list[str](), False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                words = "dataset", "being prepared"
                stack.enter_context(lease.study_lease(lease_uri, settings.prepared, lost.append, echo, words=words))
            except lease.StudyLockedError as locked:
                if not waited:
                    echo(f"prepare: {locked.reason}: waiting for it")
                waited = True
            else:
                if waited or not settings.overwrite:
                    description = _read_prepared_meanwhile(settings, provenance, echo)
                    if description is not None:
                        return description, None
                job = PreparationJob(settings, importer.import_clips, provenance["preprocessing"])
                return _write_dataset(job, inputs, provenance, PreparationProgress(echo, lost), workers)
        time.sleep(RETRY_S)


def _read_prepared_meanwhile(settings: DatasetConfig, provenance: dict[str, Any], echo: Echo) -> dict[str, Any] | None:
    """As `_read_existing`; None too where the dataset has other settings and may be overwritten."""
    try:
        return _read_existing(settings, provenance, echo)
    except ValueError:
        if not settings.overwrite:
            raise
        return None


@dataclass(frozen=True)
class _Inputs:
    """What an importer found."""

    sources: list[MediaSource]
    list_hashes: dict[str, str]  # path and hash of each list that names the sources
    leaks: list[SplitLeak]


def _list_sources(settings: DatasetConfig, importer: DatasetImporter) -> _Inputs:
    """List the sources and check them for leaks; errors are raised before anything is written."""
    output_folder.check_output_folder(settings)
    assert_writable(settings.prepared)
    with base.remember_lists() as list_hashes:
        sources = importer.list_sources(settings)
    if not sources:
        raise NoUsableClips(f"{settings.root}: no video files ({' '.join(media.VIDEO_SUFFIXES)}) below it")
    leaks = split_leaks.find_source_leaks(sources)
    if settings.name == "folder" and settings.splits:  # a split file may put identical files into two splits
        leaks += split_leaks.find_duplicate_leaks(settings.root, sources)
    split_leaks.check_leaks_allowed(leaks, settings.prepared, settings.allow_leaks)
    return _Inputs(sources, list_hashes, leaks)


def _write_dataset(
    job: PreparationJob, inputs: _Inputs, provenance: dict[str, Any], progress: PreparationProgress, workers: int
) -> tuple[dict[str, Any], list[str]]:
    """Write shards, manifest, card and dataset.json; return the content of the last, and the files that gave clips."""
    settings = job.settings
    output_folder.claim_output_folder(
        *resolve_uri(settings.prepared)
    )  # an earlier dataset there is invalid from here on
    units = writer.make_work_units(inputs.sources, job.preprocessing)
    records = writer.read_unit_records(settings, units)
    todo = [unit for unit in units if unit.name not in records]
    progress.begin(sum(len(unit.sources) for unit in units), list(records.values()))
    with _explain_full_disk(settings):
        for record in process_units(job, todo, workers, progress.add):
            records[record["unit"]] = record
    if not any(record["clips"] for record in records.values()):
        reasons = [f"{e['file']}: {e['reason'] or e['status']}" for r in records.values() for e in r["entries"]]
        shown = "; ".join(sorted(reasons)[:3]) or "the split file lists none of them"
        raise NoUsableClips(f"{settings.root}: none of {len(inputs.sources)} files gave a clip ({shown})")
    entries = [entry for unit in units for entry in records[unit.name]["entries"]]
    known = {(leak.kind, leak.name) for leak in inputs.leaks}
    leaks = inputs.leaks + [
        leak for leak in split_leaks.find_media_leaks(entries) if (leak.kind, leak.name) not in known
    ]
    split_leaks.delete_leaks_file(settings.prepared)
    split_leaks.check_leaks_allowed(leaks, settings.prepared, settings.allow_leaks)
    if note := duration_mismatch_note(entries):
        progress.echo(f"prepare: {note}")
    unlisted = [source for source in inputs.sources if not source.split]
    progress.check_lease()
    files = [entry["file"] for entry in entries if entry["clips"]]
    provenance = {**provenance, "lists": inputs.list_hashes, "leaks": len(leaks)}
    with _explain_full_disk(settings):
        return writer.finish_dataset(settings, [records[unit.name] for unit in units], unlisted, provenance), files


def duration_mismatch_note(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return a warning where most sources with extracted frames have another duration than their audio, else ''.

    Args:
        entries: manifest rows as dictionaries.
    """
    with_frames = [each for each in entries if each["fps"] and not each["file"].lower().endswith(media.VIDEO_SUFFIXES)]
    differing = [entry for entry in with_frames if media.FRAME_RATE_SETTING in entry["reason"]]
    if 2 * len(differing) <= len(with_frames) or not differing:
        return ""
    example = f"{differing[0]['id'] or differing[0]['file']}: {differing[0]['reason']}"
    return (
        f"pictures and sound of {len(differing)} of {len(with_frames)} differ in length, "
        f"look at {media.FRAME_RATE_SETTING} ({example})"
    )


@contextlib.contextmanager
def _explain_full_disk(settings: DatasetConfig) -> Iterator[None]:
    """Add advice to the error of a full disk that is raised inside."""
    try:
        yield
    except OSError as error:
        if not disk_full_message(error):
            raise
        advice = "finished work is kept; run the same command again when there is space"
        raise OSError(error.errno, f"{settings.prepared}: {error.strerror or error}; {advice}") from error


def print_report(report: PrepareReport, optional: tuple[str, ...], echo: Echo) -> None:
    """Print counts, and for each empty split the settings that decide its size.

    Args:
        report: of a dataset that was prepared just now.
        optional: OPTIONAL_SETTINGS of its importer.
        echo: prints a line.
    """
    clips = ", ".join(f"{count} {split}" for split, count in report.clips.items())
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
    echo(f"prepare: {clips} clips in {report.prepared} after {report.seconds:.0f} s")
    echo(f"prepare: files: {statuses} (manifest.parquet has a row for each)")
    has_test_list = "annotations" in optional  # then the publisher decides what is in the test split
    for split, count in report.clips.items():
        shares = ("val", "test") if not has_test_list else () if split == "test" else ("val",)
        names = [f"dataset.{name}" for name in (*shares, *({"splits", "annotations"} & set(optional)))]
        if not count:
            echo(f"prepare: no clips in split '{split}': see {', '.join(sorted(names))} and manifest.parquet")
