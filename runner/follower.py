"""A worker of rank 1 or higher: it trains with the others, and saves, reports and decides nothing.

Rank 0 is the attempt's worker (runner.attempt). It says where the group meets; the scheduler passes that on.
It reports how it ended only when the scheduler asks, and writes nothing but its log.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from runner import loading
from runner.attempt import Assignment, Standing, explained, hindrance, place_taken
from runner.orders import Orders
from runner.run_files import EndingKind

if TYPE_CHECKING:
    from capsnet.config import Config


def follow(assignment: Assignment, orders: Orders, standing: Standing) -> None:
    """Train with rank 0 for as long as rank 0 trains; the scheduler ends the process."""
    prevented = hindrance()
    if taken := place_taken(assignment, standing, patient=prevented is None):
        kind, reason = prevented or ("failed", taken)
    else:
        kind, reason = prevented or _followed(assignment, orders)
    try:
        standing.place.settle(0.0, standing.note_trouble)
    except OSError as error:
        print(f"not all of this log is kept: {error}", flush=True)
    standing.place.leave()
    standing.end(kind, reason)


def _followed(assignment: Assignment, orders: Orders) -> tuple[EndingKind, str | None]:
    """Train with rank 0, and return how it ended, and why."""
    from capsnet.group import GroupLost

    try:
        _train(assignment, loading.parse(assignment.config, str(assignment.run_paths.config)).config, orders)
    except GroupLost as error:
        print(f"rank {assignment.rank} ends: {error}", flush=True)
        return "stopped", None
    except BaseException as error:  # SystemExit too: a thread that just ends would hold its GPU for ever
        return "failed", explained(error, assignment)
    return "finished", None


def _train(assignment: Assignment, config: Config, orders: Orders) -> None:
    from capsnet import notices, training
    from capsnet.execution import device_of
    from capsnet.group import meeting

    where = orders.meeting()
    who = f"run {assignment.run} ({assignment.name}), attempt {assignment.attempt}"
    rank = f"worker of rank {assignment.rank} of {assignment.workers}"
    print(f"{who}: {rank} on {socket.gethostname()}, pid {os.getpid()}, joins {where}", flush=True)
    with (
        notices.shown(sys.stdout),
        meeting(assignment.rank, assignment.workers, where, device_of(config)) as group,
    ):
        for _ in training.train(config, group=group):
            raise AssertionError("rank 0 alone is told where the run stands")
