"""Routing against Procedure 1 taken literally, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import reference
from capsnet.routing import couplings, dynamic, exponential_squash, norm, squash

pytestmark = pytest.mark.usefixtures("one_thread")

sizes = st.integers(1, 6)


def layer(batch=3, inputs=7, dim=4, classes=5, class_dim=6, dtype=torch.float64, scale=1.0, seed=0):
    """Capsules [B, I, K], a weight [J, I·K, D] and a bias [J, D]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, inputs, dim), (classes, inputs * dim, class_dim), (classes, class_dim)
    return [scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def predictions(capsules, weight):
    """û [B, I, J, D], formed."""
    transformations = weight.unflatten(1, capsules.shape[1:])
    return torch.einsum("bik,jikd->bijd", capsules, transformations).detach().numpy()


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize("with_bias", [False, True])
def test_outputs_are_those_of_the_literal_procedure(iterations, with_bias, relative_error):
    capsules, weight, bias = layer()
    outputs = dynamic(capsules, weight, bias if with_bias else None, iterations=iterations)
    done = reference.routing(predictions(capsules, weight), bias.numpy() if with_bias else 0.0, iterations)
    assert outputs.shape == (3, 5, 6)
    assert relative_error(outputs, done[-1].outputs) < 1e-12


@pytest.mark.parametrize("gradient", ["full", "detached"])
@pytest.mark.parametrize("iterations", [1, 2, 3, 7])
def test_gradients_are_those_of_the_literal_procedure(gradient, iterations, relative_error):
    capsules, weight, bias = (tensor.requires_grad_() for tensor in layer())
    upstream = torch.linspace(-1, 1, 3 * 5 * 6, dtype=torch.float64).view(3, 5, 6)
    dynamic(capsules, weight, bias, iterations=iterations, gradient=gradient).backward(upstream)
    formed = predictions(capsules, weight)
    done = reference.routing(formed, bias.detach().numpy(), iterations)
    d_formed, d_bias = reference.routing_backward(formed, done, upstream.numpy(), gradient)
    transformations = weight.detach().unflatten(1, (7, 4)).numpy()
    d_capsules = np.einsum("bijd,jikd->bik", d_formed, transformations)
    d_weight = np.einsum("bijd,bik->jikd", d_formed, capsules.detach().numpy()).reshape(5, 28, 6)
    assert relative_error(capsules.grad, d_capsules) < 1e-12
    assert relative_error(weight.grad, d_weight) < 1e-12
    assert relative_error(bias.grad, d_bias) < 1e-12


@settings(deadline=None, max_examples=20)
@given(batch=sizes, inputs=sizes, dim=sizes, classes=sizes, class_dim=sizes, iterations=st.integers(2, 10))
def test_each_input_shares_itself_out_wholly_over_the_outputs(iterations, **shape):
    capsules, weight, bias = layer(**shape)
    coupling = couplings(capsules, weight, bias, iterations)
    assert coupling.shape == (shape["classes"], shape["batch"], shape["inputs"])
    assert (coupling >= 0).all()
    torch.testing.assert_close(coupling.sum(0), torch.ones_like(coupling[0]))


@settings(deadline=None, max_examples=20)
@given(
    batch=sizes,
    iterations=st.integers(1, 10),
    scale=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_lengths_are_from_0_to_below_1_and_all_gradients_finite(batch, iterations, scale, dtype):
    tensors = [tensor.requires_grad_() for tensor in layer(batch=batch, scale=scale, dtype=dtype)]
    outputs = dynamic(*tensors, iterations=iterations)
    lengths = norm(outputs)
    assert (lengths >= 0).all()
    assert (lengths < 1).all() or scale == 30.0  # where rounding may reach 1
    assert (lengths <= 1 + 1e-6).all()
    gradients = torch.autograd.grad(lengths.sum(), tensors)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_routing_sharpens_with_its_iterations():
    capsules, weight, bias = layer(scale=0.7)
    entropies = [
        torch.special.entr(couplings(capsules, weight, bias, iterations)).sum().item()
        for iterations in (2, 3, 5, 9)
    ]
    assert entropies == sorted(entropies, reverse=True)


@pytest.mark.parametrize("gradient", ["full", "detached"])
@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_none_of_the_above_is_that_of_the_literal_procedure(gradient, iterations, relative_error):
    capsules, weight, bias = (tensor.requires_grad_() for tensor in layer())
    upstream = torch.linspace(-1, 1, 3 * 5 * 6, dtype=torch.float64).view(3, 5, 6)
    outputs = dynamic(
        capsules, weight, bias, iterations=iterations, gradient=gradient, none_of_the_above=True
    )
    outputs.backward(upstream)
    formed = predictions(capsules, weight)
    done = reference.routing(formed, bias.detach().numpy(), iterations, none_of_the_above=True)
    assert relative_error(outputs, done[-1].outputs) < 1e-12
    d_formed, d_bias = reference.routing_backward(formed, done, upstream.numpy(), gradient)
    d_weight = np.einsum("bijd,bik->jikd", d_formed, capsules.detach().numpy()).reshape(5, 28, 6)
    assert relative_error(weight.grad, d_weight) < 1e-12
    assert relative_error(bias.grad, d_bias) < 1e-12
    without = reference.routing(formed, bias.detach().numpy(), iterations)
    assert relative_error(outputs, without[-1].outputs) > 1e-3


def test_none_of_the_above_is_one_more_class_whose_predictions_are_zero():
    """The literal formulation: its logit û·v is 0 in every iteration, and its output is ignored."""
    capsules, weight, bias = layer()
    more = torch.cat([weight, torch.zeros_like(weight[:1])])
    more_bias = torch.cat([bias, torch.zeros_like(bias[:1])])
    for iterations in (1, 2, 3, 7):
        outputs = dynamic(capsules, weight, bias, iterations=iterations, none_of_the_above=True)
        literal = dynamic(capsules, more, more_bias, iterations=iterations)
        torch.testing.assert_close(outputs, literal[:, :-1])
        assert not literal[:, -1].any()


@settings(deadline=None, max_examples=20)
@given(batch=sizes, inputs=sizes, dim=sizes, classes=sizes, class_dim=sizes, iterations=st.integers(2, 10))
def test_what_the_outputs_do_not_get_goes_to_none_of_them(iterations, **shape):
    capsules, weight, bias = layer(scale=0.5, **shape)
    coupling = couplings(capsules, weight, bias, iterations, none_of_the_above=True)
    assert (coupling > 0).all()
    assert (coupling.sum(0) < 1).all()
    # The share of none has the logit 0: it is to a class's share as 1 to the power of that class's logit.
    summed = torch.zeros(())
    for passes in range(1, iterations):
        outputs = dynamic(capsules, weight, bias, iterations=passes, none_of_the_above=True)
        summed = summed + outputs
    logits = torch.einsum("bijd,bjd->jbi", torch.from_numpy(predictions(capsules, weight)), summed)
    torch.testing.assert_close(1 - coupling.sum(0), coupling[0] / logits[0].exp(), rtol=1e-6, atol=1e-9)


def test_squash_of_zero_is_zero_and_its_gradient_too():
    inputs = torch.zeros(2, 8, requires_grad=True)
    outputs = squash(inputs)
    outputs.sum().backward()
    assert not outputs.any() and inputs.grad is not None
    torch.testing.assert_close(inputs.grad, torch.zeros_like(inputs))


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e18])
def test_squash_is_finite_and_right_for_lengths_of_any_size(size):
    inputs = torch.tensor([[0.6, -0.8]]).mul(size).requires_grad_()
    outputs = squash(inputs)
    outputs.sum().backward()
    expected = reference.squash(np.array([[0.6, -0.8]]) * size)
    np.testing.assert_allclose(outputs.detach().numpy(), expected, rtol=1e-5, atol=1e-35)
    assert inputs.grad is not None and inputs.grad.isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-10, 1e-4, 1.0, 10.0, 1e10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_exponential_squash_is_finite_and_right_for_lengths_of_any_size(size, dtype):
    inputs = torch.tensor([[0.6, -0.8]], dtype=dtype).mul(size).requires_grad_()
    outputs = exponential_squash(inputs)
    outputs.sum().backward()
    direction = np.array([[0.6, -0.8]])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    expected = -np.expm1(-size) * direction
    np.testing.assert_allclose(outputs.detach().numpy(), expected, rtol=tolerance, atol=1e-35)
    # Across the direction the slope is (1 - e⁻ⁿ) / n, along it e⁻ⁿ.
    across = -np.expm1(-size) / size if size else 1.0
    along = direction * direction.sum()
    slopes = across * (1 - along) + np.exp(-size) * along
    assert inputs.grad is not None
    np.testing.assert_allclose(inputs.grad.numpy(), slopes, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=30)
@given(
    numbers=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8),
)
def test_the_exponential_squash_keeps_the_direction_and_a_length_below_1(numbers):
    inputs = torch.tensor([numbers], dtype=torch.float64)
    outputs = exponential_squash(inputs)
    assert norm(outputs).item() <= 1 + 1e-12
    assert norm(outputs).item() < 1 or norm(inputs).item() > 30  # where rounding reaches 1
    torch.testing.assert_close(outputs * norm(inputs), inputs * norm(outputs))


def test_the_gradient_of_the_exponential_squash_is_its_slope():
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 5.0):
        inputs = (scale * torch.randn(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(exponential_squash, inputs)


@pytest.mark.parametrize("iterations", [0, -1])
def test_less_than_one_iteration_is_refused(iterations):
    with pytest.raises(ValueError, match=f"at least 1 iteration \\(got {iterations}\\)"):
        dynamic(*layer(), iterations=iterations)
