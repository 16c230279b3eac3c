"""The clock of a server, read without asking it each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from runner.database import Unreachable

REFRESH_SECONDS = 60.0  # between two questions: clocks drift apart by milliseconds in that time
PROMPT_SECONDS = 0.5  # an answer that took longer is asked for once more


class ServerClock:
    """Time of the server's clock: its answer when last asked, plus the time that has passed here since.

    This machine's own clock plays no part: it may be an hour off, and may be set.
    """

    def __init__(self, ask: Callable[[], float], passed: Callable[[], float] | None = None) -> None:
        """`ask` is the server's time in unix seconds, or raises Unreachable; `passed` counts seconds here."""
        self._ask = ask
        self._passed = passed or seconds_since_start
        self._asking = threading.Lock()
        self._ahead: float | None = None  # of the seconds counted here
        self._asked_at = float("-inf")

    def now(self) -> float:
        """Return the server's time, reckoned from its last answer while it does not answer.

        Raises Unreachable where it has never answered.
        """
        if self._ahead is None or self._passed() - self._asked_at >= REFRESH_SECONDS:
            self._refresh()
        assert self._ahead is not None
        return self._passed() + self._ahead

    def _refresh(self) -> None:
        if not self._asking.acquire(blocking=self._ahead is None):
            return  # another thread asks, and may wait for a server that hangs
        try:
            for _ in range(2):
                before = self._passed()
                said = self._ask()
                self._asked_at = self._passed()
                self._ahead = said - (before + self._asked_at) / 2
                if self._asked_at - before < PROMPT_SECONDS:
                    break  # else it had to connect first, perhaps for long: the middle is not when it looked
        except Unreachable:
            self._asked_at = self._passed()  # so that not every look waits for the server
            if self._ahead is None:
                raise
        finally:
            self._asking.release()


def seconds_since_start() -> float:
    """Return the seconds since the machine started, with those asleep where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
