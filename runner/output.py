"""What commands print, and where: data on stdout, hints on stderr, colours and bars on a terminal only."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

import typer

from runner import exits

PROGRAM = "python -m runner"  # as hints spell it: works wherever the package is importable

STYLES = {
    "RUNNING": "cyan",
    "FINISHED": "green",
    "FAILED": "bold red",
    "CANCELLED": "dim",
    "INTERRUPTED": "yellow",
}


class CommandError(Exception):
    """A command that cannot be obeyed: one line that says why and what to do; exit code 2."""


class Column(NamedTuple):
    title: str
    right: bool = False  # aligned to the right, as numbers are
    wraps: bool = False  # may take more than one line on a narrow terminal


def interactive(stream: TextIO) -> bool:
    """Whether somebody looks at `stream` on a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def emit(text: str) -> None:
    """Data for the caller, at once, so that a pipe sees it before the command ends."""
    with unread_is_fine():
        print(text, flush=True)


def emit_bytes(data: bytes) -> None:
    """The same for what was written elsewhere, as it is."""
    with unread_is_fine():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def unread_is_fine() -> Iterator[None]:
    """End the command in silence when nobody reads its output any more (`queue | head -1`)."""
    try:
        yield
    except BrokenPipeError:
        # What is still in the buffer would fail once more, and loudly, when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(exits.UNREAD) from None


def one_line(error: Exception) -> str:
    """What to say of an error; those of the system lead with what they are about."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def hint(text: str) -> None:
    """What helps a person and would disturb a script."""
    print(text, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """One JSON document; NaN and infinity, which JSON lacks, become null."""
    emit(json.dumps(finite(value), indent=2, allow_nan=False, default=str))


def finite(value: Any) -> Any:
    """`value` with every number that JSON cannot write replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def emit_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table: coloured and fitted to a terminal, or plain aligned lines for everything else."""
    if not interactive(sys.stdout):
        emit("\n".join(plain_table(columns, rows)))
        return
    from rich.console import Console

    Console().print(rich_table(columns, rows))


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines, the titles first, two spaces between columns."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    ]


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Any:
    """The same as a rich table; a cell that is a state's name gets its colour."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=not column.wraps, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def confirm(question: str, yes: bool, otherwise: str = "nothing was deleted") -> None:
    """Ask before something is done that is hard to undo; `otherwise`: what to say where the answer is no.

    Raises CommandError where the answer is no, and where nobody can answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can answer without a terminal: add --yes")
    if not typer.confirm(question, err=True):
        raise CommandError(otherwise)
