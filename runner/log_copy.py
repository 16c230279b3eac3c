"""Copies of the workers' logs in the queue's database, for hosts that do not see the runs' folders.

A log is copied while it grows, in whole bytes and in order, until some seconds after its attempt has ended.
How far a copy has come is read from the database when this process first handles the attempt.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from runner import storage
from runner.backlog import Backlog
from runner.paths import Home
from runner.rows import Run
from runner.states import State
from runner.store import Store

PIECE_BYTES = 256 * 1024
LONGEST_BYTES = 16 * 2**20  # of an attempt: a run that prints without end must not fill the database
# After an attempt's end: its process is killed about when the row says so, and only then does its last
# output leave its host's cache of a network file system.
SETTLING_SECONDS = 5.0
LOOK_SECONDS = 3.0  # between two looks at what an object store holds of a run; less than the above


@dataclass
class Copy:
    """Progress of the copy of one attempt's log."""

    kept: int  # bytes
    whole: bool
    ended_since: float | None = None  # when this process saw that the attempt has ended


class LogCopy:
    """Copies of the runs' logs, made in one thread; `settled` may be called from any."""

    def __init__(self, store: Store, home: Home) -> None:
        self._store = store
        self._backlog = Backlog(store)
        self._home = home
        self._storage = storage.of(home)
        self._looked: dict[int, tuple[float, State]] = {}  # when, and in which state, by run
        self._copies: dict[tuple[int, int], Copy] = {}  # by run and attempt
        self._unreadable: dict[int, str] = {}  # the message printed about a run's log

    def copy_once(self, now: float) -> None:
        """Copy what is new of every run that runs, or whose end has not been published yet.

        No end is published before its logs are `settled`, so no run is forgotten before its last byte
        is here. `now` is of any clock that only goes on.
        """
        for run in self._backlog.next():
            try:
                self._look(run, now)
                for number in range(1, run.attempt + 1):
                    self._copy_attempt(run, number, now)
            except OSError as error:  # the logs of other runs can be read
                self._note(run, str(error))
            else:
                self._unreadable.pop(run.id, None)

    def _look(self, run: Run, now: float) -> None:
        """Bring the logs in the run's folder up to date, unless that was done a moment ago."""
        at, state = self._looked.get(run.id, (-math.inf, None))
        if run.state is not state or now >= at + LOOK_SECONDS:
            self._storage.read(run, storage.Log())
            self._looked[run.id] = now, run.state

    def settled(self, run: Run) -> bool:
        """Return whether a run's logs are copied to their end; true, too, while it runs or if unreadable."""
        if run.state is State.RUNNING or run.id in self._unreadable:
            return True
        copies = [self._copies.get((run.id, number)) for number in range(1, run.attempt + 1)]
        return all(copy is not None and copy.whole for copy in copies)

    def _copy_attempt(self, run: Run, number: int, now: float) -> None:
        if (run.id, number) not in self._copies:
            kept, whole = self._store.log_size(run.id, number), self._store.log_whole(run.id, number)
            self._copies[run.id, number] = Copy(kept, whole)
        copy = self._copies[run.id, number]
        if copy.whole:
            return
        if copy.ended_since is None and (number < run.attempt or run.state is not State.RUNNING):
            copy.ended_since = now
        self._add_file(run.id, number, copy, self._home.run(run.id, run.name).attempt(number).log)
        settled = copy.ended_since is not None and now - copy.ended_since >= SETTLING_SECONDS
        if settled or copy.kept > LONGEST_BYTES:
            self._add(run.id, number, copy, b"")
            copy.whole = True

    def _add_file(self, run_id: int, number: int, copy: Copy, path: Path) -> None:
        """Copy a log from where its copy ends to its own end, or to that of what is kept of one."""
        try:
            # Opened each time: only that makes a network file system ask how long the file is by now.
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            going_on = True
            while going_on and copy.kept < LONGEST_BYTES:
                file.seek(copy.kept)
                piece = file.read(min(PIECE_BYTES, LONGEST_BYTES - copy.kept))
                going_on = bool(piece) and self._add(run_id, number, copy, piece)
            if copy.kept == LONGEST_BYTES and file.seek(0, os.SEEK_END) > copy.kept:
                rest = f"\n... {LONGEST_BYTES >> 20} MiB of this log are kept here; all of it is in {path}\n"
                self._add(run_id, number, copy, rest.encode())

    def _add(self, run_id: int, number: int, copy: Copy, piece: bytes) -> bool:
        """Add a piece to a copy, unless another process has or the run is gone; return whether it grew."""
        before, copy.kept = copy.kept, self._store.add_log(run_id, number, copy.kept, piece)
        return copy.kept > before

    def _note(self, run: Run, line: str) -> None:
        """Print why a run's log cannot be read, once."""
        if self._unreadable.get(run.id) != line:
            print(f"run {run.id}: its log cannot be copied: {line}", flush=True)
            self._unreadable[run.id] = line
