"""Attention (Senocak et al. 2018), "Attention" in Table 1, in the variant that DSOL (Hu et al. 2020) compares with.

The sound attends to the cells of a frame; what it attends to, z, must lie near the sound's own feature. (Senocak's own code
has another loss, a softmax over the two distances, on VGG-16 and SoundNet; the table's numbers are of DSOL's variant.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import AttentionConfig, EncoderConfig
from raymix.data.audio import log_mel_spectrogram
from raymix.data.batches import HeatMaps, MixtureBatch, SceneBatch
from raymix.methods.base import SingleSourceMethod, contrastive_loss, embedding_variance
from raymix.methods.random_walk import cell_scores
from raymix.runtime.distributed import next_rows_as_negatives


def attention_pool(cells_NCHW: Tensor, query_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the cells, softmax of their cosines (N, H, W), and z, the weighted sum of cells (N, C).

    Both arguments are of unit length and the softmax has no temperature: no cell weighs more than e^2 times another.
    """
    with torch.autocast(cells_NCHW.device.type, enabled=False):
        scores_NHW = cell_scores(cells_NCHW[:, None], query_NC[:, None])[:, 0, 0]
        weight_NX = scores_NHW.flatten(1).softmax(-1)
        z_NC = (cells_NCHW.float().flatten(2) @ weight_NX[:, :, None])[..., 0]
        return weight_NX.view_as(scores_NHW), z_NC


def _two_layers(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU())


class AttentionNetwork(SingleSourceMethod):
    """The query is made of the pooled sound feature, which is itself, not normalised, what z is compared with.

    So all has the channels of the trunk (512), and there is no embedding size. The negative of frame i is the sound of pair
    i + 1 of the batch of all workers (released: of every sound, a frame of another video).
    Features start far outside the published margin (at distances near 90 at full width), so a negative pushes nothing until
    they have shrunk to it: the loss falls long before the model listens.
    Raises ValueError for a margin that is not above 0.
    """

    config: AttentionConfig

    def __init__(self, k: int, config: AttentionConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.query, self.answer = _two_layers(self.image.channels), _two_layers(self.image.channels)

    def encode_audio(self, sounds_NTF: Tensor) -> Tensor:
        """The global maximum of the trunk's cells (N, C), not of unit length."""
        return self.audio.features(log_mel_spectrogram(sounds_NTF)).amax((2, 3)).float()

    def ask(self, pooled_NC: Tensor) -> Tensor:
        return F.normalize(self.query(pooled_NC).float(), dim=-1)

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        frames_N3YX, sounds_NTF = self.pairs(mixture)
        cells_NCHW, own_NC = self.image(frames_N3YX), self.encode_audio(sounds_NTF)
        pooled_PC = torch.cat(
            [own_NC, next_rows_as_negatives(own_NC)]
        )  # P = 2 N: each frame with its own sound and with another's
        _, z_PC = attention_pool(cells_NCHW.repeat(2, 1, 1, 1), self.ask(pooled_PC))
        squared_N, others_N = (self.answer(z_PC).float() - pooled_PC).square().sum(-1).chunk(2)
        loss = contrastive_loss(squared_N, others_N, self.config.margin)
        return loss, {
            "loss": loss.detach(),
            "own_distance": squared_N.detach().sqrt().mean(),
            "other_distance": others_N.detach().sqrt().mean(),  # no farther: it does not listen, or does not look
            "image_spread": embedding_variance(cells_NCHW.movedim(1, -1)),
            "sound_spread": embedding_variance(F.normalize(own_NC, dim=-1)),
        }

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """The attention weights: nearly flat by construction, so a threshold needs min-max first."""
        cells_NCHW = self.image(scenes.frames_N3YX.float() / 255)
        return HeatMaps(attention_pool(cells_NCHW, self.ask(self.encode_audio(scenes.mixture_NTF)))[0][:, None])
