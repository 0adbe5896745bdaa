"""`prepare_dataset`: the work units of a dataset on a Ray cluster, in processes of this machine, or in this process.

For work that Ray would only delay: its first task here starts after two seconds, Ray's after ten and more.
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
from raymix.data.importers import base, demo_root, face_detection, video_folder
from raymix.data.importers.base import DatasetImporter, ImportClips, MediaRootLostError, MediaSource
from raymix.data.importers.registry import load_importer, optional_settings
from raymix.data.preparation import output_folder, split_leaks, writer
from raymix.data.preparation.split_leaks import SplitLeak
from raymix.data.prepared import read_dataset_json
from raymix.data.records import SCHEMA_VERSION
from raymix.runtime import lease
from raymix.runtime.storage import assert_writable, disk_full_message, resolve_uri

T = TypeVar("T")

R = TypeVar("R")

DEATHS = 10  # of processes at one task: then it is the machine

STOP_SECONDS = 5.0  # for a process to end after SIGTERM


def map_in_processes(queue: deque[T], work: Callable[[T], R], count: int, modules: tuple[str, ...] = ()) -> Iterator[R]:
    """The results of all tasks in the order in which they end; whoever gets one may add to the queue.

    Args:
        queue: The tasks.
        work: What is done with each, in `count` processes.
        modules: Imported once for all processes, where the system can fork.

    Raises:
        RuntimeError: Processes ended again and again at one task. Besides, whatever `work` raises.
    """
    context = _context(modules)
    pool = ProcessPool(count, initializer=_end_with_parent, context=context)
    running: dict[Future[R], tuple[T, int]] = {}  # task, and how many processes ended at it
    begun_again: deque[tuple[T, int]] = deque()
    try:
        while queue or running or begun_again:
            if not pool.active:  # all processes ended while none had a task
                pool.stop()
                pool.join()
                pool = ProcessPool(count, initializer=_end_with_parent, context=context)
            while (queue or begun_again) and len(running) <= count:  # one more than processes: none waits for this one
                task, deaths = begun_again.popleft() if begun_again else (queue.popleft(), 0)
                running[pool.schedule(work, args=(task,))] = task, deaths
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, deaths = running.pop(future)
                error = future.exception()
                if isinstance(error, ProcessExpired | BrokenProcessPool):
                    if deaths + 1 >= DEATHS:
                        code = getattr(error, "exitcode", "unknown")
                        raise RuntimeError(f"{DEATHS} processes ended at one task, the last with code {code}") from None
                    begun_again.append((task, deaths + 1))
                else:
                    yield future.result()
    finally:
        pool.stop()
        pool.join()


def _context(modules: tuple[str, ...]) -> ForkServerContext | SpawnContext:
    """Processes that begin without this one's threads and locks: forked from a clean one, or made anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def _end_with_parent() -> None:
    """In a process of the pool: SIGTERM ends it in good order, and so does the end of its parent."""
    signal.signal(signal.SIGTERM, _exit)  # pebble's own handler would skip the `finally` of the task
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


# What every process would spend its first seconds on; pandas, since pyarrow imports it where it is there.
PRELOADED_MODULES = ("torch", "pandas", "raymix.data.audio", "raymix.data.preparation.writer")

UnitProgress = Callable[[int, bool], None]  # clips of a source, and whether it was read just now


@dataclass(frozen=True)
class _Read:
    """For a process: read one source of a unit."""

    settings: DatasetConfig
    folder: str
    unit: str
    stem: str
    number: int
    source: MediaSource
    import_clips: ImportClips

    def __call__(self) -> tuple[str, dict[str, Any]]:
        return self.unit, writer.spool_source(
            self.settings, self.source, self.import_clips, self.folder, self.stem, self.number
        )


@dataclass(frozen=True)
class _Write:
    """For a process: write the shards of a unit whose sources are all read."""

    settings: DatasetConfig
    folder: str
    unit: writer.WorkUnit
    preprocessing: str

    def __call__(self) -> tuple[None, dict[str, Any]]:
        return None, writer.assemble_shards(self.settings, self.unit, self.preprocessing, self.folder)


