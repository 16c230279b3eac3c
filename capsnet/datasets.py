"""The data sets by name, and the validation split."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F

from capsnet import mnist, randomness
from capsnet.config import MNIST, Digits, FashionMNIST, default_root
from capsnet.images import DataError, Images, ImageShape, Splits, shape

__all__ = ["DataError", "ImageShape", "Images", "Splits", "load", "shape"]

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
DIGITS_FOR_TEST = 360  # the last ones: other writers than the first 1,437


def load(dataset: Digits | MNIST | FashionMNIST, seed: int) -> Splits:
    """The images of a data set; `seed` decides which training images are held back for validation.

    Raises DataError when files are missing or damaged, or fewer than `dataset.validation` would remain.
    """
    if isinstance(dataset, Digits):
        train, test = _digits(dataset.size)
    else:
        root = Path(dataset.root).expanduser().absolute() if dataset.root else default_root(dict(os.environ))
        train, test = mnist.load(root, FOLDERS[dataset.name], shape(dataset))
    train, validation = hold_back(train, dataset.validation, seed)
    return Splits(train, validation, test)


def hold_back(train: Images, count: int, seed: int) -> tuple[Images, Images | None]:
    """Part `count` images, chosen by `seed`, from the training images; None where `count` is 0."""
    if count == 0:
        return train, None
    if count >= len(train):
        raise DataError(f"dataset.validation is {count}, but there are only {len(train)} training images")
    held_back = torch.zeros(len(train), dtype=torch.bool)
    held_back[randomness.permutation(seed, len(train), "validation split")[:count]] = True
    return train[~held_back], train[held_back]


def _digits(size: int) -> tuple[Images, Images]:
    """scikit-learn's digits, 8×8 with values from 0 to 16, as `size`×`size` with values from 0 to 255."""
    try:
        from sklearn.datasets import load_digits  # takes more than a second
    except ImportError as error:
        raise DataError("the digits come with scikit-learn: pip install scikit-learn") from error
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    digits = Images(images.round().to(torch.uint8), torch.from_numpy(labels).long())
    return digits[:-DIGITS_FOR_TEST], digits[-DIGITS_FOR_TEST:]
