"""Parquet shards of a prepared dataset: rows of each source are spooled on disk, shuffled into shards, records written last.

Beside the shards where these lie on a disk, and on this machine's own where they lie in an object store.

A unit is a run of source files of one split. Its shards depend on nothing but its sources and the settings, so they are
the same bytes on any number of workers; its record in `.parts` is written after them: a unit with a record is done.
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
from raymix.data.importers.base import ImportClips, MediaRootLostError, MediaSource, UnusableMediaError, hash_fraction
from raymix.data.preparation import dataset_card, output_folder
from raymix.data.preparation.output_folder import PARTS_FOLDER
from raymix.data.prepared import PreparedDataset
from raymix.data.records import (
    SCHEMA_VERSION,
    SPLITS,
    ClipRecord,
    ManifestRow,
    NonFiniteValueError,
    clip_schema,
    describe_non_finite_values,
)
from raymix.metrics.regions import ObjectRegion
from raymix.runtime.storage import atomic_output_file, disk_full_message, read_bytes, resolve_uri, write_atomic

BATCH_BYTES = 32 << 20

MAX_CRASHES = 3  # a file whose import killed so many processes is given up

RESUME_HINT = "what is done is kept, and the same command goes on when it is back"

RECORD_KEY = b"record"  # in the last batch of a spool: what became of the source


def encode_clip(clip: ClipRecord, jpeg_quality: int = 90) -> dict[str, Any]:
    """The Parquet row of a clip: frames as JPEG, sound as float16 (T, F, 2) of real and imaginary parts.

    Raises:
        NonFiniteValueError: where the row would hold a value that is not finite, also one that is too large for half precision.
    """
    import torch  # takes seconds, and pyarrow alone reads clips

    from raymix.data.audio import stft

    spectrum_TF = stft(torch.from_numpy(np.ascontiguousarray(clip.wave, dtype=np.float32))[None])[0]
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
        pairs_TF2 = torch.view_as_real(spectrum_TF).numpy().astype(np.float16)
    frames = [
        {"t_s": float(t), "jpeg": _jpeg(image, jpeg_quality), "width": image.shape[1], "height": image.shape[0]}
        for image, t in zip(clip.frames, clip.frame_times, strict=True)
    ]
    row = {name: getattr(clip, name) for name in clip_schema().names if hasattr(clip, name)}
    row["labels"] = list(clip.labels)
    row["frames"] = frames
    row["stft"], row["stft_frames"], row["stft_bins"] = pairs_TF2.tobytes(), pairs_TF2.shape[0], pairs_TF2.shape[1]
    row["regions"] = [{f.name: getattr(region, f.name) for f in fields(ObjectRegion)} for region in clip.regions]
    times = all(map(math.isfinite, clip.frame_times))
    if what := describe_non_finite_values(row, pairs_TF2) or ("" if times else "the time of a frame is not finite"):
        raise NonFiniteValueError(clip.clip_id, what)
    return row


def _jpeg(image_YX3: np.ndarray, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image_YX3).save(out, format="JPEG", quality=quality, subsampling=0)
    return out.getvalue()


@contextlib.contextmanager
def spool_folder(settings: DatasetConfig) -> Iterator[str]:
    """The folder for spools."""
    filesystem, root = resolve_uri(settings.prepared)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield f"{root}/{PARTS_FOLDER}"
    else:
        with tempfile.TemporaryDirectory(prefix="raymix-") as aside:
            yield aside


def spool_path(folder: str, stem: str, number: int) -> str:
    """Where the spool of the `number`-th source of a unit is."""
    return f"{folder}/{stem}/{number:05d}.arrow"


def refused_record(source: MediaSource) -> dict[str, Any] | None:
    """The record of a source of which it is known beforehand that it gives nothing: no spool is made for it."""
    if source.refused is None:
        return None
    entry = asdict(source.manifest_row()) | dict(zip(("status", "reason"), source.refused, strict=True))
    return {"entry": entry, "labels": {}, "with_regions": 0, "stft_shape": [0, 0], "seconds": 0.0}


def spool_source(
    settings: DatasetConfig, source: MediaSource, import_clips: ImportClips, folder: str, stem: str, number: int
) -> dict[str, Any]:
    """Reads one source into `folder`/`stem`/`number`.arrow; returns its record, also where it was read before."""
    place = spool_path(folder, stem, number)
    if (found := read_spool_record(place)) is not None:
        return found
    import torch  # before the first file: a slow import must not look like a slow file

    torch.set_num_threads(1)
    started, entry, labels, shape, with_regions = time.monotonic(), source.manifest_row(), Counter[str](), (0, 0), 0
    with (
        _attempt(settings, stem, number) as crashes,
        atomic_output_file(fs.LocalFileSystem(), place) as part,
        pa.OSFile(part, "wb") as sink,
        pa.ipc.new_file(sink, clip_schema()) as writer,
    ):
        batch, size = list[dict[str, Any]](), 0
        for row in _rows(settings, source, import_clips, entry, crashes):
            shape = (row["stft_frames"], row["stft_bins"])
            labels.update(row["labels"])
            with_regions += bool(row["regions"])
            batch.append(row)
            size += len(row["stft"]) + sum(len(frame["jpeg"]) for frame in row["frames"])
            if size >= BATCH_BYTES:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, clip_schema()))
                batch, size = [], 0
        made = {
            "entry": asdict(entry),
            "labels": dict(sorted(labels.items())),
            "stft_shape": list(shape),
            "with_regions": with_regions,
            "seconds": round(time.monotonic() - started, 3),
        }
        last = pa.RecordBatch.from_pylist(batch, clip_schema())
        writer.write_batch(last, custom_metadata={RECORD_KEY: json.dumps(made).encode()})
    return made


def read_spool_record(place: str) -> dict[str, Any] | None:
    """What became of a source, None while its spool is not whole."""
    try:
        with pa.memory_map(place) as file, pa.ipc.open_file(file) as reader:
            _, told = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
            return dict(json.loads(told[RECORD_KEY]))
    except (FileNotFoundError, pa.ArrowInvalid, ValueError):
        return None


def read_spool_rows(place: str) -> pa.Table:
    """The rows of a spool, which stay on disk until they are used."""
    return pa.ipc.open_file(pa.memory_map(place)).read_all()


def _rows(
    settings: DatasetConfig, source: MediaSource, import_clips: ImportClips, entry: ManifestRow, crashes: int
) -> Iterator[dict[str, Any]]:
    """The usable rows of one file; whatever goes wrong with it becomes the entry's status and reason."""
    try:
        if crashes >= MAX_CRASHES:
            raise UnusableMediaError("error", f"reading it ended the process {crashes} times")
        for clip in import_clips(settings, source, entry):
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
            entry.status = "repaired" if entry.status == "ok" else entry.status  # "no face" says more
            entry.reason = "; ".join(filter(None, (entry.reason, *source.repairs[:3])))
    except UnusableMediaError as error:
        entry.status, entry.reason = error.status, str(error)
    except NonFiniteValueError as error:
        entry.status, entry.reason = "corrupt", str(error)
    except Exception as error:  # one bad file must not end a long run
        if isinstance(error, OSError):
            if disk_full_message(error):  # the demo writes its videos
                raise
            _root(settings, error)
        entry.status, entry.reason = "error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _root(settings: DatasetConfig, error: OSError) -> None:
    """RootLost where it is not a file that is lost but the root: that must not become a property of the file."""
    filesystem, path = resolve_uri(settings.root)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        raise MediaRootLostError(f"{settings.root}: not there any more; {RESUME_HINT}") from error


