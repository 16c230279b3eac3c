"""The standard streams of a program that starts: open, and able to take any text. Standard library only."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

CLOSED = "standard output is closed: run this with it open, as in >/dev/null"


def prepare() -> str | None:
    """Make the standard streams usable; return the reason, in one line, where this program cannot print.

    Characters that a stream's encoding lacks are replaced. A stream that was closed, as by `2>&-`, is opened
    on /dev/null: otherwise the next file that is opened gets its number, and printed text goes there.
    """
    closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the number of the first one that is free is its own
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - it stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    return CLOSED if closed else None


def interactive(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether `stream` is a terminal that shows only the last state of a line that is redrawn.

    A notebook is none, although it runs `!command` on a pseudo-terminal: its cell keeps every state.
    """
    return stream.isatty() and environ.get("TERM") != "dumb" and not _in_notebook(environ)


def _in_notebook(environ: Mapping[str, str]) -> bool:
    """Return whether a Jupyter kernel started this program; some front ends set only the second variable."""
    return "JPY_PARENT_PID" in environ or "inline" in environ.get("MPLBACKEND", "")


def flushed() -> str | None:
    """Flush standard output; return the reason, in one line, where that fails.

    The reason is empty where the reader has closed the pipe. After a failure standard output is discarded, as
    Python would otherwise fail again at its end, with a traceback.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        lead_nowhere()
        return "" if isinstance(error, BrokenPipeError) else unwritable(error)
    return None


def unwritable(error: OSError) -> str:
    """The reason why standard output could not be written, in one line."""
    return f"standard output cannot be written: {error.strerror or error}"


def lead_nowhere() -> None:
    """Send standard output to /dev/null, with what it still holds."""
    opened = os.open(os.devnull, os.O_WRONLY)
    os.dup2(opened, sys.stdout.fileno())
    os.close(opened)


def terminal_width() -> int | None:
    """Return the width, in cells, of the terminal that standard output is; None where it is none, as a pipe.

    COLUMNS, where it is set, takes precedence over the terminal's own width, but gives a pipe no width.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
