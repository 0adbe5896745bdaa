"""Mixing must be exact on stored spectrograms, and the log-mel must be the paper's 193 x 64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchaudio.transforms import MelSpectrogram

from raymix.data import audio
from raymix.data.audio import (
    FREQUENCY_BINS,
    HOP,
    MEL_BANDS,
    SAMPLE_RATE,
    istft,
    log_mel_spectrogram,
    mix_sounds,
    shift_window,
    stft,
    stft_frame_count,
    window_frames,
)


def tones(count: int, seconds: float, seed: int = 0) -> torch.Tensor:
    """Chords with noise, RMS about .1, NL."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    waves = []
    for _ in range(count):
        pitch, noise = rng.uniform(100, 900), rng.normal(size=len(time))
        partials = sum(np.sin(2 * np.pi * pitch * n * time + rng.uniform(0, 6)) / n for n in range(1, 9))
        waves.append(0.1 * partials + 0.02 * noise)
    return torch.tensor(np.array(waves), dtype=torch.float32)


def stored(stft_NTF: torch.Tensor) -> np.ndarray:
    return torch.view_as_real(stft_NTF).numpy().astype(np.float16)


def test_the_inverse_gives_the_waveform_back():
    wave = torch.randn(2, 4000)
    assert istft(stft(wave)).shape == (2, 4000)
    assert torch.allclose(istft(stft(wave)), wave, atol=1e-5)


def test_paper_window_is_193_by_64():
    assert stft_frame_count(0.96) == 193
    spectrum = stft(tones(2, 0.96))
    assert spectrum.shape == (2, 193, FREQUENCY_BINS) and spectrum.dtype == torch.complex64
    assert log_mel_spectrogram(spectrum).shape == (2, 193, MEL_BANDS)


