"""Self-routing against the literal formulation, its properties, and the network that has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import models, objective, routing
from capsnet.augmentation import Batch
from capsnet.capsule_network import CapsNet
from capsnet.capsules import SelfRoutedCapsules
from capsnet.config import Config, CrossEntropy, MarginLoss
from capsnet.images import ImageShape
from capsnet.losses import margin_loss
from capsnet.routing import chosen, self_routing

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = ImageShape(channels=2, height=9, width=8, classes=3)
SMALL: dict[str, Any] = {
    "conv_channels": 5,
    "kernel_size": 3,
    "primary_types": 2,
    "primary_dim": 4,
    "class_dim": 6,
    "routing": {"name": "self"},
    "decoder": {"hidden": [7]},
}
sizes = st.integers(1, 6)


def layer(batch=3, inputs=7, dim=4, classes=5, class_dim=6, dtype=torch.float64, scale=0.5):
    """Capsules [B, I, K], a route [I, K, J], a prior [I, J] and a weight [J, I·K, D]."""
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (batch, inputs, dim),
        (inputs, dim, classes),
        (inputs, classes),
        (classes, inputs * dim, class_dim),
    )
    return [scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def literal(capsules, route, prior, weight):
    """Route by the formulas, capsule by capsule with predictions û [B, J, D], without logarithms."""
    activations = capsules.norm(dim=2)
    collected, given = torch.zeros(()), torch.zeros(())
    for number in range(capsules.shape[1]):
        pose, activation = capsules[:, number], activations[:, number, None]
        coupling = (pose @ route[number] + prior[number]).exp()
        coupling = coupling / coupling.sum(1, keepdim=True)
        matrices = weight.unflatten(1, capsules.shape[1:])[:, number]  # [J, K, D]
        predictions = torch.stack([pose @ matrix for matrix in matrices], dim=1)
        given = given + coupling * activation
        collected = collected + (coupling * activation)[..., None] * predictions
    return collected / given[..., None], given / activations.sum(1, keepdim=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_poses_activations_and_gradients_are_those_of_the_literal_formula(dtype, tolerance, relative_error):
    tensors = [tensor.to(dtype).requires_grad_() for tensor in layer()]
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    poses, logarithms = self_routing(*tensors)
    right = literal(*wide)
    assert poses.shape == (3, 5, 6) and logarithms.shape == (3, 5)
    assert relative_error(poses, right[0].detach().numpy()) < tolerance
    assert relative_error(logarithms.exp(), right[1].detach().numpy()) < tolerance
    upstream = torch.linspace(-1, 1, 90, dtype=torch.float64).view(3, 5, 6)

    def gradients(poses, activations, inputs):
        loss = (poses * upstream.to(poses.dtype)).sum() + (
            activations * upstream[..., 0].to(poses.dtype)
        ).sum()
        return torch.autograd.grad(loss, inputs)

    found = gradients(poses, logarithms.exp(), tensors)
    for one, other in zip(found, gradients(*right, wide), strict=True):
        assert relative_error(one, other.numpy()) < tolerance


def test_gradients_are_the_slopes():
    tensors = [t.requires_grad_() for t in layer(batch=2, inputs=3, dim=2, classes=3, class_dim=2)]
    assert torch.autograd.gradcheck(self_routing, tensors)


@settings(deadline=None, max_examples=20)
@given(batch=sizes, inputs=sizes, dim=sizes, classes=sizes, class_dim=sizes)
def test_each_input_shares_itself_out_wholly_and_so_activations_sum_to_1(**shape):
    capsules, route, prior, weight = layer(**shape)
    coupling = chosen(capsules, route, prior).exp()
    assert coupling.shape == (shape["classes"], shape["batch"], shape["inputs"])
    torch.testing.assert_close(coupling.sum(0), torch.ones_like(coupling[0]))
    poses, logarithms = self_routing(capsules, route, prior, weight)
    assert poses.shape == (shape["batch"], shape["classes"], shape["class_dim"])
    torch.testing.assert_close(logarithms.exp().sum(1), torch.ones_like(logarithms[:, 0]))


def test_what_is_more_active_counts_more():
    """Two capsules, the first for the first class, the second, three times as long, for the second."""
    capsules = torch.tensor([[[0.2, 0.0], [0.0, 0.6]]])
    prior = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    _, logarithms = self_routing(capsules, torch.zeros(2, 2, 2), prior, None)
    assert logarithms.exp()[0].tolist() == pytest.approx([0.25, 0.75])


def test_a_capsule_routes_itself_whatever_the_others_are():
    capsules, route, prior, _ = layer()
    others = capsules.clone()
    others[:, 1:] += 1
    assert torch.equal(chosen(others, route, prior)[:, :, 0], chosen(capsules, route, prior)[:, :, 0])


def test_a_share_too_small_for_float32_has_a_finite_loss():
    capsules = torch.tensor([[[1.0]]], requires_grad=True)
    route = torch.tensor([[[0.0, -500.0]]])
    _, logarithms = self_routing(capsules, route, torch.zeros(1, 2), None)
    assert logarithms.exp()[0, 1] == 0
    assert logarithms[0, 1].item() == pytest.approx(-500)
    assert torch.autograd.grad(logarithms[0, 1], capsules)[0].isfinite().all()


@settings(deadline=None, max_examples=20)
@given(
    batch=sizes,
    scale=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 5.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_all_gradients_are_finite_through_squash(batch, scale, dtype):
    tensors = [tensor.requires_grad_() for tensor in layer(batch=batch, scale=scale, dtype=dtype)]
    poses, logarithms = self_routing(routing.squash(tensors[0]), *tensors[1:])
    gradients = torch.autograd.grad(poses.sum() + logarithms[:, 0].sum(), tensors)
    assert all(gradient.isfinite().all() for gradient in gradients)


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 9), chunk=st.integers(100, 5000))
def test_a_batch_that_is_routed_in_parts_gives_what_it_gives_whole(batch, chunk):
    tensors = layer(batch=batch)
    whole = self_routing(*tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "CHUNK_BYTES", chunk)
        torch.testing.assert_close(self_routing(*tensors), whole)


def network(**keys: Any) -> CapsNet:
    """Build a network whose routing is uneven; initial routing would be even."""
    built = models.build(Config.model_validate({"model": SMALL} | keys), SHAPE)
    assert isinstance(built, CapsNet) and isinstance(built.classes, SelfRoutedCapsules)
    with torch.no_grad():
        for parameter in (built.classes.route, built.classes.prior):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter))
    return built


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 2, 9, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 0.05)])
def test_the_network_is_that_of_the_literal_formula(half, tolerance, relative_error):
    built, seen = network(), images(4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = built(seen)
    layers = built.double()
    assert isinstance(layers.classes, SelfRoutedCapsules) and layers.classes.weight is not None
    with torch.no_grad():
        features = layers.conv(seen.double()).clamp(min=0)
        maps = torch.conv2d(features, layers.primary.weight, layers.primary.bias, stride=2)
        inputs = maps.permute(0, 2, 3, 1).reshape(4, -1, 4)
        lengths = inputs.norm(dim=2, keepdim=True)
        capsules = inputs * lengths / (1 + lengths**2)
        poses, activations = literal(
            capsules, layers.classes.route, layers.classes.prior, layers.classes.weight
        )
        exact = layers(seen.double())
    assert relative_error(exact.capsules, poses.numpy()) < 1e-10
    assert relative_error(exact.lengths, activations.numpy()) < 1e-10
    assert relative_error(output.capsules, poses.numpy()) < tolerance
    assert relative_error(output.lengths, activations.numpy()) < tolerance
    assert output.capsules.dtype == output.lengths.dtype == torch.float32


def test_it_begins_with_even_routing():
    config = Config.model_validate({"model": SMALL})
    output = models.build(config, SHAPE)(images(4))
    torch.testing.assert_close(output.lengths, torch.full((4, 3), 1 / 3))


def test_it_is_trained_by_the_likelihood_of_its_activations_and_reconstructs_by_its_poses():
    config, built, labels = Config.model_validate({"model": SMALL}), network(), torch.tensor([2, 0, 1, 2])
    assert config.loss == CrossEntropy(with_reconstruction=True)
    output = built(images(4))
    measured = objective.measure(built, Batch(images(4), images(4), labels), config, training=True)
    likelihood = -output.lengths[torch.arange(4), labels].log()
    torch.testing.assert_close(measured.class_loss, likelihood)
    errors = (built.reconstruct(output.capsules, labels) - images(4)).square().sum((1, 2, 3))
    torch.testing.assert_close(measured.loss, likelihood + 0.0005 * errors)


def test_it_may_be_trained_by_the_margins_of_its_activations():
    config = Config.model_validate({"model": SMALL, "loss": {"name": "margin"}})
    assert config.loss == MarginLoss()
    built, labels = network(loss={"name": "margin"}), torch.tensor([2, 0, 1, 2])
    measured = objective.measure(built, Batch(images(4), images(4), labels), config, training=True)
    torch.testing.assert_close(measured.class_loss, margin_loss(built(images(4)).lengths, labels))


@pytest.mark.parametrize(
    "keys",
    [
        {"model": SMALL | {"decoder": {"name": "none"}}},
        {"model": SMALL | {"decoder": {"name": "none"}}, "loss": {"name": "margin"}},
        {"model": SMALL | {"decoder": {"name": "fc"}}, "loss": {"with_reconstruction": False}},
    ],
    ids=str,
)
def test_without_a_decoder_classes_have_no_poses(keys):
    built = network(**keys)
    assert isinstance(built.classes, SelfRoutedCapsules) and built.classes.weight is None
    output, whole = built(images(4)), network()(images(4))
    assert output.capsules.shape == (4, 3, 0)
    assert torch.equal(output.lengths, whole.lengths)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_image_is_routed_by_itself(batch):
    built = network().eval()
    alone, together = built(images(batch)[:1]), built(images(batch))
    torch.testing.assert_close(alone.capsules[0], together.capsules[0])
    torch.testing.assert_close(alone.lengths[0], together.lengths[0])
