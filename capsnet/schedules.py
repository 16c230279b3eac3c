"""The learning rate as a function of the step: no state, nothing to save, nothing to restore."""

from __future__ import annotations

import math

from capsnet.config import Config, Cosine, Exponential, MultiStep


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


def stretched(before: Config, now: Config, step: int, steps_per_epoch: int) -> str | None:
    """What to warn of when a run goes on with step `step` under another number of epochs; None: of nothing.

    A cosine spans all epochs, so that extending a run that has finished raises the rate again.
    """
    if not (isinstance(before.optim, Cosine) and isinstance(now.optim, Cosine)):
        return None
    if before.num_epochs == now.num_epochs or step >= now.num_epochs * steps_per_epoch:
        return None
    old, new = (learning_rate(each.optim, step, steps_per_epoch, each.num_epochs) for each in (before, now))
    return (
        f"num_epochs was {before.num_epochs} and is now {now.num_epochs}, and the cosine spans all epochs: "
        f"the learning rate goes on from {new:.3g} instead of {old:.3g}"
    )
