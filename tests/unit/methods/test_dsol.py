"""DSOL as it is assembled: the loss of each stage, from features on, and its clusters, against plain loops in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raymix.data.audio import log_mel_spectrogram
from raymix.data.batches import MixtureBatch
from raymix.methods.dsol import GRID_SHAPES, DiscriminativeSoundingObjects
from raymix.runtime.distributed import next_rows_as_negatives
from tests.unit.methods.test_staged_methods import TOY, batches, make, share, toy, train

MASK = 0.36  # of the toy set's cells some lie above it, some below
KNOBS: dict[str, Any] = {**TOY, "first_stage": 0.5, "mask": MASK}


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - row.max() - math.log(np.exp(row - row.max()).sum())


def numbers(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().double().numpy() for tensor in tensors]


def linear(layer: torch.nn.Linear, row: np.ndarray) -> np.ndarray:
    weight, bias = numbers(layer.weight, layer.bias)
    return weight @ row + bias


def features(method: DiscriminativeSoundingObjects, frames: torch.Tensor, sounds: torch.Tensor) -> list[np.ndarray]:
    """Cells of the trunk, its pooled sounds, and both embedded: (N, F, H, W), (N, F), (N, C, H, W), (N, C)."""
    cells, pooled = method.image.features(frames), method.audio.features(log_mel_spectrogram(sounds)).amax((2, 3))
    unit, heard = F.normalize(method.image.head(cells), dim=1), F.normalize(method.audio.heads[0](pooled), dim=1)
    return numbers(cells, pooled, unit, heard)


def location_map(method: DiscriminativeSoundingObjects, unit: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Scale x cosine of every cell of a frame (C, H, W) with a sound."""
    found = np.zeros(unit.shape[1:])
    for y, x in np.ndindex(*found.shape):
        found[y, x] = method.scale.item() * sum(unit[:, y, x] * heard)
    return found


