"""The walks must be the matrices of the paper: probabilities by hand, two softmaxes, finite in any precision."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from raymix.methods.random_walk import (
    cell_scores,
    cycle_loss,
    log_image_to_sound,
    log_return,
    log_sound_to_image,
    round_trip_loss,
    similarity,
)


def by_hand(phi: list[list[float]], shifted: list[list[float]], temperature: float) -> float:
    """-1/k sum_i log (P Q)_ii in plain Python; phi[image][sound]."""
    k = len(phi)
    total = 0.0
    for i in range(k):
        home = 0.0
        for j in range(k):
            p = math.exp(shifted[j][i] / temperature) / sum(math.exp(shifted[m][i] / temperature) for m in range(k))
            q = math.exp(phi[j][i] / temperature) / sum(math.exp(phi[j][t] / temperature) for t in range(k))
            home += p * q
        total -= math.log(home)
    return total / k


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_cycle_loss_is_minus_log_of_the_hand_computed_return(k: int, temperature: float):
    torch.manual_seed(k)
    phi, shifted = torch.rand(2, 5, k, k, dtype=torch.float64) * 2 - 1
    expected = sum(by_hand(a.tolist(), b.tolist(), temperature) for a, b in zip(phi, shifted, strict=True)) / 5
    assert float(cycle_loss(phi, shifted, temperature)) == pytest.approx(expected, rel=1e-9)
    assert float(cycle_loss(phi.float(), shifted.float(), temperature)) == pytest.approx(expected, rel=1e-5)


def test_known_values():
    uniform = torch.zeros(1, 2, 2)
    assert float(cycle_loss(uniform, uniform, 0.07)) == pytest.approx(math.log(2))  # chance
    perfect = torch.eye(2)[None]
    assert float(cycle_loss(perfect, perfect, 0.07)) < 2e-6
    swapped = perfect.flip(1)  # each sound to the other image and back home: a permutation is as good
    assert float(cycle_loss(swapped, swapped, 0.07)) < 2e-6
    # phi = 1 for one node and 0 for the other, ln 3 apart: P rows are (1/2, 1/2), Q rows (3/4, 1/4)
    one = torch.tensor([[[math.log(3.0), 0.0], [math.log(3.0), 0.0]]])
    assert float(cycle_loss(one, one, 1.0)) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, rel=1e-6)


def test_rows_of_both_transitions_sum_to_one_and_neither_is_the_other_transposed():
    phi = torch.randn(4, 3, 3)
    first, second = log_sound_to_image(phi, 0.07).exp(), log_image_to_sound(phi, 0.07).exp()
    torch.testing.assert_close(first.sum(-1), torch.ones(4, 3))
    torch.testing.assert_close(second.sum(-1), torch.ones(4, 3))
    assert not torch.allclose(first, second.transpose(1, 2), atol=1e-2)


def test_log_return_is_the_diagonal_of_the_product():
    first, second = torch.rand(2, 3, 4, 4).softmax(-1)
    expected = torch.log((first @ second).diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(log_return(first.log(), second.log()), expected)
    torch.testing.assert_close(round_trip_loss(first.log(), second.log()), -expected.mean())


def test_swapping_nodes_in_one_view_changes_the_loss_and_in_both_does_not():
    phi = 0.1 * torch.randn(6, 2, 2) + torch.eye(2)
    both = cycle_loss(phi.flip(2), phi.flip(2), 0.07)
    torch.testing.assert_close(both, cycle_loss(phi, phi, 0.07))
    assert cycle_loss(phi, phi.flip(2), 0.07) > both + 1


def test_similarity_is_the_best_cell_of_image_j_for_sound_i():
    cells = F.normalize(torch.randn(2, 3, 5, 2, 4), dim=2)
    nodes = F.normalize(torch.randn(2, 3, 5), dim=2)
    phi = similarity(cells, nodes)
    scores = cell_scores(cells, nodes)
    assert scores.shape == (2, 3, 3, 2, 4)
    for b, j, i in itertools.product(range(2), range(3), range(3)):
        per_cell = torch.stack([cells[b, j, :, y, x] @ nodes[b, i] for y in range(2) for x in range(4)])
        torch.testing.assert_close(scores[b, j, i].flatten(), per_cell)
        torch.testing.assert_close(phi[b, j, i], per_cell.max())


def test_smooth_maximum_lies_between_mean_and_maximum():
    cells, nodes = F.normalize(torch.randn(1, 2, 8, 4, 4), dim=2), F.normalize(torch.randn(1, 2, 8), dim=2)
    scores = cell_scores(cells, nodes).flatten(3)
    soft, sharp = similarity(cells, nodes, "lse", 1e-3), similarity(cells, nodes, "lse", 1e4)
    torch.testing.assert_close(soft, scores.mean(-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(sharp, scores.amax(-1), atol=1e-3, rtol=0)
    middle = similarity(cells, nodes, "lse", 10.0)
    assert ((middle > scores.mean(-1)) & (middle < scores.amax(-1))).all()
    with pytest.raises(ValueError, match="pool=mean: must be one of max, lse"):
        similarity(cells, nodes, "mean")


@pytest.mark.parametrize("pool", ["max", "lse"])
def test_gradient_in_double_precision(pool: str):
    torch.manual_seed(1)
    cells = torch.randn(1, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    nodes, shifted = torch.randn(2, 1, 2, 3, dtype=torch.float64)

    def loss(c: torch.Tensor, n: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return cycle_loss(similarity(c, n, pool, 5.0), similarity(c, s, pool, 5.0), 0.5)

    assert torch.autograd.gradcheck(loss, (cells, nodes.requires_grad_(), shifted.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_never_gives_infinity(dtype: torch.dtype):
    node = F.normalize(torch.ones(8), dim=0)
    # the worst case: every walk is as wrong as unit vectors at temperature .07 allow
    cells = torch.stack([node, -node])[None, :, :, None, None].to(dtype).requires_grad_()
    nodes = torch.stack([node, -node])[None].to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        phi, shifted = similarity(cells, nodes), similarity(cells, nodes.flip(1))
        assert phi.dtype == torch.float32
        loss = cycle_loss(phi, shifted, 0.07)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and 20 < float(loss.detach()) < 30
    assert cells.grad.isfinite().all()
    half_loss = cycle_loss(phi.detach().to(dtype), shifted.detach().to(dtype), 0.07)
    assert half_loss.dtype == torch.float32 and half_loss.isfinite()
