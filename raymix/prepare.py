"""The door `python -m raymix.prepare`: videos in, Parquet clips and a manifest with one row per file out.

Over a cluster the work runs with Ray Data, a unit of files a task. On one machine it runs in as many processes, a file
a task, and Ray is not started: that takes as long as some forty videos. The same command goes on where an earlier one
stopped, and returns at once when all is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pyarrow import fs

from raymix import importing, inspection, scene_lists, session
from raymix.clip import SCHEMA_VERSION
from raymix.clip_files import describe
from raymix.config import Dataset, Prepare, nearest
from raymix.datasets import DATASETS, OPTIONAL, extracted, faces, folder, leaks, published_lists, shards
from raymix.door import Nothing, enter, refusing
from raymix.engine import writable
from raymix.rules import check
from raymix.scene_lists import Wanted
from raymix.storage import no_room, resolve

Echo = Callable[[str], Any]
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
    started, facts = time.monotonic(), _facts(settings)
    there = None if settings.overwrite else _present(settings, facts, echo)
    if there is None:
        there = _make(settings, facts, echo, workers)
        fresh = True
    else:
        fresh = False
    clips = {split: found["clips"] for split, found in there["splits"].items()}
    seconds = time.monotonic() - started
    report = PrepareReport(settings.prepared, fresh, there["statuses"], clips, there["classes"], seconds)
    if fresh:
        _tell(report, echo)
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


def _make(settings: Dataset, facts: dict[str, Any], echo: Echo, workers: int) -> dict[str, Any]:
    writable(settings.prepared)
    with published_lists.remembered() as read:
        sources = DATASETS[settings.name].sources(settings)
    if not sources:
        raise NothingUsable(f"{settings.root}: no video files ({' '.join(folder.SUFFIXES)}) below it")
    leaks.allowed(leaked := leaks.of_sources(sources), settings.prepared, settings.allow_leaks)
    filesystem, path = resolve(settings.prepared)
    filesystem.create_dir(path)
    if filesystem.get_file_info(f"{path}/dataset.json").type != fs.FileType.NotFound:
        filesystem.delete_file(f"{path}/dataset.json")  # from here on the old dataset is none any more
    wanted = shards.units(sources, facts["preprocessing"])
    done = shards.records(settings, wanted)
    todo = [unit for unit in wanted if unit.name not in done]
    progress = _Progress(echo, sum(len(unit.sources) for unit in wanted), list(done.values()))
    with _room(settings):
        for record in importing.work(settings, todo, facts["preprocessing"], workers, progress.add):
            done[record["unit"]] = record
    if not any(record["clips"] for record in done.values()):
        reasons = [f"{e['file']}: {e['reason'] or e['status']}" for r in done.values() for e in r["entries"]]
        shown = "; ".join(sorted(reasons)[:3]) or "the split file lists none of them"
        raise NothingUsable(f"{settings.root}: none of {len(sources)} files gave a clip ({shown})")
    leaked += leaks.of_media(entry for unit in wanted for entry in done[unit.name]["entries"])
    leaks.forget(settings.prepared)
    leaks.allowed(leaked, settings.prepared, settings.allow_leaks)
    if doubt := extracted.doubted([entry for unit in wanted for entry in done[unit.name]["entries"]]):
        echo(f"prepare: {doubt}")
    left_out = [source for source in sources if not source.split]
    with _room(settings):
        return shards.finish(
            settings, [done[unit.name] for unit in wanted], left_out, {**facts, "lists": read, "leaks": len(leaked)}
        )


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


class _Progress:
    """A line now and then: files done, clips so far, seconds left."""

    def __init__(self, echo: Echo, total: int, before: list[dict[str, Any]]) -> None:
        self.echo, self.total, self.said = echo, total, time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first files were read, and how many were done then
        self.files = sum(len(record["entries"]) for record in before)
        self.clips = sum(record["clips"] for record in before)
        goes_on = f", {self.files} of them done before" if before else ""
        echo(f"prepare: {total} files{goes_on}")

    def add(self, files: int, clips: int, fresh: bool = True) -> None:
        """`fresh`: they were read just now, not by an earlier run."""
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


def _tell(report: PrepareReport, echo: Echo) -> None:
    clips = ", ".join(f"{count} {split}" for split, count in report.clips.items())
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
    echo(f"prepare: {clips} clips in {report.prepared} after {report.seconds:.0f} s")
    echo(f"prepare: files: {statuses} (manifest.parquet has a row for each)")
    for split, count in report.clips.items():
        if not count:
            echo(f"prepare: no clips in split '{split}': see dataset.val, dataset.test and dataset.splits")


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


def _one_is_a_list() -> None:
    """`layouts=hconcat` and `layouts=hconcat,grid2x2` as lists, which Hydra would take for something of its own."""
    for place, word in enumerate(sys.argv):
        name, sign, value = word.partition("=")
        if sign and name in ("layouts", "pair_lists") and value and not value.startswith(("[", "$")):
            sys.argv[place] = f"{name}={json.dumps(value.split(','), ensure_ascii=False)}"


def main() -> None:
    enter(door, "prepare", _one_is_a_list)


if __name__ == "__main__":
    main()
