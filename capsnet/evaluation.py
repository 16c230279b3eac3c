"""Judging a network on images that it is not trained on: no shifts, decoder masked by its own answer."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from capsnet import objective
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.images import Images
from capsnet.models import CapsNet
from capsnet.objective import Measured


def evaluate(
    network: CapsNet, images: Images, config: Config, execution: Execution
) -> Iterator[tuple[Images, Measured]]:
    """Measure `images` batch by batch, in their order; yields each batch and what was measured on it."""
    for start in range(0, len(images), config.batch_size):
        batch = images[start : start + config.batch_size].to(execution.device)
        yield batch, measure(network, batch, config, execution)


@torch.no_grad()
def measure(network: CapsNet, batch: Images, config: Config, execution: Execution) -> Measured:
    network.eval()
    with execution.autocast():
        pixels = objective.pixels(batch.images)
        return objective.measure(network, pixels, batch.labels, config.loss, masked_by_labels=False)


@torch.no_grad()
def examples(
    network: CapsNet, images: Images, config: Config, execution: Execution
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Images and their reconstructions as at test, float [N, C, H, W] on the CPU; None without a decoder."""
    if not config.loss.with_reconstruction:
        return None
    network.eval()
    with execution.autocast():
        pixels = objective.pixels(images.images.to(execution.device))
        capsules, lengths = network(pixels)
        return pixels.cpu(), network.reconstruct(capsules, lengths.argmax(1)).float().cpu()


def confusion(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    """How often images of each class were taken for each class: int64 [classes, classes], rows the labels."""
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)
