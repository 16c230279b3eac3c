"""The machines of a cluster, what a run needs of one, and what is left of one while starts are decided."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

DIGITS = 4  # of shares and cores, as Ray counts them: 0.3 of a GPU three times leaves 0.1, not 0.0999...


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: what it has, and what of that is free."""

    name: str
    gpus: tuple[float, ...]  # free share of each of its GPUs, 0 to 1
    total_gpus: int
    cpus: float  # free cores
    total_cpus: float
    gpu_cpus: float = 0.0  # cores held by the queue's runs that use GPUs
    closed: bool = False  # nothing starts there at the moment

    @property
    def emptied(self) -> Node:
        """The machine as if nothing ran on it."""
        return replace(self, gpus=(1.0,) * self.total_gpus, cpus=self.total_cpus, gpu_cpus=0.0)


class Request(NamedTuple):
    """Resources that a run needs of one machine; a tuple, for thousands are made many times a minute."""

    run_id: int
    gpus: float  # a share of one GPU below 1, else a whole number of whole GPUs
    cpus: float
    exclusive: tuple[str, ...] = ()  # files and folders that no other run may write at the same time
    workers: int = 1  # processes that share these GPUs and cores evenly


def fits_when_empty(request: Request, node: Node) -> bool:
    """Return whether the node could serve this request if nothing ran on it."""
    return node.total_gpus >= request.gpus and node.total_cpus >= request.cpus


class Room:
    """Free part of a node while starts are decided, and the part that runs which must wait will need."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.gpus, self.cpus, self.gpu_cpus = node.gpus, node.cpus, node.gpu_cpus
        # Those that wait for this node, packed in order into it as if it were empty: as many as can
        # ever run on it at once. The runs behind them are delayed by them and not by an overtaking run.
        self.kept_cpus = 0.0
        self.keeps_gpus = False
        self._unkept_gpus, self._unkept_cpus = (1.0,) * node.total_gpus, node.total_cpus

    def admits(self, request: Request) -> bool:
        """Return whether a run may start here now: it fits, and takes nothing that waiting runs will need.

        Where one of them needs GPUs of this node, only a run without GPUs may start before them, and only
        where the cores that they will need are free already. Where none of them needs GPUs, they wait for
        other runs without GPUs to end: a run with GPUs may start, as long as the cores that they will need
        are not held by runs with GPUs, which may follow each other without end.
        """
        if _without(self.gpus, request.gpus) is None or (self.keeps_gpus and request.gpus):
            return False
        if request.gpus == 0:
            return round(self.cpus - request.cpus, DIGITS) >= self.kept_cpus
        unkept = round(self.node.total_cpus - self.kept_cpus - self.gpu_cpus, DIGITS)
        return min(self.cpus, unkept) >= request.cpus

    def take(self, request: Request) -> None:
        """Subtract the resources of a run that was admitted and starts."""
        self.gpus = _without(self.gpus, request.gpus) or ()
        self.cpus = round(self.cpus - request.cpus, DIGITS)
        if request.gpus:
            self.gpu_cpus = round(self.gpu_cpus + request.cpus, DIGITS)

    def can_keep(self, request: Request) -> bool:
        """Return whether one more run can wait for this node."""
        cpus = round(self._unkept_cpus - request.cpus, DIGITS)
        return cpus >= 0 and _without(self._unkept_gpus, request.gpus) is not None

    def keep(self, request: Request) -> None:
        """Add the needs of a run that must wait to what is kept for such runs."""
        self._unkept_gpus = _without(self._unkept_gpus, request.gpus) or ()
        self._unkept_cpus = round(self._unkept_cpus - request.cpus, DIGITS)
        self.kept_cpus = round(self.kept_cpus + request.cpus, DIGITS)
        self.keeps_gpus = self.keeps_gpus or request.gpus > 0

    def lack(self, request: Request) -> tuple[int, float, str]:
        """Return how many GPUs, then how many cores, must become free here for a run; the least is nearest.

        On a machine that is kept, neither ever grows. So for a run without a GPU it is the cores of runs
        like itself that count, whatever those with GPUs beside it hold of the rest.
        """
        enough = sum(share >= min(request.gpus, 1.0) for share in self.gpus)
        gpus = max(0, math.ceil(request.gpus) - enough)
        if request.gpus:
            return gpus, max(0.0, round(request.cpus - self.cpus, DIGITS)), self.node.name
        without_gpus = self.node.total_cpus - self.cpus - self.gpu_cpus
        too_many = max(0.0, self.gpu_cpus + request.cpus - self.node.total_cpus)
        return gpus, round(without_gpus + too_many, DIGITS), self.node.name

    def preference(self, request: Request) -> tuple[float, float, str]:
        """Return a sort key: the fullest node first, so that whole ones stay free.

        For a run without GPUs, nodes without GPUs come first.
        """
        return (sum(self.gpus) if request.gpus else self.node.total_gpus, self.cpus, self.node.name)


def _without(shares: tuple[float, ...], gpus: float) -> tuple[float, ...] | None:
    """Return the free shares once a request has its GPUs; None where they do not suffice.

    A share comes from the fullest GPU that has it, so that whole ones stay whole; never from two.
    """
    left = list(shares)
    if 0 < gpus < 1:
        enough = [index for index, share in enumerate(left) if share >= gpus]
        if not enough:
            return None
        chosen = min(enough, key=lambda index: left[index])
        left[chosen] = round(left[chosen] - gpus, DIGITS)
        return tuple(left)
    whole = [index for index, share in enumerate(left) if share >= 1]
    if len(whole) < gpus:
        return None
    for index in whole[: int(gpus)]:
        left[index] = 0.0
    return tuple(left)
