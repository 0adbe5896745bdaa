"""OTS-mix in Tables 1 and 2: Objects that Sound on synthetic duets, "trained on synthetic mixtures and concatenated video
frames, following [24]" (section 4.3).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from raymix.config import ObjectsThatSoundMixConfig
from raymix.methods.method import Needs
from raymix.methods.ots import Ots
from raymix.mixture import Mixture


class OtsMix(Ots):
    """OTS whose pair is a group: its k frames side by side, and its mixed sound; a negative is another group's mix.

    How the frames are concatenated is not published: side by side is how the paper's own test canvas is built.
    """

    needs: ClassVar[Needs] = Needs()
    config: ObjectsThatSoundMixConfig

    def pairs(self, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """Composites (N, 3, Y, k X) and mixed sounds (N, T, F), one a group: N = B."""
        return torch.cat(mixture.frames_BK3YX.unbind(1), dim=-1), mixture.mixture_BTF
