"""From source files to a prepared dataset: units of work, their Parquet shards, and the records written last.

A unit is a run of source files of one split. Its shards depend on nothing but its sources and the settings, so they are
the same bytes on any number of workers; its record in `.parts` is written after them: a unit with a record is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymix.clip import SCHEMA_VERSION, SPLITS, encode, schema
from raymix.config import Dataset
from raymix.datasets import DATASETS, card
from raymix.datasets.manifest import Prepared
from raymix.datasets.source import Entry, Source, Unusable
from raymix.storage import get, making, put, resolve

UNIT_FILES, UNIT_BYTES = 32, 1 << 30  # a unit ends at so many files, or bytes of input
GROUP_ROWS, GROUP_BYTES = 128, 32 << 20  # a row group ends at so many rows, or bytes
CRASHES = 3  # a file whose import killed so many processes is given up
PARTS = ".parts"
UNLISTED = ("unlisted", "not in the split file")


@dataclass(frozen=True)
class Unit:
    """Source files that become the shards `name`.parquet, `name`-1.parquet ..."""

    name: str
    key: str  # hash of the preprocessing and of the sources
    sources: tuple[Source, ...]

    @property
    def record(self) -> str:
        return f"{PARTS}/{self.name}-{self.key}.json"


def units(sources: list[Source], preprocessing: str) -> list[Unit]:
    """The sources of each split in runs; a source without a split is in none."""
    made: list[Unit] = []
    for split in SPLITS:
        run: list[Source] = []
        members = [source for source in sources if source.split == split]
        for number, source in enumerate(members, 1):
            run.append(source)
            full = len(run) >= UNIT_FILES or sum(max(s.size_bytes, 0) for s in run) >= UNIT_BYTES
            if full or number == len(members):
                count = sum(unit.name.startswith(split) for unit in made)
                made.append(Unit(f"{split}-{count:05d}", _key(preprocessing, run), tuple(run)))
                run = []
    return made


def _key(preprocessing: str, run: list[Source]) -> str:
    text = json.dumps([SCHEMA_VERSION, preprocessing, [asdict(source) for source in run]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _Shards:
    """Writes rows as Parquet files of one unit, a row group at a time."""

    def __init__(self, settings: Dataset, unit: Unit, preprocessing: str) -> None:
        self.settings, self.unit = settings, unit
        self.filesystem, self.path = resolve(settings.prepared)
        self.schema = schema(preprocessing)
        self.files: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._in_file = 0
        self._writer: pq.ParquetWriter | None = None
        self._place = contextlib.ExitStack()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += len(row["stft"]) + sum(len(frame["jpeg"]) for frame in row["frames"])
        in_file = self._in_file + len(self._rows)
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES or in_file >= self.settings.rows_per_file:
            self._flush()
        if in_file >= self.settings.rows_per_file:
            self.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            number = len(self.files)
            self.files.append(f"{self.unit.name}{f'-{number}' if number else ''}.parquet")
            part = self._place.enter_context(making(self.filesystem, f"{self.path}/{self.files[-1]}"))
            self._writer = pq.ParquetWriter(part, self.schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema), row_group_size=len(self._rows))
        self._in_file += len(self._rows)
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._place.close()
        self._writer, self._in_file = None, 0


def write_unit(settings: Dataset, unit: Unit, preprocessing: str) -> dict[str, Any]:
    """Import the files of a unit, write its shards and then its record, which is returned."""
    import torch  # before the first file: a slow import must not look like a slow file

    torch.set_num_threads(1)
    started, shards, shape = time.monotonic(), _Shards(settings, unit, preprocessing), (0, 0)
    entries, labels, with_regions = [], Counter[str](), 0
    with _Attempts(settings, unit) as attempts:
        for source in unit.sources:
            entry = Entry.of(source)
            crashes = attempts.crashes(source.name) if source.refused is None else 0  # else nothing is opened
            for row in _rows(settings, source, entry, crashes):
                shape = (row["stft_frames"], row["stft_bins"])
                labels.update(row["labels"])
                with_regions += bool(row["regions"])
                shards.add(row)
            entries.append(asdict(entry))
        shards.close()
    record = {
        "unit": unit.name,
        "files": shards.files,
        "clips": sum(entry["clips"] for entry in entries),
        "stft_shape": list(shape),
        "labels": dict(sorted(labels.items())),
        "with_regions": with_regions,
        "entries": entries,
        "seconds": round(time.monotonic() - started, 3),
    }
    put(shards.filesystem, f"{shards.path}/{unit.record}", json.dumps(record).encode())
    return record


def _rows(settings: Dataset, source: Source, entry: Entry, crashes: int) -> Iterator[dict[str, Any]]:
    """The usable rows of one file; whatever goes wrong with it becomes the entry's status and reason."""
    try:
        if crashes >= CRASHES:
            raise Unusable("error", f"reading it ended the process {crashes} times")
        for clip in DATASETS[settings.name].clips(settings, source, entry):
            if clip.status == "ok":
                row = encode(clip, settings.jpeg_quality)
                entry.clips += 1
                yield row
            else:
                entry.silent_clips += 1
        if not entry.clips:
            level = f"every clip is below {settings.silence_db:g} dB"
            entry.status, entry.reason = ("silent", level) if entry.silent_clips else ("too short", entry.reason)
        elif source.repairs:
            entry.status = "repaired"
            entry.reason = "; ".join(filter(None, (entry.reason, *source.repairs[:3])))
    except Unusable as error:
        entry.status, entry.reason = error.status, str(error)
    except Exception as error:  # one bad file must not end a long run
        entry.status, entry.reason = "error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _Attempts:
    """Remembers on disk which file is being read, so that one that kills the process is known the next time."""

    def __init__(self, settings: Dataset, unit: Unit) -> None:
        self.filesystem, path = resolve(settings.prepared)
        self.path = f"{path}/{PARTS}/{unit.name}-{unit.key}.attempt"
        self.counts: Counter[str] = Counter()
        with contextlib.suppress(FileNotFoundError):
            self.counts.update(json.loads(get(self.filesystem, self.path) or b"{}"))

    def __enter__(self) -> _Attempts:
        return self

    def crashes(self, path: str) -> int:
        """How many processes ended while reading this file; from now on this is the file being read."""
        before = self.counts[path]
        self._put({**self.counts, path: before + 1})
        return before

    def __exit__(self, *_: object) -> None:
        # an exception or an interrupt is no crash
        self._put(self.counts)

    def _put(self, counts: dict[str, int]) -> None:
        put(self.filesystem, self.path, json.dumps(counts).encode())


