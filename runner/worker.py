"""Actor of one attempt: it answers at once, while a thread of its own trains.

It never uses the database: it answers the scheduler's questions and obeys its orders.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from runner import settings
from runner.attempt import Assignment, Standing, leave, perform
from runner.follower import follow
from runner.orders import Orders
from runner.output_log import log_to

WATCH_SECONDS = 1.0


class Worker:
    """Actor of one attempt, in a process of its own; arguments and answers are plain (`runner.protocol`)."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        assignment = Assignment.of(values)
        self._orders = Orders()
        settings.adopt(assignment.settings)
        place = assignment.workplace
        self._standing = Standing(assignment, place)
        if assignment.gpus == 0:  # a cluster that was not started by us shows such an actor every GPU
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        place.open()
        log_to(assignment.paths.log_of(assignment.rank))
        work = follow if assignment.rank else perform
        threading.Thread(target=work, args=(assignment, self._orders, self._standing), daemon=True).start()
        threading.Thread(target=_leave_when_abandoned, args=(self._orders,), daemon=True).start()

    def status(self) -> dict[str, Any]:
        """Return the attempt's status; without calls for a while the attempt ends itself."""
        self._orders.heard()
        return self._standing.status.plain()

    def meet(self, address: str) -> None:
        """Let this worker join the other workers of the run at `address`."""
        self._orders.meet(address)

    def stop(self) -> None:
        """Save and stop."""
        self._orders.stop()
        self._standing.end_unless_training()


def _leave_when_abandoned(orders: Orders) -> None:
    """End this process once no scheduler asks for it: the run goes on from its checkpoint elsewhere."""
    while not orders.abandoned:
        time.sleep(WATCH_SECONDS)
    leave()
