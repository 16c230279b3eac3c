"""Picture of test images above their reconstructions by the decoder.

Letters of shapes: N images, C channels, H height, W width, L labels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from capsnet.figures import sheet
from capsnet.figures.kinds import IMAGES
from capsnet.figures.subject import Subject, accuracy, right, spread_out
from capsnet.images import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cases:
    """Test images, their predicted classes, and their reconstructions float [N, C, H, W]."""

    images: Images
    answers: torch.Tensor  # int64 [N] or [N, L]
    as_answered: torch.Tensor  # of the capsules of the answers, as at test
    as_labelled: torch.Tensor  # of the capsules of the labels, as in training

    def __len__(self) -> int:
        return len(self.answers)


def split(
    test: Images, answers: torch.Tensor, seed: int, count: int = IMAGES["reconstruct"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of at most `count` test images with right answers, and as many with wrong ones."""
    hits = right(test.labels.cpu(), answers)
    found = [(hits == wanted).nonzero()[:, 0] for wanted in (True, False)]
    chosen = [spread_out(indices, count, seed, "cases") for indices in found]
    return chosen[0], chosen[1]


def cases(subject: Subject, test: Images, answers: torch.Tensor, chosen: torch.Tensor) -> Cases | None:
    """Return the test images of the numbers `chosen`; None where there are none."""
    if not len(chosen):
        return None
    images, answered = test[chosen.to(test.labels.device)], answers[chosen]
    capsules = subject.output(images).capsules
    as_answered, as_labelled = (subject.reconstruct(capsules, c) for c in (answered, images.labels))
    return Cases(images, answered, as_answered, as_labelled)


def picture(
    subject: Subject, test: Images, answers: torch.Tensor, seed: int, count: int = IMAGES["reconstruct"]
) -> Figure:
    """Draw at most `count` right ones and as many wrong ones of the test images, chosen by `seed`."""
    hits, misses = (cases(subject, test, answers, chosen) for chosen in split(test, answers, seed, count))
    return draw(hits, misses, accuracy(test.labels, answers), subject.origin)


def draw(hits: Cases | None, misses: Cases | None, title: str, origin: str) -> Figure:
    """Draw the right ones above the wrong ones; those also as reconstructed from the label's capsule."""
    blocks = []
    if hits is not None:
        blocks.append(sheet.Block(_rows(hits), [("label → answer", _labels(hits))], "right"))
    if misses is not None:
        rows = [*_rows(misses), ("as the label", misses.as_labelled)]
        blocks.append(sheet.Block(rows, [("label → answer", _labels(misses))], "wrong"))
    return sheet.draw(blocks, title, origin)


def _rows(cases: Cases) -> list[tuple[str, torch.Tensor]]:
    return [("image", cases.images.images.cpu()), ("as the answer", cases.as_answered)]


def _labels(cases: Cases) -> Sequence[str]:
    pairs = zip(cases.images.labels.cpu(), cases.answers, strict=True)
    return [f"{_words(label)} → {_words(answer)}" for label, answer in pairs]


def _words(classes: torch.Tensor) -> str:
    return ",".join(map(str, classes.flatten().tolist()))
