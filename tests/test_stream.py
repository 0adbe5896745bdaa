"""From Parquet to mixtures: what the object store holds is what a plain reader reads, in an order of its own."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit import loader, small

from raymix import clip, clip_files
from raymix.config import BadInput
from raymix.stream import Loader, Shelf, _ahead, open_source, read


def test_the_cache_holds_what_a_plain_reader_reads(demo: Path, ray_session: None) -> None:
    run = small(demo)
    run.data.cache = "on"
    source = open_source(run)
    assert source.parts and "shared by all slots" in source.how
    shared, plain = Loader(source, None, 0, 1), loader(run)
    assert len(shared.shelf or []) == source.clips
    for one, other in zip(shared.epoch(run, 3), plain.epoch(run, 3), strict=True):
        assert torch.equal(one.mixture_BTF, other.mixture_BTF)
        assert torch.equal(one.frames_BK3YX, other.frames_BK3YX)


def test_streaming_gives_the_same_clips_without_labels(demo: Path, ray_session: None) -> None:
    run = small(demo)
    run.data.cache = "off"
    assert open_source(run).parts == ()
    rows = read(run).take_all()
    clips = clip_files.read(run.dataset.prepared, "train", 64, truth=False, labels=False)
    assert sorted(row["clip_id"] for row in rows) == sorted(clips.clip_id)
    assert set(rows[0]) == {"clip_id", "video", "group", "frames", "stft"}


class Shard:
    """Stands where Ray Train's shard stands: batches of decoded columns."""

    def __init__(self, clips: clip.Clips) -> None:
        self.clips = clips

    def iter_batches(self, batch_size: int, **how: object):  # type: ignore[no-untyped-def]
        for start in range(0, len(self.clips), batch_size):
            part = self.clips.take(np.arange(start, min(start + batch_size, len(self.clips))))
            yield {name: getattr(part, name) for name in ("clip_id", "video", "group", "frames", "stft")}


def test_a_stream_is_mixed_by_the_same_rules(demo: Path) -> None:
    run = small(demo)
    clips = clip_files.read(run.dataset.prepared, "train", 64, truth=False, labels=False)
    streamed = Loader(type(loader(run)._source)((), len(clips), 0, ""), Shard(clips), 0, 1)
    mixtures = list(streamed.epoch(run, 1))
    assert len(mixtures) >= len(clips) // run.fit.batch - 1
    assert mixtures[0].frames_BK3YX.shape == (4, 2, 3, 64, 64)
    run.fit.accumulate = 2
    pieces = list(streamed.epoch(run, 1))
    assert len(pieces) == 2 * len(mixtures)  # whole batches only
    assert torch.equal(torch.cat([piece.mixture_BTF for piece in pieces[:2]]), mixtures[0].mixture_BTF)


def test_a_batch_larger_than_the_data_is_refused(demo: Path, ray_session: None) -> None:
    run = small(demo, batch=4096)
    with pytest.raises(BadInput, match=r"fit\.batch=4096: more than the"):
        open_source(run)


def test_a_shelf_has_one_order_whatever_the_parts(demo: Path) -> None:
    clips = clip_files.read(str(demo / "clips/demo"), "train", 64, truth=False, labels=False)
    half = len(clips) // 2
    parts = [clips.take(np.arange(half, len(clips))), clips.take(np.arange(half))]
    one, two = Shelf([clips]), Shelf(parts)
    index = np.random.default_rng(0).permutation(len(clips))[:7]
    assert list(one.take(index).clip_id) == list(two.take(index).clip_id)
    assert list(one.videos) == list(two.videos)


def test_leaving_early_ends_the_thread_and_errors_come_through() -> None:
    threads = threading.active_count()
    endless = _ahead(iter(range(1000)))  # type: ignore[arg-type]
    assert next(endless) == 0
    endless.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads

    def broken():  # type: ignore[no-untyped-def]
        yield 1
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        list(_ahead(broken()))
