"""What the library says by the way, as plain lines: what was picked, what takes long, what went otherwise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def shown(stream: TextIO) -> Iterator[None]:
    """Print what capsnet logs, and every warning, for as long as this lasts."""

    def show(message: Warning | str, *_: object) -> None:
        print(f"warning: {message}", file=stream, flush=True)

    log = logging.getLogger("capsnet")
    handler = logging.StreamHandler(stream)
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
