"""Later systems of pairs (LVS, EZ-VSL, SLAVC, FNAC): losses against plain loops in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from raymix.methods import build_method
from raymix.methods.base import dropout_across_ranks, symmetric_contrastive_loss
from raymix.methods.fnac import false_negative_terms, foreground_mean, similarity_softmax
from raymix.methods.lvs import lvs_logits, region_mean
from raymix.methods.slavc import agreement_loss, log_agreement
from tests.conformance.test_method_contract import SMALL, make_mixture, make_scenes, sizes


def make(name: str, k: int = 2, **knobs: Any):
    torch.manual_seed(0)
    return build_method(name, k, SMALL, sizes(name) | knobs)


def softmax(values: Any) -> np.ndarray:
    odds = np.exp(np.asarray(values) - np.max(values))
    return odds / odds.sum()


def cosines(cells: np.ndarray, sounds: np.ndarray) -> np.ndarray:
    """(N, M, X) from cells (N, C, H, W) and sounds (M, C), one product at a time."""
    flat = cells.reshape(*cells.shape[:2], -1)
    return np.array(
        [[[flat[i, :, x] @ sound for x in range(flat.shape[2])] for sound in sounds] for i in range(len(flat))]
    )


# LVS


def naive_lvs(
    scores: np.ndarray, own: list[int], high: float, low: float, softness: float, tau: float, trap: bool
) -> float:
    """As the paper and its code write it, the own sound first; `trap`: it also stands among the others, times -99."""

    def mean(weight: np.ndarray, score: np.ndarray) -> float:
        return float((weight * score).sum() / weight.sum())

    total = 0.0
    for i, row in enumerate(scores):
        similar = [mean(1 / (1 + np.exp(-(a - high) / softness)), a) for a in row]
        hard = mean(1 - 1 / (1 + np.exp(-(row[own[i]] - low) / softness)), row[own[i]])
        others = [-99 * s if j == own[i] else s for j, s in enumerate(similar) if trap or j != own[i]]
        total -= math.log(softmax(np.array([similar[own[i]], *others, hard]) / tau)[0])
    return total / len(scores)


@pytest.mark.parametrize("own", [[0, 1, 2], [2, 3, 4]])
@pytest.mark.parametrize("below_zero", [False, True])
def test_lvs_in_a_plain_loop(own: list[int], below_zero: bool) -> None:
    """Also where a frame is unlike its own sound: masked by -99 as in the released code, that entry would win."""
    scores_NMHW = torch.rand(3, 5, 4, 3) * 1.6 - 0.6
    for i, j in enumerate(own):
        scores_NMHW[i, j] = scores_NMHW[i, j].abs() * (-0.5 if below_zero else 1)
    own_N, knobs = torch.tensor(own), (0.65, 0.4, 0.1, 0.07)
    logits_NL = lvs_logits(scores_NMHW, own_N, knobs[:2], *knobs[2:])
    assert logits_NL.shape == (3, 6)
    found = F.cross_entropy(logits_NL, own_N).item()
    scores = scores_NMHW.double().flatten(2).numpy()
    assert found == pytest.approx(naive_lvs(scores, own, *knobs, trap=False), rel=1e-4)
    trapped = naive_lvs(scores, own, *knobs, trap=True)
    assert (trapped > found + 20) == below_zero


def test_lvs_by_hand() -> None:
    """Two cells at .8 and .2 with edges so sharp that each region is one cell; the other sound scores .5 everywhere."""
    scores_NMHW = torch.tensor([[[[0.8, 0.2]], [[0.5, 0.5]]]])
    logits_NL = lvs_logits(scores_NMHW, torch.tensor([0]), (0.65, 0.4), 1e-3, 0.1)
    torch.testing.assert_close(logits_NL, torch.tensor([[8.0, 5.0, 2.0]]))


@pytest.mark.parametrize("above", [True, False])
def test_a_region_without_cells_is_finite(above: bool) -> None:
    scores_NMHW = torch.full((1, 1, 2, 2), -1.0 if above else 1.0, requires_grad=True)
    mean_NM = region_mean(scores_NMHW, 0.5, 1e-3, above)
    mean_NM.sum().backward()
    assert mean_NM.item() == scores_NMHW[0, 0, 0, 0] and scores_NMHW.grad.isfinite().all()


def test_weights_of_a_region_get_gradient_too() -> None:
    """d/dA of sum(w A) / sum(w), w = sigmoid((A - t) / s), by differences in float64."""
    scores = np.array([0.3, 0.6, 0.7, 0.1])

    def mean(a: np.ndarray) -> float:
        weight = 1 / (1 + np.exp(-(a - 0.5) / 0.1))
        return float((weight * a).sum() / weight.sum())

    slopes = [(mean(scores + 1e-6 * one) - mean(scores - 1e-6 * one)) / 2e-6 for one in np.eye(4)]
    asked = torch.tensor(scores, dtype=torch.float32).view(1, 1, 2, 2).requires_grad_()
    region_mean(asked, 0.5, 0.1).sum().backward()
    np.testing.assert_allclose(asked.grad.flatten(), slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_lvs_from_embeddings_to_the_loss(k: int) -> None:
    method, mixture = make("lvs", k), make_mixture(2, k)
    loss, signs = method(mixture)
    cells, sounds = (x.detach().double().numpy() for x in method.encode(*method.pairs(mixture)))
    scores = cosines(cells, sounds)
    assert scores.min() >= 0 and cells.shape[1] == 32  # the trunk's own channels, out of a ReLU
    expected = naive_lvs(scores, list(range(2 * k)), 0.65, 0.4, 0.03, 0.07, trap=False)
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    own = np.array([scores[i, i] for i in range(2 * k)])
    assert float(signs["sounding_cells"]) == pytest.approx((1 / (1 + np.exp(-(own - 0.65) / 0.03))).mean(), abs=1e-4)
    assert float(signs["silent_cells"]) == pytest.approx((1 / (1 + np.exp((own - 0.4) / 0.03))).mean(), abs=1e-4)


# EZ-VSL


def naive_both_ways(phi: np.ndarray, tau: float) -> tuple[float, float]:
    n = len(phi)
    rows = -sum(math.log(softmax([phi[i, j] / tau for j in range(n)])[i]) for i in range(n)) / n
    columns = -sum(math.log(softmax([phi[i, j] / tau for i in range(n)])[j]) for j in range(n)) / n
    return rows, columns


def test_both_ways_by_hand() -> None:
    """Both frames look like sound 0: half of the frames is wrong, and both sounds are as undecided as can be."""
    rows, columns = symmetric_contrastive_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 0.5)
    assert rows.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)
    assert columns.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("k", [2, 3])
def test_ez_vsl_in_a_plain_loop(k: int) -> None:
    method, mixture = make("ez_vsl", k), make_mixture(2, k)
    loss, signs = method(mixture)
    cells, sounds = (x.detach().double().numpy() for x in method.encode(*method.pairs(mixture)))
    rows, columns = naive_both_ways(cosines(cells, sounds).max(-1), 0.03)
    assert rows != pytest.approx(columns, rel=1e-2)
    assert float(signs["image_to_sound"]) == pytest.approx(rows, rel=1e-3)
    assert float(signs["sound_to_image"]) == pytest.approx(columns, rel=1e-3)
    assert loss.item() == pytest.approx(rows + columns, rel=1e-3)


def test_dropout_keeps_the_mean_and_is_for_training_alone() -> None:
    torch.manual_seed(0)
    cells_NCHW = torch.ones(8, 50, 10, 10)
    left = dropout_across_ranks(cells_NCHW, 0.9)
    assert (left > 0).float().mean().item() == pytest.approx(0.1, abs=0.01) and left.max().item() == pytest.approx(10)
    assert dropout_across_ranks(cells_NCHW, 0.0) is cells_NCHW
    for name in ("ez_vsl", "slavc", "fnac"):
        method, mixture = make(name, image_dropout=0.5), make_mixture(2, 2)
        assert method(mixture)[0] != method(mixture)[0]
        method.eval()
        assert method(mixture)[0] == method(mixture)[0]


# SLAVC


def naive_agreement(cells: np.ndarray, sounds: np.ndarray, tau: float) -> np.ndarray:
    """log sum over cells of (softmax over sounds) x (softmax over cells), from (N, 2, C, H, W) and (M, 2, C)."""
    first, second = (cosines(cells[:, p], sounds[:, p]) / tau for p in range(2))
    n, m, x = first.shape
    answer = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            products = [softmax(first[i, :, at])[j] * softmax(second[i, j])[at] for at in range(x)]
            answer[i, j] = math.log(sum(products))
    return answer


def test_log_agreement_in_a_plain_loop() -> None:
    cells, sounds = F.normalize(torch.randn(3, 2, 8, 2, 3), dim=2), F.normalize(torch.randn(4, 2, 8), dim=2)
    expected = naive_agreement(cells.double().numpy(), sounds.double().numpy(), 0.2)
    np.testing.assert_allclose(log_agreement(cells, sounds, 0.2), expected, rtol=1e-4)


def test_log_agreement_by_hand_where_products_vanish() -> None:
    """Cell 0 goes with sound 0 in projection 1, cell 1 with it in projection 2: at .01 both products are below float32."""
    first, second = torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([[-1.0, 1.0], [0.0, 0.0]])  # C, X
    cells_N2CHW = torch.stack([first, second])[None, :, :, None].requires_grad_()
    sounds_M2C = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]])
    log_NM = log_agreement(cells_N2CHW, sounds_M2C, 0.01)
    torch.testing.assert_close(log_NM, torch.tensor([[math.log(2) - 200, 0.0]]))
    agreement_loss(log_NM, torch.tensor([0])).backward()
    assert cells_N2CHW.grad.isfinite().all()


def test_agreement_is_normalised_over_sounds_once_more() -> None:
    log_NM, own_N = torch.tensor([[0.5, 0.2, 0.1], [0.3, 0.3, 0.9]]).log(), torch.tensor([1, 2])
    assert agreement_loss(log_NM, own_N).item() == pytest.approx(-(math.log(0.2 / 0.8) + math.log(0.9 / 1.5)) / 2)


@pytest.mark.parametrize("k", [2, 3])
def test_slavc_in_a_plain_loop(k: int) -> None:
    """Own cells meet averaged sounds, averaged cells own sounds; averages far from the parameters tell them apart."""
    method, mixture = make("slavc", k, temperature=0.1), make_mixture(2, k)
    for average, _ in method._averages():
        for slow in average.parameters():
            slow.add_(0.2 * torch.randn_like(slow))
    loss, signs = method(mixture)
    frames, sounds = method.pairs(mixture)
    with torch.no_grad():
        fast = (
            method.encode_images(frames, method.image, method.visual),
            method.encode_audio(sounds, method.audio, method.acoustic),
        )
        fast, slow = ([x.double().numpy() for x in each] for each in (fast, method.encode_average(frames, sounds)))
    halves = []
    for cells, heard in ((fast[0], slow[1]), (slow[0], fast[1])):
        log = naive_agreement(cells, heard, 0.1)
        halves.append(-np.mean([math.log(softmax(row)[i]) for i, row in enumerate(log)]))
    assert halves[0] != pytest.approx(halves[1], rel=1e-2)
    assert [float(signs["own_cells"]), float(signs["own_sounds"])] == pytest.approx(halves, rel=1e-3)
    assert loss.item() == pytest.approx(sum(halves), rel=1e-3)


def test_averages_follow_in_training_alone_and_get_no_gradient() -> None:
    method, mixture = make("slavc", momentum=0.75), make_mixture(2, 2)
    pairs = [
        pair
        for average, fast in method._averages()
        for pair in zip(average.parameters(), fast.parameters(), strict=True)
    ]
    assert len(pairs) == sum(p.requires_grad for p in method.parameters()) and all(torch.equal(*pair) for pair in pairs)
    before = [fast.detach().clone() for _, fast in pairs]
    with torch.no_grad():
        for _, fast in pairs:
            fast.add_(1)
    method.eval()(mixture)
    method.predict_heatmaps(make_scenes(2, (32, 32)))
    assert all(torch.equal(slow, old) for (slow, _), old in zip(pairs, before, strict=True))
    method.train()(mixture)[0].backward()
    for (slow, fast), old in zip(pairs, before, strict=True):
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * (old + 1))
        assert slow.grad is None and fast.grad is not None


def test_slavc_draws_its_maps_with_the_averages() -> None:
    method, scenes = make("slavc"), make_scenes(2, (32, 64))
    before = method.predict_heatmaps(scenes).maps_NMHW
    with torch.no_grad():
        for _, fast in method._averages():
            for each in fast.parameters():
                each.add_(1)
        assert torch.equal(method.predict_heatmaps(scenes).maps_NMHW, before)
        cells, sounds = (
            x.double().numpy() for x in method.eval().encode_average(scenes.frames_N3YX / 255, scenes.mixture_NTF)
        )
    for n in range(2):
        first, second = (cosines(cells[n : n + 1, p], sounds[n : n + 1, p])[0, 0] for p in range(2))
        np.testing.assert_allclose(before[n, 0].flatten(), (first + second) / 2, atol=1e-5)


# FNAC


def naive_foreground(cells: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    rows = []
    for cell, score in zip(cells.reshape(*cells.shape[:2], -1), scores.reshape(len(scores), -1), strict=True):
        map_ = (score - score.min()) / (score.max() - score.min())
        rows.append(sum((cell[:, x] for x in range(len(map_)) if map_[x] > threshold), np.zeros(len(cell))) / len(map_))
    return np.array(rows)


def naive_terms(phi: np.ndarray, sounds: np.ndarray, frames: np.ndarray, front: np.ndarray, tau: float) -> list[float]:
    def rows(vectors: np.ndarray) -> np.ndarray:
        return np.array([softmax([a @ b / tau for b in vectors]) for a in vectors])

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        n = len(one)
        return sum(abs(one[i, j] - other[i, j]) for i in range(n) for j in range(n)) / n**2

    scored = np.array([softmax(row / tau) for row in phi])
    return [apart(rows(sounds), scored), apart(rows(sounds), rows(front)), apart(rows(frames), scored)]


def test_foreground_by_hand_and_in_a_plain_loop() -> None:
    cells_NCHW = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]]]])
    front = foreground_mean(cells_NCHW, torch.tensor([[[0.0, 0.5, 0.7, 1.0]]]), 0.6, 0.03)
    assert front.tolist() == [[3.0]]  # (4 + 8) over all four cells
    assert foreground_mean(cells_NCHW, torch.ones(1, 1, 4), 0.6, 0.03).tolist() == [
        [0.0]
    ]  # a flat map has no foreground
    cells_NCHW, scores_NHW = torch.randn(3, 5, 4, 2), torch.randn(3, 4, 2)
    expected = naive_foreground(cells_NCHW.double().numpy(), scores_NHW.double().numpy(), 0.6)
    np.testing.assert_allclose(foreground_mean(cells_NCHW, scores_NHW, 0.6, 0.03), expected, atol=1e-6)


def test_terms_in_a_plain_loop() -> None:
    phi, sounds, frames, front = torch.randn(4, 4), torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 6)
    found = false_negative_terms(phi, sounds, frames, front, 0.7)
    expected = naive_terms(*(x.double().numpy() for x in (phi, sounds, frames, front)), 0.7)
    assert [found[name].item() for name in ("sound_term", "foreground_term", "image_term")] == pytest.approx(
        expected, rel=1e-4
    )
    torch.testing.assert_close(similarity_softmax(sounds, 0.7).sum(1), torch.ones(4))


@pytest.mark.parametrize("k", [2, 3])
def test_fnac_in_a_plain_loop_before_and_after_its_warm_up(k: int) -> None:
    method, mixture = make("fnac", k, temperature=0.1, warm_up_epochs=1), make_mixture(2, k)
    cells, sounds = (x.detach().double().numpy() for x in method.encode(*method.pairs(mixture)))
    scores = cosines(cells, sounds)
    own = np.array([scores[i, i] for i in range(2 * k)])
    front, frames = naive_foreground(cells, own, 0.6), cells.mean((2, 3))
    plain = sum(naive_both_ways(scores.max(-1), 0.1))
    terms = naive_terms(scores.max(-1), sounds, frames, front, 0.1)
    assert method(mixture)[0].item() == pytest.approx(plain, rel=1e-3)
    method.on_epoch_end(1, 2, lambda: iter(()))
    loss, signs = method(mixture)
    assert loss.item() == pytest.approx(plain + 100 * sum(terms), rel=1e-3)
    assert float(signs["contrastive"]) == pytest.approx(plain, rel=1e-3) and signs["loss"] == loss
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())


def test_the_warm_up_is_not_done_again_by_a_resumed_run(tmp_path: Path) -> None:
    method, mixture = make("fnac", warm_up_epochs=2), make_mixture(2, 2)
    losses = [method(mixture)[0].item()]
    for epoch in (1, 2):
        method.on_epoch_end(epoch, 3, lambda: iter(()))
        losses.append(method(mixture)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[2] > losses[1] + 1
    save_file(method.state_dict(), tmp_path / "weights.safetensors")
    other = make("fnac", warm_up_epochs=2)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert other.epochs_done == 2 and other(mixture)[0].item() == pytest.approx(losses[2], rel=1e-5)


# What is refused, and ranks


@pytest.mark.parametrize(
    ("name", "knobs", "sentence"),
    [
        ("lvs", {"softness": 0.0}, "softness=0.0: must be greater than 0"),
        ("lvs", {"temperature": -1.0}, "temperature=-1.0: must be greater than 0"),
        (
            "lvs",
            {"negative_threshold": 0.7},
            "negative_threshold=0.7: must not be above method.positive_threshold=0.65",
        ),
        ("ez_vsl", {"embedding_size": 0}, "embedding_size=0: must be 2 to 4096"),
        ("ez_vsl", {"temperature": 0.0}, "temperature=0.0: must be greater than 0"),
        ("slavc", {"image_dropout": 1.0}, "image_dropout=1.0: must be 0 to 0.99"),
        ("slavc", {"momentum": 1.0}, "momentum=1.0: must be 0 to 0.99999"),
        ("fnac", {"term_weight": -1.0}, "term_weight=-1.0"),
        ("fnac", {"warm_up_epochs": -1}, "warm_up_epochs=-1: must be at least 0"),
        ("fnac", {"foreground_threshold": 1.0}, "foreground_threshold=1.0"),
    ],
)
def test_refuses_in_one_line(name: str, knobs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        make(name, **knobs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "trained"), [("lvs", 1), ("ez_vsl", 2), ("slavc", 1), ("fnac", 4)])
def test_what_is_gathered_gets_its_gradient(name: str, trained: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detached rows would train another loss, on one rank as on two; only the averages of SLAVC are targets."""
    seen: list[torch.Tensor] = []

    def spy(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows * 1)
        if rows.requires_grad:
            seen[-1].retain_grad()
        return seen[-1]

    for module in (name, "base"):
        monkeypatch.setattr(f"raymix.methods.{module}.all_gather_with_grad", spy)
    method = make(name, **({"warm_up_epochs": 0} if name == "fnac" else {}))
    method(make_mixture(4, 2))[0].backward()
    assert sum(rows.grad is not None and bool(rows.grad.abs().sum() > 0) for rows in seen) == trained
    assert len(seen) == trained + (name == "slavc")
