"""The primary capsules' convolution, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from capsnet import convolution
from capsnet.convolution import convolve, convolve_backward, primary_convolution

pytestmark = pytest.mark.usefixtures("one_thread")

FORMATS = [torch.contiguous_format, torch.channels_last]


def operands(height=9, width=8, side=3, dtype=torch.float64, memory_format=torch.channels_last):
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 5, height, width), (6, 5, side, side)
    features, weight = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return [each.to(memory_format=memory_format).requires_grad_() for each in (features, weight)]


def with_gradients(function, tensors):
    outputs = function(*tensors)
    upstream = torch.linspace(-1, 1, outputs.numel()).view(outputs.shape).to(outputs.dtype)
    return outputs, *torch.autograd.grad(outputs, tensors, upstream)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("height", "width", "side"), [(9, 8, 3), (9, 9, 9), (20, 21, 9), (5, 6, 1)])
def test_outputs_and_gradients_are_those_of_pytorch(height, width, side, memory_format):
    tensors = operands(height, width, side, memory_format=memory_format)
    expected = with_gradients(lambda features, weight: F.conv2d(features, weight, stride=2), tensors)
    for found, wanted in zip(with_gradients(convolve, tensors), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # PyTorch's own tester
@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_operator_tells_pytorch_the_truth_about_itself(memory_format):
    torch.library.opcheck(convolve, tuple(operands(memory_format=memory_format)))


@pytest.mark.parametrize("of_features", FORMATS)
@pytest.mark.parametrize("of_weight", FORMATS)
def test_gradients_lie_in_memory_as_pytorchs_compiler_is_told(of_features, of_weight):
    features, weight = (each.detach() for each in operands())
    given = features.contiguous(memory_format=of_features), weight.contiguous(memory_format=of_weight)
    gradient = torch.ones_like(convolve(*given))
    with FakeTensorMode() as mode:
        told = convolve_backward(*(mode.from_tensor(each) for each in (gradient, *given)))
    found = convolve_backward(gradient, *given)
    assert [each.stride() for each in told] == [each.stride() for each in found]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "side"), [(24, 24, 9), (9, 8, 3), (7, 5, 4), (4, 6, 2), (6, 6, 1)]
)
def test_padded_it_steps_over_each_second_pixel_with_the_gradients_of_float64(height, width, side, half):
    """By a window of zeros that was written out: as many before as behind, or one more behind."""
    tensors = operands(height, width, side, dtype=torch.float32)

    def slowly(features, weight):
        steps = [(size + 1) // 2 for size in (height, width)]
        needed = [
            max(2 * (count - 1) + side - size, 0) for count, size in zip(steps, (height, width), strict=True)
        ]
        frame = torch.zeros(4, 5, height + needed[0], width + needed[1], dtype=torch.float64)
        top, left = needed[0] // 2, needed[1] // 2
        frame[:, :, top : top + height, left : left + width] = features
        windows = frame.unfold(2, side, 2).unfold(3, side, 2)
        assert windows.shape[2:4] == tuple(steps)
        return torch.einsum("bchwij,ocij->bohw", windows, weight)

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = with_gradients(lambda f, w: primary_convolution(f, w, same=True), tensors)
    expected = with_gradients(slowly, [each.detach().double().requires_grad_() for each in tensors])
    bound = 1e-2 if half else 1e-5
    for one, wanted in zip(found, expected, strict=True):
        assert (one.double() - wanted).norm() / wanted.norm() < bound


@pytest.mark.parametrize("half", [False, True])
def test_the_products_are_taken_in_bfloat16_only(half, monkeypatch):
    taken: list[torch.dtype] = []
    monkeypatch.setattr(convolution, "convolve", lambda f, w: taken.append(f.dtype) or convolve(f, w))
    tensors = operands(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        outputs, *gradients = with_gradients(primary_convolution, tensors)
    assert taken == ([torch.bfloat16] if half else [])
    expected = with_gradients(lambda f, w: F.conv2d(f, w, stride=2), [each.double() for each in tensors])
    bound = 1e-2 if half else 1e-5
    for found, wanted in zip((outputs, *gradients), expected, strict=True):
        assert (found.double() - wanted).norm() / wanted.norm() < bound
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 2


@pytest.mark.parametrize("height", [1, 2, 12])
def test_an_output_of_width_1_is_right_in_bfloat16_too(height):
    """The kernels of oneDNN for AMX are wrong there."""
    features = torch.randn(3, 8, 2 * (height - 1) + 7, 7, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(16, 8, 7, 7, generator=torch.Generator().manual_seed(1)) / 20
    with torch.autocast("cpu", torch.bfloat16):
        outputs = primary_convolution(features, weight)
    torch.testing.assert_close(outputs.float(), primary_convolution(features, weight), rtol=0.05, atol=0.05)
