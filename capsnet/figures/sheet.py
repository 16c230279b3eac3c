"""Sheets of small images with labels, pixel for pixel.

Sheets are measured in dots, 150 to an inch, which are the pixels of a PNG: an image is magnified by a whole
number, so that each of its pixels is a square of whole dots.

Letters of shapes: R rows, N columns, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from capsnet.figures import style
from capsnet.figures.style import DOTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = 23  # dots from one line of text to the next
MARGIN = round(style.MARGIN * DOTS)
GAP = 3  # dots between images
APART = 9  # dots between a name and its row
LEAST, CELL = 24, 90  # dots: the least and the most that an image may have a side
TALLEST = 1200  # dots: the most that the rows of a block take together, as far as that leaves them the least
COLUMNS = 12  # at most, side by side; more go below

Pieces = Sequence[tuple[str, str]]  # words and their colours
Label = str | Pieces


@dataclass(frozen=True)
class Block:
    """A part of a sheet: a grid of images [R][N, C, H, W], lines of text above it, a name for each row."""

    rows: Sequence[tuple[str, torch.Tensor]]
    captions: Sequence[tuple[str, Sequence[Label]]] = ()  # a name, and one label for each column
    title: str = ""

    @property
    def columns(self) -> int:
        return len(self.rows[0][1])

    def strips(self, most: int) -> Iterator[Block]:
        """Split into blocks of at most so many columns, to go one below the other."""
        count = math.ceil(self.columns / most)
        each = math.ceil(self.columns / count)
        for start in range(0, self.columns, each):
            part = slice(start, start + each)
            yield replace(
                self,
                rows=[(name, images[part]) for name, images in self.rows],
                captions=[(name, labels[part]) for name, labels in self.captions],
                title="" if start else self.title,
            )


@dataclass(frozen=True)
class Layout:
    """The places of the images of all blocks, in dots."""

    left: int  # of the first column
    side: int  # of an image, at most
    width: int  # of an image
    across: int  # from one column to the next; images stand in the middle of theirs

    @property
    def inset(self) -> int:
        """Dots from the left of a column to its image."""
        return (self.across - GAP - self.width) // 2

    def right(self, columns: int) -> int:
        """The right edge of the last of so many columns."""
        return self.left + columns * self.across - GAP


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Images [..., C, H, W], uint8 or from 0 to 1 -> float [..., 3, H, W] as they are shown.

    Three channels are colours; of any other number the first one is shown in grey, such as the left
    camera's of two.
    """
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float().clamp(0, 1)
    if images.shape[-3] == 3:
        return images
    return images[..., :1, :, :].expand(*images.shape[:-3], 3, *images.shape[-2:])


