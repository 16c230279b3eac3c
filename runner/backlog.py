"""Whose turn it is to be published, of however many runs that tracking lacks something of.

While its server is away there may be ten thousand of them. Those that run are few and looked at each time;
of those that have ended each look reads the next part, and after the last one it begins again.
"""

from __future__ import annotations

from runner.rows import Run
from runner.states import State
from runner.store import Store

PART = 200  # of the runs that have ended


class Backlog:
    """How far a process has gone through the runs of which tracking may lack something."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after = 0  # the number up to which they had their turn

    def next(self) -> list[Run]:
        """The runs that run, and the next ones of the others."""
        # Read in this order, a run that ends meanwhile is there twice: the later look at it counts.
        found = [*self._store.runs([State.RUNNING]), *self._next_part()]
        return list({run.id: run for run in found}.values())

    def _next_part(self) -> list[Run]:
        found = self._store.behind(self._after, PART)
        self._after = found[-1].id if len(found) == PART else 0
        return found
