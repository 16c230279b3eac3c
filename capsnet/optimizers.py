"""Optimizers by the name in the YAML, and the length that a gradient may have."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from capsnet.config import SGD, Adam, AdamW, Optim

Parameters = Iterable[torch.nn.Parameter]


def optimizer(settings: Optim, parameters: Parameters, device: str) -> torch.optim.Optimizer:
    """Make the optimizer of `settings`; on CUDA one whose step can be recorded in a graph.

    Then the learning rate lies on the device, too.
    """
    on_device = device == "cuda"
    lr = torch.tensor(settings.lr, device=device) if on_device else settings.lr
    decay = settings.weight_decay
    match settings:
        case Adam() | AdamW():
            make = torch.optim.Adam if isinstance(settings, Adam) else torch.optim.AdamW
            return make(
                parameters,
                lr,
                eps=settings.epsilon,
                weight_decay=decay,
                fused=True,
                capturable=on_device,
            )
        case SGD():
            return torch.optim.SGD(parameters, lr, settings.momentum, weight_decay=decay, fused=True)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Go on from the moments in a saved `state`, by the optimizer's own settings and not by those of then.

    A resume may have set the learning rate or the weight decay anew, and where the rate lies depends on the
    device.
    """
    settings = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, wherever it lies."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip(parameters: Parameters, norm: float | None) -> None:
    """Shorten the gradient of all parameters together to the length `norm` (L2) where it is longer."""
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
