"""Permute of Table 3 (section 4.5, Eq. 8): the best pairing of images and nodes counts, and nothing speaks against it."""

from __future__ import annotations

from torch import Tensor

from raymix.config import PermutationInvariantMatchingConfig
from raymix.methods.nodes import Nodes
from raymix.mixture import Mixture
from raymix.walk import permutation_invariant_loss


class Permute(Nodes):
    """No temperature and no negatives: on collapse the loss is -k, and nothing is told apart.

    Then `sound_spread` falls to 0 (what is heard is all one); not with `node_norm=batch`, which keeps the nodes of a batch
    apart whatever they say: there the loss and the chance score show it.
    """

    config: PermutationInvariantMatchingConfig

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        map_BKCHW = self.see(mixture.frames_BK3YX)
        (nodes_BKC,) = self.hear(mixture.mixture_BTF)
        loss = permutation_invariant_loss(self.phi(map_BKCHW, nodes_BKC))
        return loss, self.signs(loss, map_BKCHW, nodes_BKC)
