"""Permute of Table 3 (section 4.5, Eq. 8): the best pairing of images and nodes counts, and nothing speaks against it."""

from __future__ import annotations

from torch import Tensor

from raymix.encoders import FULL_WIDTH
from raymix.methods.nodes import Nodes
from raymix.mixture import Mixture
from raymix.walk import permutation_invariant_loss


class Permute(Nodes):
    """No temperature and no negatives: on collapse the loss is -k, and nothing is told apart.

    Then `sound_spread` falls to 0 (what is heard is all one); not with `node_norm=batch`, which keeps the nodes of a batch
    apart whatever they say: there the loss and the chance score show it.
    """

    def __init__(
        self,
        k: int,
        *,
        width: int = FULL_WIDTH,
        blocks: int = 2,
        stages: int = 4,
        embedding_size: int = 128,
        pool: str = "max",
        pool_sharpness: float = 10.0,
        node_norm: str = "none",
        weights: str | None = None,
    ) -> None:
        super().__init__(
            k, width=width, blocks=blocks, stages=stages, embedding_size=embedding_size, pool=pool,
            pool_sharpness=pool_sharpness, node_norm=node_norm, weights=weights,
        )  # fmt: skip

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        map_BKCHW = self.see(mixture.frames_BK3YX)
        (nodes_BKC,) = self.hear(mixture.mixture_BTF)
        loss = permutation_invariant_loss(self.phi(map_BKCHW, nodes_BKC))
        signs = self.signs(loss, map_BKCHW, nodes_BKC)
        del signs["temperature"]  # there is none in Eq. 8
        return loss, signs
