"""Labelled images, and their sizes and classes for a model. Imports no PyTorch.

Letters of shapes: N images, C channels, H height, W width, L labels of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capsnet.dataset_sections import (
    CIFAR10,
    SVHN,
    AffNIST,
    Dataset,
    Digits,
    Folder,
    FramedMNIST,
    MultiMNIST,
    Photographs,
    SmallNORB,
)

if TYPE_CHECKING:
    import torch

MNIST_SIDE = 28  # pixels
AFFNIST_SIDE = 40


class DataError(Exception):
    """Error where a data set is missing or damaged; one line names the file and says what to do."""


@dataclass(frozen=True)
class ImageShape:
    """The size of one image as a network sees it, in pixels, and the number of classes."""

    channels: int
    height: int
    width: int
    classes: int
    labels: int = 1  # classes that one image shows


def shape(dataset: Dataset) -> ImageShape:
    """The size of a data set's images and the number of its classes, known without loading anything."""
    height, width = whole(dataset)
    if isinstance(dataset, Photographs) and dataset.crop:
        height = width = dataset.crop
    match dataset:
        case CIFAR10() | SVHN():
            return ImageShape(3, height, width, classes=10)
        case SmallNORB():
            return ImageShape(2, height, width, classes=5)
        case Folder():
            return ImageShape(dataset.channels, height, width, dataset.classes)
        case MultiMNIST():
            return ImageShape(1, height, width, classes=10, labels=2)
    return ImageShape(1, height, width, classes=10)


def whole(dataset: Dataset) -> tuple[int, int]:
    """Height and width of an image before anything is cropped."""
    match dataset:
        case Digits() | SmallNORB() | Folder():
            side = dataset.size
        case FramedMNIST() | MultiMNIST():
            side = MNIST_SIDE + 2 * dataset.pad
        case AffNIST():
            side = AFFNIST_SIDE
        case CIFAR10() | SVHN():
            side = 32
        case _:
            side = MNIST_SIDE
    return side, side


@dataclass(frozen=True)
class Images:
    """Labelled images on one device.

    images uint8 [N, C, H, W] with labels int64 [N]; where an image shows L classes, labels [N, L] and
    `parts` uint8 [N, L, C, H, W], what each label is of. Training images that are overlaid only when
    they are picked are one class each until then. Where images were cropped, `scale` float32 [N, 2] is mean
    and standard deviation of each one before, in [0, 1], as `standardise: first` needs them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    parts: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | torch.Tensor) -> Images:
        return self._each(lambda tensor: tensor[index])

    def to(self, device: str) -> Images:
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Images:
        parts = None if self.parts is None else function(self.parts)
        scale = None if self.scale is None else function(self.scale)
        return Images(function(self.images), function(self.labels), parts, scale)


@dataclass(frozen=True)
class Splits:
    """Parts of a data set: for training, for choosing the best epoch, and for the reported test."""

    train: Images
    validation: Images | None
    test: Images

    def to(self, device: str) -> Splits:
        validation = None if self.validation is None else self.validation.to(device)
        return Splits(self.train.to(device), validation, self.test.to(device))
