"""The convolution of the primary capsules, in which nine tenths of a training step's arithmetic lie.

Letters of shapes: B batch, C input channels, O output channels, H height, W width, h and w those of the
output, S side of the kernel.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from capsnet.geometry import PRIMARY_STRIDE, Window


def primary_convolution(features: torch.Tensor, weight: torch.Tensor, same: bool = False) -> torch.Tensor:
    """Features [B, C, H, W], weight [O, C, S, S] -> [B, O, h, w], with the stride of primary capsules.

    `same`: zeros around the features make h half of H, and w of W, rounded up.
    """
    if same:
        features = _framed(features, Window(weight.shape[-1], PRIMARY_STRIDE, same=True))
    device = features.device.type
    if device != "cpu" or not torch.is_autocast_enabled(device):
        return F.conv2d(features, weight, stride=PRIMARY_STRIDE)
    if features.shape[3] < weight.shape[3] + PRIMARY_STRIDE:  # an output of width 1
        with _full_precision():
            return F.conv2d(features.to(weight.dtype), weight, stride=PRIMARY_STRIDE)
    half = torch.get_autocast_dtype(device)
    return convolve(features.to(half), weight.to(half))


def convolved(layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Apply a convolution, or a transposed one, to features [B, C, H, W].

    It is computed in full precision on a CPU where a map has width 1.
    """
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    is_transposed = isinstance(layer, nn.ConvTranspose2d)
    narrow = 1 if is_transposed else layer.kernel_size[1] + layer.stride[1] - 1
    if features.shape[3] > narrow or features.device.type != "cpu":
        return layer(features)
    with _full_precision():
        return layer(features.to(layer.weight.dtype))


def _full_precision() -> torch.autocast:
    """Turn autocast off for a `with` block: for strided convolutions to, or from, maps of width 1 on a CPU.

    The bfloat16 kernels of oneDNN for AMX sum these wrongly, and read memory that nothing was written to
    (seen with PyTorch 2.15, height 2 and more, stride 2).
    """
    return torch.autocast("cpu", enabled=False)


def _framed(features: torch.Tensor, window: Window) -> torch.Tensor:
    """Features with the zeros that a window has around them.

    These go before the convolution, which has as many on both sides: where their number is odd, the one more
    goes below and to the right.
    """
    (top, bottom), (left, right) = map(window.zeros, features.shape[2:])
    return F.pad(features, (left, right, top, bottom))


@torch.library.custom_op("capsnet::convolve", mutates_args=())
def convolve(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The convolution as PyTorch computes it, but that its gradients are those of `convolve_backward`."""
    return F.conv2d(features, weight, stride=PRIMARY_STRIDE)


@convolve.register_fake
def _(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(features, weight, stride=PRIMARY_STRIDE)


@torch.library.custom_op("capsnet::convolve_backward", mutates_args=())
def convolve_backward(
    gradient: torch.Tensor, features: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of features and weight from that of the output [B, O, h, w].

    The weight's is made of a matrix product for each of the kernel's S² places, whose factors fit into the
    cache. With 9×9 places and 256 channels in bfloat16 that takes 0.6 times as long as PyTorch's own gradient
    (2.15 on a Zen 5); in float32 it would take longer.
    """
    of_features, _, _ = torch.ops.aten.convolution_backward(
        gradient,
        features,
        weight,
        None,
        [PRIMARY_STRIDE] * 2,
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, False, False],
    )
    rows, columns = (PRIMARY_STRIDE * side for side in gradient.shape[2:])
    outputs = gradient.permute(1, 0, 2, 3).flatten(1).contiguous()  # [O, B·h·w]
    inputs = features.permute(0, 2, 3, 1)
    of_weight = torch.empty_like(weight, memory_format=torch.channels_last)
    for row, column in itertools.product(*map(range, weight.shape[2:])):
        under = inputs[:, row : row + rows : PRIMARY_STRIDE, column : column + columns : PRIMARY_STRIDE]
        of_weight[:, :, row, column] = outputs @ under.flatten(0, 2)
    return of_features.contiguous(memory_format=torch.channels_last), of_weight


@convolve_backward.register_fake
def _(
    gradient: torch.Tensor, features: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    last = torch.channels_last
    return torch.empty_like(features, memory_format=last), torch.empty_like(weight, memory_format=last)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return convolve_backward(gradient, *ctx.saved_tensors)


convolve.register_autograd(_backward, setup_context=_keep)
