"""The contract of a method: what it needs of a row, a loss that is its forward pass, and maps for scenes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from raymix.config import Encoder, MethodConfig
from raymix.mixture import Mixture
from raymix.rules import method_config_problems, range_problems
from raymix.scene import Scenes


@dataclass(frozen=True)
class Needs:
    """What a method reads of each clip; what it does not ask for never reaches it (labels are not even read)."""

    frames: int = 1  # different ones of a clip: the first in `frames_BK3YX`, the others in `more_BKF3YX`
    windows: int = 1  # 2: also the shifted view, `shifted_BTF`
    sources: bool = False  # the sounds before they are mixed, `sources_BKTF`
    labels: bool = False  # class names of training clips, in `after_epoch` alone


@dataclass(frozen=True)
class Maps:
    """Raw scores of a method on N scenes: float32 (N, M, H, W), one map per node or class, nothing normalised.

    Where the maps are those of classes, `loudness_NM` says how much of each class is heard.
    """

    maps_NMHW: Tensor
    classes: list[str] | None = None  # what the M maps are called; None where they are anonymous nodes
    loudness_NM: Tensor | None = None

    def heard(self, count: int) -> Tensor:
        """The maps to hold against `count` sources of unknown class: all nodes, or the `count` loudest classes."""
        if self.loudness_NM is None or self.maps_NMHW.shape[1] <= count:
            return self.maps_NMHW
        best_NK = self.loudness_NM.topk(count, dim=1).indices
        return self.maps_NMHW.gather(1, best_NK[:, :, None, None].expand(-1, -1, *self.maps_NMHW.shape[2:]))


@dataclass(frozen=True)
class Examples:
    """Training clips as they are, for `after_epoch`: whole frames, the window in the middle, nothing mixed."""

    frames_N3YX: Tensor  # float32 in [0, 1]
    sounds_NTF: Tensor  # complex64
    place_N: Tensor  # int64, where each clip stands in the whole training set: an order for all ranks together
    labels: list[str]  # '' where it is unknown, and everywhere unless `needs.labels`

    def to(self, device: torch.device | str) -> Examples:
        """The same clips on another device."""
        return replace(
            self,
            frames_N3YX=self.frames_N3YX.to(device),
            sounds_NTF=self.sounds_NTF.to(device),
            place_N=self.place_N.to(device),
        )


class Method(nn.Module, ABC):
    """A system that learns from mixtures; constructed as `Method(k, config, encoder)`; every parameter gets a gradient.

    What a method learns besides its parameters lies in buffers, or in `get_extra_state` as one tensor: a checkpoint
    keeps both, so a run that was killed goes on where it was.
    """

    needs: ClassVar[Needs]
    late: ClassVar[bool] = (
        False  # its maps name no source before a later stage: who stops a trial early has seen nothing
    )

    def __init__(self, k: int, config: MethodConfig, encoder: Encoder) -> None:
        super().__init__()
        if problems := [*method_config_problems(config), *range_problems(encoder, "encoder.")]:
            raise ValueError(problems[0])
        self.k, self.config = k, config

    @abstractmethod
    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar that DDP's hooks can follow) and detached scalars that tell how training goes.

        Negatives are those of all ranks (`distributed.gather`), so that the number of workers changes no loss.
        """

    @abstractmethod
    def map_scenes(self, scenes: Scenes) -> Maps:
        """Maps of scenes, in evaluation mode and without gradient; `localise` sees to both."""

    def after_epoch(self, epoch: int, epochs: int, examples: Callable[[], Iterator[Examples]]) -> None:
        """What a method with stages does between epochs (`epoch` of `epochs` is done); most do nothing.

        Every rank calls it, on its own share of the clips (`examples()`, on the method's device); it comes before the
        epoch's checkpoint and its scores.
        """

    @torch.no_grad()
    def localise(self, scenes: Scenes) -> Maps:
        """Maps of scenes, which lie on the method's device; in evaluation mode, whatever mode the method is in."""
        if not self.training:  # each change of mode walks through every module
            return self.map_scenes(scenes)
        self.eval()
        try:
            return self.map_scenes(scenes)
        finally:
            self.train()


def spread(unit_XC: Tensor) -> Tensor:
    """Total variance of unit vectors over all axes but the last: 0 where all are one vector (collapse), at most 1."""
    return (1 - unit_XC.detach().float().flatten(0, -2).mean(0).square().sum()).clamp(min=0)
