"""Picture of the meaning of each dimension of a class capsule (Sabour et al. 2017, Figure 4).

Letters of shapes: J classes, D dimension of a class capsule, S steps, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from capsnet.figures import sheet
from capsnet.figures.subject import Subject
from capsnet.images import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From -0.25 to 0.25 by 0.05, as whole numbers first: a sum of 0.05s misses the middle.
STEPS = tuple(step / 20 for step in range(-5, 6))


def grid(subject: Subject, capsules: torch.Tensor, label: int) -> torch.Tensor:
    """Class capsules [1, J, D] -> images [D, S, C, H, W] of class `label`, one dimension off by each step."""
    dimensions = capsules.shape[-1]
    steps = torch.tensor(STEPS, device=capsules.device)
    moves = torch.eye(dimensions, device=capsules.device)[:, None] * steps[:, None]  # [D, S, D]
    tried = capsules.repeat(dimensions * len(STEPS), 1, 1)
    tried[:, label] += moves.flatten(0, 1)
    classes = torch.full((len(tried),), label)
    return subject.reconstruct(tried, classes).unflatten(0, (dimensions, len(STEPS)))


def effects(images: torch.Tensor) -> torch.Tensor:
    """The grid [D, S, C, H, W] -> [D]: by how much the largest steps change a pixel, on average, of 1."""
    unchanged = images[:, len(STEPS) // 2, None]
    return (images[:, [0, -1]] - unchanged).abs().flatten(1).mean(1)


def picture(subject: Subject, test: Images, sample: int, label: int, order: str = "index") -> Figure:
    """Draw the picture of test image `sample` and of the class `label` that the image shows.

    `order`: of the dimensions, by number, "index", or by how much they change, "effect", most first.
    """
    image = test[sample : sample + 1]
    images = grid(subject, subject.output(image).capsules, label)
    return draw(image, label, images, sample, subject.origin, order)


def draw(image: Images, label: int, images: torch.Tensor, sample: int, origin: str, order: str) -> Figure:
    """Draw a batch of one image, and the grid of its class: a row for each dimension."""
    changes = effects(images)
    by_effect = changes.argsort(descending=True, stable=True).tolist()
    numbers = by_effect if order == "effect" else range(len(images))
    rows = [(f"{number} ({changes[number]:.1%})", images[number]) for number in numbers]
    captions = [("dimension", [_signed(step) for step in STEPS])]
    shown = image.images if image.parts is None else image.parts[:, image.labels[0].tolist().index(label)]
    first = sheet.Block([("image", shown.cpu())])
    title = f"Class capsule {label} of test image {sample}, one dimension changed at a time"
    note = f"In brackets: the mean change of a pixel by a step of {STEPS[-1]}, in % of its range."
    return sheet.draw([first, sheet.Block(rows, captions)], title, origin, note)


def _signed(step: float) -> str:
    return f"{step:+.2f}".replace("-", "−") if step else "0"
