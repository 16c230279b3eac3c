"""Answers, outputs and reconstructions of a trained network, for pictures.

Letters of shapes: N images, C channels, H height, W width, J classes, D dimension of their capsules,
L labels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from capsnet import objective, randomness
from capsnet.augmentation import for_test
from capsnet.config import Config
from capsnet.execution import Execution
from capsnet.figures import titles
from capsnet.figures.kinds import FigureError
from capsnet.images import Images
from capsnet.network import Network, Output


@dataclass(frozen=True)
class Subject:
    """A trained network with its configuration, its execution and its name in headings."""

    config: Config
    network: Network
    execution: Execution
    label: str | None = None  # the run's label, where that is not its name
    epoch: int | None = None  # of the weights
    best: bool = False  # validation chose that epoch

    @property
    def origin(self) -> str:
        """The run, the model, the data set and the epoch, as one line."""
        return titles.origin(self.config, self.label, self.epoch, self.best)

    @torch.no_grad()
    def output(self, images: Images) -> Output:
        """Return the network's output for a batch of test images, on its device."""
        self.network.eval()
        with self.execution.autocast():
            return self.network(for_test(images.to(self.execution.device), self.config.dataset).inputs)

    def answers(self, images: Images) -> torch.Tensor:
        """Return the predicted classes of test images, int64 like their labels [N] or [N, L], on the CPU."""
        found = []
        for start in range(0, len(images), self.config.batch_size):
            batch = images[start : start + self.config.batch_size]
            found.append(self.answer(self.output(batch), batch))
        return torch.cat(found)

    def answer(self, output: Output, batch: Images) -> torch.Tensor:
        """Return the predicted classes of the images of one batch, as `answers` does."""
        return objective.predicted(output.lengths.cpu(), batch.labels.cpu())

    @torch.no_grad()
    def reconstruct(self, capsules: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Class capsules [N, J, D] -> images float [N, C, H, W] on the CPU of the classes [N] or [N, L].

        The reconstructions of an image's several classes are added, as overlaid digits are.
        """
        self.network.eval()
        columns = classes.to(capsules.device).view(len(classes), -1).unbind(1)
        with self.execution.autocast():
            images = [self.network.reconstruct(capsules, column).float() for column in columns]
        return torch.stack(images).sum(0).clamp(max=1).cpu()


def right(labels: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return which answers [N] or [N, L] are right, bool [N]; of several classes all must be."""
    return (labels == answers).view(len(labels), -1).all(1)


def accuracy(labels: torch.Tensor, answers: torch.Tensor) -> str:
    """Return a title that says how many of the test images were answered rightly."""
    wrong = int((~right(labels.cpu(), answers)).sum())
    errors = f"{wrong:,} error{'' if wrong == 1 else 's'}"
    return f"{1 - wrong / len(labels):.2%} right: {errors} in {len(labels):,} test images"


def spread_out(indices: torch.Tensor, count: int, seed: int, purpose: str) -> torch.Tensor:
    """At most `count` of `indices`, chosen by `seed`, in their order: int64."""
    chosen = randomness.permutation(seed, len(indices), "figures", purpose)[:count]
    return indices[chosen.sort().values]


def classes(image: Images) -> str:
    """Return the classes that a batch of one image shows, in words: "4", "4 and 9"."""
    return " and ".join(map(str, image.labels.flatten().tolist()))


def choose(
    images: Images, seed: int, *, sample: int | None = None, digit: int | None = None
) -> tuple[int, int]:
    """Return the number of one image and a class that it shows: as asked for, otherwise by `seed`.

    Raises FigureError where there is no such image.
    """
    labels = images.labels.cpu().view(len(images), -1)
    if sample is None:
        matching = torch.arange(len(images)) if digit is None else (labels == digit).any(1).nonzero()[:, 0]
        if not len(matching):
            raise FigureError(f"--digit {digit}: no test image shows that class ({_range(labels)})")
        sample = int(spread_out(matching, 1, seed, "sample"))
    elif not 0 <= sample < len(images):
        raise FigureError(f"--sample {sample}: there are {len(images)} test images, from 0 on")
    shown = labels[sample].tolist()
    if digit is not None and digit not in shown:
        raise FigureError(
            f"--sample {sample} shows {classes(images[sample : sample + 1])}, not --digit {digit}"
        )
    return sample, shown[0] if digit is None else digit


def _range(labels: torch.Tensor) -> str:
    return f"they are {int(labels.min())} to {int(labels.max())}"
