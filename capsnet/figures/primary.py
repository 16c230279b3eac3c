"""Picture of the meaning of single primary capsules.

The class decoder does not take primary capsules, so another decoder is trained for them while the network
stays as it is. Its input is what routing passes on to the predicted class: each primary capsule times its
coupling to that class (times the number of classes, so that 1 is an even share). In training it gets only
some capsules of an image, which and how many being drawn for each image, from a single one to all. The rest
are zero, and the decoder is to reconstruct the image: so it learns how an image looks as far as a few
capsules determine it.

The picture has a row for each of some capsules, the one of its type that passes on the most. The square is
the part of the image that the capsule sees. With that capsule alone as its input, the decoder shows what the
capsule means, sharp where the capsule determines the image and blurred where it does not. The capsule is
scaled from 0 (without input, the decoder shows the mean of all images) to its whole coupling. In the first
row the input is all capsules.

Letters of shapes: B batch, I primary capsules, K their dimension, T their types, J classes, S scales,
C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from capsnet import config, datasets, randomness
from capsnet.augmentation import cropped, for_test
from capsnet.capsule_network import CapsNet
from capsnet.config import CapsNetModel
from capsnet.decoders import decoder_of
from capsnet.figures import couplings, sheet
from capsnet.figures.kinds import STEPS
from capsnet.figures.subject import Subject, classes
from capsnet.geometry import chain
from capsnet.images import Images, ImageShape
from capsnet.initialization import initialise
from capsnet.losses import reconstruction_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
BATCH = 64
LEARNING_RATE = 0.001
ROWS = 8  # capsules shown
FRAME = (1.0, 0.5, 0.1)  # orange: to be seen on grey, and on most photographs
TOLD = 50  # steps from one line of progress to the next


@torch.no_grad()
def passed_on(subject: Subject, images: Images) -> torch.Tensor:
    """Return the capsules times their couplings to the predicted class, 1 an even share: [B, I, K]."""
    assert isinstance(subject.network, CapsNet)
    capsules = couplings.primary(subject, images)
    coupling = couplings.last(subject, capsules)  # [J, B, I]
    answers = subject.network.routed(capsules).lengths.argmax(1)
    chosen = coupling[answers, torch.arange(len(answers), device=answers.device)]
    return capsules * chosen[..., None] * len(coupling)


def train(
    subject: Subject, images: Images, seed: int, steps: int = STEPS, say: Callable[[str], None] = print
) -> nn.Module:
    """Train a decoder [B, I, K] -> [B, C, H, W] for primary capsules on training images, and return it.

    The result depends on the arguments alone; the network is not changed. `say` gets lines of progress.
    """
    images = _some(subject, images, seed, steps)
    decoder = _decoder(subject, images, seed)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE)
    losses: list[float] = []
    for step in range(steps):
        start = step * BATCH % len(images)
        loss = _loss(subject, decoder, images[start : start + BATCH], seed, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % TOLD == 0 or step + 1 == steps:
            mean = sum(losses) / len(losses)
            say(f"decoder of primary capsules: step {step + 1}/{steps}, squared error {mean:.2f} an image")
            losses.clear()
    return decoder


def _some(subject: Subject, images: Images, seed: int, steps: int) -> Images:
    """Return as many of the training images as the steps take, cropped as in a test."""
    order = randomness.permutation(seed, len(images), "figures", "primary images")[: steps * BATCH]
    return cropped(images[order], subject.config.dataset)


def _loss(subject: Subject, decoder: nn.Module, batch: Images, seed: int, step: int) -> torch.Tensor:
    told = passed_on(subject, batch)
    targets = for_test(batch.to(subject.execution.device), subject.config.dataset).targets
    return reconstruction_loss(decoder(told * _mask(told, seed, step)), targets).mean()


def _decoder(subject: Subject, images: Images, seed: int) -> nn.Module:
    size = datasets.shape(subject.config.dataset)
    inputs, dimension = passed_on(subject, images[:1]).shape[1:]
    shape = ImageShape(size.channels, size.height, size.width, classes=inputs)
    with torch.random.fork_rng(devices=[]):  # PyTorch's layers draw weights of their own, which do not stay
        decoder = decoder_of(config.FCDecoder(), dimension, shape)
    assert decoder is not None
    initialise(decoder, "paper", seed)
    return decoder.to(subject.execution.device)


def _mask(told: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Draw which capsules the decoder gets, [B, I, 1]: at least one, and few about as often as many."""
    batch, inputs = told.shape[:2]
    random = randomness.generator(seed, "figures", "primary masks", step)
    counts = np.floor(np.exp(random.uniform(0, math.log(inputs + 1), (batch, 1))))
    ranks = random.random((batch, inputs)).argsort(1).argsort(1)
    return torch.from_numpy((ranks < counts).astype("float32"))[..., None].to(told.device)


