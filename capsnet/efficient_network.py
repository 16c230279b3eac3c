"""Efficient-CapsNet (Mazzia, Salvetti, Chiaberge 2021), as in their code where the text says nothing.

Letters of shapes: B batch, C channels, H height, W width, I primary capsules, K their dimension, J class
capsules, D their dimension.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from capsnet.capsules import lengths
from capsnet.config import DeconvDecoder, EfficientCapsNetModel, FCDecoder
from capsnet.convolution import convolved
from capsnet.decoders import decoder_of
from capsnet.geometry import Window, chain
from capsnet.images import ImageShape
from capsnet.initialization import glorot_normal, he_normal
from capsnet.layers import BatchNorm
from capsnet.network import Network, Output
from capsnet.routing import attention, exponential_squash

# Their batch normalisation has Keras's defaults. Keras's momentum is the share that running statistics
# keep, 0.99; PyTorch's is the share that is new.
BATCH_NORM_MOMENTUM = 1 - 0.99
BATCH_NORM_EPSILON = 1e-3


class EfficientCapsNet(Network):
    """Convolutions, a depthwise one that makes primary capsules, class capsules by attention, a decoder."""

    def __init__(
        self,
        convolutions: list[HeConv2d],
        primary: DepthwiseCapsules,
        classes: AttentionCapsules,
        decoder: nn.Module | None,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(
            BatchNorm(layer.out_channels, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
            for layer in convolutions
        )
        self.primary = primary
        self.classes = classes
        self.decoder = decoder

    def forward(self, images: torch.Tensor) -> Output:
        """Images [B, C, H, W] -> class capsules and lengths."""
        capsules = self.classes(self.primary_capsules(images))
        return Output(capsules, lengths(capsules))

    def primary_capsules(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] -> primary capsules [B, I, K], as they go into routing."""
        features = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = norm(F.relu(convolved(convolution, features)))
        return self.primary(features)


def _he(module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Draw normal numbers after He et al. 2015 for weights [outputs, inputs, ...]; a bias is 0."""
    if key.endswith("bias"):
        return np.zeros(shape, np.float32)
    return he_normal(shape, int(np.prod(shape[1:])), generator)


class HeConv2d(nn.Conv2d):
    """A convolution initialised as in their code: after He et al. 2015, bias 0."""

    initial = staticmethod(_he)


class HeLinear(nn.Linear):
    """A hidden layer of the decoder, initialised as in their code: after He et al. 2015, bias 0."""

    initial = staticmethod(_he)


class GlorotLinear(nn.Linear):
    """The decoder's last layer, initialised as in their code: after Glorot and Bengio 2010, bias 0."""

    @staticmethod
    def initial(
        module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        if key.endswith("bias"):
            return np.zeros(shape, np.float32)
        return glorot_normal(shape, shape[1], shape[0], generator)


class DepthwiseCapsules(nn.Module):
    """Primary capsules: each channel is summed over all positions by its own weights; K make a capsule."""

    def __init__(self, channels: int, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.empty(channels, 1, *grid))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features [B, C, H, W] -> capsules [B, I, K]; float32 from here on under autocast too."""
        sums = F.conv2d(features, self.weight, groups=len(self.weight)).flatten(1)
        return exponential_squash((sums + self.bias).unflatten(1, (-1, self.dim)))

    @staticmethod
    def initial(
        module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        """Draw Keras's default: after Glorot and Bengio 2010, all outputs counted as a fan; a bias is 0."""
        if key.endswith("bias"):
            return np.zeros(shape, np.float32)
        channels, _, rows, columns = shape
        bound = (6 / (rows * columns * (1 + channels))) ** 0.5
        return generator.uniform(-bound, bound, shape).astype(np.float32)


class AttentionCapsules(nn.Module):
    """One capsule per class; a prediction that agrees with the others counts more (Equations 3 to 6)."""

    def __init__(self, capsules: int, capsule_dim: int, classes: int, dim: int) -> None:
        super().__init__()
        # Three dimensions, not four: Module.to(memory_format=channels_last) permutes what has four or five.
        self.weight = nn.Parameter(torch.empty(classes, capsules * capsule_dim, dim))
        self.prior = nn.Parameter(torch.empty(classes, capsules))

    def forward(self, capsules: torch.Tensor) -> torch.Tensor:
        """Capsules [B, I, K] -> [B, J, D], without autocast, as in capsnet.capsules.ClassCapsules."""
        with torch.autocast(capsules.device.type, enabled=False):
            return attention(capsules, self.weight, prior=self.prior, shrink=exponential_squash)

    @staticmethod
    def initial(
        module: nn.Module, key: str, shape: tuple[int, ...], generator: np.random.Generator
    ) -> np.ndarray:
        """Draw as their code does: the fan of W counts the classes too (Keras's default); the prior is 0."""
        if key.endswith("prior"):
            return np.zeros(shape, np.float32)
        return he_normal(shape, shape[0] * shape[1], generator)


def build(
    model: EfficientCapsNetModel, decoder: FCDecoder | DeconvDecoder | None, shape: ImageShape
) -> EfficientCapsNet:
    """The network for images of `shape`; ValueError where the convolutions leave nothing of them."""
    windows = chain(model).windows
    grid = chain(model).grids(shape.height, shape.width)[-1]
    channels = model.conv_channels[-1]
    return EfficientCapsNet(
        convolutions=_convolutions((shape.channels, *model.conv_channels), windows),
        primary=DepthwiseCapsules(channels, grid, model.primary_dim),
        classes=AttentionCapsules(
            channels // model.primary_dim, model.primary_dim, shape.classes, model.class_dim
        ),
        decoder=decoder_of(decoder, model.class_dim, shape, (HeLinear, GlorotLinear)),
    )


def _convolutions(channels: tuple[int, ...], windows: tuple[Window, ...]) -> list[HeConv2d]:
    return [
        HeConv2d(size, following, window.kernel, window.stride)
        for (size, following), window in zip(pairwise(channels), windows, strict=True)
    ]
