"""The loader: cached and streamed clips give the mixtures of a plain reader, in the same order for any number of workers."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from raymix.config import ConfigError, TrainConfig
from raymix.data import loader as data_loader
from raymix.data import prepared, records
from raymix.data.loader import (
    CachedClips,
    ClipSource,
    MixtureLoader,
    RowGroupReader,
    _prefetch,
    open_clip_source,
    open_row_group_store,
    read_decoded_clips,
)
from raymix.data.preparation import writer
from raymix.data.prepared import RowGroup
from raymix.methods import data_requirements
from tests.unit.data.test_records import make
from tests.unit.training.test_loop import loader, small


def test_the_cache_holds_what_a_plain_reader_reads(demo: Path, ray_session: None) -> None:
    run = small(demo)
    run.data.cache = "on"
    source = open_clip_source(run, data_requirements(run))
    assert source.parts and "shared by all slots" in source.description
    shared, plain = MixtureLoader(source, None, 0, 1), loader(run)
    assert len(shared.cache or []) == source.clips
    for one, other in zip(
        shared.epoch(run, 3, data_requirements(run)), plain.epoch(run, 3, data_requirements(run)), strict=True
    ):
        assert torch.equal(one.mixture_BTF, other.mixture_BTF)
        assert torch.equal(one.frames_BK3YX, other.frames_BK3YX)


def test_the_cache_is_filled_without_labels(demo: Path, ray_session: None) -> None:
    run = small(demo)
    run.data.cache = "off"
    assert open_clip_source(run, data_requirements(run)).parts == ()
    rows = read_decoded_clips(run, data_requirements(run)).take_all()
    clips = prepared.read_clips(run.dataset.prepared, "train", 64, truth=False, labels=False)
    assert sorted(row["clip_id"] for row in rows) == sorted(clips.clip_id)
    assert set(rows[0]) == {"clip_id", "video", "group", "frames", "stft"}


def test_parquet_is_read_by_the_reader_without_footer_actors(
    demo: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says, and whatever imported Ray Data first."""
    monkeypatch.setattr(ray.data.DataContext.get_current(), "use_datasource_v2", True)
    run = small(demo)
    by_default = str(
        ray.data.read_parquet(str(prepared.list_shards(run.dataset.prepared, "train")[0]))._logical_plan.dag
    )
    rows = read_decoded_clips(run, data_requirements(run))
    assert "V2" in by_default and "V2" not in str(rows._logical_plan.dag)


class Direct:
    """Row groups read in this process, and how often each was."""

    def __init__(self, directory: str, size: int) -> None:
        self.directory, self.size, self.read_of = directory, size, Counter[RowGroup]()

    def read(self, now: Sequence[RowGroup], next_: Sequence[RowGroup]) -> list[records.ClipTable]:
        self.read_of.update(now)
        return [prepared.read_row_group(self.directory, group, self.size, labels=False) for group in now]


def streaming(run: TrainConfig, rank: int = 0, world: int = 1) -> MixtureLoader:
    groups = tuple(prepared.list_row_groups(run.dataset.prepared, "train"))
    source = ClipSource((), sum(each.rows for each in groups), 0, "", groups)
    return MixtureLoader(source, Direct(run.dataset.prepared, run.encoder.image_size), rank, world)


def test_a_stream_is_mixed_by_the_same_rules(demo: Path) -> None:
    run = small(demo)
    clips = prepared.read_clips(run.dataset.prepared, "train", 64, truth=False, labels=False)
    mixtures = list(streaming(run).epoch(run, 1, data_requirements(run)))
    assert len(mixtures) == len(clips) // run.training.batch_size
    assert mixtures[0].frames_BK3YX.shape == (4, 2, 3, 64, 64)
    halves = [list(streaming(run, rank, 2).epoch(run, 1, data_requirements(run))) for rank in range(2)]
    for whole, *parts in zip(mixtures, *halves, strict=True):
        assert torch.equal(torch.cat([part.mixture_BTF for part in parts]), whole.mixture_BTF)
        assert torch.equal(torch.cat([part.frames_BK3YX for part in parts]), whole.frames_BK3YX)
    run.training.gradient_accumulation_steps = 2
    pieces = list(streaming(run).epoch(run, 1, data_requirements(run)))
    assert len(pieces) == 2 * len(mixtures)  # whole batches only
    assert torch.equal(torch.cat([piece.mixture_BTF for piece in pieces[:2]]), mixtures[0].mixture_BTF)


