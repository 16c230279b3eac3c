"""The reference itself: against finite differences and against numbers worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from capsnet import reference
from capsnet.reference import Settings

STEP = 1e-6
SMALL = {
    "conv.weight": (4, 2, 3, 3),
    "conv.bias": (4,),
    "primary.weight": (6, 4, 3, 3),
    "primary.bias": (6,),
    "classes.weight": (3, 24, 5),  # 2 × 2 positions, 2 types of 3 dimensions
    "classes.bias": (3, 5),
    "decoder.layers.0.weight": (6, 15),
    "decoder.layers.0.bias": (6,),
    "decoder.layers.1.weight": (98, 6),
    "decoder.layers.1.bias": (98,),
}
SETTINGS = Settings(primary_dim=3, reconstruction_weight=0.05)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def parameters(rng):
    return {name: rng.normal(0, 0.6, shape) for name, shape in SMALL.items()}


@pytest.fixture
def batch(rng):
    return rng.random((3, 2, 7, 7)), np.array([0, 2, 1])


def slope(function, values, direction):
    """The derivative of `function` at `values` along `direction`, by a central difference."""
    return (function(values + STEP * direction) - function(values - STEP * direction)) / (2 * STEP)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, iterations=1),
        replace(SETTINGS, iterations=2, margin="authors"),
        replace(SETTINGS, iterations=6, primary_routing="softmax"),
        replace(SETTINGS, none_of_the_above=True),
        replace(SETTINGS, routing="attention"),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_each_gradient_is_the_slope_of_the_loss(name, settings, parameters, batch, rng):
    direction = rng.normal(size=SMALL[name])
    images, labels = batch

    def loss(values):
        return reference.losses(parameters | {name: values}, images, labels, settings).loss

    gradient = reference.losses(parameters, images, labels, settings).gradients[name]
    assert np.sum(gradient * direction) == pytest.approx(slope(loss, parameters[name], direction), rel=1e-6)


def test_the_detached_gradient_is_the_slope_with_the_last_couplings_held(rng):
    predictions, direction, weights = (rng.normal(size=(2, 6, 3, 4)) for _ in range(3))
    weights = weights[:, 0]
    iterations = reference.routing(predictions, 0.0, 3)

    def held(values):
        inputs = np.einsum("bij,bijd->bjd", iterations[-1].couplings, values)
        return np.sum(weights * reference.squash(inputs))

    def flowing(values):
        return np.sum(weights * reference.routing(values, 0.0, 3)[-1].outputs)

    detached, _ = reference.routing_backward(predictions, iterations, weights, "detached")
    full, _ = reference.routing_backward(predictions, iterations, weights, "full")
    along = np.sum(detached * direction)
    assert along == pytest.approx(slope(held, predictions, direction), rel=1e-6)
    assert along != pytest.approx(slope(flowing, predictions, direction), rel=1e-2)
    assert np.sum(full * direction) == pytest.approx(slope(flowing, predictions, direction), rel=1e-6)


@pytest.mark.parametrize("routing", ["dynamic", "attention"])
@pytest.mark.parametrize("size", [3, 4])
def test_the_gradient_of_a_padded_convolution_is_the_slope_too(routing, size, batch, rng):
    """The features are as large as the images, 7×7, and 3×3 capsules are left of them."""
    settings = replace(SETTINGS, padding="same", routing=routing)
    shapes = SMALL | {"conv.weight": (4, 2, size, size), "classes.weight": (3, 54, 5)}
    parameters = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    direction = rng.normal(size=shapes["conv.weight"])
    images, labels = batch
    assert reference.forward(parameters, images, settings).filtered.shape == (3, 4, 7, 7)

    def loss(values):
        return reference.losses(parameters | {"conv.weight": values}, images, labels, settings).loss

    gradient = reference.losses(parameters, images, labels, settings).gradients["conv.weight"]
    expected = slope(loss, parameters["conv.weight"], direction)
    assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-6)


def test_the_convolution_is_the_sum_over_the_window(rng):
    images, weight = rng.normal(size=(2, 3, 8, 7)), rng.normal(size=(4, 3, 3, 3))
    outputs = reference.convolution(images, weight, stride=2)
    assert outputs.shape == (2, 4, 3, 3)
    assert outputs[1, 2, 1, 2] == pytest.approx(np.sum(images[1, :, 2:5, 4:7] * weight[2]))


@pytest.mark.parametrize(("length", "squashed"), [(0.0, 0.0), (0.5, 0.2), (1.0, 0.5), (3.0, 0.9)])
def test_squash_keeps_the_direction_and_bounds_the_length(length, squashed):
    np.testing.assert_allclose(
        reference.squash(np.array([0.6, -0.8]) * length), [0.6 * squashed, -0.8 * squashed]
    )


def test_squash_and_length_have_the_gradient_zero_at_zero():
    zero, ones = np.zeros((1, 3)), np.ones((1, 3))
    assert np.array_equal(reference.squash_backward(zero, ones), zero)
    assert np.array_equal(reference.norm_backward(zero, np.ones((1, 1))), zero)


def test_routing_by_hand():
    """One input and two outputs of one dimension: û = (2, 0), first couplings ½ and ½."""
    first, second = reference.routing(np.array([[[[2.0], [0.0]]]]), 0.0, iterations=2)
    assert first.couplings[0, 0].tolist() == [0.5, 0.5]
    assert first.outputs[0, :, 0] == pytest.approx([0.5, 0.0])  # s = 1, 1² / (1 + 1²)
    share = np.exp(1.0) / (np.exp(1.0) + 1)  # the logit is 2 · 0.5
    assert second.couplings[0, 0] == pytest.approx([share, 1 - share])
    assert second.outputs[0, 0, 0] == pytest.approx((2 * share) ** 2 / (1 + (2 * share) ** 2))


def test_a_share_for_none_of_the_above_by_hand():
    """Two outputs and none: the first couplings are a third each, and none's logit stays 0."""
    first, second = reference.routing(np.array([[[[3.0], [0.0]]]]), 0.0, 2, none_of_the_above=True)
    assert first.couplings[0, 0] == pytest.approx([1 / 3, 1 / 3])
    assert first.outputs[0, :, 0] == pytest.approx([0.5, 0.0])  # s = 1
    powers = np.exp([1.5, 0.0])  # 3 · 0.5 and 0 · 0
    assert second.couplings[0, 0] == pytest.approx(powers / (powers.sum() + 1))


