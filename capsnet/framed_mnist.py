"""MNIST in a black frame, and its test images under affine maps that are drawn here.

Letters of shapes: N images, H height, W width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from capsnet import config, mnist, randomness
from capsnet.affine import affine_maps, warp
from capsnet.images import Images

# As far as affNIST's digits go from MNIST's, as remembered: its page gives no such list of numbers.
MOST_DEGREES = 20.0
MOST_SHEAR = 0.2
SCALES = (0.8, 1.2)


def load(root: Path, dataset: config.ShiftedMNIST) -> tuple[Images, Images]:
    """MNIST's training and test images, each in the middle of a frame of `dataset.pad` pixels.

    Training moves its digits about in the frame, by `dataset.shift` pixels at most.
    """
    train, test = mnist.load(root)
    return framed(train, dataset.pad), framed(test, dataset.pad)


def load_affine(root: Path, dataset: config.AffineMNIST) -> tuple[Images, Images]:
    """Training images as `shifted_mnist` has them, and MNIST's test images, each under a map of its own.

    This is not affNIST, only of its kind: each test image is there once, and the maps are drawn here, by
    `dataset.test_seed` alone. Figures on the two are not to be compared.
    """
    train, test = mnist.load(root)
    test = framed(test, dataset.pad)
    mapped = warp(test.images, draw_maps(test.images, dataset.test_seed))
    return framed(train, dataset.pad), Images(mapped, test.labels)


def framed(images: Images, pad: int) -> Images:
    """Images with `pad` black pixels on each side."""
    return Images(F.pad(images.images, (pad, pad, pad, pad)), images.labels)


def draw_maps(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw for each image uint8 [N, 1, H, W] a rotation of up to 20 degrees either way, a shear of up to 0.2,
    a vertical and a horizontal scale from 0.8 to 1.2, and a place: float64 [N, 2, 3].

    Each is uniform, the place among those at which the whole digit is in the frame; one that is too large
    for it is in the middle.
    """
    drawn = randomness.generator(seed, "affine maps")
    count = len(images)
    degrees = torch.from_numpy(drawn.uniform(-MOST_DEGREES, MOST_DEGREES, count))
    shear = torch.from_numpy(drawn.uniform(-MOST_SHEAR, MOST_SHEAR, count))
    scale = torch.from_numpy(drawn.uniform(*SCALES, (count, 2)))
    maps = affine_maps(degrees, shear, scale)
    low, high = _extent(images, maps[:, :, :2])
    # Where the first pixels outside of the frame are: a digit may end there, but nothing of it shows.
    beyond = (torch.tensor(images.shape[2:]) + 1) / 2
    first, last = -beyond - low, beyond - high
    maps[:, :, 2] = _between(first, last, drawn)
    return maps


def _between(first: torch.Tensor, last: torch.Tensor, drawn: np.random.Generator) -> torch.Tensor:
    """Draw points from `first` to `last`, both [N, 2]; the middle where the second is the smaller."""
    places = torch.from_numpy(drawn.uniform(-0.5, 0.5, tuple(first.shape)))
    return (first + last) / 2 + places * (last - first).clamp(min=0)


def _extent(images: torch.Tensor, linear: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first and last points of digits [N, 1, H, W] under `linear` [N, 2, 2]: two of [N, 2].

    One pixel is added around a digit before it is mapped: interpolation spreads it so far.
    """
    there = images[:, 0] > 0
    top, bottom = _ends(there.any(2))
    left, right = _ends(there.any(1))
    corners = torch.stack(
        [torch.stack([down, across], dim=1) for down in (top, bottom) for across in (left, right)], dim=1
    )
    mapped = corners @ linear.mT  # [N, 4, 2]
    return mapped.amin(1), mapped.amax(1)


def _ends(there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return just before the first and just after the last true in each row of [N, side], from the middle.

    Where none is true, those of the whole side.
    """
    side = there.shape[1]
    first = there.int().argmax(1)
    last = side - 1 - there.flip(1).int().argmax(1)
    middle = (side - 1) / 2
    return first.double() - 1 - middle, last.double() + 1 - middle
