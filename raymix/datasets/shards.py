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
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raymix.clip import SCHEMA_VERSION, SPLITS, schema
from raymix.config import Dataset
from raymix.datasets import card, ground, spool
from raymix.datasets.manifest import Prepared
from raymix.datasets.source import Entry, Source, draw
from raymix.datasets.spool import PARTS
from raymix.storage import get, making, put, resolve

UNIT_FILES, UNIT_BYTES = 32, 1 << 30  # a unit ends at so many files, or bytes of input
GROUP_ROWS, GROUP_BYTES = 128, 32 << 20  # a row group ends at so many rows, or bytes
PAGE_ROWS = 4  # after so many rows a page of 1 MiB may end: who wants few rows reads few pages
UNLISTED = ("unlisted", "not in the split file")


@dataclass(frozen=True)
class Unit:
    """Source files that become the shards `name`.parquet, `name`-1.parquet ..."""

    name: str
    key: str  # hash of the preprocessing and of the sources
    sources: tuple[Source, ...]

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.key}"

    @property
    def record(self) -> str:
        return f"{PARTS}/{self.stem}.json"


def units(sources: list[Source], preprocessing: str) -> list[Unit]:
    """The sources of each split in runs; a source without a split is in none."""
    made: list[Unit] = []
    for split in SPLITS:
        run: list[Source] = []
        count = size = 0
        members = [source for source in sources if source.split == split]
        for number, source in enumerate(members, 1):
            run.append(source)
            size += max(source.size_bytes, 0)
            full = len(run) >= UNIT_FILES or size >= UNIT_BYTES
            if full or number == len(members):
                made.append(Unit(f"{split}-{count:05d}", _key(preprocessing, run), tuple(run)))
                run, size, count = [], 0, count + 1
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
        self._rows: list[pa.Table] = []
        self._bytes = self._in_file = 0
        self._writer: pq.ParquetWriter | None = None
        self._place = contextlib.ExitStack()

    def add(self, row: pa.Table) -> None:
        self._rows.append(row)
        self._bytes += row.nbytes
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
            writer = pq.ParquetWriter(part, self.schema, compression="zstd", write_batch_size=PAGE_ROWS)
            self._writer = self._place.enter_context(writer)
        group = pa.concat_tables(self._rows).combine_chunks().cast(self.schema)
        self._writer.write_table(group, row_group_size=len(group))
        self._in_file += len(self._rows)
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._place.close()
        self._writer, self._in_file = None, 0

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *why: Any) -> None:
        self._place.__exit__(*why)


def write_unit(settings: Dataset, unit: Unit, preprocessing: str) -> dict[str, Any]:
    """Import the files of a unit, write its shards and then its record, which is returned."""
    with spool.place(settings) as folder:
        for number, source in enumerate(unit.sources):
            if source.refused is None:
                spool.fill(settings, source, folder, unit.stem, number)
        return assemble(settings, unit, preprocessing, folder)


def assemble(settings: Dataset, unit: Unit, preprocessing: str, folder: str) -> dict[str, Any]:
    """Write the shards of a unit from the spools of all its sources, and then its record, which is returned.

    The rows come in the order of seeded hashes of their ids: a fair shuffle, in which no row needs another in memory.
    """
    paths = [spool.path(folder, unit.stem, number) for number in range(len(unit.sources))]
    every = (spool.refusal(source) or spool.record(path) for source, path in zip(unit.sources, paths, strict=True))
    told = [found for found in every if found is not None]
    tables = [spool.rows(path) for source, path in zip(unit.sources, paths, strict=True) if source.refused is None]
    order = [
        (draw(settings.seed + 2, clip_id), clip_id, which, row)
        for which, table in enumerate(tables)
        for row, clip_id in enumerate(table["clip_id"].to_pylist())
    ]
    with _Shards(settings, unit, preprocessing) as shards:
        for *_, which, row in sorted(order):
            shards.add(tables[which].slice(row, 1))
        shards.close()
    record = {
        "unit": unit.name,
        "files": shards.files,
        "clips": sum(each["entry"]["clips"] for each in told),
        "stft_shape": max(each["stft_shape"] for each in told),
        "labels": _labels(told),
        "with_regions": sum(each["with_regions"] for each in told),
        "entries": [each["entry"] for each in told],
        "seconds": round(sum(each["seconds"] for each in told), 3),
    }
    put(shards.filesystem, f"{shards.path}/{unit.record}", json.dumps(record).encode())
    shutil.rmtree(f"{folder}/{unit.stem}", ignore_errors=True)
    return record


def records(settings: Dataset, wanted: list[Unit]) -> dict[str, dict[str, Any]]:
    """The records of the units that are done, by name; those of other units go, whose shards have the same names."""
    filesystem, path = resolve(settings.prepared)
    infos = filesystem.get_file_info(fs.FileSelector(f"{path}/{PARTS}", allow_not_found=True))
    there, own = {info.base_name for info in infos}, {unit.record.rpartition("/")[2] for unit in wanted}
    for info in infos:
        if info.base_name.endswith(".json") and info.base_name not in own:
            filesystem.delete_file(info.path)
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
    ground.forget_scenes(filesystem, path)
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
