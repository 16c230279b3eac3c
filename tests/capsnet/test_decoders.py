"""Decoders: their sizes, the transposed convolutions taken literally, batch normalisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import config, geometry, reference
from capsnet.decoders import DeconvDecoder, FCDecoder, decoder_of
from capsnet.images import ImageShape
from capsnet.initialization import initialise
from capsnet.layers import BatchNorm

pytestmark = pytest.mark.usefixtures("one_thread")

MNIST = ImageShape(channels=1, height=28, width=28, classes=10)
SETTINGS = [
    config.FCDecoder(hidden=(6, 7)),
    config.FCDecoder(hidden=(6, 7), batch_norm=True),
    config.DeconvDecoder(),
    config.DeconvDecoder(batch_norm=True),
]


def built(settings: Any, shape: ImageShape, capsule_dim: int = 4) -> torch.nn.Module:
    """Build a decoder with initial weights and random statistics of batch normalisation."""
    with torch.random.fork_rng():
        decoder = decoder_of(settings, capsule_dim, shape)
    assert decoder is not None
    initialise(decoder, "paper", seed=0)
    generator = torch.Generator().manual_seed(0)
    for layer in decoder.modules():
        if isinstance(layer, BatchNorm):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.uniform_(-0.3, 0.3, generator=generator)
            layer.running_var.uniform_(0.2, 2, generator=generator)
    return decoder


def capsules(batch: int, shape: ImageShape, dim: int = 4) -> torch.Tensor:
    size = (batch, shape.classes, dim)
    return torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (config.FCDecoder(), 1_411_344),
        (config.FCDecoder(batch_norm=True), 1_411_344 + 2 * (512 + 1024)),
        (config.DeconvDecoder(), 250_121),
        (config.DeconvDecoder(batch_norm=True), 251_033),
    ],
)
def test_decoders_have_exactly_as_many_parameters_as_published(settings, count):
    decoder = decoder_of(settings, 16, MNIST)
    assert decoder is not None
    assert sum(parameter.numel() for parameter in decoder.parameters()) == count


def test_no_settings_are_no_decoder():
    assert decoder_of(None, 16, MNIST) is None


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_deconvolution_decoder_is_the_literal_formula(batch_norm, relative_error):
    """A transposed convolution is the gradient of a convolution for its images."""
    shape = ImageShape(channels=2, height=20, width=18, classes=3)
    decoder = built(config.DeconvDecoder(batch_norm=batch_norm), shape).double().eval()
    arrays = {name: value.double().numpy() for name, value in decoder.state_dict().items()}
    masked = capsules(2, shape)

    def hidden(values, number):
        if batch_norm:
            mean, var, weight, bias = (
                arrays[f"norms.{number}.{name}"].reshape(-1, *[1] * (values.ndim - 2))
                for name in ("running_mean", "running_var", "weight", "bias")
            )
            values = (values - mean) / (var + 1e-5) ** 0.5 * weight + bias
        return reference.relu(values)

    def transposed(values, number, stride):
        weight = arrays[f"layers.{number}.weight"]
        sides = [(side - 1) * stride + weight.shape[-1] for side in values.shape[2:]]
        images = torch.zeros(2, weight.shape[1], *sides, dtype=torch.float64).numpy()
        images, _ = reference.convolution_backward(images, weight, stride, values)
        return images + reference.channelwise(arrays[f"layers.{number}.bias"])

    values = masked.flatten(1).numpy() @ arrays["linear.weight"].T + arrays["linear.bias"]
    values = hidden(values, 0).reshape(2, 10, 2, 1)
    values = hidden(transposed(values, 0, 2), 1)
    values = hidden(transposed(values, 1, 1), 2)
    logits = torch.from_numpy(transposed(values, 2, 1))
    assert logits.shape == (2, 2, 20, 18)
    expected = logits.sigmoid().numpy()
    assert relative_error(decoder(masked), expected) < 1e-10
    assert relative_error(decoder.float()(masked.float()), expected) < 1e-4


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_fully_connected_decoder_is_the_literal_formula(batch_norm):
    shape = ImageShape(channels=2, height=3, width=5, classes=3)
    decoder = built(config.FCDecoder(hidden=(6, 7), batch_norm=batch_norm), shape).double().eval()
    masked, weights = capsules(2, shape), decoder.state_dict()
    values = masked.flatten(1)
    for number in range(2):
        values = values @ weights[f"layers.{number}.weight"].T + weights[f"layers.{number}.bias"]
        if batch_norm:
            mean, var = weights[f"norms.{number}.running_mean"], weights[f"norms.{number}.running_var"]
            values = (values - mean) / (var + 1e-5).sqrt()
            values = values * weights[f"norms.{number}.weight"] + weights[f"norms.{number}.bias"]
        values = values.clamp(min=0)
    logits = values @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    expected = logits.sigmoid().view(2, 2, 3, 5)
    torch.testing.assert_close(decoder(masked), expected)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_gradient_of_the_deconvolution_decoder_is_its_slope(batch_norm):
    shape = ImageShape(channels=1, height=6, width=5, classes=2)
    decoder = built(config.DeconvDecoder(batch_norm=batch_norm), shape, capsule_dim=2).double()
    inputs = capsules(3, shape, dim=2).requires_grad_()
    assert torch.autograd.gradcheck(decoder, inputs, fast_mode=True)
    weights = [decoder.get_parameter(name) for name in ("linear.weight", "layers.0.weight", "layers.2.bias")]
    for weight in weights:
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=weight.dtype)
        direction /= direction.norm()
        loss = decoder(inputs.detach()).square().sum()
        along = (torch.autograd.grad(loss, weight)[0] * direction).sum()
        values = []
        for step in (1e-7, -1e-7):  # so small that no ReLU is passed
            with torch.no_grad():
                weight.add_(step * direction)
                values.append(decoder(inputs.detach()).square().sum())
                weight.sub_(step * direction)
        torch.testing.assert_close((values[0] - values[1]) / 2e-7, along, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_a_map_of_width_1_is_right_in_bfloat16_too():
    """The kernels of oneDNN for AMX are wrong there."""
    shape = ImageShape(channels=1, height=30, width=8, classes=2)
    decoder = built(config.DeconvDecoder(), shape)
    masked = capsules(4, shape).float().requires_grad_()
    (exact,) = torch.autograd.grad(decoder(masked).sum(), masked)
    with torch.autocast("cpu", torch.bfloat16):
        images = decoder(masked)
    (rounded,) = torch.autograd.grad(images.sum(), masked)
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 3),
    batch=st.integers(1, 3),
    half=st.booleans(),
    settings_=st.sampled_from(SETTINGS),
)
def test_any_size_of_image_and_batch(height, width, channels, batch, half, settings_):
    shape = ImageShape(channels, height, width, classes=2)
    decoder = built(settings_, shape).to(memory_format=torch.channels_last)
    masked = capsules(batch, shape).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        images = decoder(masked)
    assert images.shape == (batch, channels, height, width)
    assert images.dtype == torch.float32
    assert ((images >= 0) & (images <= 1)).all()
    gradients = torch.autograd.grad(images.sum(), list(decoder.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@settings(deadline=None, max_examples=60)
@given(side=st.integers(1, 200))
def test_the_grid_is_the_smallest_that_covers_the_image(side):
    grid = geometry.grid_before(side)
    assert geometry.deconvolved(grid) >= side
    assert grid == 1 or geometry.deconvolved(grid - 1) < side


def test_what_covers_more_than_the_image_is_cut_at_its_middle():
    shape = ImageShape(channels=1, height=15, width=28, classes=2)
    whole, cut = (built(config.DeconvDecoder(), shape) for _ in range(2))
    assert isinstance(whole, DeconvDecoder)
    whole.image = (18, 28)
    masked = capsules(2, shape).float()
    torch.testing.assert_close(cut(masked), whole(masked)[:, :, 1:16])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_in_evaluation_an_image_does_not_depend_on_its_batch_mates(settings):
    decoder = built(settings, MNIST).double().eval()
    masked = capsules(4, MNIST)
    together = decoder(masked)
    for index in range(4):
        torch.testing.assert_close(decoder(masked[index : index + 1])[0], together[index])


def test_batch_normalisation_takes_the_statistics_of_what_it_normalises():
    decoder = built(config.FCDecoder(hidden=(6, 7), batch_norm=True), MNIST)
    assert isinstance(decoder, FCDecoder)
    seen = []
    decoder.norms[0].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    decoder(capsules(8, MNIST).float())
    (inputs, outputs), first = seen[0], decoder.layers[0]
    torch.testing.assert_close(inputs, first(capsules(8, MNIST).float().flatten(1)))  # before the ReLU
    torch.testing.assert_close(outputs.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.var(0, correction=0), torch.ones(6), atol=1e-2, rtol=0)