def test_stft_of_a_sum_is_the_sum_of_stfts():
    first, second = tones(1, 3.0, seed=1), tones(1, 3.0, seed=2)
    torch.testing.assert_close(stft(first + second), stft(first) + stft(second), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_log_mel_of_a_mix_survives_float16_storage(seed: int):
    waves = tones(2, 0.96, seed)
    exact = log_mel_spectrogram(stft(waves.sum(0, keepdim=True)))
    index, starts = np.array([[0, 1]]), np.zeros((1, 2), int)
    mixture, _ = mix_sounds(stored(stft(waves)), index, starts, 193, rule="sum", level="none")
    assert (log_mel_spectrogram(mixture) - exact).abs().max() < 1e-2


@pytest.mark.parametrize("loudness", [1.0, 1e-2, 2e-3])
def test_quiet_clips_come_back_at_the_common_level(loudness: float):
    waves = tones(1, 0.96)
    index = np.array([[0]])
    mixture, _ = mix_sounds(stored(stft(loudness * waves)), index, 0 * index, 193, rule="sum", level="rms")
    expected = stft(waves * (0.1 / waves.square().mean().sqrt()))
    assert (log_mel_spectrogram(mixture) - log_mel_spectrogram(expected)).abs().max() < 1e-2


def test_log_mel_equals_torchaudio_at_true_decibels():
    wave = tones(1, 0.96)
    with pytest.warns(UserWarning, match="zero"):
        mel = MelSpectrogram(SAMPLE_RATE, n_fft=160, win_length=160, hop_length=HOP, n_mels=MEL_BANDS)
    theirs = (10 * torch.log10(mel(wave) + 1e-5) / 50).transpose(1, 2)
    torch.testing.assert_close(log_mel_spectrogram(stft(wave)), theirs, atol=1e-4, rtol=1e-4)


def test_four_mel_filters_are_empty_and_stay_at_the_floor():
    picture = log_mel_spectrogram(stft(tones(1, 0.96)))[0]
    assert int((picture == -1).all(0).sum()) == 4


def test_silence_is_the_floor_and_its_gradient_is_finite():
    spectrum = stft(torch.zeros(1, SAMPLE_RATE)).requires_grad_()
    picture = log_mel_spectrogram(spectrum)
    torch.testing.assert_close(picture, torch.full_like(picture, -1.0))
    picture.sum().backward()
    assert torch.view_as_real(spectrum.grad).isfinite().all()
    index = np.array([[0]])
    mixture, _ = mix_sounds(stored(stft(torch.zeros(1, SAMPLE_RATE))), index, index, 193, rule="mean", level="rms")
    assert torch.view_as_real(mixture).abs().max() == 0


def test_training_follows_an_evaluation_in_inference_mode():
    """The mel filters that an evaluation computed first are no inference tensors, which autograd refuses."""
    audio._mel_filters.cache_clear()
    with torch.inference_mode():
        log_mel_spectrogram(stft(torch.zeros(1, SAMPLE_RATE)))
    spectrum = stft(torch.rand(1, SAMPLE_RATE)).requires_grad_()
    log_mel_spectrogram(spectrum).sum().backward()
    assert spectrum.grad is not None


def test_full_scale_sine_stays_below_one():
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    assert 0.5 < float(log_mel_spectrogram(stft(torch.sin(2 * np.pi * 1000 * time)[None])).max()) < 0.7


def test_log_mel_is_float32_under_autocast():
    spectrum = stft(tones(1, 0.96))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(log_mel_spectrogram(spectrum), log_mel_spectrogram(spectrum).float(), atol=0, rtol=0)
        inside = log_mel_spectrogram(spectrum)
    torch.testing.assert_close(inside, log_mel_spectrogram(spectrum), atol=0, rtol=0)


def test_shift_is_a_slice_for_one_start_and_for_many():
    spectrum = stft(tones(3, 2.0))
    starts = torch.tensor([0, 7, 208])
    many = shift_window(spectrum, starts, 193)
    for row, start in enumerate(starts.tolist()):
        torch.testing.assert_close(many[row], shift_window(spectrum, start, 193)[row], atol=0, rtol=0)
        torch.testing.assert_close(many[row], spectrum[row, start : start + 193], atol=0, rtol=0)
    with pytest.raises(ValueError, match="leave a clip of 401 frames"):
        shift_window(spectrum, 209, 193)
    with pytest.raises(ValueError, match="leave"):
        shift_window(spectrum, torch.tensor([0, -1, 0]), 193)


def test_shifted_window_is_the_shifted_sound():
    waves = tones(1, 2.0)
    start = 40
    cut = stft(waves[:, start * HOP : start * HOP + 15360])
    window = shift_window(stft(waves), start, 193)
    torch.testing.assert_close(window[:, 1:-1], cut[:, 1:-1], atol=1e-5, rtol=0)  # edges: padding against real sound


def test_superpose_levels_each_sound_then_adds():
    waves = torch.cat([tones(1, 0.96, 1), 0.03 * tones(1, 0.96, 2)])
    index = np.array([[0, 1]])
    rows = stored(stft(waves))
    summed, parts = mix_sounds(rows, index, 0 * index, 193, rule="sum", level="rms", keep_sources=True)
    mean, _ = mix_sounds(rows, index, 0 * index, 193, rule="mean", level="rms")
    assert parts is not None and parts.shape == (1, 2, 193, FREQUENCY_BINS)
    torch.testing.assert_close(parts.sum(1), summed, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean * 2, summed, atol=1e-4, rtol=1e-4)
    hann = torch.hann_window(160)
    heard = torch.istft(parts[0].transpose(1, 2), 160, HOP, 160, hann)
    torch.testing.assert_close(heard.square().mean(1).sqrt(), torch.tensor([0.1, 0.1]), atol=2e-3, rtol=0)


def test_refusals_are_one_clear_line():
    rows, index = stored(stft(tones(1, 0.96))), np.array([[0]])
    with pytest.raises(ValueError, match=r"mixture.reduction=summ: must be one of sum, mean \(did you mean sum\?\)"):
        mix_sounds(rows, index, index, 10, rule="summ", level="rms")
    with pytest.raises(ValueError, match=r"mixture\.loudness=loud"):
        mix_sounds(rows, index, index, 10, rule="sum", level="loud")
    with pytest.raises(ValueError, match=r"mixture.seconds=2: longer than the clips, which hold 0.96 s"):
        window_frames(2.0, 193)
    with pytest.raises(ValueError, match="less than one window"):
        stft(torch.zeros(1, 100))
