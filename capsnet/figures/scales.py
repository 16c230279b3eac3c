"""Axes that a person reads: round numbers on logarithms, whole epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENOUGH, FEWEST, MOST = 4, 3, 10  # ticks on a logarithm, where round numbers allow it
EPOCHS = 8  # ticks of epochs at most
BELOW = 3.0  # how many times a zero lies below the smallest positive number
TINY, HUGE = 1e-300, 1e300  # between them an axis has room for margins
STEPS = ((1,), (1, 2, 5), (1, 2, 3, 5, 7), (1, 2, 3, 4, 5, 6, 7, 8, 9))  # within a decade, the coarsest first


def epochs(first: int, last: int) -> list[int]:
    """Round epochs from `first` to `last`, the first among them: 1, 5, 10, 15."""
    step = _step((last - first + 1) / EPOCHS)
    round_ones = range(step * (first // step + 1), last + 1, step)
    return [first, *(epoch for epoch in round_ones if epoch - first > step / 2 or step == 1)]


def _step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that is no less than `least`."""
    power = 10 ** math.floor(math.log10(max(least, 1)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def marks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high` on a logarithm, or evenly spaced ones where that leaves too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in STEPS:
        all_ = [float(f"{step}e{decade}") for decade in decades for step in steps]
        found = [mark for mark in all_ if low <= mark <= high]
        if len(found) >= ENOUGH:
            break
    if len(found) < FEWEST:
        return _evenly(low, high)
    return found[:: math.ceil(len(found) / MOST)]


def _evenly(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(mark) for mark in found if low <= mark <= high]


def with_epochs(axes: Axes, first: int, last: int) -> None:
    """Let the axis go from the first epoch to the last, with whole epochs marked."""
    beyond = 0.5 if first == last else 0.02 * (last - first)
    axes.set_xlim(first - beyond, last + beyond)
    axes.set_xticks(epochs(first, last))


def with_logarithm(axes: Axes, values: Sequence[float]) -> float | None:
    """Make the vertical axis of these values logarithmic; return the height of zero, which is marked "0".

    None: nothing is positive, or something has no logarithm, and the axis stays as it is.
    """
    positive = [value for value in values if value > 0]
    if not positive or min(values) < 0 or min(positive) < TINY:
        return None
    least, most = min(positive), max(positive)
    zero = least / BELOW
    low = zero if 0 in values else least
    margin = max((most / low) ** 0.05, 1.02)
    low, high = low / margin, most * margin
    ticks = {mark: f"{mark:g}" for mark in marks(least / margin if low < zero else low, high)}
    if low < zero:
        ticks = {zero: "0"} | ticks
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_yticks([], minor=True)
    return zero


def raised(values: Iterable[float], zero: float | None) -> list[float]:
    """Replace zeros by the height at which they are drawn."""
    return [value if value or zero is None else zero for value in values]
