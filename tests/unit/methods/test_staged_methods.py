"""Systems with stages and labels for names alone: losses by hand, both stages on a toy set, kept state."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment

from raymix.data.audio import stft
from raymix.data.batches import ClipBatch, MixtureBatch
from raymix.methods import build_method
from raymix.methods.dsol import compose_grid, distribution_loss, location_loss, mix_composite_audio, object_features
from raymix.methods.label_matching import kmeans_clusters, match_channels, match_labels
from raymix.methods.sound_of_pixels import UNet, binary_masks, log_frequency_matrix, mask_loss, stft_magnitude
from tests.conformance.test_method_contract import make_scenes

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
BINS = (8, 30, 60)
NAMES = ("bell", "drum", "flute")
ENCODER = {"width": 4, "blocks": 1, "stages": 3}
TOY = {"embedding_size": 16, "clusters": 3}
SMALL_PIXELS = {"channels": 4, "bins": 64, "downs": 4}


def toy() -> ClipBatch:
    """24 clips: a frame of one of three colours and a tone of the pitch that goes with it."""
    rng = torch.Generator().manual_seed(3)
    kind_N = torch.arange(24) % 3
    frames = (COLOURS[kind_N][:, :, None, None] + 0.1 * torch.rand(24, 3, 32, 32, generator=rng)).clamp(0, 1)
    sounds = 0.05 * torch.randn(24, 65, 81, dtype=torch.complex64, generator=rng)
    for n, kind in enumerate(kind_N.tolist()):
        sounds[n, :, BINS[kind]] += 4
    return ClipBatch(frames, sounds, torch.arange(24), [NAMES[kind] for kind in kind_N.tolist()])


def share(rank: int = 0, world: int = 1, size: int = 5) -> Iterator[ClipBatch]:
    """A rank's clips, every `world`th, a few at a time."""
    every, own = toy(), torch.arange(24)[rank::world]
    for at in own.split(size):
        yield ClipBatch(every.frames_N3YX[at], every.sounds_NTF[at], at, [every.labels[n] for n in at.tolist()])


def batches(k: int, epoch: int, size: int = 12) -> Iterator[MixtureBatch]:
    every = toy()
    for index in torch.randperm(24, generator=torch.Generator().manual_seed(epoch)).split(size):
        index = index.view(-1, k)
        sources = every.sounds_NTF[index]
        more = every.frames_N3YX[index][:, :, None].expand(-1, -1, 2, -1, -1, -1)
        yield MixtureBatch(every.frames_N3YX[index], sources.sum(1), sources.sum(1), sources, more)


def make(name: str, k: int = 2, **knobs: Any) -> Any:
    torch.manual_seed(0)
    return build_method(name, k, ENCODER, knobs)


def train(method: Any, epochs: int, first: int = 1, last: int = 0, k: int = 2, optimizer: Any = None) -> list[float]:
    optimizer = optimizer or torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for epoch in range(first, (last or epochs) + 1):
        method.train()
        for mixture in batches(k, epoch):
            optimizer.zero_grad()
            loss, signs = method(mixture)
            loss.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
            assert all(value.isfinite() for value in signs.values()) and signs["loss"] == loss
            optimizer.step()
            losses.append(loss.item())
        method.on_epoch_end(epoch, epochs, share)
    return losses


# Matching


