"""The command line: `python -m capsnet train|evaluate|summary`, and a command for each kind of picture."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

from capsnet import notices, streams
from capsnet.commands import figure_options
from capsnet.exits import FAILED, INTERRUPTED, MISTAKE
from capsnet.figures.kinds import ALL, KINDS, FigureError
from capsnet.printable import LINES, printable, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors that a user can mend are one line, no traceback."""
    if reason := streams.prepare():
        print(f"error: {reason}", file=sys.stderr)
        return MISTAKE
    parsed = parser().parse_args(arguments)
    with notices.shown(sys.stderr):
        try:
            code = _run(parsed)
        except KeyboardInterrupt:
            say("stopped", sys.stderr)
            code = INTERRUPTED
    if (reason := streams.flushed()) is None:
        return code
    if reason:
        say(f"failed: {reason}", sys.stderr)
    return code or FAILED


def _run(parsed: Namespace) -> int:
    # Nothing above imports PyTorch, so that `--help` and a misspelt command answer at once.
    from capsnet.config import ConfigError
    from capsnet.group import GroupError
    from capsnet.images import DataError
    from capsnet.state import CheckpointError
    from capsnet.training import TrainingError

    try:
        if parsed.command == "train":
            from capsnet.commands import train as command
        elif parsed.command == "evaluate":
            from capsnet.commands import evaluate as command
        elif parsed.command in (*KINDS, ALL):
            from capsnet.commands import figures as command
        else:
            from capsnet.commands import summary as command
        return command.run(parsed)
    except ConfigError as error:
        say(error, sys.stderr)
    except (CheckpointError, DataError, FigureError) as error:
        say(f"error: {error}", sys.stderr)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        streams.lead_nowhere()
        return FAILED
    except (TrainingError, GroupError, OSError) as error:  # OSError: the disk is full, say
        say(f"failed: {error}", sys.stderr)
        return FAILED
    return MISTAKE


class Parser(ArgumentParser):
    """Argument parser that escapes control characters in what it quotes of the command line."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message, LINES), file)


def parser() -> ArgumentParser:
    """Return the parser of the command line."""
    top = Parser(
        prog="python -m capsnet",
        description="Train and study capsule networks.",
        epilog="example: python -m capsnet train experiments/quickstart.yaml",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = _command(commands, "train", "train as a YAML file says", "experiments/quickstart.yaml")
    _file(train)
    train.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint of the same file's earlier run"
    )
    evaluate = _command(
        commands, "evaluate", "test a saved network, or several as an ensemble", "out/quickstart --json"
    )
    evaluate.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="+",
        help="a checkpoint, or the folder that has one; the lengths that several give are added",
    )
    evaluate.add_argument("--best", action="store_true", help="the weights that did best on validation")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument(
        "--dataset", metavar="NAME", help="test on another data set, of images of the same size, as affnist"
    )
    evaluate.add_argument("--data", metavar="FOLDER", help="where the data set lies, if no longer there")
    _file(_command(commands, "summary", "show a network's layers", "experiments/quickstart.yaml"))
    figure_options.add(partial(_command, commands))
    return top


def _command(commands: argparse._SubParsersAction, name: str, purpose: str, example: str) -> ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example: python -m capsnet {name} {example}",
    )


def _file(command: ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help="a YAML file, as in experiments/")
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="instead of what the file says; a list: 'optim.milestone=[10,20]'; a section: "
        "'optim={lr: 0.01}'; another kind: model=cnn; nothing: threads=null",
    )
