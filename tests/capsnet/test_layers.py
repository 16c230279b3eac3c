"""Dropout that draws from a generator, batch normalisation of one image, convolutions that keep sizes."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import randomness
from capsnet.layers import BatchNorm, Dropout, SameConv2d

pytestmark = pytest.mark.usefixtures("one_thread")


def dropout(share: float, *purpose: int) -> Dropout:
    layer = Dropout(share)
    layer.generator = randomness.generator(0, "dropout", *purpose)
    return layer


def test_dropout_leaves_out_its_share_and_makes_up_for_it():
    kept = dropout(0.2)(torch.ones(100, 100))
    assert set(kept.unique().tolist()) == {0.0, 1.25}
    assert (kept == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_dropout_is_a_function_of_its_generator_alone():
    features = torch.rand(5, 40)
    torch.manual_seed(1)
    first = dropout(0.5, 7)(features)
    state = torch.get_rng_state()
    assert torch.equal(dropout(0.5, 7)(features), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(dropout(0.5, 8)(features), first)


def test_the_gradient_passes_dropout_where_the_features_did():
    features = torch.rand(5, 40, dtype=torch.float64).add(1).requires_grad_()
    outputs = dropout(0.5)(features)
    outputs.sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, outputs.detach() / features.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_keeps_the_precision_of_its_input(dtype):
    assert dropout(0.5)(torch.ones(3, 4, dtype=dtype)).dtype == dtype


def test_dropout_does_nothing_in_evaluation_and_with_a_share_of_zero():
    features = torch.rand(3, 4)
    assert torch.equal(Dropout(0.5).eval()(features), features)
    assert torch.equal(Dropout(0.0)(features), features)


def test_dropout_in_training_refuses_to_draw_from_nowhere():
    with pytest.raises(ValueError, match="its `generator`: set it before each step"):
        Dropout(0.5)(torch.rand(3, 4))


@pytest.mark.parametrize(
    ("theirs", "shape"), [(torch.nn.BatchNorm1d, (4, 3)), (torch.nn.BatchNorm2d, (4, 3, 5, 2))]
)
def test_batch_normalisation_is_pytorchs_for_both_kinds_of_features(theirs, shape):
    ours, theirs = BatchNorm(3, eps=1e-3, momentum=0.2), theirs(3, eps=1e-3, momentum=0.2)
    batches = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    for features in batches[:3]:
        assert torch.equal(ours(features), theirs(features))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert torch.equal(ours.eval()(batches[3]), theirs.eval()(batches[3]))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 5, 2)])
def test_a_batch_of_one_is_normalised_by_the_running_statistics_and_leaves_them(shape):
    layer = BatchNorm(3)
    layer(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
    trained = layer(features)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    torch.testing.assert_close(trained, layer.eval()(features))
    trained.sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()


def test_batch_normalisation_of_anything_else_is_refused():
    for training in (True, False):
        for shape in ((1, 3, 5), (2, 3, 5)):
            with pytest.raises(ValueError, match="not 3 dimensions"):
                BatchNorm(3).train(training)(torch.zeros(shape))


@settings(deadline=None, max_examples=25)
@given(kernel=st.integers(1, 8), height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_same_convolution_keeps_the_size_and_warns_of_nothing(kernel, height, width):
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        layer = SameConv2d(2, 3, kernel).double()
        images = torch.rand(2, 2, height, width, dtype=torch.float64)
        warnings.simplefilter("error")
        outputs = layer(images)
        warnings.simplefilter("ignore")  # PyTorch's own warns of a copy where the kernel is even
        expected = torch.conv2d(images, layer.weight, layer.bias, padding="same")
    assert outputs.shape == (2, 3, height, width)
    torch.testing.assert_close(outputs, expected)
