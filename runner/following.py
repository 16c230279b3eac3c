"""Following of runs until they have ended, shared by `wait`, `watch` and `submit --follow`."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TextIO, TypeVar

from capsnet.streams import interactive
from runner import exits, narration
from runner.narration import Best
from runner.output import PROGRAM, hint, say
from runner.states import ENDED, UNFINISHED, State
from runner.wording import spans

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.notes import Situation
    from runner.paths import Home
    from runner.rows import Run
    from runner.store import Store
    from runner.views import View

POLL_SECONDS = 0.2
SITUATION_SECONDS = 1.0  # how old the shared situation of all runs may be
RETRY_SECONDS = 1.0  # before a database that did not answer is asked again

Found = TypeVar("Found")

WORST_FIRST = {
    State.FAILED: exits.FAILED,
    State.CANCELLED: exits.CANCELLED,
    State.INTERRUPTED: exits.INTERRUPTED,
}


class TimedOut(Exception):  # noqa: N818 - the name says what happened
    """The runs had not all ended in time."""


def patiently(ask: Callable[[], Found], deadline: float = math.inf) -> Found:
    """Return the result of `ask`, retried while the database is away; the first failure is printed.

    Raises TimedOut where the database is still away at the monotonic time `deadline`.
    """
    from runner.store import Unreachable

    told = False
    while True:
        try:
            return ask()
        except Unreachable as error:
            if time.monotonic() >= deadline:
                raise TimedOut from error
            if not told:
                hint(f"{error}; going on as soon as it answers")
                told = True
        time.sleep(RETRY_SECONDS)


def looks(store: Store, ids: Sequence[int], timeout: float | None = None) -> Iterator[list[Run]]:
    """Yield the rows of `ids` about five times a second; the last look shows each of them ended.

    What has ended once is not read again; a run that was removed is left out. Raises TimedOut after
    `timeout` seconds.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    ended: dict[int, Run | None] = {}
    while True:
        seen = {
            id_: ended[id_] if id_ in ended else patiently(partial(store.run, id_), deadline) for id_ in ids
        }
        ended |= {id_: run for id_, run in seen.items() if run is None or run.state in ENDED}
        yield [run for run in seen.values() if run is not None]
        if len(ended) == len(seen):
            return
        if time.monotonic() >= deadline:
            raise TimedOut
        time.sleep(POLL_SECONDS)


def looks_at_all(store: Store) -> Iterator[list[Run]]:
    """Yield about once a second the runs worth a look, until none in the queue is unfinished.

    Whatever was yielded as unfinished comes again, until it has been yielded as it ended.
    """
    unfinished: set[int] = set()
    while True:
        runs = {run.id: run for run in patiently(lambda: _current(store))}
        for id_ in sorted(unfinished - runs.keys()):
            if (run := patiently(partial(store.run, id_))) is not None:
                runs[id_] = run
        unfinished = {run.id for run in runs.values() if run.state in UNFINISHED}
        yield sorted(runs.values(), key=lambda run: run.id)
        if not unfinished:
            return
        time.sleep(SITUATION_SECONDS)


def _current(store: Store) -> list[Run]:
    from runner.commands.situations import current_runs

    return current_runs(store)


def outcome(ids: Sequence[int], ended: Sequence[Run]) -> int:
    """Return the exit code for the runs `ids`, of which `ended` are left; names those that were removed."""
    removed = [id_ for id_ in ids if id_ not in {run.id for run in ended}]
    for id_ in removed:
        hint(f"run {id_} was removed")
    return exits.USAGE if removed else exit_code(run.state for run in ended)


def exit_code(states: Iterable[State]) -> int:
    """Return the exit code for runs that ended so: of several the worst."""
    found = set(states)
    return next((code for state, code in WORST_FIRST.items() if state in found), exits.OK)


def wait_for(store: Store, ids: Sequence[int], timeout: float | None = None) -> int:
    """Wait, showing no progress, until the runs have ended; return the exit code."""
    try:
        (last,) = deque(looks(store, ids, timeout), maxlen=1)
    except TimedOut:
        return exits.TIMED_OUT
    except KeyboardInterrupt:
        hint(f"stopped waiting, nothing else: `{PROGRAM} wait {spans(ids)}` comes back")
        return exits.STOPPED_LOOKING
    return outcome(ids, last)


def tell(access: Access, ids: Sequence[int], deadline: float = math.inf) -> None:
    """Print the outcome of each run, or that it has not ended. Raises TimedOut as `patiently` does."""
    for run in patiently(lambda: [access.store.run(id_) for id_ in ids], deadline):
        if run is not None:
            unfinished = f"{narration.title(run)} is still {run.state}"
            hint(narration.outcome_line(run, best_of(access.home, run)) if run.state in ENDED else unfinished)


def best_of(home: Home, run: Run) -> Best | None:
    """The epoch that the validation split chose; None without one, and where the history is not at hand."""
    from capsnet.history import read_history, results
    from runner import run_files

    file = None if home.remote else run_files.history(home.run(run.id, run.name), run.attempt)
    if file is None:  # none was saved, or it lies on another host
        return None
    try:
        history = read_history(file)
    except (KeyError, OSError, ValueError):
        return None
    found = results(history)
    return Best(int(found["best/epoch"]), found["best/test/accuracy"]) if "best/epoch" in found else None


def follow_runs(access: Access, ids: Sequence[int], stream: TextIO) -> int:
    """Show the runs' progress on `stream` until they have ended, then their results; return the exit code."""
    from runner.views import Bar, Lines, Table

    if not interactive(stream):
        view: View = Lines(stream)
    else:
        view = Bar(stream) if len(ids) == 1 else Table(stream)
    last: list[Run] = []
    try:
        last = show(access, looks(access.store, ids), view)
    except KeyboardInterrupt:
        hint(f"stopped looking, nothing else: `{PROGRAM} watch {spans(ids)}` comes back")
        return exits.STOPPED_LOOKING
    for line in summary(access.home, last):
        say(line, stream)
    return outcome(ids, last)


def summary(home: Home, ended: Sequence[Run]) -> list[str]:
    """The results of runs that were followed: in full for one, whose end was shown; else a line for each."""
    if len(ended) == 1:
        (run,) = ended
        return narration.result(run, home.place(run.id, run.name), best_of(home, run))
    lines = [narration.outcome_line(run, best_of(home, run)) for run in ended]
    return [*lines, f"compare: `{PROGRAM} queue`, `{PROGRAM} ui`"] if lines else []


def show(access: Access, looks: Iterator[list[Run]], view: View) -> list[Run]:
    """Let `view` show each look, and return the last."""
    from runner.commands.situations import situation

    runs: list[Run] = []
    now: Situation | None = None
    stale_at = 0.0
    with view:
        for runs in looks:
            if now is None or time.monotonic() >= stale_at:
                now = patiently(lambda: situation(access))
                stale_at = time.monotonic() + SITUATION_SECONDS
            view.show(runs, now)
    return runs
