"""Layers that PyTorch has, made to resume bit for bit and to bear a batch of one.

Letters of shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Dropout(nn.Module):
    """Leave out each number with the probability `share`, and make up for it in the others.

    In training `generator` decides which; whoever trains sets it anew before each step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: np.random.Generator | None = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features of any shape, as they are in evaluation; ValueError in training without a generator."""
        if not self.training or not self.share:
            return features
        if self.generator is None:
            raise ValueError("dropout in training draws from its `generator`: set it before each step")
        kept = self.generator.random(tuple(features.shape), np.float32) >= self.share
        return features * torch.from_numpy(kept).to(features.device) / (1 - self.share)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of features [B, C, H, W] or [B, C].

    A batch of one, such as an epoch's last one may be, is normalised by the running statistics and leaves
    them as they are: PyTorch's refuses one with a single number for a channel, and of more numbers it would
    take the statistics of one image for those of all.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  PyTorch's name for it
        self._check_input_dim(input)
        if not self.training or len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002
        if input.dim() not in (2, 4):
            raise ValueError(f"expected features [B, C, H, W] or [B, C], not {input.dim()} dimensions")


class SameConv2d(nn.Conv2d):
    """A convolution with as many zeros around the image as keep its size.

    A kernel with an even side needs one row more of them below than above, and one column more to the right
    than to the left. PyTorch's padding="same" does so too, but warns of the copy that it makes.
    """

    def __init__(self, channels: int, outputs: int, kernel_size: int) -> None:
        super().__init__(channels, outputs, kernel_size, padding=(kernel_size - 1) // 2)
        self.is_even = kernel_size % 2 == 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return super().forward(F.pad(input, (0, 1, 0, 1)) if self.is_even else input)
