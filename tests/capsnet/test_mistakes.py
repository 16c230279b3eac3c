"""Mistakes that other implementations make in the network and its losses, each held off by a test.

Their numbers count fifteen such mistakes; the others concern the training loop. Where the mistake is a
line of code it stands here too, to show that the test would catch it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capsnet import models, reference
from capsnet.capsules import lengths
from capsnet.config import Config
from capsnet.decoders import FCDecoder
from capsnet.images import ImageShape
from capsnet.losses import margin_loss, reconstruction_loss
from capsnet.models import CapsNet
from capsnet.routing import couplings, dynamic, squash
from capsnet.training import train

pytestmark = pytest.mark.usefixtures("one_thread")

MNIST = ImageShape(channels=1, height=28, width=28, classes=10)


@pytest.fixture
def routed():
    """Capsules [2, 12, 4], a weight for 3 classes of 5 dimensions, and û [2, 12, 3, 5] for the reference."""
    generator = torch.Generator().manual_seed(0)
    capsules = torch.randn(2, 12, 4, generator=generator, dtype=torch.float64)
    weight = 0.7 * torch.randn(3, 48, 5, generator=generator, dtype=torch.float64)
    predictions = torch.einsum("bik,jikd->bijd", capsules, weight.unflatten(1, (12, 4)))
    return capsules, weight, predictions.numpy()


def changed(cut, before: torch.Tensor, after: torch.Tensor) -> int:
    """How many of the capsules that `cut` makes of two batches of one differ."""
    return int((cut(before) != cut(after)).any(-1).sum())


def test_1_a_corner_pixel_reaches_only_the_32_capsules_of_its_position():
    network = models.build(Config(), MNIST)
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


def test_2_an_input_capsule_shares_itself_out_over_the_output_capsules(routed):
    capsules, weight, predictions = routed
    shares = couplings(capsules, weight, None, iterations=3)
    torch.testing.assert_close(shares.sum(0), torch.ones(2, 12, dtype=torch.float64))
    # With a single class each input gives itself wholly; a softmax over the 12 inputs would take their mean.
    one_class = dynamic(capsules, weight[:1], iterations=1)
    np.testing.assert_allclose(one_class[:, 0], reference.squash(predictions[:, :, 0].sum(1)))
    assert not np.allclose(one_class[:, 0], reference.squash(predictions[:, :, 0].mean(1)))


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


def test_6_the_margin_loss_is_squared_and_taken_of_the_lengths_as_they_are():
    capsules = torch.tensor([[[0.3, 0.4], [0.0, 0.2]]])
    assert lengths(capsules)[0].tolist() == pytest.approx([0.5, 0.2])  # rooted once, no softmax
    loss = margin_loss(lengths(capsules), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.4**2 + 0.5 * 0.1**2)


def test_7_a_wholly_wrong_reconstruction_costs_784_and_not_1():
    white, black = torch.ones(2, 1, 28, 28), torch.zeros(2, 1, 28, 28)
    assert reconstruction_loss(white, black).tolist() == [784.0, 784.0]
    assert Config().loss.rc_loss_weight == 0.0005


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


def test_8_the_decoder_is_masked_by_the_label_in_training_and_by_the_answer_at_test(tiny_config, tiny_splits):
    kept, answers = {True: [], False: []}, []

    def watch(module, inputs, output):
        if isinstance(module, CapsNet) and not module.training:
            answers.append(output.lengths.argmax(1))
        if isinstance(module, FCDecoder):
            kept[module.training].append(inputs[0].any(-1).int())

    hook = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        list(train(tiny_config(num_epochs=1), splits=tiny_splits))
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
