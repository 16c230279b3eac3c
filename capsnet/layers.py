"""PyTorch's layers, changed to resume bit for bit and to accept a batch of one.

Letters of shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from capsnet.group import Part, Summed


class Dropout(nn.Module):
    """Leave out each number with the probability `share`, and make up for it in the others.

    In training `generator` decides which. The caller sets a new generator before each step, and `part` where
    other processes take their part of the same batch: numbers are then drawn for the whole batch.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: np.random.Generator | None = None
        self.part: Part | None = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Drop numbers of features of any shape, in training only; there, ValueError without a generator."""
        if not self.training or not self.share:
            return features
        if self.generator is None:
            raise ValueError("dropout in training draws from its `generator`: set it before each step")
        count, rows = (len(features), slice(None)) if self.part is None else (self.part.count, self.part.rows)
        drawn = self.generator.random((count, *features.shape[1:]), np.float32)[rows]
        return features * torch.from_numpy(drawn >= self.share).to(features.device) / (1 - self.share)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of features [B, C, H, W] or [B, C].

    A batch of one, such as an epoch's last one may be, is normalised by the running statistics and leaves
    them as they are: PyTorch's refuses one with a single number for a channel, and of more numbers it would
    take the statistics of one image for those of all.

    Where `part` says that other processes have the rest of the batch, its statistics are those of all of it.
    """

    part: Part | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  PyTorch's name for it
        self._check_input_dim(input)
        if self.training and self.part is not None and self.part.is_split:
            return self._normalised(input, self.part)
        if not self.training or len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _normalised(self, features: torch.Tensor, part: Part) -> torch.Tensor:
        """Normalise as PyTorch does, by statistics of all processes: mean and squares of each, combined."""
        numbers = features.to(torch.promote_types(features.dtype, torch.float32))
        places = [0, 2, 3][: features.dim() - 1]
        shape = [1, -1, 1, 1][: features.dim()]
        each = features[0, 0].numel()  # numbers of a channel in an image
        counts = torch.tensor(part.sizes, device=features.device)[:, None] * each  # [processes, 1]
        own_mean = numbers.mean(places)
        own_squares = (numbers - own_mean.view(shape)).square().sum(places)
        mine = torch.zeros(part.group.size, 1, 1, device=features.device)
        mine[part.group.rank] = 1
        means, squares = Summed.apply(mine * torch.stack([own_mean, own_squares]), part.group).unbind(1)
        count = part.count * each
        mean = (counts * means).sum(0) / count
        variance = (squares + counts * (means - mean).square()).sum(0) / count
        self._note(mean.detach(), variance.detach() * count / (count - 1))
        scaled = (numbers - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        return (scaled * self.weight.view(shape) + self.bias.view(shape)).to(features.dtype)

    @torch.no_grad()
    def _note(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Update the running statistics."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)

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
