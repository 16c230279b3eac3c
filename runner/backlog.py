"""Whose turn it is to be published, of however many runs that tracking lacks something of.

While its server is away there may be ten thousand of them. Those that run are few and looked at each time;
of those that wait or have ended each look reads the next part, and after the last one it begins again.
"""

from __future__ import annotations

from runner.rows import Run
from runner.states import State
from runner.store import Store

PART = 200  # of the runs that have had an attempt


class Backlog:
    """How far a process has gone through the runs of which tracking may lack something."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._after = {True: 0, False: 0}  # the number up to which they had their turn: started or not

    def started(self) -> list[Run]:
        """The runs that run, and the next ones that have."""
        # Read in this order, a run that ends meanwhile is there twice: the later look at it counts.
        found = [*self._store.runs([State.RUNNING]), *self._next(True, PART)]
        return list({run.id: run for run in found}.values())

    def waiting(self, at_most: int) -> list[Run]:
        """The next ones that have never run."""
        return self._next(False, at_most) if at_most > 0 else []

    def _next(self, started: bool, at_most: int) -> list[Run]:
        found = self._store.behind(started, self._after[started], at_most)
        self._after[started] = found[-1].id if len(found) == at_most else 0
        return found
