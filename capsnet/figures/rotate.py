"""Charts of a network's answers for an image that is turned, shifted, scaled or sheared.

Letters of shapes: A amounts of a motion, N images, J classes, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from capsnet.affine import affine_maps, warp
from capsnet.config import CapsNetModel, CNNModel, Config, MatrixCapsNetModel, SelfRouting
from capsnet.figures import sheet, style
from capsnet.figures.subject import Subject, right
from capsnet.images import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURED = 24  # amounts, about, at which accuracy is measured
THUMBNAILS = 13  # at most
THUMBNAIL = 72  # dots: the most that one has a side
HEIGHT = 4.0  # inches of the charts
LEGEND = 17  # points between the axes and the thumbnails


@dataclass(frozen=True)
class Motion:
    """One way to move an image: its amounts and their names."""

    amounts: tuple[float, ...]
    maps: Callable[[torch.Tensor], torch.Tensor]  # amounts float64 [A] -> [A, 2, 3] (capsnet.affine)
    words: str  # what is done, before the amount
    axis: str
    unit: str = ""  # after the amount
    round_trip: bool = False  # the last amount is the first one again

    def measured(self) -> list[int]:
        """Return the indices of the amounts at which accuracy is measured, the first and last included."""
        step = max(1, (len(self.amounts) - 1) // MEASURED)
        return list(range(0, len(self.amounts), step))

    def text(self, *amounts: float) -> str:
        return f"{self.words} {' to '.join(f'{amount:g}{self.unit}' for amount in amounts)}".replace("-", "−")


def _range(low: int, high: int, step: int, divisor: int = 1) -> tuple[float, ...]:
    return tuple(number / divisor for number in range(low, high + 1, step))


def _shifts(pixels: torch.Tensor) -> torch.Tensor:
    return affine_maps(shift=torch.stack([torch.zeros_like(pixels), pixels], dim=1))


def _sizes(factors: torch.Tensor) -> torch.Tensor:
    return affine_maps(scale=torch.stack([factors, factors], dim=1))


MOTIONS = {
    "rotate": Motion(
        _range(0, 360, 5), lambda a: affine_maps(degrees=a), "turned by", "angle, in °", "°", round_trip=True
    ),
    "shift": Motion(_range(-12, 12, 1), _shifts, "moved right by", "shift to the right, in pixels", " px"),
    "scale": Motion(_range(50, 150, 5, 100), _sizes, "scaled by", "factor"),
    "shear": Motion(_range(-80, 80, 5, 100), lambda a: affine_maps(shear=a), "sheared by", "shear"),
}


@dataclass(frozen=True)
class Moved:
    """One image at all amounts of a motion."""

    motion: Motion
    sample: int  # its number among the test images
    labels: tuple[int, ...]
    images: torch.Tensor  # uint8 [A, C, H, W]
    lengths: torch.Tensor  # float [A, J]
    reconstructions: torch.Tensor | None  # float [A, C, H, W]; None without a decoder
    scores: str  # the name of the lengths
    origin: str  # the run, the model, the data set


def moved(subject: Subject, image: Images, sample: int, motion: Motion) -> Moved:
    """Move a batch of one image by each amount; run the network on it and reconstruct it as at test."""
    count = len(motion.amounts)
    maps = motion.maps(torch.tensor(motion.amounts, dtype=torch.float64))
    many = image[torch.zeros(count, dtype=torch.int64)]
    turned = warp(many.images, maps)
    batch, size = replace(many, images=turned, parts=None), subject.config.batch_size
    parts = [_seen(subject, batch[start : start + size]) for start in range(0, count, size)]
    lengths = torch.cat([lengths for lengths, _ in parts])
    shown = [images for _, images in parts if images is not None]
    return Moved(
        motion=motion,
        sample=sample,
        labels=tuple(image.labels.flatten().tolist()),
        images=turned.cpu(),
        lengths=lengths,
        reconstructions=torch.cat(shown) if shown else None,
        scores=_scores(subject.config),
        origin=subject.origin,
    )


def _scores(config: Config) -> str:
    """Return the name of the scores: "length", or another one where lengths are missing or do not count."""
    match config.model:
        case CNNModel():
            return "probability"
        case MatrixCapsNetModel() | CapsNetModel(routing=SelfRouting()):
            return "activation"
        case _:
            return "length"


def _seen(subject: Subject, batch: Images) -> tuple[torch.Tensor, torch.Tensor | None]:
    output = subject.output(batch)
    lengths = output.lengths.float().cpu()
    if subject.config.decoder is None:
        return lengths, None
    return lengths, subject.reconstruct(output.capsules, subject.answer(output, batch))


def accuracies(subject: Subject, images: Images, motion: Motion) -> list[tuple[float, float]]:
    """Return pairs of an amount and the share of `images` that is recognised when moved by it."""
    found = []
    for place in motion.measured():
        amount = motion.amounts[place]
        maps = motion.maps(torch.tensor([amount], dtype=torch.float64))
        answers = subject.answers(replace(images, images=warp(images.images, maps), parts=None))
        found.append((amount, right(images.labels.cpu(), answers).float().mean().item()))
    return found


def draw(seen: Moved, measured: list[tuple[float, float]], count: int) -> Figure:
    """Draw the length of each class over the amount, and the accuracy on `count` test images."""
    figure = style.chart(style.PAGE, HEIGHT, title(seen), seen.origin)
    lengths, shares = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    _draw_lengths(lengths, seen)
    _draw_thumbnails(lengths, seen)
    shares.plot(*zip(*((a, 100 * share) for a, share in measured), strict=True), color=style.BLUE, marker=".")
    shares.set_ylim(0, 104)
    shares.set_ylabel("accuracy, %", size=style.TEXT)
    shares.set_title(f"{count} test images, {seen.motion.words} as much", loc="left", size=style.TEXT)
    shares.set_xlabel(seen.motion.axis, size=style.TEXT)
    shares.set_xticks([seen.motion.amounts[place] for place in _marked(seen.motion)])
    for axes in (lengths, shares):
        axes.set_xlim(seen.motion.amounts[0], seen.motion.amounts[-1])
        axes.tick_params(labelsize=style.SMALL)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    return figure


def title(seen: Moved) -> str:
    """Return a title that names the image and how it is moved."""
    shows = " and ".join(map(str, seen.labels))
    amounts = seen.motion.text(seen.motion.amounts[0], seen.motion.amounts[-1])
    return f"Test image {seen.sample}, which shows {shows}, {amounts}"


def _marked(motion: Motion) -> list[int]:
    """Return the indices of the marked amounts, evenly spaced."""
    last = len(motion.amounts) - 1
    parts = max(number for number in range(1, THUMBNAILS) if last % number == 0)
    return list(range(0, last + 1, last // parts))


def _draw_lengths(axes: Axes, seen: Moved) -> None:
    """Draw the label's class bold, classes that are longest at some amount coloured, the others pale."""
    labels = seen.labels
    winners = [c for c in seen.lengths.argmax(1).unique().tolist() if c not in labels]
    often = sorted(winners, key=lambda c: -int((seen.lengths.argmax(1) == c).sum()))
    colours = dict(zip(often, (style.ORANGE, style.GREEN, style.PURPLE, style.SKY), strict=False))
    for number, lengths in enumerate(seen.lengths.T):
        bold = number in labels
        colour = style.BLUE if bold else colours.get(number, style.PALE)
        is_named = bold or number in colours
        axes.plot(
            seen.motion.amounts,
            lengths.tolist(),
            color=colour,
            linewidth=2.0 if bold else 1.2 if is_named else 0.7,
            linestyle="--" if number in labels[1:] else "-",
            label=f"class {number}" if is_named else None,
            zorder=3 if bold else 2 if is_named else 1,
        )
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(f"{seen.scores} of the class", size=style.TEXT)
    axes.legend(
        frameon=False,
        fontsize=style.TEXT,
        loc="lower left",
        ncols=6,
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        handlelength=1.6,
    )


def _draw_thumbnails(axes: Axes, seen: Moved) -> None:
    """Draw the image at the marked amounts, each above its place on the axis."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    places = _marked(seen.motion)
    for place, picture in zip(places, sheet.zoomed(seen.images[places], THUMBNAIL).numpy(), strict=True):
        image = OffsetImage(picture, zoom=style.POINTS / style.DOTS, interpolation="nearest")
        box = AnnotationBbox(
            image,
            (seen.motion.amounts[place], 1),
            xycoords=("data", "axes fraction"),
            xybox=(0, LEGEND),
            boxcoords="offset points",
            box_alignment=(0.5, 0),
            frameon=False,
            pad=0,
            annotation_clip=False,
        )
        axes.add_artist(box)
