"""Training clips through Ray: Parquet to decoded clips, cached per study or streamed by row group, to mixtures.

Which row groups an epoch needs, and in which order, every worker works out for itself (`raymix.data.loader`).

A study decodes its training clips once, with Ray Data. Where they fit in the stated share of the object store they stay
there and every worker of every slot reads them in place (no copy, any order). Else each epoch is streamed: row groups of all
shards come in an order drawn from (seed, epoch), and clips are shuffled within windows of several row groups.

Either way the groups and their order are drawn for all workers together from (seed, epoch), so the same global batches come
on any number of workers. What depends on the trial (k, windows, crops, groups) happens here, after decoding, from random
numbers of (seed, epoch, clip id).
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from raymix.config import ConfigError, TrainConfig
from raymix.data import prepared, records
from raymix.data.audio import mix_sounds, window_frames
from raymix.data.batches import ClipBatch, DataRequirements, MixtureBatch
from raymix.data.mixing import group_clips, make_mixture_batch, partner_clips, passes_per_epoch
from raymix.data.prepared import RowGroup
from raymix.data.records import ClipTable, NonFiniteValueError
from raymix.runtime.storage import resolve_uri


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class RowGroupStore:
    """The row groups that the workers of one slot want now or next, as objects in Ray's object store.

    It holds nothing that a restart could lose: what is asked for is decoded again.

    Args:
        directory: a prepared dataset.
        image_size: side of the decoded frames, px.
        labels: whether class names are read.
        cpus: of each decoding task.
    """

    def __init__(self, directory: str, image_size: int, labels: bool, cpus: float) -> None:
        self._how = directory, image_size, labels
        self._cpus = cpus
        self._decoded: dict[RowGroup, Any] = {}  # object references
        self._wanted: dict[int, set[RowGroup]] = {}  # by rank

    def get(self, rank: int, world: int, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[Any]:
        """References to the decoded row groups `now`; decoding of `next_` begins too.

        What no rank wants any more is freed.
        """
        self._wanted[rank] = {*now, *next_}
        self._wanted = {each: wanted for each, wanted in self._wanted.items() if each < world}
        for group in (*now, *next_):
            if group not in self._decoded:
                # SPREAD: over all nodes, and not in the placement group of whoever made this actor
                task = _decode.options(num_cpus=self._cpus, scheduling_strategy="SPREAD")
                self._decoded[group] = task.remote(*self._how, group)
        for group in self._decoded.keys() - set[RowGroup]().union(*self._wanted.values()):
            del self._decoded[group]
        return [self._decoded[group] for group in now]

    def held(self) -> list[RowGroup]:
        """The row groups that are decoded, or are being decoded."""
        return sorted(self._decoded)


@ray.remote
def _decode(directory: str, image_size: int, labels: bool, group: RowGroup) -> ClipTable:
    return prepared.read_row_group(directory, group, image_size, labels)


class RowGroupReader:
    """A worker's view of its slot's `RowGroupStore`.

    Args:
        store: the actor.
        rank: of this worker.
        world: number of workers.
    """

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world

    def read(self, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[ClipTable]:
        """The decoded clips of the row groups `now`, not to be written to; `next_` is what is read after them.

        Raises:
            ValueError: where a row group cannot be read, or holds what no clip may hold.
        """
        try:
            references = ray.get(self._store.get.remote(self._rank, self._world, list(now), list(next_)))
            found: list[ClipTable] = ray.get(references)
            return found
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # its own line, not the traceback of the task


def open_row_group_store(run: Any, labels: bool) -> Any:
    """A `RowGroupStore` for the training clips of a run; it ends when nobody holds what is returned."""
    options = {"scheduling_strategy": "DEFAULT"}  # not in the placement group of the trial that makes it
    cpus = min(1.0, run.cluster.data_cpus)
    store = RowGroupStore.options(**options)  # type: ignore[attr-defined]
    return store.remote(run.dataset.prepared, run.encoder.image_size, labels, cpus)


CLIP_COLUMNS = [f.name for f in fields(ClipTable) if f.default is MISSING]  # what training reads: truth has a default


WINDOW_BATCHES = 8  # a window of a stream has at least so many batches of clips,

WINDOW_GROUPS = 4  # and so many row groups: clips of several files

CROSS_CLIP_VIEWS = ("video", "group")  # shifts whose second view is a window of another clip

CLIPS_PER_BATCH = 64  # clips at a time between epochs


@dataclass(frozen=True)
class ClipSource:
    """Where a study's training clips are: `parts` in the object store (decoded, shared), or row groups that are streamed."""

    parts: tuple[Any, ...]  # object references of Arrow tables
    clips: int
    nbytes: int
    how: str  # the sentence that a person reads
    row_groups: tuple[RowGroup, ...] = ()  # where clips are streamed