def process_units_in_processes(
    settings: DatasetConfig,
    todo: list[writer.WorkUnit],
    import_clips: ImportClips,
    preprocessing: str,
    workers: int,
    tell: UnitProgress,
) -> Iterator[dict[str, Any]]:
    """The records of the units, in the order in which they end; sources that an earlier run has read are not read again."""
    left, queue = Counter[str](), deque[_Read | _Write]()
    with writer.spool_folder(settings) as folder:
        writing = {unit.name: _Write(settings, folder, unit, preprocessing) for unit in todo}
        for unit in todo:
            for number, source in enumerate(unit.sources):
                found = writer.refused_record(source) or writer.read_spool_record(
                    writer.spool_path(folder, unit.stem, number)
                )
                if found is None:
                    left[unit.name] += 1
                    queue.append(_Read(settings, folder, unit.name, unit.stem, number, source, import_clips))
                else:
                    tell(found["entry"]["clips"], False)
            if not left[unit.name]:
                queue.append(writing[unit.name])
        for name, record in map_in_processes(
            queue, operator.call, workers, (*PRELOADED_MODULES, import_clips.__module__)
        ):
            if name is None:
                yield record
                continue
            tell(record["entry"]["clips"], True)
            left[name] -= 1
            if not left[name]:
                queue.appendleft(writing[name])


FileProgress = Callable[[int, int, bool], None]  # files, clips, and whether they were read just now


def process_units(
    settings: DatasetConfig,
    todo: list[writer.WorkUnit],
    import_clips: ImportClips,
    preprocessing: str,
    workers: int,
    tell: FileProgress,
) -> Iterator[dict[str, Any]]:
    """The records of the units, in the order in which they end; `tell` hears of files and clips as they are done.

    Where Ray runs they go over its cluster, a unit a task; else over so many processes here, a source a task; 1: here.
    """
    if not todo:
        return
    if workers > 1 and not _ray_runs() and sum(len(unit.sources) for unit in todo) > 1:
        yield from process_units_in_processes(
            settings, todo, import_clips, preprocessing, workers, lambda c, fresh: tell(1, c, fresh)
        )
        return
    for record in (_over_ray if _ray_runs() else _here)(settings, todo, import_clips, preprocessing):
        yield record
        tell(len(record["entries"]), record["clips"], True)


def _here(
    settings: DatasetConfig, todo: list[writer.WorkUnit], import_clips: ImportClips, preprocessing: str
) -> Iterator[dict[str, Any]]:
    for unit in todo:
        yield writer.write_unit_shards(settings, unit, import_clips, preprocessing)


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _over_ray(
    settings: DatasetConfig, todo: list[writer.WorkUnit], import_clips: ImportClips, preprocessing: str
) -> Iterator[dict[str, Any]]:
    """The units as a Ray Data pipeline of one task each, in the order in which they end."""
    import ray

    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            record = writer.write_unit_shards(settings, pickle.loads(row["unit"]), import_clips, preprocessing)
        except MediaRootLostError as error:  # as a row: raised, Ray Data would keep its text alone
            return {"record": "", "errno": -1, "said": str(error)}
        except OSError as error:
            if not disk_full_message(error):
                raise
            return {"record": "", "errno": error.errno, "said": str(error.strerror or error)}
        return {"record": json.dumps(record), "errno": 0, "said": ""}

    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        items = [{"unit": pickle.dumps(unit)} for unit in todo]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        # Ray tries a task whose process died again without end; shards gives up the file, so this ends too
        for row in dataset.map(one, num_cpus=1).iter_rows():
            if row["errno"] < 0:
                raise MediaRootLostError(row["said"])
            if row["errno"]:
                raise OSError(row["errno"], row["said"])
            yield json.loads(row["record"])
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


