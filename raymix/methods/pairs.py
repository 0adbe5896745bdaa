"""What systems of one source share: pairs of a frame and its own sound, two encoders, one map for all that is heard.

Each clip of a batch is a pair, however the clips are grouped: `mixture.k` changes nothing for these systems.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raymix.config import Encoder, MethodConfig
from raymix.encoders import AudioEncoder, ImageEncoder
from raymix.methods.method import Maps, Method, Needs
from raymix.mixture import Mixture
from raymix.scene import Scenes
from raymix.spectrogram import log_mel
from raymix.walk import cell_scores


class Pairs(Method):
    """Unit embeddings of the cells of a frame and of its sound; the map is their cosine (another in a subclass)."""

    needs: ClassVar[Needs] = Needs(sources=True)

    def __init__(self, k: int, config: MethodConfig, encoder: Encoder, embedding_size: int = 0) -> None:
        super().__init__(k, config, encoder)
        self.image = ImageEncoder(encoder, embedding_size)
        self.audio = AudioEncoder(1, encoder, embedding_size)

    def pairs(self, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """The frames (N, 3, Y, X) and the sounds (N, T, F) of a batch, clip by clip: N = B x K."""
        if mixture.sources_BKTF is None:
            raise ValueError(
                f"{type(self).__name__} learns from single sounds, and this batch brings only their mixture"
            )
        return mixture.frames_BK3YX.flatten(0, 1), mixture.sources_BKTF.flatten(0, 1)

    def encode(self, frames_N3YX: Tensor, sounds_NTF: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings of cells (N, C, H, W) and of sounds (N, C)."""
        return self.image(frames_N3YX), self.audio(log_mel(sounds_NTF))[:, 0]

    def map_scenes(self, scenes: Scenes) -> Maps:
        cells_NCHW, sounds_NC = self.encode(scenes.frames_N3YX.float() / 255, scenes.mixture_NTF)
        return Maps(cell_scores(cells_NCHW[:, None], sounds_NC[:, None])[:, 0])


def contrastive_loss(own_N: Tensor, other_N: Tensor, margin: float) -> Tensor:
    """Mean over N pairs that belong together and N that do not of .5 (y d^2 + (1 - y) max(0, margin - d)^2).

    Given are *squared* distances. 1e-9 under the root, as in the code of the comparisons of Hu et al. 2020 (DSOL): pairs at
    distance 0 get a finite gradient.
    """
    with torch.autocast(own_N.device.type, enabled=False):
        short_N = F.relu(margin - (other_N.float() + 1e-9).sqrt())
        return 0.25 * (own_N.float().mean() + short_N.square().mean())
