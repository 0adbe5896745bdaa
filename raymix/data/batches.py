"""Batches that pass between data, methods and metrics: mixtures, scenes, heat maps, clips, and what a method requires of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class MixtureBatch:
    """B groups of K clips: a frame of each, and two views of their mixed sound."""

    frames_BK3YX: Tensor  # float32 in [0, 1], augmented
    mixture_BTF: Tensor  # complex64
    shifted_BTF: Tensor | None = None  # complex64: view 2, windows shifted independently
    sources_BKTF: Tensor | None = None  # complex64, what was added up for view 1
    more_BKF3YX: Tensor | None = None  # float32 in [0, 1]: F further frames of each clip, each cropped on its own

    def to(self, device: torch.device | str) -> MixtureBatch:
        """The same batch on another device; to a GPU, what is pinned travels without making Python wait."""
        behind = torch.device(device).type == "cuda"
        return self._each(lambda tensor: tensor.to(device, non_blocking=behind))

    def pin(self) -> MixtureBatch:
        """The same batch in page-locked memory, from which a GPU fetches it in its own time."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> MixtureBatch:
        rest = (self.shifted_BTF, self.sources_BKTF, self.more_BKF3YX)
        changed = (None if tensor is None else change(tensor) for tensor in rest)
        return MixtureBatch(change(self.frames_BK3YX), change(self.mixture_BTF), *changed)


@dataclass(frozen=True)
class SceneBatch:
    """N evaluation scenes of one layout; the truth stays on the CPU."""

    layout: str
    ids: list[str]
    videos: list[tuple[str, ...]]  # the sounding clips' videos in panel order, then the silent ones'; of a duet, one
    frames_N3YX: Tensor  # uint8 canvas
    mixture_NTF: Tensor  # complex64
    panels_NS: Tensor  # int64, panel of each sounding source, ascending; all 0 in a duet
    rects_P4: Tensor  # int64, panels as x0, y0, x1, y1 in canvas pixels, row-major
    masks_NSYX: Tensor | None  # bool, where each sounding source is on the canvas
    has_truth_N: Tensor | None  # bool, every sounding panel has a region
    hash: str  # of layout or pair list, seed, ids, clips, windows, mixing rule and level; not of the frames' size
    labels: list[tuple[str, ...]] | None = None  # the class of each source, '' where it is unknown; for scoring alone
    preprocessing: str = ""  # hash of the settings that made the clips
    halves_NSYX: Tensor | None = (
        None  # bool, pixels beside the masks that one annotator alone has; None: there are none
    )

    def __len__(self) -> int:
        return len(self.ids)

    def with_audio(self, index_N: Sequence[int] | Tensor) -> SceneBatch:
        """The same scenes, scene i with the audio of scene `index_N[i]`."""
        return replace(self, mixture_NTF=self.mixture_NTF[torch.as_tensor(index_N, device=self.mixture_NTF.device)])

    def silent(self) -> SceneBatch:
        """The same scenes with digital silence as audio."""
        return replace(self, mixture_NTF=torch.zeros_like(self.mixture_NTF))

    def batches(self, size: int) -> Iterator[SceneBatch]:
        """These scenes in order, `size` at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield replace(
                self,
                ids=self.ids[part],
                videos=self.videos[part],
                frames_N3YX=self.frames_N3YX[part],
                mixture_NTF=self.mixture_NTF[part],
                panels_NS=self.panels_NS[part],
                masks_NSYX=None if self.masks_NSYX is None else self.masks_NSYX[part],
                halves_NSYX=None if self.halves_NSYX is None else self.halves_NSYX[part],
                has_truth_N=None if self.has_truth_N is None else self.has_truth_N[part],
                labels=None if self.labels is None else self.labels[part],
            )

    def to(self, device: torch.device | str) -> SceneBatch:
        """What a model reads (canvas and sound) on another device."""
        return replace(self, frames_N3YX=self.frames_N3YX.to(device), mixture_NTF=self.mixture_NTF.to(device))


@dataclass(frozen=True)
class DataRequirements:
    """What a method reads of each clip; what it does not ask for never reaches it (labels are not even read)."""

    frames: int = 1  # different ones of a clip: the first in `frames_BK3YX`, the others in `more_BKF3YX`
    windows: int = 1  # 2: also the shifted view, `shifted_BTF`
    sources: bool = False  # the sounds before they are mixed, `sources_BKTF`
    labels: bool = False  # class names of training clips, in `on_epoch_end` alone


@dataclass(frozen=True)
class HeatMaps:
    """Raw scores of a method on N scenes: float32 (N, M, H, W), one map per node or class, nothing normalised.

    Where the maps are those of classes, `loudness_NM` says how much of each class sounds.
    """

    maps_NMHW: Tensor
    classes: list[str] | None = None  # what the M maps are called; None where they are anonymous nodes
    loudness_NM: Tensor | None = None

    def top_k_maps(self, count: int) -> Tensor:
        """The maps to hold against `count` sources of unknown class: all nodes, or the `count` loudest classes."""
        if self.loudness_NM is None or self.maps_NMHW.shape[1] <= count:
            return self.maps_NMHW
        best_NK = self.loudness_NM.topk(count, dim=1).indices
        return self.maps_NMHW.gather(1, best_NK[:, :, None, None].expand(-1, -1, *self.maps_NMHW.shape[2:]))


@dataclass(frozen=True)
class ClipBatch:
    """Training clips as they are, for `on_epoch_end`: whole frames, the window in the middle, nothing mixed."""

    frames_N3YX: Tensor  # float32 in [0, 1]
    sounds_NTF: Tensor  # complex64
    global_index_N: Tensor  # int64, where each clip stands in the whole training set: an order for all ranks together
    labels: list[str]  # '' where it is unknown, and everywhere unless `DataRequirements.labels`

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same clips on another device."""
        return replace(
            self,
            frames_N3YX=self.frames_N3YX.to(device),
            sounds_NTF=self.sounds_NTF.to(device),
            global_index_N=self.global_index_N.to(device),
        )
