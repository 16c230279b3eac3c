"""The convolutional baselines: against PyTorch's own layers, in any size, their logits and probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import models, objective, randomness
from capsnet.augmentation import Batch
from capsnet.cnn import CNN
from capsnet.config import Config
from capsnet.images import ImageShape

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = ImageShape(channels=2, height=9, width=8, classes=3)
TINY: dict[str, Any] = {"name": "cnn", "conv_channels": [4, 5], "kernel_sizes": [3, 4], "hidden": [7, 6]}


def tiny(shape: ImageShape = SHAPE, **model: Any) -> tuple[Config, CNN]:
    config = Config.model_validate({"model": TINY | model})
    network = models.build(config, shape)
    assert isinstance(network, CNN)
    return config, network


def images(count: int, shape: ImageShape = SHAPE) -> torch.Tensor:
    size = (count, shape.channels, shape.height, shape.width)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def let_draw(network: CNN) -> None:
    network.dropout.generator = randomness.generator(0, "dropout")


@pytest.mark.parametrize("pool", [1, 2])
def test_the_network_is_that_of_its_description(pool):
    _, network = tiny(pool=pool)
    network.double().eval()
    values, weights = images(4).double(), network.state_dict()
    for number, (before, after) in enumerate([(1, 1), (1, 2)]):
        padded = F.pad(values, (before, after, before, after))
        layer = f"convolutions.{number}"
        values = torch.conv2d(padded, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).clamp(min=0)
        values = F.max_pool2d(values, pool)
    values = values.flatten(1)
    for layer in ("hidden.0", "hidden.1"):
        values = (values @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]).clamp(min=0)
    expected = values @ weights["last.weight"].T + weights["last.bias"]
    output = network(images(4).double())
    assert output.logits is not None
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.lengths, expected.exp() / expected.exp().sum(1, keepdim=True))
    assert output.capsules.shape == (4, 3, 0)
    single = network.float()(images(4))
    torch.testing.assert_close(single.lengths.double(), output.lengths, rtol=1e-4, atol=0)


def test_images_of_several_classes_have_probabilities_that_do_not_exclude_each_other():
    shape = ImageShape(channels=1, height=8, width=8, classes=4, labels=2)
    _, network = tiny(shape)
    output = network.eval()(images(3, shape))
    assert output.logits is not None
    torch.testing.assert_close(output.lengths, 1 / (1 + (-output.logits).exp()))


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(4, 12),
    width=st.integers(4, 12),
    channels=st.integers(1, 3),
    classes=st.integers(1, 4),
    labels=st.integers(1, 2),
    batch=st.integers(1, 3),
    pool=st.integers(1, 2),
    hidden=st.lists(st.integers(1, 5), max_size=2),
    half=st.booleans(),
)
def test_any_size_of_image_and_batch(height, width, channels, classes, labels, batch, pool, hidden, half):
    shape = ImageShape(channels, height, width, classes, labels)
    _, network = tiny(shape, pool=pool, hidden=hidden)
    let_draw(network)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = network.train()(images(batch, shape))
    assert output.capsules.shape == (batch, classes, 0)
    assert output.lengths.shape == (batch, classes)
    assert output.logits is not None
    assert output.logits.dtype == output.lengths.dtype == torch.float32
    assert ((output.lengths >= 0) & (output.lengths <= 1)).all()
    if labels == 1:
        torch.testing.assert_close(output.lengths.sum(1), torch.ones(batch))
    gradients = torch.autograd.grad(output.logits.square().sum(), list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_last_layer_multiplies_in_float32_under_autocast():
    _, network = tiny()
    network.eval()
    seen = []
    network.last.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.autocast("cpu", torch.bfloat16):
        network(images(2))
    ((features, logits),) = seen
    torch.testing.assert_close(logits, F.linear(features.float(), network.last.weight, network.last.bias))
    assert logits.dtype == torch.float32


def test_dropout_leaves_out_inputs_of_the_last_layer_in_training_only():
    _, network = tiny(dropout=0.5, hidden=[40])
    seen = []
    network.dropout.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    network.last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    let_draw(network)
    network.train()(images(16))
    (before, after), last = seen
    assert torch.equal(after, last)
    kept = after != 0
    torch.testing.assert_close(after[kept], 2 * before[kept])
    assert 0.3 < kept[before != 0].float().mean() < 0.7
    seen.clear()
    network.eval()(images(16))
    (before, after), _ = seen
    assert torch.equal(before, after)


def test_it_is_trained_by_the_cross_entropy_of_its_logits_and_judged_by_its_probabilities():
    config, network = tiny()
    network.eval()
    labels = torch.tensor([2, 0, 1, 2])
    batch = Batch(images(4), images(4), labels)
    measured = objective.measure(network, batch, config, training=False)
    output = network(images(4))
    assert output.logits is not None
    torch.testing.assert_close(measured.loss, -output.lengths.log()[torch.arange(4), labels])
    assert torch.equal(measured.predictions, output.logits.argmax(1))
    assert not measured.reconstruction_loss.any()


def test_with_two_labels_each_class_is_judged_by_itself():
    shape = ImageShape(channels=1, height=8, width=8, classes=4, labels=2)
    config, network = tiny(shape)
    network.eval()
    labels = torch.tensor([[2, 0], [1, 3]])
    batch = Batch(images(2, shape), images(2, shape), labels)
    measured = objective.measure(network, batch, config, training=False)
    there = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]])
    lengths = network(images(2, shape)).lengths
    expected = -(there * lengths.log() + (1 - there) * (1 - lengths).log()).sum(1)
    torch.testing.assert_close(measured.loss, expected)


def test_it_has_no_decoder_and_says_so():
    _, network = tiny()
    assert network.decoder is None
    with pytest.raises(ValueError, match="built without a decoder"):
        network.reconstruct(network.eval()(images(1)).capsules, torch.tensor([0]))
