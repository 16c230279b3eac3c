"""Mistakes that other implementations make in the network and its losses, each held off by a test.

Their numbers count fifteen such mistakes; the others concern the training loop. Where the mistake is a
line of code it stands here too, to show that the test would catch it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from capsnet import models, objective, reference
from capsnet.augmentation import Batch
from capsnet.capsules import lengths
from capsnet.config import Config, MarginLoss
from capsnet.decoders import DeconvDecoder, FCDecoder
from capsnet.efficient_network import EfficientCapsNet
from capsnet.images import Images, ImageShape, Splits
from capsnet.layers import Dropout
from capsnet.losses import margin_loss, reconstruction_loss
from capsnet.models import CapsNet, Network
from capsnet.routing import attended, attention, couplings, dynamic, exponential_squash, squash
from capsnet.training import train

pytestmark = pytest.mark.usefixtures("one_thread")

MNIST = ImageShape(channels=1, height=28, width=28, classes=10)
TINY_SHAPE = ImageShape(channels=1, height=12, width=12, classes=10)
SMALL_CAPSNET: dict[str, Any] = {"conv_channels": 6, "kernel_size": 4, "primary_types": 3}
SMALL_EFFICIENT: dict[str, Any] = {"name": "efficient_capsnet", "conv_channels": [6, 8], "primary_dim": 4}

# Each kind of network, small enough for images of 12×12 pixels. A further kind needs a further entry only.
NETWORKS: dict[str, dict[str, Any]] = {
    "dynamic": SMALL_CAPSNET | {"decoder": {"hidden": [9]}},
    "none_of_the_above": SMALL_CAPSNET | {"none_of_the_above": True, "decoder": {"hidden": [9]}},
    "attention": SMALL_CAPSNET | {"routing": {"name": "attention"}, "decoder": {"hidden": [9]}},
    "self": SMALL_CAPSNET | {"routing": {"name": "self"}, "decoder": {"hidden": [9]}},
    "self_without_decoder": SMALL_CAPSNET | {"routing": {"name": "self"}, "decoder": {"name": "none"}},
    "deconv": SMALL_CAPSNET | {"decoder": {"name": "deconv"}},
    "deconv_with_batch_norm": SMALL_CAPSNET | {"decoder": {"name": "deconv", "batch_norm": True}},
    "fc_with_batch_norm": SMALL_CAPSNET | {"decoder": {"hidden": [9], "batch_norm": True}},
    "efficient_capsnet": SMALL_EFFICIENT | {"decoder": {"hidden": [9]}},
    "efficient_capsnet_deconv": SMALL_EFFICIENT | {"decoder": {"name": "deconv", "batch_norm": True}},
    "cnn": {"name": "cnn", "conv_channels": [4, 5], "kernel_sizes": [3, 4], "pool": 2, "hidden": [8]},
}
each_network = pytest.mark.parametrize("kind", NETWORKS)


def tiny(kind: str, **keys: Any) -> Config:
    defaults = {"batch_size": 16, "threads": 1, "num_epochs": 1, "dataset": {"name": "digits", "size": 12}}
    return Config.model_validate(defaults | {"model": NETWORKS[kind]} | keys)


WITH_DECODER = [kind for kind in NETWORKS if tiny(kind).decoder is not None]


def built(kind: str) -> Network:
    """Build a small network in evaluation mode and in float64."""
    return models.build(tiny(kind), TINY_SHAPE).double().eval()


def scores(network: Network, images: torch.Tensor) -> torch.Tensor:
    """Return the output for images, [B, ...]: logits if there are any, as softmax may round changes away."""
    output = network(images)
    return output.capsules if output.logits is None else output.logits


@pytest.fixture
def tiny_images():
    """Four of 12×12 pixels."""
    return torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def routed():
    """Capsules [2, 12, 4], a weight for 3 classes of 5 dimensions, and û [2, 12, 3, 5] for the reference."""
    generator = torch.Generator().manual_seed(0)
    capsules = torch.randn(2, 12, 4, generator=generator, dtype=torch.float64)
    weight = 0.7 * torch.randn(3, 48, 5, generator=generator, dtype=torch.float64)
    predictions = torch.einsum("bik,jikd->bijd", capsules, weight.unflatten(1, (12, 4)))
    return capsules, weight, predictions.numpy()


def changed(cut, before: torch.Tensor, after: torch.Tensor) -> int:
    """Count the capsules in which two inputs, each a batch of one, differ after `cut`."""
    return int((cut(before) != cut(after)).any(-1).sum())


def test_1_a_corner_pixel_reaches_only_the_32_capsules_of_its_position():
    network = models.build(Config(), MNIST)
    assert isinstance(network, CapsNet)
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    touched = image.clone()
    touched[0, 0, 0, 0] += 1
    primary = network.primary

    def by_view(features):
        convolved = torch.conv2d(features, primary.weight, primary.bias, stride=2)
        return squash(convolved.contiguous().view(1, -1, 8))

    with torch.no_grad():
        before, after = network.conv(image), network.conv(touched)
        assert primary(before).shape == (1, 1152, 8)
        assert changed(primary, before, after) == 32
        assert changed(by_view, before, after) == 256  # parts of a capsule from eight positions


def test_1_a_channel_reaches_only_the_capsule_that_it_is_a_number_of():
    """The last features of Efficient-CapsNet: a capsule is four neighbouring channels, at all positions."""
    network = built("efficient_capsnet")
    assert isinstance(network, EfficientCapsNet)
    primary = network.primary
    size = (1, 8, *primary.weight.shape[2:])
    features = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def by_transposed_view(features):
        sums = torch.conv2d(features, primary.weight, primary.bias, groups=8)
        return exponential_squash(sums.view(1, 4, 2).transpose(1, 2))

    for channel in range(8):
        touched = features.clone()
        touched[0, channel] += 1
        with torch.no_grad():
            reached = (primary(features) != primary(touched)).any(-1)[0]
            mixed = (by_transposed_view(features) != by_transposed_view(touched)).any(-1)[0]
        assert reached.nonzero().flatten().tolist() == [channel // 4]
        assert mixed.nonzero().flatten().tolist() == [channel % 2]


def test_2_an_input_capsule_shares_itself_out_over_the_output_capsules(routed):
    capsules, weight, predictions = routed
    shares = couplings(capsules, weight, None, iterations=3)
    torch.testing.assert_close(shares.sum(0), torch.ones(2, 12, dtype=torch.float64))
    # With a single class each input gives itself wholly; a softmax over the 12 inputs would take their mean.
    one_class = dynamic(capsules, weight[:1], iterations=1)
    np.testing.assert_allclose(one_class[:, 0], reference.squash(predictions[:, :, 0].sum(1)))
    assert not np.allclose(one_class[:, 0], reference.squash(predictions[:, :, 0].mean(1)))


def test_2_attention_and_none_of_the_above_share_out_over_the_output_capsules_too(routed):
    capsules, weight, predictions = routed
    ones = torch.ones(2, 12, dtype=torch.float64)
    torch.testing.assert_close(attended(capsules, weight).sum(0), ones)
    assert (couplings(capsules, weight, None, 3, none_of_the_above=True).sum(0) < ones).all()
    one_class = attention(capsules, weight[:1])
    np.testing.assert_allclose(one_class[:, 0], reference.squash(predictions[:, :, 0].sum(1)))


@pytest.mark.parametrize("iterations", range(1, 6))
def test_3_r_iterations_are_r_passes_and_neither_one_more_nor_less(routed, iterations, relative_error):
    capsules, weight, predictions = routed
    passes = reference.routing(predictions, 0.0, iterations + 1)
    outputs = dynamic(capsules, weight, iterations=iterations)
    assert relative_error(outputs, passes[iterations - 1].outputs) < 1e-12
    assert relative_error(outputs, passes[iterations].outputs) > 1e-4


@pytest.mark.parametrize("route_iters", [2, 3])
def test_4_what_an_image_becomes_does_not_depend_on_its_batch_mates(small_network, small_batch, route_iters):
    network, (images, labels) = small_network(route_iters=route_iters), small_batch
    together = network(images)
    for index in range(len(images)):
        torch.testing.assert_close(network(images[index : index + 1]).capsules[0], together.capsules[index])
    others = network(torch.cat([images[:1], 1 - images[1:]]))
    torch.testing.assert_close(others.capsules[0], together.capsules[0])
    shown = network.reconstruct(together.capsules, labels)
    torch.testing.assert_close(network.reconstruct(together.capsules[:1], labels[:1])[0], shown[0])


@each_network
def test_4_no_network_lets_an_image_depend_on_its_batch_mates(kind, tiny_images):
    network = built(kind)
    together = scores(network, tiny_images)
    for index in range(4):
        torch.testing.assert_close(scores(network, tiny_images[index : index + 1])[0], together[index])
    others = scores(network, torch.cat([tiny_images[:1], 1 - tiny_images[1:]]))
    torch.testing.assert_close(others[0], together[0])
    if network.decoder is not None:
        capsules, classes = network(tiny_images).capsules, torch.tensor([3, 0, 9, 3])
        shown = network.reconstruct(capsules, classes)
        torch.testing.assert_close(network.reconstruct(capsules[1:2], classes[1:2])[0], shown[1])


def test_5_squash_bounds_each_capsule_by_itself():
    vectors = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    squashed = squash(vectors)
    assert squashed.norm(dim=1).tolist() == pytest.approx([25 / 26, 0.25 / 1.25])
    torch.testing.assert_close(squashed[:1], squash(vectors[:1]))


def test_5_capsules_of_length_zero_have_finite_gradients(small_network, small_batch):
    """Images and weights of zeros make every primary capsule and every class capsule zero."""
    network = small_network()
    with torch.no_grad():
        for parameter in (*network.conv.parameters(), *network.primary.parameters()):
            parameter.zero_()
    output = network(torch.zeros_like(small_batch[0]).requires_grad_())
    assert not output.capsules.any()
    shown = network.reconstruct(output.capsules, small_batch[1])
    loss = margin_loss(output.lengths, small_batch[1]).sum() + shown.sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    by_hand = torch.zeros(1, 4, requires_grad=True)
    (by_hand / by_hand.norm()).sum().backward()
    assert by_hand.grad is not None and by_hand.grad.isnan().any()


@each_network
@pytest.mark.parametrize("training", [True, False])
def test_5_no_network_has_gradients_that_are_not_finite_where_all_is_zero(kind, training, tiny_images):
    network = built(kind).train(training)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = np.random.default_rng(0)
    images = torch.zeros_like(tiny_images).requires_grad_()
    batch = Batch(images, images.detach(), torch.tensor([2, 0, 1, 9]))
    measured = objective.measure(network, batch, tiny(kind), training=True)
    gradients = torch.autograd.grad(measured.loss.sum(), [images, *network.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_6_the_cross_entropy_is_taken_of_the_logits_and_not_of_a_softmax_of_them(tiny_images):
    network, labels = built("cnn"), torch.tensor([2, 0, 1, 9])
    batch = Batch(tiny_images, tiny_images, labels)
    measured = objective.measure(network, batch, tiny("cnn"), training=True)
    lengths = network(tiny_images).lengths
    torch.testing.assert_close(measured.class_loss, -lengths[torch.arange(4), labels].log())
    softmaxed_twice = -lengths.softmax(1)[torch.arange(4), labels].log()
    assert not torch.allclose(measured.class_loss, softmaxed_twice, rtol=1e-3)


def test_6_the_margin_loss_is_squared_and_taken_of_the_lengths_as_they_are():
    capsules = torch.tensor([[[0.3, 0.4], [0.0, 0.2]]])
    assert lengths(capsules)[0].tolist() == pytest.approx([0.5, 0.2])  # rooted once, no softmax
    loss = margin_loss(lengths(capsules), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.4**2 + 0.5 * 0.1**2)


def test_7_a_wholly_wrong_reconstruction_costs_784_and_not_1():
    white, black = torch.ones(2, 1, 28, 28), torch.zeros(2, 1, 28, 28)
    assert reconstruction_loss(white, black).tolist() == [784.0, 784.0]
    assert MarginLoss().rc_loss_weight == 0.0005
    assert Config().loss == MarginLoss()


def test_8_the_decoder_sees_one_capsule_and_knows_of_which_class(small_network):
    network = small_network()
    capsules = torch.rand(1, 3, 6, dtype=torch.float64)
    other_wrong_capsules = capsules.clone()
    other_wrong_capsules[0, 1:] += 1
    shown = network.reconstruct(capsules, torch.tensor([0]))
    assert torch.equal(network.reconstruct(other_wrong_capsules, torch.tensor([0])), shown)
    same_capsules = capsules[:, :1].expand(1, 3, 6)
    as_first, as_second = (network.reconstruct(same_capsules, torch.tensor([index])) for index in (0, 1))
    assert not torch.allclose(as_first, as_second)


@pytest.mark.parametrize("kind", WITH_DECODER)
def test_8_every_decoder_sees_one_capsule_and_knows_of_which_class(kind):
    network = built(kind)
    dim = network(torch.zeros(1, 1, 12, 12, dtype=torch.float64)).capsules.shape[2]
    capsules = torch.rand(1, 10, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = capsules.clone()
    others[0, 1:] += 1
    shown = network.reconstruct(capsules, torch.tensor([0]))
    assert torch.equal(network.reconstruct(others, torch.tensor([0])), shown)
    same = capsules[:, :1].expand(1, 10, dim)
    first, second = (network.reconstruct(same, torch.tensor([index])) for index in (0, 1))
    assert (first - second).abs().max() > 1e-6


@pytest.mark.parametrize("kind", ["dynamic", "self", "deconv", "efficient_capsnet"])
def test_8_the_decoder_is_masked_by_the_label_in_training_and_by_the_answer_at_test(kind, tiny_splits):
    kept, answers = {True: [], False: []}, []

    def watch(module, inputs, output):
        if isinstance(module, Network) and not module.training:
            answers.append(output.lengths.argmax(1))
        if isinstance(module, FCDecoder | DeconvDecoder):
            kept[module.training].append(inputs[0].any(-1).int())

    hook = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        config = tiny(kind, dataset={"name": "digits", "size": 12, "validation": 20})
        list(train(config, splits=tiny_splits))
    finally:
        hook.remove()
    in_training, at_test = torch.cat(kept[True]), torch.cat(kept[False])
    classes = in_training.shape[1]
    labels, given = tiny_splits.train.labels, torch.cat(answers)
    assert torch.equal(in_training.sum(0), torch.bincount(labels, minlength=classes))
    assert (at_test.sum(1) == 1).all()
    assert torch.equal(at_test.argmax(1), given)
    assert not torch.equal(given[-len(tiny_splits.test) :], tiny_splits.test.labels)  # they do differ


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_13_a_batch_of_one_keeps_its_dimensions(small_network, small_batch, preset):
    network = small_network(preset=preset)
    output = network(small_batch[0][:1])
    assert output.capsules.shape == (1, 3, 6)
    assert output.lengths.shape == (1, 3)
    assert network.reconstruct(output.capsules, output.lengths.argmax(1)).shape == (1, 2, 9, 8)
    assert margin_loss(output.lengths, small_batch[1][:1]).shape == (1,)
    assert reconstruction_loss(small_batch[0][:1], small_batch[0][:1]).shape == (1,)


@each_network
def test_10_every_parameter_of_every_network_moves(kind, tiny_splits):
    config = tiny(kind)
    before = models.build(config, TINY_SHAPE).state_dict()
    splits = Splits(tiny_splits.train, None, tiny_splits.test)
    *_, progress = train(config, splits=splits)
    after = progress.snapshot()["model"]
    assert before.keys() == after.keys()
    for name, weights in before.items():
        assert not torch.equal(weights, after[name]), name


# Of batches that are all of one batch normalisation would learn no statistics: they are refused.
NORMALISED = [kind for kind in NETWORKS if "batch_norm" in kind or kind.startswith("efficient")]


@pytest.mark.parametrize("kind", NORMALISED)
def test_13_a_network_with_batch_normalisation_is_not_trained_on_single_images(kind):
    with pytest.raises(ValueError, match="batch_size 1 leaves the batch normalisation of model"):
        tiny(kind, batch_size=1)


@pytest.mark.parametrize(
    ("kind", "batch_size"),
    [(kind, 16) for kind in NETWORKS] + [(kind, 1) for kind in NETWORKS if kind not in NORMALISED],
)
def test_13_every_network_is_trained_and_tested_on_a_batch_of_one(kind, batch_size, tiny_splits):
    """17 images leave one for the last batch of 16."""
    config = tiny(kind, batch_size=batch_size)
    few = Images(tiny_splits.train.images[:17], tiny_splits.train.labels[:17])
    *_, progress = train(config, splits=Splits(few, None, few))
    assert progress.step == (2 if batch_size == 16 else 17)
    assert progress.metrics is not None
    assert all(np.isfinite(value) for value in progress.metrics.values())


@each_network
def test_13_every_network_keeps_the_dimensions_of_a_batch_of_one(kind, tiny_images):
    network, output = built(kind), built(kind)(tiny_images[:1])
    assert output.capsules.shape[:2] == output.lengths.shape == (1, 10)
    assert output.logits is None or output.logits.shape == (1, 10)
    if network.decoder is not None:
        assert network.reconstruct(output.capsules, output.lengths.argmax(1)).shape == (1, 1, 12, 12)
