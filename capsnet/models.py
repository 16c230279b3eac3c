"""Networks, built from a configuration.

Letters of shapes: B batch, C channels, H height, W width, J classes, D dimension of a class capsule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from capsnet.capsules import ClassCapsules, PrimaryCapsules, lengths, mask
from capsnet.config import CapsNetModel, Config
from capsnet.decoders import FCDecoder
from capsnet.geometry import grid
from capsnet.images import ImageShape
from capsnet.initialization import initialise
from capsnet.routing import Routing, dynamic


class Output(NamedTuple):
    """What a network says of a batch: class capsules [B, J, D] and their lengths [B, J], the scores."""

    capsules: torch.Tensor
    lengths: torch.Tensor


class CapsNet(nn.Module):
    """The network of Sabour et al. 2017, Figures 1 and 2."""

    def __init__(
        self, conv: nn.Conv2d, primary: PrimaryCapsules, classes: ClassCapsules, decoder: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv = conv
        self.primary = primary
        self.classes = classes
        self.decoder = decoder

    def forward(self, images: torch.Tensor) -> Output:
        """Images [B, C, H, W] with pixels in [0, 1] -> class capsules and lengths."""
        capsules = self.classes(self.primary(F.relu(self.conv(images))))
        return Output(capsules, lengths(capsules))

    def reconstruct(self, capsules: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Class capsules [B, J, D] -> images [B, C, H, W] of the capsule of each one's class [B].

        The classes are the labels in training and those of the longest capsules at test.
        """
        if self.decoder is None:
            raise ValueError("this network was built without a decoder (loss.with_reconstruction is false)")
        return self.decoder(mask(capsules, classes))


def build(config: Config, shape: ImageShape) -> CapsNet:
    """The network of `config` for images of `shape`; its weights are a function of `config.seed`.

    Its convolutions are channels_last, which makes cutting capsules free. Raises ValueError where the
    convolutions leave nothing of the images.
    """
    rows, columns = grid(config.model.kernel_size, shape.height, shape.width).capsules
    with torch.random.fork_rng(devices=[]):  # PyTorch's layers draw weights of their own, which do not stay
        network = _capsnet(config, shape, capsules=rows * columns * config.model.primary_types)
    initialise(network, config.model.init, config.seed)
    return network.to(memory_format=torch.channels_last)


def _capsnet(config: Config, shape: ImageShape, capsules: int) -> CapsNet:
    model, kernel = config.model, config.model.kernel_size
    return CapsNet(
        conv=nn.Conv2d(shape.channels, model.conv_channels, kernel),
        primary=PrimaryCapsules(
            model.conv_channels, model.primary_types, model.primary_dim, kernel, model.primary_routing
        ),
        classes=ClassCapsules(
            capsules, model.primary_dim, shape.classes, model.class_dim, model.class_bias, _routing(config)
        ),
        decoder=_decoder(model, shape) if config.loss.with_reconstruction else None,
    )


def _routing(config: Config) -> Routing:
    return partial(dynamic, iterations=config.route_iters, gradient=config.model.routing.gradient)


def _decoder(model: CapsNetModel, shape: ImageShape) -> FCDecoder:
    return FCDecoder(model.class_dim, model.decoder.hidden, shape)


@dataclass(frozen=True)
class Layer:
    """A layer with parameters: its path in the network, kind, output size without the batch, parameters."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int


def layers(network: CapsNet, shape: ImageShape) -> list[Layer]:
    """The layers that hold parameters, in the order in which one image passes them."""
    rows: list[Layer] = []

    def record(name: str, module: nn.Module, output: torch.Tensor) -> None:
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        rows.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), count))

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        _pass_one_image(network, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return rows


@torch.no_grad()
def _pass_one_image(network: CapsNet, shape: ImageShape) -> None:
    parameter = next(network.parameters())
    image = parameter.new_zeros(1, shape.channels, shape.height, shape.width)
    output = network(image)
    if network.decoder is not None:
        network.reconstruct(output.capsules, output.lengths.argmax(1))
