"""Networks small enough to be compared with the reference number by number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capsnet import models, reference
from capsnet.capsules import ClassCapsules
from capsnet.config import CapsNetModel, Config, DynamicRouting, MarginLoss, SelfRouting
from capsnet.images import Images, ImageShape, Splits
from capsnet.presets import underlay
from capsnet.state import State
from capsnet.training import train

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


@pytest.fixture(autouse=True)
def event_files_in_order() -> None:
    """TensorBoard reads a folder's files by name: second, host, process, number. 10 comes before 9."""
    if writer := sys.modules.get("tensorboard.summary.writer.event_file_writer"):
        vars(writer)["_global_uid"] = writer.AtomicCounter(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread: on a busy machine several threads make tiny products 50 times as slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(name="small_config", scope="session")
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
        assert isinstance(built, models.CapsNet)
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.mul_(3)
            bias = built.classes.bias if isinstance(built.classes, ClassCapsules) else None
            if bias is not None:
                bias.add_(torch.linspace(-0.2, 0.3, bias.numel()).view(3, 6))
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
        model, loss = config.model, config.loss
        assert isinstance(model, CapsNetModel) and isinstance(loss, MarginLoss)
        assert not isinstance(
            model.routing, SelfRouting
        )  # which tests/capsnet/test_self_routing.py spells out
        return reference.Settings(
            iterations=config.route_iters,
            gradient=model.routing.gradient if isinstance(model.routing, DynamicRouting) else "full",
            routing=model.routing.name,
            none_of_the_above=model.none_of_the_above,
            padding=model.padding,
            primary_padding=model.primary_padding,
            primary_dim=model.primary_dim,
            primary_routing=model.primary_routing,
            margin=loss.margin,
            reconstruction_weight=loss.rc_loss_weight,
        )

    return convert


@pytest.fixture
def relative_error() -> RelativeError:
    """Function that returns ‖a - b‖ / ‖b‖ of a tensor a and the reference's array b."""

    def error(tensor: torch.Tensor, expected: np.ndarray) -> float:
        difference = np.linalg.norm(tensor.detach().double().numpy() - expected)
        return float(difference / np.linalg.norm(expected))

    return error


@pytest.fixture
def tiny_config() -> Callable[..., Config]:
    """Configurations of runs that take milliseconds an epoch: 4 batches of 16, 16, 16 and 2 images."""

    def config(**keys: Any) -> Config:
        defaults: dict[str, Any] = {
            "num_epochs": 3,
            "batch_size": 16,
            "threads": 1,
            "dataset": {"name": "digits", "size": 12, "validation": 20},
            "model": {"conv_channels": 8, "kernel_size": 5, "primary_types": 3, "decoder": {"hidden": [16]}},
        }
        return Config.model_validate(underlay(keys, defaults))

    return config


@pytest.fixture
def tiny_splits() -> Splits:
    """50 images to train on, 20 to validate, 21 to test: noise around one pattern for each class."""
    random = np.random.default_rng(3)
    patterns = random.integers(0, 200, (10, 1, 12, 12))

    def images(count: int) -> Images:
        labels = np.arange(count) % 10
        pixels = patterns[labels] + random.integers(0, 56, (count, 1, 12, 12))
        return Images(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))

    return Splits(images(50), images(20), images(21))


@pytest.fixture
def state(tiny_config: Callable[..., Config], tiny_splits: Splits) -> State:
    """State of a run after one epoch and two steps."""
    progresses = train(tiny_config(checkpoint={"keep_every": 2}), splits=tiny_splits, interval_seconds=0)
    return next(p for p in progresses if (p.epoch, p.step) == (2, 2)).snapshot()


@pytest.fixture
def at_end(tiny_config: Callable[..., Config], tiny_splits: Splits) -> State:
    """State of a run after two whole epochs, with `keep_every: 2`."""
    config = tiny_config(checkpoint={"keep_every": 2})
    ends = (p for p in train(config, splits=tiny_splits) if p.phase == "epoch_end")
    return next(p for p in ends if p.epoch == 2).snapshot()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of a checkpoint in a folder that does not exist yet."""
    return tmp_path / "folder" / "checkpoint.pt"
