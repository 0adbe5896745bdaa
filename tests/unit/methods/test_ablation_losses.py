"""The losses of Table 3 against naive loops in float64, Permute against brute force, and each system's against its own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from raymix.data.batches import MixtureBatch
from raymix.methods import build_method
from raymix.methods.random_walk import (
    best_pairing,
    cycle_loss,
    image_cycle_loss,
    log_image_to_sound,
    log_sound_to_image,
    mixed_correspondence_loss,
    permutation_invariant_loss,
    round_trip_loss,
    similarity,
)
from tests.conformance.test_method_contract import SMALL, make_mixture, sizes, small

TAU = 0.07


def random_phi(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.4 - 0.2


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value / TAU) for value in row)
    return [math.exp(value / TAU) / total for value in row]


@pytest.mark.parametrize("k", [2, 3])
def test_isi_walks_home_by_eq_6_with_its_minus_sign(k: int):
    phi, again = random_phi(5, k, k), random_phi(5, k, k, seed=1)
    total = 0.0
    for group in range(5):
        to_sound = [softmax(phi[group, j].tolist()) for j in range(k)]  # A_IS: each image over the sounds
        to_image = [softmax(again[group, :, i].tolist()) for i in range(k)]  # A_SI: each sound over the images
        home = [sum(to_sound[j][i] * to_image[i][j] for i in range(k)) for j in range(k)]
        total -= sum(math.log(value) for value in home) / k
    loss = image_cycle_loss(phi, again, TAU)
    assert loss.item() == pytest.approx(total / 5, abs=1e-12) and loss > 0
    transposed = round_trip_loss(log_image_to_sound(phi, TAU), log_image_to_sound(again, TAU).transpose(1, 2))
    assert abs(transposed.item() - loss.item()) > 0.01  # A_IS transposed is no A_SI: its rows do not sum to 1


def test_isi_at_chance_and_at_its_best():
    flat, sharp = torch.zeros(1, 2, 2), 50 * torch.eye(2)[None]
    assert image_cycle_loss(flat, flat, TAU).item() == pytest.approx(math.log(2), abs=1e-6)
    assert image_cycle_loss(sharp, sharp, TAU).item() == pytest.approx(0, abs=1e-6)


def test_isi_ends_on_the_first_of_the_further_frames():
    method, mixture = small("isi").eval(), make_mixture(3, 2)
    assert mixture.more_BKF3YX is not None and method.requirements.frames == 2
    (nodes,) = method.encode_audio(mixture.mixture_BTF)
    views = (mixture.frames_BK3YX, mixture.more_BKF3YX[:, :, 0], mixture.more_BKF3YX[:, :, 1])
    start, end, third = (method.similarity(method.encode_images(frames_BK3YX), nodes) for frames_BK3YX in views)
    loss = method(mixture)[0].item()
    assert loss == pytest.approx(image_cycle_loss(start, end, TAU).item(), abs=1e-6)
    for wrong in ((start, start), (end, end), (end, start), (start, third)):
        assert abs(image_cycle_loss(*wrong, TAU).item() - loss) > 1e-4


# Knobs off their defaults, and embeddings that are drawn: those of an untrained network are too alike for a wrong pairing to
# cost anything.
OTHER = {"temperature": 0.3, "pool": "lse", "pool_sharpness": 4.0}


def drawn(name: str, k: int, groups: int, monkeypatch: pytest.MonkeyPatch, **knobs: float | str) -> tuple[Any, ...]:
    """A method with cells (groups, K, C, H, W) and nodes of two views (groups, K, C) put in place of what it sees and hears.

    Two dimensions, so that some cosines are large.
    """
    method, rng = build_method(name, k, SMALL, sizes(name) | knobs), torch.Generator().manual_seed(k)
    cells = F.normalize(torch.randn(groups * k, 2, 2, 2, generator=rng), dim=1)
    nodes, shifted = (F.normalize(torch.randn(groups, k, 2, generator=rng), dim=-1) for _ in range(2))
    mixture = make_mixture(groups, k)

    def encode_audio(*views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(nodes if torch.equal(view, mixture.mixture_BTF) else shifted for view in views)

    monkeypatch.setattr(method.image, "forward", lambda frames: cells)
    monkeypatch.setattr(method, "encode_audio", encode_audio)
    return method, mixture, cells.unflatten(0, (groups, k)), nodes, shifted


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("knobs", [{}, OTHER])
def test_cycle_walks_out_by_the_shifted_view_and_home_by_the_other(k: int, knobs: Any, monkeypatch: pytest.MonkeyPatch):
    method, mixture, cells, nodes, shifted = drawn("cycle", k, 3, monkeypatch, **knobs)
    how, tau = (knobs["pool"], knobs["pool_sharpness"]) if knobs else ("max", 1.0), knobs.get("temperature", TAU)
    home, out = (similarity(cells, each, *how) for each in (nodes, shifted))
    loss, signs = method(mixture)
    assert loss.item() == pytest.approx(cycle_loss(home, out, tau).item(), abs=1e-6)
    for wrong in ((home, home), (out, out), (out, home)):
        assert abs(cycle_loss(*wrong, tau).item() - loss.item()) > 1e-2
    walked = (log_sound_to_image(home, tau).exp() @ log_image_to_sound(home, tau).exp()).diagonal(dim1=1, dim2=2)
    assert float(signs["return_probability"]) == pytest.approx(walked.mean().item(), abs=1e-6)
    goals = log_sound_to_image(home, tau).argmax(-1).tolist()
    assert float(signs["permutation"]) == pytest.approx(sum(len(set(goal)) == k for goal in goals) / 3)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("knobs", [{}, {name: value for name, value in OTHER.items() if name != "temperature"}])
def test_permute_takes_the_best_pairing_of_each_group(k: int, knobs: Any, monkeypatch: pytest.MonkeyPatch):
    method, mixture, cells, nodes, _ = drawn("permute", k, 4, monkeypatch, **knobs)
    phi = similarity(cells, nodes, *((knobs["pool"], knobs["pool_sharpness"]) if knobs else ()))
    best = [
        max(sum(float(phi[group, j, way[j]]) for j in range(k)) for way in itertools.permutations(range(k)))
        for group in range(4)
    ]
    fixed = phi.diagonal(dim1=1, dim2=2).sum(1)
    assert method(mixture)[0].item() == pytest.approx(-sum(best) / 4, abs=1e-6)
    assert sum(best) > fixed.sum().item() + 0.1


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("knobs", [{}, OTHER])
def test_corre_knows_which_images_are_of_which_mixture(k: int, knobs: Any, monkeypatch: pytest.MonkeyPatch):
    method, mixture, cells, nodes, _ = drawn("corre", k, 4, monkeypatch, **knobs)
    tau, total = knobs.get("temperature", TAU), 0.0
    how = (knobs["pool"], knobs["pool_sharpness"]) if knobs else ()
    for group, own in itertools.product(range(4), range(k)):
        phi = similarity(cells[group, own][None, None], nodes.reshape(1, 4 * k, 2), *how)[0, 0].double()
        every = (phi / tau).exp().unflatten(0, (4, k)).sum(1)  # of the nodes of each mixture
        total -= math.log(every[group] / every.sum()) / (4 * k)
    assert method(mixture)[0].item() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_corre_finds_the_nodes_of_its_own_mixture_among_all(k: int):
    groups, phi = 4, random_phi(4 * k, 4 * k)
    own = torch.arange(groups).repeat_interleave(k)
    total = 0.0
    for image in range(groups * k):
        every = [math.exp(value / TAU) for value in phi[image].tolist()]
        first = (image // k) * k
        total -= math.log(sum(every[first : first + k]) / sum(every)) / (groups * k)
    assert mixed_correspondence_loss(phi, own, k, TAU).item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_permute_is_brute_force(k: int):
    phi = random_phi(6, k, k, seed=k)
    best = [
        max(sum(float(phi[group, j, way[j]]) for j in range(k)) for way in itertools.permutations(range(k)))
        for group in range(6)
    ]
    assert best_pairing(phi).tolist() == pytest.approx(best, abs=1e-12)
    assert permutation_invariant_loss(phi).item() == pytest.approx(-sum(best) / 6, abs=1e-12)


def test_permute_of_two_by_hand_and_its_gradient():
    phi = torch.tensor([[[0.1, 0.9], [0.4, 0.2]]], requires_grad=True)
    loss = permutation_invariant_loss(phi)
    loss.backward()
    assert loss.item() == pytest.approx(-1.3)  # .9 + .4, not .1 + .2
    assert phi.grad is not None and phi.grad[0].tolist() == [[0, -1], [-1, 0]]


def test_permute_above_brute_force_has_the_gradient_of_the_best_pairing():
    phi = random_phi(1, 5, 5, seed=7).requires_grad_()
    permutation_invariant_loss(phi).backward()
    way = max(itertools.permutations(range(5)), key=lambda way: sum(phi[0, j, way[j]].item() for j in range(5)))
    assert phi.grad is not None
    assert phi.grad[0].tolist() == [[-1.0 if way[j] == i else 0.0 for i in range(5)] for j in range(5)]


def test_collapse_is_the_goal_of_permute_and_is_seen():
    assert permutation_invariant_loss(torch.ones(3, 2, 2)).item() == -2
    method = small("permute")
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    mixture = make_mixture(8, 2)
    for _ in range(60):
        optimizer.zero_grad()
        loss, signs = method(mixture)
        loss.backward()
        optimizer.step()
    assert loss < -1.9 and signs["sound_spread"] < 0.1  # every mixture has the same nodes
    assert "temperature" not in signs and "temperature" in small("corre")(mixture)[1]


def test_isi_says_what_it_lacks():
    mixture = make_mixture(2, 2)
    with pytest.raises(ValueError, match="two frames of each clip"):
        small("isi")(MixtureBatch(mixture.frames_BK3YX, mixture.mixture_BTF, mixture.shifted_BTF))


@pytest.mark.parametrize("k", [4, 5])
def test_what_is_not_a_number_stays_so_for_the_loop_to_find(k: int):
    phi = random_phi(2, k, k)
    phi[1] = math.nan
    assert permutation_invariant_loss(phi).isnan()
