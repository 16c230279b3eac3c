"""Routing by attention against the literal formulation, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import reference, routing
from capsnet.routing import attended, attention, exponential_squash, norm, squash

pytestmark = pytest.mark.usefixtures("one_thread")

sizes = st.integers(1, 6)


def layer(batch=3, inputs=7, dim=4, classes=5, class_dim=6, dtype=torch.float64, scale=0.5):
    """Capsules [B, I, K], a weight [J, I·K, D], a bias [J, D] and a prior [J, I]."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, inputs, dim), (classes, inputs * dim, class_dim), (classes, class_dim), (classes, inputs)
    return [scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def literal(capsules, weight, bias=None, prior=None, shrink=squash):
    """Route by the literal formula: predictions û [B, J, I, D] and all their products [B, J, I, I]."""
    formed = torch.einsum("bik,jikd->bjid", capsules, weight.unflatten(1, capsules.shape[1:]))
    products = torch.einsum("bjid,bjkd->bjik", formed, formed)
    coupling = (products.sum(-1) / weight.shape[-1] ** 0.5).softmax(1)
    coupling = coupling if prior is None else coupling + prior
    collected = torch.einsum("bji,bjid->bjd", coupling, formed)
    return shrink(collected if bias is None else collected + bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("shrink", [squash, exponential_squash])
def test_outputs_and_gradients_are_those_of_the_literal_formulation(
    dtype, with_bias, with_prior, shrink, relative_error
):
    tensors = [tensor.to(dtype).requires_grad_() for tensor in layer()]
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    used = [0, 1, *([2] if with_bias else []), *([3] if with_prior else [])]
    upstream = torch.linspace(-1, 1, 3 * 5 * 6, dtype=torch.float64).view(3, 5, 6)

    def arguments(given):
        bias, prior = given[2] if with_bias else None, given[3] if with_prior else None
        return (given[0], given[1], bias), {"prior": prior, "shrink": shrink}

    given, keys = arguments(tensors)
    outputs = attention(*given, **keys)
    given, keys = arguments(wide)
    expected = literal(*given, **keys)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert outputs.shape == (3, 5, 6)
    assert relative_error(outputs, expected.detach().numpy()) < tolerance
    gradients = torch.autograd.grad(outputs, [tensors[i] for i in used], upstream.to(dtype))
    for found, right in zip(
        gradients, torch.autograd.grad(expected, [wide[i] for i in used], upstream), strict=True
    ):
        assert relative_error(found, right.numpy()) < tolerance


def test_outputs_and_gradients_are_those_of_the_reference(relative_error):
    capsules, weight, bias = (tensor.requires_grad_() for tensor in layer()[:3])
    upstream = torch.linspace(-1, 1, 3 * 5 * 6, dtype=torch.float64).view(3, 5, 6)
    outputs = attention(capsules, weight, bias)
    outputs.backward(upstream)
    transformations = weight.detach().unflatten(1, (7, 4)).numpy()
    formed = np.einsum("bik,jikd->bijd", capsules.detach().numpy(), transformations)
    passed = reference.attention(formed, bias.detach().numpy())
    d_formed, d_bias = reference.attention_backward(formed, passed, upstream.numpy())
    d_weight = np.einsum("bijd,bik->jikd", d_formed, capsules.detach().numpy()).reshape(5, 28, 6)
    assert relative_error(outputs, passed.outputs) < 1e-12
    assert relative_error(capsules.grad, np.einsum("bijd,jikd->bik", d_formed, transformations)) < 1e-12
    assert relative_error(weight.grad, d_weight) < 1e-12
    assert relative_error(bias.grad, d_bias) < 1e-12


@pytest.mark.parametrize("shrink", [squash, exponential_squash])
def test_gradients_are_the_slopes(shrink):
    capsules, weight, bias, prior = (
        tensor.requires_grad_() for tensor in layer(batch=2, inputs=3, dim=2, classes=3, class_dim=2)
    )

    def route(capsules, weight, bias, prior):
        return attention(capsules, weight, bias, prior=prior, shrink=shrink)

    assert torch.autograd.gradcheck(route, (capsules, weight, bias, prior))


@settings(deadline=None, max_examples=20)
@given(batch=sizes, inputs=sizes, dim=sizes, classes=sizes, class_dim=sizes)
def test_each_input_shares_itself_out_wholly_over_the_outputs(**shape):
    capsules, weight, _, _ = layer(**shape)
    coupling = attended(capsules, weight)
    assert coupling.shape == (shape["classes"], shape["batch"], shape["inputs"])
    assert (coupling >= 0).all()
    torch.testing.assert_close(coupling.sum(0), torch.ones_like(coupling[0]))


def test_what_agrees_with_the_others_counts_more():
    """Three inputs predict the same for the first class, and the third the opposite for the second."""
    capsules = torch.ones(1, 3, 1)
    weight = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]])
    first, second = attended(capsules, weight)[:, 0]
    assert (first > second).all()
    assert second[2] < second[0]


@settings(deadline=None, max_examples=20)
@given(
    batch=sizes,
    scale=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 5.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    shrink=st.sampled_from([squash, exponential_squash]),
)
def test_lengths_are_from_0_to_1_and_all_gradients_finite(batch, scale, dtype, shrink):
    tensors = [tensor.requires_grad_() for tensor in layer(batch=batch, scale=scale, dtype=dtype)]
    capsules, weight, bias, prior = tensors
    lengths = norm(attention(capsules, weight, bias, prior=prior, shrink=shrink))
    assert (lengths >= 0).all()
    assert (lengths < 1).all() or scale >= 1.0  # where rounding may reach 1
    assert (lengths <= 1 + 1e-6).all()
    gradients = torch.autograd.grad(lengths.sum(), tensors)
    assert all(gradient.isfinite().all() for gradient in gradients)


@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 9), chunk=st.integers(100, 5000))
def test_a_batch_that_is_routed_in_parts_gives_what_it_gives_whole(batch, chunk):
    capsules, weight, bias, prior = layer(batch=batch)
    whole = attention(capsules, weight, bias, prior=prior)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "CHUNK_BYTES", chunk)
        torch.testing.assert_close(attention(capsules, weight, bias, prior=prior), whole)


def test_an_image_is_routed_by_itself():
    capsules, weight, bias, _ = layer()
    torch.testing.assert_close(
        attention(capsules[1:2], weight, bias)[0], attention(capsules, weight, bias)[1]
    )
