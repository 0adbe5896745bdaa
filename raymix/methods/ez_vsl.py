"""EZ-VSL (Mo and Morgado 2022, "Localizing Visual Sounds the Easy Way"): multiple-instance contrastive learning.

The best cell of a frame represents the frame: cross-entropy of the largest cosines over the sounds and over the frames of a
batch. At test time the authors add an "object-guided" map of ImageNet features alone, which does not depend on the
audio; raymix does not.
"""

from __future__ import annotations

from torch import Tensor

from raymix.config import EzVslConfig
from raymix.data.batches import MixtureBatch
from raymix.methods.base import MultipleInstanceContrastive
from raymix.runtime.distributed import all_gather_with_grad


class EasyVisualSoundLocalization(MultipleInstanceContrastive):
    """EZ-VSL: the sum of the two cross-entropies. Default settings are those of the released code.

    `image_dropout`, of the trunk's cells before they are projected, is not in EZ-VSL: its successors set it to 0.9. Released:
    a trunk with stride 32 (49 cells of 224 pixels), here 16 as for all methods; projections initialized from normal
    distributions, here as torch does.

    Raises:
        ValueError: a setting is out of its range.
    """

    config: EzVslConfig

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        cells_NCHW, sounds_NC = self.encode(*self.pairs(mixture))
        loss, signs, _ = self.contrast(cells_NCHW, all_gather_with_grad(sounds_NC))
        return loss, signs
