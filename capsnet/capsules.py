"""The two capsule layers of the paper's network, and what is read from their output.

Letters of shapes: B batch, C channels, H height, W width, T types of primary capsules, I input capsules,
K their dimension, J output capsules (classes), D their dimension.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from capsnet.convolution import primary_convolution
from capsnet.routing import Routing, norm, squash


class PrimaryCapsules(nn.Module):
    """A convolution with stride 2 whose output channels are T types of K-dimensional capsules.

    `routing` "squash" is the paper's text. "softmax" is the authors' code: one pass of routing from one
    input to all T types, where each gets the share 1/T of the convolution before the bias is added.
    """

    def __init__(
        self, channels: int, types: int, dim: int, kernel_size: int, routing: Literal["squash", "softmax"]
    ) -> None:
        super().__init__()
        self.dim = dim
        self.share = 1.0 if routing == "squash" else 1.0 / types
        self.weight = nn.Parameter(torch.empty(types * dim, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(types * dim))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, C, H, W] -> capsules [B, I, K], I counting rows, then columns, then types.

        The K numbers of a capsule are neighbouring channels at one position, so the channels go last
        before anything is cut: for free where the convolution's output is channels_last.
        """
        outputs = primary_convolution(features, self.weight).permute(0, 2, 3, 1)
        # float32 from here on under autocast too: the bias is float32, and so the sum is.
        inputs = torch.add(self.bias, outputs, alpha=self.share)
        return squash(inputs.reshape(len(inputs), -1, self.dim))


class ClassCapsules(nn.Module):
    """One capsule per class, routed from all primary capsules."""

    def __init__(
        self, capsules: int, capsule_dim: int, classes: int, dim: int, bias: bool, route: Routing
    ) -> None:
        super().__init__()
        self.route = route
        # Three dimensions, not five: Module.to(memory_format=channels_last) permutes what has four or five.
        self.weight = nn.Parameter(torch.empty(classes, capsules * capsule_dim, dim))
        self.bias = nn.Parameter(torch.empty(classes, dim)) if bias else None

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Capsules [B, I, K] -> [B, J, D].

        Autocast is off: in bfloat16 the capsules, and with them the lengths that the margins judge, came out
        with errors of half a percent, and on a CPU routing was no faster: it waits for memory, not products.
        """
        with torch.autocast(capsules.device.type, enabled=False):
            return self.route(capsules, self.weight, self.bias)


def lengths(capsules: torch.Tensor) -> torch.Tensor:
    """Capsules [B, J, D] -> their lengths [B, J] in [0, 1): the probability that a class is there."""
    return norm(capsules)[..., 0]


def one_hot(classes: torch.Tensor, count: int) -> torch.Tensor:
    """Classes int64 [B] -> bool [B, count].

    Unlike torch.nn.functional.one_hot it never waits for the device to look at the values.
    """
    return classes[:, None] == torch.arange(count, device=classes.device)


def present(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Labels int64 [B], or [B, L] of several classes an image -> bool [B, count]: which classes are there."""
    if labels.dim() == 1:
        return one_hot(labels, count)
    return (labels[:, :, None] == torch.arange(count, device=labels.device)).any(1)


def mask(capsules: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Set all capsules [B, J, D] to zero but that of each image's class [B]."""
    return capsules * one_hot(classes, capsules.shape[1])[..., None]
