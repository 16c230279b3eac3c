"""Rules for the end of a run: after its last epoch, or earlier without a gain on the validation split.

A pure function of the metric history, so that a run which is resumed ends where it would have ended.
Imports no PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

from capsnet.history import Row, best_row


def is_over(history: Sequence[Row], num_epochs: int, allowed: int | None) -> bool:
    """Return whether no epoch is left to train after those of `history`; `allowed` as in `stopped_early`."""
    return len(history) >= num_epochs or stopped_early(history, num_epochs, allowed) is not None


def stopped_early(history: Sequence[Row], num_epochs: int, allowed: int | None) -> str | None:
    """Return why training ends before epoch `num_epochs`, in one line; None where it does not.

    `allowed`: stop_after_epochs_without_gain. A gain is a higher accuracy on the validation split than in
    every epoch before.
    """
    best = best_row(history)
    if allowed is None or best is None or len(history) >= num_epochs:
        return None
    last, highest = int(history[-1]["epoch"]), int(best["epoch"])
    if last - highest < allowed:
        return None
    return (
        f"stopped early after epoch {last} of {num_epochs}: "
        f"no gain on the validation split since epoch {highest}"
    )
