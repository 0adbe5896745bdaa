"""Sound of Pixels (Zhao et al. 2018) with channels matched to classes (Hu et al. 2020): "Sound of pixel" in Table 1.

Sounds are mixed and taken apart again: M channels of a frame choose among M channels of the spectrogram. A channel that
has come to stand for one kind of object localises it. Labels only say which channel is which class ("semi-supervised").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import EncoderConfig, SoundOfPixelsConfig
from raymix.data.audio import HOP, N_FFT, WINDOW_LENGTH
from raymix.data.batches import ClipBatch, DataRequirements, HeatMaps, MixtureBatch, SceneBatch
from raymix.methods.base import Method, embedding_variance
from raymix.methods.encoders import ImageEncoder
from raymix.methods.label_matching import LabelMatching, collect_features, match_labels, pack_state, unpack_state

WIDE, STEP = 1022, 256  # window and hop, in samples, of the spectrogram that is separated

LOG_BASE = 21.0  # of the warped frequencies: the lowest are stretched most

SMALLEST = 1e-10


def stft_magnitude(stft_NTF: Tensor) -> Tensor:
    """Magnitudes (N, T, 512) of a longer window, 1022 samples every 256, from the stored STFT: by way of the waveform.

    Both steps are linear, so the sounds of a mixture still add up to it. (Released: at 11,025 Hz, 256 frames of it.)
    """
    with torch.no_grad(), torch.autocast(stft_NTF.device.type, enabled=False):
        short, wide = (torch.hann_window(size, device=stft_NTF.device) for size in (WINDOW_LENGTH, WIDE))
        wave_NL = torch.istft(stft_NTF.to(torch.complex64).transpose(1, 2), N_FFT, HOP, WINDOW_LENGTH, short)
        stft_NFT = torch.stft(wave_NL, WIDE, STEP, WIDE, wide, pad_mode="constant", return_complex=True)
        return stft_NFT.abs().transpose(1, 2)


def log_frequency_matrix(bins: int, linear: int = WIDE // 2 + 1) -> Tensor:
    """The matrix (bins, linear) that reads linear frequencies at `bins` log-spaced ones, between neighbours in proportion."""
    at_B = (LOG_BASE ** torch.linspace(0, 1, bins, dtype=torch.float64) - 1) / (LOG_BASE - 1) * (linear - 1)
    return (1 - (at_B[:, None] - torch.arange(linear)).abs()).clamp(min=0).float()


def binary_masks(source_BKTF: Tensor, mixture_BTF: Tensor) -> Tensor:
    """1 where a source is more than half of the mixture's magnitude, else 0: (B, K, T, F)."""
    return (source_BKTF > 0.5 * mixture_BTF[:, None]).float()


