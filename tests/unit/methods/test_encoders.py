"""ResNet-18 must be torchvision's, at another stride; maps and nodes must be unit vectors of the right shape."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raymix.config import EncoderConfig
from raymix.methods.encoders import AudioEncoder, ImageEncoder, ResNetTrunk, load_imagenet_weights


@pytest.fixture(scope="module")
def resnet18():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18()
    for module in net.modules():  # a state that only a complete load reproduces
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


def torchvision_features(net, x: torch.Tensor) -> torch.Tensor:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def test_trunk_at_stride_32_is_torchvisions_resnet18(resnet18):
    trunk = ResNetTrunk(3, EncoderConfig(), stride=32).eval()
    state = {name: value for name, value in resnet18.state_dict().items() if not name.startswith("fc.")}
    trunk.load_state_dict(state)  # strict: names and shapes are torchvision's
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(trunk(x), torchvision_features(resnet18, x), atol=1e-4, rtol=1e-4)


def test_stride_16_sees_the_same_cells_more_densely(resnet18):
    coarse, fine = ResNetTrunk(3, EncoderConfig(), stride=32), ResNetTrunk(3, EncoderConfig())
    fine.load_state_dict(coarse.state_dict())
    x = torch.rand(1, 3, 64, 64)
    assert coarse.eval()(x).shape[-2:] == (2, 2) and fine.eval()(x).shape[-2:] == (4, 4)
    with pytest.raises(ValueError, match="encoder stride 8"):
        ResNetTrunk(3, EncoderConfig(width=8), stride=8)


@pytest.mark.parametrize("size", [(64, 64), (224, 448), (128, 128)])
def test_maps_are_unit_vectors_at_stride_16(size: tuple[int, int]):
    maps = ImageEncoder(EncoderConfig(width=8), 12)(torch.rand(2, 3, *size))
    assert maps.shape == (2, 12, size[0] // 16, size[1] // 16) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, *maps.shape[2:]))


@pytest.mark.parametrize("k", [1, 3])
def test_nodes_are_unit_vectors_of_heads_of_their_own(k: int):
    nodes = AudioEncoder(k, EncoderConfig(width=8), 12)(torch.rand(2, 193, 64))
    assert nodes.shape == (2, k, 12)
    torch.testing.assert_close(nodes.norm(dim=-1), torch.ones(2, k))
    if k > 1:
        assert not torch.allclose(nodes[:, 0], nodes[:, 1])


def test_output_is_float32_and_unit_under_bfloat16():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = ImageEncoder(EncoderConfig(width=8), 12)(torch.rand(2, 3, 32, 32))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, 2, 2))


def test_channels_last_changes_nothing():
    encoder = ImageEncoder(EncoderConfig(width=8), 12).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        plain = encoder(x)
        last = encoder.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_channels_last_reaches_every_convolution(half: bool):
    """Mixtures come with channels first; an encoder whose weights are channels last must not convert at each layer."""
    image, audio = ImageEncoder(EncoderConfig(width=8), 12), AudioEncoder(2, EncoderConfig(width=8), 12)
    seen: list[bool] = []
    for module in [
        *image.to(memory_format=torch.channels_last).modules(),
        *audio.to(memory_format=torch.channels_last).modules(),
    ]:
        if isinstance(module, torch.nn.Conv2d) and module not in (image.head[0], audio.trunk.conv1):
            # (not the cells after the first, which are a view; not the sound, whose one channel is both first and last)
            module.register_forward_pre_hook(
                lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
            )
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        image(torch.rand(2, 2, 3, 64, 64).flatten(0, 1)), audio(torch.rand(2, 193, 64))
    assert len(seen) > 30 and all(seen)


def test_paper_size_has_the_paper_parameters():
    count = sum(p.numel() for p in ImageEncoder(EncoderConfig(), 128).trunk.parameters())
    assert count == 11_689_512 - 513_000  # torchvision's resnet18 without its classifier


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_imagenet_weights_load_from_a_local_file(tmp_path: Path, resnet18, ending: str):
    path = str(tmp_path / f"resnet18{ending}")
    if ending == ".pth":
        torch.save(resnet18.state_dict(), path)
    else:
        save_file(resnet18.state_dict(), path)
    encoder = ImageEncoder(EncoderConfig(weights=path), 128)
    torch.testing.assert_close(encoder.trunk.layer4[1].conv2.weight, resnet18.layer4[1].conv2.weight)
    torch.testing.assert_close(encoder.trunk.bn1.running_var, resnet18.bn1.running_var)


def test_weights_are_refused_in_one_line(tmp_path: Path, resnet18):
    path = tmp_path / "resnet18.pth"
    torch.save(resnet18.state_dict(), path)
    with pytest.raises(ValueError, match=r"ImageNet weights need encoder.width=64, it is 16"):
        ImageEncoder(EncoderConfig(width=16, weights=str(path)), 128)
    with pytest.raises(ValueError, match="no such file"):
        ImageEncoder(EncoderConfig(weights=str(tmp_path / "missing.pth")), 128)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name in ("other.pth", "junk.safetensors"):
        with pytest.raises(ValueError, match="not a ResNet-18 state dict") as caught:
            load_imagenet_weights(ResNetTrunk(3, EncoderConfig()), str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_encoders_do_not_import_torchvision():
    code = "import sys, raymix.methods.encoders; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_cell_looks_at_the_pixels_that_upsampling_gives_it():
    """The centroid of what a cell depends on lies at 16 i + 8, to a pixel: else every map is half a cell off."""
    torch.manual_seed(0)
    encoder = ImageEncoder(EncoderConfig(width=8, blocks=1, stages=3), 4).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.abs()  # no cancelling: the gradient is the field of view
    frame_13YX = torch.rand(1, 3, 224, 224, requires_grad=True)
    trunk = encoder.trunk(torch.nn.functional.pad(frame_13YX, (8, 8, 8, 8)))[..., 1:, 1:]
    trunk[0, :, 6, 7].sum().backward()
    weight_YX = frame_13YX.grad[0].abs().sum(0)
    at = torch.arange(224.0)
    centre_Y = (weight_YX.sum(1) * at).sum() / weight_YX.sum()
    centre_X = (weight_YX.sum(0) * at).sum() / weight_YX.sum()
    assert abs(centre_Y - (16 * 6 + 7.5)) < 1.5 and abs(centre_X - (16 * 7 + 7.5)) < 1.5
    assert encoder(frame_13YX).shape == (1, 4, 14, 14)
