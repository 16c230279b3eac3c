"""Which two digits are overlaid in an image of MultiMNIST."""

from __future__ import annotations

import numpy as np
import torch


def partners(labels: torch.Tensor, order: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """For each image of `order`, int64 [M], another one, of those of other classes each as likely: int64 [M].

    `labels` int64 [N] are those of all images; there must be two classes at least.
    """
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    ends = counts.cumsum(0)  # of each class in `by_class`
    own = labels[order]
    others = (len(labels) - counts[own]).numpy()
    chosen = torch.from_numpy(generator.integers(0, others))
    return by_class[(ends[own] + chosen) % len(labels)]
