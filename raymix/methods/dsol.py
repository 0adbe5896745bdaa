"""DSOL (Hu et al. 2020, "Discriminative Sounding Objects Localization via Self-supervised Audiovisual Matching").

Stage 1, on single sources: Objects that Sound by cross-entropy; what it finds in the frames is clustered, and both networks
learn to name the clusters. Stage 2, on composites of k frames of which half are heard: cells compared with the mean
object of each cluster must predict the cluster that the network of stage 1 assigns to the sound. Labels only name the clusters:
"semi-supervised" in Table 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import DsolConfig, EncoderConfig
from raymix.data.audio import log_mel_spectrogram
from raymix.data.batches import ClipBatch, DataRequirements, HeatMaps, MixtureBatch, SceneBatch
from raymix.methods.base import COSINE_SCALE, SingleSourceMethod, bce_loss, embedding_variance
from raymix.methods.encoders import AudioEncoder
from raymix.methods.label_matching import (
    LabelMatching,
    collect_features,
    kmeans_clusters,
    match_labels,
    pack_state,
    unpack_state,
)
from raymix.methods.random_walk import cell_scores
from raymix.runtime.distributed import broadcast_from_rank_zero, global_offset, next_rows_as_negatives

GRID_SHAPES = {1: (1, 1), 2: (1, 2), 3: (2, 2), 4: (2, 2)}  # rows and columns of a composite of k frames

STRIDE = 7  # between the arrangements of neighbouring composites: coprime to 2 and to 24


def compose_grid(frames_BK3YX: Tensor, first: int = 0) -> Tensor:
    """K frames of each group in a grid (B, 3, rows Y, columns X): 1x1, 1x2, or 2x2, with a black panel for K = 3.

    Which frame lies where goes through all arrangements, by the place of the group in the batch of all ranks (`first` is
    that of this rank's first): no panel is the one that sounds. Panels keep their size (released: 2x2 at half of it).
    """
    count, k = frames_BK3YX.shape[:2]
    rows, columns = GRID_SHAPES[k]
    panels_BP3YX = F.pad(frames_BK3YX, (0, 0) * 3 + (0, rows * columns - k))
    ways = list(itertools.permutations(range(rows * columns)))
    order_BP = torch.tensor([ways[STRIDE * (first + b) % len(ways)] for b in range(count)], device=frames_BK3YX.device)
    panels_BP3YX = panels_BP3YX[torch.arange(count, device=frames_BK3YX.device)[:, None], order_BP]
    grid_B3RYCX = panels_BP3YX.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return grid_B3RYCX.flatten(4, 5).flatten(2, 3)


def mix_composite_audio(mixture: MixtureBatch) -> Tensor:
    """The sum (B, T, F) of the sounds of the first max(1, k // 2) clips of each group: those whose sounds a composite mixes."""
    if mixture.sources_BKTF is None:
        raise ValueError(
            "DiscriminativeSoundingObjects needs the single sounds (sources_BKTF), and this batch has only their mixture"
        )
    return mixture.sources_BKTF[:, : max(1, mixture.sources_BKTF.shape[1] // 2)].sum(1)


def object_features(cells_NFHW: Tensor, map_NHW: Tensor, threshold: float) -> Tensor:
    """Mean over *all* cells of what the cells above the threshold and their four neighbours see, (N, F) float32.

    It is not divided by the number of those cells. As released, a cell at the edge is kept, but does not grow.
    """
    mask_N1HW = (map_NHW > threshold).float()[:, None]
    inner_N1HW = F.pad(mask_N1HW[:, :, 1:-1, 1:-1], (1, 1, 1, 1)) if min(map_NHW.shape[1:]) > 2 else mask_N1HW * 0
    cross = mask_N1HW.new_tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]])[None, None]
    with torch.autocast(cells_NFHW.device.type, enabled=False):
        grown_N1HW = ((F.conv2d(inner_N1HW, cross, padding=1) + mask_N1HW) > 0.5).float()
        return (cells_NFHW.float() * grown_N1HW).mean((2, 3))


def location_loss(own_BHW: Tensor, other_BHW: Tensor) -> Tensor:
    """Stage 2, half the sum of two cross-entropies of logits: the largest cell of a composite with its own sound is 1;
    with another's, the largest cell of *each* quarter is 0."""
    with torch.autocast(own_BHW.device.type, enabled=False):
        quarters_B22 = F.adaptive_max_pool2d(other_BHW.float()[:, None], 2)
        return 0.5 * (F.softplus(-own_BHW.float().amax((1, 2))).mean() + F.softplus(quarters_B22).mean())


def distribution_loss(seen_BM: Tensor, heard_BM: Tensor) -> Tensor:
    """KL(softmax(heard) || softmax(seen)) of logits, divided by B *and* by the M clusters, as released."""
    with torch.autocast(seen_BM.device.type, enabled=False):
        seen, heard = seen_BM.float().log_softmax(1), heard_BM.float().log_softmax(1)
        return (heard.exp() * (heard - seen)).mean()


class DiscriminativeSoundingObjects(SingleSourceMethod):
    """Knobs default to the released ones; `first_stage` is the share of the epochs before stage 2 (15 of 20).

    Differences. Released are two programs and between them a choice by hand; here it is one run of both. After
    `initial_epochs` the released stage 1 follows each epoch by three passes of classification, with new heads and ten
    times the learning rate for them; here clusters are found anew after each epoch too, but keep their numbers,
    so the heads live on, and classification is part of the same step: the label is the nearest centre. A negative
    is another sound of the batch (released: a frame of another video). a and b of stage 2 begin at 1 and 0 (released: at
    random). As released, stage 2 begins without the location map on its class maps (`unmasked_epochs`; there, by hand).
    Maps are those of the classes in stage 2, and the one location map before it. Runs too short for a
    stage 2 (two epochs after `initial_epochs`, at least) stay in stage 1. ValueError for a number out of range.
    """

    requirements: ClassVar[DataRequirements] = DataRequirements(sources=True, labels=True)
    supports_early_stopping: ClassVar[bool] = False
    centres_MF: Tensor  # of unit object features
    dictionary_MF: Tensor  # mean object features of each cluster, not of unit length

    config: DsolConfig

    def __init__(self, k: int, config: DsolConfig, encoder: EncoderConfig) -> None:
        if k not in GRID_SHAPES:
            raise ValueError(f"mixture.k={k}: composites are of at most {max(GRID_SHAPES)} frames")
        super().__init__(k, config, encoder, config.embedding_size)
        features = self.image.trunk.channels
        self.scale = nn.Parameter(torch.tensor(COSINE_SCALE))
        self.seen, self.heard = nn.Linear(features, config.clusters), nn.Linear(features, config.clusters)
        self.slope, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))
        self.teacher = AudioEncoder(1, encoder, 0).requires_grad_(False)
        self.teacher_heard = nn.Linear(features, config.clusters).requires_grad_(False)
        self.register_buffer("centres_MF", torch.zeros(config.clusters, features))
        self.register_buffer("dictionary_MF", torch.zeros(config.clusters, features))
        self.clustered = False
        self.since = 0  # the epoch after which stage 2 began; 0 in stage 1
        self.masked = False
        self.matching: LabelMatching | None = None

    def get_extra_state(self) -> Tensor:
        matching = asdict(self.matching) if self.matching else None
        return pack_state(
            {"clustered": self.clustered, "since": self.since, "masked": self.masked, "matching": matching}
        )

    def set_extra_state(self, state: Tensor) -> None:
        found = unpack_state(state)
        self.clustered, self.since, self.masked = found["clustered"], found["since"], found["masked"]
        self.matching = LabelMatching(**found["matching"]) if found["matching"] else None

    def train(self, mode: bool = True) -> DiscriminativeSoundingObjects:
        super().train(mode)
        self.teacher.eval()
        return self

    def look_and_listen(self, frames_N3YX: Tensor, sounds_NTF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of cells (N, F, H, W) and of the sound (N, F), and unit embeddings of both, (N, C, H, W), (N, C)."""
        cells_NFHW = self.image.features(frames_N3YX)
        pooled_NF = self.audio.features(log_mel_spectrogram(sounds_NTF)).amax((2, 3))
        unit_NCHW = F.normalize(self.image.head(cells_NFHW).float(), dim=1)
        return cells_NFHW, pooled_NF, unit_NCHW, F.normalize(self.audio.heads[0](pooled_NF).float(), dim=1)

    def logits(self, unit_NCHW: Tensor, heard_NSC: Tensor) -> Tensor:
        """Scale x cosine of every cell with S sounds, (N, S, H, W)."""
        return self.scale * cell_scores(unit_NCHW[:, None], heard_NSC)[:, 0]

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, signs, idle = self._second(mixture) if self.since else self._first(mixture)
        # What this stage does not train gets a gradient of 0: DistributedDataParallel waits for all of them.
        loss = loss + sum(0 * each.sum() for each in idle)
        return loss, {"loss": loss.detach()} | signs

    def _first(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor], list[nn.Parameter]]:
        cells_NFHW, pooled_NF, unit_NCHW, heard_NC = self.look_and_listen(*self.pairs(mixture))
        maps_N2HW = self.logits(unit_NCHW, torch.stack([heard_NC, next_rows_as_negatives(heard_NC)], dim=1))
        location = bce_loss(*maps_N2HW.amax((2, 3)).unbind(1))
        signs = {"location": location.detach(), **self._signs(unit_NCHW, heard_NC)}
        idle, heads = [self.slope, self.offset], [*self.seen.parameters(), *self.heard.parameters()]
        if not self.clustered:
            return location, signs, idle + heads
        found_NF = object_features(cells_NFHW.detach(), maps_N2HW[:, 0].detach().sigmoid(), self.config.mask)
        label_N = self._nearest(found_NF)
        rows = (self.heard(pooled_NF), self.seen(cells_NFHW.mean((2, 3))))
        named = torch.stack([F.cross_entropy(logits_NM.float(), label_N) for logits_NM in rows]).sum()
        right = (rows[0].argmax(1) == label_N).float().mean()
        return location + named, signs | {"classification": named.detach(), "audio_accuracy": right}, idle

    def _second(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor], list[nn.Parameter]]:
        frames_B3YX = compose_grid(mixture.frames_BK3YX, global_offset(len(mixture.frames_BK3YX)))
        sounds_BTF = mix_composite_audio(mixture)
        cells_BFHW, _, unit_BCHW, heard_BC = self.look_and_listen(frames_B3YX, sounds_BTF)
        maps_B2HW = self.logits(unit_BCHW, torch.stack([heard_BC, next_rows_as_negatives(heard_BC)], dim=1))
        location = location_loss(*maps_B2HW.unbind(1))
        objects_BMHW = self.objects(cells_BFHW, maps_B2HW[:, 0] if self.masked else None)
        distribution = distribution_loss(objects_BMHW.mean((2, 3)), self.teacher_logits(sounds_BTF))
        signs = {"location": location.detach(), "distribution": distribution.detach()}
        signs |= {"slope": self.slope.detach(), "offset": self.offset.detach(), **self._signs(unit_BCHW, heard_BC)}
        idle = [*self.seen.parameters(), *self.heard.parameters()]
        return distribution + self.config.location_weight * location, signs, idle

    def _signs(self, unit_NCHW: Tensor, heard_NC: Tensor) -> dict[str, Tensor]:
        """Of both stages: the scale in use, and signs of collapse."""
        spreads = {
            "image_spread": embedding_variance(unit_NCHW.movedim(1, -1)),
            "sound_spread": embedding_variance(heard_NC),
        }
        return {"scale": self.scale.detach()} | spreads

    def objects(self, cells_NFHW: Tensor, logits_NHW: Tensor | None) -> Tensor:
        """a <cell, mean object of each cluster> + b, times the location map where it is given: (N, M, H, W) float32.

        Loss and maps take a softmax over the clusters, which does not feel b: its gradient is rounding alone.
        """
        with torch.autocast(cells_NFHW.device.type, enabled=False):
            alike_NMHW = torch.einsum("nfhw,mf->nmhw", cells_NFHW.float(), self.dictionary_MF)
            seen_NMHW = self.slope * alike_NMHW + self.offset
            return seen_NMHW if logits_NHW is None else seen_NMHW * logits_NHW.float().sigmoid()[:, None]

    @torch.no_grad()
    def teacher_logits(self, sounds_NTF: Tensor) -> Tensor:
        """Logits of the clusters, from the networks of stage 1, (N, M)."""
        logits_NM: Tensor = self.teacher_heard(self.teacher.features(log_mel_spectrogram(sounds_NTF)).amax((2, 3)))
        return logits_NM

    def _nearest(self, found_NF: Tensor) -> Tensor:
        return torch.cdist(F.normalize(found_NF, dim=1), self.centres_MF).argmin(1)

    def _object(self, part: ClipBatch) -> Tensor:
        cells_NFHW, _, unit_NCHW, heard_NC = self.look_and_listen(part.frames_N3YX, part.sounds_NTF)
        return object_features(cells_NFHW, self.logits(unit_NCHW, heard_NC[:, None])[:, 0].sigmoid(), self.config.mask)

    @torch.no_grad()
    def on_epoch_end(self, epoch: int, epochs: int, examples: Callable[[], Iterator[ClipBatch]]) -> None:
        """Find clusters in stage 1, and begin stage 2 in time; of the labels only names are taken."""
        if self.since:
            self.masked = self.masked or epoch - self.since >= self.config.unmasked_epochs
        elif epoch >= self.config.initial_epochs:
            learned = self.clustered  # the heads have had an epoch of clusters
            self._cluster(*collect_features(self, examples(), self._object, self.dictionary_MF.shape[1]))
            if learned and round(self.config.first_stage * epochs) <= epoch < epochs:
                self._begin_second(epoch)

    def _cluster(self, found_NF: Tensor, labels: list[str]) -> None:
        if len(found_NF) < len(self.centres_MF):  # on every rank alike
            raise ValueError(f"clusters={len(self.centres_MF)}: more than the {len(found_NF)} training clips")
        unit_NF, before = F.normalize(found_NF, dim=1).numpy(), self.centres_MF.cpu().numpy()
        centres, of_N = broadcast_from_rank_zero(lambda: kmeans_clusters(unit_NF, before, self.clustered))
        member_NM = F.one_hot(torch.from_numpy(of_N).long(), len(centres)).float()
        self.centres_MF.copy_(torch.from_numpy(centres))
        self.dictionary_MF.copy_(member_NM.T @ found_NF / member_NM.sum(0).clamp(min=1)[:, None])
        self.matching = match_labels(member_NM, labels, surplus=True)
        if not self.clustered:
            draw = torch.Generator().manual_seed(0)
            for head in (self.seen, self.heard):
                head.weight.copy_(0.01 * torch.randn(head.weight.shape, generator=draw))
                head.bias.zero_()
        self.clustered = True

    def _begin_second(self, epoch: int) -> None:
        copied: Any = self.audio.trunk.state_dict()
        self.teacher.trunk.load_state_dict(copied)
        self.teacher_heard.load_state_dict(self.heard.state_dict())
        self.slope.fill_(1.0)
        self.offset.fill_(0.0)
        self.since, self.masked = epoch, self.config.unmasked_epochs == 0

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """Stage 1: the location map. Stage 2: softmax over clusters of 3 x the class maps, summed over each class's clusters.

        The loudness of a class is the output of the network of stage 1. Without labels each cluster is a class without
        name.
        """
        frames_N3YX = scenes.frames_N3YX.float() / 255
        cells_NFHW, _, unit_NCHW, heard_NC = self.look_and_listen(frames_N3YX, scenes.mixture_NTF)
        logits_N1HW = self.logits(unit_NCHW, heard_NC[:, None])
        if not self.since:
            return HeatMaps(logits_N1HW.sigmoid())
        maps_NMHW = (3 * self.objects(cells_NFHW, logits_N1HW[:, 0])).softmax(1)
        loudness_NM = self.teacher_logits(scenes.mixture_NTF).float().softmax(1)
        if self.matching is None:
            return HeatMaps(maps_NMHW, None, loudness_NM)
        return HeatMaps(self.matching.total(maps_NMHW), self.matching.classes, self.matching.total(loudness_NM))