class RowGroupSource(Protocol):
    """What gives a loader its row groups."""

    def read(self, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[ClipTable]:
        """The clips of the row groups `now`; `next_` is what is read after them."""


def read_decoded_clips(run: TrainConfig, requirements: DataRequirements) -> ray.data.Dataset:
    """The decoded training clips as a lazy Ray Dataset, for the cache: one row a clip, fixed-shape tensors, no regions.

    Labels are not even read from the files, unless `requirements.labels`.
    """
    directory, size, labels = run.dataset.prepared, run.encoder.image_size, requirements.labels
    filesystem, _ = resolve_uri(directory)
    paths = prepared.list_shards(directory, "train")
    wanted = records.columns_to_read(truth=False, labels=labels)
    brought = [name for name in CLIP_COLUMNS if labels or name != "label"]

    def decoded(table: pa.Table) -> dict[str, np.ndarray]:
        try:
            clips = records.decode_clips(table, size, truth=False)
        except NonFiniteValueError as error:
            raise NonFiniteValueError(error.clip_id, error.what, error.row, table["path"][error.row].as_py()) from None
        return {name: _column(getattr(clips, name)) for name in brought}

    # The new Parquet reader starts actors that read footers, which cost 18 to 30 s in every execution (Ray 2.60). This is
    # the only place where raymix has Ray Data read files.
    ray.data.DataContext.get_current().use_datasource_v2 = False
    rows = ray.data.read_parquet(paths, filesystem=filesystem, columns=wanted, include_paths=True)
    return rows.map_batches(decoded, batch_format="pyarrow", batch_size=64)


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(object) if values.dtype.kind == "U" else values


def open_clip_source(run: TrainConfig, requirements: DataRequirements) -> ClipSource:
    """Decide between cache and stream (`data.cache`), and fill the cache; ConfigError where `on` cannot hold the clips.

    Args:
        run: the study's config.
        requirements: what its method reads of each clip.
    """
    described = prepared.read_dataset_json(run.dataset.prepared)
    count = int(described["splits"]["train"]["clips"])
    if count < run.training.batch_size:
        raise ConfigError(
            f"training.batch_size={run.training.batch_size}: more than the {count} training clips in {run.dataset.prepared}"
        )
    size = run.encoder.image_size
    nbytes = count * prepared.read_clip_shape(run.dataset.prepared, "train").decoded_bytes(size)
    store = _smallest_store()  # every node that has workers gets a copy of its own
    share = nbytes / store if store else 1.0
    said = f"{count} training clips, {nbytes / 2**20:.0f} MiB decoded, {share:.0%} of the object store"
    if run.data.cache == "off" or (run.data.cache == "auto" and share > run.cluster.object_store_share):
        groups = tuple(prepared.list_row_groups(run.dataset.prepared, "train"))
        how = f"{said}: streamed every epoch, row groups ({len(groups)}) in a new order, shuffled in windows of several"
        return ClipSource((), count, nbytes, how, groups)
    if share > 0.9:
        raise ConfigError(f"data.cache=on: {said}; use data.cache=auto, or a larger cluster.object_store_gib")
    with report_bad_rows():
        parts = tuple(read_decoded_clips(run, requirements).materialize().to_arrow_refs())
    return ClipSource(parts, count, nbytes, f"{said}: decoded once, shared by all slots")


@contextlib.contextmanager
def report_bad_rows() -> Iterator[None]:
    """Inside, an error of a Ray task that read a row with values that are not finite becomes ConfigError in one line."""
    try:
        yield
    except ray.exceptions.RayError as error:  # Ray Data keeps of the task's own error only the text
        if said := re.search(
            rf"^{NonFiniteValueError.__module__}\.{NonFiniteValueError.__name__}: (.+)$", str(error), re.MULTILINE
        ):
            raise ConfigError(said[1]) from error
        raise


def _smallest_store() -> int:
    """Bytes of the smallest object store among the living nodes that can have workers (any, where none has a CPU)."""
    every = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    able = [has for has in every if has.get("CPU", 0) > 0] or every
    return int(min(has.get("object_store_memory", 0) for has in able))


def _clips(table: pa.Table | dict[str, np.ndarray]) -> ClipTable:
    """A decoded block as Clips, without copying its tensors."""
    columns: dict[str, Any] = {}
    there = table.column_names if isinstance(table, pa.Table) else table
    for name in CLIP_COLUMNS:
        if name not in there:  # labels, which few methods ask for
            continue
        column = table[name]
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, np.ndarray):
            columns[name] = column.astype(str) if column.dtype == object else column
        elif hasattr(column, "to_numpy_ndarray"):
            columns[name] = column.to_numpy_ndarray()
        else:
            columns[name] = np.array(column.to_pylist(), dtype=str)
    return ClipTable(**{"label": np.full(len(columns["clip_id"]), "", dtype="U1"), **columns})


