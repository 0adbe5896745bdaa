"""EZ-VSL (Mo and Morgado 2022, "Localizing Visual Sounds the Easy Way"): the best cell of a frame answers for the frame.

Multiple-instance contrastive learning: cosines, of each frame and sound the largest, and cross-entropy over the sounds and
over the frames of a batch. At test the authors mix in what ImageNet features alone say (an "object-guided" map that
hears nothing); raymix does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import EncoderConfig, EzVslConfig
from raymix.data.audio import log_mel_spectrogram
from raymix.data.batches import MixtureBatch
from raymix.methods.base import SingleSourceMethod, dropout_across_ranks, embedding_variance
from raymix.methods.random_walk import log_image_to_sound, log_sound_to_image, similarity
from raymix.runtime.distributed import all_gather_with_grad


def symmetric_contrastive_loss(phi_MM: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of M frames over the sounds, and of M sounds over the frames; the pairs are on the diagonal."""
    with torch.autocast(phi_MM.device.type, enabled=False):
        sound_of_image_M = log_image_to_sound(phi_MM[None], temperature)[0].diagonal()
        image_of_sound_M = log_sound_to_image(phi_MM[None], temperature)[0].diagonal()
        return -sound_of_image_M.mean(), -image_of_sound_M.mean()


class EasyVisualSoundLocalization(SingleSourceMethod):
    """Knobs default to the released code's; one linear projection a modality, of sounds after their global maximum.

    `image_dropout`, of the trunk's cells before they are projected, is not in EZ-VSL: its successors set it to .9. Released:
    a trunk at stride 32 (49 cells of 224 pixels), here 16 as for all systems; and projections that start from normal
    distributions, here as torch's do.
    Raises ValueError for a knob out of range.
    """

    config: EzVslConfig

    def __init__(self, k: int, config: EzVslConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.visual = nn.Conv2d(self.image.channels, config.embedding_size, 1)
        self.acoustic = nn.Linear(self.image.channels, config.embedding_size)

    def encode(self, frames_N3YX: Tensor, sounds_NTF: Tensor) -> tuple[Tensor, Tensor]:
        cells_NCHW = dropout_across_ranks(
            self.image.features(frames_N3YX), self.config.image_dropout if self.training else 0.0
        )
        pooled_NC = self.audio.features(log_mel_spectrogram(sounds_NTF)).amax((2, 3))
        return F.normalize(self.visual(cells_NCHW).float(), dim=1), F.normalize(self.acoustic(pooled_NC).float(), dim=1)

    def contrast(self, cells_NCHW: Tensor, sounds_MC: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of cells of this rank with sounds of all ranks, its signs, and phi of all frames and sounds (M, M)."""
        phi_MM = all_gather_with_grad(similarity(cells_NCHW[None], sounds_MC[None])[0])
        image_to_sound, sound_to_image = symmetric_contrastive_loss(phi_MM, self.config.temperature)
        loss = image_to_sound + sound_to_image
        right_M = phi_MM.detach().argmax(1) == torch.arange(len(phi_MM), device=phi_MM.device)
        return (
            loss,
            {
                "loss": loss.detach(),
                "image_to_sound": image_to_sound.detach(),
                "sound_to_image": sound_to_image.detach(),
                "accuracy": right_M.float().mean(),
                "temperature": loss.new_tensor(self.config.temperature),
                "image_spread": embedding_variance(cells_NCHW.movedim(1, -1)),
                "sound_spread": embedding_variance(sounds_MC),
            },
            phi_MM,
        )

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        cells_NCHW, sounds_NC = self.encode(*self.pairs(mixture))
        loss, signs, _ = self.contrast(cells_NCHW, all_gather_with_grad(sounds_NC))
        return loss, signs
