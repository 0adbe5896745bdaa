"""Waveform -> complex STFT -> log-mel, with the constants of section 4.1 of the paper ("a 0.96s of sound", 193 x 64).

Rows store the complex STFT, which is linear: mixing is an addition, a shifted view is a slice, and power, mel and
decibels come last. float16 holds it without any scaling: a full-scale sine has magnitude 40, far below 65,504, and a
part loses digits only below 6e-5, which is 34 dB under the floor of `log_mel_spectrogram`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from raymix.runtime.libraries import report_broken_import

with report_broken_import("torchaudio"):
    from torchaudio.functional import melscale_fbanks


SAMPLE_RATE = 16_000  # Hz

WINDOW_LENGTH = 160  # samples: 10 ms

HOP = 80  # samples: 5 ms

N_FFT = 160

FREQUENCY_BINS = N_FFT // 2 + 1

MEL_BANDS = 64

LOG_MEL_FLOOR = 1e-5  # added to mel power, so digital silence is -50 dB

DECIBELS_PER_UNIT = 50.0

TARGET_RMS = 0.1  # RMS of every sound before mixing (released code)

QUIETEST_RMS = 1e-4  # RMS below which a sound is not amplified further (released code)

_MEAN_SQUARE = 1.0 / (N_FFT * float(torch.hann_window(WINDOW_LENGTH).square().sum()))  # Parseval: |X|^2 -> amplitude^2


def stft(wave_NL: Tensor) -> Tensor:
    """The centred linear STFT (Hann window) of waveforms in [-1, 1]: complex64 NTF, 81 bins, 200 frames a second.

    Raises ValueError for waveforms shorter than one window.
    """
    if wave_NL.shape[-1] < WINDOW_LENGTH:
        raise ValueError(f"stft: {wave_NL.shape[-1]} samples are less than one window of {WINDOW_LENGTH}")
    wave_NL = wave_NL.float()
    hann = torch.hann_window(WINDOW_LENGTH, device=wave_NL.device)
    return torch.stft(wave_NL, N_FFT, HOP, WINDOW_LENGTH, hann, center=True, return_complex=True).transpose(1, 2)


def istft(stft_NTF: Tensor) -> Tensor:
    """The waveforms of complex STFTs, float32 (N, L): the inverse of `stft`, of whole hops."""
    spectrum_NFT = stft_NTF.transpose(1, 2)
    return torch.istft(
        spectrum_NFT, N_FFT, HOP, WINDOW_LENGTH, torch.hann_window(WINDOW_LENGTH, device=stft_NTF.device), center=True
    )


def stft_frame_count(seconds: float) -> int:
    """STFT frames in so many seconds of sound: 193 for the paper's 0.96 s."""
    return round(seconds * SAMPLE_RATE) // HOP + 1


def shift_window(stft_NTF: Tensor, start_frame: int | Tensor, frames: int) -> Tensor:
    """The window of `frames` frames that begins at `start_frame`; a tensor of N starts gives each row its own window.

    A window keeps what lies around it in the clip: its first and last frame see half a window of real sound beyond the
    cut, where the STFT of a cut waveform sees padding. Raises ValueError for a window that leaves the clip.
    """
    length = stft_NTF.shape[-2]
    starts_N = torch.as_tensor(start_frame)
    if int(starts_N.min()) < 0 or int(starts_N.max()) + frames > length:
        raise ValueError(f"shift: {frames} frames from {starts_N.tolist()} leave a clip of {length} frames")
    if starts_N.ndim == 0:
        start = int(starts_N)
        return stft_NTF[..., start : start + frames, :]
    index_NT = starts_N[:, None].to(stft_NTF.device) + torch.arange(frames, device=stft_NTF.device)
    return stft_NTF[torch.arange(len(stft_NTF), device=stft_NTF.device)[:, None], index_NT]


def window_frames(seconds: float, stored_frames: int) -> int:
    """STFT frames of a window of so many seconds; ValueError if a clip of `stored_frames` does not hold it."""
    frames = stft_frame_count(seconds)
    if frames > stored_frames:
        held = (stored_frames - 1) * HOP / SAMPLE_RATE
        raise ValueError(f"mixture.seconds={seconds:g}: longer than the clips, which hold {held:g} s")
    return frames


