"""The model of Mix and Localize, which its ablations share (section 4.5: "the same except the loss function"): k nodes
of a mixed sound, k images, and a map for each node.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from raymix.config import Encoder, MixAndLocalizeConfig, MixtureMethodConfig
from raymix.encoders import AudioEncoder, ImageEncoder
from raymix.methods.method import Maps, Method, Needs, spread
from raymix.scene import Scenes
from raymix.spectrogram import log_mel
from raymix.walk import cell_scores, similarity


class Nodes(Method):
    """Encoders of images and of k sound nodes; a subclass brings the loss.

    Raises ValueError for a setting out of range.
    """

    needs: ClassVar[Needs] = Needs()

    config: MixtureMethodConfig

    def __init__(self, k: int, config: MixtureMethodConfig, encoder: Encoder) -> None:
        super().__init__(k, config, encoder)
        self.image = ImageEncoder(encoder, config.embedding_size)
        self.audio = AudioEncoder(k, encoder, config.embedding_size, batch_norm=config.node_norm == "batch")

    def see(self, frames_BK3YX: Tensor) -> Tensor:
        """Unit embeddings of the cells of every frame, (B, K, C, H, W); ValueError for groups of another size than k."""
        if frames_BK3YX.shape[1] != self.k:
            raise ValueError(f"mixture.k={frames_BK3YX.shape[1]}: this model has {self.k} nodes")
        map_BKCHW: Tensor = self.image(frames_BK3YX.flatten(0, 1)).unflatten(0, frames_BK3YX.shape[:2])
        return map_BKCHW

    def hear(self, *views_BTF: Tensor) -> tuple[Tensor, ...]:
        """The k nodes of each view, (B, K, C); one batch for all views, so that BatchNorm sees them alike and each head
        keeps its node."""
        return self.audio(log_mel(torch.cat(views_BTF))).chunk(len(views_BTF))

    def phi(self, map_BKCHW: Tensor, nodes_BMC: Tensor) -> Tensor:
        """Eq. 1, (B, J, I): how well image j fits sound i."""
        return similarity(map_BKCHW, nodes_BMC, self.config.pool, self.config.pool_sharpness)

    def map_scenes(self, scenes: Scenes) -> Maps:
        """Every cell of the whole canvas against each node; the scenes may hold any number of sources."""
        map_NCHW = self.image(scenes.frames_N3YX.float() / 255)
        nodes_NKC = self.audio(log_mel(scenes.mixture_NTF))
        return Maps(cell_scores(map_NCHW[:, None], nodes_NKC)[:, 0])

    def signs(self, loss: Tensor, map_BKCHW: Tensor, nodes_BKC: Tensor) -> dict[str, Tensor]:
        """Signs of collapse: a loss may be low though nothing is heard (constant nodes) or seen (constant cells)."""
        temperature = (
            {"temperature": loss.new_tensor(self.config.temperature)}
            if isinstance(self.config, MixAndLocalizeConfig)
            else {}
        )
        return {
            "loss": loss.detach(),
            **temperature,
            "image_spread": spread(map_BKCHW.movedim(2, -1)),
            "sound_spread": torch.stack([spread(node_BC) for node_BC in nodes_BKC.unbind(1)]).mean(),  # over mixtures
        }
