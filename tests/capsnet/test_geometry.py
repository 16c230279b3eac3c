"""The sizes that networks need: the message's arithmetic, and that the least size is the least."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnet import geometry
from capsnet.config import Config, Model
from capsnet.geometry import Chain, Window, chain

SMALL = {"dataset": {"name": "digits", "size": 512}}  # which leaves something of itself whatever the model


def model(**keys: Any) -> Model:
    return Config.model_validate(SMALL | {"model": keys}).model


def refusal(chain: Chain, height: int, width: int) -> str:
    with pytest.raises(ValueError) as caught:
        chain.grids(height, width)
    return str(caught.value)


@pytest.mark.parametrize(
    ("keys", "sides", "message"),
    [
        (
            {"name": "capsnet"},
            (16, 28),
            "model.kernel_size 9 leaves no capsules of images of 16×28 pixels: 16 - 9 + 1 = 8 after the "
            "first convolution, (8 - 9) // 2 + 1 = 0 after the second; images need at least 17 pixels a side",
        ),
        (
            {"name": "capsnet", "padding": "same"},
            (8, 28),
            "model.kernel_size 9 leaves no capsules of images of 8×28 pixels: (8 - 9) // 2 + 1 = 0 after the "
            "first convolution; images need at least 9 pixels a side",
        ),
        (
            {"name": "cnn", "pool": 4},
            (60, 33),
            "model.pool 4 leaves no pixels of images of 60×33 pixels: (33 - 4) // 4 + 1 = 8 after the first "
            "pooling, (8 - 4) // 4 + 1 = 2 after the second, (2 - 4) // 4 + 1 = 0 after the third; images "
            "need at least 64 pixels a side",
        ),
        (
            {"name": "efficient_capsnet"},
            (28, 10),
            "model.first_kernel_size 5 leaves no capsules of images of 28×10 pixels: 10 - 5 + 1 = 6 after "
            "the first convolution, 6 - 3 + 1 = 4 after the second, 4 - 3 + 1 = 2 after the third, "
            "(2 - 3) // 2 + 1 = 0 after the fourth; images need at least 11 pixels a side",
        ),
        (
            {"name": "matrix_capsnet"},
            (12, 12),
            "model.capsule_types [32, 32] leaves no capsules of images of 12×12 pixels: (12 - 5) // 2 + 1 = "
            "4 after the first convolution, (4 - 3) // 2 + 1 = 1 after the second, 1 - 3 + 1 = -1 after the "
            "third; images need at least 17 pixels a side",
        ),
    ],
)
def test_a_refusal_shows_the_arithmetic(keys, sides, message):
    assert refusal(chain(model(**keys)), *sides) == message


def test_a_refusal_names_few_steps_of_many_and_never_runs_out_of_words():
    keys = {"name": "cnn", "conv_channels": [1] * 30, "kernel_sizes": [1] * 30, "pool": 2}
    pools = Chain("model.pool", "2", "pixels", tuple([Window(2, 2)] * 30), counted="pooling")
    message = refusal(pools, 512, 512)
    assert message.count("after the") == geometry.SHOWN_STEPS + 1
    assert "…, (1 - 2) // 2 + 1 = 0 after the 10th; images need at least 1073741824 pixels" in message
    with pytest.raises(ValueError, match="after the 10th; images need at least"):
        Config.model_validate(SMALL | {"model": keys})


models = st.one_of(
    st.builds(
        lambda kernel_size, paddings: model(
            kernel_size=kernel_size, padding=paddings[0], primary_padding=paddings[1]
        ),
        kernel_size=st.integers(1, 12),
        # Where both keep what is at the edges, no image is too small.
        paddings=st.sampled_from([("valid", "valid"), ("same", "valid"), ("valid", "same")]),
    ),
    st.builds(
        lambda kernels, pool: model(
            name="cnn", conv_channels=[1] * len(kernels), kernel_sizes=kernels, pool=pool
        ),
        kernels=st.lists(st.integers(1, 9), min_size=1, max_size=4),
        pool=st.integers(1, 4),
    ),
    st.builds(
        lambda layers, kernel, stride: model(
            name="efficient_capsnet",
            conv_channels=[8] * layers,
            first_kernel_size=kernel,
            first_stride=stride,
        ),
        layers=st.integers(2, 12),
        kernel=st.integers(1, 12),
        stride=st.integers(1, 4),
    ),
    st.builds(
        lambda types: model(name="matrix_capsnet", capsule_types=types),
        types=st.lists(st.integers(1, 2), min_size=1, max_size=10),
    ),
)


@settings(deadline=None, max_examples=80)
@given(model=models, other=st.integers(0, 20), swapped=st.booleans())
def test_the_least_side_works_and_one_pixel_less_does_not(model, other, swapped):
    windows = chain(model)
    least = int(re.findall(r"at least (\d+) pixels", refusal(windows, 0, 0))[0])
    assert all(side >= 1 for side in windows.grids(least, least)[-1])
    sides = (least + other, least - 1) if swapped else (least - 1, least + other)
    message = refusal(windows, *sides)
    assert f"of images of {sides[0]}×{sides[1]} pixels" in message
    assert f"at least {least} pixels a side" in message
    assert "\n" not in message


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.integers(1, 6), stride=st.integers(1, 4), height=st.integers(1, 20), width=st.integers(1, 20)
)
def test_a_window_steps_as_a_convolution_of_pytorch_does(kernel, stride, height, width):
    rows, columns = Window(kernel, stride).over(height), Window(kernel, stride).over(width)
    if min(rows, columns) < 1:
        assert kernel > min(height, width)
        return
    outputs = torch.conv2d(torch.zeros(1, 1, height, width), torch.zeros(1, 1, kernel, kernel), stride=stride)
    assert outputs.shape[2:] == (rows, columns)
    again = torch.conv_transpose2d(outputs, torch.zeros(1, 1, kernel, kernel), stride=stride)
    assert again.shape[2:] == (Window(kernel, stride).needs(rows), Window(kernel, stride).needs(columns))


@settings(deadline=None, max_examples=60)
@given(kernel=st.integers(1, 9), stride=st.integers(1, 4), side=st.integers(1, 30))
def test_a_window_that_is_the_same_takes_a_step_for_each_stride_as_tensorflow_has_it(kernel, stride, side):
    """Step n begins n·stride pixels after the first zero; none is beyond what the kernel needs."""
    window = Window(kernel, stride, same=True)
    before, behind = window.zeros(side)
    assert window.over(side) == math.ceil(side / stride)
    assert window.over(window.needs(window.over(side))) == window.over(side)
    assert window.needs(window.over(side)) <= side
    assert behind - before in (0, 1)
    last = (window.over(side) - 1) * stride + kernel  # the end of the last step, from the first zero
    assert last <= before + side + behind
    assert before + behind == 0 or last == before + side + behind


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.integers(1, 6),
    padding=st.sampled_from(["valid", "same"]),
    primary_padding=st.sampled_from(["valid", "same"]),
    side=st.integers(12, 20),
)
def test_a_step_sees_the_pixels_that_change_it(kernel, padding, primary_padding, side):
    windows = chain(model(kernel_size=kernel, padding=padding, primary_padding=primary_padding))
    image = torch.rand(1, 1, side, requires_grad=True)
    outputs: torch.Tensor = image
    for window in windows.windows:
        framed = torch.nn.functional.pad(outputs, window.zeros(outputs.shape[2]))
        outputs = torch.conv1d(framed, torch.ones(1, 1, window.kernel), stride=window.stride)
    assert outputs.shape[2] == windows.grids(side, side)[-1][0] == len(windows.centres(side))
    for number in range(outputs.shape[2]):
        (slope,) = torch.autograd.grad(outputs[0, 0, number], image, retain_graph=True)
        first, end = windows.seen(side, number)
        seen = slope[0, 0].nonzero()[:, 0].tolist()
        assert (min(seen), max(seen) + 1) == (first, end)
        assert end - first < kernel * 2 + 1
        if end - first == 2 * kernel - 1:  # no edge cuts it
            assert windows.centres(side)[number] == pytest.approx((first + end) / 2 / side)


def test_a_place_in_a_long_chain_has_the_ending_of_its_number():
    places = (0, 7, 8, 10, 11, 12, 20, 21, 22, 23, 100, 110, 120)
    assert " ".join(map(geometry._ordinal, places)) == (
        "first eighth 9th 11th 12th 13th 21st 22nd 23rd 24th 101st 111th 121st"
    )


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("same", [False, True])
def test_the_centre_of_a_step_is_the_middle_of_the_pixels_it_sees(kernel, same):
    windows = Chain("key", "value", "pixels", (Window(kernel, same=same), Window(2, 2)))
    image = torch.arange(21.0).requires_grad_()  # each pixel's own place
    layers = torch.nn.Conv1d(1, 1, kernel, padding="same" if same else 0), torch.nn.AvgPool1d(2)
    torch.nn.init.ones_(layers[0].weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of an even kernel
        steps = layers[1](layers[0](image[None, None]))[0, 0]
    centres = windows.centres(21)
    assert len(centres) == len(steps)
    place = len(steps) // 2  # far from the edges, where zeros are seen
    (weights,) = torch.autograd.grad(steps[place], image)
    middle = float((weights * (image.detach() + 0.5)).sum() / weights.sum())
    assert centres[place] == pytest.approx(middle / 21)


def test_the_decoders_grid_of_six_becomes_28_pixels():
    assert geometry.deconvolved(6) == 28
    assert [geometry.grid_before(side) for side in (1, 18, 19, 28, 29, 32, 36, 48)] == [
        1,
        1,
        2,
        6,
        7,
        8,
        10,
        16,
    ]