@pytest.mark.parametrize("logits", [[800.0, -800.0], [-800.0, -900.0], [0.0, 0.0]])
def test_the_softmax_with_none_of_the_above_does_not_overflow(logits):
    shares = reference.softmax(np.array(logits), none_of_the_above=True)
    assert np.isfinite(shares).all()
    assert shares == pytest.approx(reference.softmax(np.array([*logits, 0.0]))[:2])


def test_attention_by_hand():
    """Two inputs and two outputs of one dimension: û = (1, 0) and (2, 0), whose sum is (3, 0)."""
    passed = reference.attention(np.array([[[[1.0], [0.0]], [[2.0], [0.0]]]]), 0.0)
    shares = 1 / (1 + np.exp([-3.0, -6.0]))  # the logits are 1 · 3 and 2 · 3, and those of the other 0
    assert passed.couplings[0, :, 0] == pytest.approx(shares)
    collected = shares @ [1.0, 2.0]
    assert passed.inputs[0, :, 0] == pytest.approx([collected, 0.0])
    assert passed.outputs[0, 0, 0] == pytest.approx(collected**2 / (1 + collected**2))


def test_margin_loss_by_hand():
    lengths, present = np.array([[0.7, 0.3, 0.05]]), np.array([[1.0, 0.0, 0.0]])
    assert reference.margin_loss(lengths, present, "paper") == pytest.approx([0.2**2 + 0.5 * 0.2**2])
    assert reference.margin_loss(lengths, present, "authors") == pytest.approx([0.06 * 0.5 / 3])


def test_the_functions_on_arrays_come_from_the_module_of_the_input(parameters, batch, monkeypatch):
    """Arrays of another module, for example CuPy, are never passed to a function of NumPy by name."""
    used = []
    other = ModuleType("other")
    other.__getattr__ = lambda name: used.append(name) or getattr(np, name)
    monkeypatch.setitem(sys.modules, "other", other)
    foreign = type("ndarray", (np.ndarray,), {"__module__": "other"})
    images, labels = batch
    expected = reference.losses(parameters, images, labels, SETTINGS)
    arrays = {name: value.view(foreign) for name, value in parameters.items()}
    found = reference.losses(arrays, images.view(foreign), labels.view(foreign), SETTINGS)
    assert found.loss == expected.loss
    assert {"einsum", "sqrt", "exp", "eye", "zeros_like"} == set(used)
    assert "numpy" not in vars(reference) and "np" not in vars(reference)
