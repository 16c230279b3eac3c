"""Free resources of each machine, as placement may count on them; pure functions.

Ray's own figures lag by about a second and do not say which GPU a fraction was cut from, so the
queue's bookings are subtracted here, and Ray's figures only lower what is left: they show what another
home of this user, or a stranger on the cluster, holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from runner.cluster import Machine
from runner.placement import Node

ROUNDING = 1e-6


@dataclass(frozen=True)
class Booking:
    """Resources that one attempt holds on a machine."""

    machine: str  # its id
    gpus: float
    cpus: float
    devices: tuple[str, ...] = ()  # indices of its GPUs, once it has reported them


def nodes(
    machines: Iterable[Machine], bookings: Sequence[Booking], closed: Collection[str] = ()
) -> list[Node]:
    """Return each machine with the free shares of its GPUs and its free cores.

    One whose id is in `closed`, or that is leaving, is closed and has nothing free, but is there still: while
    it is, a run that may choose does not take the cluster for one without GPUs.
    """
    found = []
    for machine in machines:
        node = _node(machine, [booking for booking in bookings if booking.machine == machine.id])
        shut = machine.leaving or machine.id in closed
        nothing = (0.0,) * node.total_gpus
        found.append(replace(node, gpus=nothing, cpus=0.0, closed=True) if shut else node)
    return found


def _node(machine: Machine, bookings: Sequence[Booking]) -> Node:
    shares = [1.0] * int(machine.gpus)
    for booking in sorted(bookings, key=lambda booking: not booking.devices):  # those that are known first
        _take(shares, booking)
    _hold_back(shares, sum(shares) - machine.free_gpus)
    cpus = min(machine.free_cpus, machine.cpus - sum(booking.cpus for booking in bookings))
    return Node(
        name=machine.id,
        gpus=tuple(round(share, 6) for share in shares),
        total_gpus=int(machine.gpus),
        cpus=max(0.0, cpus),
        total_cpus=machine.cpus,
        gpu_cpus=sum(booking.cpus for booking in bookings if booking.gpus),
    )


def _take(shares: list[float], booking: Booking) -> None:
    """Subtract a booking from the GPUs that it names, or from those that Ray would choose."""
    indices = [int(device) for device in booking.devices if device.isdigit() and int(device) < len(shares)]
    whole, fraction = divmod(booking.gpus, 1)
    if not indices:
        fullest_first = sorted(range(len(shares)), key=lambda index: shares[index])
        size = fraction if fraction > ROUNDING else 1.0
        fitting = [index for index in fullest_first if shares[index] > size - ROUNDING]
        indices = fitting[: max(1, int(whole))]
    for index in indices:
        shares[index] = max(0.0, shares[index] - (fraction if fraction > ROUNDING else 1.0))


def _hold_back(shares: list[float], surplus: float) -> None:
    """Subtract what others hold on the cluster: whole GPUs first, for that is how most are booked."""
    while surplus > ROUNDING and any(share > ROUNDING for share in shares):
        index = max(range(len(shares)), key=lambda index: shares[index])
        taken = min(shares[index], surplus)
        shares[index] -= taken
        surplus -= taken