class PreparationProgress:
    """A line now and then: files done, clips so far, seconds left. `lost`: by whom it was taken over, if it was."""

    def __init__(self, echo: Callable[[str], Any], lost: list[str]) -> None:
        self.echo, self.lost = echo, lost
        self.total = self.files = self.clips = 0
        self.said = time.monotonic()
        self.first: tuple[float, int] | None = None  # (when the first files were read, how many were done then)

    def begin(self, total: int, before: list[dict[str, Any]]) -> None:
        """`before`: the records of what an earlier run has done."""
        self.total, self.said = total, time.monotonic()
        self.files = sum(len(record["entries"]) for record in before)
        self.clips = sum(record["clips"] for record in before)
        goes_on = f", {self.files} of them done before" if before else ""
        self.echo(f"prepare: {total} files{goes_on}")

    def alone(self) -> None:
        """Taken where another one may have gone on with this dataset."""
        if self.lost:
            raise lease.StudyLockedError(self.lost[0], "what is done is kept, and the same command goes on")

    def add(self, files: int, clips: int, fresh: bool = True) -> None:
        """`fresh`: they were read just now, not by an earlier run."""
        self.alone()
        self.files += files
        self.clips += clips
        if not fresh:
            return
        now = time.monotonic()
        if self.first is None:  # what came before, the start of the processes too, says nothing of what is to come
            self.first = now, self.files
        if now - self.said >= 2 or self.files == self.total:
            since, count = now - self.first[0], self.files - self.first[1]
            left = f", {since / count * (self.total - self.files):.0f} s left" if count else ""
            self.echo(f"prepare: {self.files}/{self.total} files, {self.clips} clips{left}")
            self.said = now


Echo = Callable[[str], Any]

LOCK_NAME = ".lock"  # in the prepared folder: who works at it

RETRY_S = 2.0  # seconds between two looks whether another one has ended

SETTINGS_NOT_HASHED = (
    "prepared",
    "overwrite",
    "root",
    "annotations",
)  # settings that are in no row; what lists say is told by themselves


class NoUsableClips(NoUsableResult):
    """No file gave a clip."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare_dataset` did or found: files by status, clips by split, seconds spent."""

    prepared: str
    fresh: bool  # False: all was there already
    statuses: dict[str, int]
    clips: dict[str, int]
    classes: list[str]
    seconds: float


def prepare_dataset(settings: DatasetConfig, echo: Echo = print, workers: int = 1) -> PrepareReport:
    """Turn the videos of `settings.root` into the dataset `settings.prepared`, or find that it is there.

    Where Ray runs the work goes over its cluster; else it is done by so many processes here, 1: by this one.
    Raises ValueError for wrong settings or a folder prepared with other ones, NoUsableClips if no file gave a clip.
    """
    importer = load_importer(settings.name)
    if not settings.prepared:
        raise ValueError("dataset.prepared is empty: name the folder that the clips go to")
    if settings.name == "demo":  # also where its clips are there: dataset.root may be a person's own videos
        demo_root.check_demo_root(settings)
    started, facts = time.monotonic(), _facts(settings)
    there, files = None if settings.overwrite else _present(settings, facts, echo), None
    if there is None:
        there, files = _in_turn(settings, importer, facts, echo, workers)
    fresh = files is not None
    clips = {split: found["clips"] for split, found in there["splits"].items()}
    seconds = time.monotonic() - started
    report = PrepareReport(settings.prepared, fresh, there["statuses"], clips, there["classes"], seconds)
    if fresh:
        _tell(report, importer.OPTIONAL_SETTINGS, echo)
        if settings.name == "folder" and (how := video_folder.describe_class_folders(settings, files or ())):
            echo(f"prepare: {how}")
    return report


def find_prepared(settings: DatasetConfig) -> dict[str, Any] | None:
    """What is known of the clips if they are prepared, None if they are not; ValueError if other ones are there."""
    return _present(settings, _facts(settings), lambda line: None)


def _facts(settings: DatasetConfig) -> dict[str, Any]:
    """Who made the dataset and how: the settings that decide what is in the rows, and their hash."""
    chosen = asdict(settings)
    for name in {*SETTINGS_NOT_HASHED, *(optional_settings() - set(load_importer(settings.name).OPTIONAL_SETTINGS))}:
        chosen.pop(name, None)
    for name in {"splits", "regions"} & set(chosen):
        outside = settings.name != "demo" and chosen[name]
        chosen[name] = base.content_hash(chosen[name]) if outside else None
    if "faces" in chosen and chosen["faces"] != face_detection.BUILT_IN_DETECTOR:
        chosen["faces"] = base.listing_hash(chosen["faces"])
    text = json.dumps([SCHEMA_VERSION, chosen], sort_keys=True)
    preprocessing = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {"preprocessing": preprocessing, "dataset": settings.name, "root": settings.root, "settings": chosen}


