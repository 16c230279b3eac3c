"""Labelled images, and what a model has to know of them. Imports no PyTorch.

Letters of shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from capsnet.sections import Digits

if TYPE_CHECKING:
    import torch

    from capsnet.sections import MNIST, FashionMNIST


class DataError(Exception):
    """A data set is missing or damaged: one line that names the file and says what to do."""


@dataclass(frozen=True)
class ImageShape:
    """The size of one image, in pixels, and the number of classes."""

    channels: int
    height: int
    width: int
    classes: int


def shape(dataset: Digits | MNIST | FashionMNIST) -> ImageShape:
    """The size of a data set's images and the number of its classes, known without loading anything."""
    size = dataset.size if isinstance(dataset, Digits) else 28
    return ImageShape(channels=1, height=size, width=size, classes=10)


@dataclass(frozen=True)
class Images:
    """images uint8 [N, C, H, W] and labels int64 [N], on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | torch.Tensor) -> Images:
        return Images(self.images[index], self.labels[index])

    def to(self, device: str) -> Images:
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """The parts of a data set: what is trained on, what decides which epoch was best, what is reported."""

    train: Images
    validation: Images | None
    test: Images

    def to(self, device: str) -> Splits:
        validation = None if self.validation is None else self.validation.to(device)
        return Splits(self.train.to(device), validation, self.test.to(device))