def mix_sounds(
    stft_NTF2: np.ndarray,
    index_BK: np.ndarray,
    starts_BK: np.ndarray,
    frames: int,
    *,
    rule: str,
    level: str,
    gain_BK: np.ndarray | None = None,
    keep_sources: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Cut a window from each clip, bring it to a level and add up every group: complex64 (B, T, F), and what was added.

    `stft_NTF2` is what rows store (float16; real, imaginary). `rule`: "sum" is the paper's, "mean" the released code's.
    `level`: "rms" scales each window to RMS .1 and leaves the mixture alone, as released; "none" keeps recorded levels.
    `gain_BK` are factors on top of that.
    The parts, complex64 (B, K, T, F), come with `keep_sources` only. Raises ValueError for another rule or level.
    """
    check_choice("mixture.reduction", rule, ("sum", "mean"))
    check_choice("mixture.loudness", level, ("rms", "none"))
    pairs = zip(index_BK.reshape(-1), starts_BK.reshape(-1), strict=True)
    sound_NTF2 = torch.from_numpy(np.stack([stft_NTF2[clip, start : start + frames] for clip, start in pairs])).float()
    gain_N = _gain_to_level(sound_NTF2) if level == "rms" else torch.ones(len(sound_NTF2))
    if gain_BK is not None:
        gain_N = gain_N * torch.from_numpy(gain_BK.reshape(-1)).float()
    groups, k = index_BK.shape
    if rule == "mean":
        gain_N = gain_N / k
    mixed_BX = torch.bmm(gain_N.view(groups, 1, k), sound_NTF2.view(groups, k, -1))
    mixture_BTF = torch.view_as_complex(mixed_BX.view(groups, *sound_NTF2.shape[1:]))
    if not keep_sources:
        return mixture_BTF, None
    return mixture_BTF, torch.view_as_complex(sound_NTF2 * gain_N.view(-1, 1, 1, 1)).unflatten(0, (groups, k))


def _gain_to_level(sound_NTF2: Tensor) -> Tensor:
    """The factor that brings each window to RMS .1; its power follows from the STFT by Parseval's theorem."""
    total_N = torch.linalg.vector_norm(sound_NTF2.flatten(1), dim=1).square()
    edges_N = sound_NTF2[:, :, [0, -1]].square().sum((1, 2, 3))  # the two bins without a mirror image
    rms_N = ((2 * total_N - edges_N) * (_MEAN_SQUARE / sound_NTF2.shape[1])).clamp(min=0).sqrt()
    return TARGET_RMS / rms_N.clamp(min=QUIETEST_RMS)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """`value` itself; ValueError with the nearest choice if it is none of them."""
    if value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"{name}={value}: must be one of {', '.join(choices)}{hint}")


def log_mel_spectrogram(stft_NTF: Tensor) -> Tensor:
    """Log-mel picture of a complex STFT, float32 (N, T, 64): -1 is silence, a full-scale sine about .6.

    Paper: "log-mel spectrogram", nothing more. Released code: 20 log10 of mel *power* clamped at 1e-5, [-100, 100]
    mapped to [-1, 1]. raymix: 10 log10(power + 1e-5) over 50 dB, the same numbers above the floor, written as true
    decibels; the floor is added, so that gradients and float16 rounding stay harmless there. With 81 bins 4 of the 64
    HTK filters fall between two bins and are empty (theirs too): constant columns of -1.
    """
    with torch.autocast(stft_NTF.device.type, enabled=False):
        power_NTF = torch.view_as_real(stft_NTF).float().square().sum(-1)
        mel_NTM = power_NTF @ _mel_filters(stft_NTF.device)
        return torch.log10(mel_NTM + LOG_MEL_FLOOR) * (10.0 / DECIBELS_PER_UNIT)


@lru_cache(maxsize=16)
def _mel_filters(device: torch.device) -> Tensor:
    """Mel filters (81, 64). A normal tensor even if inference mode is on, since training uses the cached one too."""
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the 4 empty filters, which `log_mel_spectrogram` documents
        return melscale_fbanks(FREQUENCY_BINS, 0.0, SAMPLE_RATE / 2, MEL_BANDS, SAMPLE_RATE).to(device)
