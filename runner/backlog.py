"""Order in which runs are published, of all the runs of which tracking lacks something.

While its server is away there may be ten thousand of them. The running ones are few and read at each look;
of those that have ended each look reads the next part, and begins again after the last one.
"""

from __future__ import annotations

from runner.rows import Run
from runner.states import State
from runner.store import Store

PART = 200  # of the runs that have ended


class Backlog:
    """Position of a process in the list of runs of which tracking may lack something."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after = 0  # the number up to which ended runs were returned

    def next(self) -> list[Run]:
        """Return the running runs, and the next part of the ended ones."""
        # Read in this order, a run that ends meanwhile is there twice: the later look at it counts.
        found = [*self._store.runs([State.RUNNING]), *self._next_part()]
        return list({run.id: run for run in found}.values())

    def _next_part(self) -> list[Run]:
        found = self._store.behind(self._after, PART)
        self._after = found[-1].id if len(found) == PART else 0
        return found
