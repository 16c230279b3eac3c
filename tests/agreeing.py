"""A routing iteration that keeps all predictions in one tensor: the reference for the faster ones."""

from __future__ import annotations

import torch

from capsnet.agreement import softmax

FLAGS = [(False, False), (False, True), (True, False), (True, True)]  # none of the above, constant couplings


def layer(inputs=7, dim=4, classes=5, class_dim=6, batch=3, dtype=torch.float64):
    """Draw capsules [I, K, B], a weight [J, I·K, D], outputs [J, D, B]; each requires its gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = (inputs, dim, batch), (classes, inputs * dim, class_dim), (classes, class_dim, batch)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def formed(capsules, weight, outputs, none_of_the_above, constant_couplings):
    """Compute one routing iteration with all predictions û in one tensor [J, I, D, B]."""
    predictions = torch.einsum("jikd,ikb->jidb", weight.unflatten(1, capsules.shape[:2]), capsules)
    coupling = softmax(torch.einsum("jidb,jdb->jib", predictions, outputs), none_of_the_above)
    coupling = coupling.detach() if constant_couplings else coupling
    return torch.einsum("jib,jidb->jdb", coupling, predictions)


def with_gradients(function, tensors, flags):
    collected = function(*tensors, *flags)
    upstream = torch.linspace(-1, 1, collected.numel(), dtype=collected.dtype).view_as(collected)
    gradients = torch.autograd.grad(collected, tensors, upstream, allow_unused=True)
    return collected, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)
