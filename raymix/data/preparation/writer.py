"""Parquet shards of a prepared dataset: sources are spooled as Arrow files, shuffled and written unit by unit.

A work unit is a run of source files of one split. Its shards depend on nothing but its sources and the settings, so they
are the same bytes for any number of workers. Its record in `.parts` is written last: a unit with a record is complete.
Spools lie in `.parts` too, or in a temporary folder of this machine where the dataset lies in an object store.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import fs

from raymix.config import DatasetConfig
from raymix.data.importers.base import ImportClips, hash_fraction
from raymix.data.media import ManifestRow, MediaRootLostError, MediaSource, UnusableMediaError
from raymix.data.preparation import dataset_card, output_folder
from raymix.data.preparation.output_folder import PARTS_FOLDER
from raymix.data.prepared import CARD_FILE, DATASET_FILE, MANIFEST_FILE, PreparedDataset
from raymix.data.records import (
    SCHEMA_VERSION,
    SPLITS,
    ClipRecord,
    NonFiniteValueError,
    clip_schema,
    describe_non_finite_values,
)
from raymix.metrics.regions import ObjectRegion
from raymix.runtime.storage import atomic_output_file, disk_full_message, read_bytes, resolve_uri, write_atomic

BATCH_BYTES = 32 << 20  # of rows in memory while a source is spooled

MAX_CRASHES = 3  # a file whose import ended so many processes is given up

UNIT_FILES, UNIT_BYTES = 32, 1 << 30  # a unit ends at this many files, or bytes of input

GROUP_ROWS, GROUP_BYTES = 128, 32 << 20  # a row group ends at this many rows, or bytes

PAGE_ROWS = 4  # a page of 1 MiB may end after this many rows: reading few rows reads few pages

RESUME_HINT = "finished work is kept; run the same command again when it is back"

RECORD_KEY = b"record"  # metadata of the last batch of a spool

UNLISTED_STATUS = ("unlisted", "not in the split file")

MAX_REPAIRS_SHOWN = 3  # in a reason


def encode_clip(clip: ClipRecord, jpeg_quality: int = 90) -> dict[str, Any]:
    """Return the Parquet row of a clip: frames as JPEG, sound as float16 (T, F, 2) of real and imaginary parts.

    Raises:
        NonFiniteValueError: the row would hold a value that is not finite, or is too large for half precision.
    """
    import torch  # takes seconds, and readers of prepared datasets import this module without encoding

    from raymix.data.audio import stft

    spectrum_TF = stft(torch.from_numpy(np.ascontiguousarray(clip.wave, dtype=np.float32))[None])[0]
    with np.errstate(over="ignore"):  # a value that is too large becomes infinite, and is refused below
        pairs_TF2 = torch.view_as_real(spectrum_TF).numpy().astype(np.float16)
    frames = [
        {"t_s": float(t), "jpeg": _encode_jpeg(image, jpeg_quality), "width": image.shape[1], "height": image.shape[0]}
        for image, t in zip(clip.frames, clip.frame_times, strict=True)
    ]
    row = {name: getattr(clip, name) for name in clip_schema().names if hasattr(clip, name)}
    row["labels"] = list(clip.labels)
    row["frames"] = frames
    row["stft"], row["stft_frames"], row["stft_bins"] = pairs_TF2.tobytes(), pairs_TF2.shape[0], pairs_TF2.shape[1]
    row["regions"] = [{f.name: getattr(region, f.name) for f in fields(ObjectRegion)} for region in clip.regions]
    has_finite_times = all(map(math.isfinite, clip.frame_times))
    what = describe_non_finite_values(row, pairs_TF2) or (
        "" if has_finite_times else "the time of a frame is not finite"
    )
    if what:
        raise NonFiniteValueError(clip.clip_id, what)
    return row


def _encode_jpeg(image_YX3: np.ndarray, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image_YX3).save(out, format="JPEG", quality=quality, subsampling=0)
    return out.getvalue()


@dataclass(frozen=True)
class PreparationJob:
    """How the sources of a dataset become rows."""

    settings: DatasetConfig
    import_clips: ImportClips  # of the dataset's importer
    preprocessing: str  # hash of the settings


@contextlib.contextmanager
def spool_folder(settings: DatasetConfig) -> Iterator[str]:
    """Yield the folder of the spools: `.parts` of a dataset on a disk, else a temporary folder."""
    filesystem, root = resolve_uri(settings.prepared)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield f"{root}/{PARTS_FOLDER}"
    else:
        with tempfile.TemporaryDirectory(prefix="raymix-") as temporary:
            yield temporary


def spool_path(folder: str, stem: str, number: int) -> str:
    """Return the path of the spool of a unit's source.

    Args:
        folder: see `spool_folder`.
        stem: of the unit.
        number: index of the source in the unit.
    """
    return f"{folder}/{stem}/{number:05d}.arrow"


def refused_record(source: MediaSource) -> dict[str, Any] | None:
    """Return the record of a source that its importer refused, for which there is no spool; None for other sources."""
    if source.refused is None:
        return None
    entry = asdict(source.manifest_row()) | dict(zip(("status", "reason"), source.refused, strict=True))
    return {"entry": entry, "labels": {}, "with_regions": 0, "stft_shape": [0, 0], "seconds": 0.0}


def spool_source(job: PreparationJob, source: MediaSource, folder: str, stem: str, number: int) -> dict[str, Any]:
    """Import one source and write its rows to its spool, unless the spool is complete.

    Args:
        job: settings and importer.
        source: what is imported.
        folder, stem, number: see `spool_path`.

    Returns:
        The record of the source: its manifest row and counts of its clips.
    """
    path = spool_path(folder, stem, number)
    if (record := read_spool_record(path)) is not None:
        return record
    import torch  # before the first file, so that the import does not count as time spent on it

    torch.set_num_threads(1)
    started, entry, labels, shape, with_regions = time.monotonic(), source.manifest_row(), Counter[str](), (0, 0), 0
    with (
        _count_attempt(job.settings, stem, number) as crashes,
        atomic_output_file(fs.LocalFileSystem(), path) as part,
        pa.OSFile(part, "wb") as sink,
        pa.ipc.new_file(sink, clip_schema()) as writer,
    ):
        batch, size = list[dict[str, Any]](), 0
        for row in _import_rows(job, source, entry, crashes):
            shape = (row["stft_frames"], row["stft_bins"])
            labels.update(row["labels"])
            with_regions += bool(row["regions"])
            batch.append(row)
            size += len(row["stft"]) + sum(len(frame["jpeg"]) for frame in row["frames"])
            if size >= BATCH_BYTES:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, clip_schema()))
                batch, size = [], 0
        record = {
            "entry": asdict(entry),
            "labels": dict(sorted(labels.items())),
            "stft_shape": list(shape),
            "with_regions": with_regions,
            "seconds": round(time.monotonic() - started, 3),
        }
        last = pa.RecordBatch.from_pylist(batch, clip_schema())
        writer.write_batch(last, custom_metadata={RECORD_KEY: json.dumps(record).encode()})
    return record


def read_spool_record(path: str) -> dict[str, Any] | None:
    """Return the record of a source from its spool, None where there is no complete spool."""
    try:
        with pa.memory_map(path) as file, pa.ipc.open_file(file) as reader:
            _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
            return dict(json.loads(metadata[RECORD_KEY]))
    except (FileNotFoundError, pa.ArrowInvalid, ValueError):
        return None


def read_spool_rows(path: str) -> pa.Table:
    """Return the rows of a spool, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def _import_rows(
    job: PreparationJob, source: MediaSource, entry: ManifestRow, crashes: int
) -> Iterator[dict[str, Any]]:
    """The rows of one source's usable clips; an error of the file becomes status and reason of `entry`."""
    settings = job.settings
    try:
        if crashes >= MAX_CRASHES:
            raise UnusableMediaError("error", f"reading it ended the process {crashes} times")
        for clip in job.import_clips(settings, source, entry):
            if clip.status == "ok":
                row = encode_clip(clip, settings.jpeg_quality)
                entry.clips += 1
                yield row
            else:
                entry.silent_clips += 1
        if not entry.clips:
            level = f"every clip is below {settings.silence_db:g} dB"
            entry.status, entry.reason = ("silent", level) if entry.silent_clips else ("too short", entry.reason)
        elif source.repairs:
            entry.status = "repaired" if entry.status == "ok" else entry.status  # "no face" is more specific
            entry.reason = "; ".join(filter(None, (entry.reason, *source.repairs[:MAX_REPAIRS_SHOWN])))
    except UnusableMediaError as error:
        entry.status, entry.reason = error.status, str(error)
    except NonFiniteValueError as error:
        entry.status, entry.reason = "corrupt", str(error)
    except Exception as error:  # one bad file must not end a long run
        if isinstance(error, OSError):
            if disk_full_message(error):  # the demo importer writes its videos
                raise
            _check_root_exists(settings, error)
        entry.status, entry.reason = "error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _check_root_exists(settings: DatasetConfig, error: OSError) -> None:
    """Raise MediaRootLostError where the whole root is missing, which must not be recorded as a fault of a file."""
    filesystem, path = resolve_uri(settings.root)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        raise MediaRootLostError(f"{settings.root}: not there any more; {RESUME_HINT}") from error


