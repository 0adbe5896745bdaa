"""Deep Multimodal Clustering (Hu et al. 2019), "DMC" in Table 1, in the authors' simplified variant (Simplified_DMC, DSOL).

The cells of a frame and the cells of a sound are each grouped by soft k-means; every group of the sound must lie near a group
of the frame. (The first release, in Keras, has one shared layer of ten groups and another loss.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymix.config import DmcConfig, EncoderConfig
from raymix.data.audio import log_mel_spectrogram
from raymix.data.batches import HeatMaps, MixtureBatch, SceneBatch
from raymix.methods.base import SingleSourceMethod, contrastive_loss, embedding_variance
from raymix.runtime.distributed import next_rows_as_negatives

SMALLEST = 1e-10  # of a squared distance: a centre starts *on* a cell, where the root has no gradient

DEPTH = 1e-3  # of a map, at most: what tells apart cells that are wholly of one group


def euclidean_distances(centres_NKC: Tensor, points_NXC: Tensor) -> Tensor:
    """Euclidean distances (N, K, X) in float32, at least 1e-5; the gradient at that bound is 0.

    Both sides are moved so that the points' mean is the origin: |o|^2 - 2 o.u + |u|^2 keeps its digits where all lie far out.
    """
    with torch.autocast(points_NXC.device.type, enabled=False):
        origin_N1C = points_NXC.float().mean(1, keepdim=True).detach()
        o_NKC, u_NXC = centres_NKC.float() - origin_N1C, points_NXC.float() - origin_N1C
        o_NK1, u_N1X = o_NKC.square().sum(-1, keepdim=True), u_NXC.square().sum(-1)[:, None]
        return (o_NK1 - 2 * o_NKC @ u_NXC.transpose(1, 2) + u_N1X).clamp(min=SMALLEST).sqrt()


def soft_kmeans(points_NXC: Tensor, clusters: int, iterations: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Centres (N, K, C) and assignments (N, K, X), which add up to 1 over the K centres of each point.

    Centres start at K evenly spaced points. An iteration assigns each point by the softmax over centres of
    -sharpness x distance, then moves each centre to the mean of its points. The assignments are those that made the centres.
    """
    with torch.autocast(points_NXC.device.type, enabled=False):
        u_NXC, count = points_NXC.float(), points_NXC.shape[1]
        o_NKC = u_NXC[:, [place * count // clusters for place in range(clusters)]]
        for _ in range(iterations):
            assigned_NKX = (-sharpness * euclidean_distances(o_NKC, u_NXC)).softmax(1)
            share_NKX = assigned_NKX / assigned_NKX.sum(-1, keepdim=True).clamp(min=SMALLEST)
            o_NKC = share_NKX @ u_NXC
        return o_NKC, assigned_NKX


class DeepMultimodalClustering(SingleSourceMethod):
    """Clusters default to DSOL's comparison (4 in frames, 2 in sounds); Simplified_DMC takes 2 and 1 for single sources.

    A pair's distance is the norm, over the groups of the sound, of the distance to the nearest group of the frame. The
    negative of frame i is the sound of pair i + 1 of the batch of all workers (released: a frame of another video). One
    linear layer a cell as released; the released audio trunk of DSOL's comparison has another stem, here it is that of all
    systems. Published from scratch: `weights` may still be given. As with Attention the groups start outside the margin (near
    24 at full width), and the loss falls first because all shrinks.
    Raises ValueError for a number out of range.
    """

    config: DmcConfig

    def __init__(self, k: int, config: DmcConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.visual = nn.Linear(self.image.channels, config.embedding_size)
        self.acoustic = nn.Linear(self.image.channels, config.embedding_size)

    def group(self, frames_N3YX: Tensor, sounds_NTF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cells of the frame (N, X, C), their groups (N, V, C), groups of the sound (N, A, C), shares of cells (N, V, H, W)."""
        cells_NCHW = self.image.features(frames_N3YX)
        heard_NCHW = self.audio.features(log_mel_spectrogram(sounds_NTF))
        seen_NXC = self.visual(cells_NCHW.flatten(2).transpose(1, 2))
        heard_NXC = self.acoustic(heard_NCHW.flatten(2).transpose(1, 2))
        steps, sharpness = self.config.iterations, self.config.sharpness
        seen_NVC, assigned_NVX = soft_kmeans(seen_NXC, self.config.visual_clusters, steps, sharpness)
        heard_NAC, _ = soft_kmeans(heard_NXC, self.config.audio_clusters, steps, sharpness)
        return seen_NXC, seen_NVC, heard_NAC, assigned_NVX.unflatten(-1, cells_NCHW.shape[2:])

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        _, seen_NVC, own_NAC, _ = self.group(*self.pairs(mixture))
        squared_N, others_N = (
            euclidean_distances(seen_NVC, heard_NAC).amin(1).square().sum(-1)
            for heard_NAC in (own_NAC, next_rows_as_negatives(own_NAC))
        )
        loss = contrastive_loss(squared_N, others_N, self.config.margin)
        return loss, {
            "loss": loss.detach(),
            "own_distance": squared_N.detach().sqrt().mean(),
            "other_distance": others_N.detach().sqrt().mean(),
            "image_spread": embedding_variance(F.normalize(seen_NVC, dim=-1)),
            "sound_spread": embedding_variance(F.normalize(own_NAC, dim=-1)),
        }

    def forward_heatmaps(self, scenes: SceneBatch) -> HeatMaps:
        """For each group of the sound, the cells of the group of the frame that is nearest to it.

        Most cells are wholly of one group, 1 to the last bit, and a map of ties has no peak: a cell gains up to `DEPTH` by
        how near the sound it lies itself, which moves no threshold.
        """
        cells_NXC, seen_NVC, heard_NAC, assigned_NVHW = self.group(scenes.frames_N3YX.float() / 255, scenes.mixture_NTF)
        nearest_NA = euclidean_distances(seen_NVC, heard_NAC).argmin(1)
        index_NAHW = nearest_NA[:, :, None, None].expand(-1, -1, *assigned_NVHW.shape[2:])
        near_NAX = 1 / (1 + euclidean_distances(heard_NAC, cells_NXC))
        return HeatMaps(assigned_NVHW.gather(1, index_NAHW) + DEPTH * near_NAX.view_as(index_NAHW))
