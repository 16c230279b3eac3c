"""Splits of any data set without its files: a pattern for each class, and noise."""

from __future__ import annotations

import torch

from capsnet import augmentation, multi_mnist, randomness
from capsnet.config import Dataset, MultiMNIST
from capsnet.images import Images, Splits, shape, whole


def splits_of(dataset: Dataset, train: int, test: int) -> Splits:
    """Make training images of the size that augmentation takes, and test images of the network's size."""
    size, count = shape(dataset), train + test
    patterns = torch.from_numpy(randomness.generator(0, "patterns").random((size.classes, *whole(dataset))))
    labels = randomness.integers(0, 0, size.classes - 1, (count,), "labels")
    noise = randomness.generator(0, "noise").random((count, size.channels, *whole(dataset)))
    pixels = 180 * patterns[labels][:, None].round() + 60 * torch.from_numpy(noise)
    images = Images(pixels.to(torch.uint8), labels)
    if isinstance(dataset, MultiMNIST):
        return Splits(images[:train], None, multi_mnist.pairs(images[train:], test, dataset.shift, seed=0))
    return Splits(images[:train], None, augmentation.cropped(images[train:], dataset))
