"""Notices of the library as plain lines: its choices, long waits, and differences from what was asked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from capsnet.printable import LINES, printable, say


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), LINES)


@contextmanager
def shown(stream: TextIO) -> Iterator[None]:
    """Print what capsnet logs, and every warning, within the `with` block."""

    def show(message: Warning | str, *_: object) -> None:
        say(f"warning: {message}", stream)

    log = logging.getLogger("capsnet")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Printable())
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
