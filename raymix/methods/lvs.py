"""Localizing Visual Sounds the Hard Way (Chen et al. 2021), "LVS": a tri-map separates sounding, silent and uncertain cells.

The sounding cells of a frame must agree with its own sound, more than any frame does with a sound that is not its own, and
more than the silent cells of the same frame do: those are the hard negatives. No training script was released.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raymix.config import EncoderConfig, LvsConfig
from raymix.data.batches import MixtureBatch
from raymix.methods.base import SingleSourceMethod, embedding_variance
from raymix.methods.random_walk import cell_scores
from raymix.runtime.distributed import all_gather_with_grad, global_indices


def region_mean(scores_NMHW: Tensor, threshold: float, softness: float, above: bool = True) -> Tensor:
    """Mean score of the cells above a threshold (or below it), (N, M).

    A cell counts by sigmoid((score - threshold) / softness), or that of the opposite. It is sum(weight x score) /
    sum(weight), with the gradient of the weights, as a softmax of their logarithms: a region in which no cell lies, where
    both sums vanish in float32, still has its mean.
    """
    with torch.autocast(scores_NMHW.device.type, enabled=False):
        scores_NMX = scores_NMHW.float().flatten(2)
        over_NMX = (scores_NMX - threshold) / softness
        share_NMX = F.logsigmoid(over_NMX if above else -over_NMX).softmax(-1)
        return (share_NMX * scores_NMX).sum(-1)


def lvs_logits(
    scores_NMHW: Tensor, own_N: Tensor, thresholds: tuple[float, float], softness: float, temperature: float
) -> Tensor:
    """Logits (N, M + 1) of frames: the sounding cells with each of M sounds, then the frame's silent cells with its own.

    The right answer of row n is column `own_N[n]`: each sound stands in it once. (Released: the own one stands first, and again
    among the others, where it is multiplied by -99 to be out of the way; below zero that makes it the largest of all.)
    """
    with torch.autocast(scores_NMHW.device.type, enabled=False):
        own_N1HW = scores_NMHW[torch.arange(len(own_N), device=own_N.device), own_N][:, None]
        sounding_NM = region_mean(scores_NMHW, thresholds[0], softness)
        silent_N1 = region_mean(own_N1HW, thresholds[1], softness, above=False)
        return torch.cat([sounding_NM, silent_N1], 1) / temperature


class LocalizingVisualSounds(SingleSourceMethod):
    """Knobs default to the released code's. Cells and sounds are the trunks' own channels (512), without a projection.

    These come out of a ReLU, so no cosine is below 0. A cell above `positive_threshold` sounds, one below
    `negative_threshold` is silent, what lies between is left alone; `softness` is how gradual both edges are. Frames of this
    rank meet the sounds of all ranks. Released: linear spectrograms of 10 s at test, here those of all systems.
    Raises ValueError for a setting out of range.
    """

    config: LvsConfig

    def __init__(self, k: int, config: LvsConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.thresholds = (config.positive_threshold, config.negative_threshold)

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        cells_NCHW, sounds_NC = self.encode(*self.pairs(mixture))
        scores_NMHW = cell_scores(cells_NCHW[None], all_gather_with_grad(sounds_NC)[None])[0]
        own_N = global_indices(sounds_NC)
        logits_NL = lvs_logits(scores_NMHW, own_N, self.thresholds, self.config.softness, self.config.temperature)
        loss = F.cross_entropy(logits_NL, own_N)
        own_NHW = scores_NMHW.detach()[torch.arange(len(own_N), device=own_N.device), own_N]
        return loss, {
            "loss": loss.detach(),
            "accuracy": (logits_NL.detach().argmax(1) == own_N).float().mean(),
            "sounding_cells": ((own_NHW - self.thresholds[0]) / self.config.softness).sigmoid().mean(),
            "silent_cells": ((self.thresholds[1] - own_NHW) / self.config.softness).sigmoid().mean(),
            "temperature": loss.new_tensor(self.config.temperature),
            "image_spread": embedding_variance(cells_NCHW.movedim(1, -1)),
            "sound_spread": embedding_variance(sounds_NC),
        }
