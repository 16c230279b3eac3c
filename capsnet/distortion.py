"""Distortions of training images of digits: turned, moved within their margins, squeezed, erased in part.

What Mazzia, Salvetti and Chiaberge 2021 train on, by the code that they published; its numbers are those of
experiments/efficient_mnist.yaml. Amounts are normal numbers with a standard deviation of 0.33, cut off at 1,
times the most that there may be. What differs: values are rounded to bytes after each step, and images turn
about their middle, not about a point half a pixel beside it.

Letters of shapes: N images of an epoch, B batch, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch

from capsnet import randomness
from capsnet.affine import affine_maps, inverse

DEVIATION = 0.33  # of the normal numbers
MOST = 0.9999  # where they are cut off
LOBES = 3  # of the Lanczos window


def draw_turns(seed: int, epoch: int, count: int, degrees: float) -> torch.Tensor:
    """Maps float64 [N, 2, 3] that lead back from turned images; every other one is left as it is.

    Angles are whole degrees, at most `degrees` either way.
    """
    random = randomness.generator(seed, "turns", epoch)
    angles = np.trunc(_normal(random, count) * degrees)
    chosen = np.where(random.random(count) < 0.5, angles, 0.0)
    return inverse(affine_maps(degrees=torch.from_numpy(chosen)))


def draw_roams(seed: int, epoch: int, count: int) -> torch.Tensor:
    """Draw the share of its margin that each image moves, float32 [N, 2]: down, right; below 0 up, left."""
    return torch.from_numpy(_normal(randomness.generator(seed, "roams", epoch), (count, 2))).float()


def draw_squeezes(seed: int, epoch: int, count: int, pixels: int) -> torch.Tensor:
    """Draw by how many pixels each image gets narrower, 1 to `pixels`, and how far right of the middle it
    then lies, 0 or 1: int64 [N, 2].
    """
    random = np.abs(_normal(randomness.generator(seed, "squeezes", epoch), (count, 2)))
    return torch.from_numpy(np.floor(random * (pixels, 2)).astype(np.int64)) + torch.tensor([1, 0])


def draw_erasures(seed: int, epoch: int, count: int, side: int, height: int, width: int) -> torch.Tensor:
    """Draw the top left corners of squares, int64 [N, 2], no nearer to an edge than such a square is wide."""
    rows, columns = (
        randomness.integers(seed, side, most - side - 2, (count,), purpose, epoch)
        for most, purpose in ((height, "erased rows"), (width, "erased columns"))
    )
    return torch.stack([rows, columns], dim=1)


def _normal(random: np.random.Generator, size: int | tuple[int, ...]) -> np.ndarray:
    return random.normal(0, DEVIATION, size).clip(-MOST, MOST)


def roaming(images: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The shifts (down, right) of images [B, C, H, W] by shares [B, 2] of their empty margins: int64 [B, 2].

    Nothing is moved out of sight. Down and right, the share is taken of one pixel more than the margin and
    rounded down; up and left, it is taken of the margin and rounded up.
    """
    there = (images != 0).any(1)
    lines = there.any(2), there.any(1)
    return torch.stack([_steps(*pair) for pair in zip(shares.unbind(1), lines, strict=True)], dim=1)


def _steps(shares: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Return how far to move lines of pixels, empty except where `there` [B, side] is true: int64 [B]."""
    before, after = (line.int().argmax(1) for line in (there, there.flip(1)))
    return torch.where(shares > 0, shares * (1 + after), shares * before).floor().long()


def squeeze(images: torch.Tensor, squeezes: torch.Tensor) -> torch.Tensor:
    """Make images uint8 [B, C, H, W] narrower by the drawn squeezes [B, 2].

    Columns that become free on both sides are 0. A pixel is the mean under a Lanczos window of three times
    its width on each side, as in TensorFlow's resizing with `antialias`.
    """
    squeezed = torch.einsum("bchw,bwv->bchv", images.double(), _windows(squeezes, images.shape[3]))
    return squeezed.round().clamp(0, 255).to(torch.uint8)


def _windows(squeezes: torch.Tensor, width: int) -> torch.Tensor:
    """Return the weight of each pixel of a row in each pixel of the squeezed row: float64 [B, W, W]."""
    narrower, more = squeezes[:, :, None, None].unbind(1)  # each [B, 1, 1]
    kept, left = width - narrower, narrower // 2 + more
    scale = width / kept.double()
    pixels = torch.arange(width, dtype=torch.float64, device=squeezes.device)
    middles = (pixels - left + 0.5) * scale - 0.5  # of what each squeezed pixel stands for
    distances = (pixels[:, None] - middles) / scale
    windows = torch.sinc(distances) * torch.sinc(distances / LOBES) * (distances.abs() < LOBES)
    inside = (pixels >= left) & (pixels < left + kept)
    return torch.where(inside, windows / windows.sum(1, keepdim=True), 0.0)


def erase(images: torch.Tensor, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Make a square of `side` pixels of each image [B, C, H, W] black, by its corner [B, 2]."""
    inside = [
        (along >= corner[:, None]) & (along < corner[:, None] + side)
        for corner, along in zip(
            corners.unbind(1),
            (torch.arange(most, device=images.device) for most in images.shape[2:]),
            strict=True,
        )
    ]
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 0)