def _present(settings: DatasetConfig, facts: dict[str, Any], echo: Echo) -> dict[str, Any] | None:
    """What dataset.json says if this very dataset is there, None if there is none; ValueError if it is another one."""
    filesystem, path = resolve_uri(settings.prepared)
    if filesystem.get_file_info(f"{path}/dataset.json").type == fs.FileType.NotFound:
        return None
    found = read_dataset_json(settings.prepared)
    if lacking := [name for name in ("root", "settings", "splits", "statuses", "classes") if name not in found]:
        raise ValueError(f"{settings.prepared}/dataset.json is not of raymix.prepare: it lacks {', '.join(lacking)}")
    before, now = ({**side.get("settings", {}), "root": side["root"]} for side in (found, facts))
    if settings.name == "demo" or not settings.root:
        before["root"] = now["root"]
    differing = [f"{name} {before.get(name)} there, {now[name]} asked" for name in now if before.get(name) != now[name]]
    if differing:
        advice = "name another dataset.prepared, or dataset.overwrite=true"
        raise ValueError(f"{settings.prepared} was prepared otherwise ({'; '.join(differing[:4])}): {advice}")
    read, place = found.get("lists"), settings.annotations or settings.root
    if read and place and (other := base.changed_lists(resolve_uri(place)[0], read)):
        raise ValueError(f"{settings.prepared}: {other[0]} has changed since; dataset.overwrite=true prepares anew")
    if settings.name == "folder" and settings.root:
        _notice(settings, found, echo)
    return found


def _notice(settings: DatasetConfig, found: dict[str, Any], echo: Echo) -> None:
    """Say so if videos came or went since; the prepared clips stay what they are."""
    try:
        now = len(video_folder.list_videos(settings.root))
    except ValueError:
        return  # the videos may be gone: the clips are what is needed
    before = sum(found["statuses"].values()) - found["statuses"].get("missing", 0)
    if now != before:
        echo(f"prepare: {now} videos in {settings.root}, {before} were prepared; dataset.overwrite=true prepares anew")


def _in_turn(
    settings: DatasetConfig, importer: DatasetImporter, facts: dict[str, Any], echo: Echo, workers: int
) -> tuple[dict[str, Any], list[str] | None]:
    """Make the dataset, alone; where another one does it, wait, and take what it made.

    Returns what dataset.json says, and the files that clips were made of, None where another one made them.
    """
    sources, read, leaked = _readable(settings, importer)
    place, lost, waited = f"{settings.prepared.rstrip('/')}/{LOCK_NAME}", list[str](), False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                told = "dataset", "being prepared"
                stack.enter_context(lease.study_lease(place, settings.prepared, lost.append, echo, words=told))
            except lease.StudyLockedError as taken:
                if not waited:
                    echo(f"prepare: {taken.said}: waiting for it")
                waited = True
            else:
                there = _meanwhile(settings, facts, echo) if waited or not settings.overwrite else None
                if there is not None:
                    return there, None
                facts |= {"lists": read}
                return _make(
                    settings, importer.import_clips, sources, leaked, facts, PreparationProgress(echo, lost), workers
                )
        time.sleep(RETRY_S)


def _meanwhile(settings: DatasetConfig, facts: dict[str, Any], echo: Echo) -> dict[str, Any] | None:
    """What another one has made in this moment; of other settings it is none where it may be overwritten."""
    try:
        return _present(settings, facts, echo)
    except ValueError:
        if not settings.overwrite:
            raise
        return None


def _readable(
    settings: DatasetConfig, importer: DatasetImporter
) -> tuple[list[MediaSource], dict[str, str], list[SplitLeak]]:
    """The sources, the lists that say so, and leaks that are allowed; what is wrong is known before anything is written."""
    output_folder.check_output_folder(settings)
    assert_writable(settings.prepared)
    with base.remember_lists() as read:
        sources = importer.list_sources(settings)
    if not sources:
        raise NoUsableClips(f"{settings.root}: no video files ({' '.join(base.VIDEO_SUFFIXES)}) below it")
    leaked = split_leaks.find_source_leaks(sources)
    if settings.name == "folder" and settings.splits:  # a list may put one content into two splits
        leaked += split_leaks.find_duplicate_leaks(settings.root, sources)
    split_leaks.check_leaks_allowed(leaked, settings.prepared, settings.allow_leaks)
    return sources, read, leaked