def files(folder: Path, videos: list[list[int]], group_rows: int) -> TrainConfig:
    """A prepared folder: of each shard the video of every clip. Clips are called FILE/ROW."""
    one = writer.encode_clip(make())
    names = [f"train-{number:05d}.parquet" for number in range(len(videos))]
    for number, (name, of) in enumerate(zip(names, videos, strict=True)):
        rows = [{**one, "clip_id": f"{number}/{row:03d}", "video": f"{v}", "group": f"{v}"} for row, v in enumerate(of)]
        pq.write_table(pa.Table.from_pylist(rows, records.clip_schema()), folder / name, row_group_size=group_rows)
    splits = {"train": {"files": names, "clips": sum(map(len, videos))}}
    (folder / "dataset.json").write_text(json.dumps({"schema_version": records.SCHEMA_VERSION, "splits": splits}))
    run = small(folder)
    run.dataset.prepared, run.encoder.image_size = str(folder), 16
    return run


def batches(run: TrainConfig, epoch: int, world: int, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the clips of each global batch: what all ranks together get."""
    monkeypatch.setattr(
        data_loader, "_make_batch", lambda run, number, wants, clips, groups_BK, partners: clips.clip_id[groups_BK]
    )
    ranks = [
        list(streaming(run, rank, world)._pass_over_stream(run, epoch, data_requirements(run))) for rank in range(world)
    ]
    return [np.concatenate(parts).reshape(-1).tolist() for parts in zip(*ranks, strict=True)]  # type: ignore[arg-type]


def test_a_stream_has_one_order_for_any_number_of_workers_and_a_new_one_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 files of 20 clips in row groups of 5, two videos a file; batches of 8, so a window has 64 clips of 13 row groups."""
    run = files(tmp_path, [[2 * number + row % 2 for row in range(20)] for number in range(20)], 5)
    first, second = (batches(run, epoch, 1, monkeypatch) for epoch in (1, 2))
    assert first == batches(run, 1, 2, monkeypatch) == batches(run, 1, 4, monkeypatch)
    assert second == batches(run, 2, 2, monkeypatch)
    for found in (first, second):
        seen = [name for batch in found for name in batch]
        assert len(found) == 50 and len(set(seen)) == len(seen) == 400  # every clip once
    assert len({frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}) == 0
    run.training.seed = 1
    assert batches(run, 1, 1, monkeypatch) != first
    of_files = [len({name.split("/")[0] for name in batch}) for batch in first]
    assert np.mean(of_files) > 5  # of eight clips in a batch: those of a file do not stay together
    place = {name: at for at, batch in enumerate(first) for name in batch}
    spread = [np.ptp([at for name, at in place.items() if name.startswith(f"{number}/")]) for number in range(20)]
    assert np.mean(spread) > 20  # nor in one part of the epoch


def test_a_stream_makes_groups_of_different_videos_whatever_a_window_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long video, as large as all others together, in a file of its own and one row group."""
    run = files(tmp_path, [[0] * 80, *([number] * 8 for number in range(1, 11))], 80)
    for epoch in (1, 2, 3):
        found = batches(run, epoch, 2, monkeypatch)
        videos = {f"{at}/{row:03d}": at for at, of in enumerate([80, *[8] * 10]) for row in range(of)}
        for batch in found:
            assert all(videos[one] != videos[other] for one, other in zip(batch[::2], batch[1::2], strict=True))
        assert len(found) >= 10  # of 20: where the long video comes late, the others have been used


def test_each_worker_gets_its_share_of_unmixed_clips_of_a_stream(tmp_path: Path) -> None:
    run = files(tmp_path, [[row for row in range(17)], [row for row in range(8)]], 5)
    places = [
        torch.cat([each.global_index_N for each in streaming(run, rank, 3).clip_batches(run)]) for rank in range(3)
    ]
    assert sorted(torch.cat(places).tolist()) == list(range(25))
    assert max(map(len, places)) - min(map(len, places)) <= 1


def test_row_groups_are_decoded_once_for_all_workers_and_then_freed(
    demo: Path, tmp_path: Path, ray_session: None
) -> None:
    run = small(demo)
    run.data.cache = "off"
    source = open_clip_source(run, data_requirements(run))
    assert source.row_groups and "streamed every epoch" in source.description
    store = open_row_group_store(run, labels=False)
    loaders = [MixtureLoader(source, RowGroupReader(store, rank, 2), rank, 2) for rank in range(2)]
    for whole, *parts in zip(
        streaming(run).epoch(run, 1, data_requirements(run)),
        *(each.epoch(run, 1, data_requirements(run)) for each in loaders),
        strict=True,
    ):
        assert torch.equal(torch.cat([part.mixture_BTF for part in parts]), whole.mixture_BTF)
    assert ray.get(store.row_groups.remote()) == []
    one, two = RowGroupReader(store, 0, 2), RowGroupReader(store, 1, 2)
    group = source.row_groups[0]
    [first], [other] = one.read([group], []), two.read([group], [])
    assert not first.stft.flags.writeable  # it lies in the object store
    assert np.array_equal(first.stft, other.stft) and ray.get(store.row_groups.remote()) == [group]
    one.read([], [])
    assert ray.get(store.row_groups.remote()) == [group]
    two.read([], [])
    assert ray.get(store.row_groups.remote()) == []


@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_row_that_is_not_finite_is_an_error_of_one_line(tmp_path: Path, ray_session: None, cache: str) -> None:
    run = files(tmp_path, [list(range(8))], 8)
    path = tmp_path / "train-00000.parquet"
    rows = pq.read_table(path).to_pylist()
    sound = np.frombuffer(rows[3]["stft"], np.float16).copy()
    sound[5] = np.inf
    rows[3]["stft"] = sound.tobytes()
    pq.write_table(pa.Table.from_pylist(rows, records.clip_schema()), path)
    run.data.cache = cache
    if cache == "on":
        with pytest.raises(ConfigError) as refusal:
            open_clip_source(run, data_requirements(run))
    else:
        source = open_clip_source(run, data_requirements(run))
        with pytest.raises(records.NonFiniteValueError) as refusal:
            next(
                MixtureLoader(source, RowGroupReader(open_row_group_store(run, labels=False), 0, 1), 0, 1).epoch(
                    run, 1, data_requirements(run)
                )
            )
    text = str(refusal.value)
    assert str(path) in text and "clip 0/003" in text and "1 of 32562 values of its sound" in text and "\n" not in text


def test_a_batch_larger_than_the_data_is_refused(demo: Path, ray_session: None) -> None:
    run = small(demo, batch_size=4096)
    with pytest.raises(ConfigError, match=r"training\.batch_size=4096: more than the"):
        open_clip_source(run, data_requirements(run))


def test_cached_clips_have_one_order_for_any_parts(demo: Path) -> None:
    clips = prepared.read_clips(str(demo / "clips/demo"), "train", 64, truth=False, labels=False)
    half = len(clips) // 2
    parts = [clips.take(np.arange(half, len(clips))), clips.take(np.arange(half))]
    one, two = CachedClips([clips]), CachedClips(parts)
    index = np.random.default_rng(0).permutation(len(clips))[:7]
    assert list(one.take(index).clip_id) == list(two.take(index).clip_id)
    assert list(one.videos) == list(two.videos)


def test_leaving_early_ends_the_thread_and_errors_come_through() -> None:
    threads = threading.active_count()
    endless = _prefetch(iter(range(1000)))  # type: ignore[arg-type]
    assert next(endless) == 0
    endless.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads

    def broken():  # type: ignore[no-untyped-def]
        yield 1
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        list(_prefetch(broken()))
