"""Training batches through Ray: clips cached in the object store once per study, or streamed by row group each epoch.

A study decodes its training clips once, with Ray Data, where they fit into the stated share of the object store. All
workers of all slots read them there without a copy. Otherwise each epoch is streamed: the row groups of all shards come
in an order drawn from (seed, epoch), and clips are shuffled within windows of several row groups.

In both cases groups of clips and their order are drawn from (seed, epoch) for all workers together, so the global batches
are the same for any number of workers. Everything that depends on the trial (k, windows, crops, groups) happens after
decoding, with random numbers of (seed, epoch, clip id).
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
    """Actor that decodes the row groups that the workers of one slot read now or next.

    After a restart the row groups that are requested again are decoded again.

    Args:
        directory: a prepared dataset.
        image_size: side of the decoded frames, px.
        labels: whether class names are read.
        cpus: number of CPUs of each decoding task.
    """

    def __init__(self, directory: str, image_size: int, labels: bool, cpus: float) -> None:
        self._dataset = directory, image_size, labels
        self._cpus = cpus
        self._references: dict[RowGroup, Any] = {}  # object references of decoded clips
        self._requested: dict[int, set[RowGroup]] = {}  # by rank

    def get(self, rank: int, world: int, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[Any]:
        """Return references to the decoded row groups `now`, and start to decode `next_`.

        Row groups that no rank requests any more are freed.

        Args:
            rank: of the worker.
            world: number of workers; requests of higher ranks are dropped.
            now: row groups that are read now.
            next_: row groups that are read after them.
        """
        self._requested[rank] = {*now, *next_}
        self._requested = {each: groups for each, groups in self._requested.items() if each < world}
        for group in (*now, *next_):
            if group not in self._references:
                # SPREAD: over all nodes, and not in the placement group in which this actor was created
                task = _decode.options(num_cpus=self._cpus, scheduling_strategy="SPREAD")
                self._references[group] = task.remote(*self._dataset, group)
        for group in self._references.keys() - set[RowGroup]().union(*self._requested.values()):
            del self._references[group]
        return [self._references[group] for group in now]

    def row_groups(self) -> list[RowGroup]:
        """Return the row groups that are decoded or being decoded."""
        return sorted(self._references)


@ray.remote
def _decode(directory: str, image_size: int, labels: bool, group: RowGroup) -> ClipTable:
    return prepared.read_row_group(directory, group, image_size, labels)


class RowGroupReader:
    """Reads row groups from the `RowGroupStore` of a worker's slot.

    Args:
        store: the actor.
        rank: of this worker.
        world: number of workers.
    """

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world

    def read(self, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[ClipTable]:
        """Return the decoded clips of row groups as read-only arrays.

        Args:
            now: the row groups.
            next_: those that are read after them, which are decoded meanwhile.

        Raises:
            ValueError: a row group cannot be read, or holds a value that is not finite.
        """
        try:
            references = ray.get(self._store.get.remote(self._rank, self._world, list(now), list(next_)))
            tables: list[ClipTable] = ray.get(references)
            return tables
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # its one-line message, without the traceback of the task


def open_row_group_store(config: TrainConfig, labels: bool) -> Any:
    """Start a `RowGroupStore` for the training clips; it ends when its handle is garbage-collected.

    Args:
        config: names the dataset.
        labels: whether class names are read.

    Returns:
        The handle of the actor.
    """
    options = {"scheduling_strategy": "DEFAULT"}  # not in the placement group of the trial that starts it
    cpus = min(1.0, config.cluster.data_cpus)
    store = RowGroupStore.options(**options)  # type: ignore[attr-defined]
    return store.remote(config.dataset.prepared, config.encoder.image_size, labels, cpus)


CLIP_COLUMNS = [f.name for f in fields(ClipTable) if f.default is MISSING]  # those that training reads

WINDOW_BATCHES = 8  # smallest number of batches of clips in a window of a stream

WINDOW_GROUPS = 4  # smallest number of row groups in a window, so that it has clips of several files

CROSS_CLIP_VIEWS = ("video", "group")  # values of mixture.second_view that take a window of another clip

CLIPS_PER_BATCH = 64  # of the batches for `on_epoch_end`

FULL_STORE = 0.9  # share of the object store that cached clips must not exceed


@dataclass(frozen=True)
class ClipSource:
    """Where the training clips of a study are: decoded in the object store, or in row groups that are streamed."""

    parts: tuple[Any, ...]  # object references of Arrow tables; empty where clips are streamed
    clips: int  # number of clips
    nbytes: int  # of all decoded clips
    description: str  # a sentence for the user
    row_groups: tuple[RowGroup, ...] = ()  # where clips are streamed


class RowGroupSource(Protocol):
    """Interface of what a `MixtureLoader` reads row groups from."""

    def read(self, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[ClipTable]:
        """Return the decoded clips of the row groups `now`; `next_` are those that are read after them."""


def read_decoded_clips(config: TrainConfig, requirements: DataRequirements) -> ray.data.Dataset:
    """Return the decoded training clips as a lazy Ray Dataset: one row a clip, tensors of one shape, no regions.

    Args:
        config: names the dataset.
        requirements: of the method; labels are read only where it requires them.
    """
    directory, size, labels = config.dataset.prepared, config.encoder.image_size, requirements.labels
    filesystem, _ = resolve_uri(directory)
    paths = prepared.list_shards(directory, "train")
    wanted = records.columns_to_read(truth=False, labels=labels)
    columns = [name for name in CLIP_COLUMNS if labels or name != "label"]

    def decode(table: pa.Table) -> dict[str, np.ndarray]:
        try:
            clips = records.decode_clips(table, size, truth=False)
        except NonFiniteValueError as error:
            raise NonFiniteValueError(error.clip_id, error.what, error.row, table["path"][error.row].as_py()) from None
        return {name: _column(getattr(clips, name)) for name in columns}

    # The new Parquet reader starts actors that read footers, which cost 18 to 30 s in every execution (Ray 2.60). This is
    # the only place where raymix has Ray Data read files.
    ray.data.DataContext.get_current().use_datasource_v2 = False
    rows = ray.data.read_parquet(paths, filesystem=filesystem, columns=wanted, include_paths=True)
    return rows.map_batches(decode, batch_format="pyarrow", batch_size=64)


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(object) if values.dtype.kind == "U" else values


def open_clip_source(config: TrainConfig, requirements: DataRequirements) -> ClipSource:
    """Decide between cache and stream (`data.cache`), and fill the cache.

    Args:
        config: of the study.
        requirements: what its method reads of each clip.

    Raises:
        ConfigError: `data.cache=on`, and the clips do not fit; or a batch is larger than the dataset.
    """
    description = prepared.read_dataset_json(config.dataset.prepared)
    count = int(description["splits"]["train"]["clips"])
    if count < config.training.batch_size:
        raise ConfigError(
            f"training.batch_size={config.training.batch_size}: more than the {count} training clips in {config.dataset.prepared}"
        )
    size = config.encoder.image_size
    nbytes = count * prepared.read_clip_shape(config.dataset.prepared, "train").decoded_bytes(size)
    store = _smallest_object_store()  # each node with workers gets a copy
    share = nbytes / store if store else 1.0
    size_text = f"{count} training clips, {nbytes / 2**20:.0f} MiB decoded, {share:.0%} of the object store"
    if config.data.cache == "off" or (config.data.cache == "auto" and share > config.cluster.object_store_share):
        groups = tuple(prepared.list_row_groups(config.dataset.prepared, "train"))
        sentence = f"{size_text}: streamed every epoch, row groups ({len(groups)}) in a new order, shuffled in windows of several"
        return ClipSource((), count, nbytes, sentence, groups)
    if share > FULL_STORE:
        raise ConfigError(f"data.cache=on: {size_text}; use data.cache=auto, or a larger cluster.object_store_gib")
    with report_bad_rows():
        parts = tuple(read_decoded_clips(config, requirements).materialize().to_arrow_refs())
    return ClipSource(parts, count, nbytes, f"{size_text}: decoded once, shared by all slots")


@contextlib.contextmanager
def report_bad_rows() -> Iterator[None]:
    """Turn the error of a Ray task that read a row with values that are not finite into a ConfigError of one line."""
    try:
        yield
    except ray.exceptions.RayError as error:  # Ray Data keeps only the text of the task's own error
        if message := re.search(
            rf"^{NonFiniteValueError.__module__}\.{NonFiniteValueError.__name__}: (.+)$", str(error), re.MULTILINE
        ):
            raise ConfigError(message[1]) from error
        raise


def _smallest_object_store() -> int:
    """Bytes of the smallest object store among the alive nodes with CPUs (among all, where none has any)."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_cpus = [resources for resources in nodes if resources.get("CPU", 0) > 0] or nodes
    return int(min(resources.get("object_store_memory", 0) for resources in with_cpus))


