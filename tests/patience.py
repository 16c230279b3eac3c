"""Time limit of tests that wait for an event: one for all of them, far beyond the time of a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

PATIENCE = 240.0  # seconds; most of it comes within one. pytest's own limit for a test is longer


def wait_until(
    condition: Callable[[], Value | None],
    what: str | Callable[[], object] = "it",
    interval: float = 0.02,
    seconds: float = PATIENCE,
) -> Value:
    """Return the condition's first true value; fail when there is none in time.

    `what`: what is waited for, or what tells how far it is.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(interval)
    raise AssertionError(f"{what if isinstance(what, str) else what()}: not within {seconds:g} s")
