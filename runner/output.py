"""Printing of commands: data on stdout, hints on stderr, colours and bars on a terminal only.

Text that may come from a configuration, a file's name or a library is printed through this module, which
hides secrets and escapes control characters.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer

from capsnet import layout, streams
from capsnet.layout import Cells, Column, Step
from capsnet.printable import LINES, printable
from capsnet.streams import interactive
from runner import exits
from runner.redaction import Redactor, redacted

if TYPE_CHECKING:
    from rich.text import Text

PROGRAM = "python -m runner"  # as hints spell it: works wherever the package is importable

COLOUR = re.compile(r"\x1b\[[\d;:]*m")  # what a program that colours its output prints

STYLES = {
    "RUNNING": "cyan",
    "FINISHED": "green",
    "FAILED": "bold red",
    "CANCELLED": "dim",
    "INTERRUPTED": "yellow",
}


class CommandError(Exception):
    """A command that cannot be obeyed: one line that says why and what to do; exit code 2."""


def shown(text: str) -> str:
    """Text of one or several lines as it may be printed: without secrets and raw control characters."""
    return printable(redacted(text), LINES)


def emit(text: str) -> None:
    """Print data for the caller, at once, so that a pipe sees it before the command ends."""
    _emit(shown(text))


def emit_exactly(text: str) -> None:
    """Print data that a program reads as it is, secrets included; a terminal gets no control characters."""
    _emit(printable(text, LINES) if sys.stdout.isatty() else text)


def _emit(text: str) -> None:
    with _written(), unread_is_fine():
        print(text, flush=True)


class Replay:
    """Printer of another process's output: to a program the bytes as they are, to a terminal plain text.

    There colours are dropped, a carriage return becomes a new line and other control characters are escaped.
    """

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        self._text = io.IncrementalNewlineDecoder(decoder, translate=True) if sys.stdout.isatty() else None

    def print(self, data: bytes) -> None:
        """Print the next piece, at once."""
        with _written(), unread_is_fine():
            if self._text is None:
                sys.stdout.buffer.write(data)
            else:
                sys.stdout.write(printable(COLOUR.sub("", self._text.decode(data)), LINES))
            sys.stdout.flush()


@contextmanager
def _written() -> Iterator[None]:
    """Raise CommandError where standard output takes nothing, as on a full disk."""
    try:
        yield
    except OSError as error:
        streams.lead_nowhere()
        raise CommandError(streams.unwritable(error)) from error


@contextmanager
def unread_is_fine() -> Iterator[None]:
    """End the command without a message when its output is read no more (`queue | head -1`)."""
    try:
        yield
    except BrokenPipeError:
        streams.lead_nowhere()
        raise typer.Exit(exits.UNREAD) from None


def one_line(error: Exception) -> str:
    """Return an error's text; that of a system error on a file begins with the file's name."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def hint(text: str) -> None:
    """Print what helps a person and would disturb a script."""
    say(text, sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Print text for a person on `stream`, at once."""
    print(shown(text), file=stream, flush=True)


def emit_json(value: Any) -> None:
    """Print one JSON document; NaN and infinity, which JSON lacks, become null, and secrets asterisks."""
    _emit(json.dumps(_as_json(value, Redactor()), indent=2, allow_nan=False, default=str))


def _as_json(value: Any, redact: Redactor) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _as_json(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item, redact) for item in value]
    return value


def emit_table(
    columns: Sequence[Column], rows: Sequence[Cells], gives_way: Sequence[Step] = (), elsewhere: str = ""
) -> None:
    """Print a table: fitted to a terminal by the steps of `gives_way`, as wide as it is to everything else.

    `elsewhere`: what has the columns that are left out, beside a wider terminal.
    """
    fitted = layout.fit(columns, cells(rows), streams.terminal_width(), gives_way)
    _emit_lines(table_lines(fitted))
    if fitted.left_out:
        hint(lacks_width(fitted.left_out, elsewhere))


def emit_side_by_side(columns: Sequence[Column], rows: Sequence[Cells]) -> None:
    """Print a table that leaves out nothing: on a narrow terminal in several blocks, below each other."""
    lines: list[Cells] = []
    titles: list[int] = []
    for block in layout.side_by_side(columns, cells(rows), streams.terminal_width()):
        lines += [[""]] if lines else []
        titles.append(len(lines))
        lines += [block.titles, *block.lines]
    _emit_lines(lines, titles)


def lacks_width(left_out: Sequence[str], elsewhere: str) -> str:
    """Say for which columns a terminal is too narrow, and where they are."""
    return f"too narrow for {', '.join(left_out)}: a wider terminal or {elsewhere} shows more"


def cells(rows: Sequence[Sequence[str]]) -> list[Cells]:
    """Return the cells of a table, each of one line, without secrets and raw control characters."""
    redact = Redactor()
    return [[printable(redact(cell)) for cell in row] for row in rows]


def plain_table(
    columns: Sequence[Column],
    rows: Sequence[Cells],
    width: int | None = None,
    gives_way: Sequence[Step] = (),
) -> list[str]:
    """Aligned lines, the titles first; fitted to `width` cells by the steps of `gives_way`."""
    fitted = layout.fit(columns, cells(rows), width, gives_way)
    return [layout.line(line) for line in table_lines(fitted)]


def table_lines(fitted: layout.Fitted) -> list[Cells]:
    """Return the lines of a table; one that stands below a row is one cell."""
    lines = [fitted.titles]
    for row in fitted.rows:
        lines += [row.cells, *([text] for text in row.below)]
    return lines


def _emit_lines(lines: Sequence[Cells], titles: Sequence[int] = (0,)) -> None:
    """Print the lines of a table, `titles` being the numbers of those that hold titles."""
    if not interactive(sys.stdout):
        _emit("\n".join(map(layout.line, lines)))
        return
    from rich.console import Console

    with _written(), unread_is_fine():
        Console(highlight=False).print(styled(lines, titles), soft_wrap=True)


def styled(lines: Sequence[Cells], titles: Sequence[int] = (0,)) -> Text:
    """Return the lines of a table as rich text: titles bold, a cell that is a state's name in its colour."""
    from rich.text import Text

    def styled_line(cells: Cells, style: str) -> Text:
        gap = Text(" " * layout.GAP)
        text = gap.join(Text(cell, style or STYLES.get(cell.strip(), "")) for cell in cells)
        text.rstrip()
        return text

    every = (styled_line(line, "bold" if number in titles else "") for number, line in enumerate(lines))
    return Text("\n").join(every)


def confirm(question: str, yes: bool, otherwise: str = "nothing was deleted") -> None:
    """Ask before something is done that is hard to undo; `otherwise`: what to say where the answer is no.

    Raises CommandError where the answer is no, and where nobody can answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can answer without a terminal: add --yes")
    if not typer.confirm(shown(question), err=True):
        raise CommandError(otherwise)
