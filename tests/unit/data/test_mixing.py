"""Groups and mixtures: what is random must depend on (seed, epoch, clip id) alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from raymix.data.mixing import group_clips, make_mixture_batch, partner_clips
from raymix.data.records import ClipTable
from tests.support.synthetic_clips import make_clips


@pytest.fixture(scope="module")
def clips() -> ClipTable:
    return make_clips()


# groups


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_groups_hold_different_videos_and_every_clip_once(k: int, seed: int):
    videos = [f"v{i % 7}" for i in range(29)]
    groups = group_clips(videos, k, np.random.default_rng(seed))
    assert groups.shape == (29 // k, k)
    assert len(set(groups.ravel())) == groups.size
    assert all(len({videos[i] for i in row}) == k for row in groups)


def test_groups_are_found_in_the_tightest_case():
    videos = ["a"] * 6 + ["b"] * 4 + ["c"] * 2  # six pairs are possible only if every pair holds an "a"
    for seed in range(20):
        groups = group_clips(videos, 2, np.random.default_rng(seed))
        assert groups.shape == (6, 2) and all(sum(videos[i] == "a" for i in row) == 1 for row in groups)


def test_impossible_groups_are_refused():
    with pytest.raises(ValueError, match=r"mixture.k=2: 8 clips of 2 videos cannot form 4 groups"):
        group_clips(["a"] * 7 + ["b"], 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"mixture.k=4: a group needs k clips, there are 3"):
        group_clips(["a", "b", "c"], 4, np.random.default_rng(0))


def test_groups_follow_a_given_order_and_the_generator():
    videos = [f"v{i}" for i in range(10)]
    np.testing.assert_array_equal(
        group_clips(videos, 2, np.random.default_rng(0), np.array([9, 3, 1, 0])), np.array([[9, 3], [1, 0]])
    )
    first, again, other = (group_clips(videos, 2, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


# mixtures


def test_mixture_shapes_and_sum(clips: ClipTable):
    groups = group_clips(clips.video, 3, np.random.default_rng(0))
    batch = make_mixture_batch(clips, groups, seed=0, epoch=0, keep_sources=True)
    assert batch.frames_BK3YX.shape == (8, 3, 3, 32, 32) and batch.frames_BK3YX.dtype == torch.float32
    assert float(batch.frames_BK3YX.min()) >= 0 and 0.5 < float(batch.frames_BK3YX.max()) <= 1
    assert batch.mixture_BTF.shape == batch.shifted_BTF.shape == (8, 193, 81)
    assert batch.mixture_BTF.dtype == torch.complex64
    torch.testing.assert_close(batch.sources_BKTF.sum(1), batch.mixture_BTF, atol=1e-4, rtol=1e-4)
    assert make_mixture_batch(clips, groups, seed=0, epoch=0).sources_BKTF is None


def test_a_group_does_not_depend_on_its_neighbours_or_its_worker(clips: ClipTable):
    groups = group_clips(clips.video, 2, np.random.default_rng(0))
    whole = make_mixture_batch(clips, groups, seed=3, epoch=5)
    order = np.random.default_rng(1).permutation(len(clips))  # another worker holds the clips in another order
    elsewhere = make_mixture_batch(clips.take(order), np.argsort(order)[groups[4:6]], seed=3, epoch=5)
    torch.testing.assert_close(elsewhere.mixture_BTF, whole.mixture_BTF[4:6], atol=0, rtol=0)
    torch.testing.assert_close(elsewhere.shifted_BTF, whole.shifted_BTF[4:6], atol=0, rtol=0)
    torch.testing.assert_close(elsewhere.frames_BK3YX, whole.frames_BK3YX[4:6], atol=0, rtol=0)


def test_epoch_and_seed_change_windows_and_crops(clips: ClipTable):
    groups = group_clips(clips.video, 2, np.random.default_rng(0))
    first, later, other = (make_mixture_batch(clips, groups, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0)))
    for batch in (later, other):
        assert not torch.equal(batch.mixture_BTF, first.mixture_BTF)
        assert not torch.equal(batch.frames_BK3YX, first.frames_BK3YX)


def test_mix_is_thread_safe(clips: ClipTable):
    groups = group_clips(clips.video, 2, np.random.default_rng(0))
    expected = [make_mixture_batch(clips, groups, seed=0, epoch=e).mixture_BTF for e in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda e: make_mixture_batch(clips, groups, seed=0, epoch=e).mixture_BTF, range(6)))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def windows_of(clips: ClipTable, views: torch.Tensor) -> list[int]:
    """First frames of the windows that single-clip mixtures were cut from, found by comparing with the clips."""
    starts = []
    for row, view in enumerate(views):
        stored = torch.view_as_complex(torch.from_numpy(clips.stft[row]).float())
        differences = [float((stored[s : s + 193] - view).abs().max()) for s in range(len(stored) - 192)]
        starts.append(int(np.argmin(differences)))
        assert min(differences) < 1e-6
    return starts


def test_shift_policies(clips: ClipTable):
    few = clips.take(np.arange(8))
    groups = np.arange(8)[:, None]
    jitter = make_mixture_batch(few, groups, seed=0, epoch=0, shift="jitter", level="none")
    first, second = windows_of(few, jitter.mixture_BTF), windows_of(few, jitter.shifted_BTF)
    moved = np.abs(np.subtract(first, second))
    assert 0 < moved.max() <= 20  # .1 s
    free = make_mixture_batch(few, groups, seed=0, epoch=0, shift="clip", level="none")
    assert windows_of(few, free.mixture_BTF) == first  # the policy moves the second view alone
    assert np.abs(np.subtract(first, windows_of(few, free.shifted_BTF))).max() > 20


def test_crop_keeps_the_stated_share_and_flip_mirrors_half():
    clips = make_clips(64)
    x = np.linspace(0, 255, 32).astype(np.uint8)
    clips.frames[:] = 0
    clips.frames[..., 0] = x[None, None, None, :]  # red tells x, green tells y
    clips.frames[..., 1] = x[None, None, :, None]
    groups = np.arange(64)[:, None]
    plain = make_mixture_batch(clips, groups, seed=0, epoch=0, crop=1.0, flip=False).frames_BK3YX[:, 0]
    expected = torch.from_numpy(clips.frames[:, 0]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)
    frames = make_mixture_batch(clips, groups, seed=0, epoch=0, crop=0.5).frames_BK3YX[:, 0]
    width = frames[:, 0, 16, -1] - frames[:, 0, 16, 0]
    height = frames[:, 1, -1, 16] - frames[:, 1, 0, 16]
    assert 16 < int((width < 0).sum()) < 48 and (height > 0).all()
    share = (width.abs() * height).numpy()
    assert 0.42 < share.min() < 0.65 and 0.85 < share.max() <= 1  # edges of the picture bound what a ramp shows
    aspect = (width.abs() / height).numpy()
    assert 0.75 < aspect.min() < 0.9 and 1.1 < aspect.max() < 1.33


def test_frames_come_at_the_size_asked_for(clips: ClipTable):
    batch = make_mixture_batch(clips, np.array([[0, 2]]), seed=0, epoch=0, image_size=48)
    assert batch.frames_BK3YX.shape == (1, 2, 3, 48, 48)


def test_mix_reads_readonly_arrays_without_a_warning(clips: ClipTable, recwarn: pytest.WarningsRecorder):
    locked = clips.take(np.arange(8))
    locked.stft.flags.writeable = locked.frames.flags.writeable = False  # as they come from an object store
    make_mixture_batch(locked, np.array([[0, 2], [4, 6]]), seed=0, epoch=0)
    assert not recwarn.list


def test_mix_refuses_in_one_line(clips: ClipTable):
    groups = np.array([[0, 2]])
    with pytest.raises(ValueError, match=r"mixture.second_view=jiter: .* \(did you mean jitter\?\)"):
        make_mixture_batch(clips, groups, seed=0, epoch=0, shift="jiter")
    with pytest.raises(ValueError, match=r"mixture.seconds=3: longer than the clips, which hold 2 s"):
        make_mixture_batch(clips, groups, seed=0, epoch=0, seconds=3.0)


def test_mixing_48_small_clips_is_quick():
    clips = make_clips(96, seconds=3.0, size=64)
    groups = group_clips(clips.video, 2, np.random.default_rng(0))[:24]
    best = np.inf
    for epoch in range(6):
        begun = time.perf_counter()
        make_mixture_batch(clips, groups, seed=0, epoch=epoch)
        best = min(best, time.perf_counter() - begun)
    assert best < 0.1  # 12 ms on an idle core; room for a busy one


# further frames, partners


def several(frames: int = 4) -> ClipTable:
    """Clips of several frames each, which tell their number by their brightness."""
    clips = make_clips()
    shades = np.arange(frames, dtype=np.uint8)[None, :, None, None, None] * 50
    return replace(clips, frames=np.broadcast_to(shades, (len(clips), frames, 16, 16, 3)).copy())


@pytest.mark.parametrize("wanted", [2, 3, 4])
def test_further_frames_are_different_ones_of_the_same_clip(wanted: int):
    clips, groups = several(), np.arange(24).reshape(12, 2)
    batch = make_mixture_batch(clips, groups, seed=0, epoch=1, frames=wanted)
    assert batch.more_BKF3YX.shape == (12, 2, wanted - 1, 3, 16, 16)
    shots = torch.cat([batch.frames_BK3YX[:, :, None], batch.more_BKF3YX], 2).mean((3, 4, 5)).mul(255 / 50).round()
    assert all(len(set(shot.tolist())) == wanted for shot in shots.flatten(0, 1))
    assert len(set(shots[..., 0].flatten().tolist())) == 4  # the first is any of them
    alone = make_mixture_batch(clips, groups, seed=0, epoch=1)
    assert torch.equal(alone.frames_BK3YX, batch.frames_BK3YX) and alone.more_BKF3YX is None


def test_more_frames_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"dataset.frames=4: 5 different frames of each clip are needed"):
        make_mixture_batch(several(), np.array([[0, 1]]), seed=0, epoch=0, frames=5)


def test_a_partner_is_another_clip_of_the_same_key():
    rng = np.random.default_rng(0)
    keys = np.array([f"v{n}" for n in rng.integers(0, 9, 60)] + ["alone"])
    ids, index = np.array([f"c{n}" for n in range(61)]), np.arange(61)
    found = partner_clips(ids, keys, index, seed=1, epoch=2)
    assert (keys[found] == keys).all() and found[-1] == 60
    assert (found[:-1] != index[:-1]).all()
    assert (partner_clips(ids, keys, index[7:20], seed=1, epoch=2) == found[7:20]).all()  # whatever its neighbours are
    assert (partner_clips(ids, keys, index, seed=1, epoch=3) != found).any()
    seen = {int(partner_clips(ids, keys, index[:1], seed=1, epoch=e)[0]) for e in range(200)}
    assert seen == set(np.flatnonzero(keys == keys[0]).tolist()) - {0}  # every other clip of its video


def test_the_shifted_view_may_be_of_another_clip(clips: ClipTable):
    groups, partners = np.array([[0, 1], [2, 3]]), np.array([[4, 5], [6, 7]])
    apart = make_mixture_batch(clips, groups, seed=0, epoch=0, shift="video", partners=partners)
    plain = make_mixture_batch(clips, groups, seed=0, epoch=0)
    assert torch.equal(apart.mixture_BTF, plain.mixture_BTF)
    assert not torch.equal(apart.shifted_BTF, plain.shifted_BTF)
    same = make_mixture_batch(clips, groups, seed=0, epoch=0, shift="video", partners=groups)
    assert torch.equal(same.shifted_BTF, plain.shifted_BTF)
