"""The capsule layers: where capsules are cut, what autocast may touch, the masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import reference
from capsnet.capsules import ClassCapsules, PrimaryCapsules, lengths, mask, one_hot
from capsnet.decoders import FCDecoder
from capsnet.images import ImageShape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def primary():
    """Four types of 3-D capsules on 5 channels, kernel 3, in channels_last."""
    generator = torch.Generator().manual_seed(0)
    layer = PrimaryCapsules(channels=5, types=4, dim=3, kernel_size=3, routing="squash")
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer.to(memory_format=torch.channels_last)


@pytest.fixture
def features():
    """Two images of 5 channels and 9×11 pixels."""
    return torch.rand(2, 5, 9, 11, generator=torch.Generator().manual_seed(1))


def test_primary_capsules_are_those_of_the_reference(primary, features, relative_error):
    outputs = reference.convolution(features.double().numpy(), primary.weight.detach().double().numpy(), 2)
    inputs = outputs + reference.channelwise(primary.bias.detach().double().numpy())
    assert relative_error(primary(features), reference.squash(reference.cut(inputs, 3))) < 1e-6


def test_the_authors_primary_capsules_share_the_convolution_out_before_the_bias(primary, features):
    authors = PrimaryCapsules(channels=5, types=4, dim=3, kernel_size=3, routing="softmax")
    authors.weight = primary.weight
    authors.bias = primary.bias
    primary.weight = torch.nn.Parameter(primary.weight / 4)
    torch.testing.assert_close(authors(features), primary(features))


def test_capsules_that_leak_share_the_convolution_out_with_one_more(primary, features):
    leaky = PrimaryCapsules(channels=5, types=4, dim=3, kernel_size=3, routing="leaky")
    leaky.weight, leaky.bias = primary.weight, primary.bias
    primary.weight = torch.nn.Parameter(primary.weight / 5)
    torch.testing.assert_close(leaky(features), primary(features))


def test_padded_capsules_halve_the_grid_and_keep_those_inside(primary, features):
    """Of 9×11 pixels 5×6 capsules of each type see one pixel more on each side; the others are as before."""
    padded = PrimaryCapsules(channels=5, types=4, dim=3, kernel_size=3, routing="squash", padding="same")
    padded.weight, padded.bias = primary.weight, primary.bias
    grid = padded(features).unflatten(1, (5, 6, 4))
    framed = torch.nn.functional.pad(features, (1, 1, 1, 1))
    torch.testing.assert_close(grid, primary(framed).unflatten(1, (5, 6, 4)))
    even = features[:, :, :8, :10]  # an odd zero, which goes below and right
    shown = torch.nn.functional.pad(even, (0, 1, 0, 1))
    torch.testing.assert_close(padded(even).unflatten(1, (4, 5, 4)), primary(shown).unflatten(1, (4, 5, 4)))


def test_a_shift_by_the_stride_shifts_the_primary_capsules_by_one(primary, features):
    grid = primary(features).unflatten(1, (4, 5, 4))
    shifted = primary(features.roll((2, 4), (2, 3))).unflatten(1, (4, 5, 4))
    torch.testing.assert_close(shifted[:, 1:, 2:], grid[:, :-1, :-2])


def test_cutting_capsules_copies_nothing(primary, features):
    """The convolution's output is channels_last, so the cut is a view of it."""
    convolved = torch.nn.functional.conv2d(features, primary.weight, stride=2).permute(0, 2, 3, 1)
    assert convolved.reshape(2, -1, 3).data_ptr() == convolved.data_ptr()


def test_capsule_layers_stay_in_float32_under_autocast(primary, features):
    def route(capsules, weight, bias):
        assert not torch.is_autocast_enabled("cpu")
        return torch.einsum("bik,jikd->bjd", capsules, weight.unflatten(1, capsules.shape[1:]))

    layer = ClassCapsules(80, 3, classes=2, dim=6, bias=False, route=route)
    torch.nn.init.normal_(layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.conv2d(features, primary.weight).dtype == torch.bfloat16
        capsules = primary(features)
        routed = layer(capsules)
    assert capsules.dtype == routed.dtype == torch.float32
    torch.testing.assert_close(routed, layer(capsules))


def test_class_capsules_survive_a_change_of_memory_format():
    """Module.to(memory_format=channels_last) permutes parameters of four and five dimensions."""
    layer = ClassCapsules(4, 3, classes=2, dim=6, bias=True, route=lambda capsules, weight, bias: weight)
    assert layer.to(memory_format=torch.channels_last).weight.is_contiguous()


def test_lengths_are_the_norms_of_the_last_dimension():
    capsules = torch.tensor([[[0.6, 0.0, 0.8], [0.0, 0.0, 0.0]]], requires_grad=True)
    assert lengths(capsules).tolist() == [[pytest.approx(1.0), pytest.approx(0.0, abs=1e-15)]]
    lengths(capsules).sum().backward()
    torch.testing.assert_close(capsules.grad, capsules.detach())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_the_mask_keeps_one_capsule_of_each_image(classes):
    capsules = torch.rand(len(classes), 5, 3) + 1
    masked = mask(capsules, torch.tensor(classes))
    for image, kept in enumerate(classes):
        assert torch.equal(masked[image, kept], capsules[image, kept])
        assert masked[image].count_nonzero() == 3


def test_one_hot_agrees_with_pytorch():
    classes = torch.tensor([2, 0, 3])
    assert torch.equal(one_hot(classes, 4), torch.nn.functional.one_hot(classes, 4).bool())


def test_the_decoder_gives_images_of_the_shape_asked_for():
    decoder = FCDecoder(
        capsule_dim=4, hidden=(6,), shape=ImageShape(channels=3, height=5, width=7, classes=2)
    )
    images = decoder(torch.rand(1, 2, 4))
    assert images.shape == (1, 3, 5, 7)
    assert ((images > 0) & (images < 1)).all()


def test_the_decoder_ends_in_float32_under_autocast():
    decoder = FCDecoder(
        capsule_dim=4, hidden=(6,), shape=ImageShape(channels=1, height=5, width=7, classes=2)
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert decoder(torch.rand(3, 2, 4)).dtype == torch.float32
    assert decoder.double()(torch.rand(3, 2, 4, dtype=torch.float64)).dtype == torch.float64
