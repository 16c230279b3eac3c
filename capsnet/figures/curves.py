"""Loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capsnet.figures import sheet
from capsnet.figures.kinds import FigureError
from capsnet.history import Row, best_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {"train": sheet.GREY, "validation": sheet.ORANGE, "test": sheet.BLUE}
MARKED = 30  # epochs at most of which each gets a dot


def curve(history: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """The epochs that measured a metric, and what they measured."""
    measured = [row for row in history if name in row]
    return [row["epoch"] for row in measured], [row[name] for row in measured]


def draw(history: Sequence[Row], title: str) -> Figure:
    """Two charts side by side. Raises FigureError where no epoch has ended yet."""
    if not history:
        raise FigureError("no curves picture: no epoch has ended yet")
    drawn = sheet.figure(900, 380)
    loss, accuracy = drawn.subplots(1, 2)
    drawn.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.8, wspace=0.2)
    for axes, metric, scale in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
        _chart(axes, history, metric, scale)
    loss.set_title("loss", loc="left", size=sheet.TEXT)
    accuracy.set_title("accuracy, in %", loc="left", size=sheet.TEXT)
    if best := best_row(history):
        _mark(accuracy, best)
    loss.legend(frameon=False, fontsize=sheet.TEXT)
    sheet.write(drawn, sheet.MARGIN, sheet.MARGIN + sheet.LINE / 2, title, size=sheet.TEXT + 2)
    return drawn


def _chart(axes: Axes, history: Sequence[Row], metric: str, scale: float) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(history) <= MARKED else ""
    for part, colour in PARTS.items():
        epochs, values = curve(history, f"{part}/{metric}")
        if epochs:
            scaled = [value * scale for value in values]
            axes.plot(epochs, scaled, color=colour, label=part, marker=marker, markersize=3, linewidth=1.5)
    axes.set_xlabel("epoch", size=sheet.TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=sheet.TEXT)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


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