@dataclass(frozen=True)
class Capsule:
    """A primary capsule by its number, with its share of all that is passed on to the class."""

    number: int
    type: int
    row: int
    column: int
    share: float


def strongest(subject: Subject, told: torch.Tensor, count: int = ROWS) -> list[Capsule]:
    """Return the capsule of each type that passes on the most, of `told` [1, I, K]: the largest `count`."""
    model = subject.config.model
    assert isinstance(model, CapsNetModel)
    size = datasets.shape(subject.config.dataset)
    columns = chain(model).grids(size.height, size.width)[-1][1]
    amounts = told[0].norm(dim=-1)
    values, places = amounts.view(-1, model.primary_types).max(0)
    return [
        Capsule(
            number=int(places[kind]) * model.primary_types + kind,
            type=kind,
            row=int(places[kind]) // columns,
            column=int(places[kind]) % columns,
            share=float(values[kind] / amounts.sum()),
        )
        for kind in values.argsort(descending=True)[:count].tolist()
    ]


def seen_by(subject: Subject, capsule: Capsule) -> tuple[slice, slice]:
    """The rows and columns of the image that a primary capsule sees, without the padding beyond its edges."""
    model = subject.config.model
    assert isinstance(model, CapsNetModel)
    size, windows = datasets.shape(subject.config.dataset), chain(model)
    return slice(*windows.seen(size.height, capsule.row)), slice(*windows.seen(size.width, capsule.column))


@torch.no_grad()
def scaled(decoder: nn.Module, told: torch.Tensor, chosen: list[Capsule]) -> torch.Tensor:
    """Decode one image's [1, I, K], all capsules and then each chosen one: [1 + chosen, S, C, H, W]."""
    masks = torch.zeros(1 + len(chosen), told.shape[1], device=told.device)
    masks[0] = 1
    masks[range(1, len(masks)), [one.number for one in chosen]] = 1
    scales = torch.tensor(SCALES, device=told.device)
    inputs = told * (masks[:, None] * scales[:, None]).flatten(0, 1)[..., None]
    decoder.eval()
    return decoder(inputs).float().cpu().unflatten(0, (len(masks), len(SCALES)))


def picture(subject: Subject, decoder: nn.Module, test: Images, sample: int) -> Figure:
    """Draw the picture of test image `sample`."""
    image = test[sample : sample + 1]
    told = passed_on(subject, image)
    chosen = strongest(subject, told)
    answer = int(subject.answers(image))
    title = f"Test image {sample} ({classes(image)}): primary capsules as coupled to class {answer}"
    first = [sheet.pixels(image.images.cpu())[0]]
    first += [_framed(first[0], *seen_by(subject, capsule)) for capsule in chosen]
    return draw(first, scaled(decoder, told, chosen), chosen, title, subject.origin)


def _framed(image: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
    """A copy of the image [3, H, W] with a line of one pixel around a part of it."""
    framed, part = image.clone(), torch.zeros(image.shape[1:], dtype=torch.bool)
    part[rows, columns] = True
    inner = part.clone()
    inner[rows, columns][[0, -1]] = False
    inner[rows, columns][:, [0, -1]] = False
    framed[:, part & ~inner] = torch.tensor(FRAME)[:, None]
    return framed


def draw(
    first: list[torch.Tensor], images: torch.Tensor, chosen: list[Capsule], title: str, origin: str
) -> Figure:
    """Draw a row for all capsules and for each chosen one: what it sees of the image, images [S, C, H, W]."""
    names = ["all capsules"]
    names += [f"type {one.type} at {one.row},{one.column} ({one.share:.1%})" for one in chosen]
    rows = [
        (name, torch.cat([image[None], sheet.pixels(row)]))
        for name, image, row in zip(names, first, images, strict=True)
    ]
    captions = [("times its coupling", ["image", *(f"{scale:g}" for scale in SCALES)])]
    return sheet.draw([sheet.Block(rows, captions)], title, origin)
