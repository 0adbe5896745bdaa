"""Scenes must hold the truth they claim: what sounds is what the sounding panels show, and shuffled sound is strange."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coloured import COLOURS, make_clips

from raymix.clip import Clips
from raymix.scene import LAYOUTS, Scenes, compose, derangement


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips()


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
