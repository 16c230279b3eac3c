"""Picture of the confusion of classes: the errors in colour, the right answers in grey.

Letters of shapes: J classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from capsnet import evaluation
from capsnet.figures import heat, style
from capsnet.figures.subject import Subject, accuracy
from capsnet.images import Images, shape

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW = 10  # classes at most on the width of a column
NUMBERED = 30  # classes at most that get their counts
BESIDE = 0.45  # inches that labels and margins take of the width
BELOW = 0.85  # inches for the numbers of the answers and the colour bar
RIGHT = "#e4e4e4"  # the ground of the diagonal
DARK = 0.65  # of the scale: above it black numbers could not be read
SHARE_OF_NONE = 1.0  # percent: where the scale ends if there are no errors


def picture(subject: Subject, test: Images, answers: torch.Tensor) -> Figure:
    """Draw the confusion of test images, by their labels and predicted classes."""
    counts = evaluation.confusion(test.labels.cpu(), answers, shape(subject.config.dataset).classes)
    return draw(counts, accuracy(test.labels, answers), subject.origin)


def errors(counts: torch.Tensor) -> torch.Tensor:
    """Counts int64 [J, J] -> the shares [J, J] of each label's images, in percent; none on the diagonal."""
    shares = 100 * counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return shares.fill_diagonal_(0)


def draw(counts: torch.Tensor, title: str, origin: str) -> Figure:
    """Draw counts int64 [J, J], rows the labels, columns the answers."""
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    classes, shares = len(counts), errors(counts)
    width = style.COLUMN if classes <= NARROW and _fits(counts, style.COLUMN) else style.PAGE
    numbered = classes <= NUMBERED and _fits(counts, width)
    figure = style.chart(width, width - BESIDE + BELOW, title, origin)
    axes = figure.subplots()
    scale = Normalize(0, float(shares.max()) or SHARE_OF_NONE)
    drawn = torch.where(shares > 0, shares, torch.nan)  # no error at all is white, whatever the scale
    mesh = heat.cells(axes, drawn.numpy(), "YlOrRd", scale, outlined=numbered)
    axes.set_aspect("equal")
    for cell in range(classes):
        ground = Rectangle((cell, cell), 1, 1, facecolor=RIGHT, edgecolor="white", linewidth=0.5)
        axes.add_patch(ground)
    if numbered:
        _number(axes, counts, shares.numpy() / scale.vmax)
    ticks = {number: str(number) for number in (range(classes) if numbered else _round_ones(classes))}
    heat.name(axes, ticks, ticks)
    axes.set_xlabel("answer", size=style.TEXT)
    axes.set_ylabel("label", size=style.TEXT)
    words = "errors, % of the images of a label"
    heat.explain(axes, mesh, words, "bottom", fraction=0.04, pad=0.02, aspect=30)
    return figure


def _fits(counts: torch.Tensor, width: float) -> bool:
    """Return whether the largest count is no wider than its cell."""
    cell = (width - BESIDE) / len(counts)
    return style.text_width(str(int(counts.max())), style.SMALL) < 0.95 * cell


def _number(axes: Axes, counts: torch.Tensor, heights: np.ndarray) -> None:
    """Write the counts that are not zero; `heights` [J, J]: from 0 to 1 on the scale of colours."""
    cells = [(row, column) for row, column in counts.nonzero().tolist()]
    colours = {
        cell: style.GREY if cell[0] == cell[1] else "white" if heights[cell] > DARK else style.BLACK
        for cell in cells
    }
    heat.number(axes, {cell: str(int(counts[cell])) for cell in cells}, colours)


def _round_ones(classes: int) -> list[int]:
    """Return round ones among the numbers of so many classes."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(8, integer=True).tick_values(0, classes - 1)
    return [int(number) for number in found if 0 <= number < classes]
