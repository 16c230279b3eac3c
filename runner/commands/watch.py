"""`watch`: runs as they go on, until they have ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from capsnet.streams import interactive
from runner import exits
from runner.commands import completing
from runner.commands.options import RUN_HELP
from runner.output import PROGRAM, hint, unread_is_fine

if TYPE_CHECKING:
    from runner.commands.access import Access


def watch(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help=f"{RUN_HELP} All where none is named.",
            show_default=False,
            autocompletion=completing.runs,
        ),
    ] = None,
) -> None:
    """Look on while each RUN, or everything in the queue, goes on; ends when it has ended.

    A live bar or table on a terminal; without one, a plain line whenever something has changed. The table is
    that of `queue`, with as many runs as the terminal has lines for: those that run, wait, have just ended.
    Ctrl-C stops looking and nothing else.

    \b
    Examples:
      python -m runner watch
      python -m runner watch 3
      python -m runner watch 5-9
    """
    from runner.commands.access import open_queue
    from runner.commands.selection import chosen
    from runner.following import follow_runs

    with open_queue() as access, unread_is_fine():
        if not runs:
            raise typer.Exit(watch_queue(access))
        ids = [run.id for run in chosen(access.store, runs)]
        raise typer.Exit(follow_runs(access, ids, sys.stdout))


def watch_queue(access: Access) -> int:
    """Show all runs until none is unfinished; return the exit code."""
    from runner.following import looks_at_all, show
    from runner.views import Lines, Table

    view = Table(sys.stdout) if interactive(sys.stdout) else Lines(sys.stdout, news_only=True)
    try:
        show(access, looks_at_all(access.store), view)
    except KeyboardInterrupt:
        hint(f"stopped looking, nothing else: `{PROGRAM} watch` comes back")
        return exits.STOPPED_LOOKING
    hint("nothing runs or waits any more")
    return exits.OK