def _make(
    settings: DatasetConfig,
    import_clips: ImportClips,
    sources: list[MediaSource],
    leaked: list[SplitLeak],
    facts: dict[str, Any],
    progress: PreparationProgress,
    workers: int,
) -> tuple[dict[str, Any], list[str]]:
    output_folder.claim_output_folder(*resolve_uri(settings.prepared))  # from here on the old dataset is none any more
    wanted = writer.make_work_units(sources, facts["preprocessing"])
    done = writer.read_unit_records(settings, wanted)
    todo = [unit for unit in wanted if unit.name not in done]
    progress.begin(sum(len(unit.sources) for unit in wanted), list(done.values()))
    with _room(settings):
        for record in process_units(settings, todo, import_clips, facts["preprocessing"], workers, progress.add):
            done[record["unit"]] = record
    if not any(record["clips"] for record in done.values()):
        reasons = [f"{e['file']}: {e['reason'] or e['status']}" for r in done.values() for e in r["entries"]]
        shown = "; ".join(sorted(reasons)[:3]) or "the split file lists none of them"
        raise NoUsableClips(f"{settings.root}: none of {len(sources)} files gave a clip ({shown})")
    known = {(leak.kind, leak.name) for leak in leaked}
    media = split_leaks.find_media_leaks(entry for unit in wanted for entry in done[unit.name]["entries"])
    leaked += [leak for leak in media if (leak.kind, leak.name) not in known]
    split_leaks.delete_leaks_file(settings.prepared)
    split_leaks.check_leaks_allowed(leaked, settings.prepared, settings.allow_leaks)
    if doubt := duration_mismatch_note([entry for unit in wanted for entry in done[unit.name]["entries"]]):
        progress.echo(f"prepare: {doubt}")
    left_out = [source for source in sources if not source.split]
    progress.alone()
    files = [entry["file"] for unit in wanted for entry in done[unit.name]["entries"] if entry["clips"]]
    with _room(settings):
        made = [done[unit.name] for unit in wanted]
        return writer.finish_dataset(settings, made, left_out, {**facts, "leaks": len(leaked)}), files


def duration_mismatch_note(entries: Sequence[Mapping[str, Any]]) -> str:
    """The line for rows of a manifest most of whose pictures do not last as long as their sound; '' where it is not so."""
    apart = [entry for entry in entries if entry["fps"] and not entry["file"].lower().endswith(base.VIDEO_SUFFIXES)]
    unlike = [entry for entry in apart if base.FRAME_RATE_SETTING in entry["reason"]]
    if 2 * len(unlike) <= len(apart) or not unlike:
        return ""
    told = f"{unlike[0]['id'] or unlike[0]['file']}: {unlike[0]['reason']}"
    return f"pictures and sound of {len(unlike)} of {len(apart)} differ in length, look at {base.FRAME_RATE_SETTING} ({told})"


@contextlib.contextmanager
def _room(settings: DatasetConfig) -> Iterator[None]:
    """Inside, an error of a full disk says what to do about it."""
    try:
        yield
    except OSError as error:
        if not disk_full_message(error):
            raise
        goes_on = "what is done is kept, and the same command goes on when there is room"
        raise OSError(error.errno, f"{settings.prepared}: {error.strerror or error}; {goes_on}") from error


def _tell(report: PrepareReport, read: tuple[str, ...], echo: Echo) -> None:
    """`read`: the settings that this importer reads and not every one does."""
    clips = ", ".join(f"{count} {split}" for split, count in report.clips.items())
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
    echo(f"prepare: {clips} clips in {report.prepared} after {report.seconds:.0f} s")
    echo(f"prepare: files: {statuses} (manifest.parquet has a row for each)")
    listed = "annotations" in read  # what is tested on is the publisher's word
    for split, count in report.clips.items():
        shares = ("val", "test") if not listed else () if split == "test" else ("val",)
        see = [f"dataset.{name}" for name in (*shares, *({"splits", "annotations"} & set(read)))]
        if not count:
            echo(f"prepare: no clips in split '{split}': see {', '.join(sorted(see))} and manifest.parquet")
