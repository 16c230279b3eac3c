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
        if not self.training or len(features) > 1:
            return super().forward(features)
        return F.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _check_input_dim(self, features: torch.Tensor) -> None:
        if features.dim() not in (2, 4):
            raise ValueError(f"expected features [B, C, H, W] or [B, C], not {features.dim()} dimensions")