@contextlib.contextmanager
def _attempt(settings: DatasetConfig, stem: str, number: int) -> Iterator[int]:
    """How many processes ended while reading this source; inside, it is on record as being read."""
    filesystem, root = resolve_uri(settings.prepared)
    mark, before = f"{root}/{PARTS_FOLDER}/{stem}/{number:05d}.attempt", 0
    with contextlib.suppress(FileNotFoundError, ValueError):
        before = int(read_bytes(filesystem, mark))
    write_atomic(filesystem, mark, str(before + 1).encode(), durable=False)
    try:
        yield before
    finally:  # an exception or an interrupt is no crash
        if before:
            write_atomic(filesystem, mark, str(before).encode(), durable=False)
        else:
            filesystem.delete_file(mark)


UNIT_FILES, UNIT_BYTES = 32, 1 << 30  # a unit ends at so many files, or bytes of input

GROUP_ROWS, GROUP_BYTES = 128, 32 << 20  # a row group ends at so many rows, or bytes

PAGE_ROWS = 4  # after so many rows a page of 1 MiB may end: who wants few rows reads few pages

UNLISTED_STATUS = ("unlisted", "not in the split file")


@dataclass(frozen=True)
class WorkUnit:
    """Source files that become the shards `name`.parquet, `name`-1.parquet ..."""

    name: str
    key: str  # hash of the preprocessing and of the sources
    sources: tuple[MediaSource, ...]

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.key}"

    @property
    def record(self) -> str:
        return f"{PARTS_FOLDER}/{self.stem}.json"


def make_work_units(sources: list[MediaSource], preprocessing: str) -> list[WorkUnit]:
    """The sources of each split in runs; a source without a split is in none."""
    made: list[WorkUnit] = []
    for split in SPLITS:
        run: list[MediaSource] = []
        count = size = 0
        members = [source for source in sources if source.split == split]
        for number, source in enumerate(members, 1):
            run.append(source)
            size += max(source.size_bytes, 0)
            full = len(run) >= UNIT_FILES or size >= UNIT_BYTES
            if full or number == len(members):
                made.append(WorkUnit(f"{split}-{count:05d}", _key(preprocessing, run), tuple(run)))
                run, size, count = [], 0, count + 1
    return made


