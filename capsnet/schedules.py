"""The learning rate as a function of the step: no state, nothing to save, nothing to restore."""

from __future__ import annotations

import math

from capsnet.config import (
    Config,
    CosineSchedule,
    ExponentialSchedule,
    MultiStepSchedule,
    Optim,
    Schedule,
)


def learning_rate(optim: Optim, step: int, steps_per_epoch: int, num_epochs: int) -> float:
    """Return the learning rate of training step `step`, counted from 0 over all epochs."""
    return _warmed(optim, step, steps_per_epoch) * _scheduled(optim, step, steps_per_epoch, num_epochs)


def _warmed(optim: Schedule, step: int, steps_per_epoch: int) -> float:
    """Return the factor of the scheduled rate: in warm-up it rises in even steps to 1 at the last of them.

    So a rate may be below its schedule's floor in warm-up.
    """
    steps = optim.warmup_epochs * steps_per_epoch
    return (step + 1) / steps if step + 1 < steps else 1.0


def _scheduled(optim: Optim, step: int, steps_per_epoch: int, num_epochs: int) -> float:
    epoch = step // steps_per_epoch
    match optim:
        case MultiStepSchedule():
            return optim.lr * optim.step_decay ** sum(milestone <= epoch for milestone in optim.milestone)
        case ExponentialSchedule():
            time = step if optim.per == "step" else epoch
            return max(optim.floor, optim.lr * optim.decay ** (time / optim.every))
        case CosineSchedule():
            done = step / (steps_per_epoch * num_epochs)
            return optim.floor + (optim.lr - optim.floor) * (1 + math.cos(math.pi * done)) / 2


def stretched(before: Config, now: Config, step: int, steps_per_epoch: int) -> str | None:
    """Return a warning when a run goes on with step `step` under another number of epochs; None without.

    A cosine spans all epochs, so that extending a run that has finished raises the rate again.
    """
    if not (isinstance(before.optim, CosineSchedule) and isinstance(now.optim, CosineSchedule)):
        return None
    if before.num_epochs == now.num_epochs or step >= now.num_epochs * steps_per_epoch:
        return None
    old, new = (learning_rate(each.optim, step, steps_per_epoch, each.num_epochs) for each in (before, now))
    return (
        f"num_epochs was {before.num_epochs} and is now {now.num_epochs}, and the cosine spans all epochs: "
        f"the learning rate goes on from {new:.3g} instead of {old:.3g}"
    )
