"""ISI of Table 3 (section 4.5, Eq. 6): walks from an image to the sounds and on to another frame of the same clip."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from raymix.config import ImageSoundImageWalkConfig
from raymix.methods.method import Needs
from raymix.methods.nodes import Nodes
from raymix.mixture import Mixture
from raymix.walk import image_cycle_loss


class Isi(Nodes):
    """Two frames of each clip, one mixed sound; the image that a walk shall end on is the other frame of its clip."""

    needs: ClassVar[Needs] = Needs(frames=2)
    config: ImageSoundImageWalkConfig

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        if mixture.more_BKF3YX is None:
            raise ValueError("ISI walks between two frames of a clip, and this batch brings one")
        map_BKCHW, again_BKCHW = self.see(mixture.frames_BK3YX), self.see(mixture.more_BKF3YX[:, :, 0])
        (nodes_BKC,) = self.hear(mixture.mixture_BTF)
        loss = image_cycle_loss(
            self.phi(map_BKCHW, nodes_BKC), self.phi(again_BKCHW, nodes_BKC), self.config.temperature
        )
        return loss, self.signs(loss, map_BKCHW, nodes_BKC)
