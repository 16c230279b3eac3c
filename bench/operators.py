"""Counts of floating-point operations of capsnet's own operators, which PyTorch's counter cannot analyse."""

from __future__ import annotations

import math
from typing import Any

import torch

from capsnet import agreement, convolution  # noqa: F401 - it registers its operators

Shape = tuple[int, ...]


def _convolve(features: Shape, weight: Shape, out_shape: Shape) -> int:
    batch, _, rows, columns = out_shape
    return 2 * batch * rows * columns * math.prod(weight)


def _convolve_backward(gradient: Shape, features: Shape, weight: Shape, **_: Any) -> int:
    return 2 * _convolve(features, weight, gradient)


def _collect(capsules: Shape, weight: Shape, outputs: Shape, *_: Any, **__: Any) -> int:
    """Two products with all of the weight; one where the predictions themselves are made."""
    return (1 if agreement.forms_predictions() else 2) * 2 * math.prod(weight) * outputs[-1]


def _collect_backward(
    gradient: Shape,
    capsules: Shape,
    weight: Shape,
    outputs: Shape,
    _: bool,
    constant_couplings: bool,
    **__: Any,
) -> int:
    """Three, one of which is made again; two more where a gradient flows through the couplings, which
    predictions that are made do not need.
    """
    products = 3 if constant_couplings or agreement.forms_predictions() else 5
    return products * 2 * math.prod(weight) * gradient[-1]


FORMULAS = {
    torch.ops.capsnet.convolve: _convolve,
    torch.ops.capsnet.convolve_backward: _convolve_backward,
    torch.ops.capsnet.collect: _collect,
    torch.ops.capsnet.collect_backward: _collect_backward,
}
