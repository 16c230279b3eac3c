"""`logs`: what the workers of a run printed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner import exits
from runner.commands.options import RunArgument
from runner.output import PROGRAM, CommandError, emit_bytes, hint
from runner.states import ENDED

if TYPE_CHECKING:
    from runner.paths import RunPaths
    from runner.rows import Run
    from runner.store import Store

POLL_SECONDS = 0.2
CHUNK_BYTES = 1 << 16


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Only this one; all in order without it.")
    ] = None,
) -> None:
    """Print the whole output of RUN's workers, warnings and tracebacks included, one attempt after another.

    \b
    Examples:
      python -m runner logs 3
      python -m runner logs 3 -f
    """
    from runner.commands.access import named, open_queue

    with open_queue() as (home, store):
        chosen = named(store, run)
        if attempt is not None and attempt > chosen.attempt:
            raise CommandError(f"run {chosen.id} has had {chosen.attempt} attempts, no attempt {attempt}")
        if chosen.attempt == 0 and not follow:
            hint(f"run {chosen.id} is {chosen.state} and has not started: no output yet")
        paths = home.run(chosen.id, chosen.name)
        try:
            for piece in output(store, chosen, paths, attempt, follow):
                emit_bytes(piece)
        except KeyboardInterrupt:
            hint(f"stopped looking, nothing else: `{PROGRAM} logs {chosen.id} -f` comes back")
            raise typer.Exit(exits.STOPPED_LOOKING) from None


def output(store: Store, run: Run, paths: RunPaths, only: int | None, follow: bool) -> Iterator[bytes]:
    """The logs of the attempts in order; with `follow` until the run has ended, new attempts included."""
    number = only or 1
    position = 0
    while True:
        # Read the row first: what was printed before it said "ended" is then in the file.
        now = store.run(run.id)
        if now is None:
            raise CommandError(f"run {run.id} was removed")
        log = paths.attempt(number).log
        for piece in pieces(log, position):
            position += len(piece)
            yield piece
        if number < now.attempt and only is None:
            number, position = number + 1, 0
            yield from heading(number)
        elif not follow or now.state in ENDED or number < now.attempt:
            return
        else:
            time.sleep(POLL_SECONDS)


def heading(number: int) -> Iterator[bytes]:
    yield f"--- attempt {number} ---\n".encode()


def pieces(log: Path, position: int) -> Iterator[bytes]:
    """What stands in the file from `position` on; nothing where there is no file (yet)."""
    try:
        file = log.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(position)
        while piece := file.read(CHUNK_BYTES):
            yield piece
