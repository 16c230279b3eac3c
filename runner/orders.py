"""Orders of the scheduler to an attempt, for its two threads: one receives them, the other obeys."""

from __future__ import annotations

import threading
import time

UNHEARD_SECONDS = 60.0  # after which a worker takes its host for cut off


class Orders:
    """Orders to one attempt; thread-safe. Times are monotonic, to tell for how long a process was stopped."""

    def __init__(self, unheard_seconds: float = UNHEARD_SECONDS) -> None:
        self._unheard_seconds = unheard_seconds
        self._heard_at = time.monotonic()
        self._stop = threading.Event()
        self._meeting = ""
        self._told = threading.Event()

    def heard(self) -> None:
        """Note that the attempt's status was asked for; without effect once it is abandoned."""
        if not self.abandoned:  # a process that was stopped first answers the questions of that time
            self._heard_at = time.monotonic()

    def stop(self) -> None:
        self._stop.set()

    def meet(self, address: str) -> None:
        """Set the address at which rank 0 waits for the other workers of its run."""
        self._meeting = address
        self._told.set()

    def meeting(self) -> str:
        """Wait until the address of `meet` is set, and return it."""
        self._told.wait()
        return self._meeting

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def abandoned(self) -> bool:
        """Whether the status was not asked for so long that the run may be going on elsewhere."""
        return time.monotonic() - self._heard_at > self._unheard_seconds
