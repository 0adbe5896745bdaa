"""Objects that Sound (Arandjelovic and Zisserman, 2018): "OTS" and "OTS-mix" in Tables 1 and 2.

A frame and a sound belong together or not; the largest cell of their cosine map says which. Section 4.3 does not say what
loss it is trained with: `loss="bce"` is DSOL's (Hu et al. 2020), `loss="infonce"` the paper's own Eq. 2 and 3.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from raymix.config import EncoderConfig, ObjectsThatSoundConfig, ObjectsThatSoundMixConfig
from raymix.data.batches import DataRequirements, HeatMaps, MixtureBatch, SceneBatch
from raymix.methods.base import COSINE_SCALE, SingleSourceMethod, bce_loss, embedding_variance
from raymix.methods.random_walk import cell_scores, log_image_to_sound, similarity
from raymix.runtime.distributed import all_gather_with_grad, global_indices, next_rows_as_negatives


def infonce_loss(phi_NM: Tensor, own_N: Tensor, temperature: float) -> Tensor:
    """Eq. 2 and 3: -mean log softmax over M sounds of phi / temperature; `own_N` is the column of each frame's sound."""
    with torch.autocast(phi_NM.device.type, enabled=False):
        return -log_image_to_sound(phi_NM[None], temperature)[0].gather(1, own_N[:, None]).mean()


class ObjectsThatSound(SingleSourceMethod):
    """Knobs default to DSOL's; `temperature` is that of loss="infonce" and means nothing for "bce".

    loss="bce": the negative of frame i is the sound of pair i + 1 of the batch of all workers, so each sound is used twice,
    as released; there the negative is a frame of another video, here a neighbour, which may in a rare group be of
    the same video. A neighbour needs no second pass of the encoders, so BatchNorm sees every frame once, not twice.
    The scale of the cosine is learned. loss="infonce": all sounds of all workers are negatives, and there is no scale.
    """

    config: ObjectsThatSoundConfig

    def __init__(self, k: int, config: ObjectsThatSoundConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder, config.embedding_size)
        self.scale = nn.Parameter(torch.tensor(COSINE_SCALE)) if config.loss == "bce" else None

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        cells_NCHW, sounds_NC = self.encode(*self.pairs(mixture))
        if self.scale is None:
            loss, signs = self._among_all(cells_NCHW, sounds_NC)
        else:
            loss, signs = self._two_by_two(self.scale, cells_NCHW, sounds_NC)
        spreads = {
            "image_spread": embedding_variance(cells_NCHW.movedim(1, -1)),
            "sound_spread": embedding_variance(sounds_NC),
        }
        return loss, {"loss": loss.detach()} | signs | spreads

    def _two_by_two(self, scale: Tensor, cells_NCHW: Tensor, sounds_NC: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        heard_N2C = torch.stack([sounds_NC, next_rows_as_negatives(sounds_NC)], dim=1)
        logits_N2 = (scale * cell_scores(cells_NCHW[:, None], heard_N2C)[:, 0]).amax((2, 3))
        own_N, other_N = logits_N2.unbind(1)
        right = 0.5 * ((own_N > 0).float().mean() + (other_N < 0).float().mean())
        return bce_loss(own_N, other_N), {"accuracy": right.detach(), "scale": scale.detach()}

    def _among_all(self, cells_NCHW: Tensor, sounds_NC: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        phi_NM = similarity(cells_NCHW[None], all_gather_with_grad(sounds_NC)[None])[0]
        own_N = global_indices(sounds_NC)
        right = (phi_NM.argmax(1) == own_N).float().mean()
        signs = {"accuracy": right, "temperature": phi_NM.new_tensor(self.config.temperature)}
        return infonce_loss(phi_NM, own_N, self.config.temperature), signs

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """One map for all sounds: sigmoid(scale x cosine) as released; the cosine itself where no scale is learned."""
        maps = super().forward_heatmaps(scenes)
        return maps if self.scale is None else HeatMaps((self.scale * maps.maps_NMHW).sigmoid())


class ObjectsThatSoundMix(ObjectsThatSound):
    """OTS whose pair is a group: its k frames side by side, and its mixed sound; a negative is another group's mix.

    How the frames are concatenated is not published: side by side is how the paper's own test canvas is built.
    """

    requirements: ClassVar[DataRequirements] = DataRequirements()
    config: ObjectsThatSoundMixConfig

    def pairs(self, mixture: MixtureBatch) -> tuple[Tensor, Tensor]:
        """Composites (N, 3, Y, k X) and mixed sounds (N, T, F), one a group: N = B."""
        return torch.cat(mixture.frames_BK3YX.unbind(1), dim=-1), mixture.mixture_BTF