def _key(preprocessing: str, run: list[MediaSource]) -> str:
    text = json.dumps([SCHEMA_VERSION, preprocessing, [asdict(source) for source in run]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _Shards:
    """Writes rows as Parquet files of one unit, a row group at a time."""

    def __init__(self, settings: DatasetConfig, unit: WorkUnit, preprocessing: str) -> None:
        self.settings, self.unit = settings, unit
        self.filesystem, self.path = resolve_uri(settings.prepared)
        self.schema = clip_schema(preprocessing)
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
            part = self._place.enter_context(atomic_output_file(self.filesystem, f"{self.path}/{self.files[-1]}"))
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


def write_unit_shards(
    settings: DatasetConfig, unit: WorkUnit, import_clips: ImportClips, preprocessing: str
) -> dict[str, Any]:
    """Import the files of a unit, write its shards and then its record, which is returned."""
    with spool_folder(settings) as folder:
        for number, source in enumerate(unit.sources):
            if source.refused is None:
                spool_source(settings, source, import_clips, folder, unit.stem, number)
        return assemble_shards(settings, unit, preprocessing, folder)


def assemble_shards(settings: DatasetConfig, unit: WorkUnit, preprocessing: str, folder: str) -> dict[str, Any]:
    """Write the shards of a unit from the spools of all its sources, and then its record, which is returned.

    The rows come in the order of seeded hashes of their ids: a fair shuffle, in which no row needs another in memory.
    """
    paths = [spool_path(folder, unit.stem, number) for number in range(len(unit.sources))]
    every = (
        refused_record(source) or read_spool_record(path) for source, path in zip(unit.sources, paths, strict=True)
    )
    told = [found for found in every if found is not None]
    tables = [read_spool_rows(path) for source, path in zip(unit.sources, paths, strict=True) if source.refused is None]
    order = [
        (hash_fraction(settings.seed + 2, clip_id), clip_id, which, row)
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
    write_atomic(shards.filesystem, f"{shards.path}/{unit.record}", json.dumps(record).encode())
    shutil.rmtree(f"{folder}/{unit.stem}", ignore_errors=True)
    return record


def read_unit_records(settings: DatasetConfig, wanted: list[WorkUnit]) -> dict[str, dict[str, Any]]:
    """The records of the units that are done, by name; those of other units go, whose shards have the same names."""
    filesystem, path = resolve_uri(settings.prepared)
    infos = filesystem.get_file_info(fs.FileSelector(f"{path}/{PARTS_FOLDER}", allow_not_found=True))
    there, own = {info.base_name for info in infos}, {unit.record.rpartition("/")[2] for unit in wanted}
    for info in infos:
        if info.base_name.endswith(".json") and info.base_name not in own:
            filesystem.delete_file(info.path)
    found = {}
    for unit in wanted:
        if unit.record.rpartition("/")[2] in there:
            found[unit.name] = json.loads(read_bytes(filesystem, f"{path}/{unit.record}"))
    return found


def finish_dataset(
    settings: DatasetConfig, made: list[dict[str, Any]], left_out: list[MediaSource], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write `manifest.parquet`, the card and then `dataset.json`, whose content is returned; drop what belongs to none."""
    filesystem, path = resolve_uri(settings.prepared)
    entries = [ManifestRow(**entry) for record in made for entry in record["entries"]]
    entries += [
        replace(s.manifest_row(), status=status, reason=why)
        for s in left_out
        for status, why in (s.refused or UNLISTED_STATUS,)
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
    columns = {field.name: [getattr(entry, field.name) for entry in entries] for field in fields(ManifestRow)}
    pq.write_table(pa.table(columns), out, compression="zstd")
    write_atomic(filesystem, f"{path}/manifest.parquet", out.getvalue())
    keep = {file for split in description["splits"].values() for file in split["files"]}
    for info in filesystem.get_file_info(fs.FileSelector(path)):
        shard = re.fullmatch(r"(train|val|test)-\d{5}(-\d+)?\.parquet(\..+\.tmp)?", info.base_name)
        if shard and info.base_name not in keep:
            filesystem.delete_file(info.path)  # of an earlier, unfinished layout
    output_folder.delete_scene_lists(filesystem, path)
    write_atomic(
        filesystem,
        f"{path}/{dataset_card.CARD_FILE}",
        dataset_card.sections_to_markdown(
            dataset_card.card_sections(PreparedDataset(description, tuple(entries)))
        ).encode(),
    )
    write_atomic(filesystem, f"{path}/dataset.json", json.dumps(description, indent=1, ensure_ascii=False).encode())
    filesystem.delete_dir(f"{path}/{PARTS_FOLDER}")
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