class CachedClips:
    """All decoded parts as one list of clips in the order of their ids, whatever order the blocks came in."""

    def __init__(self, parts: list[ClipTable]) -> None:
        self._parts = parts
        ids = np.concatenate([part.clip_id for part in parts])
        order = np.argsort(ids, kind="stable")
        self._part = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)])[order]
        self._row = np.concatenate([np.arange(len(part)) for part in parts])[order]
        self.ids = ids[order]
        self.videos = np.concatenate([part.video for part in parts])[order]
        self.groups = np.concatenate([part.group for part in parts])[order]

    def __len__(self) -> int:
        return len(self._row)

    def take(self, index: np.ndarray) -> ClipTable:
        """The clips at these positions, in this order."""
        columns: dict[str, Any] = {
            name: np.stack(
                [getattr(self._parts[p], name)[r] for p, r in zip(self._part[index], self._row[index], strict=True)]
            )
            for name in CLIP_COLUMNS
        }
        return ClipTable(**columns)


class MixtureLoader:
    """One worker's mixtures of an epoch, prepared one step ahead in a thread."""

    def __init__(
        self, source: ClipSource, reader: RowGroupSource | None, rank: int, world: int, shelf: CachedClips | None = None
    ) -> None:
        self._source, self._reader, self._rank, self._world = source, reader, rank, world
        self.shelf = shelf or (CachedClips([_clips(t) for t in ray.get(list(source.parts))]) if source.parts else None)

    def epoch(self, run: TrainConfig, number: int, requirements: DataRequirements) -> Iterator[MixtureBatch]:
        """The mixtures of epoch `number` (from 1) for this rank, in groups of mixture.k.

        A global batch of training.batch_size clips is divided into training.gradient_accumulation_steps pieces, one
        mixture each, of which every rank holds an equal share. Only whole batches are yielded. An epoch is one pass over
        the clips, or as many as training.min_updates needs; passes are numbered over all epochs, each with groups,
        windows and crops of its own.
        """
        count = passes_per_epoch(run.training, self._source.clips if self.shelf is None else len(self.shelf))
        numbers = range((number - 1) * count + 1, number * count + 1)
        one_pass = self._from_shelf if self.shelf is not None else self._from_stream
        made = (mixture for each in numbers for mixture in one_pass(run, each, requirements))
        return _ahead((mixture.pin() for mixture in made) if torch.cuda.is_available() else made)

    def _from_shelf(self, run: TrainConfig, number: int, requirements: DataRequirements) -> Iterator[MixtureBatch]:
        """Groups and their order are drawn for the whole epoch."""
        assert self.shelf is not None
        rng = np.random.default_rng([run.training.seed, number])
        groups_GK = group_clips(self.shelf.videos.tolist(), run.mixture.k, rng)
        yield from self._mixtures(run, number, requirements, self.shelf, groups_GK)

    def _mixtures(
        self, run: TrainConfig, number: int, requirements: DataRequirements, shelf: CachedClips, groups_GK: np.ndarray
    ) -> Iterator[MixtureBatch]:
        """This rank's share of each piece of the whole batches that these groups make."""
        k = run.mixture.k
        per_batch = run.training.batch_size // k
        per_piece = per_batch // run.training.gradient_accumulation_steps
        mine = per_piece // self._world
        for start in range(0, len(groups_GK) // per_batch * per_batch, per_piece):
            own_BK = groups_GK[start + self._rank * mine : start + (self._rank + 1) * mine]
            seats_BK, partners_BK = np.arange(own_BK.size).reshape(-1, k), None
            own_N = own_BK.reshape(-1)
            others_BK = _partners(run, number, shelf.ids, shelf.videos, shelf.groups, own_BK)
            if others_BK is not None:
                own_N, partners_BK = np.concatenate([own_N, others_BK.reshape(-1)]), own_BK.size + seats_BK
            yield _mixed(run, number, requirements, shelf.take(own_N), seats_BK, partners_BK)

    def _from_stream(self, run: TrainConfig, number: int, requirements: DataRequirements) -> Iterator[MixtureBatch]:
        """Groups are drawn within windows of row groups; clips that make no whole batch go into the next window."""
        assert self._reader is not None
        k, least = run.mixture.k, WINDOW_BATCHES * run.training.batch_size
        order, kept = shuffle_windows(self._source.row_groups, run.training.seed, number, least), list[ClipTable]()
        for place, (now, next_) in enumerate(zip(order, [*order[1:], []], strict=True)):
            shelf = CachedClips([*kept, *(part for part in self._reader.read(now, next_) if len(part))])
            rng = np.random.default_rng([run.training.seed, number, place])
            groups_GK = _groups(shelf.videos, k, rng)
            whole = len(groups_GK) * k // run.training.batch_size * run.training.batch_size // k
            yield from self._mixtures(run, number, requirements, shelf, groups_GK[:whole])
            rest_N = rng.permutation(np.setdiff1d(np.arange(len(shelf)), groups_GK[:whole]))[:least]
            kept = [shelf.take(rest_N)] if len(rest_N) else []
        self._reader.read([], [])

    def examples(self, run: TrainConfig) -> Iterator[ClipBatch]:
        """This rank's share of the training clips as they are, with labels where the method needs them."""
        if self.shelf is not None:
            own_N = np.arange(self._rank, len(self.shelf), self._world)
            for start in range(0, len(own_N), CLIPS_PER_BATCH):
                index_N = own_N[start : start + CLIPS_PER_BATCH]
                yield _example(run, self.shelf.take(index_N), index_N)
            return
        assert self._reader is not None
        before, every = 0, self._source.row_groups
        for place in range(len(every)):
            [clips] = self._reader.read([every[place]], every[place + 1 : place + 2])
            own_N = np.arange((self._rank - before) % self._world, len(clips), self._world)
            for start in range(0, len(own_N), CLIPS_PER_BATCH):
                index_N = own_N[start : start + CLIPS_PER_BATCH]
                yield _example(run, clips.take(index_N), before + index_N)
            before += len(clips)
        self._reader.read([], [])


def shuffle_windows(row_groups: Sequence[RowGroup], seed: int, epoch: int, clips: int) -> list[list[RowGroup]]:
    """All row groups in an order drawn from (seed, epoch), cut into windows.

    Args:
        row_groups: those of the split, in any order.
        seed, epoch: what the order depends on.
        clips: each window but the last has at least so many, and WINDOW_GROUPS row groups.
    """
    ordered = sorted(row_groups)
    found: list[list[RowGroup]] = [[]]
    for place in np.random.default_rng([seed, epoch]).permutation(len(ordered)):
        if len(found[-1]) >= WINDOW_GROUPS and sum(each.rows for each in found[-1]) >= clips:
            found.append([])
        found[-1].append(ordered[place])
    return found


def _groups(videos: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """As many groups of k clips of different videos as there can be, (G, K), in random order; of some clips none is made."""
    _, video_N, counts = np.unique(videos, return_inverse=True, return_counts=True)
    most = len(videos) // k
    while most and np.minimum(counts, most).sum() < most * k:
        most -= 1
    if not most:
        return np.empty((0, k), int)
    left, chosen = np.minimum(counts, most), []
    for place in rng.permutation(len(videos)):
        if left[video_N[place]]:
            left[video_N[place]] -= 1
            chosen.append(place)
    return group_clips(videos.tolist(), k, rng, np.array(chosen[: most * k]))


def _partners(
    run: TrainConfig, number: int, ids: np.ndarray, videos: np.ndarray, groups: np.ndarray, index_BK: np.ndarray
) -> np.ndarray | None:
    """The clips (B, K) whose windows are the second view, where that is one of another clip."""
    shift = run.mixture.second_view
    if shift not in CROSS_CLIP_VIEWS:
        return None
    keys = videos if shift == "video" else groups
    return partner_clips(ids, keys, index_BK.reshape(-1), seed=run.training.seed, epoch=number).reshape(index_BK.shape)


def _example(run: TrainConfig, clips: ClipTable, place_N: np.ndarray) -> ClipBatch:
    window = window_frames(run.mixture.seconds, clips.stft.shape[1])
    index_N1 = np.arange(len(clips))[:, None]
    starts_N1 = np.full_like(index_N1, (clips.stft.shape[1] - window) // 2)
    sounds_NTF, _ = mix_sounds(clips.stft, index_N1, starts_N1, window, rule="sum", level=run.mixture.loudness)
    frames_N3YX = torch.from_numpy(clips.frames[:, 0]).permute(0, 3, 1, 2).float() / 255
    return ClipBatch(frames_N3YX, sounds_NTF, torch.from_numpy(place_N), clips.label.tolist())


def _mixed(
    run: TrainConfig,
    number: int,
    requirements: DataRequirements,
    clips: ClipTable,
    groups_BK: np.ndarray,
    partners_BK: np.ndarray | None,
) -> MixtureBatch:
    m = run.mixture
    return make_mixture_batch(
        clips,
        groups_BK,
        seed=run.training.seed,
        epoch=number,
        seconds=m.seconds,
        shift=m.second_view,
        rule=m.reduction,
        level=m.loudness,
        image_size=run.encoder.image_size,
        crop=m.crop,
        flip=m.flip,
        keep_sources=requirements.sources,
        frames=requirements.frames,
        windows=requirements.windows,
        partners=partners_BK,
    )


def _ahead(made: Iterator[MixtureBatch], depth: int = 2) -> Iterator[MixtureBatch]:
    """The same items, made in a thread; leaving early ends the thread, and its error is raised here."""
    line: queue.Queue[Any] = queue.Queue(maxsize=depth)
    left = threading.Event()

    def put(item: Any) -> bool:
        while not left.is_set():
            try:
                line.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in made:
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := line.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        thread.join()
