"""EZ-VSL (Mo and Morgado 2022, "Localizing Visual Sounds the Easy Way"): the best cell of a frame answers for the frame.

Multiple-instance contrastive learning: cosines, of each frame and sound the largest, and cross-entropy over the sounds and
over the frames of a batch. At test the authors mix in what ImageNet features alone say (an "object-guided" map that
hears nothing); raymix does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.distributed import gather, place, ranks
from raymix.encoders import FULL_WIDTH
from raymix.methods.method import spread
from raymix.methods.pairs import Pairs
from raymix.mixture import Mixture
from raymix.spectrogram import log_mel
from raymix.walk import log_image_to_sound, log_sound_to_image, similarity


def both_ways(phi_MM: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of M frames over the sounds, and of M sounds over the frames; the pairs are on the diagonal."""
    with torch.autocast(phi_MM.device.type, enabled=False):
        sound_of_image_M = log_image_to_sound(phi_MM[None], temperature)[0].diagonal()
        image_of_sound_M = log_sound_to_image(phi_MM[None], temperature)[0].diagonal()
        return -sound_of_image_M.mean(), -image_of_sound_M.mean()


def dropped(cells_NCHW: Tensor, rate: float) -> Tensor:
    """Dropout whose mask is drawn for the batch of all ranks, of which this one takes its rows.

    Ranks that start from one seed, as workers do, so drop what one process with the whole batch would.
    """
    if rate == 0:
        return cells_NCHW
    count = len(cells_NCHW)
    chance = torch.rand(count * ranks(), *cells_NCHW.shape[1:], device=cells_NCHW.device)
    kept = chance[place(count) : place(count) + count] >= rate
    return cells_NCHW * kept / (1 - rate)


def refuse_out_of_range(embedding_size: int, temperature: float, image_dropout: float) -> None:
    """ValueError for a knob that this family has in common and that is out of range."""
    if embedding_size < 1:
        raise ValueError(f"embedding_size={embedding_size}: must be at least 1")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: must be greater than 0")
    if not 0 <= image_dropout < 1:
        raise ValueError(f"image_dropout={image_dropout}: must be at least 0 and below 1")


class EzVsl(Pairs):
    """Knobs default to the released code's; one linear projection a modality, of sounds after their global maximum.

    `image_dropout`, of the trunk's cells before they are projected, is not in EZ-VSL: its successors set it to .9. Released:
    a trunk at stride 32 (49 cells of 224 pixels), here 16 as for all systems; and projections that start from normal
    distributions, here as torch's do.
    Raises ValueError for a knob out of range.
    """

    def __init__(
        self,
        k: int,
        *,
        width: int = FULL_WIDTH,
        blocks: int = 2,
        stages: int = 4,
        embedding_size: int = 512,
        temperature: float = 0.03,
        image_dropout: float = 0.0,
        weights: str | None = None,
    ) -> None:
        refuse_out_of_range(embedding_size, temperature, image_dropout)
        super().__init__(k, width=width, blocks=blocks, stages=stages, embedding_size=0, weights=weights)
        self.temperature, self.image_dropout = temperature, image_dropout
        self.visual = nn.Conv2d(self.image.channels, embedding_size, 1)
        self.acoustic = nn.Linear(self.image.channels, embedding_size)

    def encode(self, frames_N3YX: Tensor, sounds_NTF: Tensor) -> tuple[Tensor, Tensor]:
        cells_NCHW = dropped(self.image.features(frames_N3YX), self.image_dropout if self.training else 0.0)
        pooled_NC = self.audio.features(log_mel(sounds_NTF)).amax((2, 3))
        return F.normalize(self.visual(cells_NCHW).float(), dim=1), F.normalize(self.acoustic(pooled_NC).float(), dim=1)

    def contrast(self, cells_NCHW: Tensor, sounds_MC: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of cells of this rank with sounds of all ranks, its signs, and phi of all frames and sounds (M, M)."""
        phi_MM = gather(similarity(cells_NCHW[None], sounds_MC[None])[0])
        image_to_sound, sound_to_image = both_ways(phi_MM, self.temperature)
        loss = image_to_sound + sound_to_image
        right_M = phi_MM.detach().argmax(1) == torch.arange(len(phi_MM), device=phi_MM.device)
        return (
            loss,
            {
                "loss": loss.detach(),
                "image_to_sound": image_to_sound.detach(),
                "sound_to_image": sound_to_image.detach(),
                "accuracy": right_M.float().mean(),
                "temperature": loss.new_tensor(self.temperature),
                "image_spread": spread(cells_NCHW.movedim(1, -1)),
                "sound_spread": spread(sounds_MC),
            },
            phi_MM,
        )

    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        cells_NCHW, sounds_NC = self.encode(*self.pairs(mixture))
        loss, signs, _ = self.contrast(cells_NCHW, gather(sounds_NC))
        return loss, signs
