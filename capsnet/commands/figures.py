"""`perturb`, `confusion` and the other pictures of a trained network; `figures`: all that take seconds."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from capsnet import checkpoint
from capsnet.commands import histories
from capsnet.commands.run_numbers import require_checkpoints
from capsnet.commands.trained import Trained, load_trained
from capsnet.figures import (
    animation,
    confusion,
    couplings,
    curves,
    output,
    overlap,
    perturb,
    primary,
    reconstruct,
    rendering,
    rotate,
)
from capsnet.figures.gallery import gallery
from capsnet.figures.kinds import ALL, FORMATS, IMAGES, FigureError
from capsnet.figures.needs import require
from capsnet.figures.subject import Subject, choose, spread_out
from capsnet.printable import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANIMATION = "gif"  # which "rotate" gives besides
COMPARED = "curves-compared"  # the name of the curves of several runs

Picture = tuple[Path, bytes]


@dataclass(frozen=True)
class Target:
    """The destination and the format of pictures: as the user says, or the default."""

    named: Path | None  # a file; of `figures` a folder
    format: str  # of charts
    dpi: int | None

    def file(self, folder: Path, name: str) -> Path:
        """The file of a picture: the one that is named, or one in `folder`."""
        return self.named or output.can_hold(folder / f"{name}.{self.format}")

    def encoded(self, figure: Figure) -> bytes:
        return rendering.encoded(figure, self.format, self.dpi)


def run(arguments: Namespace) -> int:
    """Draw and write pictures and print their paths; return the exit code."""
    paths, labels = _checkpoints(arguments)
    target = _target(arguments)
    _load_matplotlib()  # now, not after minutes of computing
    with rendering.defaults():
        for file, content in _pictures(arguments, paths, labels, target):
            with output.mistakes(file):
                output.save(content, file)
            say(file)
    return 0


def _load_matplotlib() -> None:
    try:
        rendering.import_matplotlib()
    except ImportError as error:
        raise FigureError("pictures are drawn with matplotlib: pip install matplotlib") from error
    except Exception as error:  # whatever its own start goes wrong by, as a settings file that is no text
        raise FigureError(f"matplotlib cannot be imported: {error}") from error


def _checkpoints(arguments: Namespace) -> tuple[list[str], list[str | None]]:
    """Return the checkpoints, which may be named in two ways, and each run's label, None for its name."""
    given = arguments.checkpoint
    named = given if isinstance(given, list) else [] if given is None else [given]
    if arguments.model_path is not None and arguments.model_path not in named:
        if named:
            raise FigureError(
                f"CHECKPOINT is {' '.join(named)} and --model-path is {arguments.model_path}: name one"
            )
        named = [arguments.model_path]
    if not named:
        raise FigureError(f"name a checkpoint, as in: python -m capsnet {arguments.command} out/quickstart")
    labels: list[str | None] = arguments.label or [None] * len(named)
    if len(labels) != len(named):
        raise FigureError(f"{len(labels)} labels for {len(named)} checkpoints: give --label once for each")
    return named, labels


def _target(arguments: Namespace) -> Target:
    """Check and return the target that the user names. Raises FigureError where it cannot be written."""
    kind, text, dpi = arguments.command, arguments.output, arguments.dpi
    if kind == ALL or text is None:
        folder = None if text is None else output.named_folder(text)
        return Target(folder, arguments.format or FORMATS[0], dpi)
    file = output.named_file(text, (*FORMATS, ANIMATION) if kind == "rotate" else FORMATS)
    its = output.format_of(file)
    if arguments.format not in (None, its):
        raise FigureError(f"{file} is no file of --format {arguments.format}: leave one of the two out")
    if its == ANIMATION and dpi is not None:
        raise FigureError(f"--dpi {dpi} is of charts: {file} has pixels of its own")
    return Target(file, its, dpi)