@contextlib.contextmanager
def _count_attempt(settings: DatasetConfig, stem: str, number: int) -> Iterator[int]:
    """Yield how many processes crashed while they read this source, counted in a file that outlives a crash."""
    filesystem, root = resolve_uri(settings.prepared)
    path, before = f"{root}/{PARTS_FOLDER}/{stem}/{number:05d}.attempt", 0
    with contextlib.suppress(FileNotFoundError, ValueError):
        before = int(read_bytes(filesystem, path))
    write_atomic(filesystem, path, str(before + 1).encode(), durable=False)
    try:
        yield before
    finally:  # an exception or an interrupt is no crash
        if before:
            write_atomic(filesystem, path, str(before).encode(), durable=False)
        else:
            filesystem.delete_file(path)


@dataclass(frozen=True)
class WorkUnit:
    """Source files that become the shards `name`.parquet, `name`-1.parquet ..."""

    name: str
    key: str  # hash of the preprocessing and of the sources
    sources: tuple[MediaSource, ...]

    @property
    def stem(self) -> str:
        """Name of the unit's files in `.parts`, without suffix."""
        return f"{self.name}-{self.key}"

    @property
    def record(self) -> str:
        """Path of its record below the prepared folder."""
        return f"{PARTS_FOLDER}/{self.stem}.json"


