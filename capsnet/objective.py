"""What a network is trained for and judged by, measured on a batch.

Letters of shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from capsnet.config import Loss
from capsnet.losses import margin_loss, reconstruction_loss
from capsnet.models import CapsNet

MEASURES: tuple[str, ...] = ("loss", "margin_loss", "reconstruction_loss", "accuracy")


@dataclass(frozen=True)
class Measured:
    """One number for each image of a batch, all [B]."""

    loss: torch.Tensor
    margin_loss: torch.Tensor
    reconstruction_loss: torch.Tensor  # summed squared error; zeros without a decoder
    predictions: torch.Tensor
    correct: torch.Tensor

    def sums(self) -> torch.Tensor:
        """The sums over the batch of MEASURES, float64 [4], left on the device."""
        measures = (self.loss, self.margin_loss, self.reconstruction_loss, self.correct)
        return torch.stack([measure.detach().double().sum() for measure in measures])


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, C, H, W] -> float32 in [0, 1]."""
    return images.float() / 255


def measure(
    network: CapsNet, images: torch.Tensor, labels: torch.Tensor, settings: Loss, *, masked_by_labels: bool
) -> Measured:
    """Run `network` on images float [B, C, H, W] with labels [B].

    The decoder sees the capsule of the label in training, and of the longest capsule at test.
    """
    capsules, lengths = network(images)
    predictions = lengths.argmax(1)
    margin = loss = margin_loss(lengths, labels, settings.margin)
    reconstruction = torch.zeros_like(margin)
    if settings.with_reconstruction:
        shown = network.reconstruct(capsules, labels if masked_by_labels else predictions)
        reconstruction = reconstruction_loss(shown, images)
        loss = margin + settings.rc_loss_weight * reconstruction
    return Measured(loss, margin, reconstruction, predictions, predictions == labels)


def means(sums: torch.Tensor, count: int, settings: Loss) -> dict[str, float]:
    """The mean per image of each of MEASURES from their sums [4] over `count` images; reads the device."""
    values = dict(zip(MEASURES, (sums / count).tolist(), strict=True))
    if not settings.with_reconstruction:
        del values["reconstruction_loss"]
    return values
