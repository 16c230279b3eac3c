"""Picture of overlaid digits, separated: both reconstructions in two colours (Sabour et al. 2017, Figure 5).

Letters of shapes: N images, L = 2 labels of each, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from capsnet.figures import sheet, style
from capsnet.figures.kinds import IMAGES
from capsnet.figures.reconstruct import split
from capsnet.figures.subject import Subject, accuracy
from capsnet.images import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Light enough for a black ground, and together (almost) white, as two digits that lie over each other are.
INKS = torch.tensor([[0.25, 0.6, 1.0], [1.0, 0.5, 0.1]])
COLOURS = (style.BLUE, style.ORANGE)  # of the labels, on white


@dataclass(frozen=True)
class Pairs:
    """Test images of two digits; parts and reconstructions float [N, 2, C, H, W]."""

    images: Images
    answers: torch.Tensor  # int64 [N, 2], each right one where its label stands
    reconstructions: torch.Tensor  # of the answers

    def __len__(self) -> int:
        return len(self.answers)


def pairs(subject: Subject, test: Images, answers: torch.Tensor, chosen: torch.Tensor) -> Pairs | None:
    """Return the test images of the numbers `chosen`; None where there are none."""
    if not len(chosen):
        return None
    images, answered = test[chosen.to(test.labels.device)], answers[chosen]
    capsules = subject.output(images).capsules
    both = [subject.reconstruct(capsules, column) for column in answered.unbind(1)]
    return Pairs(images, answered, torch.stack(both, dim=1))


def coloured(parts: torch.Tensor) -> torch.Tensor:
    """Parts [N, 2, C, H, W] of one channel -> images [N, 3, H, W], each part in its ink, added as light."""
    light = parts.float() / 255 if parts.dtype == torch.uint8 else parts
    return torch.einsum("nlhw,lc->nchw", light[:, :, 0], INKS).clamp(0, 1)


def picture(
    subject: Subject, test: Images, answers: torch.Tensor, seed: int, count: int = IMAGES["overlap"]
) -> Figure:
    """Draw at most `count` right ones and as many wrong ones of the test images, chosen by `seed`."""
    hits, misses = (pairs(subject, test, answers, chosen) for chosen in split(test, answers, seed, count))
    return draw(hits, misses, accuracy(test.labels, answers), subject.origin)


def draw(hits: Pairs | None, misses: Pairs | None, title: str, origin: str) -> Figure:
    """Draw the right ones above the wrong ones, labels and answers in the colours of their digits."""
    found = (("both right", hits), ("wrong", misses))
    blocks = [_block(name, some) for name, some in found if some is not None]
    return sheet.draw(blocks, title, origin)


def _block(name: str, some: Pairs) -> sheet.Block:
    labels, answers = some.images.labels.cpu(), some.answers
    assert some.images.parts is not None
    rows = [
        ("image", some.images.images.cpu()),
        ("its digits", coloured(some.images.parts.cpu())),
        ("reconstructed", coloured(some.reconstructions)),
    ]
    captions = [("label", _words(labels)), ("answer", _words(answers))]
    return sheet.Block(rows, captions, name)


def _words(classes: torch.Tensor) -> list[Sequence[tuple[str, str]]]:
    return [
        [(str(one), colour) for one, colour in zip(row, COLOURS, strict=True)] for row in classes.tolist()
    ]
