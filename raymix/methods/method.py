"""The contract of a method: what it needs of a row, a loss that is its forward pass, and maps for scenes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raymix.mixture import Mixture
from raymix.scene import Scenes


@dataclass(frozen=True)
class Needs:
    """What a method reads of each clip: frames and sound windows, whether k frames in one picture, whether labels."""

    frames: int = 1
    windows: int = 1
    composites: bool = False
    labels: bool = False


@dataclass(frozen=True)
class Maps:
    """Raw scores of a method on N scenes: float32 (N, M, H, W), one map per node or class, nothing normalised."""

    maps_NMHW: Tensor
    classes: list[str] | None = None  # what the M maps are called; None where they are anonymous nodes


class Method(nn.Module, ABC):
    """A system that learns from mixtures; constructed as `Method(k, **knobs)`, every parameter gets a gradient."""

    needs: ClassVar[Needs]

    @abstractmethod
    def forward(self, mixture: Mixture) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar that DDP's hooks can follow) and detached scalars that tell how training goes."""

    @abstractmethod
    def map_scenes(self, scenes: Scenes) -> Maps:
        """Maps of scenes, in evaluation mode and without gradient; `localise` sees to both."""

    @torch.no_grad()
    def localise(self, scenes: Scenes) -> Maps:
        """Maps of scenes, which lie on the method's device; in evaluation mode, whatever mode the method is in."""
        training = self.training
        self.eval()
        try:
            return self.map_scenes(scenes)
        finally:
            self.train(training)
