"""Reading the situation in which the runs stand: whether they are served, and why each queued one waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runner.notes import Situation
from runner.states import State

if TYPE_CHECKING:
    from runner.placement import Node
    from runner.rows import Beat
    from runner.store import Store


def situation(store: Store) -> Situation:
    """The situation now. Why runs wait is known once a scheduler has said what its cluster has."""
    from runner.service import is_alive

    now = time.time()
    beat = store.scheduler_beat()
    served = beat is not None and is_alive(store, now)
    return Situation(now, served, _waits(store, beat) if served and beat else {})


def _waits(store: Store, beat: Beat) -> dict[int, str]:
    from runner import placement

    queued = store.queue()
    if not queued:
        return {}
    nodes = [_whole_cluster(beat)]
    running = store.runs([State.RUNNING])
    return placement.waiting(
        [placement.resolve(run, nodes) for run in queued],
        [placement.resolve(run, nodes) for run in running],
        nodes,
    )


def _whole_cluster(beat: Beat) -> Node:
    """The cluster as one machine: of its parts the beat knows only what they have in all."""
    from runner.placement import Node

    return Node("cluster", gpus=(), total_gpus=int(beat.gpus or 0), cpus=0.0, total_cpus=beat.cores or 0.0)
