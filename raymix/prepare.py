"""The door `python -m raymix.prepare`: videos in, Parquet clips and a manifest with one row per file out.

Over a cluster the work runs with Ray Data, a unit of files a task. On one machine it runs in as many processes, a file
a task, and Ray is not started: that takes as long as some forty videos. The same command goes on where an earlier one
stopped, and returns at once when all is done.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take seconds
    from raymix import cli

    cli.run("prepare")

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pyarrow import fs

from raymix import importing, inspection, lock, scene_lists, session
from raymix.clip import SCHEMA_VERSION
from raymix.clip_files import describe
from raymix.config import Dataset, Prepare, nearest
from raymix.datasets import (
    DATASETS,
    OPTIONAL,
    demo,
    duplicates,
    extracted,
    faces,
    folder,
    ground,
    leaks,
    published_lists,
    shards,
)
from raymix.datasets.leaks import Leak
from raymix.datasets.source import Source
from raymix.door import Nothing, enter, refusing
from raymix.progress import Progress
from raymix.rules import check
from raymix.scene_lists import Wanted
from raymix.storage import assert_writable, no_room, resolve

Echo = Callable[[str], Any]
LOCK = ".lock"  # in the prepared folder: who works at it
TURN = 2.0  # seconds between two looks whether another one has ended
NOWHERE = (
    "prepared",
    "overwrite",
    "root",
    "annotations",
)  # settings that are in no row; what lists say is told by themselves


class NothingUsable(Nothing):
    """No file gave a clip."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did or found: files by status, clips by split, seconds spent."""

    prepared: str
    fresh: bool  # False: all was there already
    statuses: dict[str, int]
    clips: dict[str, int]
    classes: list[str]
    seconds: float


def prepare(settings: Dataset, echo: Echo = print, workers: int = 1) -> PrepareReport:
    """Turn the videos of `settings.root` into the dataset `settings.prepared`, or find that it is there.

    Where Ray runs the work goes over its cluster; else it is done by so many processes here, 1: by this one.
    Raises ValueError for wrong settings or a folder prepared with other ones, NothingUsable if no file gave a clip.
    """
    if settings.name not in DATASETS:
        raise ValueError(f"dataset.name='{settings.name}': no such importer{nearest(settings.name, list(DATASETS))}")
    if not settings.prepared:
        raise ValueError("dataset.prepared is empty: name the folder that the clips go to")
    if settings.name == "demo":  # also where its clips are there: dataset.root may be a person's own videos
        demo.check_root(settings)
    started, facts = time.monotonic(), _facts(settings)
    there, files = None if settings.overwrite else _present(settings, facts, echo), None
    if there is None:
        there, files = _in_turn(settings, facts, echo, workers)
    fresh = files is not None
    clips = {split: found["clips"] for split, found in there["splits"].items()}
    seconds = time.monotonic() - started
    report = PrepareReport(settings.prepared, fresh, there["statuses"], clips, there["classes"], seconds)
    if fresh:
        _tell(report, DATASETS[settings.name].OWN, echo)
        if settings.name == "folder" and (how := folder.class_folders(settings, files or ())):
            echo(f"prepare: {how}")
    return report


def present(settings: Dataset) -> dict[str, Any] | None:
    """What is known of the clips if they are prepared, None if they are not; ValueError if other ones are there."""
    return _present(settings, _facts(settings), lambda line: None)


def _facts(settings: Dataset) -> dict[str, Any]:
    """Who made the dataset and how: the settings that decide what is in the rows, and their hash."""
    chosen = asdict(settings)
    for name in {*NOWHERE, *(OPTIONAL - set(DATASETS[settings.name].OWN))}:
        chosen.pop(name, None)
    for name in {"splits", "regions"} & set(chosen):
        outside = settings.name != "demo" and chosen[name]
        chosen[name] = folder.digest(chosen[name]) if outside else None
    if "faces" in chosen and chosen["faces"] != faces.OWN:
        chosen["faces"] = folder.listed(chosen["faces"])
    text = json.dumps([SCHEMA_VERSION, chosen], sort_keys=True)
    preprocessing = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {"preprocessing": preprocessing, "dataset": settings.name, "root": settings.root, "settings": chosen}


def _present(settings: Dataset, facts: dict[str, Any], echo: Echo) -> dict[str, Any] | None:
    """What dataset.json says if this very dataset is there, None if there is none; ValueError if it is another one."""
    filesystem, path = resolve(settings.prepared)
    if filesystem.get_file_info(f"{path}/dataset.json").type == fs.FileType.NotFound:
        return None
    found = describe(settings.prepared)
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
    if read and place and (other := published_lists.changed(resolve(place)[0], read)):
        raise ValueError(f"{settings.prepared}: {other[0]} has changed since; dataset.overwrite=true prepares anew")
    if settings.name == "folder" and settings.root:
        _notice(settings, found, echo)
    return found


def _notice(settings: Dataset, found: dict[str, Any], echo: Echo) -> None:
    """Say so if videos came or went since; the prepared clips stay what they are."""
    try:
        now = len(folder.listing(settings.root))
    except ValueError:
        return  # the videos may be gone: the clips are what is needed
    before = sum(found["statuses"].values()) - found["statuses"].get("missing", 0)
    if now != before:
        echo(f"prepare: {now} videos in {settings.root}, {before} were prepared; dataset.overwrite=true prepares anew")


