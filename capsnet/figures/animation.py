"""A moving image, its reconstruction and the lengths of the class capsules, as an animated GIF.

Letters of shapes: A amounts of motion, J classes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch

from capsnet.figures import sheet
from capsnet.figures.rotate import Moved

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 140  # pixels of the image
HEAD = 26  # pixels above it
FRAME_MILLISECONDS = 80
COLOURS = 256  # of a frame: with fewer, small bars lose theirs beside a photograph
INK = "#606060"
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
    """One frame: the amount, the pictures side by side, the bars; names below them."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = pictures[0].shape[:2]
    lengths = seen.lengths[place].tolist()
    bar = max(3, min(20, 400 // len(lengths)))
    lefts = [sheet.MARGIN + column * (width + sheet.MARGIN) for column in range(len(pictures) + 1)]
    top, base = HEAD, HEAD + height
    frame = Image.new("RGB", (lefts[-1] + bar * len(lengths) + sheet.MARGIN, base + HEAD), "white")
    pen, font = ImageDraw.Draw(frame), ImageFont.load_default(13)
    for left, picture, name in zip(lefts, pictures, ("image", "reconstruction"), strict=False):
        frame.paste(Image.fromarray(np.ascontiguousarray(picture.numpy())), (left, top))
        pen.text((left + width / 2, base + HEAD / 2), name, fill=INK, font=font, anchor="mm")
    amount = seen.motion.text(seen.motion.amounts[place])
    pen.text((lefts[0], HEAD / 2), amount, fill=sheet.BLACK, font=font, anchor="lm")
    pen.text((lefts[-1], HEAD / 2), f"{seen.scores}, up to 1", fill=INK, font=font, anchor="lm")
    pen.line((lefts[-1], top, lefts[-1] + bar * len(lengths), top), fill="#cfcfcf")
    for number, length in enumerate(lengths):
        x = lefts[-1] + bar * number
        colour = sheet.BLUE if number in seen.labels else sheet.ORANGE
        pen.rectangle((x + 1, base - round(height * length), x + bar - 2, base), fill=colour)
        if len(lengths) <= NAMED:
            pen.text((x + bar / 2, base + HEAD / 2), str(number), fill=INK, font=font, anchor="mm")
    return frame.quantize(COLOURS, dither=Image.Dither.NONE)
