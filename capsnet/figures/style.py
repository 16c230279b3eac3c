"""The measures, colours and headings of all pictures: made for the columns of a paper, at print size."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capsnet.figures.kinds import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = DPI["png"]  # in an inch: of a PNG they are the pixels

# Inches, of whole dots. Most two-column papers have columns of 3.25 to 3.5 and a text width of 6.75 to 7.2.
COLUMN = 3.3
PAGE = 6.8
MARGIN = 0.08  # around everything
PAD = 0.04  # above and below a chart

# Points, as printed.
TITLE, TEXT, SMALL = 9.0, 8.0, 7.0
LEADING = 1.35  # from one line of text to the next, in sizes of its letters
POINTS = 72  # in an inch
WHOLE_PIXELS = 1.05  # how much wider the letters of a PNG may be than in print

BLACK, GREY, PALE = "#000000", "#5c5c5c", "#cfcfcf"
# Of Okabe and Ito's colours, which are told apart with any colour vision.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, BLACK, "#999999")  # one each, in this order


@dataclass(frozen=True)
class Line:
    """A line of a heading."""

    text: str
    size: float  # points
    colour: str


@dataclass(frozen=True)
class Page:
    """A figure with its heading, and the body below it that is still empty."""

    figure: Figure
    body: float  # the share of the figure's height that is not the heading's


def page(width: float, height: float, title: str, origin: str) -> Page:
    """An empty figure of `width` inches, with a heading above a body of `height` inches.

    The heading has the title and, smaller, what the picture is of; both are wrapped, never cut.
    """
    from matplotlib.figure import Figure

    lines = [*_lines(title, TITLE, BLACK, width), *_lines(origin, SMALL, GREY, width)]
    head = MARGIN + sum(map(_height, lines))
    hair = 0.01 / DOTS  # a size in pixels is rounded down
    figure = Figure(figsize=(width + hair, head + height + hair), dpi=DOTS, facecolor="white")
    top = MARGIN
    for line in lines:
        write(figure, MARGIN, top + _height(line) / 2, line.text, colour=line.colour, size=line.size)
        top += _height(line)
    return Page(figure, height / (head + height))


def chart(width: float, height: float, title: str, origin: str) -> Figure:
    """A page whose body matplotlib lays out: labels and ticks never overlap or leave the figure."""
    drawn = page(width, height, title, origin)
    figure = drawn.figure
    figure.set_layout_engine("constrained", rect=(0, 0, 1, drawn.body), w_pad=MARGIN, h_pad=PAD)
    return figure


def _lines(text: str, size: float, colour: str, width: float) -> list[Line]:
    parts = wrapped(text, width - 2 * MARGIN, lambda part: text_width(part, size))
    return [Line(part, size, colour) for part in parts]


def _height(line: Line) -> float:
    """Inches that a line takes, of whole dots."""
    return math.ceil(line.size * LEADING / POINTS * DOTS) / DOTS


def write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    align: str = "left",
    colour: str = BLACK,
    size: float = TEXT,
    weight: str = "normal",
) -> None:
    """Write at inches from the top left; `y` is the middle of the line."""
    drawn = figure.text(
        x / figure.get_figwidth(),
        1 - y / figure.get_figheight(),
        text,
        ha=align,
        va="center_baseline",
        color=colour,
        size=size,
        weight=weight,
        parse_math=False,  # the name of a folder may have dollars
    )
    drawn.set_in_layout(False)


def text_width(text: str, size: float = TEXT) -> float:
    """Inches that a text takes at most in the font of all pictures."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return WHOLE_PIXELS * width / POINTS


def wrapped(text: str, room: float, measure: Callable[[str], float]) -> list[str]:
    """A text in lines of at most `room` by `measure`, broken at spaces and in words that are too long."""
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
            continue
        while measure(word) > room and len(word) > 1:
            cuts = range(1, len(word))
            cut = max(1, bisect_right(cuts, room, key=lambda cut, word=word: measure(word[:cut])))
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines
