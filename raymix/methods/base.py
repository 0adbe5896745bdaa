"""Base classes of methods: `Method`, `MixtureMethod` (k sound nodes of a mixture), `SingleSourceMethod` (frame and own audio).

`SingleSourceMethod` treats each clip of a batch as a pair of frame and sound, so `mixture.k` changes nothing for its
subclasses. `MultipleInstanceContrastive` is shared by EZ-VSL and FNAC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import (
    EncoderConfig,
    EzVslConfig,
    FnacConfig,
    MethodConfig,
    MixAndLocalizeConfig,
    MixtureMethodConfig,
    method_config_problems,
    range_problems,
)
from raymix.data.audio import log_mel_spectrogram
from raymix.data.batches import ClipBatch, DataRequirements, HeatMaps, MixtureBatch, SceneBatch
from raymix.methods.encoders import AudioEncoder, ImageEncoder
from raymix.methods.random_walk import cell_scores, log_image_to_sound, log_sound_to_image, similarity
from raymix.runtime.distributed import all_gather_with_grad, global_offset, world_size


class Method(nn.Module, ABC):
    """A system that learns from mixtures; constructed as `Method(k, config, encoder)`; every parameter gets a gradient.

    What a method learns besides its parameters lies in buffers, or in `get_extra_state` as one tensor: a checkpoint
    keeps both, so a run that was killed goes on where it was.
    """

    requirements: ClassVar[DataRequirements]
    supports_early_stopping: ClassVar[bool] = (
        True  # False: the first stages train no heatmaps, early scores mean nothing
    )

    def __init__(self, k: int, config: MethodConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        if problems := [*method_config_problems(config), *range_problems(encoder, "encoder.")]:
            raise ValueError(problems[0])
        self.k, self.config = k, config

    @abstractmethod
    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar that DDP's hooks can follow) and detached scalars that tell how training goes.

        Negatives are those of all ranks (`distributed.all_gather_with_grad`), so that the number of workers changes no loss.
        """

    @abstractmethod
    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """Heatmaps of scenes. `predict_heatmaps` calls it in evaluation mode, its callers without gradient."""

    def on_epoch_end(self, epoch: int, epochs: int, examples: Callable[[], Iterator[ClipBatch]]) -> None:
        """What a method with stages does between epochs (`epoch` of `epochs` is done); most do nothing.

        Every rank calls it, on its own share of the clips (`examples()`, on the method's device); it comes before the
        epoch's checkpoint and its scores.
        """

    @torch.no_grad()
    def predict_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """Maps of scenes, which lie on the method's device; in evaluation mode, whatever mode the method is in."""
        if not self.training:  # each change of mode walks through every module
            return self.forward_heatmaps(scenes)
        self.eval()
        try:
            return self.forward_heatmaps(scenes)
        finally:
            self.train()


def embedding_variance(unit_XC: Tensor) -> Tensor:
    """Total variance of unit vectors over all axes but the last: 0 where all are one vector (collapse), at most 1."""
    return (1 - unit_XC.detach().float().flatten(0, -2).mean(0).square().sum()).clamp(min=0)


