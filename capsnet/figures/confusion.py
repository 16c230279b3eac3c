"""How often each class is taken for each other one.

Letters of shapes: J classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from capsnet import evaluation
from capsnet.config import Config
from capsnet.figures import sheet
from capsnet.figures.subject import accuracy
from capsnet.images import Images, shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 30  # classes at most: more would leave no room for the counts
SIDE = 42  # pixels of a cell with its count
UNNUMBERED = 720  # pixels of all cells without


def picture(config: Config, test: Images, answers: torch.Tensor) -> Figure:
    """Of the test images and what they are taken for."""
    counts = evaluation.confusion(test.labels.cpu(), answers, shape(config.dataset).classes)
    return draw(counts, accuracy(test.labels, answers))


def draw(counts: torch.Tensor, title: str) -> Figure:
    """Counts int64 [J, J], rows the labels, columns the answers, as shares of their row in colour."""
    classes = len(counts)
    left, top, extent = 70, 60, SIDE * classes if classes <= NUMBERED else UNNUMBERED
    width, height = left + extent + 2 * sheet.MARGIN, top + extent + 60
    drawn = sheet.figure(width, height)
    axes = drawn.add_axes((left / width, 60 / height, extent / width, extent / height))
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    # The root: most mistakes are few in a hundred, and would all look like none.
    axes.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1.15)
    if classes <= NUMBERED:
        _number(axes, counts, shares)
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
    axes.tick_params(length=0, labelsize=sheet.TEXT)
    for spine in axes.spines.values():
        spine.set_color(sheet.GREY)
    axes.set_xlabel("answer", size=sheet.TEXT)
    axes.set_ylabel("label", size=sheet.TEXT)
    sheet.write(drawn, sheet.MARGIN, sheet.MARGIN + sheet.LINE / 2, title, size=sheet.TEXT + 2)
    return drawn


def _number(axes: Axes, counts: torch.Tensor, shares: torch.Tensor) -> None:
    for row, column in counts.nonzero().tolist():
        colour = "white" if shares[row, column].sqrt() > 0.6 else sheet.BLACK
        axes.text(
            column,
            row,
            f"{int(counts[row, column])}",
            ha="center",
            va="center",
            color=colour,
            size=sheet.TEXT,
        )
