"""Evaluation of a network on images that it is not trained on: no shifts, decoder masked by the prediction.

Letters of shapes: N images, L labels of an image, J classes, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from capsnet import objective
from capsnet.augmentation import for_test
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.images import Images
from capsnet.network import Network
from capsnet.objective import Measured


def evaluate(
    network: Network, images: Images, config: Config, execution: Execution
) -> Iterator[tuple[Images, Measured]]:
    """Measure `images` batch by batch, in their order; yields each batch and what was measured on it."""
    for batch in _batches(images, config, execution):
        yield batch, measure(network, batch, config, execution)


@torch.no_grad()
def measure(network: Network, batch: Images, config: Config, execution: Execution) -> Measured:
    network.eval()
    with execution.autocast():
        return objective.measure(network, for_test(batch, config.dataset), config, training=False)


@torch.no_grad()
def lengths(network: Network, images: Images, config: Config, execution: Execution) -> torch.Tensor:
    """The lengths that `network` gives each of `images`, float64 [N, J], on the CPU.

    An ensemble predicts by the sum of its networks' lengths.
    """
    network.eval()
    found = []
    with execution.autocast():
        for batch in _batches(images, config, execution):
            found.append(network(for_test(batch, config.dataset).inputs).lengths.double().cpu())
    return torch.cat(found)


def _batches(images: Images, config: Config, execution: Execution) -> Iterator[Images]:
    for start in range(0, len(images), config.batch_size):
        yield images[start : start + config.batch_size].to(execution.device)


@torch.no_grad()
def examples(
    network: Network, images: Images, config: Config, execution: Execution
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Images and their reconstructions as at test, float [N, C, H, W] on the CPU; None without a decoder.

    Of an image of several digits, the sum of the predicted digits' reconstructions.
    """
    if config.decoder is None:
        return None
    network.eval()
    with execution.autocast():
        batch = for_test(images.to(execution.device), config.dataset)
        output = network(batch.inputs)
        classes = objective.predicted(output.lengths, batch.labels).view(len(batch), -1)
        shown = [network.reconstruct(output.capsules, column) for column in classes.unbind(1)]
        seen = images.images.float() / 255
        return seen.cpu(), torch.stack(shown).sum(0).clamp(max=1).float().cpu()


def confusion(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    """Count predictions of each class for images of each class: int64 [classes, classes], rows the labels.

    Labels and predictions int64 [N], or [N, L] of several classes an image, each of which counts: in the
    order of objective.predicted what was recognised is on the diagonal, and a mistake is beside it in the
    row of the class that was there and not recognised.
    """
    pairs = (labels * classes + predictions).flatten()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)
