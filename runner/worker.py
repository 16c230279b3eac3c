"""The actor of one attempt: answers at once, while a thread of its own trains.

It never touches the database; what the scheduler asks, it answers, and what it is told, it does.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from runner.attempt import Assignment, Standing, Status, leave, perform
from runner.orders import Orders

WATCH_SECONDS = 1.0


class Worker:
    """Ray makes one in a process of its own; a plain class to everybody else."""

    def __init__(self, assignment: Assignment) -> None:
        self._orders = Orders()
        self._standing = Standing(assignment)
        _log_to(assignment.paths.log)
        threading.Thread(target=perform, args=(assignment, self._orders, self._standing), daemon=True).start()
        threading.Thread(target=_leave_when_abandoned, args=(self._orders,), daemon=True).start()

    def status(self) -> Status:
        """Return where the attempt stands; being asked is what keeps it alive."""
        self._orders.heard()
        return self._standing.status

    def stop(self) -> None:
        """Save and stop."""
        self._orders.stop()
        self._standing.end_unless_training()


def _log_to(path: Path) -> None:
    """Send everything that this process prints, C code and warnings included, to the attempt's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    faulthandler.enable(sys.stderr)


def _leave_when_abandoned(orders: Orders) -> None:
    """End a process that waits, hangs or reports to nobody: the run goes on from its checkpoint elsewhere."""
    while not orders.abandoned:
        time.sleep(WATCH_SECONDS)
    leave()
