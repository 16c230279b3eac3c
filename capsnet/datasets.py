"""The data sets by name, and the validation split."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from capsnet import affnist, cifar10, folder, framed_mnist, mnist, multi_mnist, randomness, smallnorb, svhn
from capsnet.augmentation import cropped
from capsnet.config import (
    CIFAR10,
    SVHN,
    AffineMNIST,
    AffNIST,
    Dataset,
    Digits,
    Folder,
    MultiMNIST,
    ShiftedMNIST,
    SmallNORB,
    data_root,
)
from capsnet.dataset_files import DIGITS_FOR_TEST
from capsnet.images import DataError, Images, ImageShape, Splits, shape

__all__ = ["DataError", "ImageShape", "Images", "Splits", "load", "shape"]


def load(dataset: Dataset, seed: int) -> Splits:
    """The images of a data set; `seed` decides which training images are held back for validation.

    Training images are as augmentation takes them, the others as a network does. Raises DataError when
    files are missing or damaged, or fewer than `dataset.validation` would remain.
    """
    train, test = _read(dataset)
    train, validation = hold_back(train, dataset.validation, seed)
    return Splits(train, None if validation is None else _as_at_test(validation, dataset, seed), test)


def _read(dataset: Dataset) -> tuple[Images, Images]:
    """All training images, and the test images as a network takes them."""
    if isinstance(dataset, Digits):
        return _digits(dataset.size)
    root = data_root(dataset)
    match dataset:
        case ShiftedMNIST():
            return framed_mnist.load(root, dataset)
        case AffineMNIST():
            return framed_mnist.load_affine(root, dataset)
        case AffNIST():
            return affnist.load(root, dataset)
        case MultiMNIST():
            return multi_mnist.load(root, dataset)
        case CIFAR10():
            train, test = cifar10.load(root)
        case SVHN():
            train, test = svhn.load(root)
        case SmallNORB():
            train, test = smallnorb.load(root, dataset.size)
        case Folder():
            train, test = folder.load(root, dataset)
        case _:
            train, test = mnist.load(root, dataset.name)
    return train, cropped(test, dataset)


def _as_at_test(images: Images, dataset: Dataset, seed: int) -> Images:
    """Training images held back, as a network takes them in a test."""
    if isinstance(dataset, MultiMNIST):
        return multi_mnist.pairs(images, len(images), dataset.shift, seed)
    return cropped(images, dataset)


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
