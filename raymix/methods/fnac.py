"""FNAC (Sun et al. 2023, "Learning Audio-Visual Source Localization via False Negative Aware Contrastive Learning").

EZ-VSL with regularization of false negatives: the similarities between the sounds of a batch, and between its frames, are
targets for the similarities of the scores of pairs (false negative suppression) and of the sounding regions (true
negative enhancement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from raymix.config import EncoderConfig, FnacConfig
from raymix.data.batches import ClipBatch, MixtureBatch
from raymix.methods.base import MultipleInstanceContrastive
from raymix.methods.random_walk import cell_scores
from raymix.runtime.distributed import all_gather_with_grad

TINY = 1e-5  # added to the span of a map of logits before dividing by it


def foreground_mean(cells_NCHW: Tensor, scores_NHW: Tensor, threshold: float, temperature: float) -> Tensor:
    """Cells whose score, min-max over the frame, is above the threshold: their sum over the count of *all* cells, (N, C).

    Neither divided by the size of the region nor of unit length, as released: a small foreground is like nothing.
    """
    with torch.autocast(cells_NCHW.device.type, enabled=False):
        logits_NX = scores_NHW.detach().float().flatten(1) / temperature
        low_N1, high_N1 = logits_NX.amin(1, keepdim=True), logits_NX.amax(1, keepdim=True)
        sounds_NX = (logits_NX - low_N1) / (high_N1 - low_N1 + TINY) > threshold
        return (cells_NCHW.float().flatten(2) * sounds_NX[:, None]).mean(-1)


def similarity_softmax(rows_MC: Tensor, temperature: float) -> Tensor:
    """Softmax over the batch of the inner products of each row with all, itself included: (M, M), rows add up to 1."""
    with torch.autocast(rows_MC.device.type, enabled=False):
        return (rows_MC.float() @ rows_MC.float().T / temperature).softmax(1)


def false_negative_terms(
    phi_MM: Tensor, sounds_MC: Tensor, frames_MC: Tensor, foreground_MC: Tensor, temperature: float
) -> dict[str, Tensor]:
    """Mean absolute differences of (M, M) softmaxes: sounds and scores, sounds and foregrounds, frames and scores.

    Rows of `phi_MM` are frames. Both sides of each difference get gradient, as released.
    """
    with torch.autocast(phi_MM.device.type, enabled=False):
        scored_MM = (phi_MM.float() / temperature).softmax(1)
        heard_MM = similarity_softmax(sounds_MC, temperature)
        return {
            "sound_term": (heard_MM - scored_MM).abs().mean(),
            "foreground_term": (heard_MM - similarity_softmax(foreground_MC, temperature)).abs().mean(),
            "image_term": (similarity_softmax(frames_MC, temperature) - scored_MM).abs().mean(),
        }


class FalseNegativeAwareContrastive(MultipleInstanceContrastive):
    """Knobs default to the released scripts' (the code's own default is 3 epochs of warm-up). Published with a batch of 256.

    In the first `warm_up_epochs` epochs the loss is EZ-VSL's, after them the three terms count `term_weight` each: the loss
    rises there. The terms are means over batch x batch and shrink as the batch grows, so their weight goes with its size:
    100 was published with 256, at 18 it is fourteen times as strong and the embeddings collapse. How many epochs are done is
    a buffer, so that a resumed run, or a trial that goes on from another's checkpoint, does not warm up again.
    Raises ValueError for a setting out of range.
    """

    epochs_done: Tensor

    config: FnacConfig

    def __init__(self, k: int, config: FnacConfig, encoder: EncoderConfig) -> None:
        super().__init__(k, config, encoder)
        self.register_buffer("epochs_done", torch.zeros((), dtype=torch.int64))

    def forward(self, mixture: MixtureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        cells_NCHW, sounds_NC = self.encode(*self.pairs(mixture))
        sounds_MC = all_gather_with_grad(sounds_NC)
        contrastive, signs, phi_MM = self.contrast(cells_NCHW, sounds_MC)
        own_NHW = cell_scores(cells_NCHW[:, None], sounds_NC[:, None])[:, 0, 0]
        foreground_NC = foreground_mean(cells_NCHW, own_NHW, self.config.foreground_threshold, self.config.temperature)
        frames_NC = cells_NCHW.mean((2, 3))
        terms = false_negative_terms(
            phi_MM,
            sounds_MC,
            all_gather_with_grad(frames_NC),
            all_gather_with_grad(foreground_NC),
            self.config.temperature,
        )
        # A factor of 0 or 1, not a branch: Python would have to wait for a GPU to know the number of epochs.
        warm = (self.epochs_done >= self.config.warm_up_epochs).to(contrastive.dtype)
        loss = contrastive + warm * self.config.term_weight * torch.stack(list(terms.values())).sum()
        signs |= {name: term.detach() for name, term in terms.items()}
        return loss, signs | {"loss": loss.detach(), "contrastive": contrastive.detach()}

    def on_epoch_end(self, epoch: int, epochs: int, examples: Callable[[], Iterator[ClipBatch]]) -> None:
        self.epochs_done += 1
