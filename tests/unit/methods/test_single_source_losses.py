"""Systems of pairs: each loss against a plain loop in float64 or numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raymix.data.batches import MixtureBatch
from raymix.methods import METHODS, build_method
from raymix.methods.attention import attention_pool
from raymix.methods.base import COSINE_SCALE, bce_loss, contrastive_loss
from raymix.methods.dmc import DEPTH, euclidean_distances, soft_kmeans
from raymix.methods.ots import infonce_loss
from raymix.runtime.distributed import next_rows_as_negatives
from tests.conformance.test_method_contract import SMALL, make_mixture, make_scenes, sizes

# What lets negatives count in an untrained network.
WIDE: dict[str, dict[str, float]] = {"attention": {"margin": 60.0}, "dmc": {"margin": 60.0, "sharpness": 3.0}}


def make(name: str, k: int = 2, **knobs: Any):
    torch.manual_seed(0)
    return build_method(name, k, SMALL, sizes(name) | knobs)


def take(mixture: MixtureBatch, part: slice) -> MixtureBatch:
    return mixture._each(lambda tensor: tensor[part])


# Objects that Sound


def test_bce_is_the_cross_entropy_of_a_plain_loop() -> None:
    own_N, other_N = 6 * torch.randn(7), 6 * torch.randn(7)
    total = 0.0
    for own, other in zip(own_N.double().tolist(), other_N.double().tolist(), strict=True):
        total -= math.log(1 / (1 + math.exp(-own))) + math.log(1 - 1 / (1 + math.exp(-other)))
    assert bce_loss(own_N, other_N).item() == pytest.approx(total / 14, rel=1e-5)
    far = torch.tensor([-300.0], requires_grad=True)  # where the logarithm of a sigmoid is infinite
    loss = bce_loss(far, -far)
    loss.backward()
    assert loss.item() == 300 and far.grad.item() == -1


def test_infonce_is_over_the_sounds_of_each_frame() -> None:
    phi_NM, own_N = torch.randn(3, 5), torch.tensor([1, 2, 3])
    total = 0.0
    for i, row in enumerate(phi_NM.double().tolist()):
        total -= math.log(math.exp(row[own_N[i]] / 0.2) / sum(math.exp(each / 0.2) for each in row))
    assert infonce_loss(phi_NM, own_N, 0.2).item() == pytest.approx(total / 3, rel=1e-5)


@pytest.mark.parametrize(("name", "k"), [("ots", 2), ("ots", 3), ("ots_mix", 2), ("ots_mix", 3)])
@pytest.mark.parametrize("kind", ["bce", "infonce"])
def test_ots_in_a_plain_loop(name: str, k: int, kind: str) -> None:
    """From embeddings to the loss: the next sound in a circle is the negative, and its best cell counts."""
    method, mixture = make(name, k, loss=kind), make_mixture(3, k)
    loss, _ = method(mixture)
    cells, sounds = (x.detach().double().numpy() for x in method.encode(*method.pairs(mixture)))
    n = 3 * k if name == "ots" else 3
    assert len(cells) == len(sounds) == n and cells.shape[-1] == (2 if name == "ots" else 2 * k)
    phi = np.array(
        [
            [max(cells[i, :, y, x] @ sounds[j] for y, x in np.ndindex(cells.shape[2:])) for j in range(n)]
            for i in range(n)
        ]
    )
    if kind == "bce":
        p = 1 / (1 + np.exp(-5 * phi))
        expected = -sum(math.log(p[i, i]) + math.log(1 - p[i, (i + 1) % n]) for i in range(n)) / (2 * n)
    else:
        odds = np.exp(phi / 0.07)
        expected = -sum(math.log(odds[i, i] / odds[i].sum()) for i in range(n)) / n
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_ots_learns_its_scale_only_where_it_has_one() -> None:
    assert make("ots").scale.item() == COSINE_SCALE == 5 and make("ots", loss="infonce").scale is None
    maps = make("ots").predict_heatmaps(make_scenes(2, (32, 64))).maps_NMHW
    assert maps.shape == (2, 1, 2, 4) and maps.min() > 1 / (1 + math.exp(5)) and maps.max() < 1 / (1 + math.exp(-5))
    with pytest.raises(ValueError, match="loss=bec: must be one of bce, infonce"):
        make("ots", loss="bec")


def test_ots_mix_sees_frames_side_by_side_and_needs_no_single_sounds() -> None:
    mixture = make_mixture(2, 3)
    frames_N3YX, sounds_NTF = make("ots_mix", 3).pairs(mixture)
    for place in range(3):
        assert torch.equal(frames_N3YX[..., 32 * place : 32 * (place + 1)], mixture.frames_BK3YX[:, place])
    assert torch.equal(sounds_NTF, mixture.mixture_BTF)
    plain = MixtureBatch(mixture.frames_BK3YX, mixture.mixture_BTF, mixture.shifted_BTF)
    make("ots_mix", 3)(plain)
    with pytest.raises(ValueError, match="ObjectsThatSound needs the single sounds"):
        make("ots", 3)(plain)
    with pytest.raises(ValueError, match="a batch of one over all workers has no negatives"):
        make("ots_mix", 3)(take(plain, slice(1)))


@pytest.mark.parametrize("name", ["ots", "ots_mix", "attention", "dmc", "dsol"])  # Objects that Sound by bce
def test_a_negative_gets_its_gradient_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detached negatives would train another loss on any number of ranks."""
    room = "ots" if name == "ots_mix" else name
    seen: list[torch.Tensor] = []

    def spy(rows: torch.Tensor) -> torch.Tensor:
        seen.append(next_rows_as_negatives(rows))
        seen[-1].retain_grad()
        return seen[-1]

    monkeypatch.setattr(f"raymix.methods.{room}.next_rows_as_negatives", spy)
    make(name, **WIDE.get(name, {}))(make_mixture(4, 2))[0].backward()
    assert len(seen) == 1 and seen[0].grad.abs().sum() > 0
    rows = torch.randn(3, 2, requires_grad=True)
    (next_rows_as_negatives(rows) * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
    assert rows.grad[:, 0].tolist() == [3, 1, 2]


# Maps of all systems that have one


COSINE = [1.0, 0.0, -1.0, 0.6]
SIGMOID = [1 / (1 + math.exp(-2 * cosine)) for cosine in COSINE]  # at a scale of 2
SHARE = [math.exp(cosine) / sum(map(math.exp, COSINE)) for cosine in COSINE]
MEAN = [0.9, 0.1, -0.9, 0.7]  # of that cosine and of another projection's .8, .2, -.8, .8
ONE_MAP: dict[str, tuple[str, dict[str, Any], list[float]]] = {
    "ots": ("ots", {}, SIGMOID),
    "ots, infonce": ("ots", {"loss": "infonce"}, COSINE),
    "ots_mix": ("ots_mix", {}, SIGMOID),
    "ots_mix, infonce": ("ots_mix", {"loss": "infonce"}, COSINE),
    "dsol": ("dsol", {}, SIGMOID),
    "attention": ("attention", {}, SHARE),
    "slavc": ("slavc", {}, MEAN),
    "lvs": ("lvs", {}, COSINE),
    "ez_vsl": ("ez_vsl", {}, COSINE),
    "fnac": ("fnac", {}, COSINE),
}


def pretend(method: Any, cells_NCHW: Any, sounds_NC: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Embeddings in place of a system's networks', whatever it calls them; and the frames and sounds they were asked about."""
    asked: list[Any] = []

    def answer(*given: Any) -> Any:
        return lambda *pictures: asked.extend(pictures) or (given if len(given) > 1 else given[0])

    if hasattr(method, "encode_average"):  # both projections
        second_NCHW = torch.tensor([0.8, 0.2, -0.8, 0.8]).view(1, 1, 2, 2) * sounds_NC[:, :, None, None]
        two = torch.stack([cells_NCHW, second_NCHW], 1), torch.stack([sounds_NC, sounds_NC], 1)
        monkeypatch.setattr(method, "encode_average", answer(*two))
    elif hasattr(method, "look_and_listen"):  # which also gives what is neither projected nor of unit length
        monkeypatch.setattr(method, "look_and_listen", answer(9 * cells_NCHW, -sounds_NC, cells_NCHW, sounds_NC))
    elif hasattr(method, "ask"):  # cells are compared with what is made of the pooled sound
        monkeypatch.setattr(method.image, "forward", answer(cells_NCHW))
        monkeypatch.setattr(method, "encode_audio", answer(-sounds_NC))
        monkeypatch.setattr(method, "ask", lambda pooled_NC: -pooled_NC)
    else:
        monkeypatch.setattr(method, "encode", answer(cells_NCHW, sounds_NC))
    return asked


@pytest.mark.parametrize("label", ONE_MAP)
def test_what_a_cell_of_the_map_says(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that are the sound, have nothing of it, are its opposite, and are like it by .6: each has the value it should."""
    name, knobs, expected = ONE_MAP[label]
    method, scenes = make(name, **knobs), make_scenes(2, (32, 32))
    sounds_NC = F.normalize(torch.randn(2, 16), dim=1)
    across_NC = F.normalize(torch.randn(2, 16), dim=1)
    across_NC = F.normalize(across_NC - (across_NC * sounds_NC).sum(1, keepdim=True) * sounds_NC, dim=1)
    parts = (sounds_NC, across_NC, -sounds_NC, 0.6 * sounds_NC + 0.8 * across_NC)
    asked = pretend(method, torch.stack(parts, -1).unflatten(-1, (2, 2)), sounds_NC, monkeypatch)
    if getattr(method, "scale", None) is not None:
        method.scale.data.fill_(2.0)
    maps = method.predict_heatmaps(scenes)
    assert maps.classes is None and maps.maps_NMHW.shape == (2, 1, 2, 2)
    for map_X in maps.maps_NMHW.flatten(1):
        assert map_X.tolist() == pytest.approx(expected, abs=1e-5)
    frames_N3YX, sounds_NTF = asked
    assert torch.equal(frames_N3YX, scenes.frames_N3YX / 255) and torch.equal(sounds_NTF, scenes.mixture_NTF)


def test_systems_with_one_map_are_all_here() -> None:
    scenes = make_scenes(1, (32, 32))
    one = {name for name in METHODS if make(name).predict_heatmaps(scenes).maps_NMHW.shape[1] == 1}
    assert one == {name for name, _, _ in ONE_MAP.values()}


# Attention


def test_attention_by_hand() -> None:
    """Two cells, (1, 0) and (0, 1), and a sound at (.6, .8)."""
    cells_NCHW, query_NC = torch.eye(2).view(1, 2, 1, 2), torch.tensor([[0.6, 0.8]])
    weight_NHW, z_NC = attention_pool(cells_NCHW, query_NC)
    first = math.exp(0.6) / (math.exp(0.6) + math.exp(0.8))
    torch.testing.assert_close(weight_NHW, torch.tensor([[[first, 1 - first]]]))
    torch.testing.assert_close(z_NC, torch.tensor([[first, 1 - first]]))


def test_contrastive_loss_by_hand() -> None:
    own_N, other_N = torch.tensor([4.0, 9.0]), torch.tensor([36.0, 144.0])  # squares: distances 2, 3 and 6, 12
    assert contrastive_loss(own_N, other_N, 10.0).item() == pytest.approx((2 + 4.5 + 8 + 0) / 4)
    at_once = torch.zeros(2, requires_grad=True)
    contrastive_loss(at_once, at_once, 10.0).backward()
    assert at_once.grad.isfinite().all()


@pytest.mark.parametrize("k", [2, 3])
def test_attention_in_a_plain_loop(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sound that asks is the sound that answers, un-normalised; the negative is the next sound's.

    Cells and sounds are drawn, since those of an untrained network are too alike for it to matter which one asks.
    """
    method, n, total = make("attention", k, margin=60.0), 2 * k, 0.0
    cells_NCHW, pooled_NC = F.normalize(torch.randn(n, 32, 2, 2), dim=1), 3 * torch.rand(n, 32)
    with torch.no_grad():
        for each in method.answer[::2]:
            each.weight.mul_(20)
    monkeypatch.setattr(method.image, "forward", lambda frames_N3YX: cells_NCHW)
    monkeypatch.setattr(method, "encode_audio", lambda sounds_NTF: pooled_NC)
    loss, signs = method(make_mixture(2, k))
    cells = cells_NCHW.double().flatten(2).numpy()
    for i in range(n):
        for j, together in ((i, True), ((i + 1) % n, False)):
            query = F.normalize(method.query(pooled_NC[j]), dim=0).detach().double().numpy()
            odds = [math.exp(cells[i, :, x] @ query) for x in range(cells.shape[2])]
            z = sum(odd / sum(odds) * cells[i, :, x] for x, odd in enumerate(odds))
            answer = method.answer(torch.from_numpy(z).float()).detach()
            distance = math.dist(answer.tolist(), pooled_NC[j].tolist())
            total += 0.5 * (distance**2 if together else max(0, 60 - distance) ** 2)
    assert loss.item() == pytest.approx(total / (2 * n), rel=1e-4)
    assert 1 < signs["own_distance"] < 60 and 1 < signs["other_distance"] < 60


def test_attention_maps_are_weights() -> None:
    maps_NMHW = make("attention").predict_heatmaps(make_scenes(2, (64, 32))).maps_NMHW
    torch.testing.assert_close(maps_NMHW.sum((2, 3)), torch.ones(2, 1))
    assert (maps_NMHW.amax((2, 3)) <= math.e**2 * maps_NMHW.amin((2, 3))).all()


# DMC


def naive_kmeans(points_XC: np.ndarray, clusters: int, iterations: int, sharpness: float) -> Any:
    count = len(points_XC)
    centres = [points_XC[place * count // clusters] for place in range(clusters)]
    for _ in range(iterations):
        assigned = np.zeros((clusters, count))
        for x in range(count):
            away = [math.sqrt(max(((o - points_XC[x]) ** 2).sum(), 1e-10)) for o in centres]
            odds = [math.exp(-sharpness * (each - min(away))) for each in away]
            assigned[:, x] = np.array(odds) / sum(odds)
        centres = [sum(a * u for a, u in zip(row, points_XC, strict=True)) / row.sum() for row in assigned]
    return np.array(centres), assigned


@pytest.mark.parametrize("clusters", [1, 2, 3])
@pytest.mark.parametrize("far", [0.0, 100.0])
def test_soft_kmeans_in_a_plain_loop(clusters: int, far: float) -> None:
    """Also where all points lie far out: there float32 has few digits for squared norms."""
    points_NXC = torch.randn(2, 7, 4, dtype=torch.float64) / 4 + far
    points_NXC = points_NXC.float().double()
    centres_NKC, assigned_NKX = soft_kmeans(points_NXC.float(), clusters, 4, 30.0)
    for n in range(2):
        centres, assigned = naive_kmeans(points_NXC[n].numpy(), clusters, 4, 30.0)
        np.testing.assert_allclose(centres_NKC[n], centres, atol=2e-3)
        np.testing.assert_allclose(assigned_NKX[n], assigned, atol=2e-2)
    torch.testing.assert_close(assigned_NKX.sum(1), torch.ones(2, 7))


def test_points_that_are_one_give_finite_gradients() -> None:
    points_NXC = torch.ones(2, 6, 3, requires_grad=True)
    centres_NKC, assigned_NKX = soft_kmeans(points_NXC, 3, 4, 30.0)
    torch.testing.assert_close(assigned_NKX, torch.full((2, 3, 6), 1 / 3))
    away_NKX = euclidean_distances(centres_NKC, points_NXC)
    torch.testing.assert_close(away_NKX, torch.full((2, 3, 6), 1e-5))  # the clamp of its square is 1e-10
    away_NKX.sum().backward()
    assert points_NXC.grad.isfinite().all()


def test_a_centre_without_points_stays_finite() -> None:
    points_NXC = torch.tensor([[[0.0], [0.0], [1e4], [1e4 + 1]]], requires_grad=True)
    centres_NKC, assigned_NKX = soft_kmeans(points_NXC, 4, 4, 1000.0)
    (centres_NKC.sum() + assigned_NKX.square().sum()).backward()
    assert centres_NKC.isfinite().all() and points_NXC.grad.isfinite().all()


@pytest.mark.parametrize("k", [2, 3])
def test_dmc_in_a_plain_loop(k: int) -> None:
    method, mixture = make("dmc", k, margin=60.0, sharpness=3.0), make_mixture(2, k)
    loss, _ = method(mixture)
    _, seen_NVC, heard_NAC, _ = (each.detach().double().numpy() for each in method.group(*method.pairs(mixture)))
    n, total = 2 * k, 0.0
    assert seen_NVC.shape[1] == 4 and heard_NAC.shape[1] == 2
    for i in range(n):
        for j, together in ((i, True), ((i + 1) % n, False)):
            near = [min(math.dist(o, group) for o in seen_NVC[i]) for group in heard_NAC[j]]
            distance = math.hypot(*near)
            total += 0.5 * (distance**2 if together else max(0, 60 - distance) ** 2)
    assert loss.item() == pytest.approx(total / (2 * n), rel=1e-3)


def test_dmc_maps_are_those_of_the_nearest_group() -> None:
    method, scenes = make("dmc", visual_clusters=3, sharpness=3.0).eval(), make_scenes(2, (64, 64))
    maps_NMHW = method.predict_heatmaps(scenes).maps_NMHW
    with torch.no_grad():
        cells_NXC, seen_NVC, heard_NAC, assigned_NVHW = method.group(scenes.frames_N3YX / 255, scenes.mixture_NTF)
    assert maps_NMHW.shape == (2, 2, 4, 4)
    for n in range(2):
        for place in range(2):
            away = [math.dist(o.tolist(), heard_NAC[n, place].tolist()) for o in seen_NVC[n]]
            near = [DEPTH / (1 + math.dist(u.tolist(), heard_NAC[n, place].tolist())) for u in cells_NXC[n]]
            expected_HW = assigned_NVHW[n, int(np.argmin(away))] + torch.tensor(near).view(4, 4)
            torch.testing.assert_close(maps_NMHW[n, place], expected_HW)


def test_a_dmc_map_of_whole_cells_has_a_peak() -> None:
    maps_NMHW = make("dmc", sharpness=1e6).eval().predict_heatmaps(make_scenes(2, (64, 64))).maps_NMHW
    for map_X in maps_NMHW.flatten(2).flatten(0, 1):
        best = map_X[map_X >= 1]
        assert len(best) > 1 and best.max() < 1 + DEPTH and (best == best.max()).sum() == 1


@pytest.mark.parametrize(
    ("name", "knobs", "sentence"),
    [
        ("ots", {"temperature": 0.0}, "temperature=0.0: must be greater than 0"),
        ("ots", {"embedding_size": 0}, "embedding_size=0: must be 2 to 4096"),
        ("attention", {"margin": 0.0}, "margin=0.0: must be greater than 0"),
        ("dmc", {"visual_clusters": 1}, "visual_clusters=1: must be 2 to 64"),
        ("dmc", {"audio_clusters": 0}, "audio_clusters=0: must be 1 to 64"),
        ("dmc", {"sharpness": -1.0}, "sharpness=-1.0"),
    ],
)
def test_refuses_in_one_line(name: str, knobs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(name, **knobs)
