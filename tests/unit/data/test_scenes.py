"""Evaluation scenes: the sound is that of the sounding panels, ground truth fits, and shuffled audio is of other videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raymix.data.batches import SceneBatch
from raymix.data.layouts import LAYOUTS
from raymix.data.pair_lists import PairList, ScenePanel, make_pair_list
from raymix.data.records import ClipTable
from raymix.data.scenes import compose_listed_scenes, compose_scenes, shuffled_audio_permutation
from raymix.metrics.baseline_heatmaps import baseline_heatmaps
from raymix.metrics.functional import assign_maps_to_sources
from raymix.metrics.ground_truth import SceneGroundTruth
from raymix.metrics.scoring import score_maps, summarize_scores
from tests.support.synthetic_clips import COLOURS, make_clips

PANELLED = [layout for layout in LAYOUTS if layout != "natural"]
GOLDEN = {  # hashes that studies in the wild are compared by
    "single": "724ef6cf197964de",
    "hconcat": "9cb4585f8b5c9df1",
    "grid2x2": "87a5a4e77b093ddf",
    "solo2x2": "4d466c6c843293ff",
}


@pytest.fixture(scope="module")
def clips() -> ClipTable:
    return make_clips()


@pytest.mark.parametrize("layout", PANELLED)
def test_scene_shapes_and_truth(clips: ClipTable, layout: str):
    rows, columns, sources = LAYOUTS[layout]
    scenes = compose_scenes(clips, layout=layout, count=20, seed=0)
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


def test_the_sound_is_that_of_the_clips_in_the_sounding_panels(clips: ClipTable):
    scenes = compose_scenes(clips, layout="grid2x2", count=40, seed=1)
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


def test_scenes_depend_on_seed_and_clip_ids_not_on_the_order_of_clips(clips: ClipTable):
    scenes = compose_scenes(clips, layout="grid2x2", count=12, seed=4)
    shuffled = clips.take(np.random.default_rng(0).permutation(len(clips)))
    again = compose_scenes(shuffled, layout="grid2x2", count=12, seed=4)
    assert scenes.hash == again.hash and scenes.videos == again.videos
    assert torch.equal(scenes.frames_N3YX, again.frames_N3YX) and torch.equal(scenes.mixture_NTF, again.mixture_NTF)
    other = compose_scenes(clips, layout="grid2x2", count=12, seed=5)
    assert other.hash != scenes.hash and other.videos != scenes.videos
    assert compose_scenes(clips, layout="hconcat", count=12, seed=4).hash != scenes.hash


def test_rare_labels_sound_as_often_as_common_ones():
    """Otherwise a model that always names the same two classes would score above chance."""
    clips = make_clips(120, labels=4)
    clips.video = np.array([f"v{i}" for i in range(120)])
    clips.label = np.array(["a"] * 90 + ["b"] * 10 + ["c"] * 10 + ["d"] * 10)
    label_of = dict(zip(clips.video, clips.label, strict=True))
    scenes = compose_scenes(clips, layout="grid2x2", count=600, seed=0)
    pairs = [tuple(sorted(label_of[v] for v in videos[:2])) for videos in scenes.videos]
    counts = np.unique(np.array(pairs), axis=0, return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 60  # 100 each by chance


def test_single_scenes_hold_each_clip_once(clips: ClipTable):
    scenes = compose_scenes(clips, layout="single", count=100, seed=0)
    assert len(scenes) == 24


def test_scenes_of_clips_with_few_or_no_labels():
    two = make_clips(labels=2)
    assert len(compose_scenes(two, layout="grid2x2", count=5, seed=0)) == 5
    two.label[:] = ""
    two.masks = two.has_truth = None
    scenes = compose_scenes(two, layout="grid2x2", count=5, seed=0)
    assert scenes.masks_NSYX is None and scenes.has_truth_N is None
    with pytest.raises(ValueError, match=r"a scene needs 4 clips of different videos; there are 6 clips of 3 videos"):
        compose_scenes(make_clips(6).take(np.arange(6)), layout="grid2x2", count=1, seed=0)
    with pytest.raises(ValueError, match="layout=grid"):
        compose_scenes(two, layout="grid", count=1, seed=0)


def test_a_scene_has_truth_only_if_all_its_sources_have(clips: ClipTable):
    half = clips.take(np.arange(len(clips)))
    half.has_truth = np.arange(len(clips)) % 2 == 0
    scenes = compose_scenes(half, layout="hconcat", count=30, seed=0)
    assert 0 < int(scenes.has_truth_N.sum()) < 20


def test_batches_are_the_scenes_in_order(clips: ClipTable):
    scenes = compose_scenes(clips, layout="hconcat", count=11, seed=0)
    parts = list(scenes.batches(4))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert [name for part in parts for name in part.ids] == scenes.ids
    assert [names for part in parts for names in part.labels or ()] == scenes.labels
    assert torch.equal(torch.cat([part.frames_N3YX for part in parts]), scenes.frames_N3YX)
    assert torch.equal(torch.cat([part.masks_NSYX for part in parts]), scenes.masks_NSYX)


@pytest.mark.parametrize("layout", PANELLED)
def test_single_annotator_pixels_are_in_the_panels_of_the_masks(clips: ClipTable, layout: str):
    voted = clips.take(np.arange(len(clips)))
    voted.halves = np.zeros_like(clips.masks)
    voted.halves[::2, 20:, 4:30] = True  # of every other clip, below its mask
    scenes, plain = (compose_scenes(each, layout=layout, count=10, seed=0) for each in (voted, clips))
    assert scenes.hash == plain.hash and plain.halves_NSYX is None and SceneGroundTruth.of(plain).halves_NSYX is None
    assert torch.equal(scenes.masks_NSYX, plain.masks_NSYX)
    number = {name: place for place, name in enumerate(clips.clip_id)}
    listed = make_pair_list(voted, layout=layout, count=10, seed=0)
    truth = SceneGroundTruth.of(scenes)
    for n, panels in enumerate(listed.scenes):
        heard = [number[panel.clip_id] for panel in panels if panel.sounding]
        for s, (x0, y0, x1, y1) in enumerate(scenes.rects_P4[scenes.panels_NS[n]].tolist()):
            assert truth.halves_NSYX[n, s].sum() == voted.halves[heard[s]].sum()
            assert np.array_equal(truth.halves_NSYX[n, s, y0:y1, x0:x1], voted.halves[heard[s]])
    parts = [part.halves_NSYX for part in scenes.batches(4)]
    assert torch.equal(torch.cat(parts), scenes.halves_NSYX) and scenes.halves_NSYX.any()
    assert torch.equal(compose_listed_scenes(voted, listed).halves_NSYX, scenes.halves_NSYX)


def test_natural_scenes_have_no_single_annotator_pixels(clips: ClipTable):
    voted = duets(clips)
    voted.halves = np.ones_like(clips.masks)
    assert compose_scenes(voted, layout="natural", count=4, seed=0).halves_NSYX is None


def sounding(scenes: SceneBatch, n: int) -> set[str]:
    return set(scenes.videos[n][: scenes.panels_NS.shape[1]])


@pytest.mark.parametrize("layout", PANELLED)
def test_shuffled_audio_comes_from_scenes_without_a_common_video(clips: ClipTable, layout: str):
    scenes = compose_scenes(clips, layout=layout, count=24, seed=0)
    for seed in range(5):
        index = shuffled_audio_permutation(scenes, seed)
        assert all(sounding(scenes, i).isdisjoint(sounding(scenes, j)) for i, j in enumerate(index))
        assert len(set(index.tolist())) >= 20  # (nearly) a permutation: the shuffled sounds are the scenes' own
    twin = scenes.with_audio(index)
    assert torch.equal(twin.mixture_NTF[3], scenes.mixture_NTF[index[3]])
    assert torch.equal(twin.frames_N3YX, scenes.frames_N3YX) and twin.hash == scenes.hash
    assert float(scenes.silent().mixture_NTF.abs().max()) == 0


def test_shuffled_audio_is_refused_where_all_scenes_share_a_video(clips: ClipTable):
    scenes = compose_scenes(clips.take(np.arange(4)), layout="hconcat", count=3, seed=0)  # two videos
    with pytest.raises(ValueError, match="use more scenes"):
        shuffled_audio_permutation(scenes, 0)


@pytest.mark.parametrize("layout", GOLDEN)
def test_hashes_never_change(clips: ClipTable, layout: str):
    scenes = compose_scenes(clips, layout=layout, count=12, seed=4)
    assert scenes.hash == GOLDEN[layout] and scenes.ids[0] == f"{layout}-4-00000"
    others = [{"rule": "mean"}, {"level": "none"}, {"rule": "mean", "level": "none"}]
    hashes = {compose_scenes(clips, layout=layout, count=12, seed=4, **other).hash for other in others}
    assert len(hashes | {GOLDEN[layout]}) == 4  # another mixture is another scene


def test_golden_scenes(clips: ClipTable):
    scenes = compose_scenes(clips, layout="grid2x2", count=12, seed=4)
    assert scenes.videos[0] == ("video007", "video009", "video004", "video006")
    assert scenes.panels_NS[:3].tolist() == [[0, 3], [2, 3], [0, 1]]
    assert float(scenes.mixture_NTF.abs().sum()) == pytest.approx(75527.883, rel=1e-4)


@pytest.mark.parametrize("layout", ["hconcat", "vconcat"])
@pytest.mark.parametrize("sources", [1, 2, 3, 4])
def test_one_to_four_sources_in_a_row_or_a_column(clips: ClipTable, layout: str, sources: int):
    scenes = compose_scenes(clips, layout=layout, count=9, seed=2, sources=sources)
    y, x = (32, 32 * sources) if layout == "hconcat" else (32 * sources, 32)
    assert scenes.frames_N3YX.shape == (9, 3, y, x) and scenes.masks_NSYX.shape == (9, sources, y, x)
    assert scenes.panels_NS.tolist() == [list(range(sources))] * 9 and scenes.masks_NSYX.sum((2, 3)).eq(256).all()
    assert scenes.ids[0] == (f"{layout}-2-00000" if sources == 2 else f"{layout}{sources}-2-00000")
    for n in range(9):
        power = scenes.mixture_NTF[n].abs().square().mean(0)
        assert sum(bool(power[5 * (1 + label)] > 1) for label in range(4)) == sources


@pytest.mark.parametrize(
    ("layout", "canvas", "cells"), [("hconcat", (224, 448), (14, 28)), ("vconcat", (448, 224), (28, 14))]
)
def test_canvas_sizes_of_the_paper(layout: str, canvas: tuple[int, int], cells: tuple[int, int]):
    scenes = compose_scenes(make_clips(4, size=224, per_video=1), layout=layout, count=2, seed=0)
    truth = SceneGroundTruth.of(scenes)
    assert truth.canvas == canvas and scenes.frames_N3YX.shape == (2, 3, *canvas)
    maps = truth.masks_NSYX.reshape(2, 2, cells[0], 16, cells[1], 16).mean(axis=(3, 5))
    assert (score_maps(maps, truth).values["ciou"] > 0.98).all()  # raw cells, rows and columns not exchanged


@pytest.mark.parametrize("sources", [1, 2, 3, 4])
def test_any_number_of_maps_is_scored_on_any_number_of_sources(clips: ClipTable, sources: int):
    truth = SceneGroundTruth.of(compose_scenes(clips, layout="vconcat", count=4, seed=2, sources=sources))
    masks = truth.masks_NSYX
    for k in range(1, 6):  # the first k maps are right, surplus ones are blank
        maps = np.zeros((4, k, *truth.canvas), np.float32)
        maps[:, : min(k, sources)] = masks[:, : min(k, sources)]
        found = summarize_scores(score_maps(maps, truth), resamples=10)
        assert (
            found["iou" if sources == 1 else "ciou"].value == pytest.approx(min(k, sources) / sources) or sources == 1
        )
    for name, each in baseline_heatmaps(truth, panel_boxes=True).items():
        assert 0 < summarize_scores(score_maps(each, truth), resamples=10)["auc"].value < 1, name
    assert assign_maps_to_sources(np.eye(sources)[None], np.eye(sources)[None]).tolist() == [list(range(sources))]


def test_other_numbers_of_sources_are_refused(clips: ClipTable):
    with pytest.raises(ValueError, match=r"sources=5: must be 1 to 4"):
        compose_scenes(clips, layout="hconcat", count=1, seed=0, sources=5)
    with pytest.raises(ValueError, match=r"sources=3: layout grid2x2 has 2; other numbers are for hconcat, vconcat"):
        compose_scenes(clips, layout="grid2x2", count=1, seed=0, sources=3)
    with pytest.raises(ValueError, match=r"layout=hconat: must be one of .* \(did you mean hconcat\?\)"):
        compose_scenes(clips, layout="hconat", count=1, seed=0)


def duets(clips: ClipTable) -> ClipTable:
    """Every other clip with two sources, the others with one: left and right half of the upper half."""
    sources = np.zeros((len(clips), 2, 32, 32), bool)
    sources[:, 0, :16, :16] = True
    sources[::2, 1, :16, 16:] = True
    found = clips.take(np.arange(len(clips)))
    found.sources, found.masks = sources, sources.any(axis=1)
    return found


def test_a_natural_scene_is_one_clip_with_several_sources(clips: ClipTable):
    scenes = compose_scenes(duets(clips), layout="natural", count=50, seed=0)
    assert len(scenes) == 12 and scenes.frames_N3YX.shape == (12, 3, 32, 32)  # each clip with two sources, once
    assert scenes.panels_NS.eq(0).all() and scenes.masks_NSYX.sum((2, 3)).eq(256).all()
    assert scenes.has_truth_N.all() and len(scenes.videos[0]) == 1
    single = compose_scenes(clips, layout="single", count=50, seed=0)
    heard = {tuple(v): m for v, m in zip(single.videos, single.mixture_NTF.abs().sum((1, 2)).tolist(), strict=True)}
    assert len(heard) == 12  # two clips a video
    truth = SceneGroundTruth.of(scenes)
    assert summarize_scores(score_maps(truth.masks_NSYX.astype(np.float32), truth), resamples=10)["cap"].value == 1
    one = np.ones((12, 1, 32, 32), bool)
    assert summarize_scores(score_maps(one, truth), resamples=10)["ciou"].value == pytest.approx(0.25 / 2)
    for name, each in baseline_heatmaps(truth, panel_boxes=True).items():
        assert 0 < summarize_scores(score_maps(each, truth), resamples=10)["auc"].value < 1, name
    shuffled_audio_permutation(scenes, 0)
    listed = compose_listed_scenes(duets(clips), make_pair_list(duets(clips), layout="natural", count=50, seed=0))
    assert listed.videos == scenes.videos and torch.equal(listed.masks_NSYX, scenes.masks_NSYX)
    assert len(compose_scenes(duets(clips), layout="natural", count=50, seed=0, sources=1)) == 12
    with pytest.raises(ValueError, match="none of 24 clips has regions of exactly 3 sounding"):
        compose_scenes(duets(clips), layout="natural", count=50, seed=0, sources=3)
    with pytest.raises(ValueError, match="came without the regions of each source"):
        compose_scenes(clips, layout="natural", count=50, seed=0)


def test_a_natural_scene_may_have_an_unannotated_source(clips: ClipTable):
    """As in the duets of MUSIC: a source without pixels is left out of means."""
    scenes = compose_scenes(duets(clips), layout="natural", count=50, seed=0, fewer=True)
    assert len(scenes) == 24 and sorted(scenes.masks_NSYX.any(-1).any(-1).sum(1).tolist()) == [1] * 12 + [2] * 12
    assert scenes.hash != compose_scenes(duets(clips), layout="natural", count=50, seed=0).hash
    left = np.zeros((24, 2, 32, 32), bool)
    left[:, :, :16, :16] = True  # right for the first source, which all have, wrong for the other
    found = summarize_scores(score_maps(left, SceneGroundTruth.of(scenes)), resamples=10)
    assert found.counts["ciou"] == 24 and found["ciou"].value == pytest.approx((12 * 1 + 12 * 0.5) / 24)


def test_a_list_of_natural_scenes_may_have_clips_with_one_source(clips: ClipTable):
    pairs = PairList("mine", "natural", ((ScenePanel("a", 0, "clip000"),), (ScenePanel("b", 0, "clip001"),)))
    scenes = compose_listed_scenes(duets(clips), pairs)
    assert scenes.masks_NSYX.sum((2, 3)).tolist() == [[256, 256], [256, 0]]
    truth = SceneGroundTruth.of(scenes)
    table = score_maps(truth.masks_NSYX.astype(np.float32)[:, :1], truth)
    assert table.values["ciou"].tolist() == [0.5, 1.0]  # a source without a region is no source


@pytest.mark.parametrize("layout", PANELLED)
def test_a_list_of_the_drawn_clips_makes_the_drawn_scenes(clips: ClipTable, layout: str):
    drawn = compose_scenes(clips, layout=layout, count=10, seed=3)
    listed = compose_listed_scenes(clips, make_pair_list(clips, layout=layout, count=10, seed=3))
    heard = LAYOUTS[layout][2]
    assert listed.ids == drawn.ids and listed.layout == layout
    assert [each[:heard] for each in listed.videos] == [each[:heard] for each in drawn.videos]
    assert [sorted(each) for each in listed.videos] == [sorted(each) for each in drawn.videos]
    for name in ("frames_N3YX", "mixture_NTF", "panels_NS", "rects_P4", "masks_NSYX", "has_truth_N"):
        assert torch.equal(getattr(listed, name), getattr(drawn, name)), name
    assert listed.hash != drawn.hash


def test_the_list_the_rule_and_the_level_are_part_of_the_hash(clips: ClipTable):
    pairs = make_pair_list(clips, layout="hconcat", count=6, seed=3, name="mine")
    assert compose_listed_scenes(clips, pairs).hash == "b5368a4b20319f6d"
    one = compose_listed_scenes(clips, pairs)
    others = [
        compose_listed_scenes(clips, pairs, rule="mean"),
        compose_listed_scenes(clips, pairs, level="none"),
        compose_listed_scenes(clips, pairs, seconds=0.5),
        compose_listed_scenes(clips, make_pair_list(clips, layout="hconcat", count=6, seed=3, name="yours")),
        compose_listed_scenes(clips, pairs.take(5)),
    ]
    assert len({one.hash, *(each.hash for each in others)}) == 6
    assert torch.allclose(others[0].mixture_NTF * 2, one.mixture_NTF, rtol=1e-5)
    shuffled = clips.take(np.random.default_rng(0).permutation(len(clips)))
    again = compose_listed_scenes(shuffled, make_pair_list(shuffled, layout="hconcat", count=6, seed=3, name="mine"))
    assert again.hash == one.hash and torch.equal(again.mixture_NTF, one.mixture_NTF)


def test_gains_and_silent_panels_of_a_list_are_applied(clips: ClipTable):
    panels = [
        ScenePanel("a", 0, "clip000"),
        ScenePanel("a", 1, "clip002", gain=0.5),
        ScenePanel("a", 2, "clip004", sounding=False),
    ]
    scenes = compose_listed_scenes(clips, PairList("mine", "hconcat", (tuple(panels),)))
    power = scenes.mixture_NTF[0].abs().square().mean(0)
    assert power[5] / power[10] == pytest.approx(4, rel=0.05) and power[15] < power[10] / 100
    assert scenes.panels_NS.tolist() == [[0, 1]] and len(scenes.rects_P4) == 3
    assert scenes.videos == [("video000", "video001", "video002")]
