"""`perturb`, `confusion` and the other pictures of a trained network; `figures`: all that take seconds."""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from capsnet import checkpoint
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
    rotate,
    sheet,
)
from capsnet.figures.gallery import gallery
from capsnet.figures.kinds import ALL, IMAGES, FigureError
from capsnet.figures.needs import require
from capsnet.figures.subject import Subject, choose, spread_out
from capsnet.files import CHECKPOINT
from capsnet.history import Row, read_history

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_EPOCHS = 10**9  # of a table that is believed

Picture = tuple[Path, bytes]


def run(arguments: Namespace) -> int:
    """Draw, write, print the paths; the exit code."""
    path = _checkpoint(arguments)
    try:
        import matplotlib  # noqa: F401 - now, not after minutes of computing
    except ImportError as error:
        raise FigureError("pictures are drawn with matplotlib: pip install matplotlib") from error
    with sheet.defaults():
        for file, content in _pictures(arguments, path):
            with output.mistakes(file):
                output.save(content, file)
            print(file, flush=True)
    return 0


def _checkpoint(arguments: Namespace) -> str:
    """The checkpoint, which may be named in two ways."""
    given = {name for name in (arguments.checkpoint, arguments.model_path) if name is not None}
    if len(given) == 2:
        raise FigureError(
            f"CHECKPOINT is {arguments.checkpoint} and --model-path is {arguments.model_path}: name one"
        )
    if not given:
        raise FigureError(f"name a checkpoint, as in: python -m capsnet {arguments.command} out/quickstart")
    return given.pop()


def _pictures(arguments: Namespace, path: str) -> Iterator[Picture]:
    if arguments.command == "curves":
        return _curves(arguments, path)
    kind = "" if arguments.command == ALL else f" {arguments.command}"
    require_checkpoints([path], f"python -m runner figures RUN{kind}")
    trained = load_trained(path, best=arguments.best, data=arguments.data)
    if getattr(arguments, "seed", None) is None:
        arguments.seed = trained.config.seed
    return _all(arguments, trained) if arguments.command == ALL else _one(arguments, trained)


def _one(arguments: Namespace, trained: Trained) -> Iterator[Picture]:
    """A picture of the kind asked for; of an image in motion an animation and a chart."""
    kind = arguments.command
    require(kind, trained.config)
    if kind == "rotate":
        return _rotate(arguments, trained)
    file = _file(arguments, output.folder_of(trained.path) / f"{kind}.png")
    return iter([(file, sheet.png(_drawn(arguments, trained)))])


def _drawn(arguments: Namespace, trained: Trained) -> Figure:
    subject, test, seed = _subject(trained), trained.test(), arguments.seed
    count = _count(arguments)
    match arguments.command:
        case "confusion":
            return confusion.picture(trained.config, test, subject.answers(test))
        case "reconstruct":
            return reconstruct.picture(subject, test, subject.answers(test), seed, count)
        case "overlap":
            return overlap.picture(subject, test, subject.answers(test), seed, count)
    sample, label = choose(test, seed, sample=arguments.sample, digit=arguments.digit)
    match arguments.command:
        case "perturb":
            return perturb.picture(subject, test, sample, label)
        case "couplings":
            return couplings.picture(subject, test, seed, sample, count)
    decoder = primary.train(subject, trained.train(), seed, arguments.steps, _say)
    return primary.picture(subject, decoder, test, sample)


def _rotate(arguments: Namespace, trained: Trained) -> Iterator[Picture]:
    """The animation is there before the chart, which takes longer; a file of one kind is that one only."""
    folder, name = output.folder_of(trained.path), arguments.map
    if arguments.output is None:
        files = [output.checked(folder / f"{name}{suffix}", (suffix,)) for suffix in (".gif", ".png")]
    else:
        files = [_file(arguments, folder, (".png", ".gif"))]
    if arguments.images is not None and all(file.suffix.lower() == ".gif" for file in files):
        raise FigureError(f"--images {arguments.images} is of the chart: {files[0]} shows one image only")
    subject, test, seed, motion = _subject(trained), trained.test(), arguments.seed, rotate.MOTIONS[name]
    sample, _ = choose(test, seed, sample=arguments.sample, digit=arguments.digit)
    seen = rotate.moved(subject, test[sample : sample + 1], sample, motion)
    for file in files:
        if file.suffix.lower() == ".gif":
            yield file, animation.gif(seen)
        else:
            some = test[spread_out(torch.arange(len(test)), _count(arguments), seed, "rotate")]
            yield file, sheet.png(rotate.draw(seen, rotate.accuracies(subject, some, motion), len(some)))


def _curves(arguments: Namespace, path: str) -> Iterator[Picture]:
    """From a checkpoint, or from the table of metrics beside it where that is named or alone is left."""
    where, is_table = checkpoint.locate(path), Path(path).suffix == ".csv"
    table = Path(path) if is_table else checkpoint.history_path(where)
    if is_table or (table.exists() and not where.exists()):
        history, name = _read(table), table.absolute().parent.name
        where = table.with_name(CHECKPOINT)
    else:
        require_checkpoints([path], "python -m runner figures RUN curves")
        state = checkpoint.load(where)
        history, name = state["history"], state["config"]["name"]
    file = _file(arguments, output.folder_of(where) / "curves.png")
    yield file, sheet.png(curves.draw(history, name))


def _read(table: Path) -> list[Row]:
    try:
        history = read_history(table)
    except OSError as error:
        raise FigureError(f"{table}: {error.strerror}") from error
    except TypeError as error:  # what csv makes of fields that no column is named for
        raise FigureError(f"{table} holds no metrics by epoch: a line has more fields than names") from error
    except (ValueError, csv.Error) as error:
        raise FigureError(f"{table} holds no metrics by epoch: {error}") from error
    if any(not 0 <= row.get("epoch", -1) <= MOST_EPOCHS for row in history):
        raise FigureError(f"{table} holds no metrics by epoch")
    return history


def _all(arguments: Namespace, trained: Trained) -> Iterator[Picture]:
    folder = output.checked_folder(_named(arguments, output.folder_of(trained.path)))
    config = trained.config.model_copy(update={"seed": arguments.seed})
    history = checkpoint.load(trained.path)["history"]
    for kind, drawn in gallery(config, trained.network, trained.test(), trained.execution, history):
        yield output.checked(folder / f"{kind}.png", (".png",)), sheet.png(drawn)


def _file(arguments: Namespace, default: Path, suffixes: tuple[str, ...] = (".png",)) -> Path:
    return output.checked(_named(arguments, default), suffixes)


def _named(arguments: Namespace, default: Path) -> Path:
    """Where to, as the user says; `default` where nothing is said."""
    if arguments.output is None:
        return default
    if not arguments.output:
        raise FigureError("--output is empty: give it a name, or leave it out")
    return Path(arguments.output)


def _count(arguments: Namespace) -> int:
    """How many test images, as the user says or as is usual; 0 of a kind that shows one."""
    return getattr(arguments, "images", None) or IMAGES.get(arguments.command, 0)


def _subject(trained: Trained) -> Subject:
    return Subject(trained.config, trained.network, trained.execution)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
