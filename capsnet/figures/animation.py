"""A moving image, its reconstruction and the lengths of the class capsules, as an animated GIF.

Letters of shapes: A amounts of motion, J classes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch

from capsnet.figures import sheet, style
from capsnet.figures.rotate import Moved

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

SIDE = 140  # pixels of the image, at most
MARGIN = 14  # pixels around everything
LINE = 26  # pixels of a line of text
LETTERS = 12  # pixels of their size
SMALL_LINE, SMALL_LETTERS = 16, 10  # likewise, of what the picture is of
FRAME_MILLISECONDS = 80
COLOURS = 256  # of a frame: with fewer, small bars lose theirs beside a photograph
NAMED = 12  # classes at most that get their number below the bar


def order(seen: Moved) -> list[int]:
    """The places of the amounts as they are shown: round, or there and back, without a doubled frame."""
    count = len(seen.motion.amounts)
    if seen.motion.round_trip:
        return list(range(count - 1))
    return [*range(count), *range(count - 2, 0, -1)]


def gif(seen: Moved) -> bytes:
    """The bytes of a GIF file that goes on for ever."""
    columns = [sheet.zoomed(seen.images, SIDE)]
    if seen.reconstructions is not None:
        columns.append(sheet.zoomed(seen.reconstructions, SIDE))
    frames = [_frame(seen, [column[place] for column in columns], place) for place in order(seen)]
    file = io.BytesIO()
    first, *others = frames
    first.save(
        file,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=FRAME_MILLISECONDS,
        loop=0,
        disposal=1,
    )
    return file.getvalue()


def _frame(seen: Moved, pictures: list[torch.Tensor], place: int) -> Image:
    """One frame: what it is of, the amount, the pictures side by side, the bars; names below them."""
    from PIL import Image, ImageDraw

    height, width = pictures[0].shape[:2]
    lengths = seen.lengths[place].tolist()
    bar = max(3, min(20, 400 // len(lengths)))
    lefts = [MARGIN + column * (width + MARGIN) for column in range(len(pictures) + 1)]
    across = lefts[-1] + bar * len(lengths) + MARGIN
    font, small = _font(LETTERS), _font(SMALL_LETTERS)
    lines = style.wrapped(seen.origin, across - 2 * MARGIN, small.getlength)
    above = MARGIN // 2 + SMALL_LINE * len(lines)
    top = above + LINE
    base = top + height
    frame = Image.new("RGB", (across, base + LINE), "white")
    pen = ImageDraw.Draw(frame)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN // 2 + SMALL_LINE * (number + 0.5)), line, style.GREY, small, anchor="lm")
    for left, picture, name in zip(lefts, pictures, ("image", "reconstruction"), strict=False):
        frame.paste(Image.fromarray(np.ascontiguousarray(picture.numpy())), (left, top))
        pen.text((left + width / 2, base + LINE / 2), name, style.GREY, font, anchor="mm")
    amount = seen.motion.text(seen.motion.amounts[place])
    pen.text((lefts[0], above + LINE / 2), amount, style.BLACK, font, anchor="lm")
    pen.text((lefts[-1], above + LINE / 2), f"{seen.scores}, up to 1", style.GREY, font, anchor="lm")
    pen.line((lefts[-1], top, lefts[-1] + bar * len(lengths), top), fill=style.PALE)
    for number, length in enumerate(lengths):
        x = lefts[-1] + bar * number
        colour = style.BLUE if number in seen.labels else style.ORANGE
        pen.rectangle((x + 1, base - round(height * length), x + bar - 2, base), fill=colour)
        if len(lengths) <= NAMED:
            pen.text((x + bar / 2, base + LINE / 2), str(number), style.GREY, font, anchor="mm")
    return frame.quantize(COLOURS, dither=Image.Dither.NONE)


def _font(pixels: int) -> FreeTypeFont:
    """The font of all pictures: Pillow's own lacks the minus."""
    from matplotlib.font_manager import FontProperties, findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont(FontProperties()), pixels)
