"""The ordinary implementation, to which speeds are compared, computes the same as capsnet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ordinary import OrdinaryCapsNet, Training, loss_of
from torch import nn

from capsnet import models, objective
from capsnet.augmentation import Batch
from capsnet.config import CapsNetModel, Config, FCDecoder
from capsnet.images import Images, ImageShape

SHAPE = ImageShape(channels=1, height=14, width=13, classes=3)
MODEL: dict[str, Any] = {
    "conv_channels": 5,
    "kernel_size": 4,
    "primary_types": 4,
    "primary_dim": 3,
    "class_dim": 6,
    "decoder": {"hidden": [7, 8]},
}
SAME_NAME = ("conv.weight", "conv.bias")
PRIMARY = {"primary.weight": "primary.conv.weight", "primary.bias": "primary.conv.bias"}
DECODER = {
    f"decoder.layers.{layer}.{kind}": f"decoder.{2 * layer}.{kind}"
    for layer in range(3)
    for kind in ("weight", "bias")
}
NAMES = {**{name: name for name in SAME_NAME}, **PRIMARY, **DECODER}


def config(**keys: Any) -> Config:
    return Config.model_validate({"model": MODEL, **keys})


def as_ordinary(weight: torch.Tensor) -> torch.Tensor:
    """W as capsnet keeps it, [J, positions · types · K, D] -> [types · positions, J, D, K]."""
    classes, _, dim = weight.shape
    split = weight.view(classes, -1, MODEL["primary_types"], MODEL["primary_dim"], dim)
    return split.permute(2, 1, 0, 4, 3).flatten(0, 1)


def pair(iterations: int) -> tuple[Config, models.CapsNet, OrdinaryCapsNet]:
    """Both networks in float64 with the same weights, large enough for routing to matter."""
    settings = config(route_iters=iterations)
    network = models.build(settings, SHAPE).double()
    assert isinstance(network, models.CapsNet) and isinstance(settings.model, CapsNetModel)
    assert isinstance(settings.model.decoder, FCDecoder)
    other = OrdinaryCapsNet(settings.model, iterations, settings.model.decoder.hidden, SHAPE).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
        found = dict(network.named_parameters())
        for name, theirs in NAMES.items():
            other.get_parameter(theirs).copy_(found.pop(name))
        other.classes.weight.copy_(as_ordinary(found.pop("classes.weight")))
    assert not found
    return settings, network, other


def parameters_of(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_with_the_same_weights_it_has_the_lengths_loss_and_gradients_of_capsnet(iterations: int) -> None:
    settings, network, other = pair(iterations)
    random = torch.Generator().manual_seed(5)
    images = torch.rand((4, 1, 14, 13), generator=random, dtype=torch.float64)
    labels = torch.tensor([2, 0, 1, 2])
    ours = objective.measure(network, Batch(images, images, labels), settings, training=True).loss.mean()
    ours.backward()
    lengths, reconstructions = other(images, labels)
    loss = loss_of(lengths, reconstructions, images, labels)
    loss.backward()
    exactly: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(lengths, network(images).lengths, **exactly)
    torch.testing.assert_close(loss, ours, **exactly)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, theirs in NAMES.items():
        torch.testing.assert_close(other.get_parameter(theirs).grad, gradients[name], **exactly)
    of_classes = gradients["classes.weight"]
    assert of_classes is not None and of_classes.abs().max() > 1e-4
    torch.testing.assert_close(other.classes.weight.grad, as_ordinary(of_classes), **exactly)


def test_it_has_the_parameters_of_the_paper() -> None:
    paper = CapsNetModel()
    assert isinstance(paper.decoder, FCDecoder)
    network = OrdinaryCapsNet(paper, 3, paper.decoder.hidden, ImageShape(1, 28, 28, 10))
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_215_568


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(precision: str) -> None:
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (30, 1, 14, 13), generator=random, dtype=torch.uint8)
    labels = torch.arange(30) % 3
    pixels[labels == 0, :, :7] = 0
    pixels[labels == 1, :, 7:] = 0
    torch.manual_seed(1)
    images = Images(pixels, labels)
    training = Training(config(batch_size=15, optim={"lr": 0.01}, precision=precision), SHAPE, images, "cpu")
    before = parameters_of(training.network)
    kinds: set[torch.dtype] = set()
    training.network.conv.register_forward_hook(lambda _, inputs, output: kinds.add(output.dtype))
    for _ in range(40):
        training.step()
    assert kinds == {getattr(torch, precision)}
    after = parameters_of(training.network)
    assert {parameter.dtype for parameter in after} == {torch.float32}
    assert all((new != old).any() for new, old in zip(after, before, strict=True))
    lengths, _ = training.network(pixels.float() / 255, labels)
    assert (lengths.argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model": {**MODEL, "class_bias": True}}, "knows the sizes"),
        ({"precision": "tf32"}, "computes in float32, or in bfloat16"),
        ({"loss": {"margin": "authors"}}, "the paper's losses"),
        ({"optim": {"schedule": "cosine"}}, "constant learning rate"),
        ({"dataset": {"name": "cifar10"}}, "knows no crop"),
    ],
)
def test_what_it_does_not_have_is_refused(keys: dict[str, Any], said: str) -> None:
    images = Images(torch.zeros(3, 1, 14, 13, dtype=torch.uint8), torch.arange(3))
    with pytest.raises(ValueError, match=said):
        Training(config(**keys), SHAPE, images, "cpu")
