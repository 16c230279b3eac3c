"""Losses and metrics of a network, measured on a batch.

Letters of shapes: B batch, L labels of an image, C channels, H height, W width, J classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from capsnet.augmentation import Batch
from capsnet.config import Config, CrossEntropy, Loss, MarginLoss, SpreadLoss
from capsnet.losses import cross_entropy, margin_loss, reconstruction_loss, spread_loss
from capsnet.network import Network, Output

MEASURES: tuple[str, ...] = ("loss", "class_loss", "reconstruction_loss", "accuracy")
# Names of the second of them where it is shown, by loss.
CLASS_LOSSES = {"margin": "margin_loss", "spread": "spread_loss", "cross_entropy": "cross_entropy"}


@dataclass(frozen=True)
class Measured:
    """One number for each image of a batch, all [B]; predictions [B, L] where an image shows L classes."""

    loss: torch.Tensor
    class_loss: torch.Tensor  # margin loss, spread loss or cross-entropy
    reconstruction_loss: torch.Tensor  # summed squared error; zeros without a decoder
    predictions: torch.Tensor
    correct: torch.Tensor

    def sums(self) -> torch.Tensor:
        """The sums over the batch of MEASURES, float64 [4], left on the device."""
        measures = (self.loss, self.class_loss, self.reconstruction_loss, self.correct)
        return torch.stack([measure.detach().double().sum() for measure in measures])


def measure(
    network: Network,
    batch: Batch,
    config: Config,
    *,
    training: bool,
    margin: torch.Tensor | float | None = None,
) -> Measured:
    """Run `network` on a batch, and return the losses and predictions of its images.

    The decoder sees the capsule of the label in training, and the longest capsule at test. `margin`: the
    present width of a margin that rises; None: its last width.
    """
    output = network(batch.inputs)
    predictions = predicted(output.lengths, batch.labels)
    class_loss = loss = _class_loss(output, batch.labels, config.loss, margin)
    reconstruction = torch.zeros_like(class_loss)
    if config.decoder is not None:
        assert isinstance(config.loss, MarginLoss | CrossEntropy)
        shown = batch.labels if training else predictions
        reconstruction = _reconstruction_loss(network, output.capsules, shown, batch.targets)
        loss = class_loss + config.loss.rc_loss_weight * reconstruction
    correct = predictions == batch.labels
    return Measured(
        loss, class_loss, reconstruction, predictions, correct if correct.dim() == 1 else correct.all(1)
    )


def predicted(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The classes with the highest scores [B, J], as many as the labels int64 [B] or [B, 2] name.

    Of two predictions, one that is a label is put at that label's place.
    """
    if labels.dim() == 1:
        return scores.argmax(1)
    both = scores.topk(labels.shape[1], dim=1).indices
    crossed = (both == labels.flip(1)).any(1, keepdim=True) & (both != labels).all(1, keepdim=True)
    return torch.where(crossed, both.flip(1), both)


def _class_loss(
    output: Output, labels: torch.Tensor, settings: Loss, margin: torch.Tensor | float | None
) -> torch.Tensor:
    match settings:
        case MarginLoss():
            return margin_loss(output.lengths, labels, settings.margin)
        case SpreadLoss():
            return spread_loss(output.lengths, labels, settings.last_margin if margin is None else margin)
        case CrossEntropy():
            assert output.logits is not None  # the configuration is checked for it
            return cross_entropy(output.logits, labels)


def rising_margin(settings: Loss, epochs: float) -> float | None:
    """Return the margin between classes after `epochs` of training; None for a loss without a rising one."""
    if not isinstance(settings, SpreadLoss):
        return None
    risen = min(epochs / settings.rising_epochs, 1.0)
    return settings.first_margin + risen * (settings.last_margin - settings.first_margin)


def _reconstruction_loss(
    network: Network, capsules: torch.Tensor, classes: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the loss [B] of reconstructing `classes`; of [B, L] each by itself, and the losses are added."""
    if classes.dim() == 1:
        return reconstruction_loss(network.reconstruct(capsules, classes), targets)
    losses = [
        reconstruction_loss(network.reconstruct(capsules, classes[:, label]), targets[:, label])
        for label in range(classes.shape[1])
    ]
    return torch.stack(losses).sum(0)


def means(sums: torch.Tensor, count: int, config: Config) -> dict[str, float]:
    """The mean per image of each of MEASURES from their sums [4] over `count` images; reads the device."""
    loss, class_loss, reconstruction, accuracy = (sums / count).tolist()
    values = {"loss": loss, CLASS_LOSSES[config.loss.name]: class_loss}
    if config.decoder is not None:
        values["reconstruction_loss"] = reconstruction
    return values | {"accuracy": accuracy}