def _pictures(
    arguments: Namespace, paths: list[str], labels: list[str | None], target: Target
) -> Iterator[Picture]:
    if arguments.command == "curves":
        return _curves(paths, labels, target)
    kind = "" if arguments.command == ALL else f" {arguments.command}"
    require_checkpoints(paths, f"python -m runner figures RUN{kind}")
    trained = load_trained(paths[0], best=arguments.best, data=arguments.data)
    if getattr(arguments, "seed", None) is None:
        arguments.seed = trained.config.seed
    subject = Subject(
        trained.config, trained.network, trained.execution, labels[0], trained.epoch, arguments.best
    )
    if arguments.command == ALL:
        return _all(arguments, trained, subject, target)
    require(arguments.command, trained.config)
    if arguments.command == "rotate":
        return _rotate(arguments, trained, subject, target)
    file = target.file(output.folder_of(trained.path), arguments.command)
    return iter([(file, target.encoded(_drawn(arguments, trained, subject)))])


def _drawn(arguments: Namespace, trained: Trained, subject: Subject) -> Figure:
    test, seed, count = trained.test(), arguments.seed, _count(arguments)
    match arguments.command:
        case "confusion":
            return confusion.picture(subject, test, subject.answers(test))
        case "reconstruct":
            return reconstruct.picture(subject, test, subject.answers(test), seed, count)
        case "overlap":
            return overlap.picture(subject, test, subject.answers(test), seed, count)
    sample, label = choose(test, seed, sample=arguments.sample, digit=arguments.digit)
    match arguments.command:
        case "perturb":
            return perturb.picture(subject, test, sample, label, arguments.order)
        case "couplings":
            return couplings.picture(subject, test, seed, sample, count)
    decoder = primary.train(subject, trained.train(), seed, arguments.steps, _say)
    return primary.picture(subject, decoder, test, sample)


def _rotate(arguments: Namespace, trained: Trained, subject: Subject, target: Target) -> Iterator[Picture]:
    """The animation is there before the chart, which takes longer; a file of one kind is that one only."""
    folder, name = output.folder_of(trained.path), arguments.map
    moving = target.format == ANIMATION
    if moving and arguments.images is not None:
        raise FigureError(f"--images {arguments.images} is of the chart: {target.named} shows one image only")
    chart = None if moving else target.file(folder, name)
    film = target.named if moving else None if target.named else output.can_hold(folder / f"{name}.gif")
    test, seed, motion = trained.test(), arguments.seed, rotate.MOTIONS[name]
    sample, _ = choose(test, seed, sample=arguments.sample, digit=arguments.digit)
    seen = rotate.moved(subject, test[sample : sample + 1], sample, motion)
    if film is not None:
        yield film, animation.gif(seen)
    if chart is not None:
        some = test[spread_out(torch.arange(len(test)), _count(arguments), seed, "rotate")]
        drawn = rotate.draw(seen, rotate.accuracies(subject, some, motion), len(some))
        yield chart, target.encoded(drawn)


def _curves(paths: list[str], labels: list[str | None], target: Target) -> Iterator[Picture]:
    checkpoints = [path for path in paths if not histories.is_table(Path(path))]
    require_checkpoints(checkpoints, "python -m runner figures RUN curves")
    sources = [histories.load(Path(path), label) for path, label in zip(paths, labels, strict=True)]
    name = "curves" if len(sources) == 1 else COMPARED
    file = target.file(output.folder_of(sources[0].checkpoint), name)
    yield file, target.encoded(curves.draw(histories.told_apart(sources)))


def _all(arguments: Namespace, trained: Trained, subject: Subject, target: Target) -> Iterator[Picture]:
    folder = target.named or output.folder_of(trained.path)
    output.can_hold(folder / f"curves.{target.format}")
    history = checkpoint.load(trained.path)["history"]
    for kind, figure in gallery(subject, trained.test(), history, arguments.seed):
        yield folder / f"{kind}.{target.format}", target.encoded(figure)


def _count(arguments: Namespace) -> int:
    """Return the number of test images, given by the user or by default; 0 of a kind that shows one."""
    return getattr(arguments, "images", None) or IMAGES.get(arguments.command, 0)


def _say(text: str) -> None:
    say(text, sys.stderr)