def zoomed(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images [N, C, H, W] -> uint8 [N, h, w, 3] of at most `side` pixels a side.

    They are magnified by a whole number, so that a pixel stays a square, or made smaller.
    """
    images = pixels(images)
    longest = max(images.shape[-2:])
    if longest > side:
        images = F.interpolate(images, scale_factor=side / longest, mode="bilinear", antialias=True)
    else:
        times = side // longest
        images = images.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def mosaic(rows: Sequence[torch.Tensor], across: int) -> np.ndarray:
    """Rows of zoomed images uint8 [N, h, w, 3] as one picture [.., .., 3], white between them.

    `across`: dots from one column to the next.
    """
    count, height, width = rows[0].shape[:3]
    down = height + GAP
    picture = np.full((len(rows) * down - GAP, (count - 1) * across + width, 3), 255, dtype=np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images.numpy()):
            top, left = row * down, column * across
            picture[top : top + height, left : left + width] = image
    return picture


def draw(blocks: Sequence[Block], title: str, origin: str, note: str = "") -> Figure:
    """The blocks, one below the other, their columns beneath each other; `note`: a line below them."""
    blocks, layout = laid_out(blocks)
    pictures = [
        mosaic([zoomed(images, layout.side) for _, images in block.rows], layout.across) for block in blocks
    ]
    heights = [
        _head(block) + picture.shape[0] + LINE for block, picture in zip(blocks, pictures, strict=True)
    ]
    body = MARGIN + sum(heights) - LINE + MARGIN + (LINE if note else 0)
    right = layout.right(max(block.columns for block in blocks)) + MARGIN
    width = max(right, _dots(note, style.SMALL) + 2 * MARGIN, round(style.COLUMN * DOTS))
    page = style.page(width / DOTS, body / DOTS, title, origin)
    total = page.figure.get_figheight() * DOTS
    top = total - body + MARGIN
    for block, picture, height in zip(blocks, pictures, heights, strict=True):
        _place(page.figure, block, picture, layout, top)
        top += height
    if note:
        below = (total - LINE / 2 - MARGIN / 2) / DOTS
        style.write(page.figure, style.MARGIN, below, note, colour=style.GREY, size=style.SMALL)
    return page.figure


def laid_out(blocks: Sequence[Block]) -> tuple[list[Block], Layout]:
    """The blocks with no more columns than a page has room for, and where their images lie.

    Images are as large as fits; labels that are wider move the columns apart.
    """
    words = [name for block in blocks for name, _ in (*block.rows, *block.captions)]
    left = MARGIN + (APART + max(map(_dots, words)) if any(words) else 0)
    room = round(style.PAGE * DOTS) - left - MARGIN + GAP
    labels = [label for block in blocks for _, labels in block.captions for label in labels]
    widest = max(map(_label_dots, labels), default=0) + GAP
    strips = [strip for block in blocks for strip in block.strips(max(1, min(COLUMNS, room // widest)))]
    columns = max(strip.columns for strip in strips)
    rows = max(len(strip.rows) for strip in strips)
    side = max(LEAST, min(CELL, room // columns - GAP, (TALLEST + GAP) // rows - GAP))
    width = zoomed(blocks[0].rows[0][1][:1], side).shape[2]
    return strips, Layout(left, side, width, max(widest, width + GAP))


def _dots(text: str, size: float = style.TEXT) -> int:
    return math.ceil(style.text_width(text, size) * DOTS)


def _label_dots(label: Label) -> int:
    return _dots(label) if isinstance(label, str) else _step(label) * len(label)


def _step(label: Pieces) -> int:
    """Dots from the middle of a piece to that of the next; bold letters are wider."""
    return _dots(" ") + math.ceil(1.2 * max(_dots(word) for word, _ in label))


def _head(block: Block) -> int:
    """Dots above the images of a block."""
    return LINE * (len(block.captions) + bool(block.title)) + (LINE // 3 if block.title else 0)


def _place(figure: Figure, block: Block, picture: np.ndarray, layout: Layout, top: float) -> None:
    if block.title:
        _write(figure, MARGIN, top + LINE / 2, block.title, weight="bold")
        top += LINE + LINE // 3
    names = layout.left - APART
    for name, labels in block.captions:
        _write(figure, names, top + LINE / 2, name, align="right", colour=style.GREY)
        for column, label in enumerate(labels):
            middle = layout.left + layout.across * column + layout.inset + layout.width / 2
            _write_label(figure, middle, top + LINE / 2, label)
        top += LINE
    _show(figure, picture, layout.left + layout.inset, top)
    pitch = (picture.shape[0] + GAP) / len(block.rows)
    for row, (name, _) in enumerate(block.rows):
        middle = top + pitch * row + (pitch - GAP) / 2
        _write(figure, names, middle, name, align="right", colour=style.GREY)


def _show(figure: Figure, picture: np.ndarray, left: float, top: float) -> None:
    """Put a picture uint8 [h, w, 3] with its corner there, a dot a pixel."""
    width, height = (round(inches * DOTS) for inches in figure.get_size_inches())
    high, wide = picture.shape[:2]
    bottom = height - round(top) - high
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _write_label(figure: Figure, middle: float, y: float, label: Label) -> None:
    """Write a label around a place; of one in pieces each has its own colour."""
    if isinstance(label, str):
        _write(figure, middle, y, label, align="center")
        return
    step = _step(label)
    for place, (word, colour) in enumerate(label):
        at = middle + step * (place - (len(label) - 1) / 2)
        _write(figure, at, y, word, align="center", colour=colour, weight="bold")


def _write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    align: str = "left",
    colour: str = style.BLACK,
    weight: str = "normal",
) -> None:
    """Write at dots from the top left."""
    style.write(figure, x / DOTS, y / DOTS, text, align=align, colour=colour, weight=weight)
