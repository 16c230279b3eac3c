"""Networks by the name of their model, and lists of their layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from capsnet import capsule_network, cnn, efficient_network, matrix_network
from capsnet.capsule_network import CapsNet
from capsnet.config import CapsNetModel, CNNModel, Config, EfficientCapsNetModel, MatrixCapsNetModel
from capsnet.images import ImageShape
from capsnet.initialization import initialise
from capsnet.network import Network, Output

__all__ = ["CapsNet", "Layer", "Network", "Output", "build", "layers"]


def build(config: Config, shape: ImageShape) -> Network:
    """The network of `config` for images of `shape`; its weights are a function of `config.seed`.

    Its convolutions are channels_last, which makes cutting capsules free. Raises ValueError where the
    convolutions leave nothing of the images.
    """
    with torch.random.fork_rng(devices=[]):  # PyTorch's layers draw weights of their own, which do not stay
        network = _built(config, shape)
    initialise(network, getattr(config.model, "init", "paper"), config.seed)
    return network.to(memory_format=torch.channels_last)


def _built(config: Config, shape: ImageShape) -> Network:
    match config.model:
        case CapsNetModel() as model:
            return capsule_network.build(model, config.route_iters, config.decoder, shape)
        case EfficientCapsNetModel() as model:
            return efficient_network.build(model, config.decoder, shape)
        case MatrixCapsNetModel() as model:
            return matrix_network.build(model, config.route_iters, shape)
        case CNNModel() as model:
            return cnn.build(model, shape)


@dataclass(frozen=True)
class Layer:
    """A layer with parameters: its path in the network, kind, output size without the batch, parameters."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int


def layers(network: Network, shape: ImageShape) -> list[Layer]:
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
def _pass_one_image(network: Network, shape: ImageShape) -> None:
    network.eval()  # batch normalisation would take this image into its statistics
    parameter = next(network.parameters())
    image = parameter.new_zeros(1, shape.channels, shape.height, shape.width)
    output = network(image)
    if network.decoder is not None:
        network.reconstruct(output.capsules, output.lengths.argmax(1))
