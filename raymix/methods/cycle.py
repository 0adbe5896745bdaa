"""Mix and Localize, "Ours" in Tables 1 to 4: k nodes of a mixed sound, k images, and walks between them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from raymix.config import MixAndLocalizeConfig
from raymix.methods.method import Needs
from raymix.methods.nodes import Nodes
from raymix.mixture import Mixture
from raymix.walk import cycle_loss, log_image_to_sound, log_sound_to_image


class Cycle(Nodes):
    """Eq. 4 with the shifted view, on groups of k: from each sound to the images and home again."""

    needs: ClassVar[Needs] = Needs(windows=2)
    config: MixAndLocalizeConfig

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        if mixture.shifted_BTF is None:
            raise ValueError("Cycle walks by two views of a sound, and this batch brings one")
        map_BKCHW = self.see(mixture.frames_BK3YX)
        nodes_BKC, shifted_BKC = self.hear(mixture.mixture_BTF, mixture.shifted_BTF)
        phi_BJI = self.phi(map_BKCHW, nodes_BKC)
        loss = cycle_loss(phi_BJI, self.phi(map_BKCHW, shifted_BKC), self.config.temperature)
        return loss, self.signs(loss, map_BKCHW, nodes_BKC) | self._walk(phi_BJI.detach())

    @torch.no_grad()
    def transitions(self, frames_BK3YX: Tensor, mixture_BTF: Tensor) -> tuple[Tensor, Tensor]:
        """Figure 6: A_SI as (B, I, J) and A_IS as (B, J, I), in evaluation mode, one view of the sound for both steps."""
        training = self.training
        self.eval()
        try:
            (nodes_BKC,) = self.hear(mixture_BTF)
            phi_BJI = self.phi(self.see(frames_BK3YX), nodes_BKC)
        finally:
            self.train(training)
        out_BIJ, home_BJI = (
            step(phi_BJI, self.config.temperature).exp() for step in (log_sound_to_image, log_image_to_sound)
        )
        return out_BIJ, home_BJI

    def _walk(self, phi_BJI: Tensor) -> dict[str, Tensor]:
        """How the walk goes: a loss may be low by chance in many dimensions."""
        walk_BIJ = log_sound_to_image(phi_BJI, self.config.temperature).exp()
        home_BI = (walk_BIJ * log_image_to_sound(phi_BJI, self.config.temperature).exp().transpose(1, 2)).sum(-1)
        goal_BI = walk_BIJ.argmax(-1).sort(-1).values
        permuted = (goal_BI == torch.arange(self.k, device=goal_BI.device)).all(-1)
        return {
            "return_probability": home_BI.mean(),  # 1/k is chance
            "permutation": permuted.float().mean(),  # share of groups whose nodes go to k different images
        }
