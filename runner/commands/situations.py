"""Reading the situation in which the runs stand: whether they are served, and why queued ones wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner.commands.access import how_to_start
from runner.notes import Situation
from runner.output import PROGRAM
from runner.states import State

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.placement import Node, Request, Wanted
    from runner.rows import Beat, Machine, Run
    from runner.store import Store

FIRST_LOOK_SECONDS = 3.0  # within which a scheduler that has begun says what its cluster has
POLL_SECONDS = 0.1
NEXT = 50  # queued runs that are listed without --all: those that are to start first
RECENT = 20  # ended ones


class Cluster(NamedTuple):
    """Machines that a scheduler knows, with their total resources: a beat does not report what is free."""

    machines: list[Node]
    staying: list[Node]  # those of them that are not leaving


def current_runs(store: Store) -> list[Run]:
    """Return the most current runs, by number: those that run, those that are next, those that ended last."""
    found = [*store.queue(at_most=NEXT), *store.runs([State.RUNNING]), *store.latest(RECENT)]
    # Three reads, in the order in which a run moves: none is missed, and the last that saw one is right.
    return sorted({run.id: run for run in found}.values(), key=lambda run: run.id)


def situation(access: Access) -> Situation:
    """Return the situation now. Why runs wait is known once a scheduler has said what its cluster has."""
    now = access.store.now()
    beat = _serving(access.store, now)
    waits = {} if beat is None else _waits(access.store, beat)
    return Situation(now, beat is not None, waits, start=how_to_start(access.home))


def number_of_gpus(store: Store) -> int:
    """Return the GPUs of the cluster that serves the queue; one that has just begun is waited for a moment.

    0 where none are known.
    """
    deadline = time.monotonic() + FIRST_LOOK_SECONDS
    while (beat := _serving(store, store.now())) is not None:
        if (cluster := _cluster(beat)) is not None:
            return sum(machine.total_gpus for machine in cluster.staying)
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    return 0


def hopeless(store: Store, runs: Sequence[Wanted]) -> dict[int, str]:
    """Return why runs can never start on the machines that there are, by number; without those that can.

    Returns nothing, without waiting, before a scheduler has said what its cluster has.
    """
    from runner import placement
    from runner.spread import fits

    beat = _serving(store, store.now())
    cluster = None if beat is None else _cluster(beat)
    if cluster is None or not cluster.staying:
        return {}
    reasons = {
        request.run_id: placement.impossible(request, cluster.staying)
        for request in placement.resolve_all(runs, cluster.machines)
        if not fits(request, cluster.machines)
    }
    return {number: reason for number, reason in reasons.items() if reason is not None}


def _serving(store: Store, now: float) -> Beat | None:
    """Return the last beat of the scheduler that serves the queue; None where none does."""
    from runner.service import is_alive

    beat = store.scheduler_beat()
    return beat if beat is not None and is_alive(store, now) else None


def _waits(store: Store, beat: Beat) -> dict[int, str]:
    from runner import placement

    cluster = _cluster(beat)
    if cluster is None:
        return {}
    queued = store.line()
    if not queued:
        return {}
    # As the scheduler does: a GPU of a machine that is only closed is one that a run may want.
    requests = placement.resolve_all(queued, cluster.machines)
    running = placement.resolve_all(store.runs([State.RUNNING]), cluster.machines)
    return {**placement.waiting(requests, running, cluster.staying), **_shut_out(requests, cluster)}


def _shut_out(requests: Sequence[Request], cluster: Cluster) -> dict[int, str]:
    """Return, by run, a remark on runs that fit only with the machines where nothing starts at the moment."""
    from runner.spread import fits

    if len(cluster.staying) == len(cluster.machines):
        return {}
    said = f"nothing starts at the moment where it could run: `{PROGRAM} status`"
    return {
        request.run_id: said
        for request in requests
        if not fits(request, cluster.staying) and fits(request, cluster.machines)
    }


def _cluster(beat: Beat) -> Cluster | None:
    """Return the cluster that a beat describes; None where a new scheduler has not looked at it yet."""
    if beat.cores is None:
        return None
    known = beat.machines or _in_one(beat)
    return Cluster(_empty(known), _empty([machine for machine in known if not machine["leaving"]]))


def _in_one(beat: Beat) -> Sequence[Machine]:
    """Return the cluster as one machine, for the beat of a scheduler of the first version.

    Such a scheduler reports only sums over the cluster, and goes on while its queue is migrated.
    """
    cores, gpus = beat.cores or 0.0, int(beat.gpus or 0)
    return [{"name": "cluster", "gpus": gpus, "cpus": cores, "leaving": False}] if cores or gpus else []


def _empty(machines: Sequence[Machine]) -> list[Node]:
    """Return the machines, and nothing of them free."""
    from runner.placement import Node

    return [
        Node(
            machine["name"],
            gpus=(),
            total_gpus=machine["gpus"],
            cpus=0.0,
            total_cpus=machine["cpus"],
        )
        for machine in machines
    ]
