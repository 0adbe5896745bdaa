"""Mix and Localize ("Ours") and its ablations ISI, Corre and Permute (Table 3, section 4.5): one model, four losses."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from raymix.config import (
    ImageSoundImageWalkConfig,
    MixAndLocalizeConfig,
    MixedCorrespondenceConfig,
    PermutationInvariantMatchingConfig,
)
from raymix.data.batches import DataRequirements, MixtureBatch
from raymix.methods.base import MixtureMethod
from raymix.methods.random_walk import (
    cycle_loss,
    image_cycle_loss,
    log_image_to_sound,
    log_sound_to_image,
    mixed_correspondence_loss,
    permutation_invariant_loss,
)
from raymix.runtime.distributed import all_gather_with_grad, global_indices


class MixAndLocalize(MixtureMethod):
    """The paper's method: cycle-consistent walks from each sound to the images and back, with a shifted second view (Eq. 4).

    Each group of k clips is a graph of k images and k sound nodes of their mixture."""

    requirements: ClassVar[DataRequirements] = DataRequirements(windows=2)
    config: MixAndLocalizeConfig

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if mixture.shifted_BTF is None:
            raise ValueError("MixAndLocalize needs two views of the mixture (shifted_BTF), and this batch has one")
        map_BKCHW = self.encode_images(mixture.frames_BK3YX)
        nodes_BKC, shifted_BKC = self.encode_audio(mixture.mixture_BTF, mixture.shifted_BTF)
        phi_BJI = self.similarity(map_BKCHW, nodes_BKC)
        loss = cycle_loss(phi_BJI, self.similarity(map_BKCHW, shifted_BKC), self.config.temperature)
        return loss, self.diagnostics(loss, map_BKCHW, nodes_BKC) | self._walk(phi_BJI.detach())

    @torch.no_grad()
    def transitions(self, frames_BK3YX: Tensor, mixture_BTF: Tensor) -> tuple[Tensor, Tensor]:
        """Figure 6: A_SI as (B, I, J) and A_IS as (B, J, I), in evaluation mode, one view of the sound for both steps."""
        training = self.training
        self.eval()
        try:
            (nodes_BKC,) = self.encode_audio(mixture_BTF)
            phi_BJI = self.similarity(self.encode_images(frames_BK3YX), nodes_BKC)
        finally:
            self.train(training)
        out_BIJ, home_BJI = (
            step(phi_BJI, self.config.temperature).exp() for step in (log_sound_to_image, log_image_to_sound)
        )
        return out_BIJ, home_BJI

    def _walk(self, phi_BJI: Tensor) -> dict[str, Tensor]:
        """Diagnostics of the walk: mean return probability, and share of groups whose nodes go to k different images."""
        walk_BIJ = log_sound_to_image(phi_BJI, self.config.temperature).exp()
        home_BI = (walk_BIJ * log_image_to_sound(phi_BJI, self.config.temperature).exp().transpose(1, 2)).sum(-1)
        goal_BI = walk_BIJ.argmax(-1).sort(-1).values
        permuted = (goal_BI == torch.arange(self.k, device=goal_BI.device)).all(-1)
        return {
            "return_probability": home_BI.mean(),  # 1/k is chance
            "permutation": permuted.float().mean(),  # share of groups whose nodes go to k different images
        }


class ImageSoundImageWalk(MixtureMethod):
    """Ablation ISI: walks from a frame of each clip to the sounds and back to another frame of the same clip (Eq. 6)."""

    requirements: ClassVar[DataRequirements] = DataRequirements(frames=2)
    config: ImageSoundImageWalkConfig

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if mixture.more_BKF3YX is None:
            raise ValueError("ImageSoundImageWalk needs two frames of each clip (more_BKF3YX), and this batch has one")
        map_BKCHW, again_BKCHW = (
            self.encode_images(mixture.frames_BK3YX),
            self.encode_images(mixture.more_BKF3YX[:, :, 0]),
        )
        (nodes_BKC,) = self.encode_audio(mixture.mixture_BTF)
        loss = image_cycle_loss(
            self.similarity(map_BKCHW, nodes_BKC), self.similarity(again_BKCHW, nodes_BKC), self.config.temperature
        )
        return loss, self.diagnostics(loss, map_BKCHW, nodes_BKC)


class MixedCorrespondence(MixtureMethod):
    """An image shall find the nodes of its own mixture among those of all mixtures, on all workers."""

    config: MixedCorrespondenceConfig

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        map_BKCHW = self.encode_images(mixture.frames_BK3YX)
        (nodes_BKC,) = self.encode_audio(mixture.mixture_BTF)
        every_1MC = all_gather_with_grad(nodes_BKC).flatten(0, 1)[
            None
        ]  # each rank holds its own images against all nodes
        phi_NM = self.similarity(map_BKCHW.flatten(0, 1)[None], every_1MC)[0]
        own_N = global_indices(nodes_BKC).repeat_interleave(self.k)
        loss = mixed_correspondence_loss(phi_NM, own_N, self.k, self.config.temperature)
        return loss, self.diagnostics(loss, map_BKCHW, nodes_BKC)


class PermutationInvariantMatching(MixtureMethod):
    """No temperature and no negatives: on collapse the loss is -k, and no source is distinguished.

    Then `sound_spread` falls to 0 (all sound embeddings are equal); not with `node_norm=batch`, which keeps the nodes of a batch
    apart whatever they say: there the loss and the chance score show it.
    """

    config: PermutationInvariantMatchingConfig

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        map_BKCHW = self.encode_images(mixture.frames_BK3YX)
        (nodes_BKC,) = self.encode_audio(mixture.mixture_BTF)
        loss = permutation_invariant_loss(self.similarity(map_BKCHW, nodes_BKC))
        return loss, self.diagnostics(loss, map_BKCHW, nodes_BKC)
