"""`logs`: what the workers of a run printed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from runner import exits
from runner.commands.options import Runs
from runner.following import patiently
from runner.output import PROGRAM, CommandError, Replay, emit, hint
from runner.states import ENDED
from runner.wording import plural, run_label

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.paths import Home, RunPaths
    from runner.rows import Run
    from runner.store import Store

POLL_SECONDS = 0.2
LOOK_SECONDS = 3.0  # between two looks at what an object store holds
LAST_WORDS_SECONDS = 30.0  # in which the end of a log that is copied must have come
CHUNK_BYTES = 1 << 16


def logs(
    runs: Runs,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Only this one; all in order without it.")
    ] = None,
    worker: Annotated[
        int, typer.Option(metavar="RANK", min=0, help="Of several workers the one of this rank, from 0.")
    ] = 0,
) -> None:
    """Print the output of each RUN's worker, warnings and tracebacks included, one attempt after another.

    Of several workers the first one, of rank 0, speaks for all; what the others print is little, but for an
    error of their own.

    \b
    Examples:
      python -m runner logs 3
      python -m runner logs 5-9 | grep Warning
      python -m runner logs 3 -f
      python -m runner logs 3 --worker 1
    """
    from runner.commands.access import open_queue, require_folders
    from runner.commands.selection import chosen

    with open_queue(only_looks=True) as access:
        if worker:
            require_folders(access.home, "read what workers of ranks above 0 printed")
        found = chosen(access.store, runs)
        if follow and len(found) > 1:
            raise CommandError(f"--follow is of one run: `{PROGRAM} watch` looks on at several")
        sources = [(run, logs_of(access, run, attempt, worker)) for run in found]
        for run, source in sources:
            if len(found) > 1:
                emit(f"=== {run_label(run.id, run.name)} ===")
            print_log(access.store, run, source, attempt, follow)


def logs_of(access: Access, run: Run, attempt: int | None, worker: int) -> Logs:
    """Return the source of a run's logs. Raises CommandError where there is no such attempt or worker."""
    if attempt is not None and attempt > run.attempt:
        raise CommandError(f"run {run.id} has had {plural(run.attempt, 'attempt')}, no attempt {attempt}")
    in_queue = access.home.shared and worker == 0  # what the others print is not copied there
    found: Logs = Kept(access.store, run.id) if in_queue else Files(*access, run.id, worker)
    require_worker(run, worker, found)
    return found


def print_log(store: Store, run: Run, source: Logs, attempt: int | None, follow: bool) -> None:
    """Print a run's log; Ctrl-C ends the command with an exit code of its own."""
    if run.attempt == 0 and not follow:
        hint(f"run {run.id} is {run.state} and has not started: no output yet")
    replay = Replay()
    try:
        for piece in output(store, run, source, attempt, follow):
            replay.print(piece)
    except KeyboardInterrupt:
        hint(f"stopped looking, nothing else: `{PROGRAM} logs {run.id} -f` comes back")
        raise typer.Exit(exits.STOPPED_LOOKING) from None


def require_worker(run: Run, rank: int, logs: Logs) -> None:
    """Raise CommandError where the run has no worker of this rank, nor had one in an earlier attempt."""
    if rank < run.workers:
        return
    if not any(any(logs.pieces(number, 0)) for number in range(1, run.attempt + 1)):
        has = "one worker, of rank 0" if run.workers == 1 else f"workers of ranks 0 to {run.workers - 1}"
        raise CommandError(f"run {run.id} has {has}: no worker of rank {rank}")


class Logs(Protocol):
    """Source of the logs of a run's attempts."""

    def whole(self, attempt: int) -> bool:
        """Return whether the whole output of an attempt that has ended is here."""
        ...

    def pieces(self, attempt: int, position: int) -> Iterator[bytes]:
        """Yield what is here of an attempt's log from byte `position` on; nothing without a log (yet)."""
        ...


class Files:
    """The logs where the workers write them, or a copy of what there is in an object store."""

    def __init__(self, home: Home, store: Store, run_id: int, rank: int) -> None:
        from runner import storage

        self._storage = storage.of(home)
        self._store = store
        self._run_id = run_id
        self._part = storage.Log(rank)
        self._copies = home.remote
        self._looked: tuple[float, Run] | None = None
        self._paths: RunPaths | None = None

    def whole(self, attempt: int) -> bool:
        return True

    def _newest(self) -> RunPaths | None:
        """The run's folder with the worker's logs; those of an object store are looked at now and then."""
        now, run = time.monotonic(), self._store.run(self._run_id)
        if run is not None and (not self._looked or self._is_stale(now, run, *self._looked)):
            self._paths = self._storage.read(run, self._part)
            self._looked = now, run
        return self._paths

    def _is_stale(self, now: float, run: Run, looked_at: float, before: Run) -> bool:
        is_other = (run.state, run.attempt) != (before.state, before.attempt)
        return self._copies and (is_other or now >= looked_at + LOOK_SECONDS)

    def pieces(self, attempt: int, position: int) -> Iterator[bytes]:
        if (paths := self._newest()) is None:
            return
        try:
            file = paths.attempt(attempt).log_of(self._part.rank).open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(position)
            while piece := file.read(CHUNK_BYTES):
                yield piece


class Kept:
    """The logs in the queue's database, where they arrive some seconds later."""

    def __init__(self, store: Store, run_id: int) -> None:
        self._store = store
        self._run_id = run_id

    def whole(self, attempt: int) -> bool:
        return patiently(lambda: self._store.log_whole(self._run_id, attempt))

    def pieces(self, attempt: int, position: int) -> Iterator[bytes]:
        yield patiently(lambda: self._store.log(self._run_id, attempt, position))


def output(store: Store, run: Run, logs: Logs, only: int | None, follow: bool) -> Iterator[bytes]:
    """The logs of the attempts in order; with `follow` until the run has ended, new attempts included."""
    number = only or 1
    position = 0
    patience = Patience()
    while True:
        # Read the row first, then whether the log is whole: what was printed before is then in the pieces.
        now = patiently(lambda: store.run(run.id))
        if now is None:
            raise CommandError(f"run {run.id} was removed")
        is_over = now.state in ENDED or number < now.attempt
        is_read = not follow or (is_over and (logs.whole(number) or patience.is_over(number)))
        for piece in logs.pieces(number, position):
            position += len(piece)
            yield piece
        if is_read and number < now.attempt and only is None:
            number, position = number + 1, 0
            yield from heading(number)
        elif is_read:
            return
        else:
            time.sleep(POLL_SECONDS)


class Patience:
    """Time limit of waiting for the end of an attempt's log: the process that copies it may be gone."""

    def __init__(self) -> None:
        self._ends: dict[int, float] = {}  # by attempt

    def is_over(self, attempt: int) -> bool:
        now = time.monotonic()
        if now < self._ends.setdefault(attempt, now + LAST_WORDS_SECONDS):
            return False
        hint(f"nobody has copied the end of attempt {attempt} yet: its last lines may be missing")
        return True


def heading(number: int) -> Iterator[bytes]:
    yield f"--- attempt {number} ---\n".encode()