def make_work_units(sources: list[MediaSource], preprocessing: str) -> list[WorkUnit]:
    """Divide the sources of each split into units, in order; a source without a split is in none."""
    units: list[WorkUnit] = []
    for split in SPLITS:
        members = [source for source in sources if source.split == split]
        group: list[MediaSource] = []
        count = size = 0
        for number, source in enumerate(members, 1):
            group.append(source)
            size += max(source.size_bytes, 0)
            is_full = len(group) >= UNIT_FILES or size >= UNIT_BYTES
            if is_full or number == len(members):
                units.append(WorkUnit(f"{split}-{count:05d}", _unit_key(preprocessing, group), tuple(group)))
                group, size, count = [], 0, count + 1
    return units


def _unit_key(preprocessing: str, sources: list[MediaSource]) -> str:
    text = json.dumps([SCHEMA_VERSION, preprocessing, [asdict(source) for source in sources]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _ShardWriter:
    """Writes rows as the Parquet files of one unit, a row group at a time."""

    def __init__(self, job: PreparationJob, unit: WorkUnit) -> None:
        self.settings, self.unit = job.settings, unit
        self.filesystem, self.path = resolve_uri(job.settings.prepared)
        self.schema = clip_schema(job.preprocessing)
        self.files: list[str] = []
        self._rows: list[pa.Table] = []
        self._bytes = self._rows_in_file = 0
        self._writer: pq.ParquetWriter | None = None
        self._open_files = contextlib.ExitStack()

    def add(self, row: pa.Table) -> None:
        self._rows.append(row)
        self._bytes += row.nbytes
        rows_in_file = self._rows_in_file + len(self._rows)
        file_is_full = rows_in_file >= self.settings.rows_per_file
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES or file_is_full:
            self._write_row_group()
        if file_is_full:
            self.close()

    def _write_row_group(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            number = len(self.files)
            self.files.append(f"{self.unit.name}{f'-{number}' if number else ''}.parquet")
            part = self._open_files.enter_context(atomic_output_file(self.filesystem, f"{self.path}/{self.files[-1]}"))
            writer = pq.ParquetWriter(part, self.schema, compression="zstd", write_batch_size=PAGE_ROWS)
            self._writer = self._open_files.enter_context(writer)
        group = pa.concat_tables(self._rows).combine_chunks().cast(self.schema)
        self._writer.write_table(group, row_group_size=len(group))
        self._rows_in_file += len(self._rows)
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._write_row_group()
        self._open_files.close()
        self._writer, self._rows_in_file = None, 0

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open_files.__exit__(*error)


def write_unit_shards(job: PreparationJob, unit: WorkUnit) -> dict[str, Any]:
    """Import the sources of a unit and write its shards and its record, which is returned."""
    with spool_folder(job.settings) as folder:
        for number, source in enumerate(unit.sources):
            if source.refused is None:
                spool_source(job, source, folder, unit.stem, number)
        return assemble_shards(job, unit, folder)


def assemble_shards(job: PreparationJob, unit: WorkUnit, folder: str) -> dict[str, Any]:
    """Write the shards of a unit from the spools of its sources, then its record, which is returned.

    Rows are ordered by seeded hashes of their ids: a uniform shuffle that is independent of how they were made.
    """
    paths = [spool_path(folder, unit.stem, number) for number in range(len(unit.sources))]
    records = [
        record
        for source, path in zip(unit.sources, paths, strict=True)
        if (record := refused_record(source) or read_spool_record(path)) is not None
    ]
    tables = [read_spool_rows(path) for source, path in zip(unit.sources, paths, strict=True) if source.refused is None]
    order = [
        (hash_fraction(job.settings.seed + 2, clip_id), clip_id, index, row)
        for index, table in enumerate(tables)
        for row, clip_id in enumerate(table["clip_id"].to_pylist())
    ]
    with _ShardWriter(job, unit) as shards:
        for *_, index, row in sorted(order):
            shards.add(tables[index].slice(row, 1))
        shards.close()
    unit_record = {
        "unit": unit.name,
        "files": shards.files,
        "clips": sum(each["entry"]["clips"] for each in records),
        "stft_shape": max(each["stft_shape"] for each in records),
        "labels": _count_labels(records),
        "with_regions": sum(each["with_regions"] for each in records),
        "entries": [each["entry"] for each in records],
        "seconds": round(sum(each["seconds"] for each in records), 3),
    }
    write_atomic(shards.filesystem, f"{shards.path}/{unit.record}", json.dumps(unit_record).encode())
    shutil.rmtree(f"{folder}/{unit.stem}", ignore_errors=True)
    return unit_record


def read_unit_records(settings: DatasetConfig, units: list[WorkUnit]) -> dict[str, dict[str, Any]]:
    """Return the records of the complete units by name; records of other units, whose shards have the same names, are deleted."""
    filesystem, path = resolve_uri(settings.prepared)
    infos = filesystem.get_file_info(fs.FileSelector(f"{path}/{PARTS_FOLDER}", allow_not_found=True))
    names, own = {info.base_name for info in infos}, {unit.record.rpartition("/")[2] for unit in units}
    for info in infos:
        if info.base_name.endswith(".json") and info.base_name not in own:
            filesystem.delete_file(info.path)
    return {
        unit.name: json.loads(read_bytes(filesystem, f"{path}/{unit.record}"))
        for unit in units
        if unit.record.rpartition("/")[2] in names
    }


def finish_dataset(
    settings: DatasetConfig, records: list[dict[str, Any]], unlisted: list[MediaSource], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Write `manifest.parquet`, the card and at last `dataset.json`; delete files that do not belong to the dataset.

    Args:
        settings: of the dataset.
        records: of all its units.
        unlisted: sources that are in no split.
        provenance: what `dataset.json` says about settings and sources.

    Returns:
        The content of `dataset.json`.
    """
    filesystem, path = resolve_uri(settings.prepared)
    entries = [ManifestRow(**entry) for record in records for entry in record["entries"]]
    entries += [
        replace(source.manifest_row(), status=status, reason=reason)
        for source in unlisted
        for status, reason in (source.refused or UNLISTED_STATUS,)
    ]
    entries.sort(key=lambda entry: entry.file)
    by_split = {split: [record for record in records if record["unit"].startswith(split)] for split in SPLITS}
    description = {
        "schema_version": SCHEMA_VERSION,
        **provenance,
        "splits": {split: _describe_split(of_split) for split, of_split in by_split.items()},
        "classes": sorted({label for record in records for label in record["labels"]}),
        "labels": _count_labels(records),
        "stft_shape": max(record["stft_shape"] for record in records),
        "statuses": dict(Counter(entry.status for entry in entries).most_common()),
    }
    out = io.BytesIO()
    columns = {field.name: [getattr(entry, field.name) for entry in entries] for field in fields(ManifestRow)}
    pq.write_table(pa.table(columns), out, compression="zstd")
    write_atomic(filesystem, f"{path}/{MANIFEST_FILE}", out.getvalue())
    keep = {file for split in description["splits"].values() for file in split["files"]}
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        is_shard = re.fullmatch(r"(train|val|test)-\d{5}(-\d+)?\.parquet(\..+\.tmp)?", info.base_name)
        if is_shard and info.base_name not in keep:
            filesystem.delete_file(info.path)  # of an earlier preparation that was not finished
    output_folder.delete_scene_lists(filesystem, path)
    card = dataset_card.sections_to_markdown(dataset_card.card_sections(PreparedDataset(description, tuple(entries))))
    write_atomic(filesystem, f"{path}/{CARD_FILE}", card.encode())
    write_atomic(filesystem, f"{path}/{DATASET_FILE}", json.dumps(description, indent=1, ensure_ascii=False).encode())
    filesystem.delete_dir(f"{path}/{PARTS_FOLDER}")
    return description


def _describe_split(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of a split in dataset.json, from the records of its units."""
    return {
        "clips": sum(record["clips"] for record in records),
        "videos": sum(entry["clips"] > 0 for record in records for entry in record["entries"]),
        "with_regions": sum(record["with_regions"] for record in records),
        "labels": _count_labels(records),
        "files": [file for record in records for file in record["files"]],
    }


def _count_labels(records: list[dict[str, Any]]) -> dict[str, int]:
    return dict(sorted(sum((Counter(record["labels"]) for record in records), Counter[str]()).items()))
