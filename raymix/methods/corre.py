"""Corre of Table 3 (section 4.5, Eq. 7): InfoNCE between images and the nodes of mixtures, over the whole batch."""

from __future__ import annotations

from torch import Tensor

from raymix.config import MixedCorrespondenceConfig
from raymix.distributed import gather, places
from raymix.methods.nodes import Nodes
from raymix.mixture import Mixture
from raymix.walk import mixed_correspondence_loss


class Corre(Nodes):
    """An image shall find the nodes of its own mixture among those of all mixtures, on all workers."""

    config: MixedCorrespondenceConfig

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        map_BKCHW = self.see(mixture.frames_BK3YX)
        (nodes_BKC,) = self.hear(mixture.mixture_BTF)
        every_1MC = gather(nodes_BKC).flatten(0, 1)[None]  # each rank holds its own images against all nodes
        phi_NM = self.phi(map_BKCHW.flatten(0, 1)[None], every_1MC)[0]
        own_N = places(nodes_BKC).repeat_interleave(self.k)
        loss = mixed_correspondence_loss(phi_NM, own_N, self.k, self.config.temperature)
        return loss, self.signs(loss, map_BKCHW, nodes_BKC)
