"""The legend below charts: lines and what they stand for, in as many columns as the page has room for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from capsnet.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = 0.18  # inches of a line of text
ROOM = style.PAGE - 2 * style.MARGIN  # inches across
HANDLE = 0.5  # inches that an entry takes beside its text
PADDING = 0.35  # around all entries, in sizes of letters

Dashes = Literal["--", ":", "-"]


@dataclass(frozen=True)
class Entry:
    """A line of charts, and what it stands for."""

    text: str
    colour: str
    dashes: Dashes

    @property
    def lines(self) -> list[str]:
        """The text, broken where it is wider than the page."""
        return style.wrapped(self.text, ROOM - HANDLE, style.text_width)


def height(entries: Sequence[Entry]) -> float:
    """Inches that the legend takes."""
    columns = _columns(entries)
    lines = math.ceil(len(entries) / columns) if columns > 1 else sum(len(entry.lines) for entry in entries)
    return LINE * lines


def _columns(entries: Sequence[Entry]) -> int:
    if any(len(entry.lines) > 1 for entry in entries):
        return 1
    widest = max((style.text_width(entry.text) for entry in entries), default=0) + HANDLE
    return max(1, min(len(entries), math.floor(ROOM / widest)))


def add(figure: Figure, entries: Sequence[Entry]) -> None:
    """Put the legend at the bottom of a figure that matplotlib lays out."""
    from matplotlib.lines import Line2D

    drawn = figure.legend(
        [Line2D([], [], color=entry.colour, linestyle=entry.dashes, linewidth=1.4) for entry in entries],
        [""] * len(entries),
        loc="outside lower left",
        ncols=_columns(entries),
        frameon=False,
        fontsize=style.TEXT,
        handlelength=2.2,
        borderpad=PADDING,
        borderaxespad=style.MARGIN * style.POINTS / style.TEXT - PADDING,
        labelspacing=0.3,
    )
    for text, entry in zip(drawn.get_texts(), entries, strict=True):
        text.set_parse_math(False)  # a run may be called by anything: dollars, a leading underscore
        text.set_text("\n".join(entry.lines))
