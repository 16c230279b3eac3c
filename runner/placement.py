"""Placement of queued runs on machines: lists in, starts out. Pure: equal lists give equal starts.

A run starts on one machine. Only a run of several workers that no machine could hold is spread over several
(runner.spread); it starts with all of them or not at all. The order is strict among runs that need the same.
A run that fits the cluster but has to wait is overtaken only by runs that do not delay it: of the runs that
need GPUs, and of those that need none, the first that must wait keeps one machine, the one that lacks least
of what it needs, and the runs behind it keep what is left of that machine. All other machines are filled with
whatever fits, so that one large run idles one machine and not the cluster. No run is starved: what the kept
machine lacks only becomes less from one decision to the next, also where another machine is then nearer and
is kept instead, and each waiting run is the first of its kind one day. A run that spans machines keeps, when
it is the first, the largest ones that hold it. A run that can never fit, or waits for another run's files or
for a machine on which nothing starts at the moment, delays no other run: no run waits for such a machine
while another one will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runner import spread
from runner.room import DIGITS, Node, Request, Room
from runner.rows import Auto

__all__ = [
    "Node",
    "Plan",
    "Request",
    "Start",
    "Wanted",
    "impossible",
    "place",
    "plan",
    "resolve",
    "resolve_all",
    "waiting",
]


class Wanted(Protocol):
    """Needs of a run, as its row states them."""

    @property
    def id(self) -> int: ...
    @property
    def gpus(self) -> float | Auto: ...
    @property
    def cpus(self) -> float | Auto: ...
    @property
    def loader_workers(self) -> int: ...
    @property
    def workers(self) -> int: ...
    @property
    def exclusive(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Start:
    """A run is to start on a node, and hold this much of it; of several workers, all of them together."""

    run_id: int
    node: str
    gpus: float
    cpus: float
    others: tuple[str, ...] = ()  # the nodes of its workers after the first


@dataclass(frozen=True)
class Plan:
    """Runs to start now, and the nodes that are kept for runs that must wait."""

    starts: list[Start]
    kept: Mapping[int, str]
    kept_as_well: frozenset[str] = frozenset()  # the further nodes that are kept for a run that spans several


def resolve(run: Wanted, nodes: Sequence[Node]) -> Request:
    """Return the needs of a run on these nodes, with numbers in place of "auto".

    "auto" means one GPU for each worker where the cluster has any; without a GPU the cores of the largest
    machine, with one a core for each worker and one for each process that loads its data.
    """
    return Request(run.id, *_needed(run, nodes), run.exclusive, run.workers)


def resolve_all(runs: Iterable[Wanted], nodes: Sequence[Node]) -> list[Request]:
    """Resolve many runs; the numbers are computed once for all runs that ask for the same."""
    known: dict[tuple[object, ...], tuple[float, float]] = {}
    requests = []
    for run in runs:
        asked = run.gpus, run.cpus, run.loader_workers, run.workers
        if (needed := known.get(asked)) is None:
            needed = known[asked] = _needed(run, nodes)
        requests.append(Request(run.id, *needed, run.exclusive, run.workers))
    return requests


def _needed(run: Wanted, nodes: Sequence[Node]) -> tuple[float, float]:
    """Return how many GPUs and cores a run needs."""
    has_gpus = any(node.total_gpus for node in nodes)
    gpus = float(has_gpus * run.workers) if run.gpus == "auto" else run.gpus
    if run.cpus != "auto":
        return gpus, run.cpus
    if gpus <= 1:  # one share of one machine
        return gpus, _auto_cpus(run.loader_workers, gpus, nodes)
    return gpus, round(_auto_cpus(run.loader_workers, gpus / run.workers, nodes) * run.workers, DIGITS)


def place(queued: Sequence[Request], running: Sequence[Request], nodes: Sequence[Node]) -> list[Start]:
    """Return the runs to start now, in the order given; of the running ones only their files matter."""
    return plan(queued, running, nodes).starts


def plan(queued: Sequence[Request], running: Sequence[Request], nodes: Sequence[Node]) -> Plan:
    """Return the runs to start now, and what is kept for those that must wait."""
    rooms = [Room(node) for node in nodes if not node.closed]
    taken = {path for request in running for path in request.exclusive}
    starts: list[Start] = []
    kept: dict[int, str] = {}
    first: dict[bool, Room] = {}  # the machine that the first which must wait keeps: with GPUs, without
    kept_as_well: set[str] = set()
    possible: dict[tuple[float, float, int], bool] = {}
    hopeless: set[tuple[float, float, int]] = (
        set()
    )  # needs that change nothing any more, however long the queue
    for request in queued:
        needs = request.gpus, request.cpus, request.workers
        if needs not in possible:
            possible[needs] = spread.fits(request, nodes)
        if not possible[needs]:
            continue
        if request.exclusive:
            waits_for_a_file = not taken.isdisjoint(request.exclusive)
            taken.update(request.exclusive)  # of one that waits, too: a later run must not snatch them
            if waits_for_a_file:
                continue
        if needs in hopeless:
            continue
        if admitting := [room for room in rooms if room.admits(request)]:
            room = min(admitting, key=lambda room: room.preference(request))
            room.take(request)
            starts.append(_start(request, [(room, request)]))
        elif spread.spans(request, [room.node for room in rooms]):
            if crew := spread.crew(request, rooms):
                for room, part in crew:
                    room.take(part)
                starts.append(_start(request, crew))
            elif (request.gpus > 0) not in first and (crew := spread.crew_to_keep(request, rooms)):
                for room, part in crew:
                    room.keep(part)
                first[request.gpus > 0] = crew[0][0]
                kept[request.run_id] = crew[0][0].node.name
                kept_as_well |= {room.node.name for room, _ in crew}
            else:
                hopeless.add(needs)
        elif (room := _to_keep(request, rooms, first.get(request.gpus > 0))) is not None:
            room.keep(request)
            first[request.gpus > 0] = room
            kept[request.run_id] = room.node.name
        else:
            hopeless.add(needs)
    return Plan(starts, kept, frozenset(kept_as_well))


def _start(request: Request, crew: spread.Crew) -> Start:
    nodes = [room.node.name for room, part in crew for _ in range(part.workers)]
    return Start(request.run_id, nodes[0], request.gpus, request.cpus, tuple(nodes[1:]))


def _to_keep(request: Request, rooms: Sequence[Room], of_the_first: Room | None) -> Room | None:
    """Return the machine that a run which must wait keeps; None where it keeps none."""
    candidates = [room for room in rooms if room.can_keep(request)]
    if of_the_first is not None:
        return of_the_first if of_the_first in candidates else None
    return min(candidates, key=lambda room: room.lack(request), default=None)


def waiting(queued: Sequence[Request], running: Sequence[Request], nodes: Sequence[Node]) -> dict[int, str]:
    """Return why each queued run waits, by its number; of the nodes only what they have in all matters."""
    writers = {path: request.run_id for request in running for path in request.exclusive}
    reasons = {}
    ahead = 0
    for request in queued:
        if reason := impossible(request, nodes) if nodes else "no machine is up":
            reasons[request.run_id] = reason
            continue
        writer = next((writers[path] for path in request.exclusive if path in writers), None)
        reasons[request.run_id] = (
            f"{_needs(request)}, {_place_in_line(ahead)}"
            if writer is None
            else f"waits for run {writer}, which writes the same files"
        )
        writers |= dict.fromkeys(request.exclusive, request.run_id)
        ahead += 1
    return reasons


def _auto_cpus(loader_workers: int, gpus: float, nodes: Sequence[Node]) -> float:
    """Return the cores of `cpus: auto`: with GPUs no more than their share, else all but one for each GPU.

    So neither kind of run keeps the other from starting, and every GPU of a machine can be used, also
    where there are fewer cores than GPUs.
    """
    if gpus == 0:
        return max((max(1.0, node.total_cpus - node.total_gpus) for node in nodes), default=1.0)
    shares = [node.total_cpus / node.total_gpus for node in nodes if node.total_gpus >= gpus]
    wanted = 1.0 + loader_workers
    return min(wanted, math.floor(max(shares) * gpus * 100) / 100) if shares else wanted


def impossible(request: Request, nodes: Sequence[Node]) -> str | None:
    """Return why a run can never start on these nodes, of which there is one at least; None where it can."""
    if spread.fits(request, nodes):
        return None
    in_all, in_one = sum(node.total_gpus for node in nodes), max(node.total_gpus for node in nodes)
    cores = max(node.total_cpus for node in nodes)
    if request.gpus > in_all:
        lack = f"{_gpus(request)}, the cluster has {in_all}"
    elif request.workers > 1:
        both = f"{_gpus(request)} and {_cores(request)}" if request.gpus else _cores(request)
        has = "has not both" if request.gpus else "has fewer"
        lack = f"{both} for {request.workers} workers, the cluster {has}"
    elif request.gpus > in_one:
        lack = f"{_gpus(request)} in one machine, the largest has {in_one}"
    elif request.cpus > cores:
        lack = f"{_cores(request)}, the largest machine has {cores:g}"
    else:
        lack = f"{_gpus(request)} and {_cores(request)} in one machine, none has both"
    return f"needs {lack}: can never start"


def _needs(request: Request) -> str:
    several = f" for {request.workers} workers" if request.workers > 1 else ""
    return f"needs {_gpus(request) if request.gpus else _cores(request)}{several}"


def _place_in_line(ahead: int) -> str:
    return "next in line" if ahead == 0 else f"{ahead} run{'s' if ahead > 1 else ''} ahead"


def _gpus(request: Request) -> str:
    return f"{request.gpus:g} GPU{'s' if request.gpus > 1 else ''}"


def _cores(request: Request) -> str:
    return f"{request.cpus:g} core{'s' if request.cpus > 1 else ''}"