def test_match_is_the_best_assignment_and_the_rest_joins() -> None:
    weight = np.array([[0.9, 0.8], [0.8, 0.1], [0.0, 0.3], [0.0, 0.0]])
    found = match_channels(weight, ["a", "b"], surplus=False)
    assert (found.classes, found.class_of_M) == (["a", "b"], [1, 0, -1, -1])  # .8 + .8, greedy would take .9 + .3
    assert match_channels(weight, ["a", "b"], surplus=True).class_of_M == [1, 0, 1, -1]
    total = found.total(torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
    assert total.tolist() == [[2, 1]]
    fewer = match_channels(weight.T[:1], ["a", "b", "c", "d"], surplus=True)
    assert (fewer.classes, fewer.class_of_M) == (["a"], [0])
    assert match_labels(torch.ones(2, 3), ["", ""], surplus=True) is None


def test_clusters_keep_their_numbers() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 5, dtype=np.float32)
    rows = (centres[np.arange(30) % 3] + 0.05 * rng.normal(size=(30, 5))).astype(np.float32)
    for order in ([0, 1, 2], [2, 0, 1]):
        found, of_N = kmeans_clusters(rows, centres[order], known=True)
        np.testing.assert_allclose(found, centres[order], atol=0.06)
        assert of_N.tolist() == [order.index(n % 3) for n in range(30)]
    same, of_N = kmeans_clusters(
        np.ones((5, 2), np.float32), np.zeros((3, 2), np.float32), known=False
    )  # clusters without rows
    assert np.isfinite(same).all() and len(set(of_N.tolist())) == 1


