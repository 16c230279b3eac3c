"""Sheets of small images with labels, pixel for pixel, and the colours and sizes of all pictures.

matplotlib is used by its objects: no window, no state that is shared with whoever else draws.

Letters of shapes: R rows, N columns, C channels, H height, W width.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
TEXT = 9  # points
LINE = 17  # pixels from one line of text to the next
MARGIN = 14  # pixels around everything
GAP = 3  # pixels between images
CELL = 56  # pixels: the least side of an image on a sheet
LETTER = 7  # pixels that a letter takes, about
TITLE_LETTER = 9  # likewise

BLACK, GREY = "#000000", "#767676"
# Of Okabe and Ito's colours, which are told apart with any colour vision.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"

Pieces = Sequence[tuple[str, str]]  # words and their colours
Label = str | Pieces


@dataclass(frozen=True)
class Block:
    """A part of a sheet: a grid of images [R][N, C, H, W], lines of text above it, a name for each row."""

    rows: Sequence[tuple[str, torch.Tensor]]
    captions: Sequence[tuple[str, Sequence[Label]]] = ()  # a name, and one label for each column
    title: str = ""


def import_matplotlib() -> None:
    """Import matplotlib, whatever MPLBACKEND names: nothing is drawn in a window or a notebook.

    Notebooks set it for every program that they start, and matplotlib refuses to be imported where what it
    names is not installed. Raises ModuleNotFoundError where matplotlib itself is not.
    """
    if sys.modules.get("matplotlib") is not None:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with suppress(ValueError):  # whoever draws by pyplot in this process gets what was asked for
            matplotlib.rcParams["backend"] = backend


@contextmanager
def defaults() -> Iterator[None]:
    """Within it pictures look the same everywhere, whatever style the user's matplotlibrc asks for."""
    import_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=((width + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI, facecolor="white")


def png(drawn: Figure) -> bytes:
    """A figure as the bytes of a PNG file, the same ones each time."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Images [..., C, H, W], uint8 or from 0 to 1 -> float [..., 3, H, W] as they are shown.

    Three channels are colours; of any other number the first one is shown in grey, such as the left
    camera's of two.
    """
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float().clamp(0, 1)
    if images.shape[-3] == 3:
        return images
    return images[..., :1, :, :].expand(*images.shape[:-3], 3, *images.shape[-2:])


def zoomed(images: torch.Tensor, side: int = CELL) -> torch.Tensor:
    """Images [N, C, H, W] -> uint8 [N, h, w, 3] of at least `side` pixels, or made smaller to so many.

    They are magnified by a whole number, so that a pixel stays a square.
    """
    images = pixels(images)
    longest = max(images.shape[-2:])
    if longest > 2 * side:
        share = side / longest
        images = F.interpolate(images, scale_factor=share, mode="bilinear", antialias=True)
    else:
        times = max(1, math.ceil(side / longest))
        images = images.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def mosaic(rows: Sequence[torch.Tensor]) -> np.ndarray:
    """Rows of zoomed images uint8 [N, h, w, 3] as one picture [.., .., 3], white between them."""
    count, height, width = rows[0].shape[:3]
    shape = (_span(len(rows), height), _span(count, width), 3)
    picture = np.full(shape, 255, dtype=np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images.numpy()):
            top, left = row * (height + GAP), column * (width + GAP)
            picture[top : top + height, left : left + width] = image
    return picture


def _span(count: int, side: int) -> int:
    return count * (side + GAP) - GAP


def draw(blocks: Sequence[Block], title: str = "") -> Figure:
    """The blocks, one below the other, their columns beneath each other."""
    pictures = [mosaic([zoomed(images) for _, images in block.rows]) for block in blocks]
    words = [name for block in blocks for name, _ in (*block.rows, *block.captions)]
    left = MARGIN + LETTER * max(map(len, words), default=0) + (LETTER if any(words) else 0)
    titles = MARGIN + TITLE_LETTER * max(map(len, [title, *(block.title for block in blocks)]))
    width = max(titles, *(left + picture.shape[1] for picture in pictures))
    heights = [
        _head(block) + picture.shape[0] + LINE for block, picture in zip(blocks, pictures, strict=True)
    ]
    top = MARGIN + (LINE * 2 if title else 0)
    drawn = figure(width + MARGIN, top + sum(heights) - LINE + MARGIN)
    if title:
        write(drawn, MARGIN, MARGIN + LINE / 2, title, size=TEXT + 2)
    for block, picture, height in zip(blocks, pictures, heights, strict=True):
        _place(drawn, block, picture, left, top)
        top += height
    return drawn


def _head(block: Block) -> int:
    """Pixels above the images of a block."""
    return LINE * (len(block.captions) + bool(block.title)) + (LINE // 2 if block.title else 0)


def _place(drawn: Figure, block: Block, picture: np.ndarray, left: int, top: int) -> None:
    if block.title:
        write(drawn, MARGIN, top + LINE / 2, block.title, weight="bold")
        top += LINE + LINE // 2
    columns = len(block.rows[0][1])
    cell = (picture.shape[1] + GAP) / columns
    for name, labels in block.captions:
        write(drawn, left - LETTER, top + LINE / 2, name, align="right", colour=GREY)
        for column, label in enumerate(labels):
            write(drawn, left + cell * column + (cell - GAP) / 2, top + LINE / 2, label, align="center")
        top += LINE
    total = round(drawn.get_figheight() * DPI)
    drawn.figimage(picture, xo=left, yo=total - top - picture.shape[0], origin="upper")
    pitch = (picture.shape[0] + GAP) / len(block.rows)
    for row, (name, _) in enumerate(block.rows):
        middle = top + pitch * row + (pitch - GAP) / 2
        write(drawn, left - LETTER, middle, name, align="right", colour=GREY)


def write(
    drawn: Figure,
    x: float,
    y: float,
    label: Label,
    *,
    align: str = "left",
    colour: str = BLACK,
    size: float = TEXT,
    weight: str = "normal",
) -> None:
    """Write at pixels from the top left; of a label in pieces each has its own colour."""
    width, height = drawn.get_figwidth() * DPI, drawn.get_figheight() * DPI
    if isinstance(label, str):
        drawn.text(
            x / width,
            1 - y / height,
            label,
            ha=align,
            va="center",
            color=colour,
            size=size,
            weight=weight,
            parse_math=False,  # the name of a run may have dollars
        )
        return
    step = LETTER * (1 + max(len(word) for word, _ in label))
    for place, (word, its) in enumerate(label):
        at = x + step * (place - (len(label) - 1) / 2)
        write(drawn, at, y, word, align="center", colour=its, size=size, weight="bold")
