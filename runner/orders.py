"""Orders of the scheduler to an attempt, for its two threads: one receives them, the other obeys."""

from __future__ import annotations

import threading
import time

UNHEARD_SECONDS = 60.0  # after which a worker takes its host for cut off


class Orders:
    """Thread-safe; times are monotonic, so that a stopped process knows on waking how long it slept."""

    def __init__(self, unheard_seconds: float = UNHEARD_SECONDS) -> None:
        self._unheard_seconds = unheard_seconds
        self._heard_at = time.monotonic()
        self._stop = threading.Event()
        self._meeting = ""
        self._told = threading.Event()

    def heard(self) -> None:
        """Note that somebody has asked for this attempt; too late is as good as never."""
        if not self.abandoned:  # of a process that was stopped, what it was asked meanwhile is answered first
            self._heard_at = time.monotonic()

    def stop(self) -> None:
        self._stop.set()

    def meet(self, address: str) -> None:
        """Tell where rank 0 waits for the others of its run."""
        self._meeting = address
        self._told.set()

    def meeting(self) -> str:
        """Where that is, as soon as it is told."""
        self._told.wait()
        return self._meeting

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def abandoned(self) -> bool:
        """Nobody has asked for so long that the run may be going on elsewhere."""
        return time.monotonic() - self._heard_at > self._unheard_seconds
