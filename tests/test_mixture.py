"""Groups, mixtures and scenes: what is random must depend on (seed, epoch, clip id) alone, and truth must be true."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from raymix.clip import Clips
from raymix.mixture import group, mix
from raymix.scene import LAYOUTS, Scenes, compose, derangement
from raymix.spectrogram import stft

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])


def make_clips(count: int = 24, seconds: float = 2.0, size: int = 32, per_video: int = 2, labels: int = 4) -> Clips:
    """Clips whose label shows as a colour and sounds as a pitch; the mask is the upper left quarter."""
    rng = np.random.default_rng(0)
    label = (np.arange(count) // per_video) % labels
    time_L = np.arange(int(seconds * 16000)) / 16000
    waves = 0.1 * np.sin(2 * np.pi * (500 * (1 + label)[:, None]) * time_L) + 0.01 * rng.normal(
        size=(count, len(time_L))
    )
    masks = np.zeros((count, size, size), bool)
    masks[:, : size // 2, : size // 2] = True
    frames = np.broadcast_to(COLOURS[label][:, None, None, None], (count, 1, size, size, 3)).astype(np.uint8)
    frames = (frames * rng.uniform(0.5, 1, (count, 1, size, size, 1))).astype(np.uint8)
    return Clips(
        clip_id=np.array([f"clip{i:03d}" for i in range(count)]),
        video=np.array([f"video{i // per_video:03d}" for i in range(count)]),
        group=np.array([f"video{i // per_video:03d}" for i in range(count)]),
        label=np.array([f"class{i}" for i in label]),
        frames=frames,
        stft=torch.view_as_real(stft(torch.tensor(waves, dtype=torch.float32))).numpy().astype(np.float16),
        masks=masks,
        has_truth=np.ones(count, bool),
    )


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips()


# groups


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_groups_hold_different_videos_and_every_clip_once(k: int, seed: int):
    videos = [f"v{i % 7}" for i in range(29)]
    groups = group(videos, k, np.random.default_rng(seed))
    assert groups.shape == (29 // k, k)
    assert len(set(groups.ravel())) == groups.size
    assert all(len({videos[i] for i in row}) == k for row in groups)


def test_groups_are_found_in_the_tightest_case():
    videos = ["a"] * 6 + ["b"] * 4 + ["c"] * 2  # six pairs are possible only if every pair holds an "a"
    for seed in range(20):
        groups = group(videos, 2, np.random.default_rng(seed))
        assert groups.shape == (6, 2) and all(sum(videos[i] == "a" for i in row) == 1 for row in groups)


def test_impossible_groups_are_refused():
    with pytest.raises(ValueError, match=r"mixture.k=2: 8 clips of 2 videos cannot form 4 groups"):
        group(["a"] * 7 + ["b"], 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"mixture.k=4: a group needs k clips, there are 3"):
        group(["a", "b", "c"], 4, np.random.default_rng(0))


def test_groups_follow_a_given_order_and_the_generator():
    videos = [f"v{i}" for i in range(10)]
    np.testing.assert_array_equal(
        group(videos, 2, np.random.default_rng(0), np.array([9, 3, 1, 0])), np.array([[9, 3], [1, 0]])
    )
    first, again, other = (group(videos, 2, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


# mixtures


def test_mixture_shapes_and_sum(clips: Clips):
    groups = group(clips.video, 3, np.random.default_rng(0))
    batch = mix(clips, groups, seed=0, epoch=0, keep_sources=True)
    assert batch.frames_BK3YX.shape == (8, 3, 3, 32, 32) and batch.frames_BK3YX.dtype == torch.float32
    assert float(batch.frames_BK3YX.min()) >= 0 and 0.5 < float(batch.frames_BK3YX.max()) <= 1
    assert batch.mixture_BTF.shape == batch.shifted_BTF.shape == (8, 193, 81)
    assert batch.mixture_BTF.dtype == torch.complex64
    torch.testing.assert_close(batch.sources_BKTF.sum(1), batch.mixture_BTF, atol=1e-4, rtol=1e-4)
    assert mix(clips, groups, seed=0, epoch=0).sources_BKTF is None


def test_a_group_does_not_depend_on_its_neighbours_or_its_worker(clips: Clips):
    groups = group(clips.video, 2, np.random.default_rng(0))
    whole = mix(clips, groups, seed=3, epoch=5)
    order = np.random.default_rng(1).permutation(len(clips))  # another worker holds the clips in another order
    elsewhere = mix(clips.take(order), np.argsort(order)[groups[4:6]], seed=3, epoch=5)
    torch.testing.assert_close(elsewhere.mixture_BTF, whole.mixture_BTF[4:6], atol=0, rtol=0)
    torch.testing.assert_close(elsewhere.shifted_BTF, whole.shifted_BTF[4:6], atol=0, rtol=0)
    torch.testing.assert_close(elsewhere.frames_BK3YX, whole.frames_BK3YX[4:6], atol=0, rtol=0)


def test_epoch_and_seed_change_windows_and_crops(clips: Clips):
    groups = group(clips.video, 2, np.random.default_rng(0))
    first, later, other = (mix(clips, groups, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0)))
    for batch in (later, other):
        assert not torch.equal(batch.mixture_BTF, first.mixture_BTF)
        assert not torch.equal(batch.frames_BK3YX, first.frames_BK3YX)


def test_mix_is_thread_safe(clips: Clips):
    groups = group(clips.video, 2, np.random.default_rng(0))
    expected = [mix(clips, groups, seed=0, epoch=e).mixture_BTF for e in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda e: mix(clips, groups, seed=0, epoch=e).mixture_BTF, range(6)))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def windows_of(clips: Clips, views: torch.Tensor) -> list[int]:
    """First frames of the windows that single-clip mixtures were cut from, found by comparing with the clips."""
    starts = []
    for row, view in enumerate(views):
        stored = torch.view_as_complex(torch.from_numpy(clips.stft[row]).float())
        differences = [float((stored[s : s + 193] - view).abs().max()) for s in range(len(stored) - 192)]
        starts.append(int(np.argmin(differences)))
        assert min(differences) < 1e-6
    return starts


def test_shift_policies(clips: Clips):
    few = clips.take(np.arange(8))
    groups = np.arange(8)[:, None]
    jitter = mix(few, groups, seed=0, epoch=0, shift="jitter", level="none")
    first, second = windows_of(few, jitter.mixture_BTF), windows_of(few, jitter.shifted_BTF)
    moved = np.abs(np.subtract(first, second))
    assert 0 < moved.max() <= 20  # .1 s
    free = mix(few, groups, seed=0, epoch=0, shift="clip", level="none")
    assert windows_of(few, free.mixture_BTF) == first  # the policy moves the second view alone
    assert np.abs(np.subtract(first, windows_of(few, free.shifted_BTF))).max() > 20


def test_crop_keeps_the_stated_share_and_flip_mirrors_half():
    clips = make_clips(64)
    x = np.linspace(0, 255, 32).astype(np.uint8)
    clips.frames[:] = 0
    clips.frames[..., 0] = x[None, None, None, :]  # red tells x, green tells y
    clips.frames[..., 1] = x[None, None, :, None]
    groups = np.arange(64)[:, None]
    plain = mix(clips, groups, seed=0, epoch=0, crop=1.0, flip=False).frames_BK3YX[:, 0]
    expected = torch.from_numpy(clips.frames[:, 0]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=0)
    frames = mix(clips, groups, seed=0, epoch=0, crop=0.5).frames_BK3YX[:, 0]
    width = frames[:, 0, 16, -1] - frames[:, 0, 16, 0]
    height = frames[:, 1, -1, 16] - frames[:, 1, 0, 16]
    assert 16 < int((width < 0).sum()) < 48 and (height > 0).all()
    share = (width.abs() * height).numpy()
    assert 0.42 < share.min() < 0.65 and 0.85 < share.max() <= 1  # edges of the picture bound what a ramp shows
    aspect = (width.abs() / height).numpy()
    assert 0.75 < aspect.min() < 0.9 and 1.1 < aspect.max() < 1.33


def test_frames_come_at_the_size_asked_for(clips: Clips):
    batch = mix(clips, np.array([[0, 2]]), seed=0, epoch=0, image_size=48)
    assert batch.frames_BK3YX.shape == (1, 2, 3, 48, 48)


def test_mix_reads_readonly_arrays_without_a_warning(clips: Clips, recwarn: pytest.WarningsRecorder):
    locked = clips.take(np.arange(8))
    locked.stft.flags.writeable = locked.frames.flags.writeable = False  # as they come from an object store
    mix(locked, np.array([[0, 2], [4, 6]]), seed=0, epoch=0)
    assert not recwarn.list


def test_mix_refuses_in_one_line(clips: Clips):
    groups = np.array([[0, 2]])
    with pytest.raises(ValueError, match=r"mixture.shift=jiter: .* \(did you mean jitter\?\)"):
        mix(clips, groups, seed=0, epoch=0, shift="jiter")
    with pytest.raises(ValueError, match=r"mixture.seconds=3: longer than the clips, which hold 2 s"):
        mix(clips, groups, seed=0, epoch=0, seconds=3.0)


def test_mixing_48_small_clips_is_quick():
    clips = make_clips(96, seconds=3.0, size=64)
    groups = group(clips.video, 2, np.random.default_rng(0))[:24]
    best = np.inf
    for epoch in range(6):
        begun = time.perf_counter()
        mix(clips, groups, seed=0, epoch=epoch)
        best = min(best, time.perf_counter() - begun)
    assert best < 0.1  # 12 ms on an idle core; room for a busy one


# scenes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scene_shapes_and_truth(clips: Clips, layout: str):
    rows, columns, sources = LAYOUTS[layout]
    scenes = compose(clips, layout=layout, count=20, seed=0)
    assert len(scenes) == 20 and len(set(scenes.ids)) == 20
    assert scenes.frames_N3YX.shape == (20, 3, 32 * rows, 32 * columns) and scenes.frames_N3YX.dtype == torch.uint8
    assert scenes.mixture_NTF.shape == (20, 193, 81) and scenes.mixture_NTF.dtype == torch.complex64
    assert scenes.panels_NS.shape == (20, sources) and scenes.panels_NS.dtype == torch.int64
    assert scenes.masks_NSYX.shape == (20, sources, 32 * rows, 32 * columns)
    assert scenes.has_truth_N.all()
    for n in range(20):
        assert len(set(scenes.videos[n])) == rows * columns
        assert (scenes.panels_NS[n].diff() > 0).all()
        for s, panel in enumerate(scenes.panels_NS[n].tolist()):
            x0, y0, x1, y1 = scenes.rects_P4[panel].tolist()
            assert int(scenes.masks_NSYX[n, s].sum()) == 16 * 16
            assert scenes.masks_NSYX[n, s, y0 : y0 + 16, x0 : x0 + 16].all() and (y1 - y0, x1 - x0) == (32, 32)


def test_what_sounds_is_what_the_sounding_panels_show(clips: Clips):
    scenes = compose(clips, layout="grid2x2", count=40, seed=1)
    colour_of = {tuple(c > 0): label for label, c in enumerate(COLOURS)}
    seen_panels = set()
    for n in range(40):
        shown = []
        for x0, y0, x1, y1 in scenes.rects_P4.tolist():
            mean = scenes.frames_N3YX[n, :, y0:y1, x0:x1].float().mean((1, 2))
            shown.append(colour_of[tuple((mean > 60).tolist())])
        assert sorted(shown) == [0, 1, 2, 3]  # known labels differ within a scene
        power = scenes.mixture_NTF[n].abs().square().mean(0)
        heard = {label for label in range(4) if power[5 * (1 + label)] > 1}  # 500 Hz a label, 100 Hz a bin
        assert heard == {shown[p] for p in scenes.panels_NS[n].tolist()}
        seen_panels.add(tuple(scenes.panels_NS[n].tolist()))
    assert len(seen_panels) == 6  # all pairs of panels occur


def test_scenes_depend_on_seed_and_clip_ids_not_on_the_order_of_clips(clips: Clips):
    scenes = compose(clips, layout="grid2x2", count=12, seed=4)
    shuffled = clips.take(np.random.default_rng(0).permutation(len(clips)))
    again = compose(shuffled, layout="grid2x2", count=12, seed=4)
    assert scenes.hash == again.hash and scenes.videos == again.videos
    assert torch.equal(scenes.frames_N3YX, again.frames_N3YX) and torch.equal(scenes.mixture_NTF, again.mixture_NTF)
    other = compose(clips, layout="grid2x2", count=12, seed=5)
    assert other.hash != scenes.hash and other.videos != scenes.videos
    assert compose(clips, layout="hconcat", count=12, seed=4).hash != scenes.hash


def test_rare_labels_sound_as_often_as_common_ones():
    """Else a model that always names the same two classes would pass for one that listens."""
    clips = make_clips(120, labels=4)
    clips.video = np.array([f"v{i}" for i in range(120)])
    clips.label = np.array(["a"] * 90 + ["b"] * 10 + ["c"] * 10 + ["d"] * 10)
    label_of = dict(zip(clips.video, clips.label, strict=True))
    scenes = compose(clips, layout="grid2x2", count=600, seed=0)
    pairs = [tuple(sorted(label_of[v] for v in videos[:2])) for videos in scenes.videos]
    counts = np.unique(np.array(pairs), axis=0, return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 60  # 100 each by chance


def test_single_scenes_hold_each_clip_once(clips: Clips):
    scenes = compose(clips, layout="single", count=100, seed=0)
    assert len(scenes) == 24


def test_few_labels_or_none_still_make_scenes():
    two = make_clips(labels=2)
    assert len(compose(two, layout="grid2x2", count=5, seed=0)) == 5
    two.label[:] = ""
    two.masks = two.has_truth = None
    scenes = compose(two, layout="grid2x2", count=5, seed=0)
    assert scenes.masks_NSYX is None and scenes.has_truth_N is None
    with pytest.raises(ValueError, match=r"a scene needs 4 clips of different videos; there are 6 clips of 3 videos"):
        compose(make_clips(6).take(np.arange(6)), layout="grid2x2", count=1, seed=0)
    with pytest.raises(ValueError, match="layout=grid"):
        compose(two, layout="grid", count=1, seed=0)


def test_a_scene_has_truth_only_if_all_its_sources_have(clips: Clips):
    half = clips.take(np.arange(len(clips)))
    half.has_truth = np.arange(len(clips)) % 2 == 0
    scenes = compose(half, layout="hconcat", count=30, seed=0)
    assert 0 < int(scenes.has_truth_N.sum()) < 20


def test_batches_are_the_scenes_in_order(clips: Clips):
    scenes = compose(clips, layout="hconcat", count=11, seed=0)
    parts = list(scenes.batches(4))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert [name for part in parts for name in part.ids] == scenes.ids
    assert torch.equal(torch.cat([part.frames_N3YX for part in parts]), scenes.frames_N3YX)
    assert torch.equal(torch.cat([part.masks_NSYX for part in parts]), scenes.masks_NSYX)


def sounding(scenes: Scenes, n: int) -> set[str]:
    return set(scenes.videos[n][: scenes.panels_NS.shape[1]])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_deranged_scenes_hear_strangers(clips: Clips, layout: str):
    scenes = compose(clips, layout=layout, count=24, seed=0)
    for seed in range(5):
        index = derangement(scenes, seed)
        assert all(sounding(scenes, i).isdisjoint(sounding(scenes, j)) for i, j in enumerate(index))
        assert len(set(index.tolist())) >= 20  # (nearly) a permutation: the shuffled sounds are the scenes' own
    twin = scenes.with_audio(index)
    assert torch.equal(twin.mixture_NTF[3], scenes.mixture_NTF[index[3]])
    assert torch.equal(twin.frames_N3YX, scenes.frames_N3YX) and twin.hash == scenes.hash
    assert float(scenes.silent().mixture_NTF.abs().max()) == 0


def test_derangement_refuses_where_nobody_is_a_stranger(clips: Clips):
    scenes = compose(clips.take(np.arange(4)), layout="hconcat", count=3, seed=0)  # two videos
    with pytest.raises(ValueError, match="use more scenes"):
        derangement(scenes, 0)
