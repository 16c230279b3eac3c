"""Spread of one run's workers over machines, where no single one holds them all; pure functions.

A run stays on one machine wherever one is large enough: it waits for that, and does not span two. Only what
is larger than every machine spans several, as few as hold it, the largest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from runner.room import DIGITS, Node, Request, Room, fits_when_empty

Crew = list[tuple[Room, Request]]  # machines, each with what the workers there need together


def fits(request: Request, nodes: Iterable[Node]) -> bool:
    """Return whether these machines, one of them or together, could serve this request if they were empty."""
    nodes = list(nodes)
    return any(fits_when_empty(request, node) for node in nodes) or spans(request, nodes)


def spans(request: Request, nodes: Sequence[Node]) -> bool:
    """Return whether a run that none of these machines could hold fits on several of them together."""
    if request.workers == 1 or any(fits_when_empty(request, node) for node in nodes):
        return False
    empty = [Room(node.emptied) for node in nodes]
    return _crew(request, empty, lambda room, part: room.can_keep(part)) is not None


def crew(request: Request, rooms: Sequence[Room]) -> Crew | None:
    """Return where a run that spans machines starts now; None where not all of its workers have room."""
    return _crew(request, rooms, lambda room, part: room.admits(part))


def crew_to_keep(request: Request, rooms: Sequence[Room]) -> Crew | None:
    """Return the machines that such a run keeps while it waits: always the same, as they go by size alone."""
    return _crew(request, rooms, lambda room, part: room.can_keep(part))


def _crew(request: Request, rooms: Sequence[Room], holds: Callable[[Room, Request], bool]) -> Crew | None:
    if request.gpus not in (0, request.workers):  # shares of one GPU
        return None
    counted = [(_most(request, room, holds), room) for room in rooms]
    found: Crew = []
    left = request.workers
    for count, room in sorted(counted, key=lambda pair: (-pair[0], pair[1].node.name)):
        if taken := min(count, left):
            found.append((room, part_of(request, taken)))
            left -= taken
    return None if left else found


def _most(request: Request, room: Room, holds: Callable[[Room, Request], bool]) -> int:
    """Return how many of the run's workers a machine holds."""
    count = 0
    while count < request.workers and holds(room, part_of(request, count + 1)):
        count += 1
    return count


def share(total: float, workers: int) -> float:
    """Return one worker's part of so many GPUs or cores, rounded down.

    Rounded up it would not fit: Ray would not find three times 0.6667 on a machine of 2.
    """
    unit = 10**DIGITS
    return math.floor(round(total * unit) / workers) / unit


def part_of(request: Request, workers: int) -> Request:
    """Return the request for so many of the run's workers."""
    share = workers / request.workers
    gpus, cpus = round(request.gpus * share, DIGITS), round(request.cpus * share, DIGITS)
    return request._replace(gpus=gpus, cpus=cpus, workers=workers)
