"""Clips -> groups of k clips with one mixed sound, and a shifted view of it: what section 3 trains on.

Everything happens on complex STFTs, where a sum of sounds is a sum of numbers. What is random about a training clip is
a function of (seed, epoch, clip id) alone, so a group looks the same in any order, on any worker, after any restart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raymix.config import TrainingConfig
from raymix.data.audio import HOP, SAMPLE_RATE, check_choice, mix_sounds, window_frames
from raymix.data.batches import MixtureBatch
from raymix.data.records import ClipTable

JITTER = 0.1  # seconds, at most, between the two views of shift="jitter"

SECOND_VIEWS = ("clip", "jitter", "video", "group")

RATIO = 1.25  # widest crop aspect, and 1/RATIO the narrowest


def group_clips(videos: Sequence[str], k: int, rng: np.random.Generator, order: np.ndarray | None = None) -> np.ndarray:
    """Indices of clips in groups (N // k, k), all videos of a group different; `order` says which clips, in what order.

    Up to k - 1 clips are left over. (The released code takes consecutive rows, so a group may hold one video twice.)
    Raises ValueError where the videos are too few.
    """
    order = rng.permutation(len(videos)) if order is None else np.asarray(order)
    count = len(order) // k
    if k < 1 or count == 0:
        raise ValueError(f"mixture.k={k}: a group needs k clips, there are {len(order)}")
    video_N = np.unique(np.asarray(videos), return_inverse=True)[1]
    groups_BK = order[: count * k].reshape(count, k).copy()
    for row in range(count):
        for column in range(1, k):
            if not _swap_in(groups_BK, video_N, row, column, rng):
                return _deal(order, video_N, count, k, rng)
    return groups_BK


def _swap_in(groups_BK: np.ndarray, video_N: np.ndarray, row: int, column: int, rng: np.random.Generator) -> bool:
    """Where a clip repeats a video of its group, swap it for one so that both groups are right; False if none does."""
    own = video_N[groups_BK[row, column]]
    others = video_N[np.delete(groups_BK[row], column)]
    if own not in others:
        return True
    videos_BK = video_N[groups_BK]
    fits_BK = ~np.isin(videos_BK, others) & ~(videos_BK == own).any(1, keepdims=True)
    fits_BK[row] = False
    places = np.flatnonzero(fits_BK)
    if not len(places):
        return False
    other = np.unravel_index(rng.choice(places), fits_BK.shape)
    groups_BK[row, column], groups_BK[other] = groups_BK[other], groups_BK[row, column]
    return True


def passes_per_epoch(settings: TrainingConfig, clips: int) -> int:
    """Passes over `clips` training clips in one epoch: one, or the fewest that give `settings.min_updates` updates."""
    return max(1, math.ceil(settings.min_updates / max(1, clips // settings.batch_size)))


def can_group_clips(videos: Sequence[str], k: int) -> bool:
    """Whether `group_clips` finds groups of k clips of different videos among clips of these videos."""
    count = len(videos) // k
    return count > 0 and _usable(np.unique(np.asarray(videos), return_counts=True)[1], count) >= count * k


def _usable(counts: np.ndarray, groups: int) -> int:
    """Clips that so many groups can take, each at most one of a video; `counts`: the clips of each video."""
    return int(np.minimum(counts, groups).sum())


def _deal(order: np.ndarray, video_N: np.ndarray, count: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the clips round the groups like cards, video by video: it succeeds whenever any grouping exists."""
    videos, counts = np.unique(video_N[order], return_counts=True)
    if _usable(counts, count) < count * k:
        raise ValueError(
            f"mixture.k={k}: {len(order)} clips of {len(videos)} videos cannot form {count} groups of different videos"
        )
    by_size = rng.permutation(len(videos))
    by_size = by_size[np.argsort(-counts[by_size], kind="stable")]
    hand = np.concatenate([order[video_N[order] == videos[v]][:count] for v in by_size])[: count * k]
    return hand.reshape(k, count).T[rng.permutation(count)]


def make_mixture_batch(
    clips: ClipTable,
    groups: np.ndarray,
    *,
    seed: int,
    epoch: int,
    seconds: float = 0.96,
    shift: str = "clip",
    rule: str = "sum",
    level: str = "rms",
    image_size: int | None = None,
    crop: float = 0.8,
    flip: bool = True,
    keep_sources: bool = False,
    frames: int = 1,
    windows: int = 2,
    partners: np.ndarray | None = None,
) -> MixtureBatch:
    """Groups (B, K) of clip indices -> a training batch; thread-safe, and random only through (seed, epoch, clip id).

    Section 3: the sounds are summed (`rule`, `level`: see `mix_sounds`). The second view is another window of the same
    clips (`shift="clip"`, as released for MUSIC), the same windows moved by at most .1 s (`shift="jitter"`), or a window
    of other clips: `partners` (B, K), which `partner_clips` draws from the same video or the same group (`shift="video"`,
    "group": of one speaker, as released for VoxCeleb). Frames are cropped to at least the share `crop` of their area,
    resized to `image_size` pixels, and with `flip` half of them are mirrored; with `frames` above 1 there are as many
    different ones of each clip, evenly apart; with `windows=1` there is no second view.
    Raises ValueError for an unknown policy, clips shorter than `seconds`, or of fewer frames.
    """
    check_choice("mixture.second_view", shift, SECOND_VIEWS)
    window = window_frames(seconds, clips.stft.shape[1])
    index_N = np.asarray(groups).reshape(-1)
    chance_N8 = _chances(clips.clip_id[index_N], seed, epoch)
    starts_BK, shifted_BK = _starts(chance_N8, clips.stft.shape[1] - window, shift, groups.shape)
    add = functools.partial(mix_sounds, clips.stft, frames=window, rule=rule, level=level)
    mixture, sources = add(groups, starts_BK, keep_sources=keep_sources)
    shifted = add(groups if partners is None else partners, shifted_BK)[0] if windows > 1 else None
    shots = _shots(clips, index_N, chance_N8, image_size or clips.frames.shape[2], (crop, flip), (seed, epoch, frames))
    more = torch.stack(shots[1:], 1).unflatten(0, groups.shape) if frames > 1 else None
    return MixtureBatch(shots[0].unflatten(0, groups.shape), mixture, shifted, sources, more)


def _shots(
    clips: ClipTable,
    index_N: np.ndarray,
    chance_N8: np.ndarray,
    size: int,
    how: tuple[float, bool],
    what: tuple[int, int, int],
) -> list[Tensor]:
    """Different frames of each clip, (N, 3, Y, X) each: a random one, and the others evenly apart from it."""
    (crop, flip), (seed, epoch, frames), stored = how, what, clips.frames.shape[1]
    if frames > stored:
        raise ValueError(f"dataset.frames={stored}: {frames} different frames of each clip are needed")
    at_N, shots = _integers(chance_N8[:, 2], stored - 1), []
    for shot in range(frames):
        chances = _chances(clips.clip_id[index_N], seed, epoch, f"/frame {shot}") if shot else chance_N8
        pictures_NYX3 = clips.frames[index_N, (at_N + shot * (stored // frames)) % stored]
        shots.append(_crop(pictures_NYX3, chances[:, 3:], size, crop, flip))
    return shots


def partner_clips(clip_ids: np.ndarray, keys: np.ndarray, index_N: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """For each clip of `index_N` another clip of the same key (video, group), or itself where there is none; (N,).

    `clip_ids` and `keys` are those of all clips there are, in an order that all workers agree on.
    """
    key_of = np.unique(keys, return_inverse=True)[1]
    order = np.argsort(key_of, kind="stable")
    first, count = np.searchsorted(key_of[order], key_of[index_N]), np.bincount(key_of)[key_of[index_N]]
    own = np.empty(len(order), np.int64)
    own[order] = np.arange(len(order))
    chance_N = _chances(clip_ids[index_N], seed, epoch, "/partner")[:, 0]
    step_N = 1 + _integers(chance_N, np.maximum(count - 2, 0))  # past itself, round the clips of its key
    return order[first + (own[index_N] - first + step_N) % count]


def _starts(chance_N8: np.ndarray, last: int, shift: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """First frames of the two windows of each clip, at most `last`."""
    starts_N = _integers(chance_N8[:, 0], last)
    if shift != "jitter":
        shifted_N = _integers(chance_N8[:, 1], last)
    else:
        reach = int(JITTER * SAMPLE_RATE / HOP)
        shifted_N = np.clip(starts_N + _integers(chance_N8[:, 1], 2 * reach) - reach, 0, last)
    return starts_N.reshape(shape), shifted_N.reshape(shape)


def _chances(clip_ids: np.ndarray, seed: int, epoch: int, what: str = "") -> np.ndarray:
    """Eight uniform numbers in [0, 1) a clip, others for another `what`."""
    digests = b"".join(blake2b(f"{seed}/{epoch}/{name}{what}".encode(), digest_size=64).digest() for name in clip_ids)
    return (np.frombuffer(digests, "<u8").reshape(-1, 8) >> np.uint64(11)) * 2.0**-53


def _integers(chance_N: np.ndarray, largest: int | np.ndarray) -> np.ndarray:
    return (chance_N * (largest + 1)).astype(np.int64)


def _crop(pictures_NYX3: np.ndarray, chance_N5: np.ndarray, size: int, crop: float, flip: bool) -> Tensor:
    """Random resized crops of uint8 pictures, float32 in [0, 1]: area U(crop, 1), aspect 1/RATIO to RATIO."""
    pictures_N3YX = torch.from_numpy(pictures_NYX3).permute(0, 3, 1, 2).float()
    area_N = crop + (1 - crop) * chance_N5[:, 0]
    widest_N = np.minimum(math.log(RATIO), -np.log(area_N))  # a wider aspect would leave the picture
    ratio_N = np.exp((2 * chance_N5[:, 1] - 1) * widest_N)
    width_N, height_N = np.sqrt(area_N * ratio_N), np.sqrt(area_N / ratio_N)
    theta_N23 = np.zeros((len(area_N), 2, 3), np.float32)
    theta_N23[:, 0, 0] = width_N * np.where(flip & (chance_N5[:, 4] < 0.5), -1, 1)
    theta_N23[:, 1, 1] = height_N
    theta_N23[:, 0, 2] = (1 - width_N) * (2 * chance_N5[:, 2] - 1)
    theta_N23[:, 1, 2] = (1 - height_N) * (2 * chance_N5[:, 3] - 1)
    grid = F.affine_grid(torch.from_numpy(theta_N23), [len(area_N), 3, size, size], align_corners=False)
    return F.grid_sample(pictures_N3YX, grid, padding_mode="border", align_corners=False).div_(255)
