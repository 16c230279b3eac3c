"""What the library says by the way, through logging, as plain lines: what was picked, what will take long."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def shown(stream: TextIO) -> Iterator[None]:
    """Print what capsnet says by the way, for as long as this lasts."""
    log = logging.getLogger("capsnet")
    handler = logging.StreamHandler(stream)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
