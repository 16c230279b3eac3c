"""Tables as cells of colours, with numbers in them where there is room, and a bar that explains the colours.

Letters of shapes: R rows, N columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from capsnet.figures import style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Normalize

Cell = tuple[int, int]  # row and column


def cells(
    axes: Axes, values: np.ndarray, colours: str, scale: Normalize, *, outlined: bool = True
) -> QuadMesh:
    """Draw values [R, N], the first row on top; cells without an outline, which are many, as pixels."""
    mesh = axes.pcolormesh(
        values,
        cmap=colours,
        norm=scale,
        edgecolors="white" if outlined else "none",
        linewidth=0.5,
        rasterized=not outlined,
    )
    axes.invert_yaxis()
    axes.tick_params(length=0, labelsize=style.SMALL)
    axes.spines[:].set_visible(False)
    return mesh


def number(axes: Axes, texts: Mapping[Cell, str], colours: Mapping[Cell, str]) -> None:
    """Write texts into the middle of their cells."""
    for (row, column), text in texts.items():
        colour = colours[row, column]
        middle = column + 0.5, row + 0.5
        axes.text(*middle, text, ha="center", va="center_baseline", color=colour, size=style.SMALL)


def name(axes: Axes, rows: Mapping[int, str], columns: Mapping[int, str]) -> None:
    """Write what rows and columns are called, by their numbers, beside and below them."""
    axes.set_yticks([row + 0.5 for row in rows], list(rows.values()))
    axes.set_xticks([column + 0.5 for column in columns], list(columns.values()))


def explain(
    axes: Axes,
    mesh: QuadMesh,
    words: str,
    location: Literal["right", "bottom"],
    ticks: Iterable[float] | None = None,
    **measures: Any,
) -> Colorbar:
    """Add the bar of the colours; `ticks`: as matplotlib chooses, if not given."""
    bar = axes.figure.colorbar(mesh, ax=axes, location=location, **measures)
    bar.set_label(words, size=style.TEXT)
    if ticks is not None:
        ticks = list(ticks)
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.tick_params(labelsize=style.SMALL)
    bar.ax.spines["outline"].set_visible(False)
    return bar