class MixtureMethod(Method):
    """Encoders of images and of k sound nodes; a subclass brings the loss.

    Raises ValueError for a setting out of range.
    """

    requirements: ClassVar[DataRequirements] = DataRequirements()

    config: MixtureMethodConfig

    def __init__(self, k: int, config: MixtureMethodConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.image = ImageEncoder(encoder, config.embedding_size)
        self.audio = AudioEncoder(k, encoder, config.embedding_size, batch_norm=config.node_norm == "batch")

    def encode_images(self, frames_BK3YX: Tensor) -> Tensor:
        """Unit embeddings of the cells of every frame, (B, K, C, H, W); ValueError for groups of another size than k."""
        if frames_BK3YX.shape[1] != self.k:
            raise ValueError(f"mixture.k={frames_BK3YX.shape[1]}: this model has {self.k} nodes")
        map_BKCHW: Tensor = self.image(frames_BK3YX.flatten(0, 1)).unflatten(0, frames_BK3YX.shape[:2])
        return map_BKCHW

    def encode_audio(self, *views_BTF: Tensor) -> tuple[Tensor, ...]:
        """The k nodes of each view, (B, K, C); one batch for all views, so that BatchNorm sees them alike and each head
        keeps its node."""
        return self.audio(log_mel_spectrogram(torch.cat(views_BTF))).chunk(len(views_BTF))

    def similarity(self, map_BKCHW: Tensor, nodes_BMC: Tensor) -> Tensor:
        """Eq. 1, (B, J, I): how well image j fits sound i."""
        return similarity(map_BKCHW, nodes_BMC, self.config.pool, self.config.pool_sharpness)

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """Every cell of the whole canvas against each node; the scenes may hold any number of sources."""
        map_NCHW = self.image(scenes.frames_N3YX.float() / 255)
        nodes_NKC = self.audio(log_mel_spectrogram(scenes.mixture_NTF))
        return HeatMaps(cell_scores(map_NCHW[:, None], nodes_NKC)[:, 0])

    def diagnostics(self, loss: Tensor, map_BKCHW: Tensor, nodes_BKC: Tensor) -> dict[str, Tensor]:
        """Diagnostics of collapse: a loss may be low though sound embeddings or cells are constant."""
        temperature = (
            {"temperature": loss.new_tensor(self.config.temperature)}
            if isinstance(self.config, MixAndLocalizeConfig)
            else {}
        )
        return {
            "loss": loss.detach(),
            **temperature,
            "image_spread": embedding_variance(map_BKCHW.movedim(2, -1)),
            "sound_spread": torch.stack(
                [embedding_variance(node_BC) for node_BC in nodes_BKC.unbind(1)]
            ).mean(),  # over mixtures
        }


class SingleSourceMethod(Method):
    """Unit embeddings of the cells of a frame and of its sound; the map is their cosine (another in a subclass)."""

    requirements: ClassVar[DataRequirements] = DataRequirements(sources=True)

    def __init__(self, k: int, config: MethodConfig, encoder: EncoderConfig, embedding_size: int = 0) -> None:
        super().__init__(k, config, encoder)
        self.image = ImageEncoder(encoder, embedding_size)
        self.audio = AudioEncoder(1, encoder, embedding_size)

    def pairs(self, mixture: MixtureBatch) -> tuple[Tensor, Tensor]:
        """The frames (N, 3, Y, X) and the sounds (N, T, F) of a batch, clip by clip: N = B x K."""
        if mixture.sources_BKTF is None:
            raise ValueError(
                f"{type(self).__name__} needs the single sounds (sources_BKTF), and this batch has only their mixture"
            )
        return mixture.frames_BK3YX.flatten(0, 1), mixture.sources_BKTF.flatten(0, 1)

    def encode(self, frames_N3YX: Tensor, sounds_NTF: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings of cells (N, C, H, W) and of sounds (N, C)."""
        return self.image(frames_N3YX), self.audio(log_mel_spectrogram(sounds_NTF))[:, 0]

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        cells_NCHW, sounds_NC = self.encode(scenes.frames_N3YX.float() / 255, scenes.mixture_NTF)
        return HeatMaps(cell_scores(cells_NCHW[:, None], sounds_NC[:, None])[:, 0])


def contrastive_loss(own_N: Tensor, other_N: Tensor, margin: float) -> Tensor:
    """Mean over N pairs that belong together and N that do not of .5 (y d^2 + (1 - y) max(0, margin - d)^2).

    Given are *squared* distances. 1e-9 under the root, as in the code of the comparisons of Hu et al. 2020 (DSOL): pairs at
    distance 0 get a finite gradient.
    """
    with torch.autocast(own_N.device.type, enabled=False):
        short_N = F.relu(margin - (other_N.float() + 1e-9).sqrt())
        return 0.25 * (own_N.float().mean() + short_N.square().mean())


COSINE_SCALE = 5.0  # where the weight of the 1x1 convolution starts


def bce_loss(own_N: Tensor, other_N: Tensor) -> Tensor:
    """Binary cross-entropy of N logits of pairs that belong together and N of pairs that do not, mean over all 2 N.

    A logit is the largest cell of scale x cosine, without bias: a pair that does not belong together must reach a negative
    cosine in *every* cell to be distinguished.
    """
    with torch.autocast(own_N.device.type, enabled=False):
        return 0.5 * (F.softplus(-own_N.float()).mean() + F.softplus(other_N.float()).mean())


def dropout_across_ranks(cells_NCHW: Tensor, rate: float) -> Tensor:
    """Dropout whose mask is drawn for the batch of all ranks, of which this one takes its rows.

    Ranks that start from one seed, as workers do, so drop what one process with the whole batch would.
    """
    if rate == 0:
        return cells_NCHW
    count = len(cells_NCHW)
    chance = torch.rand(count * world_size(), *cells_NCHW.shape[1:], device=cells_NCHW.device)
    kept = chance[global_offset(count) : global_offset(count) + count] >= rate
    return cells_NCHW * kept / (1 - rate)


def symmetric_contrastive_loss(phi_MM: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of M frames over the sounds, and of M sounds over the frames; the pairs are on the diagonal."""
    with torch.autocast(phi_MM.device.type, enabled=False):
        sound_of_image_M = log_image_to_sound(phi_MM[None], temperature)[0].diagonal()
        image_of_sound_M = log_sound_to_image(phi_MM[None], temperature)[0].diagonal()
        return -sound_of_image_M.mean(), -image_of_sound_M.mean()


class MultipleInstanceContrastive(SingleSourceMethod):
    """Base class of EZ-VSL and FNAC: one linear projection per modality, of cells and of globally max-pooled sounds."""

    config: EzVslConfig | FnacConfig

    def __init__(self, k: int, config: EzVslConfig | FnacConfig, encoder: EncoderConfig) -> None:
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
