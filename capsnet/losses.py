"""Losses that networks are trained by, each one number per image.

Letters of shapes: B batch, L labels of an image, J classes, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from capsnet.capsules import present

PRESENT_MARGIN = 0.9  # m⁺: the length that the capsule of a class which is there should have
ABSENT_MARGIN = 0.1  # m⁻: the length that those of the others should not exceed
ABSENT_WEIGHT = 0.5  # λ


def margin_loss(
    lengths: torch.Tensor, labels: torch.Tensor, form: Literal["paper", "authors"] = "paper"
) -> torch.Tensor:
    """Lengths [B, J], labels [B] or [B, L] -> margin loss [B], summed over the classes (Equation 4).

    "authors" is half of it and averaged over the classes, as in the authors' code: with 10 classes 1/20.
    """
    too_short = F.relu(PRESENT_MARGIN - lengths).square()
    too_long = ABSENT_WEIGHT * F.relu(lengths - ABSENT_MARGIN).square()
    losses = torch.where(present(labels, lengths.shape[1]), too_short, too_long)
    return losses.sum(1) if form == "paper" else 0.5 * losses.mean(1)


def reconstruction_loss(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Two batches [B, C, H, W] -> the squared error of each image [B], *summed* over its pixels.

    The paper's weight 0.0005 belongs to the sum; with the mean it would be 784 times too weak.
    """
    return (reconstructions - images).square().flatten(1).sum(1)


def spread_loss(
    activations: torch.Tensor, labels: torch.Tensor, margin: torch.Tensor | float
) -> torch.Tensor:
    """Activations [B, J] in [0, 1], labels [B] -> spread loss [B] (Hinton et al. 2018, Equation 3).

    The sum over the wrong classes of the square of what each lacks of being `margin` below the right one.
    """
    right = activations.gather(1, labels[:, None])
    lacking = F.relu(margin - (right - activations)).square()
    return lacking.masked_fill(present(labels, activations.shape[1]), 0).sum(1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits [B, J], labels [B] -> cross-entropy [B] of the softmax.

    With labels [B, L] the binary cross-entropy of each class, present or not, summed over the classes.
    """
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    there = present(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, there, reduction="none").sum(1)