def _in_turn(
    settings: Dataset, facts: dict[str, Any], echo: Echo, workers: int
) -> tuple[dict[str, Any], list[str] | None]:
    """Make the dataset, alone; where another one does it, wait, and take what it made.

    Returns what dataset.json says, and the files that clips were made of, None where another one made them.
    """
    sources, read, leaked = _readable(settings)
    place, lost, waited = f"{settings.prepared.rstrip('/')}/{LOCK}", list[str](), False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                told = "dataset", "being prepared"
                stack.enter_context(lock.held(place, settings.prepared, lost.append, echo, words=told))
            except lock.Taken as taken:
                if not waited:
                    echo(f"prepare: {taken.said}: waiting for it")
                waited = True
            else:
                there = _meanwhile(settings, facts, echo) if waited or not settings.overwrite else None
                if there is not None:
                    return there, None
                facts |= {"lists": read}
                return _make(settings, sources, leaked, facts, Progress(echo, lost), workers)
        time.sleep(TURN)


def _meanwhile(settings: Dataset, facts: dict[str, Any], echo: Echo) -> dict[str, Any] | None:
    """What another one has made in this moment; of other settings it is none where it may be overwritten."""
    try:
        return _present(settings, facts, echo)
    except ValueError:
        if not settings.overwrite:
            raise
        return None


def _readable(settings: Dataset) -> tuple[list[Source], dict[str, str], list[Leak]]:
    """The sources, the lists that say so, and leaks that are allowed; what is wrong is known before anything is written."""
    ground.allowed(settings)
    assert_writable(settings.prepared)
    with published_lists.remembered() as read:
        sources = DATASETS[settings.name].sources(settings)
    if not sources:
        raise NothingUsable(f"{settings.root}: no video files ({' '.join(folder.SUFFIXES)}) below it")
    leaked = leaks.of_sources(sources)
    if settings.name == "folder" and settings.splits:  # a list may put one content into two splits
        leaked += duplicates.across_splits(settings.root, sources)
    leaks.allowed(leaked, settings.prepared, settings.allow_leaks)
    return sources, read, leaked


def _make(
    settings: Dataset, sources: list[Source], leaked: list[Leak], facts: dict[str, Any], progress: Progress, workers: int
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    ground.claim(*resolve(settings.prepared))  # from here on the old dataset is none any more
    wanted = shards.units(sources, facts["preprocessing"])
    done = shards.records(settings, wanted)
    todo = [unit for unit in wanted if unit.name not in done]
    progress.begin(sum(len(unit.sources) for unit in wanted), list(done.values()))
    with _room(settings):
        for record in importing.work(settings, todo, facts["preprocessing"], workers, progress.add):
            done[record["unit"]] = record
    if not any(record["clips"] for record in done.values()):
        reasons = [f"{e['file']}: {e['reason'] or e['status']}" for r in done.values() for e in r["entries"]]
        shown = "; ".join(sorted(reasons)[:3]) or "the split file lists none of them"
        raise NothingUsable(f"{settings.root}: none of {len(sources)} files gave a clip ({shown})")
    known = {(leak.kind, leak.name) for leak in leaked}
    media = leaks.of_media(entry for unit in wanted for entry in done[unit.name]["entries"])
    leaked += [leak for leak in media if (leak.kind, leak.name) not in known]
    leaks.forget(settings.prepared)
    leaks.allowed(leaked, settings.prepared, settings.allow_leaks)
    if doubt := extracted.doubted([entry for unit in wanted for entry in done[unit.name]["entries"]]):
        progress.echo(f"prepare: {doubt}")
    left_out = [source for source in sources if not source.split]
    progress.alone()
    files = [entry["file"] for unit in wanted for entry in done[unit.name]["entries"] if entry["clips"]]
    with _room(settings):
        made = [done[unit.name] for unit in wanted]
        return shards.finish(settings, made, left_out, {**facts, "leaks": len(leaked)}), files


@contextlib.contextmanager
def _room(settings: Dataset) -> Iterator[None]:
    """Inside, an error of a full disk says what to do about it."""
    try:
        yield
    except OSError as error:
        if not no_room(error):
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


def door(config: Prepare) -> int:
    check(config)
    if config.inspect:
        with refusing():
            inspection.inspect(config.inspect, config.output, config.pictures, config.seed)
        return 0
    with refusing():
        lists = Wanted(config.layouts, config.pair_lists, config.split, config.scenes, config.seed)
        lists.check()
        if session.machine(config.cluster) is None:  # a cluster of others' making
            session.start(config.cluster)
            from raymix import nodes

            nodes.shared(nodes.paths(config))
        report = prepare(config.dataset, workers=session.cores(config.cluster))
    if not report.fresh:
        print(f"prepare: {report.prepared} is prepared already: {sum(report.clips.values())} clips")
        if missing := report.statuses.get("missing", 0):
            print(f"prepare: {missing} listed ids were missing then; dataset.overwrite=true looks for them again")
    if config.layouts or config.pair_lists:
        with refusing():
            scene_lists.write(config.dataset.prepared, lists)
    return 0


def main() -> None:
    enter(door, "prepare")
