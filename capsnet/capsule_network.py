"""The network of Sabour, Frosst and Hinton 2017.

Letters of shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from capsnet.capsules import ClassCapsules, PrimaryCapsules, lengths
from capsnet.config import AttentionRouting, CapsNetModel, DeconvDecoder, FCDecoder
from capsnet.decoders import decoder_of
from capsnet.geometry import chain
from capsnet.images import ImageShape
from capsnet.layers import SameConv2d
from capsnet.network import Network, Output
from capsnet.routing import Routing, attention, dynamic


class CapsNet(Network):
    """Figures 1 and 2: a convolution, primary capsules, class capsules, a decoder."""

    def __init__(
        self, conv: nn.Conv2d, primary: PrimaryCapsules, classes: ClassCapsules, decoder: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv = conv
        self.primary = primary
        self.classes = classes
        self.decoder = decoder

    def forward(self, images: torch.Tensor) -> Output:
        """Images [B, C, H, W] -> class capsules and lengths."""
        capsules = self.classes(self.primary_capsules(images))
        return Output(capsules, lengths(capsules))

    def primary_capsules(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] -> primary capsules [B, I, K], as they go into routing."""
        return self.primary(F.relu(self.conv(images)))


def build(
    model: CapsNetModel, iterations: int, decoder: FCDecoder | DeconvDecoder | None, shape: ImageShape
) -> CapsNet:
    """The network for images of `shape`; ValueError where the convolutions leave nothing of them."""
    rows, columns = chain(model).grids(shape.height, shape.width)[-1]
    kernel = model.kernel_size
    return CapsNet(
        conv=(SameConv2d if model.padding == "same" else nn.Conv2d)(
            shape.channels, model.conv_channels, kernel
        ),
        primary=PrimaryCapsules(
            model.conv_channels, model.primary_types, model.primary_dim, kernel, model.primary_routing
        ),
        classes=ClassCapsules(
            rows * columns * model.primary_types,
            model.primary_dim,
            shape.classes,
            model.class_dim,
            model.class_bias,
            _routing(model, iterations),
        ),
        decoder=decoder_of(decoder, model.class_dim, shape),
    )


def _routing(model: CapsNetModel, iterations: int) -> Routing:
    if isinstance(model.routing, AttentionRouting):
        return attention
    return partial(
        dynamic,
        iterations=iterations,
        gradient=model.routing.gradient,
        none_of_the_above=model.none_of_the_above,
    )
