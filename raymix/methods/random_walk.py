"""Random walks between images and sounds: Eq. 1 (similarity), Eq. 2 (transitions), Eq. 4 (cycle), and the losses of the
ablation study (Eq. 6 to 8), as pure functions.

All of it is in log space and in float32 (or float64 where given): at temperature .07 a transition may be as small as
4e-13, which is zero in half precision, and its logarithm infinite. In the names of matrices J counts images, I sounds.
"""

from __future__ import annotations

import itertools
import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

POOLS = ("max", "lse")

ALL_PAIRINGS = 4  # up to this k every pairing is tried; above, the best one is found by the Hungarian algorithm


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cell_scores(map_BKCHW: Tensor, nodes_BMC: Tensor) -> Tensor:
    """`f(x) . s` of every cell of K images with every one of M nodes: (B, K, M, H, W); the heat maps are these."""
    with torch.autocast(map_BKCHW.device.type, enabled=False):
        b, k, c, h, w = map_BKCHW.shape
        flat_BKCX = _full(map_BKCHW).reshape(b, k, c, h * w)
        scores_BKMX = _full(nodes_BMC)[:, None] @ flat_BKCX
        return scores_BKMX.reshape(b, k, nodes_BMC.shape[1], h, w)


def similarity(map_BKCHW: Tensor, nodes_BMC: Tensor, pool: str = "max", sharpness: float = 10.0) -> Tensor:
    """Eq. 1: phi of image j and sound i, pooled over the cells, as (B, J, I).

    "max" is the paper's and trains one cell a pair. "lse" is the smooth maximum log(mean(exp(r s))) / r, r = sharpness,
    between the mean (r -> 0) and the maximum (r -> infinity): every cell gets gradient. ValueError for another pool.
    """
    scores_BJIX = cell_scores(map_BKCHW, nodes_BMC).flatten(3)
    if pool == "max":
        return scores_BJIX.amax(-1)
    if pool == "lse":
        cells = math.log(scores_BJIX.shape[-1])
        return (torch.logsumexp(sharpness * scores_BJIX, -1) - cells) / sharpness
    raise ValueError(f"pool={pool}: must be one of {', '.join(POOLS)}")


def log_sound_to_image(phi_BJI: Tensor, temperature: float) -> Tensor:
    """log A_SI as (B, I, J): rows are sounds, with a softmax of their own over *images*; it is not A_IS transposed."""
    return torch.log_softmax(_full(phi_BJI).transpose(1, 2) / temperature, dim=-1)


def log_image_to_sound(phi_BJI: Tensor, temperature: float) -> Tensor:
    """Eq. 2, log A_IS as (B, J, I): rows are images, the softmax runs over the sounds."""
    return torch.log_softmax(_full(phi_BJI) / temperature, dim=-1)


def log_return(log_first_BAM: Tensor, log_second_BMA: Tensor) -> Tensor:
    """log of the probability to come home after two steps, the diagonal of log(first @ second), as (B, A)."""
    return torch.logsumexp(log_first_BAM + log_second_BMA.transpose(1, 2), dim=-1)


def round_trip_loss(log_first_BAM: Tensor, log_second_BMA: Tensor) -> Tensor:
    """Eq. 4 and 6: -1/k tr log(first @ second), mean over groups (the minus sign is missing in the paper's Eq. 6)."""
    return -log_return(log_first_BAM, log_second_BMA).mean()


def cycle_loss(phi_BJI: Tensor, shifted_phi_BJI: Tensor, temperature: float) -> Tensor:
    """Eq. 4 with the shifted view: sound -> image with the shifted sounds, image -> sound with the others.

    The paper marks A_IS as the shifted one; the released code, and raymix, shift A_SI: the same by symmetry.
    """
    with torch.autocast(phi_BJI.device.type, enabled=False):
        return round_trip_loss(
            log_sound_to_image(shifted_phi_BJI, temperature), log_image_to_sound(phi_BJI, temperature)
        )


def image_cycle_loss(phi_BJI: Tensor, again_phi_BJI: Tensor, temperature: float) -> Tensor:
    """Eq. 6, ISI: image -> sound -> image, `-1/k tr log(A_IS A_SI)`; the walk ends on other frames of the same clips.

    `phi` is of the frames that it starts from, `again_phi` of those that it ends on. The paper prints no minus sign, which
    would make chance the goal.
    """
    with torch.autocast(phi_BJI.device.type, enabled=False):
        return round_trip_loss(log_image_to_sound(phi_BJI, temperature), log_sound_to_image(again_phi_BJI, temperature))


def mixed_correspondence_loss(phi_NM: Tensor, own_N: Tensor, k: int, temperature: float) -> Tensor:
    """Eq. 7, Corre: InfoNCE of N images against the M = k x (mixtures) nodes of a batch, mean over the images.

    The nodes of mixture j are columns k j to k j + k - 1; `own_N` is the mixture of each image. Rows are images, never
    sounds: n images meet n / k mixtures, and the softmax runs over all nodes of the batch.
    """
    with torch.autocast(phi_NM.device.type, enabled=False):
        logits_NM = _full(phi_NM) / temperature
        of_mixture_NG = torch.logsumexp(logits_NM.unflatten(1, (-1, k)), dim=-1)
        own = of_mixture_NG.gather(1, own_N[:, None])[:, 0]
        return (torch.logsumexp(logits_NM, dim=1) - own).mean()


def best_pairing(phi_BJI: Tensor) -> Tensor:
    """The sum of phi under the pairing of images with sounds that makes it largest, (B,)."""
    k = phi_BJI.shape[-1]
    image_K = torch.arange(k, device=phi_BJI.device)
    if k <= ALL_PAIRINGS:
        pairings_PK = torch.tensor(list(itertools.permutations(range(k))), device=phi_BJI.device)
        return phi_BJI[:, image_K, pairings_PK].sum(-1).amax(-1)
    found = [linear_sum_assignment(phi_JI, maximize=True)[1] for phi_JI in phi_BJI.detach().nan_to_num().cpu().numpy()]
    sound_BK = torch.tensor([each.tolist() for each in found], device=phi_BJI.device)
    return phi_BJI.gather(2, sound_BK[..., None])[..., 0].sum(-1)


def permutation_invariant_loss(phi_BJI: Tensor) -> Tensor:
    """Eq. 8, Permute: minus the best total similarity of a pairing, mean over groups; -k at best.

    There is neither a temperature nor a negative in it: equal embeddings for everything reach -k, so collapse is what to
    expect.
    """
    with torch.autocast(phi_BJI.device.type, enabled=False):
        return -best_pairing(_full(phi_BJI)).mean()
