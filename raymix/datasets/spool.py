"""The rows of one source on disk, on their way into a shard: so that a shard can be shuffled without being in memory, and
a source that is read need not be read again after a kill.

Beside the shards where these lie on a disk, and on this machine's own where they lie in an object store.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raymix.clip import NonFinite, encode, schema
from raymix.config import Dataset
from raymix.datasets import DATASETS
from raymix.datasets.source import Entry, RootLost, Source, Unusable
from raymix.storage import get, making, no_room, put, resolve

PARTS = ".parts"  # the folder of everything that is no finished shard
BATCH_BYTES = 32 << 20
CRASHES = 3  # a file whose import killed so many processes is given up
GOES_ON = "what is done is kept, and the same command goes on when it is back"
RECORD = b"record"  # in the last batch of a spool: what became of the source


@contextlib.contextmanager
def place(settings: Dataset) -> Iterator[str]:
    """The folder for spools."""
    filesystem, root = resolve(settings.prepared)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield f"{root}/{PARTS}"
    else:
        with tempfile.TemporaryDirectory(prefix="raymix-") as aside:
            yield aside


def path(folder: str, stem: str, number: int) -> str:
    """Where the spool of the `number`-th source of a unit is."""
    return f"{folder}/{stem}/{number:05d}.arrow"


def refusal(source: Source) -> dict[str, Any] | None:
    """The record of a source of which it is known beforehand that it gives nothing: no spool is made for it."""
    if source.refused is None:
        return None
    entry = asdict(Entry.of(source)) | dict(zip(("status", "reason"), source.refused, strict=True))
    return {"entry": entry, "labels": {}, "with_regions": 0, "stft_shape": [0, 0], "seconds": 0.0}


def fill(settings: Dataset, source: Source, folder: str, stem: str, number: int) -> dict[str, Any]:
    """Reads one source into `folder`/`stem`/`number`.arrow; the record of what became of it, also where it is there."""
    place = path(folder, stem, number)
    if (found := record(place)) is not None:
        return found
    import torch  # before the first file: a slow import must not look like a slow file

    torch.set_num_threads(1)
    started, entry, labels, shape, with_regions = time.monotonic(), Entry.of(source), Counter[str](), (0, 0), 0
    with (
        _attempt(settings, stem, number) as crashes,
        making(fs.LocalFileSystem(), place) as part,
        pa.OSFile(part, "wb") as sink,
        pa.ipc.new_file(sink, schema()) as writer,
    ):
        batch, size = list[dict[str, Any]](), 0
        for row in _rows(settings, source, entry, crashes):
            shape = (row["stft_frames"], row["stft_bins"])
            labels.update(row["labels"])
            with_regions += bool(row["regions"])
            batch.append(row)
            size += len(row["stft"]) + sum(len(frame["jpeg"]) for frame in row["frames"])
            if size >= BATCH_BYTES:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema()))
                batch, size = [], 0
        made = {
            "entry": asdict(entry), "labels": dict(sorted(labels.items())), "stft_shape": list(shape),
            "with_regions": with_regions, "seconds": round(time.monotonic() - started, 3),
        }  # fmt: skip
        last = pa.RecordBatch.from_pylist(batch, schema())
        writer.write_batch(last, custom_metadata={RECORD: json.dumps(made).encode()})
    return made


def record(place: str) -> dict[str, Any] | None:
    """What became of a source, None while its spool is not whole."""
    try:
        with pa.memory_map(place) as file, pa.ipc.open_file(file) as reader:
            _, told = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
            return dict(json.loads(told[RECORD]))
    except (FileNotFoundError, pa.ArrowInvalid, ValueError):
        return None


def rows(place: str) -> pa.Table:
    """The rows of a spool, which stay on disk until they are used."""
    return pa.ipc.open_file(pa.memory_map(place)).read_all()


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
            entry.status = "repaired" if entry.status == "ok" else entry.status  # "no face" says more
            entry.reason = "; ".join(filter(None, (entry.reason, *source.repairs[:3])))
    except Unusable as error:
        entry.status, entry.reason = error.status, str(error)
    except NonFinite as error:
        entry.status, entry.reason = "corrupt", str(error)
    except Exception as error:  # one bad file must not end a long run
        if isinstance(error, OSError):
            if no_room(error):  # the demo writes its videos
                raise
            _root(settings, error)
        entry.status, entry.reason = "error", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _root(settings: Dataset, error: OSError) -> None:
    """RootLost where it is not a file that is lost but the root: that must not become a property of the file."""
    filesystem, path = resolve(settings.root)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        raise RootLost(f"{settings.root}: not there any more; {GOES_ON}") from error


@contextlib.contextmanager
def _attempt(settings: Dataset, stem: str, number: int) -> Iterator[int]:
    """How many processes ended while reading this source; inside, it is on record as being read."""
    filesystem, root = resolve(settings.prepared)
    mark, before = f"{root}/{PARTS}/{stem}/{number:05d}.attempt", 0
    with contextlib.suppress(FileNotFoundError, ValueError):
        before = int(get(filesystem, mark))
    put(filesystem, mark, str(before + 1).encode(), durable=False)
    try:
        yield before
    finally:  # an exception or an interrupt is no crash
        if before:
            put(filesystem, mark, str(before).encode(), durable=False)
        else:
            filesystem.delete_file(mark)
