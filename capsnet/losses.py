"""The paper's two losses, each one number per image.

Letters of shapes: B batch, J classes, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from capsnet.capsules import one_hot

PRESENT_MARGIN = 0.9  # m⁺: the length that the capsule of a class which is there should have
ABSENT_MARGIN = 0.1  # m⁻: the length that those of the others should not exceed
ABSENT_WEIGHT = 0.5  # λ


def margin_loss(
    lengths: torch.Tensor, labels: torch.Tensor, form: Literal["paper", "authors"] = "paper"
) -> torch.Tensor:
    """Lengths [B, J], labels [B] -> margin loss [B], summed over the classes (Equation 4).

    "authors" is half of it and averaged over the classes, as in the authors' code: with 10 classes 1/20.
    """
    present = F.relu(PRESENT_MARGIN - lengths).square()
    absent = ABSENT_WEIGHT * F.relu(lengths - ABSENT_MARGIN).square()
    losses = torch.where(one_hot(labels, lengths.shape[1]), present, absent)
    return losses.sum(1) if form == "paper" else 0.5 * losses.mean(1)


def reconstruction_loss(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Two batches [B, C, H, W] -> the squared error of each image [B], *summed* over its pixels.

    The paper's weight 0.0005 belongs to the sum; with the mean it would be 784 times too weak.
    """
    return (reconstructions - images).square().flatten(1).sum(1)
