"""Efficient-CapsNet against the literal formula, in any size, and how its weights begin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import models
from capsnet.config import Config
from capsnet.efficient_network import EfficientCapsNet
from capsnet.images import ImageShape
from capsnet.initialization import initialise
from capsnet.layers import BatchNorm

pytestmark = pytest.mark.usefixtures("one_thread")

MNIST = ImageShape(channels=1, height=28, width=28, classes=10)
SHAPE = ImageShape(channels=2, height=13, width=12, classes=3)
TINY: dict[str, Any] = {
    "name": "efficient_capsnet",
    "conv_channels": [5, 6, 12],
    "first_kernel_size": 3,
    "primary_dim": 4,
    "class_dim": 6,
    "decoder": {"hidden": [7, 8]},
}


def tiny(shape: ImageShape = SHAPE, **model: Any) -> EfficientCapsNet:
    """Build a small network with random priors, and random statistics and weights of its normalisation."""
    network = models.build(Config.model_validate({"model": TINY | model}), shape)
    assert isinstance(network, EfficientCapsNet)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.classes.prior.uniform_(-0.2, 0.2, generator=generator)
        for layer in network.modules():
            if isinstance(layer, BatchNorm):
                assert layer.running_mean is not None and layer.running_var is not None
                layer.running_mean.uniform_(0, 0.3, generator=generator)
                layer.running_var.uniform_(0.2, 2, generator=generator)
                layer.weight.uniform_(0.5, 2, generator=generator)
                layer.bias.uniform_(-0.2, 0.2, generator=generator)
    return network


def images(count: int, shape: ImageShape = SHAPE) -> torch.Tensor:
    size = (count, shape.channels, shape.height, shape.width)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def squashed(vectors: torch.Tensor) -> torch.Tensor:
    lengths = vectors.norm(dim=-1, keepdim=True)
    return (1 - (-lengths).exp()) * vectors / lengths


def literal(network: EfficientCapsNet, values: torch.Tensor) -> torch.Tensor:
    """Compute the network in evaluation like their code, line by line; predictions û [B, J, I, D]."""
    weights = dict(network.named_parameters()) | dict(network.named_buffers())
    last = len(network.convolutions) - 1
    for number in range(last + 1):
        kernels, bias = (weights[f"convolutions.{number}.{name}"] for name in ("weight", "bias"))
        values = torch.conv2d(values, kernels, bias, stride=2 if number == last else 1)
        mean, var, weight, bias = (
            weights[f"norms.{number}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        values = (values.clamp(min=0) - mean) / (var + 1e-3).sqrt() * weight + bias
    sums = (values * network.primary.weight[:, 0]).sum((2, 3)) + network.primary.bias
    capsules = squashed(sums.view(len(sums), -1, network.primary.dim))
    weight = network.classes.weight.unflatten(1, capsules.shape[1:])
    formed = torch.einsum("bik,jikd->bjid", capsules, weight)
    products = torch.einsum("bjid,bjkd->bji", formed, formed) / weight.shape[-1] ** 0.5
    coupling = products.softmax(1) + network.classes.prior
    return squashed((coupling[..., None] * formed).sum(2))


def test_capsules_and_gradients_are_those_of_the_literal_formula(relative_error):
    network = tiny().double().eval()
    output, expected = network(images(4).double()), literal(network, images(4).double())
    parameters = [value for name, value in network.named_parameters() if not name.startswith("decoder.")]
    gradients = torch.autograd.grad(output.capsules.square().sum(), parameters)
    right = torch.autograd.grad(expected.square().sum(), parameters)
    assert relative_error(output.capsules, expected.detach().numpy()) < 1e-10
    assert relative_error(output.lengths, expected.detach().norm(dim=-1).numpy()) < 1e-10
    for found, wanted in zip(gradients, right, strict=True):
        assert relative_error(found, wanted.numpy()) < 1e-10
    single = network.float()(images(4))
    assert relative_error(single.capsules, expected.detach().numpy()) < 1e-4


def test_the_full_mnist_network_is_that_of_the_literal_formula(relative_error):
    network = models.build(Config.model_validate({"model": {"name": "efficient_capsnet"}}), MNIST).eval()
    assert isinstance(network, EfficientCapsNet)
    assert network.primary_capsules(images(2, MNIST)).shape == (2, 16, 8)
    with torch.no_grad():
        single = network(images(2, MNIST))
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images(2, MNIST))
        double = network.double()(images(2, MNIST).double())
        expected = literal(network, images(2, MNIST).double()).numpy()
    assert relative_error(double.capsules, expected) < 1e-10
    assert relative_error(single.capsules, expected) < 1e-4
    assert relative_error(half.capsules, expected) < 0.05
    assert half.capsules.dtype == half.lengths.dtype == torch.float32


def test_in_training_features_are_normalised_by_their_batch_after_the_relu():
    network = tiny().train()
    norm, seen = network.norms[0], []
    assert isinstance(norm, BatchNorm) and norm.running_mean is not None
    norm.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    before = norm.running_mean.clone()
    network(images(4))
    ((inputs, outputs),) = seen
    assert (inputs >= 0).all()
    expected = F.batch_norm(inputs, None, None, norm.weight, norm.bias, training=True, eps=1e-3)
    torch.testing.assert_close(outputs, expected)
    kept = 0.99 * before + 0.01 * inputs.mean((0, 2, 3))  # Keras's momentum
    torch.testing.assert_close(norm.running_mean, kept)


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(7, 14),
    width=st.integers(7, 14),
    channels=st.integers(1, 3),
    classes=st.integers(1, 4),
    batch=st.integers(1, 3),
    decoder=st.sampled_from([{"hidden": [7, 8]}, {"name": "deconv", "batch_norm": True}]),
    half=st.booleans(),
    training=st.booleans(),
)
def test_any_size_of_image_and_batch(height, width, channels, classes, batch, decoder, half, training):
    shape = ImageShape(channels, height, width, classes)
    network = tiny(shape, decoder=decoder).train(training)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = network(images(batch, shape))
        shown = network.reconstruct(output.capsules, torch.arange(batch) % classes)
    assert output.capsules.shape == (batch, classes, 6)
    assert output.lengths.shape == (batch, classes)
    assert ((output.lengths >= 0) & (output.lengths < 1)).all()
    assert shown.shape == (batch, channels, height, width)
    gradients = torch.autograd.grad(output.lengths.sum() + shown.sum(), list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_smallnorb_of_48_pixels_leaves_eight_by_eight_for_each_capsule():
    model = {"name": "efficient_capsnet", "first_kernel_size": 7, "first_stride": 2}
    shape = ImageShape(channels=2, height=48, width=48, classes=5)
    network = models.build(Config.model_validate({"model": model}), shape).eval()
    assert isinstance(network, EfficientCapsNet)
    assert network.primary.weight.shape == (128, 1, 8, 8)
    with torch.no_grad():
        assert network(images(1, shape)).capsules.shape == (1, 5, 16)


def test_weights_begin_as_theirs():
    network = models.build(Config.model_validate({"model": {"name": "efficient_capsnet"}}), MNIST)
    assert isinstance(network, EfficientCapsNet)
    named = dict(network.named_parameters())
    fans = {f"convolutions.{number}.weight": size for number, size in enumerate((25, 288, 576, 576))}
    fans["classes.weight"] = 10 * 16 * 8
    for name, fan_in in fans.items():
        std = (2 / fan_in) ** 0.5
        assert named[name].std().item() == pytest.approx(std, rel=0.05), name
        assert 1.8 * std < named[name].abs().max().item() < 2.28 * std, name  # cut off at 2 / 0.88
    glorot = (2 / (1024 + 784)) ** 0.5
    decoder = {"decoder.layers.0": (2 / 160) ** 0.5, "decoder.layers.1": (2 / 512) ** 0.5}
    for name, std in (decoder | {"decoder.layers.2": glorot}).items():
        assert named[f"{name}.weight"].std().item() == pytest.approx(std, rel=0.01), name
        assert 1.9 * std < named[f"{name}.weight"].abs().max().item() < 2.28 * std, name
        assert not named[f"{name}.bias"].any(), name
    bound = (6 / (81 * 129)) ** 0.5
    assert 0.99 * bound < named["primary.weight"].abs().max() <= bound
    for name in ("classes.prior", "primary.bias", *(f"convolutions.{number}.bias" for number in range(4))):
        assert not named[name].any(), name
    for norm in network.norms:
        assert isinstance(norm, BatchNorm)
        assert (norm.weight == 1).all() and not norm.bias.any()
        assert (norm.eps, norm.momentum) == (1e-3, pytest.approx(0.01))


def test_weights_begin_anew_whatever_they_are():
    network, fresh = tiny(), models.build(Config.model_validate({"model": TINY}), SHAPE)
    changed = [
        name for name, value in fresh.state_dict().items() if not value.equal(network.state_dict()[name])
    ]
    assert {"classes.prior", "norms.0.weight", "norms.2.running_var"} <= set(changed)
    initialise(network, "paper", seed=0)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in fresh.state_dict().items())
