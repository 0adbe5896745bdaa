"""The contract that every method keeps: shapes for any k, gradients everywhere, finite in bfloat16, and it learns."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raymix.config import METHOD_CONFIGS
from raymix.data.batches import MixtureBatch, SceneBatch
from raymix.methods import METHODS, build_method
from raymix.methods.sound_of_pixels import SoundOfPixels, binary_masks, mask_loss

SMALL = {"width": 4, "image_size": 32}
FEW = {"embedding_size": 16, "image_dropout": 0.0}
# Parameters of a later stage: plain DDP needs a gradient of them at the first step, and it is 0.
LATER = {"dsol": {"slope", "offset", "seen.weight", "seen.bias", "heard.weight", "heard.bias"}}


def small(name: str, k: int = 2):
    torch.manual_seed(0)
    return build_method(name, k, SMALL, sizes(name))


def sizes(name: str) -> dict[str, float]:
    """A small embedding, and no dropout of so few channels (0.9 would leave 3 of 32), where the method has them at all."""
    return {knob: value for knob, value in FEW.items() if hasattr(METHOD_CONFIGS[name], knob)}


def make_mixture(groups: int, k: int, size: int = 32, frames: int = 65) -> MixtureBatch:
    """Clips that can be told apart by colour and by pitch."""
    rng = torch.Generator().manual_seed(1)
    colour = torch.rand(groups, k, 3, 1, 1, generator=rng)
    pictures = (colour + 0.1 * torch.rand(groups, k, 3, size, size, generator=rng)).clamp(0, 1)
    sounds = 0.05 * torch.randn(2, groups, k, frames, 81, dtype=torch.complex64, generator=rng)
    for g in range(groups):
        for n in range(k):
            sounds[:, g, n, :, 5 + int(60 * colour[g, n, 0, 0, 0])] += 4
    more = (colour[:, :, None] + 0.1 * torch.rand(groups, k, 2, 3, size, size, generator=rng)).clamp(0, 1)
    return MixtureBatch(pictures, sounds[0].sum(1), sounds[1].sum(1), sounds[0], more)


def make_scenes(count: int, size: tuple[int, int]) -> SceneBatch:
    rng = torch.Generator().manual_seed(2)
    return SceneBatch(
        layout="single",
        ids=[f"s{n}" for n in range(count)],
        videos=[(f"v{n}",) for n in range(count)],
        frames_N3YX=torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=rng),
        mixture_NTF=torch.randn(count, 193, 81, dtype=torch.complex64, generator=rng),
        panels_NS=torch.zeros(count, 1, dtype=torch.int64),
        rects_P4=torch.tensor([[0, 0, size[1], size[0]]]),
        masks_NSYX=None,
        has_truth_N=None,
        hash="",
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_loss_and_maps_for_any_k(name: str, k: int):
    method = small(name, k)
    loss, diagnostics = method(make_mixture(3, k))
    assert loss.shape == () and loss.isfinite() and loss.requires_grad
    assert diagnostics["loss"] == loss
    assert all(value.shape == () and value.isfinite() and not value.requires_grad for value in diagnostics.values())
    maps = method.predict_heatmaps(make_scenes(2, (64, 64)))
    assert maps.maps_NMHW.shape[0] == 2 and maps.maps_NMHW.shape[2:] == (4, 4)
    assert maps.maps_NMHW.dtype == torch.float32 and maps.maps_NMHW.isfinite().all()
    assert maps.classes is None or len(maps.classes) == maps.maps_NMHW.shape[1]


# What the softmax of a system's loss is given, or what its cosine is multiplied by; the others have neither.
TEMPERED = ("cycle", "isi", "corre", "lvs", "ez_vsl", "slavc", "fnac")
IN_USE = {name: (name, {"temperature": 0.21}, "temperature") for name in TEMPERED}
IN_USE |= {name: (name, {}, "scale") for name in ("ots", "ots_mix", "dsol")}
IN_USE |= {
    f"{name}, infonce": (name, {"temperature": 0.21, "loss": "infonce"}, "temperature") for name in ("ots", "ots_mix")
}
IN_USE |= {name: (name, {}, "") for name in ("attention", "dmc", "permute", "sound_of_pixels")}


@pytest.mark.parametrize("label", IN_USE)
def test_signs_of_collapse_and_the_temperature_in_use_are_told(label: str):
    assert {name for name, _, _ in IN_USE.values()} == set(METHODS)
    name, knobs, told = IN_USE[label]
    torch.manual_seed(0)
    method = build_method(name, 2, SMALL, sizes(name) | knobs)
    if told == "scale":
        method.scale.data.fill_(0.21)
    _, diagnostics = method(make_mixture(3, 2))
    assert all(0 <= float(diagnostics[spread]) <= 1 for spread in ("image_spread", "sound_spread"))
    assert {knob for knob in ("temperature", "scale") if knob in diagnostics} == ({told} if told else set())
    assert not told or float(diagnostics[told]) == pytest.approx(0.21)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_parameter(name: str):
    method = small(name)
    method(make_mixture(4, 2))[0].backward()
    trained = {p: value.grad for p, value in method.named_parameters() if value.requires_grad}
    assert not [
        p for p, gradient in trained.items() if gradient is None
    ]  # plain DistributedDataParallel needs them all
    still = {p for p, gradient in trained.items() if not gradient.abs().sum() > 0}
    assert still == LATER.get(name, set())


@pytest.mark.parametrize("name", METHODS)
def test_finite_under_bfloat16(name: str):
    method = small(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = method(make_mixture(4, 2))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
    plain, _ = method(make_mixture(4, 2))
    # A rounded cosine is divided by the temperature: the paper's .07 is the measure.
    assert abs(loss.item() - plain.item()) < 0.2 * max(1.0, 0.07 / getattr(method, "temperature", 0.07))


@pytest.mark.parametrize("name", METHODS)
def test_silence_is_no_accident(name: str):
    method, mixture = small(name), make_mixture(4, 2)
    quiet = torch.zeros_like(mixture.mixture_BTF)
    more, sources = mixture.more_BKF3YX, torch.zeros_like(mixture.sources_BKTF)
    loss, _ = method(MixtureBatch(mixture.frames_BK3YX, quiet, quiet, sources, more))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", METHODS)
def test_saved_weights_give_the_same_maps(name: str, tmp_path: Path):
    method, scenes = small(name), make_scenes(2, (32, 64))
    method(make_mixture(4, 2))  # moves the BatchNorm statistics, which must be saved too
    save_file(method.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(7)
    other = build_method(name, 2, SMALL, sizes(name))
    assert not torch.equal(other.predict_heatmaps(scenes).maps_NMHW, method.predict_heatmaps(scenes).maps_NMHW)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other.predict_heatmaps(scenes).maps_NMHW, method.predict_heatmaps(scenes).maps_NMHW)


def bound(method: torch.nn.Module, mixture: MixtureBatch) -> float:
    """How low the loss can go on these mixtures: 0, but where it must tell noise from noise.

    They are steady tones in noise, so the best that Sound of Pixels can know is how often each frequency is whose.
    """
    if not isinstance(method, SoundOfPixels):
        return 0.0
    mixed_BTF = method.spectrogram(mixture.mixture_BTF)
    sources_BKTF = method.spectrogram(mixture.sources_BKTF.flatten(0, 1)).unflatten(0, mixture.sources_BKTF.shape[:2])
    masks_BKTF, weight_B1TF = binary_masks(sources_BKTF, mixed_BTF), mixed_BTF.log1p().clamp(1e-3, 10)[:, None]
    share_BK1F = (masks_BKTF * weight_B1TF).sum(2, keepdim=True) / weight_B1TF.sum(2, keepdim=True)
    return mask_loss(torch.logit(share_BK1F, eps=1e-6).expand_as(masks_BKTF), masks_BKTF, mixed_BTF).item()


@pytest.mark.parametrize("name", METHODS)
def test_loss_falls_on_eight_fixed_mixtures(name: str):
    method, mixture = small(name), make_mixture(8, 2)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = method(mixture)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    lowest = bound(method, mixture)
    assert np.mean(losses[-5:]) - lowest < 0.6 * (np.mean(losses[:2]) - lowest)


@pytest.mark.parametrize("name", METHODS)
def test_paper_canvas_gives_14_by_28_cells(name: str):
    maps = small(name).predict_heatmaps(make_scenes(1, (224, 448))).maps_NMHW
    assert maps.shape[2:] == (14, 28)


@pytest.mark.parametrize("name", METHODS)
def test_localise_is_in_evaluation_mode_and_leaves_no_trace(name: str):
    method, scenes = small(name), make_scenes(4, (32, 32))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.train()
    alone = torch.cat([method.predict_heatmaps(part).maps_NMHW for part in scenes.batches(1)])
    torch.testing.assert_close(alone, method.predict_heatmaps(scenes).maps_NMHW, atol=1e-5, rtol=1e-4)
    assert method.training and not alone.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_cycle_starts_near_chance_and_tells_of_its_walk():
    loss, diagnostics = small("cycle")(make_mixture(6, 2))
    assert 0.3 < loss.item() < 1.2  # log 2 is chance
    assert 0 < float(diagnostics["return_probability"]) <= 1 and 0 <= float(diagnostics["permutation"]) <= 1
    assert 0 <= float(diagnostics["image_spread"]) <= 1 and 0 <= float(diagnostics["sound_spread"]) <= 1


def test_cycle_refuses_groups_of_another_size():
    with pytest.raises(ValueError, match=r"mixture.k=3: this model has 2 nodes"):
        small("cycle", 2)(make_mixture(2, 3))


@pytest.mark.parametrize(
    ("name", "encoder", "knobs", "sentence"),
    [
        ("cylce", {}, {}, r"method=cylce: unknown \(did you mean cycle\?\)"),
        ("cycle", {}, {"temprature": 1.0}, r"method.temprature: .* \(did you mean temperature\?\)"),
        ("cycle", {"widht": 8}, {}, r"encoder.widht: .* \(did you mean width\?\)"),
        ("cycle", {"width": 8}, {"width": 8}, r"method.width: cycle has no such setting"),
        ("cycle", {"width": 8}, {"pool": "mex"}, r"pool=mex: must be one of max, lse"),
        ("cycle", {"width": 8}, {"temperature": 0.0}, r"temperature=0.0"),
        ("cycle", {"width": 8}, {"embedding_size": 0}, r"embedding_size=0: must be 2 to 4096"),
        ("cycle", {"width": 8, "weights": "nowhere.pth"}, {}, r"need encoder.width=64"),
    ],
)
def test_build_refuses_in_one_line(name: str, encoder: dict, knobs: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as caught:
        build_method(name, 2, encoder, knobs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_no_number_of_the_config_is_in_the_state(name: str):
    """Population-based training loads another trial's state: a number that lay in it would replace the trial's own."""
    numbers = {k: value for k, value in asdict(METHOD_CONFIGS[name]()).items() if isinstance(value, float)}
    states = []
    for factor in (1.0, 0.5):
        torch.manual_seed(0)
        method = build_method(name, 2, SMALL, sizes(name) | {k: factor * default for k, default in numbers.items()})
        states.append(method.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    theirs = {k: v for k, v in vars(method).items() if isinstance(v, float)} | asdict(method.config)
    method.load_state_dict(states[0])
    assert {k: v for k, v in vars(method).items() if isinstance(v, float)} | asdict(method.config) == theirs


def test_every_method_takes_the_settings_of_its_own_dataclass():
    assert list(METHODS) == list(METHOD_CONFIGS)
    for name, method in METHODS.items():
        assert get_type_hints(method)["config"] is METHOD_CONFIGS[name]