def mask_loss(logits_BKTF: Tensor, masks_BKTF: Tensor, mixture_BTF: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all elements, each weighted by log(1 + magnitude of the mixture) in [.001, 10]."""
    with torch.autocast(logits_BKTF.device.type, enabled=False):
        weight_B1TF = mixture_BTF.float().log1p().clamp(1e-3, 10)[:, None].expand_as(logits_BKTF)
        return F.binary_cross_entropy_with_logits(logits_BKTF.float(), masks_BKTF, weight=weight_B1TF)


class UNet(nn.Module):
    """Pictures (N, 1, T, F) -> M maps of the same size (N, M, T, F), by `downs` halvings and back, with skips.

    As released: 4x4 convolutions of stride 2 down, bilinear doubling and 3x3 convolutions up, BatchNorm but on the first,
    innermost and last. There 7 halvings of 256 x 256; .96 s are 61 frames, which 6 halvings leave as one. Frames are
    padded with the mean, after the first BatchNorm, up to what the halvings need.
    """

    def __init__(self, maps: int, width: int, downs: int) -> None:
        super().__init__()
        sizes = [width * min(8, 2**depth) for depth in range(downs)]
        self.first = nn.BatchNorm2d(1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for depth, size in enumerate(sizes):
            inner, outer = depth == downs - 1, depth == 0
            before = 1 if outer else sizes[depth - 1]
            self.down.append(
                nn.Sequential(
                    nn.Identity() if outer else nn.LeakyReLU(0.2),
                    nn.Conv2d(before, size, 4, 2, 1, bias=False),
                    nn.Identity() if inner or outer else nn.BatchNorm2d(size),
                )
            )
            after = maps if outer else before
            self.up.append(
                nn.Sequential(
                    nn.ReLU(),
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                    nn.Conv2d(size if inner else 2 * size, after, 3, padding=1, bias=outer),
                    nn.Identity() if outer else nn.BatchNorm2d(after),
                )
            )

    def forward(self, picture_N1TF: Tensor) -> Tensor:
        frames, bins = picture_N1TF.shape[2:]
        unit = 2 ** len(self.down)
        x = F.pad(self.first(picture_N1TF), (0, -bins % unit, 0, -frames % unit))
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = self.up[-1](skips.pop())
        for up in reversed(self.up[:-1]):
            x = up(torch.cat([skips.pop(), x], dim=1))
        return x[:, :, :frames, :bins]


class SoundOfPixels(Method):
    """Knobs: `channels` as in the comparison (11, the classes of MUSIC); `bins`, `downs` of the spectrogram's network.

    Frames of a clip are three, as released, pooled by their maximum. Differences. All parts have one optimizer and learning
    rate (released: SGD, .001 for the sounds and the synthesiser, .0001 for the frames). Sounds have the level of
    `mixture.loudness` before they are mixed (released: a random gain). The trunk of the frames ends in a stage of stride 1,
    as for all systems (released: dilated). 16 kHz and .96 s (released: 11 kHz and 6 s).
    No code of the matching or of the maps has been published: here a channel's activity in a clip is the mean of its map
    times the share of the sound that it would keep alone, and the Hungarian algorithm gives each class a channel, by one
    frame of each clip. ValueError for a number out of range.
    """

    requirements: ClassVar[DataRequirements] = DataRequirements(frames=3, sources=True, labels=True)
    warp_BF: Tensor

    config: SoundOfPixelsConfig

    def __init__(self, k: int, config: SoundOfPixelsConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.image = ImageEncoder(encoder, 0)
        self.choose = nn.Conv2d(self.image.channels, config.channels, 3, padding=1)
        self.sound = UNet(config.channels, encoder.width, config.downs)
        self.weight_M = nn.Parameter(torch.ones(config.channels))
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("warp_BF", log_frequency_matrix(config.bins), persistent=False)
        self.matching: LabelMatching | None = None

    def get_extra_state(self) -> Tensor:
        return pack_state({"matching": asdict(self.matching) if self.matching else None})

    def set_extra_state(self, state: Tensor) -> None:
        found = unpack_state(state)["matching"]
        self.matching = LabelMatching(**found) if found else None

    def encode_images(self, frames_N3YX: Tensor) -> Tensor:
        """Logits of the channels in every cell, (N, M, H, W) float32."""
        logits_NMHW: Tensor = self.choose(self.image.features(frames_N3YX)).float()
        return logits_NMHW

    def encode_audio(self, magnitude_NTF: Tensor) -> Tensor:
        """Each channel's part of the mask's logit, weight included, (N, M, T, F) float32."""
        parts_NMTF = self.sound((magnitude_NTF + SMALLEST).log()[:, None]).float()
        return parts_NMTF * self.weight_M[:, None, None]

    def spectrogram(self, stft_NTF: Tensor) -> Tensor:
        """Magnitudes at log-spaced frequencies, (N, T, bins) float32."""
        with torch.autocast(stft_NTF.device.type, enabled=False):
            return stft_magnitude(stft_NTF) @ self.warp_BF.T

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if mixture.sources_BKTF is None or mixture.more_BKF3YX is None:
            raise ValueError(
                "SoundOfPixels needs the single sounds and three frames of each clip, and this batch has not both"
            )
        k = mixture.frames_BK3YX.shape[1]
        frames_BKF3YX = torch.cat([mixture.frames_BK3YX[:, :, None], mixture.more_BKF3YX[:, :, :2]], dim=2)
        logits_BKFMHW = self.encode_images(frames_BKF3YX.flatten(0, 2)).unflatten(0, frames_BKF3YX.shape[:3])
        seen_BKM = logits_BKFMHW.amax((2, 4, 5)).sigmoid()
        mixed_BTF = self.spectrogram(mixture.mixture_BTF)
        masks_BKTF = binary_masks(self.spectrogram(mixture.sources_BKTF.flatten(0, 1)).unflatten(0, (-1, k)), mixed_BTF)
        parts_BMTF = self.encode_audio(mixed_BTF)
        with torch.autocast(mixed_BTF.device.type, enabled=False):
            found_BKTF = torch.einsum("bkm,bmtf->bktf", seen_BKM, parts_BMTF) + self.bias
        loss = mask_loss(found_BKTF, masks_BKTF, mixed_BTF)
        right = ((found_BKTF.detach() > 0) == (masks_BKTF > 0)).float() * mixed_BTF[:, None]
        return loss, {
            "loss": loss.detach(),
            "mask_accuracy": right.mean() / mixed_BTF.mean().clamp(min=SMALLEST),
            "image_spread": embedding_variance(F.normalize(seen_BKM, dim=-1)),
            "sound_spread": embedding_variance(F.normalize(self.kept(parts_BMTF, mixed_BTF), dim=-1)),
        }

    @torch.no_grad()
    def kept(self, parts_NMTF: Tensor, magnitude_NTF: Tensor) -> Tensor:
        """The share of the sound's magnitude that the mask of each channel alone would keep, (N, M) in [0, 1]."""
        heard_NTF = magnitude_NTF + SMALLEST
        masks_NMTF = (parts_NMTF + self.bias).sigmoid()
        return torch.einsum("nmtf,ntf->nm", masks_NMTF, heard_NTF) / heard_NTF.sum((1, 2))[:, None]

    def _examine(self, frames_N3YX: Tensor, stft_NTF: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, M, H, W) and loudness (N, M) of the channels."""
        magnitude_NTF = self.spectrogram(stft_NTF)
        return self.encode_images(frames_N3YX).sigmoid(), self.kept(self.encode_audio(magnitude_NTF), magnitude_NTF)

    def _activity(self, part: ClipBatch) -> Tensor:
        maps_NMHW, loudness_NM = self._examine(part.frames_N3YX, part.sounds_NTF)
        return maps_NMHW.mean((2, 3)) * loudness_NM

    def on_epoch_end(self, epoch: int, epochs: int, examples: Callable[[], Iterator[ClipBatch]]) -> None:
        """Which channel is which class, by the training clips; nothing that is trained depends on it."""
        self.matching = match_labels(
            *collect_features(self, examples(), self._activity, self.config.channels), surplus=False
        )

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """One map for each class, its channel's; for each channel, without names, while they are not matched."""
        maps_NMHW, loudness_NM = self._examine(scenes.frames_N3YX.float() / 255, scenes.mixture_NTF)
        if self.matching is None:
            return HeatMaps(maps_NMHW, None, loudness_NM)
        return HeatMaps(self.matching.total(maps_NMHW), self.matching.classes, self.matching.total(loudness_NM))
