"""The two capsule layers of the paper's network, and lengths, labels and masks for their output.

Letters of shapes: B batch, C channels, H height, W width, T types of primary capsules, I input capsules,
K their dimension, J output capsules (classes), D their dimension.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from capsnet.convolution import primary_convolution
from capsnet.routing import Routing, norm, self_routing, squash


class PrimaryCapsules(nn.Module):
    """A convolution with stride 2 whose output channels are T types of K-dimensional capsules.

    `routing` "squash" is the paper's text. "softmax" is the authors' code: one pass of routing from one
    input to all T types, where each gets the share 1/T of the convolution before the bias is added; "leaky"
    is that code where it routes to none of the types too, and each gets 1/(T + 1).
    """

    def __init__(
        self,
        channels: int,
        types: int,
        dim: int,
        kernel_size: int,
        routing: Literal["squash", "softmax", "leaky"],
        padding: Literal["valid", "same"] = "valid",
    ) -> None:
        super().__init__()
        self.dim = dim
        self.share = {"squash": 1.0, "softmax": 1.0 / types, "leaky": 1.0 / (types + 1)}[routing]
        self.same = padding == "same"
        self.weight = nn.Parameter(torch.empty(types * dim, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(types * dim))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, C, H, W] -> capsules [B, I, K], I counting rows, then columns, then types.

        The K numbers of a capsule are neighbouring channels at one position, so the channels go last
        before anything is cut: for free where the convolution's output is channels_last.
        """
        outputs = primary_convolution(features, self.weight, self.same).permute(0, 2, 3, 1)
        # float32 from here on under autocast too: the bias is float32, and so the sum is.
        inputs = torch.add(self.bias, outputs, alpha=self.share)
        return squash(inputs.reshape(len(inputs), -1, self.dim))


class ClassCapsules(nn.Module):
    """One capsule per class, routed from all primary capsules."""

    def __init__(
        self, capsules: int, capsule_dim: int, classes: int, dim: int, bias: bool, route: Routing
    ) -> None:
        super().__init__()
        self.capsule_dim = capsule_dim
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


class SelfRoutedCapsules(nn.Module):
    """One capsule per class, to which each primary capsule routes itself (Hahn, Pyeon and Kim 2019).

    Taken over from their code, where the kernel of the last layer sees the whole grid: each primary capsule
    has a routing network of its own, one linear map of its pose and a softmax over the classes; what it gives
    is weighted by its activation; the activations of the classes are shares that sum to 1, nothing is
    squashed and nothing iterated; routing begins even, its parameters at 0.

    What differs: here the length of a primary capsule is its activation, as everywhere in this network, and
    its pose is squashed; there activations have a convolution and a sigmoid of their own, and activations and
    poses batch normalisation. There the classes have no poses, as no decoder asks for them; here they have,
    by the rule of their layers before the last one, where there is a decoder.
    """

    def __init__(self, capsules: int, capsule_dim: int, classes: int, dim: int | None) -> None:
        super().__init__()
        self.capsule_dim = capsule_dim
        self.route = nn.Parameter(torch.empty(capsules, capsule_dim, classes))
        self.prior = nn.Parameter(torch.empty(capsules, classes))
        self.weight = None if dim is None else nn.Parameter(torch.empty(classes, capsules * capsule_dim, dim))

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Capsules [B, I, K] -> [B, J, D + 1]: poses and, last, the logarithm of the activation.

        Without `dim` D = 0. Autocast is off, as in ClassCapsules.
        """
        with torch.autocast(capsules.device.type, enabled=False):
            poses, activations = self_routing(capsules, self.route, self.prior, self.weight)
        return torch.cat([poses, activations[..., None]], dim=2)

    @staticmethod
    def initial(
        module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        """Even routing, and predictions as large as the capsules: their mean is smaller than a sum."""
        assert isinstance(module, SelfRoutedCapsules)
        if not key.endswith("weight"):
            return np.zeros(shape, np.float32)
        return generator.standard_normal(shape, np.float32) * np.float32(module.capsule_dim**-0.5)


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
