"""Decoders: from the class capsules back to the image.

Letters of shapes: B batch, J classes, D dimension of their capsules, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from capsnet import config
from capsnet.images import ImageShape


class FCDecoder(nn.Module):
    """Fully connected layers with ReLU, the last one with a sigmoid (Figure 2)."""

    def __init__(self, capsule_dim: int, hidden: Sequence[int], shape: ImageShape) -> None:
        super().__init__()
        self.image = (shape.channels, shape.height, shape.width)
        sizes = (shape.classes * capsule_dim, *hidden, shape.channels * shape.height * shape.width)
        self.layers = nn.ModuleList(nn.Linear(size, following) for size, following in pairwise(sizes))

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Masked capsules [B, J, D] -> images [B, C, H, W] in (0, 1).

        All J capsules go in: the place of the one that is not zero tells the decoder the class.
        """
        *hidden, last = self.layers
        outputs = capsules.flatten(1)
        for layer in hidden:
            outputs = F.relu(layer(outputs))
        logits = last(outputs)
        # In float32 under autocast too: bfloat16 knows eight values between 0.97 and 1.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return wide.sigmoid().unflatten(1, self.image)


def decoder_of(
    settings: config.FCDecoder | config.DeconvDecoder | None, capsule_dim: int, shape: ImageShape
) -> nn.Module | None:
    """The decoder that `settings` describe, for class capsules of `capsule_dim` and images of `shape`."""
    match settings:
        case None:
            return None
        case config.FCDecoder():
            return FCDecoder(capsule_dim, settings.hidden, shape)
        case config.DeconvDecoder():
            raise NotImplementedError  # SEAM