def _clips_from_block(table: pa.Table | dict[str, np.ndarray]) -> ClipTable:
    """A decoded block of Ray Data as clips, without a copy of its tensors."""
    columns: dict[str, Any] = {}
    names = table.column_names if isinstance(table, pa.Table) else table
    for name in CLIP_COLUMNS:
        if name not in names:  # labels, which few methods require
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
    """Decoded clips of several parts, ordered by id, independent of the order of the parts.

    Args:
        parts: tables of decoded clips.
    """

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
        """Return the clips at these indices, in this order."""
        columns: dict[str, Any] = {
            name: np.stack(
                [getattr(self._parts[p], name)[r] for p, r in zip(self._part[index], self._row[index], strict=True)]
            )
            for name in CLIP_COLUMNS
        }
        return ClipTable(**columns)


class MixtureLoader:
    """The mixtures of one worker, made ahead of training in a thread.

    Args:
        source: where the training clips are.
        reader: reads row groups, where clips are streamed.
        rank: of this worker.
        world: number of workers.
        cache: the decoded clips; None: those of `source.parts`, if there are any.
    """

    def __init__(
        self, source: ClipSource, reader: RowGroupSource | None, rank: int, world: int, cache: CachedClips | None = None
    ) -> None:
        self._source, self._reader, self._rank, self._world = source, reader, rank, world
        if cache is None and source.parts:
            cache = CachedClips([_clips_from_block(table) for table in ray.get(list(source.parts))])
        self.cache = cache

    def epoch(self, config: TrainConfig, number: int, requirements: DataRequirements) -> Iterator[MixtureBatch]:
        """Yield the mixtures of an epoch for this rank.

        A global batch of `training.batch_size` clips is divided into `training.gradient_accumulation_steps` mixture
        batches, of which each rank gets an equal share. Only whole global batches are made. An epoch is one pass over the
        clips, or as many as `training.min_updates` needs; passes are numbered over all epochs, and each draws groups,
        windows and crops anew.

        Args:
            config: of the trial.
            number: of the epoch, from 1.
            requirements: of its method.
        """
        count = passes_per_epoch(config.training, self._source.clips if self.cache is None else len(self.cache))
        numbers = range((number - 1) * count + 1, number * count + 1)
        one_pass = self._pass_over_cache if self.cache is not None else self._pass_over_stream
        batches = (batch for each in numbers for batch in one_pass(config, each, requirements))
        return _prefetch((batch.pin() for batch in batches) if torch.cuda.is_available() else batches)

    def _pass_over_cache(
        self, config: TrainConfig, number: int, requirements: DataRequirements
    ) -> Iterator[MixtureBatch]:
        """The mixtures of one pass, with groups drawn from all clips."""
        assert self.cache is not None
        rng = np.random.default_rng([config.training.seed, number])
        groups_GK = group_clips(self.cache.videos.tolist(), config.mixture.k, rng)
        yield from self._mixtures(config, number, requirements, self.cache, groups_GK)

    def _mixtures(
        self,
        config: TrainConfig,
        number: int,
        requirements: DataRequirements,
        clips: CachedClips,
        groups_GK: np.ndarray,
    ) -> Iterator[MixtureBatch]:
        """This rank's share of the whole global batches that these groups of clips make."""
        k = config.mixture.k
        per_batch = config.training.batch_size // k
        per_piece = per_batch // config.training.gradient_accumulation_steps
        mine = per_piece // self._world
        for start in range(0, len(groups_GK) // per_batch * per_batch, per_piece):
            own_BK = groups_GK[start + self._rank * mine : start + (self._rank + 1) * mine]
            index_BK, partners_BK = np.arange(own_BK.size).reshape(-1, k), None  # in the clips taken below
            own_N = own_BK.reshape(-1)
            others_BK = _draw_partners(config, number, clips, own_BK)
            if others_BK is not None:
                own_N, partners_BK = np.concatenate([own_N, others_BK.reshape(-1)]), own_BK.size + index_BK
            yield _make_batch(config, number, requirements, clips.take(own_N), index_BK, partners_BK)

    def _pass_over_stream(
        self, config: TrainConfig, number: int, requirements: DataRequirements
    ) -> Iterator[MixtureBatch]:
        """The mixtures of one pass, with groups drawn within windows of row groups.

        Clips of a window that make no whole batch go into the next one.
        """
        assert self._reader is not None
        k, least = config.mixture.k, WINDOW_BATCHES * config.training.batch_size
        windows = shuffle_windows(self._source.row_groups, config.training.seed, number, least)
        leftover = list[ClipTable]()
        for window, (now, next_) in enumerate(zip(windows, [*windows[1:], []], strict=True)):
            clips = CachedClips([*leftover, *(part for part in self._reader.read(now, next_) if len(part))])
            rng = np.random.default_rng([config.training.seed, number, window])
            groups_GK = _draw_groups(clips.videos, k, rng)
            whole = len(groups_GK) * k // config.training.batch_size * config.training.batch_size // k
            yield from self._mixtures(config, number, requirements, clips, groups_GK[:whole])
            rest_N = rng.permutation(np.setdiff1d(np.arange(len(clips)), groups_GK[:whole]))[:least]
            leftover = [clips.take(rest_N)] if len(rest_N) else []
        self._reader.read([], [])

    def clip_batches(self, config: TrainConfig) -> Iterator[ClipBatch]:
        """Yield this rank's share of the unmixed training clips, with labels where the method requires them."""
        if self.cache is not None:
            own_N = np.arange(self._rank, len(self.cache), self._world)
            for start in range(0, len(own_N), CLIPS_PER_BATCH):
                index_N = own_N[start : start + CLIPS_PER_BATCH]
                yield _clip_batch(config, self.cache.take(index_N), index_N)
            return
        assert self._reader is not None
        before, row_groups = 0, self._source.row_groups
        for number in range(len(row_groups)):
            [clips] = self._reader.read([row_groups[number]], row_groups[number + 1 : number + 2])
            own_N = np.arange((self._rank - before) % self._world, len(clips), self._world)
            for start in range(0, len(own_N), CLIPS_PER_BATCH):
                index_N = own_N[start : start + CLIPS_PER_BATCH]
                yield _clip_batch(config, clips.take(index_N), before + index_N)
            before += len(clips)
        self._reader.read([], [])


def shuffle_windows(row_groups: Sequence[RowGroup], seed: int, epoch: int, clips: int) -> list[list[RowGroup]]:
    """Divide row groups, in an order drawn from (seed, epoch), into windows.

    Args:
        row_groups: those of the split, in any order.
        seed, epoch: seed of the order.
        clips: smallest number of clips in a window; it has at least WINDOW_GROUPS row groups too. The last window may be
            smaller.
    """
    ordered = sorted(row_groups)
    windows: list[list[RowGroup]] = [[]]
    for index in np.random.default_rng([seed, epoch]).permutation(len(ordered)):
        if len(windows[-1]) >= WINDOW_GROUPS and sum(each.rows for each in windows[-1]) >= clips:
            windows.append([])
        windows[-1].append(ordered[index])
    return windows


def _draw_groups(videos: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """The largest number of groups of k clips of different videos, (G, K), in random order; some clips may be in none."""
    _, video_N, counts = np.unique(videos, return_inverse=True, return_counts=True)
    most = len(videos) // k
    while most and np.minimum(counts, most).sum() < most * k:
        most -= 1
    if not most:
        return np.empty((0, k), int)
    left, chosen = np.minimum(counts, most), []
    for clip in rng.permutation(len(videos)):
        if left[video_N[clip]]:
            left[video_N[clip]] -= 1
            chosen.append(clip)
    return group_clips(videos.tolist(), k, rng, np.array(chosen[: most * k]))


def _draw_partners(config: TrainConfig, number: int, clips: CachedClips, index_BK: np.ndarray) -> np.ndarray | None:
    """The clips (B, K) whose windows are the second view; None where it is a window of the same clip."""
    shift = config.mixture.second_view
    if shift not in CROSS_CLIP_VIEWS:
        return None
    keys = clips.videos if shift == "video" else clips.groups
    return partner_clips(clips.ids, keys, index_BK.reshape(-1), seed=config.training.seed, epoch=number).reshape(
        index_BK.shape
    )


def _clip_batch(config: TrainConfig, clips: ClipTable, global_index_N: np.ndarray) -> ClipBatch:
    window = window_frames(config.mixture.seconds, clips.stft.shape[1])
    index_N1 = np.arange(len(clips))[:, None]
    starts_N1 = np.full_like(index_N1, (clips.stft.shape[1] - window) // 2)
    sounds_NTF, _ = mix_sounds(clips.stft, index_N1, starts_N1, window, rule="sum", level=config.mixture.loudness)
    frames_N3YX = torch.from_numpy(clips.frames[:, 0]).permute(0, 3, 1, 2).float() / 255
    return ClipBatch(frames_N3YX, sounds_NTF, torch.from_numpy(global_index_N), clips.label.tolist())


def _make_batch(
    config: TrainConfig,
    number: int,
    requirements: DataRequirements,
    clips: ClipTable,
    groups_BK: np.ndarray,
    partners_BK: np.ndarray | None,
) -> MixtureBatch:
    mixture = config.mixture
    return make_mixture_batch(
        clips,
        groups_BK,
        seed=config.training.seed,
        epoch=number,
        seconds=mixture.seconds,
        shift=mixture.second_view,
        rule=mixture.reduction,
        level=mixture.loudness,
        image_size=config.encoder.image_size,
        crop=mixture.crop,
        flip=mixture.flip,
        keep_sources=requirements.sources,
        frames=requirements.frames,
        windows=requirements.windows,
        partners=partners_BK,
    )


def _prefetch(batches: Iterator[MixtureBatch], depth: int = 2) -> Iterator[MixtureBatch]:
    """The same batches, made in a thread. Closing the iterator ends the thread; an error in it is raised here."""
    results: queue.Queue[Any] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(item: Any) -> bool:
        while not closed.is_set():
            try:
                results.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in batches:
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := results.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
