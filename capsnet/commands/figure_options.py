"""What the commands that draw pictures take. Imports nothing heavy."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from collections.abc import Callable

from capsnet.figures.kinds import ALL, IMAGES, KINDS, MOTIONS, STEPS

Add = Callable[[str, str, str], ArgumentParser]  # a command's name, purpose, example -> its parser

OF_ONE_IMAGE = ("perturb", "rotate", "primary", "couplings")
WITHOUT_CHANCE = ("confusion",)


def add(command: Add) -> None:
    """Add a command for each kind of picture, and one for all that make sense."""
    for kind, purpose in KINDS.items():
        parser = command(kind, purpose, f"out/quickstart{' --map shear' if kind == 'rotate' else ''}")
        _checkpoint(parser)
        if kind != "curves":
            _network(parser)
        if kind not in ("curves", *WITHOUT_CHANCE):
            _seed(parser)
        suffixes = ".png or .gif" if kind == "rotate" else ".png"
        parser.add_argument(
            "--output", metavar="FILE", help=f"a {suffixes} file; default: figures/ beside the checkpoint"
        )
        _what(parser, kind)
    everything = command(ALL, "draw all pictures of a run that take seconds", "out/quickstart")
    _checkpoint(everything)
    _network(everything)
    _seed(everything)
    everything.add_argument("--output", metavar="FOLDER", help="default: figures/ beside the checkpoint")


def _checkpoint(parser: ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="a checkpoint, or the folder that has one"
    )
    parser.add_argument("--model-path", metavar="CHECKPOINT", help="the same, as an option")


def _network(parser: ArgumentParser) -> None:
    parser.add_argument("--best", action="store_true", help="the weights that did best on validation")
    parser.add_argument("--data", metavar="FOLDER", help="where the data set lies, if no longer there")


def _seed(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--seed", metavar="N", type=_number, help="chooses what is left to chance; default: the run's seed"
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
