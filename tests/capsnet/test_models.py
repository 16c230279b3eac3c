"""The networks against the reference, their sizes, and what their weights depend on."""

from __future__ import annotations

import pytest
import torch

from capsnet import models, reference
from capsnet.config import Config
from capsnet.images import ImageShape
from capsnet.losses import margin_loss, reconstruction_loss

MNIST = ImageShape(channels=1, height=28, width=28, classes=10)
AUTHORS = {"primary_routing": "softmax", "class_bias": True, "init": "authors"}

VARIANTS = [
    {},
    {"route_iters": 1},
    {"route_iters": 2, "preset": "authors"},
    {"route_iters": 5},
    {"model": {"routing": {"gradient": "detached"}}},
    {"model": {"class_bias": True, "routing": {"gradient": "detached"}}, "route_iters": 2},
    {"model": AUTHORS, "loss": {"margin": "authors", "rc_loss_weight": 0.3}},
    {"loss": {"with_reconstruction": False}},
]


def total_loss(network: models.CapsNet, config: Config, images, labels) -> torch.Tensor:
    capsules, lengths = network(images)
    loss = margin_loss(lengths, labels, config.loss.margin).mean()
    if network.decoder is not None:
        reconstructions = network.reconstruct(capsules, labels)
        loss = loss + config.loss.rc_loss_weight * reconstruction_loss(reconstructions, images).mean()
    return loss


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_loss_and_gradients_are_those_of_the_reference(
    variant, dtype, tolerance, small_config, small_network, small_batch, arrays, settings, relative_error
):
    config, network = small_config(**variant), small_network(**variant).to(dtype)
    images, labels = small_batch[0].to(dtype), small_batch[1]
    expected = reference.losses(arrays(network), images.double().numpy(), labels.numpy(), settings(config))
    loss = total_loss(network, config, images, labels)
    loss.backward()
    assert relative_error(loss, expected.loss) < tolerance
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert gradients.keys() == expected.gradients.keys()
    errors = {
        name: relative_error(gradient, expected.gradients[name]) for name, gradient in gradients.items()
    }
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_capsules_and_lengths_are_those_of_the_reference(
    variant, small_config, small_network, small_batch, arrays, settings, relative_error
):
    network = small_network(**variant)
    output = network(small_batch[0])
    expected = reference.forward(arrays(network), small_batch[0].numpy(), settings(small_config(**variant)))
    assert relative_error(output.capsules, expected.capsules) < 1e-10
    assert relative_error(output.lengths, expected.lengths) < 1e-10


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_the_full_mnist_network_is_that_of_the_reference(preset, arrays, settings, relative_error):
    config = Config(preset=preset)
    network = models.build(config, MNIST)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images)
        double = network.double()(images.double())
    expected = reference.forward(arrays(network), images.double().numpy(), settings(config))
    assert relative_error(double.capsules, expected.capsules) < 1e-10
    assert relative_error(single.capsules, expected.capsules) < 1e-4
    assert relative_error(half.capsules, expected.capsules) < 0.02
