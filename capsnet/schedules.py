"""The learning rate as a function of the step: no state, nothing to save, nothing to restore."""

from __future__ import annotations

import math

from capsnet.config import Cosine, Exponential, MultiStep


def learning_rate(
    optim: MultiStep | Exponential | Cosine, step: int, steps_per_epoch: int, num_epochs: int
) -> float:
    """The learning rate of training step `step`, counted from 0 over all epochs."""
    epoch = step // steps_per_epoch
    match optim:
        case MultiStep():
            return optim.lr * optim.step_decay ** sum(milestone <= epoch for milestone in optim.milestone)
        case Exponential():
            time = step if optim.per == "step" else epoch
            return max(optim.floor, optim.lr * optim.decay ** (time / optim.every))
        case Cosine():
            done = step / (steps_per_epoch * num_epochs)
            return optim.floor + (optim.lr - optim.floor) * (1 + math.cos(math.pi * done)) / 2
