"""MultiMNIST: two MNIST digits of different classes, overlaid (Sabour et al. 2017, section 6).

Training pairs are made as they are picked (capsnet.batches): an epoch has each training image once as
its first digit. The test set is made here, once, and is the same for every run.

Letters of shapes: N images, H height, W width.
"""

from __future__ import annotations

from pathlib import Path

import torch

from capsnet import config, mnist, randomness
from capsnet.augmentation import overlaid
from capsnet.framed_mnist import framed
from capsnet.images import Images
from capsnet.pairing import partners

TEST_PAIRS = 10_000


def load(root: Path, dataset: config.MultiMNIST) -> tuple[Images, Images]:
    """The single digits that training overlays, in frames of `dataset.pad` pixels; the test pairs.

    The test pairs are those of `dataset.test_seed`, whatever the run's seed.
    """
    train, test = (framed(digits, dataset.pad) for digits in mnist.load(root))
    return train, pairs(test, TEST_PAIRS, dataset.shift, dataset.test_seed)


def pairs(digits: Images, count: int, pixels: int, seed: int) -> Images:
    """`count` images of two of the `digits`, which are of different classes: labels [N, 2], with parts.

    The first digits are all of `digits` in their order, again and again; each second one is drawn, and so
    is how far each digit moves down and right, `pixels` at most either way. Raises DataError where all
    digits are of one class.
    """
    first = torch.arange(count) % len(digits)
    second = partners(digits.labels, first, randomness.generator(seed, "test partners"))
    shifts = randomness.integers(seed, -pixels, pixels, (count, 2, 2), "test shifts")
    return overlaid(digits[torch.stack([first, second], dim=1)], shifts, pixels)
