"""Loss and accuracy by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capsnet.figures import sheet
from capsnet.figures.kinds import FigureError
from capsnet.history import Row, best_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {"train": sheet.GREY, "validation": sheet.ORANGE, "test": sheet.BLUE}
ALL = 0.01  # percent: how far beyond 100% the scale would end, which on a logarithm is nowhere
MARKS = (
    (0, 50, 90, 99, 99.9, 100),
    (0, 20, 40, 60, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 100),
    (*range(0, 90, 5), *range(90, 99), 98.4, 98.8, 99, 99.2, 99.4, 99.6, 99.7, 99.8, 99.85, 99.9, 99.95, 100),
)
BEST = "validation/accuracy"  # chooses the best epoch
MARKED = 30  # epochs at most of which each gets a dot


def curve(history: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """The epochs that measured a metric, and what they measured, as far as it is finite."""
    measured = [row for row in history if math.isfinite(row.get(name, math.nan))]
    return [row["epoch"] for row in measured], [row[name] for row in measured]


def draw(history: Sequence[Row], title: str) -> Figure:
    """Two charts side by side, stretched where they end up. FigureError where no epoch has ended yet."""
    if not history:
        raise FigureError("no curves picture: no epoch has ended yet")
    drawn = sheet.figure(900, 380)
    loss, accuracy = drawn.subplots(1, 2)
    drawn.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.8, wspace=0.2)
    for axes, metric, factor in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
        _chart(axes, history, metric, factor)
    _scale_loss(loss)
    _scale_accuracy(accuracy)
    if best := best_row([row for row in history if math.isfinite(row.get(BEST, math.nan))]):
        _mark(accuracy, best)
    if loss.lines:
        loss.legend(frameon=False, fontsize=sheet.TEXT)
    sheet.write(drawn, sheet.MARGIN, sheet.MARGIN + sheet.LINE / 2, title, size=sheet.TEXT + 2)
    return drawn


def _chart(axes: Axes, history: Sequence[Row], metric: str, factor: float) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(history) <= MARKED else ""
    for part, colour in PARTS.items():
        epochs, values = curve(history, f"{part}/{metric}")
        if epochs:
            scaled = [value * factor for value in values]
            axes.plot(epochs, scaled, color=colour, label=part, marker=marker, markersize=3, linewidth=1.5)
    if len(history) == 1:
        axes.set_xlim(history[0]["epoch"] - 0.5, history[0]["epoch"] + 0.5)
    axes.set_xlabel("epoch", size=sheet.TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=sheet.TEXT)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _scale_loss(axes: Axes) -> None:
    """Logarithmic: what a long run gains at its end is a small part of what it gained at first."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not any(np.max(line.get_ydata()) > 0 for line in axes.lines):
        axes.set_title("loss", loc="left", size=sheet.TEXT)  # nothing that has a logarithm
        return
    axes.set_title("loss, logarithmic", loc="left", size=sheet.TEXT)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    digits = range(1, 10) if high < 5 * low else (1, 2, 5) if high < 500 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=tuple(digits)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _scale_accuracy(axes: Axes) -> None:
    """As far from 90% to 99% as from there to 99.9%."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    axes.set_title("accuracy, in %, stretched towards 100", loc="left", size=sheet.TEXT)
    low, high = (float(shrunk(edge)) for edge in _with_margin(axes))
    axes.set_yscale("function", functions=(stretched, shrunk))
    axes.set_ylim(low, high)
    ticks = marks(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))


def _with_margin(axes: Axes) -> tuple[float, float]:
    """The least and the largest value of all lines, stretched, and a little more on both sides."""
    values = [stretched(line.get_ydata()) for line in axes.lines]
    low, high = (min(map(np.min, values)), max(map(np.max, values))) if values else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05
    return max(low - margin, stretched(0.0)), min(high + margin, stretched(100.0))


def stretched(percent):
    """How high a percentage stands: the nearer to 100, the more room."""
    return -np.log10(100 + ALL - np.clip(percent, 0, 100))


def shrunk(height):
    """The percentage at a height."""
    return 100 + ALL - np.power(10.0, -np.asarray(height))


def marks(low: float, high: float) -> list[float]:
    """Round percentages from `low` to `high`: the coarsest ones that are four, or the finest."""
    found: list[float] = []
    for percentages in MARKS:
        found = [mark for mark in percentages if low <= mark <= high]
        if len(found) >= 4:
            break
    return found


def _mark(axes: Axes, best: Row) -> None:
    """The epoch that validation chose."""
    axes.axvline(best["epoch"], color=sheet.ORANGE, linewidth=0.8, linestyle=":")
    axes.annotate(
        f"best on validation: {best['epoch']:.0f}",
        (best["epoch"], 0.02),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        xytext=(-3, 0),
        ha="right",
        size=sheet.TEXT - 1,
        color=sheet.ORANGE,
    )
