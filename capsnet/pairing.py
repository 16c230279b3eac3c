"""Pairs of digits that are overlaid in images of MultiMNIST."""

from __future__ import annotations

import numpy as np
import torch

from capsnet.images import DataError


def partners(labels: torch.Tensor, order: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """For each image of `order`, int64 [M], another one, of those of other classes each as likely: int64 [M].

    `labels` int64 [N] are those of all images. Raises DataError where they are of one class.
    """
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    ends = counts.cumsum(0)  # of each class in `by_class`
    own = labels[order]
    others = len(labels) - counts[own]
    if not others.all():
        raise DataError(
            f"two digits of different classes cannot be overlaid where all {len(labels)} images show a "
            f"{int(labels[0])}: train on more images, or set dataset.validation to more, or to 0"
        )
    chosen = torch.from_numpy(generator.integers(0, others.numpy()))
    return by_class[(ends[own] + chosen) % len(labels)]
