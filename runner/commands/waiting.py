"""`wait`: until runs have ended."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Annotated

import typer

from runner import exits
from runner.commands.options import Json, Runs
from runner.output import emit_json


def wait(
    runs: Runs,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds; exit code 124 after it.")] = None,
    json: Json = False,
) -> None:
    """Wait until every RUN has ended; the exit code says how, and a line on stderr for each.

    \b
    Example:
      python -m runner wait 3 4 --timeout 3600 && echo both finished
    """
    from runner.commands.access import open_queue
    from runner.commands.listing import documents
    from runner.commands.selection import chosen
    from runner.following import TimedOut, patiently, tell, wait_for

    with open_queue() as access:
        ids = [run.id for run in chosen(access.store, runs)]
        code = wait_for(access.store, ids, timeout)
        deadline = 0.0 if code == exits.TIMED_OUT else math.inf
        with suppress(TimedOut):  # the database is away, which has been printed
            if code != exits.STOPPED_LOOKING:
                tell(access, ids, deadline)
            if json:
                emit_json(patiently(lambda: documents(access, ids), deadline))
        raise typer.Exit(code)