def records(settings: Dataset, wanted: list[Unit]) -> dict[str, dict[str, Any]]:
    """The records of the units that are done, by name."""
    filesystem, path = resolve(settings.prepared)
    infos = filesystem.get_file_info(fs.FileSelector(f"{path}/{PARTS}", allow_not_found=True))
    there = {info.base_name for info in infos}
    found = {}
    for unit in wanted:
        if unit.record.rpartition("/")[2] in there:
            found[unit.name] = json.loads(get(filesystem, f"{path}/{unit.record}"))
    return found


def finish(
    settings: Dataset, made: list[dict[str, Any]], left_out: list[Source], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write `manifest.parquet`, the card and then `dataset.json`, whose content is returned; drop what belongs to none."""
    filesystem, path = resolve(settings.prepared)
    entries = [Entry(**entry) for record in made for entry in record["entries"]]
    entries += [
        replace(Entry.of(s), status=status, reason=why) for s in left_out for status, why in (s.refused or UNLISTED,)
    ]
    entries.sort(key=lambda entry: entry.file)
    splits = {split: [record for record in made if record["unit"].startswith(split)] for split in SPLITS}
    description = {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "splits": {split: _split(of) for split, of in splits.items()},
        "classes": sorted({label for record in made for label in record["labels"]}),
        "labels": _labels(made),
        "stft_shape": max(record["stft_shape"] for record in made),
        "statuses": dict(Counter(entry.status for entry in entries).most_common()),
    }
    out = io.BytesIO()
    columns = {field.name: [getattr(entry, field.name) for entry in entries] for field in fields(Entry)}
    pq.write_table(pa.table(columns), out, compression="zstd")
    put(filesystem, f"{path}/manifest.parquet", out.getvalue())
    keep = {file for split in description["splits"].values() for file in split["files"]}
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        shard = re.fullmatch(r"(train|val|test)-\d{5}(-\d+)?\.parquet(\..+\.tmp)?", info.base_name)
        if shard and info.base_name not in keep:
            filesystem.delete_file(info.path)  # of an earlier, unfinished layout
        if info.base_name == "scenes" and info.type == fs.FileType.Directory:
            filesystem.delete_dir(info.path)  # lists of clips that are no more
    put(filesystem, f"{path}/{card.CARD}", card.markdown(card.sections(Prepared(description, tuple(entries)))).encode())
    put(filesystem, f"{path}/dataset.json", json.dumps(description, indent=1, ensure_ascii=False).encode())
    filesystem.delete_dir(f"{path}/{PARTS}")
    return description


def _split(made: list[dict[str, Any]]) -> dict[str, Any]:
    """What dataset.json says of a split, from the records of its units."""
    return {
        "clips": sum(record["clips"] for record in made),
        "videos": sum(entry["clips"] > 0 for record in made for entry in record["entries"]),
        "with_regions": sum(record["with_regions"] for record in made),
        "labels": _labels(made),
        "files": [file for record in made for file in record["files"]],
    }


def _labels(made: list[dict[str, Any]]) -> dict[str, int]:
    return dict(sorted(sum((Counter(record["labels"]) for record in made), Counter[str]()).items()))
