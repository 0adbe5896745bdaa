"""Image and audio encoders of section 4.1: ResNet-18 trunks, a map of cells at stride 16, and k nodes of one sound.

The residual trunk is written out here (importing torchvision's costs seconds in every process), with torchvision's
parameter names, so its ImageNet state dict loads as it is. There is no classifier and no second stem: every parameter
gets a gradient.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import EncoderConfig

STRIDE = 16

FULL_WIDTH = 64  # channels of the first stage in ResNet-18

IMAGENET_MEAN = (0.485, 0.456, 0.406)

IMAGENET_STD = (0.229, 0.224, 0.225)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, the block of ResNet-18)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut, inplace=True)


class ResNetTrunk(nn.Module):
    """ResNet-18 up to its last feature map at stride 16 (the paper's) or 32 (ImageNet's).

    Two blocks in each of four stages are ResNet-18. Fewer make a smaller network for smaller frames: a cell of ResNet-18
    sees 435 pixels, so at 64 pixels every cell sees the whole frame and its map says little about where. One block in
    each of three stages sees 99.
    """

    def __init__(self, channels_in: int, config: EncoderConfig, stride: int = STRIDE) -> None:
        super().__init__()
        if stride not in (16, 32):
            raise ValueError(f"encoder stride {stride}: must be 16 or 32")
        width, blocks, stages = config.width, config.blocks, config.stages
        self.conv1 = nn.Conv2d(channels_in, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1, blocks)
        self.layer2 = _stage(width, 2 * width, 2, blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks)
        self.layer4 = _stage(4 * width, 8 * width, stride // 16, blocks) if stages == 4 else nn.Identity()
        self.channels = 2 ** (stages - 1) * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


def _stage(channels_in: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(ResidualBlock(channels, channels, 1) for _ in range(blocks - 1)))


class ImageEncoder(nn.Module):
    """Frames in [0, 1] of any size (N, 3, Y, X) -> unit embeddings of every cell (N, C, Y/16, X/16), float32.

    Section 4.1: ResNet-18 at stride 16, a two-layer 1x1 head, l2 over channels; cells are centred (the released code's
    look 7.5 pixels up and left). `weights` names a local file with the ImageNet state dict of torchvision's ResNet-18
    (.pth or .safetensors); it needs width 64, else ValueError. `embedding_size=0` leaves the head out: the cells are the
    trunk's own channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, embedding_size: int) -> None:
        super().__init__()
        self.trunk = ResNetTrunk(3, config)
        self.channels = embedding_size or self.trunk.channels
        self.head: nn.Module = nn.Identity()
        if embedding_size:
            self.head = nn.Sequential(
                nn.Conv2d(self.trunk.channels, embedding_size, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(embedding_size, embedding_size, 1),
            )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        if config.weights is not None:
            load_imagenet_weights(self.trunk, config.weights)

    def features(self, frames_N3YX: Tensor) -> Tensor:
        """The trunk's cells, neither projected nor of unit length (N, channels of the trunk, Y/16, X/16)."""
        if self.trunk.conv1.weight.is_contiguous(memory_format=torch.channels_last):
            # Frames come with channels first; turned here, everything up to the first convolution is channels last too.
            frames_N3YX = frames_N3YX.contiguous(memory_format=torch.channels_last)
        # The trunk's cell i looks at pixel 16 i, its left edge: at 96 pixels a map would lie half an object off. With half a
        # cell of margin, and the first row and column left out, it looks at 16 i + 8, where upsampling puts it.
        margin_N3YX = F.pad((frames_N3YX - self.mean) / self.std, (STRIDE // 2,) * 4)
        cells_NCHW: Tensor = self.trunk(margin_N3YX)[..., 1:, 1:]
        return cells_NCHW

    def forward(self, frames_N3YX: Tensor) -> Tensor:
        return F.normalize(self.head(self.features(frames_N3YX)).float(), dim=1)


class AudioEncoder(nn.Module):
    """Log-mel pictures (N, T, F) -> unit embeddings of k sound nodes (N, K, C), float32.

    Section 4.1: ResNet-18, pooled, then "different fully connected layers". Released code, and here: the last stage at
    stride 1 as for images, a global maximum, two layers a node. The order of the heads is the identity of the nodes: it
    must be the same for both views of a mixture.

    `batch_norm` (the setting node_norm=batch) subtracts each node's mean over the batch before l2 (BatchNorm without scale),
    so that no node can be the same for every mixture: the solution that ignores the audio, where loss (4) rests near .33 for
    long, is then no solution. The paper does without. `embedding_size=0` leaves the heads out: one node, the pooled
    channels of the trunk.
    """

    def __init__(self, k: int, config: EncoderConfig, embedding_size: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.trunk = ResNetTrunk(1, config)
        channels = self.trunk.channels
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(channels, embedding_size), nn.ReLU(inplace=True), nn.Linear(embedding_size, embedding_size)
            )
            for _ in range(k if embedding_size else 0)
        )
        self.norm = nn.BatchNorm1d((k * embedding_size) or channels, affine=False) if batch_norm else nn.Identity()

    def features(self, log_mel_NTF: Tensor) -> Tensor:
        """The trunk's cells (N, channels of the trunk, T/16, F/16)."""
        cells_NCHW: Tensor = self.trunk(log_mel_NTF[:, None])
        return cells_NCHW

    def forward(self, log_mel_NTF: Tensor) -> Tensor:
        pooled_NC = self.features(log_mel_NTF).amax(dim=(2, 3))
        nodes_NKC = torch.stack([head(pooled_NC) for head in self.heads] or [pooled_NC], dim=1)
        nodes_NKC = self.norm(nodes_NKC.flatten(1)).view_as(nodes_NKC)
        return F.normalize(nodes_NKC.float(), dim=-1)


def load_imagenet_weights(trunk: ResNetTrunk, path: str) -> None:
    """Fill an image trunk of width 64 from a local ImageNet state dict of ResNet-18; ValueError if it does not fit."""
    width = trunk.conv1.out_channels
    if width != FULL_WIDTH:
        raise ValueError(f"encoder.weights={path}: ImageNet weights need encoder.width={FULL_WIDTH}, it is {width}")
    if not Path(path).is_file():
        raise ValueError(f"encoder.weights={path}: no such file; it names a local .pth or .safetensors of resnet18")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
        trunk.load_state_dict(state)
    except Exception as error:  # whatever a foreign file makes torch, pickle or safetensors say
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"encoder.weights={path}: not a ResNet-18 state dict ({reason})") from error
