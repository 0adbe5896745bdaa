"""SLAVC (Mo and Morgado 2022, "A Closer Look at Weakly-Supervised Audio-Visual Source Localization").

Which sound a cell goes with, and which cell a sound lies in, are asked in two projections; both answers are multiplied and
summed over the cells. One side of each comparison comes from slowly moving averages of the encoders.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import EncoderConfig, SlavcConfig
from raymix.data.audio import log_mel_spectrogram
from raymix.data.batches import HeatMaps, MixtureBatch, SceneBatch
from raymix.methods.base import SingleSourceMethod, dropout_across_ranks, embedding_variance
from raymix.methods.encoders import AudioEncoder, ImageEncoder
from raymix.methods.random_walk import cell_scores
from raymix.runtime.distributed import all_gather_with_grad, global_indices


def log_agreement(cells_N2CHW: Tensor, sounds_M2C: Tensor, temperature: float) -> Tensor:
    """log sum over cells of softmax over M sounds (projection 1) x softmax over cells (projection 2), as (N, M).

    In log space: at temperature .03 a product may be as small as e^-130, zero in float32.
    """
    with torch.autocast(cells_N2CHW.device.type, enabled=False):
        first_NMX, second_NMX = (
            cell_scores(cells_N2CHW[None, :, place], sounds_M2C[None, :, place])[0].flatten(2) / temperature
            for place in range(2)
        )
        return torch.logsumexp(first_NMX.log_softmax(1) + second_NMX.log_softmax(2), -1)


def agreement_loss(log_NM: Tensor, own_N: Tensor) -> Tensor:
    """Cross-entropy *of* the logarithms, as released: over M sounds they do not add up to 1, so a softmax comes on top."""
    with torch.autocast(log_NM.device.type, enabled=False):
        return F.cross_entropy(log_NM.float(), own_N)


class SimultaneousLearning(SingleSourceMethod):
    """Knobs default to the released script's: both encoders' averages move by 1 - `momentum` at each forward pass in training.

    The loss has two halves: own cells with averaged sounds, and averaged cells with own sounds. In the released code, and
    here, the softmax and the cross-entropy run over the *sounds* in both, so only sounds are gathered from all ranks.
    Averages follow parameters; the BatchNorm of an averaged encoder has statistics of its own batches, and dropout is drawn
    for it anew. `forward_heatmaps` uses the averaged encoders, as the released script does (use_mom_eval): the mean cosine of both
    projections. With training.gradient_accumulation_steps = n the averages move n times an update. Trunk and start of the
    projections differ from the release as in `ez_vsl`.
    Raises ValueError for a setting out of range.
    """

    config: SlavcConfig

    def __init__(self, k: int, config: SlavcConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.visual = nn.Conv2d(
            self.image.channels, 2 * config.embedding_size, 1
        )  # both projections, one after the other
        self.acoustic = nn.Linear(self.image.channels, 2 * config.embedding_size)
        self.average_image, self.average_audio = copy.deepcopy(self.image), copy.deepcopy(self.audio)
        self.average_visual, self.average_acoustic = copy.deepcopy(self.visual), copy.deepcopy(self.acoustic)
        for average, _ in self._averages():
            average.requires_grad_(False)

    def _averages(self) -> list[tuple[nn.Module, nn.Module]]:
        return [
            (self.average_image, self.image),
            (self.average_audio, self.audio),
            (self.average_visual, self.visual),
            (self.average_acoustic, self.acoustic),
        ]

    @torch.no_grad()
    def move_averages(self) -> None:
        """average <- momentum x average + (1 - momentum) x parameter."""
        for average, followed in self._averages():
            for slow, fast in zip(average.parameters(), followed.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.config.momentum)

    def encode_images(self, frames_N3YX: Tensor, image: ImageEncoder, visual: nn.Module) -> Tensor:
        """Unit embeddings of cells in both projections (N, 2, C, H, W)."""
        cells_NCHW = dropout_across_ranks(
            image.features(frames_N3YX), self.config.image_dropout if self.training else 0.0
        )
        return F.normalize(visual(cells_NCHW).float().unflatten(1, (2, -1)), dim=2)

    def encode_audio(self, sounds_NTF: Tensor, audio: AudioEncoder, acoustic: nn.Module) -> Tensor:
        """Unit embeddings of sounds in both projections (N, 2, C)."""
        pooled_NC = audio.features(log_mel_spectrogram(sounds_NTF)).amax((2, 3))
        return F.normalize(acoustic(pooled_NC).float().unflatten(1, (2, -1)), dim=2)

    def encode_average(self, frames_N3YX: Tensor, sounds_NTF: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (N, 2, C, H, W) and sounds (N, 2, C) of the averaged encoders, without gradient."""
        with torch.no_grad():
            cells_N2CHW = self.encode_images(frames_N3YX, self.average_image, self.average_visual)
            return cells_N2CHW, self.encode_audio(sounds_NTF, self.average_audio, self.average_acoustic)

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        frames_N3YX, sounds_NTF = self.pairs(mixture)
        if self.training:
            self.move_averages()
        cells_N2CHW = self.encode_images(frames_N3YX, self.image, self.visual)
        sounds_N2C = self.encode_audio(sounds_NTF, self.audio, self.acoustic)
        slow_cells_N2CHW, slow_sounds_N2C = self.encode_average(frames_N3YX, sounds_NTF)
        own_N = global_indices(sounds_N2C)
        log_NM = log_agreement(cells_N2CHW, all_gather_with_grad(slow_sounds_N2C), self.config.temperature)
        own_cells = agreement_loss(log_NM, own_N)
        own_sounds = agreement_loss(
            log_agreement(slow_cells_N2CHW, all_gather_with_grad(sounds_N2C), self.config.temperature), own_N
        )
        loss = own_cells + own_sounds
        return loss, {
            "loss": loss.detach(),
            "own_cells": own_cells.detach(),
            "own_sounds": own_sounds.detach(),
            "accuracy": (log_NM.detach().argmax(1) == own_N).float().mean(),
            "temperature": loss.new_tensor(self.config.temperature),
            "image_spread": embedding_variance(cells_N2CHW[:, 0].movedim(1, -1)),
            "sound_spread": embedding_variance(sounds_N2C[:, 0]),
        }

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """One map for all sounds: the mean of both projections' cosines, of the averaged encoders."""
        cells_N2CHW, sounds_N2C = self.encode_average(scenes.frames_N3YX.float() / 255, scenes.mixture_NTF)
        scores_N22HW = cell_scores(cells_N2CHW, sounds_N2C)
        return HeatMaps((scores_N22HW[:, 0, 0] + scores_N22HW[:, 1, 1])[:, None] / 2)
