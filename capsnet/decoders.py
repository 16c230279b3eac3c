"""Decoders: from the class capsules back to the image.

Batch normalisation, where it is asked for, stands between each hidden layer and its ReLU.

Letters of shapes: B batch, J classes, D dimension of their capsules, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from capsnet import config
from capsnet.augmentation import centre
from capsnet.convolution import convolved
from capsnet.geometry import DECONVOLUTIONS, grid_before
from capsnet.images import ImageShape
from capsnet.layers import BatchNorm

GRID_CHANNELS = 10  # of the grid that transposed convolutions begin with
DECONV_CHANNELS = (32, 64)  # after the first and the second of them


LinearKinds = tuple[type[nn.Linear], type[nn.Linear]]  # of hidden layers and of the last one


class FCDecoder(nn.Module):
    """Fully connected layers with ReLU, the last one with a sigmoid (Figure 2)."""

    def __init__(
        self,
        capsule_dim: int,
        hidden: Sequence[int],
        shape: ImageShape,
        batch_norm: bool = False,
        kinds: LinearKinds = (nn.Linear, nn.Linear),
    ) -> None:
        super().__init__()
        self.image = (shape.channels, shape.height, shape.width)
        sizes = (shape.classes * capsule_dim, *hidden)
        inner, last = kinds
        layers = [inner(size, following) for size, following in pairwise(sizes)]
        self.layers = nn.ModuleList([*layers, last(sizes[-1], prod(self.image))])
        self.norms = norms(hidden, batch_norm)

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Masked capsules [B, J, D] -> images [B, C, H, W] in (0, 1).

        All J capsules go in: the place of the one that is not zero tells the decoder the class.
        """
        *hidden, last = self.layers
        outputs = capsules.flatten(1)
        for layer, norm in zip(hidden, self.norms, strict=True):
            outputs = F.relu(norm(layer(outputs)))
        return pixels(last(outputs)).unflatten(1, self.image)


class DeconvDecoder(nn.Module):
    """A fully connected layer to a small grid, and three transposed convolutions; ReLU, at last a sigmoid.

    They make 28×28 pixels of a grid of 6×6. Other images are cut out of the middle of what the smallest grid
    gives that covers them.
    """

    def __init__(self, capsule_dim: int, shape: ImageShape, batch_norm: bool = False) -> None:
        super().__init__()
        self.image = (shape.height, shape.width)
        self.grid = (GRID_CHANNELS, grid_before(shape.height), grid_before(shape.width))
        self.linear = nn.Linear(shape.classes * capsule_dim, prod(self.grid))
        channels = (GRID_CHANNELS, *DECONV_CHANNELS, shape.channels)
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(size, following, kernel, stride)
            for (size, following), (kernel, stride) in zip(pairwise(channels), DECONVOLUTIONS, strict=True)
        )
        self.norms = norms((prod(self.grid), *DECONV_CHANNELS), batch_norm)

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Masked capsules [B, J, D] -> images [B, C, H, W] in (0, 1)."""
        first, *others = self.norms
        *inner, last = self.layers
        outputs = F.relu(first(self.linear(capsules.flatten(1)))).unflatten(1, self.grid)
        for layer, norm in zip(inner, others, strict=True):
            outputs = F.relu(norm(convolved(layer, outputs)))
        return pixels(centre(last(outputs), *self.image))


def norms(sizes: Iterable[int], wanted: bool) -> nn.ModuleList:
    """Batch normalisation for layers that give `sizes` numbers or channels, or nothing in its place."""
    return nn.ModuleList(BatchNorm(size) if wanted else nn.Identity() for size in sizes)


def pixels(logits: torch.Tensor) -> torch.Tensor:
    """The sigmoid, in float32 under autocast too: bfloat16 knows eight values between 0.97 and 1."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()


def decoder_of(
    settings: config.FCDecoder | config.DeconvDecoder | None,
    capsule_dim: int,
    shape: ImageShape,
    kinds: LinearKinds = (nn.Linear, nn.Linear),
) -> nn.Module | None:
    """The decoder that `settings` describe, for class capsules of `capsule_dim` and images of `shape`.

    `kinds`: of the layers of a fully connected one, which say how these begin.
    """
    match settings:
        case None:
            return None
        case config.FCDecoder():
            return FCDecoder(capsule_dim, settings.hidden, shape, settings.batch_norm, kinds)
        case config.DeconvDecoder():
            return DeconvDecoder(capsule_dim, shape, settings.batch_norm)
