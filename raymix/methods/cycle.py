"""Mix and Localize, "Ours" in Tables 1 to 4: k nodes of a mixed sound, k images, and walks between them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from raymix.encoders import FULL_WIDTH, AudioEncoder, ImageEncoder
from raymix.methods.method import Maps, Method, Needs
from raymix.mixture import Mixture
from raymix.scene import Scenes
from raymix.spectrogram import log_mel, one_of
from raymix.walk import (
    POOLS,
    cell_scores,
    cycle_loss,
    log_image_to_sound,
    log_sound_to_image,
    similarity,
)


class Cycle(Method):
    """Eq. 4 with the shifted view, on groups of k; knobs default to the paper's setting.

    `pool_sharpness` is the r of pool="lse" and means nothing for "max". Raises ValueError for a value out of range.
    """

    needs: ClassVar[Needs] = Needs(frames=1, windows=2)

    def __init__(
        self,
        k: int,
        *,
        width: int = FULL_WIDTH,
        blocks: int = 2,
        stages: int = 4,
        embedding_size: int = 128,
        temperature: float = 0.07,
        pool: str = "max",
        pool_sharpness: float = 10.0,
        node_norm: str = "none",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("k", k), ("width", width), ("embedding_size", embedding_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if temperature <= 0 or pool_sharpness <= 0:
            raise ValueError(f"temperature={temperature}, pool_sharpness={pool_sharpness}: both must be greater than 0")
        self.k = k
        self.temperature = temperature
        self.pool = one_of("pool", pool, POOLS)
        self.pool_sharpness = pool_sharpness
        self.image = ImageEncoder(width, embedding_size, weights, blocks, stages)
        self.audio = AudioEncoder(k, width, embedding_size, node_norm=node_norm, blocks=blocks, stages=stages)

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        frames_BK3YX = mixture.frames_BK3YX
        if frames_BK3YX.shape[1] != self.k:
            raise ValueError(f"mixture.k={frames_BK3YX.shape[1]}: this model has {self.k} nodes")
        map_BKCHW = self.image(frames_BK3YX.flatten(0, 1)).unflatten(0, frames_BK3YX.shape[:2])
        # one batch for both views, so that BatchNorm sees them alike and each head keeps its node
        both = log_mel(torch.cat([mixture.mixture_BTF, mixture.shifted_BTF]))
        nodes_BKC, shifted_BKC = self.audio(both).chunk(2)
        phi_BJI = similarity(map_BKCHW, nodes_BKC, self.pool, self.pool_sharpness)
        shifted_BJI = similarity(map_BKCHW, shifted_BKC, self.pool, self.pool_sharpness)
        loss = cycle_loss(phi_BJI, shifted_BJI, self.temperature)
        return loss, self._diagnostics(phi_BJI.detach(), map_BKCHW.detach(), nodes_BKC.detach(), loss.detach())

    def map_scenes(self, scenes: Scenes) -> Maps:
        """Every cell of the whole canvas against each node; the scenes may hold any number of sources."""
        map_NCHW = self.image(scenes.frames_N3YX.float() / 255)
        nodes_NKC = self.audio(log_mel(scenes.mixture_NTF))
        return Maps(cell_scores(map_NCHW[:, None], nodes_NKC)[:, 0])

    def _diagnostics(self, phi_BJI: Tensor, map_BKCHW: Tensor, nodes_BKC: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """Signs of collapse: a loss may be low though nothing is heard (constant nodes) or seen (constant cells)."""
        walk_BIJ = log_sound_to_image(phi_BJI, self.temperature).exp()
        home_BI = (walk_BIJ * log_image_to_sound(phi_BJI, self.temperature).exp().transpose(1, 2)).sum(-1)
        goal_BI = walk_BIJ.argmax(-1).sort(-1).values
        permuted = (goal_BI == torch.arange(self.k, device=goal_BI.device)).all(-1)
        return {
            "loss": loss,
            "return_probability": home_BI.mean(),  # 1/k is chance
            "permutation": permuted.float().mean(),  # share of groups whose nodes go to k different images
            "image_spread": 1 - map_BKCHW.mean((0, 1, 3, 4)).square().sum(),  # total variance of unit vectors: 0 to 1
            "sound_spread": 1 - nodes_BKC.mean(0).square().sum(-1).mean(),  # of one node over mixtures
        }
