"""Text as a terminal may show it: control characters and invisible ones are written as escapes."""

from __future__ import annotations

import sys
from typing import TextIO

LINES = "\n\t"  # stay where several lines are printed


def printable(text: str, keep: str = "") -> str:
    r"""`text` with what a terminal would obey or not show escaped as Python writes it: `\x1b[2J`, `\u202e`.

    These are control and format characters (such as bidirectional overrides), surrogates, and spaces other
    than the common one. Characters in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escaped(one) for one in text)


def say(text: object, stream: TextIO | None = None) -> None:
    """Print lines of text, made printable, on `stream` (default: stdout) at once."""
    print(printable(str(text), LINES), file=stream or sys.stdout, flush=True)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