def found_object(cells: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The mean over all cells of those above the mask; a map of 2 x 2 is all edge, so none of them grows."""
    inside = [(y, x) for y, x in np.ndindex(2, 2) if 1 / (1 + math.exp(-logits[y, x])) > MASK]
    return sum((cells[:, y, x] for y, x in inside), np.zeros(len(cells))) / logits.size


def unit_length(row: np.ndarray) -> np.ndarray:
    return row / max(np.linalg.norm(row), 1e-12)


def ready(k: int, epochs: int, **knobs: Any) -> DiscriminativeSoundingObjects:
    """After `epochs` of 4 on the toy set, every number off where it starts, and the teacher off the network that learns.

    In evaluation mode, where no clip depends on its batch.
    """
    method, rng = make("dsol", k, **KNOBS | knobs), torch.Generator().manual_seed(5)
    method.scale.data.fill_(3.3)
    if epochs:
        train(method, 4, last=epochs, k=k)
    method.slope.data.fill_(0.7), method.offset.data.fill_(-0.2)
    for head in (method.seen, method.heard, method.teacher_heard):
        for each in head.parameters():
            each.data.copy_(0.5 * torch.randn(each.shape, generator=rng))
    for each in method.teacher.parameters():
        each.data.add_(0.05 * torch.randn(each.shape, generator=rng))
    return method.eval()


@pytest.mark.parametrize("clustered", [False, True])
def test_stage_one_in_a_plain_loop(clustered: bool) -> None:
    """Objects that Sound, and what clusters are named by: the largest of a sound's cells, the *mean* of a frame's."""
    method, mixture, n = ready(2, int(clustered)), next(batches(2, 9)), 12
    rng = torch.Generator().manual_seed(4)
    for each, size in (
        (method.centres_MF, 0.2),
        (method.dictionary_MF, 1.0),
    ):  # close together: a little makes another label
        each.copy_(each.mean(0) + size * torch.rand(3, 16, generator=rng))
    cells, pooled, unit, heard = features(
        method, mixture.frames_BK3YX.flatten(0, 1), mixture.sources_BKTF.flatten(0, 1)
    )
    [centres] = numbers(method.centres_MF)
    location, named, right, labels = 0.0, 0.0, 0, set()
    for i in range(n):
        own, other = (location_map(method, unit[i], heard[at % n]) for at in (i, i + 1))
        location += (softplus(-own.max()) + softplus(other.max())) / (2 * n)
        found = found_object(cells[i], own)
        label = int(np.argmin([math.dist(unit_length(found), each) for each in centres]))
        by_sound, by_sight = linear(method.heard, pooled[i]), linear(method.seen, cells[i].mean((1, 2)))
        named -= (log_softmax(by_sound)[label] + log_softmax(by_sight)[label]) / n
        right += by_sound.argmax() == label
        labels.add(label)
    loss, signs = method(mixture)
    assert float(signs["location"]) == pytest.approx(location, rel=1e-4)
    assert float(signs["scale"]) == method.scale.item() and "slope" not in signs
    if clustered:
        assert len(labels) == 3 and 0 < right < n
        assert float(signs["classification"]) == pytest.approx(named, rel=1e-4)
        assert float(signs["audio_accuracy"]) == pytest.approx(right / n)
    assert loss.item() == pytest.approx(location + clustered * named, rel=1e-4)


def test_clusters_and_their_mean_objects_in_a_plain_loop() -> None:
    """Clusters are of unit features; the mean object of each is that of the features as they are."""
    method, every = ready(2, 1), toy()
    cells, _, unit, heard = features(method, every.frames_N3YX, every.sounds_NTF)
    found = np.array([found_object(cells[i], location_map(method, unit[i], heard[i])) for i in range(24)])
    centres, dictionary = numbers(method.centres_MF, method.dictionary_MF)
    units = np.array([unit_length(row) for row in found])
    of_N = np.array([np.argmin([math.dist(row, each) for each in centres]) for row in units])
    assert set(of_N) == {0, 1, 2}
    for m in range(3):
        np.testing.assert_allclose(centres[m], units[of_N == m].mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(dictionary[m], found[of_N == m].mean(0), rtol=1e-4, atol=1e-6)
    assert np.abs(dictionary - centres).max() > 0.1


def side_by_side(mixture: MixtureBatch, k: int) -> torch.Tensor:
    """Composites panel by panel, each group in the arrangement of its place in the batch."""
    groups, (rows, columns), size = len(mixture.frames_BK3YX), GRID_SHAPES[k], mixture.frames_BK3YX.shape[-1]
    canvas = torch.zeros(groups, 3, rows * size, columns * size)
    ways = list(itertools.permutations(range(rows * columns)))
    for b in range(groups):
        for panel, frame in enumerate(ways[7 * b % len(ways)]):
            y, x = size * (panel // columns), size * (panel % columns)
            if frame < k:
                canvas[b, :, y : y + size, x : x + size] = mixture.frames_BK3YX[b, frame]
    return canvas


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_stage_two_in_a_plain_loop(k: int, masked: bool) -> None:
    """What the cells of a composite are like, against what the frozen network hears in the half that sounds."""
    method, mixture = ready(k, 3, location_weight=0.8), next(batches(k, 9))
    assert method.since == 2 and method.masked
    method.masked = masked
    sounds = sum(mixture.sources_BKTF[:, n] for n in range(k // 2))
    cells, _, unit, heard = features(method, side_by_side(mixture, k), sounds)
    taught, dictionary = numbers(
        method.teacher.features(log_mel_spectrogram(sounds)).amax((2, 3)), method.dictionary_MF
    )
    count, (_, _, h, w) = len(cells), cells.shape
    location = distribution = 0.0
    for b in range(count):
        own, other = (location_map(method, unit[b], heard[at % count]) for at in (b, b + 1))
        location += 0.5 * softplus(-own.max()) / count
        for y, x in np.ndindex(2, 2):
            quarter = other[y * h // 2 : (y + 1) * h // 2, x * w // 2 : (x + 1) * w // 2]
            location += 0.5 * softplus(quarter.max()) / (4 * count)
        seen = np.zeros(3)
        for m, y, x in np.ndindex(3, h, w):
            weight = 1 / (1 + math.exp(-own[y, x])) if masked else 1.0
            seen[m] += weight * (0.7 * sum(cells[b, :, y, x] * dictionary[m]) - 0.2) / (h * w)
        q, p = log_softmax(seen), log_softmax(linear(method.teacher_heard, taught[b]))
        distribution += sum(np.exp(p) * (p - q)) / (3 * count)
    loss, signs = method(mixture)
    assert float(signs["location"]) == pytest.approx(location, rel=1e-4)
    assert float(signs["distribution"]) == pytest.approx(distribution, rel=1e-4)
    assert loss.item() == pytest.approx(distribution + 0.8 * location, rel=1e-4)
    assert [float(signs[name]) for name in ("slope", "offset")] == pytest.approx([0.7, -0.2])
    assert float(signs["scale"]) == method.scale.item()


def test_a_negative_of_stage_two_gets_its_gradient_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def spy(rows: torch.Tensor) -> torch.Tensor:
        seen.append(next_rows_as_negatives(rows))
        seen[-1].retain_grad()
        return seen[-1]

    monkeypatch.setattr("raymix.methods.dsol.next_rows_as_negatives", spy)
    method = ready(2, 3)
    seen.clear()
    method(next(batches(2, 9)))[0].backward()
    assert len(seen) == 1 and seen[0].grad.abs().sum() > 0


@pytest.mark.parametrize(("unmasked", "since"), [(0, 2), (1, 3), (2, 4), (9, 0)])
def test_class_maps_are_masked_after_the_unmasked_epochs(unmasked: int, since: int) -> None:
    method, masked = make("dsol", **TOY, first_stage=1 / 3, unmasked_epochs=unmasked), []
    for epoch in range(1, 7):
        method.on_epoch_end(epoch, 6, share)
        masked.append(method.masked)
    assert method.since == 2 and masked == [bool(since) and epoch >= since for epoch in range(1, 7)]