def test_numbers_are_those_of_the_nearest_old_centres_and_memory_is_that_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    rows, n, m = rng.normal(size=(600, 64)).astype(np.float32), 600, 40
    before = rows[rng.permutation(n)[:m]]
    plain, plain_N = kmeans_clusters(rows, before, known=False)
    tracemalloc.start()
    try:
        found, of_N = kmeans_clusters(rows, before, known=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < n * m * 64 * 4 / 2  # one float32 for each row, centre and feature takes twice that
    shared = np.zeros((m, m))
    for row, own in zip(rows, plain_N, strict=True):
        shared[own, min(range(m), key=lambda c: ((row.astype(np.float64) - before[c]) ** 2).sum())] += 1
    number_M = linear_sum_assignment(shared, maximize=True)[1]
    assert of_N.tolist() == number_M[plain_N].tolist() and not np.array_equal(of_N, plain_N)
    np.testing.assert_array_equal(found[number_M], plain)


# DSOL


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_composite_holds_each_frame_once_anywhere(k: int) -> None:
    frames = torch.arange(1.0, 1 + 24 * k).view(24, k, 1, 1, 1).expand(-1, -1, 3, 4, 4)
    rows, columns = ((1, 1), (1, 2), (2, 2), (2, 2))[k - 1]
    made = compose_grid(frames)
    assert made.shape == (24, 3, 4 * rows, 4 * columns)
    panels = made[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).flatten(1, 2)
    assert (panels == panels[..., :1, :1]).all()  # each is one whole frame
    of = panels[..., 0, 0]
    first = frames[:, :, 0, 0, 0]
    for row, own in zip(of.tolist(), first.tolist(), strict=True):
        assert sorted(row) == sorted(own + [0.0] * (rows * columns - k))
    counts = (of == first[:, :1]).sum(0)  # where the first frame lies, which is heard
    assert (counts == 24 // (rows * columns)).all()
    assert torch.equal(compose_grid(frames[5:], first=5), made[5:])  # of this place in the batch of all ranks


def test_half_of_a_group_is_heard() -> None:
    for k, heard in ((1, 1), (2, 1), (3, 1), (4, 2)):
        mixture = next(batches(k, 1))
        assert torch.equal(mix_composite_audio(mixture), mixture.sources_BKTF[:, :heard].sum(1))


def test_object_features_in_a_plain_loop() -> None:
    cells, maps = torch.rand(3, 4, 5, 6), torch.rand(3, 5, 6)
    found = object_features(cells, maps, 0.8)
    for n in range(3):
        mask = np.zeros((5, 6), bool)
        for y, x in np.argwhere(maps[n].numpy() > 0.8):
            mask[y, x] = True
            if 0 < y < 4 and 0 < x < 5:  # a cell at the edge does not grow
                mask[[y - 1, y + 1, y, y], [x, x, x - 1, x + 1]] = True
        assert 0 < mask.sum() < 30
        np.testing.assert_allclose(
            found[n], (cells[n].numpy() * mask).sum((1, 2)) / 30, rtol=1e-5
        )  # 30, not mask.sum()


def test_stage_two_losses_in_a_plain_loop() -> None:
    own, other = 3 * torch.randn(5, 4, 6), 3 * torch.randn(5, 4, 6)
    p = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    positive = -sum(math.log(p(own[n].max().item())) for n in range(5)) / 5
    quarters = [other[n, y : y + 2, x : x + 3].max().item() for n in range(5) for y in (0, 2) for x in (0, 3)]
    negative = -sum(math.log(1 - p(each)) for each in quarters) / 20
    assert location_loss(own, other).item() == pytest.approx(0.5 * (positive + negative), rel=1e-5)

    seen, heard, total = torch.randn(4, 3), torch.randn(4, 3), 0.0
    for a, b in zip(seen.double().numpy(), heard.double().numpy(), strict=True):
        q, t = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
        total += sum(t[m] * (math.log(t[m]) - math.log(q[m])) for m in range(3))
    assert distribution_loss(seen, heard).item() == pytest.approx(total / 12, rel=1e-5)  # of elements, not of rows
    sure = torch.tensor([[0.0, 500.0, 0.0]], requires_grad=True)
    loss = distribution_loss(sure, torch.tensor([[500.0, 0.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(500 / 3) and sure.grad.isfinite().all()


def test_class_maps_in_a_plain_loop() -> None:
    method, scenes = make("dsol", **TOY, first_stage=0.5), make_scenes(2, (32, 64))
    train(method, 4)
    method.slope.data.fill_(0.7), method.offset.data.fill_(-0.2)
    with torch.no_grad():
        method.eval()
        cells, _, unit, heard = method.look_and_listen(scenes.frames_N3YX / 255, scenes.mixture_NTF)
        probability = method.teacher_logits(scenes.mixture_NTF).softmax(1)
    maps = method.predict_heatmaps(scenes)
    assert maps.classes == list(NAMES) and maps.maps_NMHW.shape == (2, 3, 2, 4)
    for n, y, x in np.ndindex(2, 2, 4):
        location = 1 / (1 + math.exp(-method.scale.item() * float(unit[n, :, y, x] @ heard[n])))
        scores = [3 * location * (0.7 * float(cells[n, :, y, x] @ d) - 0.2) for d in method.dictionary_MF]
        odds = np.exp(np.array(scores) - max(scores))
        for c in range(3):
            own = [m for m in range(3) if method.matching.class_of_M[m] == c]
            assert maps.maps_NMHW[n, c, y, x].item() == pytest.approx(odds[own].sum() / odds.sum(), rel=1e-3, abs=1e-6)
            assert maps.loudness_NM[n, c].item() == pytest.approx(probability[n, own].sum().item(), rel=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_dsol_goes_through_both_stages(k: int) -> None:
    method = make("dsol", k, **TOY, first_stage=0.5, unmasked_epochs=1)
    train(method, 6, last=2, k=k)
    assert method.clustered and not method.since and method.predict_heatmaps(make_scenes(2, (32, 32))).classes is None
    train(method, 6, first=3, last=3, k=k)
    assert method.since == 3 and not method.masked and (method.slope, method.offset) == (1, 0)
    for own, copied in ((method.audio.trunk, method.teacher.trunk), (method.heard, method.teacher_heard)):
        kept = copied.state_dict()
        assert all(torch.equal(kept[name], value) for name, value in own.state_dict().items())
    taught = {name: value.clone() for name, value in method.state_dict().items() if "teacher" in name}
    train(method, 6, first=4, last=4, k=k)
    assert method.masked
    train(method, 6, first=5, k=k)
    state = method.state_dict()
    assert len(taught) > 10 and all(torch.equal(state[name], value) for name, value in taught.items())
    assert method.slope != 1 and not torch.equal(
        state["audio.trunk.conv1.weight"], taught["teacher.trunk.conv1.weight"]
    )
    assert method.predict_heatmaps(make_scenes(2, (32, 64))).classes == list(NAMES)


def test_dsol_hears_the_classes_of_the_toy_set() -> None:
    """Clusters are the three kinds, and after both stages the loudest class is that of the tone."""
    method, every = make("dsol", **TOY), toy()
    train(method, 16)
    assert sorted(method.matching.class_of_M) == [0, 1, 2]
    scenes = replace(
        make_scenes(24, (32, 32)),
        frames_N3YX=(255 * every.frames_N3YX).to(torch.uint8),
        mixture_NTF=every.sounds_NTF,
    )
    maps = method.predict_heatmaps(scenes)
    heard = [maps.classes[c] for c in maps.loudness_NM.argmax(1).tolist()]
    assert np.mean([a == b for a, b in zip(heard, every.labels, strict=True)]) > 0.9


@pytest.mark.parametrize(("epochs", "since"), [(1, 0), (2, 0), (3, 2), (20, 15)])
def test_when_the_second_stage_begins(epochs: int, since: int) -> None:
    method = make("dsol", **TOY)
    for epoch in range(1, epochs + 1):
        method.on_epoch_end(epoch, epochs, share)
        assert (method.since > 0) == (since > 0 and epoch >= since)
    assert method.since == since


def test_more_clusters_than_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="clusters=25: more than the 24 training clips"):
        make("dsol", **TOY | {"clusters": 25}).on_epoch_end(1, 9, share)


@pytest.mark.parametrize(
    ("name", "k", "knobs", "sentence"),
    [
        ("dsol", 2, {"clusters": 1}, "method.clusters=1: must be 2 to 1000"),
        ("dsol", 2, {"first_stage": 0.0}, "first_stage=0.0"),
        ("dsol", 2, {"initial_epochs": 0}, "initial_epochs=0: must be at least 1"),
        ("sound_of_pixels", 2, {"channels": 0}, "method.channels=0: must be 1 to 1000"),
        ("sound_of_pixels", 2, {"downs": 9}, "method.downs=9: must be 2 to 8"),
        ("sound_of_pixels", 2, {"bins": 32}, r"method.bins=32: must be at least 2 \*\* method.downs = 64"),
        ("dsol", 5, {}, "mixture.k=5: composites are of at most 4 frames"),
    ],
)
def test_refuses_in_one_line(name: str, k: int, knobs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(name, k, **knobs)


# Sound of Pixels


def test_the_longer_spectrogram_is_that_of_the_waveform() -> None:
    wave = torch.randn(2, 15360, generator=torch.Generator().manual_seed(0))
    wave[:, :600] = wave[:, -600:] = 0
    found = stft_magnitude(stft(wave))
    assert found.shape == (2, 61, 512)  # .96 s
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1022) / 1022)
    for t in (10, 30, 50):
        piece = wave[1, 256 * t - 511 : 256 * t + 511].numpy() * window
        np.testing.assert_allclose(found[1, t], np.abs(np.fft.rfft(piece)), atol=2e-3)
    a, b = torch.randn(2, 1, 65, 81, dtype=torch.complex64)
    assert (stft_magnitude(a + b) <= stft_magnitude(a) + stft_magnitude(b) + 1e-3).all()
    torch.testing.assert_close(stft_magnitude(2 * a), 2 * stft_magnitude(a))


def test_warp_reads_between_neighbours() -> None:
    matrix = log_frequency_matrix(5, 21)
    torch.testing.assert_close(matrix.sum(1), torch.ones(5))
    at = [(21 ** (j / 4) - 1) / 20 * 20 for j in range(5)]  # 0, 1.14, 3.58, 8.81, 20
    torch.testing.assert_close(matrix @ torch.arange(21.0), torch.tensor(at))
    assert ((matrix > 0).sum(1) <= 2).all()


def test_masks_by_hand() -> None:
    mixture, sources = (
        torch.tensor([[[2.0, 2.0, 4.0, 0.0]]]),
        torch.tensor([[[[1.0, 1.1, 3.0, 0.0]], [[1.5, 0.9, 1.0, 0.0]]]]),
    )
    assert binary_masks(sources, mixture).tolist() == [[[[0, 1, 1, 0]], [[1, 0, 0, 0]]]]  # half is not more than half


def test_mask_loss_in_a_plain_loop() -> None:
    logits, masks = 3 * torch.randn(2, 3, 4, 5), (torch.rand(2, 3, 4, 5) > 0.5).float()
    mixture = torch.rand(2, 4, 5) * torch.tensor(
        [0.0, 1e-4, 1.0, 50.0, 1e6]
    )  # below, within and above the weights' bounds
    total = 0.0
    for b, n, t, f in np.ndindex(2, 3, 4, 5):
        p = 1 / (1 + math.exp(-logits[b, n, t, f].item()))
        weight = min(max(math.log(1 + mixture[b, t, f].item()), 1e-3), 10)
        total -= weight * math.log(p if masks[b, n, t, f] else 1 - p)
    assert mask_loss(logits, masks, mixture).item() == pytest.approx(
        total / 120, rel=1e-4
    )  # of elements, not of weights


@pytest.mark.parametrize("k", [2, 3])
def test_sound_of_pixels_in_a_plain_loop(k: int) -> None:
    method, mixture = make("sound_of_pixels", k, **SMALL_PIXELS), next(batches(k, 1))
    more = torch.rand_like(mixture.more_BKF3YX)  # frames that differ, for their maximum
    mixture = replace(mixture, more_BKF3YX=more)
    method.weight_M.data.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0])), method.bias.data.fill_(-0.3)
    method.eval()
    with torch.no_grad():
        loss, _ = method(mixture)
        mixed = method.spectrogram(mixture.mixture_BTF)
        parts = method.sound((mixed + 1e-10).log()[:, None])
        logits = torch.zeros(12 // k, k, *mixed.shape[1:])
        for b, n in np.ndindex(12 // k, k):
            shots = torch.cat([mixture.frames_BK3YX[b, n][None], more[b, n]])
            seen = [max(cell.max() for cell in method.encode_images(shots)[:, m]).sigmoid() for m in range(4)]
            logits[b, n] = sum(w * i * s for w, i, s in zip(method.weight_M, seen, parts[b], strict=True)) - 0.3
        sources = method.spectrogram(mixture.sources_BKTF.flatten(0, 1)).unflatten(0, (-1, k))
        expected = mask_loss(logits, binary_masks(sources, mixed), mixed)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_a_channel_keeps_and_its_activity_in_a_plain_loop() -> None:
    method, every = make("sound_of_pixels", **SMALL_PIXELS).eval(), toy()
    method.weight_M.data.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0])), method.bias.data.fill_(-0.3)
    with torch.no_grad():
        heard = method.spectrogram(every.sounds_NTF[:3])
        parts, maps = (
            method.sound((heard + 1e-10).log()[:, None]),
            method.encode_images(every.frames_N3YX[:3]).sigmoid(),
        )
        kept = method.kept(method.encode_audio(heard), heard)
        activity = method._activity(next(share(size=3)))
    for n, m in np.ndindex(3, 4):
        mask = (method.weight_M[m].item() * parts[n, m] - 0.3).sigmoid()
        share_kept = float((mask * heard[n]).sum() / heard[n].sum())
        assert kept[n, m].item() == pytest.approx(share_kept, rel=1e-4)
        assert activity[n, m].item() == pytest.approx(share_kept * float(maps[n, m].mean()), rel=1e-4)
    assert method.kept(method.encode_audio(0 * heard), 0 * heard).isfinite().all()


@pytest.mark.parametrize(("frames", "bins"), [(21, 64), (61, 256), (64, 64), (1, 17), (65, 100)])
def test_the_network_keeps_any_size(frames: int, bins: int) -> None:
    net = UNet(3, 2, 4).eval()
    assert net(torch.randn(2, 1, frames, bins)).shape == (2, 3, frames, bins)


def test_all_of_one_source_is_kept() -> None:
    method = make("sound_of_pixels", 1, **SMALL_PIXELS)
    losses = train(method, 6, k=1)
    assert losses[-1] < 0.5 * losses[0]


def test_sound_of_pixels_finds_the_classes_of_the_toy_set() -> None:
    method, every = make("sound_of_pixels", **SMALL_PIXELS), toy()
    assert method.predict_heatmaps(make_scenes(2, (32, 64))).maps_NMHW.shape == (2, 4, 2, 4)
    train(method, 30)
    scenes = replace(
        make_scenes(24, (32, 32)),
        frames_N3YX=(255 * every.frames_N3YX).to(torch.uint8),
        mixture_NTF=every.sounds_NTF,
    )
    maps = method.predict_heatmaps(scenes)
    assert maps.classes == list(NAMES) and maps.maps_NMHW.shape == (24, 3, 2, 2)
    channel = [method.matching.class_of_M.index(c) for c in range(3)]
    with torch.no_grad():
        logits = method.eval().encode_images(every.frames_N3YX)
    torch.testing.assert_close(
        maps.maps_NMHW, logits[:, channel].sigmoid(), atol=2e-2, rtol=0
    )  # frames are bytes there
    own = np.array([NAMES.index(label) for label in every.labels])
    seen = maps.maps_NMHW.mean((2, 3)).numpy()
    shown = [seen[own == c, c].mean() - seen[own != c, c].mean() for c in range(3)]
    assert min(shown) > 0.1  # the map of a class is higher where the class is


# All of them

STAGED: dict[str, dict[str, Any]] = {"dsol": {**TOY, "first_stage": 0.5}, "sound_of_pixels": SMALL_PIXELS}


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_state_that_was_kept_goes_on_as_if_nothing_had_been(name: str, cut: int, tmp_path: Path) -> None:
    whole = make(name, **STAGED[name])
    optimizer = torch.optim.Adam(whole.parameters(), lr=3e-3)
    train(whole, 4, last=cut, optimizer=optimizer)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(9)
    other = build_method(name, 2, ENCODER, STAGED[name])
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    restored = torch.optim.Adam(other.parameters(), lr=3e-3)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    expected = train(whole, 4, first=cut + 1, optimizer=optimizer)
    assert train(other, 4, first=cut + 1, optimizer=restored) == expected
    one, two = (method.predict_heatmaps(make_scenes(2, (32, 32))) for method in (whole, other))
    assert torch.equal(one.maps_NMHW, two.maps_NMHW) and one.classes == two.classes and one.classes
    assert torch.equal(one.loudness_NM, two.loudness_NM)


@pytest.mark.parametrize("name", STAGED)
def test_labels_give_names_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named, other, nameless = (make(name, **STAGED[name]) for _ in range(3))
    losses = train(named, 4)
    plain = toy()
    swap = {"bell": "flute", "drum": "bell", "flute": "drum"}
    monkeypatch.setitem(globals(), "toy", lambda: replace(plain, labels=[swap[each] for each in plain.labels]))
    assert train(other, 4) == losses
    monkeypatch.setitem(globals(), "toy", lambda: replace(plain, labels=[""] * 24))
    assert train(nameless, 4) == losses
    for key, value in named.state_dict().items():
        if not key.endswith("_extra_state"):
            assert torch.equal(value, other.state_dict()[key]) and torch.equal(value, nameless.state_dict()[key]), key
    scenes = make_scenes(2, (32, 32))
    one, two, none = (method.predict_heatmaps(scenes) for method in (named, other, nameless))
    assert none.classes is None and none.maps_NMHW.shape[1] == none.loudness_NM.shape[1]
    for c, label in enumerate(one.classes):
        assert torch.equal(one.maps_NMHW[:, c], two.maps_NMHW[:, two.classes.index(swap[label])])
