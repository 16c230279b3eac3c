"""Reading the situation in which the runs stand: whether they are served, and why each queued one waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner.commands.access import how_to_start
from runner.notes import Situation
from runner.output import PROGRAM
from runner.states import State

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.placement import Node, Request
    from runner.rows import Beat, Machine, Run
    from runner.store import Store

NEXT = 50  # queued runs that are listed without --all: those that are to start first
RECENT = 20  # ended ones


def current_runs(store: Store) -> list[Run]:
    """The runs worth a look in a queue of any length: what runs, what is next, what ended last; by number."""
    found = [*store.queue(at_most=NEXT), *store.runs([State.RUNNING]), *store.latest(RECENT)]
    # Three reads, in the order in which a run moves: none is missed, and the last that saw one is right.
    return sorted({run.id: run for run in found}.values(), key=lambda run: run.id)


def situation(access: Access) -> Situation:
    """The situation now. Why runs wait is known once a scheduler has said what its cluster has."""
    from runner.service import is_alive

    now = access.store.now()
    beat = access.store.scheduler_beat()
    served = beat is not None and is_alive(access.store, now)
    waits = _waits(access.store, beat) if served and beat else {}
    return Situation(now, served, waits, start=how_to_start(access.home))


def _waits(store: Store, beat: Beat) -> dict[int, str]:
    from runner import placement

    if beat.cores is None:  # it has just begun, and has not looked yet
        return {}
    queued = store.line()
    if not queued:
        return {}
    known = beat.machines or _in_one(beat)
    machines, nodes = _empty(known), _empty([machine for machine in known if not machine["leaving"]])
    # As the scheduler does: a GPU of a machine that is only closed is one that a run may want.
    requests = placement.resolve_all(queued, machines)
    running = placement.resolve_all(store.runs([State.RUNNING]), machines)
    return {**placement.waiting(requests, running, nodes), **_shut_out(requests, nodes, machines)}


def _shut_out(
    requests: Sequence[Request], nodes: Sequence[Node], leaving_too: Sequence[Node]
) -> dict[int, str]:
    """What to say of runs that could start, but only where nothing starts at the moment."""
    from runner.spread import fits

    if len(nodes) == len(leaving_too):
        return {}
    said = f"nothing starts at the moment where it could run: `{PROGRAM} status`"
    return {
        request.run_id: said
        for request in requests
        if not fits(request, nodes) and fits(request, leaving_too)
    }


def _in_one(beat: Beat) -> Sequence[Machine]:
    """What a scheduler of the first version says, which goes on while its queue is migrated: a sum."""
    cores, gpus = beat.cores or 0.0, int(beat.gpus or 0)
    return [{"name": "cluster", "gpus": gpus, "cpus": cores, "leaving": False}] if cores or gpus else []


def _empty(machines: Sequence[Machine]) -> list[Node]:
    """The machines with what they have in all: of what is free no beat tells."""
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
