"""The network of Sabour, Frosst and Hinton 2017.

Letters of shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from capsnet.capsules import ClassCapsules, PrimaryCapsules, SelfRoutedCapsules, lengths
from capsnet.config import (
    AttentionRouting,
    CapsNetModel,
    DeconvDecoder,
    DynamicRouting,
    FCDecoder,
    SelfRouting,
)
from capsnet.decoders import decoder_of
from capsnet.geometry import chain
from capsnet.images import ImageShape
from capsnet.layers import SameConv2d
from capsnet.network import Network, Output
from capsnet.routing import Routing, attention, dynamic


class CapsNet(Network):
    """Figures 1 and 2: a convolution, primary capsules, class capsules, a decoder."""

    def __init__(
        self,
        conv: nn.Conv2d,
        primary: PrimaryCapsules,
        classes: ClassCapsules | SelfRoutedCapsules,
        decoder: nn.Module | None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.primary = primary
        self.classes = classes
        self.decoder = decoder

    def forward(self, images: torch.Tensor) -> Output:
        """Images [B, C, H, W] -> class capsules and lengths."""
        return self.routed(self.primary_capsules(images))

    def primary_capsules(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] -> primary capsules [B, I, K], as they go into routing."""
        return self.primary(F.relu(self.conv(images)))

    def routed(self, capsules: torch.Tensor) -> Output:
        """Primary capsules [B, I, K] -> class capsules and lengths, and logits where routing has them."""
        capsules = self.classes(capsules)
        if not isinstance(self.classes, SelfRoutedCapsules):
            return Output(capsules, lengths(capsules))
        poses, logits = capsules[..., :-1], capsules[..., -1]
        return Output(poses, logits.exp(), logits)


def build(
    model: CapsNetModel, iterations: int, decoder: FCDecoder | DeconvDecoder | None, shape: ImageShape
) -> CapsNet:
    """The network for images of `shape`; ValueError where the convolutions leave nothing of them."""
    rows, columns = chain(model).grids(shape.height, shape.width)[-1]
    kernel, capsules = model.kernel_size, rows * columns * model.primary_types
    return CapsNet(
        conv=(SameConv2d if model.padding == "same" else nn.Conv2d)(
            shape.channels, model.conv_channels, kernel
        ),
        primary=PrimaryCapsules(
            model.conv_channels,
            model.primary_types,
            model.primary_dim,
            kernel,
            model.primary_routing,
            model.primary_padding,
        ),
        classes=_classes(model, iterations, capsules, shape.classes, decoder is not None),
        decoder=decoder_of(decoder, model.class_dim, shape),
    )


def _classes(
    model: CapsNetModel, iterations: int, capsules: int, classes: int, decoded: bool
) -> ClassCapsules | SelfRoutedCapsules:
    match model.routing:
        case SelfRouting():
            return SelfRoutedCapsules(
                capsules, model.primary_dim, classes, model.class_dim if decoded else None
            )
        case AttentionRouting():
            route: Routing = attention
        case DynamicRouting() as routing:
            route = partial(
                dynamic,
                iterations=iterations,
                gradient=routing.gradient,
                none_of_the_above=model.none_of_the_above,
            )
    return ClassCapsules(capsules, model.primary_dim, classes, model.class_dim, model.class_bias, route)
