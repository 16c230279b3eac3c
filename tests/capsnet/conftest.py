"""Networks small enough to be compared with the reference number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from capsnet import models, reference
from capsnet.config import Config
from capsnet.images import ImageShape

SMALL_SHAPE = ImageShape(channels=2, height=9, width=8, classes=3)
SMALL_MODEL: dict[str, Any] = {
    "conv_channels": 5,
    "kernel_size": 3,
    "primary_types": 4,
    "primary_dim": 3,
    "class_dim": 6,
}
SMALL_DECODER = {"decoder": {"hidden": [7, 8]}}

RelativeError = Callable[[torch.Tensor, np.ndarray], float]


def small_config(model: dict[str, Any] | None = None, **keys: Any) -> Config:
    decoder = SMALL_DECODER if keys.get("loss", {}).get("with_reconstruction", True) else {}
    return Config.model_validate({"model": SMALL_MODEL | decoder | (model or {}), **keys})


@pytest.fixture(name="small_config")
def _small_config() -> Callable[..., Config]:
    """Configurations of a network with 48 primary capsules for images of `small_shape`."""
    return small_config


@pytest.fixture
def small_shape() -> ImageShape:
    return SMALL_SHAPE


@pytest.fixture
def small_network() -> Callable[..., models.CapsNet]:
    """Builds the small network in float64, its weights large enough for routing to matter."""

    def network(model: dict[str, Any] | None = None, **keys: Any) -> models.CapsNet:
        built = models.build(small_config(model, **keys), SMALL_SHAPE).double()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.mul_(3)
            if built.classes.bias is not None:
                built.classes.bias.add_(torch.linspace(-0.2, 0.3, built.classes.bias.numel()).view(3, 6))
        return built

    return network


@pytest.fixture
def small_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four images, float64, and their labels."""
    generator = torch.Generator().manual_seed(5)
    shape = (4, SMALL_SHAPE.channels, SMALL_SHAPE.height, SMALL_SHAPE.width)
    return torch.rand(shape, generator=generator, dtype=torch.float64), torch.tensor([2, 0, 1, 2])


@pytest.fixture
def arrays() -> Callable[[models.CapsNet], dict[str, np.ndarray]]:
    """A network's parameters as float64 arrays for the reference."""

    def convert(network: models.CapsNet) -> dict[str, np.ndarray]:
        return {name: value.detach().double().numpy() for name, value in network.named_parameters()}

    return convert


@pytest.fixture
def settings() -> Callable[[Config], reference.Settings]:
    """The reference's settings for a configuration."""

    def convert(config: Config) -> reference.Settings:
        return reference.Settings(
            iterations=config.route_iters,
            gradient=config.model.routing.gradient,
            primary_dim=config.model.primary_dim,
            primary_routing=config.model.primary_routing,
            margin=config.loss.margin,
            reconstruction_weight=config.loss.rc_loss_weight,
        )

    return convert


@pytest.fixture
def relative_error() -> RelativeError:
    """‖a - b‖ / ‖b‖ of a tensor and what the reference has for it."""

    def error(tensor: torch.Tensor, expected: np.ndarray) -> float:
        difference = np.linalg.norm(tensor.detach().double().numpy() - expected)
        return float(difference / np.linalg.norm(expected))

    return error
