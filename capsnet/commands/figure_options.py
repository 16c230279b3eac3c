"""Options of the commands that draw pictures. Imports nothing heavy."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from collections.abc import Callable

from capsnet.figures.kinds import ALL, DPI, DPI_RANGE, FORMATS, IMAGES, KINDS, MOTIONS, ORDERS, STEPS

Add = Callable[[str, str, str], ArgumentParser]  # a command's name, purpose, example -> its parser

OF_ONE_IMAGE = ("perturb", "rotate", "primary", "couplings")
WITHOUT_CHANCE = ("confusion",)
EXAMPLES = {
    "perturb": "out/quickstart --order effect",
    "rotate": "out/quickstart --map shear",
    "confusion": "out/quickstart --output confusion.pdf",
    "curves": "out/quickstart out/mnist_small/history.csv --label a --label b",
}
PLACE = "default: figures/ beside the checkpoint"


def add(command: Add) -> None:
    """Add a command for each kind of picture, and one for all that make sense."""
    for kind, purpose in KINDS.items():
        parser = command(kind, purpose, EXAMPLES.get(kind, "out/quickstart"))
        _checkpoint(parser, several=kind == "curves")
        if kind != "curves":
            _network(parser)
        if kind not in ("curves", *WITHOUT_CHANCE):
            _seed(parser)
        *others, last = (f".{name}" for name in (*FORMATS, *(["gif"] if kind == "rotate" else [])))
        parser.add_argument(
            "--output",
            metavar="FILE",
            help=f"a {', '.join(others)} or {last} file, in a folder that is there; {PLACE}",
        )
        _format(parser, ", or as FILE ends")
        _what(parser, kind)
    everything = command(ALL, "draw all pictures of a run that take seconds", "out/quickstart --format pdf")
    _checkpoint(everything)
    _network(everything)
    _seed(everything)
    everything.add_argument(
        "--output", metavar="FOLDER", help=f"made where it is missing, but not the folder it lies in; {PLACE}"
    )
    _format(everything, "")


def _checkpoint(parser: ArgumentParser, several: bool = False) -> None:
    alone = "a checkpoint, or the folder that has one"
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="*" if several else "?",
        help=f"{alone}, or a history.csv; several are drawn in one chart" if several else alone,
    )
    parser.add_argument("--model-path", metavar="CHECKPOINT", help="the same, as an option")
    each = "; once for each checkpoint" if several else ""
    parser.add_argument(
        "--label",
        metavar="TEXT",
        action="append",
        help=f"what the picture calls the run{each}; default: its name",
    )


def _network(parser: ArgumentParser) -> None:
    parser.add_argument("--best", action="store_true", help="the weights that did best on validation")
    parser.add_argument("--data", metavar="FOLDER", help="where the data set lies, if no longer there")


def _seed(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--seed", metavar="N", type=_number, help="chooses what is left to chance; default: the run's seed"
    )


def _format(parser: ArgumentParser, otherwise: str) -> None:
    parser.add_argument("--format", choices=FORMATS, help=f"default: {FORMATS[0]}{otherwise}")
    parser.add_argument(
        "--dpi",
        metavar="N",
        type=_dots,
        help=f"dots per inch; default: {DPI['png']}, of the images in a PDF or an SVG {DPI['pdf']}",
    )


def _what(parser: ArgumentParser, kind: str) -> None:
    if kind in OF_ONE_IMAGE:
        parser.add_argument("--sample", metavar="INDEX", type=_number, help="the test image, from 0")
        parser.add_argument("--digit", metavar="CLASS", type=_number, help="a test image of this class")
    if kind in IMAGES:
        count = IMAGES[kind]
        each = " right, and as many wrong" if kind in ("reconstruct", "overlap") else ""
        parser.add_argument(
            "--images",
            metavar="N",
            type=_positive,
            help=f"test images at most{each}; default: {count}",
        )
    if kind == "perturb":
        parser.add_argument(
            "--order",
            choices=ORDERS,
            default=ORDERS[0],
            help=f"of the dimensions: by number, or what changes most first; default: {ORDERS[0]}",
        )
    if kind == "rotate":
        parser.add_argument(
            "--map", choices=MOTIONS, default="rotate", help="what is done to the image; default: rotate"
        )
    if kind == "primary":
        parser.add_argument(
            "--steps",
            metavar="N",
            type=_positive,
            default=STEPS,
            help=f"of training the decoder; default: {STEPS}",
        )


def _number(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not _number(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _dots(text: str) -> int:
    least, most = DPI_RANGE
    if not least <= _number(text) <= most:
        raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
    return int(text)
